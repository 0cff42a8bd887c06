"""What is no scan, and why: by image types, by words, by kernels."""

from __future__ import annotations

import pytest

from hlip.dicom.kinds import is_adc, is_sharp, reason_against

from .stacks import CT, MR, stack


@pytest.mark.parametrize(
    ("description", "reason"),
    [("LOW DOSE CHEST", ""), ("Dose Report", "dose_report"), ("Topogram 0.6", "localizer"), ("T1 AX", ""), ("subtle", ""),
     ("Block T2", ""), ("MIP_TOF", "projection"), ("Facial nerve T2", ""), ("perf_MTT", "derived_map"), ("calvarium T1", ""),
     ("AAHScout_MPR_sag", "localizer"), ("AAHead_Scout", "localizer"), ("Lokalizer", "localizer"), ("Übersicht", "localizer"),
     ("PLAN SCAN", "localizer"), ("QSM", "derived_map"), ("relCBV", "derived_map"), ("Cerebral Blood Flow", "derived_map"),
     ("Monoenergetic 40 keV", "derived_map"), ("FA color", "derived_map"), ("FA_colored", "derived_map"), ("FA", "derived_map"),
     ("T1 VIBE FA 15", ""), ("Iodine overlay", "derived_map"), ("VEN_BOLD", ""), ("BOLD rest", "time_series"),
     ("Pilot", "localizer"), ("Planung", "localizer"), ("SCANNO", "localizer"), ("Soustraction", "subtraction"),
     ("T1 mapping", "derived_map"), ("T1 rho", "derived_map"), ("Fractional Aniso.", "derived_map"), ("Tractography", "derived_map"),
     ("Exponential Apparent Diffusion Coefficient", "derived_map"), ("PJN:TOF", "projection"), ("MIN IP: Ax SWAN", "projection"),
     ("COL:MRA", "projection"), ("Patientenprotokoll", "dose_report"), ("Dosisbericht", "dose_report"), ("Summary", "dose_report"),
     ("PreMonitoring", "time_series"), ("CAL SC", ""),
     ("PD fs Loc. Tumor", ""), ("CT Head Sub Acute", ""), ("T2 sub-second", ""), ("PD SPACE Cal", ""), ("T1 sub", "subtraction")],
)  # fmt: skip
def test_reasons_by_description(description: str, reason: str) -> None:
    assert reason_against(stack(description, sop_class=CT, modality="CT")) == reason


PHASES = (
    *(
        "in phase",
        "in-phase",
        "out of phase",
        "opp phase",
        "opposed phase",
        "arterial phase",
        "arterielle Phase 1.0",
        "CT Venous Phase",
    ),
    *("Thorax venoese Phase", "portalvenöse_phase", "Late Phase", "delayed phase", "multi phase", "CT 3 Phase Liver"),
)
SIGNALS = (
    "Ph: AX SWAN",
    "SWAN 2 phase",
    "VenBOLD Phase",
    "SWI_part-phase",
    "SWI Phase",
    "Pha_Images",
    "phase map",
    "GRE Phase",
)


@pytest.mark.parametrize(("modality", "sop_class"), [("MR", MR), ("CT", CT)])
def test_a_phase_of_contrast_or_of_an_echo_is_a_scan(modality: str, sop_class: str) -> None:
    """That of the signal, which only MR has, is not."""
    found = {text: reason_against(stack(text, sop_class=sop_class, modality=modality)) for text in (*PHASES, *SIGNALS)}
    assert found == dict.fromkeys(PHASES, "") | dict.fromkeys(SIGNALS, "phase" if modality == "MR" else "")


def test_the_parts_of_a_dixon_scan() -> None:
    types = {"IN_PHASE": "", "WATER": "", "FAT": "dixon_part", "OPP_PHASE": "dixon_part"}
    assert {word: reason_against(stack("T1 Dixon", image_type=("DERIVED", "PRIMARY", word))) for word in types} == types


def test_adc_is_kept_and_its_exponential_is_not() -> None:
    assert is_adc(stack("dADC"))
    assert not is_adc(stack("eADC"))
    assert reason_against(stack("eADC")) == "derived_map"
    assert not is_adc(stack(image_type=("DERIVED", "EADC"), description="ADC exp"))


@pytest.mark.parametrize(
    ("kernel", "sharp"),
    [("H30s", False), ("H60s", True), ("Hr40f", False), ("Br64d", True), ("J40s\\2", False), ("STANDARD", False), ("BONEPLUS", True),
     ("UB", False), ("YB", True), ("D", True), ("B", False), ("FC68", False), ("FC30", True), ("FC26", False), ("", False),
     ("I70f", True), ("I70f\\3", True), ("J70h", True), ("Bl57d", True), ("Qr69", True), ("U90u", True), ("ULTRA", True),
     ("Br40", False), ("J30s", False), ("B31f", False), ("Hr38", False), ("I31f\\3", False), ("Bv40", False), ("Qr40", False)],
)  # fmt: skip
def test_kernels(kernel: str, sharp: bool) -> None:
    assert is_sharp(stack(modality="CT", kernel=kernel)) == sharp
