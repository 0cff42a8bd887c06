"""Names of sequences: what words mean, and that a file name and a DICOM description of the same words get the same name."""

from __future__ import annotations

import time

import pytest

from hlip.dicom.sequence import guess
from hlip.scans.sequence import guess_sequence, spelled, without_other_phases

from ..dicom.stacks import stack

ALIKE = {
    "T1 precontrast": "T1",
    "t1 mpr precontrast": "T1",
    "T1 uncontrasted": "T1",
    "T1 non-enhanced": "T1",
    "T1 enhanced": "T1 contrast",
    "T1 postcontrast": "T1 contrast",
    "T1 avec un contraste": "T1 contrast",
    "T2_MPR": "T2",
    "t2_space_sag_MPR": "T2",
    "CISS 3D MPR": "T2",
    "FLAIR_mpr_cor": "FLAIR",
    "MPR_sag": "T1",
    "isoDWI": "DWI",
    "sDWI": "DWI",
    "Baldwin": "",
    "cor_stir": "T2",
    "fiesta-c": "T2",
    "sT1W_3D_TFE": "T1",
    "eT2W_TSE": "T2",
    "sT2W_FLAIR": "FLAIR",
    "T1 in phase": "T1",
    "t1_opposed_phase": "T1",
    "FLAIR T1": "T1",
    "t2_fl2d": "SWI",
    "dark-fluid tra": "FLAIR",
    "vibe": "T1",
    "B1000": "DWI",
    "Difusión": "DWI",
    "Average DC": "ADC",
    "T1 o. KM": "T1",
    "T1 mKM": "T1 contrast",
    "T1 antes de contraste": "T1",
}


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("t1w", "T1"), ("T1 post", "T1 contrast"), ("T2-FLAIR", "FLAIR"), ("T2*", "SWI"), ("dwi", "DWI"), ("b0", "DWI b0"),
     ("CTA", "CT angiography"), ("T1 contrast", "T1 contrast"), ("T1 cor", "T1 cor"), ("my scan", "my scan"), ("", "")],
)  # fmt: skip
def test_other_spellings_of_a_sequence(theirs: str, ours: str) -> None:
    assert spelled(theirs) == ours


@pytest.mark.parametrize("text", ALIKE)
def test_a_file_name_and_a_description_agree(text: str) -> None:
    assert (guess_sequence(f"{text}.nii.gz"), guess(stack(text)).sequence) == (ALIKE[text], ALIKE[text])


@pytest.mark.parametrize(
    ("name", "sequence"),
    [
        ("t1_gre_in_phase", "T1"),
        ("gre_phase", ""),
        ("sub-01_part-phase_swi.nii.gz", ""),
        ("sub-01_run-1_phase_swi.nii.gz", ""),
        ("gre_echo-2_phase.nii.gz", ""),
        ("swi_1_phase", ""),
        ("ct_spätarterielle_phase", "CT"),
        ("CT 3 phase", "CT"),
        ("ct_arterial_phase", "CT"),
        ("ct_head_mpr", "CT"),
        ("stirling", ""),
        ("st1", ""),
    ],
)
def test_names_of_files(name: str, sequence: str) -> None:
    assert guess_sequence(name) == sequence


@pytest.mark.parametrize("start", ["äart", "art", "pha", "swipha", "t1", "nativ "])
def test_of_a_hostile_description_the_start_alone_is_read(start: str) -> None:
    """65,534 bytes fit into one; a pattern that goes back over all of them would take hours."""
    endless = start * 20_000
    assert len(without_other_phases(endless)) <= 200
    assert guess_sequence(f"{endless} flair") == guess_sequence(endless[:200])
    assert guess_sequence(f"flair {endless}") == "FLAIR"


@pytest.mark.parametrize("text", ["t1" + " a" * 20_000, "ohne" + " " * 60_000, "w" + "t1 " * 20_000])
def test_an_endless_description_costs_no_time(text: str) -> None:
    """Of which the beginning is looked at, as of a file name."""
    began = time.process_time()
    guess(stack(text, contrast=text))
    assert time.process_time() - began < 0.2
    assert guess(stack(" " * 300 + "flair")).sequence == guess_sequence(" " * 300 + "flair") == ""
