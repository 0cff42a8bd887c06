"""The built-in German patterns: sections, sentences, what is left out, and cues."""

from __future__ import annotations

import pytest

from hlip.reports import sections, split_sentences
from hlip.reports.cleaning import clean
from hlip.reports.labels.mining import Miner, states
from hlip.reports.language import Language
from hlip.reports.spec import ReportSpec
from hlip.taxonomy import Taxonomy

GERMAN = Language.load("german")
REPORT = """Sehr geehrte Frau Kollegin,
FRAGESTELLUNG: Z.n. Sturz, zum Ausschluss einer Blutung.
BEFUND:
Kein Nachweis einer Raumforderung. Größenprogrediente Läsion, z.B. ca. 1,5 cm li. frontal, v.a. Meningeom. Übrige Hemisphären frei.
BEURTEILUNG:
1. Meningeom
2. Keine Blutung.

Mit freundlichen kollegialen Grüßen
Prof. Dr. med. A. Müller
"""


def test_a_whole_report() -> None:
    assert list(sections(REPORT, GERMAN)) == ["", "fragestellung", "befund", "beurteilung"]
    findings = [
        "Kein Nachweis einer Raumforderung.",
        "Größenprogrediente Läsion, z.B. ca. 1,5 cm li. frontal, v.a. Meningeom.",
        "Übrige Hemisphären frei.",
    ]
    assert list(clean(REPORT, (), ReportSpec.load("clean", "german"))[1]) == [*findings, "Meningeom", "Keine Blutung."]
    assert list(clean(REPORT, (), ReportSpec.load("impression", "german"))[1]) == ["Meningeom", "Keine Blutung."]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "Der 3. Ventrikel ist normal. Vergleich vom 3. Mai 2020.",
            ["Der 3. Ventrikel ist normal.", "Vergleich vom 3. Mai 2020."],
        ),
        ("Mastoid frei bds. Keine Blutung.", ["Mastoid frei bds.", "Keine Blutung."]),
        ("Läsion li. Frontallappen, d.h. präzentral. Ödem.", ["Läsion li. Frontallappen, d.h. präzentral.", "Ödem."]),
        ("Gesehen von Prof. Dr. med. A. Klein.", ["Gesehen von Prof. Dr. med. A. Klein."]),
        ("V. a. Meningeom. Z. n. Resektion.", ["V. a. Meningeom.", "Z. n. Resektion."]),
    ],
)
def test_sentences(text: str, expected: list[str]) -> None:
    assert split_sentences(text, GERMAN) == expected


@pytest.mark.parametrize(
    "line",
    [
        "Mit freundlichen kollegialen Gruessen Prof. Dr. med. A. Mueller",
        "Prof. Dr. med. A. Müller",
        "Oberarzt",
        "Befund wurde elektronisch freigegeben.",
        "Frau Dr. Klein wurde telefonisch informiert.",
        "Keine Voraufnahmen zum Vergleich verfügbar.",
        "Für Rückfragen stehen wir zur Verfügung.",
        "Vielen Dank für die Zuweisung.",
        "Dr. A. Müller / Dr. B. Schmidt",
        "Prof. Dr. med. H. Müller    Dr. med. K. Meier-Lang",
        "Dr. A. Müller, Oberarzt   Dr. B. Schmidt, Assistenzärztin",
        "A. Müller   B. Schmidt",
        "Oberarzt   Assistenzarzt",
    ],
)
def test_what_says_nothing_of_the_images(line: str) -> None:
    assert clean(f"BEURTEILUNG:\nKeine Blutung.\n{line}", (), ReportSpec.load("clean", "german"))[1] == ("Keine Blutung.",)


@pytest.mark.parametrize(
    "line",
    [
        "Meningeom mit Ödem.",
        "Meningeom Typ A. Glioblastom.",
        "Prominente Liquorräume.",
        "Normaler Befund.",
        "Keine Blutung nachweisbar.",
    ],
)
def test_findings_stay(line: str) -> None:
    assert clean(f"BEURTEILUNG:\n{line}", (), ReportSpec.load("clean", "german"))[1] == (line,)


CLASSES = ("Blutung", "Infarkt", "Meningeom", "Gliom", "Metastase")


@pytest.fixture(scope="module")
def miner() -> Miner:
    tree = {"name": "t", "classes": [{"name": name} for name in CLASSES]}
    return Miner(Taxonomy.from_dict(tree), ReportSpec(language="german"))


@pytest.mark.parametrize(
    ("state", "name", "sentence"),
    [
        ("negated", "Blutung", "Keine Blutung."),
        ("negated", "Infarkt", "Keine Blutung, kein frischer Infarkt."),
        ("negated", "Blutung", "Ohne Nachweis einer Blutung."),
        ("negated", "Metastase", "Kein Anhalt für Metastasen."),
        ("negated", "Metastase", "Kein Anhalt fuer Metastasen."),
        ("negated", "Infarkt", "Weder Blutung noch Infarkt."),
        ("negated", "Blutung", "Eine Blutung ist im MRT nicht nachweisbar."),
        ("negated", "Gliom", "Ein Gliom ist unwahrscheinlich."),
        ("negated", "Gliom", "Ein Gliom ist ausgeschlossen."),
        ("uncertain", "Meningeom", "V.a. Meningeom."),
        ("uncertain", "Meningeom", "V. a. Meningeom."),
        ("uncertain", "Meningeom", "Verdacht auf ein Meningeom."),
        ("uncertain", "Metastase", "Gliom, DD Metastase."),
        ("present", "Gliom", "Gliom, DD Metastase."),
        ("uncertain", "Gliom", "Ein Gliom ist möglich."),
        ("uncertain", "Gliom", "Ein Gliom ist moeglich."),
        ("uncertain", "Gliom", "Mögliches Gliom."),
        ("uncertain", "Blutung", "Eine Blutung ist nicht auszuschließen."),
        ("uncertain", "Blutung", "Eine Blutung kann nicht sicher ausgeschlossen werden."),
        ("history", "Meningeom", "Z.n. Resektion eines Meningeoms."),
        ("history", "Meningeom", "Zustand nach Resektion eines Meningeoms."),
        ("present", "Infarkt", "Infarkt rechts, Zustand nach Resektion eines Meningeoms."),
        ("history", "Meningeom", "Meningeom, Zustand nach Resektion."),
        ("history", "Meningeom", "Das Meningeom wurde 2019 reseziert."),
        ("history", "Meningeom", "Meningeom wurde reseziert."),
        ("history", "Meningeom", "Das Meningeom wurde operativ entfernt."),
        ("present", "Meningeom", "Das Meningeom wurde nicht vollständig entfernt."),
        ("present", "Meningeom", "Meningeom 2 cm vom Sinus entfernt."),
        ("present", "Infarkt", "Infarkt rechts, das Meningeom wurde reseziert."),
        ("negated", "Metastase", "Meningeom, nicht mehr nachweisbare Metastase."),
        ("present", "Meningeom", "Meningeom, nicht mehr nachweisbare Metastase."),
        ("present", "Blutung", "Blutung links, Gliom nicht ausgeschlossen."),
        ("present", "Gliom", "Kein Infarkt, Gliom stabil."),
        ("present", "Gliom", "Kein Infarkt, Gliom unverändert seit 2019."),
        ("open", "Gliom", "Falls ein Gliom vermutet wird, Biopsie."),
        ("present", "Meningeom", "Keine andere Auffälligkeit als ein Meningeom."),
        ("uncertain", "Blutung", "Blutung, Infarkt und Gliom nicht ausgeschlossen."),
        ("present", "Meningeom", "Suspekt auf Meningeom."),
        ("present", "Meningeom", "Dringender Verdacht auf Meningeom."),
        ("present", "Meningeom", "Vermutetes Meningeom."),
        ("open", "Blutung", "Zum Ausschluss einer Blutung."),
        ("open", "Metastase", "Keine weiteren Metastasen."),
        ("open", "Metastase", "Kein Nachweis neuer Metastasen."),
        ("present", "Meningeom", "Keine Größenzunahme des Meningeoms."),
        ("present", "Meningeom", "Unverändertes Meningeom ohne Blutung."),
        ("negated", "Blutung", "Unverändertes Meningeom ohne Blutung."),
        ("present", "Metastase", "Am ehesten Metastase, weniger wahrscheinlich Gliom."),
        ("negated", "Gliom", "Am ehesten Metastase, weniger wahrscheinlich Gliom."),
        ("present", "Gliom", "Keine Blutung, aber ein Gliom."),
        ("negated", "Metastase", "Metastasen wurden nicht nachgewiesen."),
        ("negated", "Metastase", "Metastasen konnten nicht nachgewiesen werden."),
        ("negated", "Metastase", "Metastasen sind nicht abgrenzbar."),
        ("negated", "Metastase", "Metastasen haben sich nicht entwickelt."),
        ("negated", "Blutung", "Eine Blutung ließ sich nicht abgrenzen."),
        ("negated", "Metastase", "Für Metastasen ergibt sich kein Anhalt."),
        ("negated", "Gliom", "Der Verdacht auf ein Gliom bestätigt sich nicht."),
        ("negated", "Gliom", "Spricht am ehesten für eine Metastase, weniger für ein Gliom."),
        ("negated", "Gliom", "Meningeom, unwahrscheinlich Gliom."),
        ("negated", "Infarkt", "Infarkt nein"),
        ("uncertain", "Metastase", "DD: Metastase."),
        ("uncertain", "Meningeom", "V.a.: Meningeom"),
        ("uncertain", "Meningeom", "Kleines Meningeom der Konvexität möglich."),
        ("uncertain", "Gliom", "Die Wahrscheinlichkeit eines Glioms ist gering."),
        ("present", "Infarkt", "Der Infarkt ist nicht mehr frisch."),
        ("open", "Infarkt", "Kein neu aufgetretener Infarkt."),
        ("history", "Gliom", "Gliom, Z.n. Resektion."),
        ("present", "Infarkt", "Frische Infarkte links."),
        ("uncertain", "Metastase", "Gliom, weniger wahrscheinlich: Metastase."),
        ("negated", "Blutung", "Die Blutung ist jetzt verschwunden."),
        ("present", "Blutung", "Die Blutung ist teilweise zurückgebildet."),
        ("present", "Meningeom", "Kein Masseneffekt durch das Meningeom."),
        ("present", "Gliom", "Z.n. Resektion mit residuellem Gliom."),
        ("present", "Meningeom", "Das Meningeom ist stabil, eine Blutung ist nicht nachweisbar."),
        ("negated", "Blutung", "Das Meningeom ist stabil, eine Blutung ist nicht nachweisbar."),
    ],
)
def test_cues(miner: Miner, state: str, name: str, sentence: str) -> None:
    assert states(miner.mentions("", [sentence])).get(name, "-") == state


@pytest.mark.parametrize(
    "sentence", ["Unauffälliges MRT des Schädels.", "Altersentsprechend normaler Befund.", "Ohne pathologischen Befund."]
)
def test_normal(sentence: str) -> None:
    tree = Taxonomy.from_dict({"name": "t", "classes": [{"name": "Gliom"}, {"name": "normal", "normal": True}]})
    assert states(Miner(tree, ReportSpec(language="german")).mentions("", [sentence])) == {"normal": "present"}
