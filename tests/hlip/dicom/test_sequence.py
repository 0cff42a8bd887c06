"""Names of sequences: by tags, by descriptions, by both."""

from __future__ import annotations

import pytest

from hlip.dicom.kinds import reason_against
from hlip.dicom.sequence import guess

from .stacks import stack, timing


@pytest.mark.parametrize(
    ("tags", "sequence", "rule"),
    [
        (timing("SE", 500, 12), "T1", "spin echo"),
        (timing("SE", 4500, 95), "T2", "spin echo"),
        (timing("SE", 3000, 20), "PD", "spin echo"),
        (timing("SE IR", 9000, 120, 2500), "FLAIR", "inversion"),
        (timing("SE IR", 5000, 340, 1650), "FLAIR", "inversion"),  # 3-D
        (timing("SE IR", 2200, 12, 860), "T1", "inversion"),  # T1 FLAIR
        (timing("GR IR", 1900, 3, 1100), "T1", "inversion"),  # MPRAGE
        (timing("GR", 700, 20), "SWI", "gradient echo"),
        (timing("GR", 250, 4.6), "T1", "gradient echo"),
        (timing("GR", 22, 3.6, angio=True), "MRA", "angio"),
        (timing("EP", 4000, 80, b_value=1000.0), "DWI", "b-value"),
        (timing("EP", 4000, 80, b_value=0.0), "DWI b0", "b-value"),
        ({"image_type": ("DERIVED", "PRIMARY", "DIFFUSION", "ADC")}, "ADC", "image type"),
        ({"image_type": ("DERIVED", "PRIMARY", "DIFFUSION", "TRACEW")}, "DWI", "image type"),
        ({"image_type": ("ORIGINAL", "PRIMARY", "M", "SWI")}, "SWI", "image type"),
        ({"modality": "CT"}, "CT", "modality"),
        (timing("EP", 4000, 80), "", "none"),
        (timing("SE", 5000, 390, 1800.0), "FLAIR", "inversion"),  # 3-D, its inversion stated by the time alone
        (timing("SE IR", 4000, 60, 160), "T2", "short inversion"),  # STIR
        ({"image_type": ("ORIGINAL", "PRIMARY", "T2", "NONE")}, "T2", "frame type"),
        ({"image_type": ("ORIGINAL", "PRIMARY", "FLUID_ATTENUATED", "NONE")}, "FLAIR", "frame type"),
        ({"image_type": ("DERIVED", "PRIMARY", "T2", "NONE")}, "", "none"),
        ({}, "", "none"),
        ({"modality": "PT"}, "", "none"),
    ],
)
def test_sequences_by_tags(tags: dict, sequence: str, rule: str) -> None:
    found = guess(stack(**tags))
    assert (found.sequence, found.rule) == (sequence, rule)
    assert (found.confidence > 0) == bool(sequence)


@pytest.mark.parametrize(
    ("description", "sequence"),
    [
        ("t1_mprage_sag_p2_iso", "T1"),
        ("Ax T1 FLAIR", "T1"),
        ("T1 TSE TRA post GD", "T1 contrast"),
        ("AX T1 +C", "T1 contrast"),
        ("Sag 3D BRAVO C+", "T1 contrast"),
        ("T1 AX PRE CONTRAST", "T1"),
        ("T1 without contrast", "T1"),
        ("t1_se_tra_km", "T1 contrast"),
        ("t2_tse_tra", "T2"),
        ("AX T2 PROPELLER", "T2"),
        ("t2_tirm_tra_dark-fluid", "FLAIR"),
        ("Ax FLAIR T2 FS", "FLAIR"),
        ("t2_fl2d_tra_hemo", "SWI"),
        ("Ax T2* GRE", "SWI"),
        ("SWAN", "SWI"),
        ("ep2d_diff_3scan_trace", "DWI"),
        ("ep2d_diff_3scan_trace_ADC", "ADC"),
        ("DWI b=0", "DWI b0"),
        ("Apparent Diffusion Coefficient (mm2/s)", "ADC"),
        ("TOF 3D multi-slab", "MRA"),
        ("PD TSE FS", "PD"),
        ("t2_spc_da-fl_sag", "FLAIR"),
        ("t2_spc_ir_sag_fs", "FLAIR"),
        ("eT2W_TSE", "T2"),
        ("sT1W_3D_TFE", "T1"),
        ("STIR cor", "T2"),
        ("t2_stir_sag", "T2"),
        ("t2_space_sag_MPR", "T2"),
        ("CISS 3D MPR", "T2"),
        ("MPR FLAIR cor", "FLAIR"),
        ("MPR sag", "T1"),
        ("isoDWI", "DWI"),
        ("sDWI_b1000", "DWI"),
        ("Difusión axial", "DWI"),
        ("Isotropic image", "DWI"),
        ("T1 isotropic", "T1"),
        ("DWI b 0", "DWI b0"),
        ("Average DC", "ADC"),
        ("Baldwin Edwin", ""),
        ("protocol of the day", ""),
        ("Contact Dr Gretel", ""),
    ],
)
def test_sequences_by_description(description: str, sequence: str) -> None:
    assert guess(stack(description)).sequence == sequence


@pytest.mark.parametrize(
    ("description", "sequence"),
    [("CTA HEAD", "CT angiography"), ("Angio 0.75 H20f", "CT angiography"), ("HEAD 5mm", "CT"), ("Schaedel nativ", "CT")],
)
def test_sequences_of_ct(description: str, sequence: str) -> None:
    found = guess(stack(description, modality="CT", contrast="Iomeron"))
    assert (found.sequence, found.confidence >= 0.95) == (sequence, True)


def test_two_witnesses_are_surer_than_one_and_a_dispute_is_marked() -> None:
    se = timing("SE", 500, 12)
    agreed = guess(stack("T1 AX", **se))
    assert (agreed.confidence, agreed.rule) == (0.97, "spin echo + description")
    disputed = guess(stack("T2 AX", **se))
    assert (disputed.sequence, disputed.confidence) == ("T2", 0.5)
    assert disputed.rule == "spin echo (T1) against description (T2)"
    strong = guess(stack("T2 AX", b_value=1000.0))
    assert (strong.sequence, strong.confidence) == ("DWI", 0.5)


@pytest.mark.parametrize(
    ("description", "tags", "sequence", "confidence"),
    [
        ("t2_spc_sag_iso", timing("SE IR", 5000, 390, 1800), "FLAIR", 0.85),
        ("t2_spc_da-fl_sag", timing("", 5000, 390, 1800), "FLAIR", 0.97),
        ("t2_tirm_cor", timing("SE IR", 4000, 60, 160), "T2", 0.75),
        ("STIR cor", timing("SE IR", 4000, 60, 160), "T2", 0.95),
        ("TOF 3D multi-slab", timing("GR", 22, 3.6), "MRA", 0.8),
        ("eT2W_TSE", {"image_type": ("ORIGINAL", "PRIMARY", "T2", "NONE")}, "T2", 0.95),
        ("t2_tse_tra", timing("SE", 4500, 95), "T2", 0.97),
        ("CISS 3D MPR", timing("SE", 4500, 95), "T2", 0.97),
        ("MPR sag", timing("SE", 4500, 95), "T2", 0.85),  # a reformat
        ("MPR sag", timing("GR IR", 1900, 3, 1100), "T1", 0.96),
    ],
)
def test_one_sequence_may_be_a_kind_of_the_other(description: str, tags: dict, sequence: str, confidence: float) -> None:
    found = guess(stack(description, **tags))
    assert (found.sequence, found.confidence) == (sequence, confidence)


def test_contrast_by_agent_unless_the_description_denies_it() -> None:
    se = timing("SE", 500, 12)
    assert guess(stack("T1 AX", contrast="Gadovist", **se)).sequence == "T1 contrast"
    assert guess(stack("T1 AX", contrast="Gadovist", **se)).confidence == 0.75
    assert guess(stack("T1 AX PRE", contrast="Gadovist", **se)).sequence == "T1"
    assert guess(stack("T1 AX", contrast="NONE", **se)).sequence == "T1"
    assert guess(stack("T2 AX", contrast="Gadovist", **timing("SE", 4500, 95))).sequence == "T2"


CONTRAST = (
    "t1_se_tra_nach KM",
    "T1 mit Kontrastmittel",
    "T1 avec injection",
    "T1 con contraste",
    "T1 POST",
    "AX T1 W/WO CONTRAST",
    "T1 +C",
    "T1 injecté",
    "T1 INJ",
    "T1 mKM",
    "T1 ohne und mit KM",
    "T1 pre and post Gd",
    "t1_tse-KM",  # no word stands before its mark
)
PLAIN_T1 = (
    "T1 TSE ohne KM",
    "t1 tse vor KM",
    "T1 sin contraste",
    "T1 senza mdc",
    "T1 sans injection",
    "T1 pre contrast",
    "T1W WO CONTRAST",
    "T1 precontrast",
    "t1 mpr precontrast",
    "T1 uncontrasted",
    "T1 non-enhanced",
    "T1 pregd",
    "T1 sem contraste",
    "T1 zonder contrast",
    "T1 bez kontrastu",
    "T1 utan kontrast",
    "T1 antes de contraste",
    "T1 prima mdc",
    "kontrastsiz T1",
    "T1 -KM",
    "T1 o. KM",
    "T1 o.KM",
    "T1 GD-",
    "T1 KM-",
    "T1 (C-)",
)
NO_EVIDENCE = ("POST OP T1", "T1 POST FOSSA", "T1 posterior")


@pytest.mark.parametrize(
    ("descriptions", "sequence"),
    [(CONTRAST, "T1 contrast"), (PLAIN_T1, "T1"), (NO_EVIDENCE, "T1")],
    ids=["given", "denied", "none"],
)
def test_contrast_in_several_languages(descriptions: tuple[str, ...], sequence: str) -> None:
    assert {text: guess(stack(text, **timing("SE", 500, 12))).sequence for text in descriptions} == dict.fromkeys(
        descriptions, sequence
    )


def test_an_echo_tells_which_of_two_a_double_echo_is() -> None:
    found = [guess(stack("PD/T2 tra", **timing("SE", 3000, echo))) for echo in (15, 95)]
    assert [(one.sequence, one.confidence > 0.5) for one in found] == [("PD", True), ("T2", True)]
    assert guess(stack("PD/T2 tra")).sequence == "PD"
    disputed = guess(stack("PD/T2 tra", **timing("SE", 500, 12)))
    assert (disputed.sequence, disputed.confidence) == ("PD", 0.5), "the name of both is no sequence"


@pytest.mark.parametrize("description", ["pd+t2_tse_tra", "T2/PD ax", "pd_tse_t2_tra"])
def test_a_description_of_both_echoes_does_not_decide_without_a_scanning_sequence(description: str) -> None:
    found = [guess(stack(description, **timing("", 3000, echo))) for echo in (15, 100)]
    assert [(one.sequence, one.confidence, one.rule) for one in found] == [
        ("PD", 0.7, "echo time, of a double echo"),
        ("T2", 0.85, "echo time, of a double echo"),
    ]
    assert guess(stack(description, echo_time=100.0)).sequence == "T2", "no repetition time"
    assert guess(stack(description)).confidence == 0.5
    assert guess(stack(description, **timing("", 500, 12))).confidence == 0.5, "neither"


@pytest.mark.parametrize("description", ["phase contrast venography", "Phase_Contrast_MRV", "MR Venographie sag"])
def test_vessels_by_phase_contrast_are_an_mra(description: str) -> None:
    assert (reason_against(stack(description)), guess(stack(description)).sequence) == ("", "MRA")
    assert guess(stack(description, **timing("GR", 22, 3.6))).sequence == "MRA"
    assert reason_against(stack(f"{description} sag phase")) == "phase", "its phase images are none"


def test_an_adc_in_a_series_called_diffusion_is_no_dispute() -> None:
    found = guess(stack("ep2d_DWI", image_type=("DERIVED", "PRIMARY", "DIFFUSION", "ADC")))
    assert (found.sequence, found.confidence) == ("ADC", 0.95)
