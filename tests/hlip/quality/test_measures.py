"""Measures and flags: made faults are seen, good scans are not flagged, equal voxels and reports are found wherever they lie."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from hlip.quality import duplicates, flags
from hlip.quality.measures import cut, ends, measure
from hlip.quality.pictures import SIDE, strip
from hlip.quality.table import complete
from hlip.scans.scan import LoadedScan


def body(half: tuple[float, float, float], spacing: float = 5.0, margin: float = 40, codes: str = "RAS") -> LoadedScan:
    """A bright ellipsoid of these half axes (mm, along the patient's x, y, z) in noise, stored in any axis order."""
    shape = [int(2 * (length + margin) / spacing) for length in half]
    grids = np.meshgrid(
        *[(np.arange(n) - n / 2) * spacing / length for n, length in zip(shape, half, strict=True)], indexing="ij"
    )
    rng = np.random.default_rng(0)
    data = 500.0 * (sum(grid**2 for grid in grids) < 1) + np.abs(rng.normal(scale=20, size=shape))
    image = nib.Nifti1Image(data.astype(np.float32), np.diag([spacing, spacing, spacing, 1]))
    there = nib.orientations.axcodes2ornt(tuple(codes))
    turned = image.as_reoriented(nib.orientations.ornt_transform(nib.orientations.axcodes2ornt(tuple("RAS")), there))
    return LoadedScan(np.asarray(turned.dataobj, dtype=np.float32), turned.affine, Path("scan.nii"))


@pytest.mark.parametrize("codes", ["RAS", "LPS", "ASR", "PIL"])
@pytest.mark.parametrize(
    ("half", "part"),
    [
        ((75, 95, 80), "head"),
        ((180, 120, 150), "chest"),
        ((40, 110, 130), "spine"),
        ((80, 90, 170), "spine"),
        ((30, 30, 30), ""),
    ],
)
def test_the_part_is_guessed_from_millimetres(half: tuple[float, float, float], part: str, codes: str) -> None:
    found = measure(body(half, codes=codes), ct=False)
    assert found["part"] == part
    np.testing.assert_allclose(found["extent_mm"], [2 * length for length in half], rtol=0.15)


def test_a_plateau_at_the_top_is_seen_and_noise_is_not() -> None:
    scan = body((75, 95, 80))
    assert measure(scan, ct=False)["saturated"] < 1e-3
    cut = np.minimum(scan.data, np.float32(500))
    assert measure(replace(scan, data=cut), ct=False)["saturated"] == pytest.approx(1, abs=0.05)


def moved(scan: LoadedScan, mm: float) -> LoadedScan:
    """As if the head had swung along y while the lines of k-space were read."""
    frequency = np.fft.fftfreq(scan.data.shape[1])
    order = np.argsort(np.argsort(frequency))
    shift = mm / scan.spacing[1] * np.sin(2 * np.pi * order / 6.3)
    lines = np.fft.fft(scan.data, axis=1) * np.exp(-2j * np.pi * frequency * shift)[None, :, None]
    return replace(scan, data=np.abs(np.fft.ifft(lines, axis=1)).astype(np.float32))


def test_ghosts_of_motion_are_seen() -> None:
    scan = body((60, 70, 60), spacing=3.0, margin=60)
    still, small, large = (measure(each, ct=False)["ghosting"] for each in (scan, moved(scan, 3), moved(scan, 8)))
    assert still < 0.01 < small < large
    assert large > flags.GHOSTING
    assert measure(scan, ct=True)["ghosting"] is None
    tight = body((60, 70, 60), spacing=3.0, margin=-20)  # no air to look at
    assert measure(tight, ct=False)["ghosting"] is None


@pytest.mark.parametrize("codes", ["RAS", "PIL"])
@pytest.mark.parametrize("degrees", [0, 30])
def test_foreground_outside_of_the_prepared_volume_is_measured(codes: str, degrees: float) -> None:
    """Of a ball, caps beyond planes: (2 - 3 t + t^3) / 4 of it lies beyond t radii. A box may be turned about the ball's middle."""
    points = measure(body((90, 90, 90), codes=codes), ct=False)["points"]
    turn = np.radians(degrees)
    affine = np.diag([2.0, 2, 2, 1])
    affine[:2, :2] = 2 * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    middle = points.mean(0)

    def lost(*mm: float) -> float | None:
        """Of a box of this width, about the middle."""
        size = tuple(int(length / 2) for length in mm)
        affine[:3, 3] = middle - affine[:3, :3] @ ((np.array(size) - 1) / 2)
        return cut(points, affine, size)

    cap = (2 - 3 * 0.6 + 0.6**3) / 4
    assert lost(220, 220, 220) == 0
    for box in ((108, 220, 220), (220, 108, 220), (220, 220, 108)):
        assert lost(*box) == pytest.approx(2 * cap, abs=0.04)
    assert cut(points[:0], affine, (1, 1, 1)) is None


def test_ends_of_prepared_volumes() -> None:
    volume = np.zeros((2, 5, 10), np.uint8)
    volume[0] = 255
    volume[1, 0] = 7
    assert ends([volume, volume + 1]) == {"black": [0.4, 0.5], "white": [0.5, 0.0]}


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PIL", "SAR"])
def test_pictures_show_left_on_the_left_and_the_top_on_top(codes: str) -> None:
    scan = body((75, 95, 80), codes="RAS")
    marked = scan.data.copy()
    shape = np.array(marked.shape)
    left, front, top = shape // 2 - [6, 0, 0], shape // 2 + [0, 8, 0], shape // 2 + [0, 0, 7]  # x grows to the right
    for place in (left, front, top):
        marked[tuple(slice(n - 1, n + 2) for n in place)] = 5000
    image = nib.Nifti1Image(marked, scan.affine)
    there = nib.orientations.axcodes2ornt(tuple(codes))
    turned = image.as_reoriented(nib.orientations.ornt_transform(nib.orientations.axcodes2ornt(tuple("RAS")), there))
    picture = np.asarray(Image.open(io.BytesIO(strip(np.asarray(turned.dataobj), turned.affine, (0, 5000)))))
    assert picture.shape == (SIDE, 3 * SIDE)
    axial, coronal, sagittal = np.split(picture.astype(int), 3, axis=1)
    middle = SIDE // 2

    def bright(plane: np.ndarray, rows: slice, columns: slice) -> bool:
        return plane[rows, columns].max() > 150

    low, high, band = slice(0, middle - 8), slice(middle + 8, None), slice(middle - 6, middle + 6)
    assert (bright(axial, band, low), bright(axial, band, high)) == (True, False)  # left
    assert (bright(axial, low, band), bright(axial, high, band)) == (True, False)  # front
    assert (bright(coronal, low, band), bright(coronal, high, band)) == (True, False)  # top
    assert (bright(sagittal, low, band), bright(sagittal, high, band)) == (True, False)  # top
    assert (bright(sagittal, band, low), bright(sagittal, band, high)) == (True, False)  # front on the left


# --- flags -------------------------------------------------------------------------------------------------------------------


def row(study: str, scan: int = 0, **more: Any) -> dict[str, Any]:
    usual = {"status": "ok", "foreground": 0.3, "saturated": 0.0, "ghosting": 0.01, "part": "head", "black": [0.4], "white": [0.01],
             "hashes": [f"{study}.{scan}"], "volumes": [0]}  # fmt: skip
    return complete({"study_id": study, "scan": scan} | usual | more)


def flagged(rows: list[dict[str, Any]], texts: dict[str, str] | None = None) -> dict[tuple[str, int], list[str]]:
    flags.set_flags(rows, texts or {})
    return {(each["study_id"], each["scan"]): each["flags"] for each in rows if each["flags"]}


def test_each_flag_has_its_cause() -> None:
    rows = [row(f"good{n}") for n in range(6)]
    assert flagged(rows) == {}
    rows += [
        row("dim", foreground=0.001),
        row("black", black=[0.995]),
        row(
            "window", black=[0.995, 0.5], hashes=["a", "b"], windows=["bone", "brain"], white=[0.0, 0.3]
        ),  # one window shows it
        row("top", saturated=0.2),
        row("white", white=[0.3]),
        row("ghost", ghosting=0.2),
        row("unmeasured", ghosting=None, saturated=None, foreground=None, black=[], white=[], part=""),
        row("trunk", part="chest"),
        row("gone", status="skipped", part="chest", foreground=0.0, hashes=[]),
    ]
    assert flagged(rows) == {
        ("dim", 0): ["empty"],
        ("black", 0): ["empty"],
        ("top", 0): ["clipped"],
        ("white", 0): ["clipped"],
        ("ghost", 0): ["motion-like"],
        ("trunk", 0): ["other-part"],
    }


def test_half_a_head_is_short_and_so_is_a_slab_but_of_few_scans_nothing_is_usual() -> None:
    whole = [row(f"w{n}", extent_mm=[150.0, 190.0, 150.0 + n]) for n in range(7)]
    extents = {"half": [150.0, 190.0, 80.0], "most": [150.0, 190.0, 95.0], "side": [80.0, 190.0, 150.0]}
    odd = [row(name, extent_mm=extent) for name, extent in extents.items()]
    assert flagged(whole[:4] + odd) == {}
    assert flagged(whole + odd) == {("half", 0): ["short"], ("side", 0): ["short"]}
    other = row("chest", extent_mm=[400.0, 250.0, 60.0], part="chest")
    assert flagged([*whole, *odd, other, row("unmeasured", extent_mm=[])])[("chest", 0)] == ["other-part"]


def test_a_slab_of_a_head_is_short_by_itself_and_neither_a_spine_nor_a_chest_is() -> None:
    slabs = {
        "thin": [150.0, 190.0, 48.0],
        "side": [59.0, 190.0, 140.0],
        "edge": [150.0, 190.0, 61.0],
        "small": [50.0, 50.0, 150.0],
    }
    rows = [row(name, extent_mm=extent) for name, extent in slabs.items()]
    rows += [row("none", extent_mm=[0.0, 0.0, 0.0], part=""), row("unmeasured", extent_mm=[])]
    assert flagged(rows) == {("thin", 0): ["short"], ("side", 0): ["short"]}
    assert flagged([row("neck", extent_mm=[45.0, 150.0, 240.0], part="spine")]) == {}
    assert flagged([row("trunk", extent_mm=[400.0, 250.0, 50.0], part="chest")]) == {}
    whole = [row(f"w{n}", extent_mm=[150.0, 190.0, 150.0]) for n in range(8)]
    assert flagged([*whole, rows[0]]) == {("thin", 0): ["short"]}, "by both rules, once"


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"sequence": "CT"}, ["wrong-spec"]),
        ({"sequence": "CTA"}, ["wrong-spec"]),
        ({"sequence": "CT angiography", "notes": "looks like CT, but"}, ["wrong-spec"]),
        ({"sequence": "CT", "windows": ["brain"]}, []),
        ({"sequence": "T1"}, []),
        ({"sequence": "CT", "status": "skipped"}, []),
        ({"cut": 0.06}, ["cut"]),
        ({"cut": 0.04}, []),
    ],
)
def test_a_ct_under_percentiles_and_a_cut_head_are_flagged(more: dict[str, Any], expected: list[str]) -> None:
    assert flagged([row("a", **more)]).get(("a", 0), []) == expected


def test_equal_voxels_across_and_within_studies() -> None:
    rows = [row("a", hashes=["x"]), row("a", 1, hashes=["y"]), row("b", hashes=["x"]), row("c", hashes=["z"]), row("c", 1, hashes=["z"]),
            row("d", hashes=["empty"], black=[1.0]), row("e", hashes=["empty"], black=[1.0])]  # fmt: skip
    found = flagged(rows)
    assert found[("a", 0)] == found[("b", 0)] == ["duplicate-voxels"]
    assert found[("c", 0)] == found[("c", 1)] == ["repeated-scan"]
    assert ("a", 1) not in found
    assert found[("d", 0)] == ["empty"], "volumes of one value are no copies"
    assert [each["same_voxels"] for each in rows] == [["b"], [], ["a"], [], [], [], []]


def test_equal_reports_whatever_their_letters_and_stops() -> None:
    texts = {"a": "No acute infarct.", "b": "no ACUTE\ninfarct", "c": "No acute infarct 2.", "d": "", "e": ""}
    rows = [row(study) for study in texts]
    found = flagged(rows, {study: duplicates.same_text(text) for study, text in texts.items()})
    assert found == {("a", 0): ["duplicate-report"], ("b", 0): ["duplicate-report"]}
    assert rows[0]["same_report"] == ["b"]


def test_a_template_that_thousands_share_stays_small() -> None:
    found = duplicates.shared((f"s{n}", ["normal"]) for n in range(3000))
    assert len(found) == 3000
    assert all(len(others) == duplicates.SHOWN and study not in others for study, others in found.items())


def test_the_worst_come_first_and_one_flag_does_not_fill_the_list() -> None:
    rows = [row(f"good{n}", foreground=0.3 + 0.001 * n) for n in range(60)] + [row(f"copy{n}", hashes=["x"]) for n in range(30)]
    rows += [row("ghost", ghosting=0.2), row("odd", foreground=0.9)]
    flags.set_flags(rows, {})
    worst = [each["study_id"] for each in flags.worst(rows)]
    assert len(worst) == flags.WORST
    assert sum(study.startswith("copy") for study in worst[:10]) == 8
    assert sum(study.startswith("copy") for study in worst) == 18, "there is nothing else to look at"
    assert "ghost" in worst[:9]
    assert "odd" in worst[:10]


def test_the_list_is_filled_up_to_twenty_with_more_of_one_flag() -> None:
    rows = [row(f"copy{n}", hashes=["x"]) for n in range(22)] + [row(f"ghost{n}", ghosting=0.2) for n in range(4)]
    rows += [row(f"good{n}") for n in range(40)]
    flags.set_flags(rows, {})
    worst = [each["study_id"] for each in flags.worst(rows)]
    assert len(worst) == flags.WORST
    assert sum(study.startswith("ghost") for study in worst) == 4
    assert sum(study.startswith("copy") for study in worst) == 16, "flagged ones come before good ones"


@pytest.mark.parametrize(
    ("note", "expected"),
    [
        ("sform and qform put a corner 12 mm apart; the sform is used", ["orientation"]),
        ("sform and qform are mirrored: left and right may be exchanged; the sform is used", ["mirrored", "orientation"]),
        ("brain extracted by bet: 9.0% of the voxels; looks like CT, but this spec scales", ["wrong-spec"]),
        ("a grey image: red, green and blue are equal", []),
    ],
)
def test_notes_of_doubt_are_flags_of_older_stores_too(note: str, expected: list[str]) -> None:
    rows = [row("a", notes=note), row("b")]
    assert flagged(rows).get(("a", 0), []) == expected
