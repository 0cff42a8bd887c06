"""Patterns are data: another language is another file, and a faulty one is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from hlip.reports import LanguageError, sections, split_sentences
from hlip.reports.cleaning import clean
from hlip.reports.labels.mining import Miner, states
from hlip.reports.language import Language, english
from hlip.reports.spec import ReportSpec
from hlip.taxonomy import Taxonomy

GERMAN = {
    "name": "german",
    "headers": {"findings": ["befund"], "impression": ["beurteilung"], "history": ["klinische angaben"]},
    "abbreviations": {"always": ["dr", "z.b", "ca", "bds"], "before_number": ["nr"]},
    "months": ["mai"],
    "tokens": [r"\[DATUM\]"],
    "token_leads": ["vom"],
    "boilerplate": {"gruss": ["mit freundlichen"]},
    "cues": {"negated_before": ["kein", "keine", "ohne"], "uncertain_after": ["nicht auszuschließen"]},
    "terminators": ["aber"],
}


@pytest.fixture
def german(tmp_path: Path) -> Path:
    file = tmp_path / "german.yaml"
    file.write_text(yaml.safe_dump(GERMAN, allow_unicode=True), encoding="utf-8")
    return file


def test_another_language(german: Path) -> None:
    report = (
        "Klinische Angaben: Sturz.\nBefund: Kein Infarkt, aber ein Gliom. Unverändert zum MRT vom [DATUM].\n"
        "Beurteilung: Ca. 3 cm großes Gliom. Vergleich vom 3. Mai 2020. Mit freundlichen Grüßen"
    )
    language = Language.load(german)
    assert list(sections(report, language)) == ["klinische angaben", "befund", "beurteilung"]
    assert split_sentences(report, language)[-3:] == [
        "Ca. 3 cm großes Gliom.",
        "Vergleich vom 3. Mai 2020.",
        "Mit freundlichen Grüßen",
    ]
    spec = ReportSpec(language=str(german), sections=("both",), boilerplate=("gruss",), tokens="remove")
    assert clean(report, (), spec)[1][1:3] == ("Unverändert zum MRT.", "Ca. 3 cm großes Gliom.")
    tree = Taxonomy.from_dict({"name": "t", "classes": [{"name": "Infarkt"}, {"name": "Gliom"}, {"name": "Blutung"}]})
    found = states(Miner(tree, spec).mentions(report + "\nBefund: Blutung nicht auszuschließen."))
    assert found == {"Infarkt": "negated", "Gliom": "present", "Blutung": "uncertain"}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"header": {}}, "unknown entry header"),
        ({"headers": None}, "headers"),
        ({"tokens": ["("]}, "regular expression"),
        ({"breaks": ["and", False]}, "quote"),
        ({"cues": {"negated": ["no"]}}, "negated_before"),
        ({"reach": {"join": ["or"]}}, "reach: unknown kind join"),
        ({"gap": -1}, "gap"),
        ({"same": ["a"]}, "same"),
    ],
)
def test_faulty_files(tmp_path: Path, change: dict, named: str) -> None:
    file = tmp_path / "faulty.yaml"
    file.write_text(yaml.safe_dump(GERMAN | change))
    with pytest.raises(LanguageError, match=named) as error:
        Language.load(file)
    assert str(file) in str(error.value)


def test_no_language_at_all(tmp_path: Path) -> None:
    file = tmp_path / "list.yaml"
    file.write_text("- a\n")
    with pytest.raises(LanguageError, match="mapping"):
        Language.load(file)
    file.write_text("a: [\n")
    with pytest.raises(LanguageError, match="YAML"):
        Language.load(file)
    file.write_text("name: x\n")
    with pytest.raises(LanguageError, match="no entry headers"):
        Language.load(file)


def test_digest_is_of_the_patterns(german: Path) -> None:
    one, other = Language.from_dict(GERMAN), Language.from_dict(GERMAN | {"name": "german 2"})
    cues = Language.from_dict(GERMAN | {"terminators": ["jedoch"]})
    assert one.digest() == other.digest() == cues.digest() == Language.load(german).digest() != english().digest()
    assert one.digest(words=True) == other.digest(words=True) != cues.digest(words=True)
