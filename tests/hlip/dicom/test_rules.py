"""The rules that need no file: names of sequences, words that may be told, ages, layouts of slices."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pydicom.dataset import Dataset

from hlip.dicom.bvalues import b_value_of
from hlip.dicom.found import Found
from hlip.dicom.geometry import Layout, affine_of, lay_out, straighten
from hlip.dicom.kinds import is_adc, is_sharp, reason_against
from hlip.dicom.people import age_of, model_of, sex_of, told, vendor_of
from hlip.dicom.sequence import guess
from hlip.dicom.tags import Slice, Stack

MR, CT = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.2"
PLAIN = Stack(
    study_uid="1", series_uid="2", patient_id="p", accession="", series_number=1, sop_class=MR, modality="MR",
    image_type=("ORIGINAL", "PRIMARY", "M"), description="", protocol="", sequence_name="", scanning=(), variant=(),
    echo_time=None, repetition_time=None, inversion_time=None, flip_angle=None, b_value=None, contrast="", angio=False,
    kernel="", vendor="", model="", field_strength=None, sex="", age=None, frame="", rows=8, columns=8, spacing=(1.0, 1.0),
    orientation=(1.0, 0, 0, 0, 1.0, 0), grey=True, burned_in=False, enhanced=False,
)  # fmt: skip


def stack(description: str = "", **tags) -> Stack:
    return replace(PLAIN, description=description, **tags)


def timing(scanning: str, repetition: float, echo: float, inversion: float | None = None, **more) -> dict:
    kinds = tuple(scanning.split())
    return {"scanning": kinds, "repetition_time": repetition, "echo_time": echo, "inversion_time": inversion} | more


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


# --- people ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tags", "age"),
    [({"PatientAge": "045Y"}, 45), ({"PatientAge": "095Y"}, 90), ({"PatientAge": "018M"}, 1), ({"PatientAge": "003W"}, 0), ({}, None),
     ({"PatientBirthDate": "19500602", "StudyDate": "20200601"}, 69), ({"PatientBirthDate": "19500601", "StudyDate": "20200601"}, 70),
     ({"PatientBirthDate": "19010101", "StudyDate": "20200601"}, 90), ({"PatientBirthDate": "20210101", "StudyDate": "20200601"}, None),
     ({"PatientAge": "Miller", "PatientBirthDate": "x"}, None)],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_ages(tags: dict, age: int | None) -> None:
    data = Dataset()
    for name, value in tags.items():
        setattr(data, name, value)
    assert age_of(data) == age


def test_only_known_words_are_told() -> None:
    assert told("T1 AX POST Miller 17.08.2019 fs") == "t1 ax post _ fs"
    assert told("MRN 4711^Smith") == "_"
    assert told("") == ""
    assert vendor_of("SIEMENS Healthineers AG, Dr. Miller") == "Siemens"
    assert vendor_of("GE MEDICAL SYSTEMS") == "GE"
    assert vendor_of("St. Mary's") == "other"
    assert vendor_of("") == ""
    assert model_of("MAGNETOM Skyra of Dr. Miller") == "MAGNETOM Skyra"
    assert model_of("Miller") == ""
    assert (sex_of("f"), sex_of("Miller")) == ("F", "")


def test_a_private_tag_is_believed_from_its_vendor_alone() -> None:
    data = Dataset()
    data.add_new((0x0019, 0x0010), "LO", "SOMEBODY")
    data.add_new((0x0019, 0x100C), "IS", "700")
    assert b_value_of(data, "Siemens") == 700
    assert b_value_of(data, "GE") is None
    data.DiffusionBValue = 800.0
    assert b_value_of(data, "Siemens") == 800
    data.DiffusionBValue = 1e8
    assert b_value_of(data, "Siemens") is None


# --- layouts ---------------------------------------------------------------------------------------------------------------------


def slices(places: list[float], within: list[float] | None = None) -> list[Slice]:
    """At these heights, shifted along y."""
    return [
        Slice(PLAIN, Found("f", "", 1, 1), str(n), (0.0, y, z), n, None, None, None, 1, (), True)
        for n, (z, y) in enumerate(zip(places, within or [0.0] * len(places), strict=True))
    ]


def test_slices_in_any_order_are_one_even_stack() -> None:
    layout = lay_out(slices([6.0, 0.0, 4.02, 2.0]))
    assert isinstance(layout, Layout)
    assert [piece.instance for piece in layout.slices] == [1, 3, 2, 0]
    assert (layout.count, layout.step, layout.shift, layout.even, layout.notes) == (4, 2, (0, 0), True, ())


@pytest.mark.parametrize(
    ("places", "reason"),
    [([0, 1, 2, 3, 9, 10, 11, 12], "missing_slices"), ([0, 1, 2.3, 3, 4.6, 5], "uneven_slices"), ([0, 1, 2, 30, 60, 90], "missing_slices")],
)  # fmt: skip
def test_layouts_that_are_no_volume(places: list[float], reason: str) -> None:
    assert lay_out(slices(places)) == reason


def test_slices_that_wander_are_refused() -> None:
    assert lay_out(slices([0, 1, 2, 3, 4], [0, 3, 0, 3, 0])) == "shifted_slices"


def test_made_slices_lie_linearly_between_their_neighbours() -> None:
    heights = [0.0, 1, 2, 3, 4, 6, 8, 10, 12]
    layout = lay_out(slices(heights))
    assert isinstance(layout, Layout)
    ramp = np.broadcast_to(np.array(heights) * 10, (3, 2, 9)).astype(np.int16)
    made = straighten(ramp, layout)
    assert made.dtype == np.int16
    np.testing.assert_array_equal(made[1, 1], np.arange(13) * 10)


@pytest.mark.parametrize(
    ("step", "reason"), [(4 / 3, ""), (1.9, ""), (0.5, ""), (2.3, "uneven_slices"), (0.2, "uneven_slices")]
)
def test_one_odd_step_is_resampled_unless_a_slice_may_lack(step: float, reason: str) -> None:
    heights = [0.0, 5, 10, 15, 20, 25, *(25 + 5 * step + 5.0 * n for n in range(6))]
    layout = lay_out(slices(heights))
    assert (layout if isinstance(layout, str) else "") == reason
    if isinstance(layout, Layout):
        assert (layout.step, layout.notes) == (5, ("uneven steps resampled",))
        made = straighten(np.broadcast_to(np.array(heights), (3, 2, 12)).astype(np.float32), layout)
        wanted = np.minimum(5.0 * np.arange(layout.count), heights[-1])
        np.testing.assert_allclose(made[0, 0], wanted, atol=1e-4)


def test_several_odd_steps_are_no_volume() -> None:
    steps = np.tile([5.0, 5, 5, 6.7], 5)
    assert lay_out(slices([0.0, *np.cumsum(steps).tolist()])) == "uneven_slices"


@pytest.mark.parametrize("lean", [0.5, -0.5])
def test_a_grid_grows_by_the_tilt_so_that_nothing_is_cut_off(lean: float) -> None:
    """A mark in the first row of the one end and in the last row of the other."""
    heights = [10.0 * n for n in range(6)]
    pieces = slices(heights, [lean * height for height in heights])
    layout = lay_out(pieces)
    assert isinstance(layout, Layout)
    volume = np.full((8, 8, 6), -7, dtype=np.int16)
    volume[3, 0], volume[3, 7] = 100, 200
    made, affine = straighten(volume, layout), affine_of(layout)
    assert made.shape == layout.shape == (8, 8 + 25, 6), "the furthest slice lies 25 mm off, of 1 mm a row"
    assert (made.dtype, made.min()) == (np.int16, -7)
    for n, piece in enumerate(pieces):
        assert piece.position is not None
        for row, value in ((0, 100), (7, 200)):
            x, y, z = np.add(piece.position, (3, row, 0))
            voxel = np.linalg.inv(affine) @ [-x, -y, z, 1]
            np.testing.assert_allclose(voxel, voxel.round(), atol=1e-9)
            assert made[tuple(voxel[:3].round().astype(int))] == value, (n, row)
    assert (made == 100).sum() == (made == 200).sum() == 6


def test_a_shift_beyond_all_memory_is_refused() -> None:
    heights = [10.0 * n for n in range(6)]
    assert lay_out(slices(heights, [1e7 * height for height in heights])) == "too_large"
