"""Reports in another language than they are read in are noticed, by every command that reads reports."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hlip.cli import main
from hlip.reports.foreign import foreign
from hlip.reports.language import Language, english
from hlip.study import Scan, Study

ENGLISH = "FINDINGS: There is no acute infarct. IMPRESSION: Meningioma."
GERMAN = "Befund: Größe der Läsion 1,5 cm. Kein Nachweis einer Blutung. Beurteilung: Glioblastom links frontal."
FRENCH = (
    "Résultats : absence de lésion hémorragique récente. Pas d'argument pour un accident ischémique constitué. Les cavités ventriculaires "
    "et les sillons corticaux sont de taille normale pour l'âge. Conclusion : examen cérébral sans particularité."
)


def study(name: str, report: str = "", sentences: tuple[str, ...] = ()) -> Study:
    return Study(name, name, (Scan("a.nii.gz"),), report=report, sentences=sentences)


@pytest.mark.parametrize(
    ("language", "report", "like"),
    [
        ("english", ENGLISH, None),
        ("english", "Normal.", None),  # too short to tell
        ("english", "", None),
        ("english", GERMAN, "german"),
        ("german", GERMAN, None),
        ("german", ENGLISH, "english"),
        ("english", FRENCH, ""),
    ],
)
def test_one_report(language: str, report: str, like: str | None) -> None:
    found = foreign([study("a", report)], Language.load(language))
    assert found.foreign == (like is not None)
    assert list(found.like) == ([like] if like else [])


def test_the_note_counts_and_says_what_to_do() -> None:
    found = foreign([study("a", ENGLISH), study("b", GERMAN), study("c"), study("d", sentences=(GERMAN,))], english())
    assert found.note.startswith("note: 2 of 3 reports look as if they were not in english (function words; 2 like german)")
    assert "--language german" in found.note
    assert foreign([study("a", ENGLISH)], english()).note == ""


def test_a_language_without_function_words_tells_nothing() -> None:
    bare = Language.from_dict({"name": "bare", "headers": {}, "abbreviations": {}})
    assert foreign([study("a", GERMAN)], bare).foreign == 0


def test_simulated_reports_are_english() -> None:
    import numpy as np

    from hlip.simulate.reports import write_report

    rng = np.random.default_rng(5)
    reports = [write_report(rng, [], ["T1"], scale=1.0, field_strength=1.5, visit=1, evolved=False) for _ in range(100)]
    assert foreign([study(str(place), text) for place, text in enumerate(reports)], english()).foreign == 0


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    import nibabel as nib
    import numpy as np

    data = np.random.default_rng(0).integers(0, 900, (12, 12, 8)).astype(np.int16)
    nib.save(nib.Nifti1Image(data, np.diag([6.0, 6, 6, 1])), tmp_path / "a.nii.gz")
    rows = [{"study_id": "s", "patient_id": "s", "scans": [{"path": "a.nii.gz"}], "split": "train", "report": GERMAN}]
    file = tmp_path / "manifest.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.mark.parametrize("command", ["reports", "label", "prepare"])
def test_commands_tell_and_take_a_language(
    command: str, manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = tmp_path / "tree.yaml"
    tree.write_text("name: t\nclasses: [{name: tumor, synonyms: [Glioblastom]}, {name: bleed, synonyms: [Blutung]}]\n")
    words = {
        "reports": ["reports", manifest],
        "label": ["label", manifest, tree, tmp_path / "out.jsonl"],
        "prepare": ["prepare", manifest, tmp_path / "store", "--reports", "impression", "--workers", "1"],
    }[command]
    main([str(word) for word in words])
    assert "note: 1 of 1 reports look as if they were not in english" in capsys.readouterr().out
    main([*(str(word) for word in words), "--language", "german"])
    assert "look as if" not in capsys.readouterr().out
    if command == "label":
        assert json.loads((tmp_path / "out.jsonl").read_text())["labels"] == ["tumor"]
    if command == "prepare":
        assert json.loads((tmp_path / "store" / "index.jsonl").read_text())["sentences"] == ["Glioblastom links frontal."]
