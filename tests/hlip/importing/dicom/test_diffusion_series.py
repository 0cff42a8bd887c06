"""Diffusion series of every vendor: b0, trace, ADC; volumes that lie apart, or are of different extent; b-values that few tags tell."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import RLELossless, generate_uid

from hlip.dicom.bvalues import b_value_of

from ...dicom import phantom
from .made import as_bytes, assert_marks, diffusion, ge, philips, rows, run, siemens, standard, value_at


@pytest.mark.parametrize("put", [standard, siemens, ge, philips, as_bytes])
def test_a_diffusion_series_becomes_b0_trace_and_adc(tmp_path: Path, put) -> None:
    uid = generate_uid()
    for place, b_value in enumerate((0, 1000, 1000)):  # two directions
        diffusion(tmp_path / "in", b_value, uid, put, first=100 * place)
    run(tmp_path / "in", tmp_path / "out")
    found = {row["sequence"]: nib.load(tmp_path / "out" / row["path"]) for row in rows(tmp_path / "out")}
    assert list(found) == ["DWI b0", "DWI", "ADC"]
    assert value_at(found["DWI b0"], (30, 0, 0)) == pytest.approx(9000)
    assert value_at(found["DWI"], (30, 0, 0)) == pytest.approx(9000 * np.exp(-1), rel=1e-3)
    assert value_at(found["ADC"], (30, 0, 0)) == pytest.approx(1000, rel=1e-2)
    assert rows(tmp_path / "out")[0]["b_values"] == "0 1000"


def test_the_scanners_own_adc_is_preferred(tmp_path: Path) -> None:
    uid = generate_uid()
    for place, b_value in enumerate((0, 1000)):
        diffusion(tmp_path / "in", b_value, uid, standard, first=100 * place)
    phantom.series(tmp_path / "in", number=2, description="ep2d_diff_ADC", ImageType=["DERIVED", "PRIMARY", "DIFFUSION", "ADC"])
    done = run(tmp_path / "in", tmp_path / "out")
    assert [scan.sequence for scan in done.studies[0].scans] == ["DWI b0", "DWI", "ADC"]
    assert_marks(nib.load(done.studies[0].scans[2].path))


def scans(out: Path) -> dict[str, nib.Nifti1Image]:
    return {row["sequence"]: nib.load(out / row["path"]) for row in rows(out) if row["path"]}


def assert_in_place(found: dict[str, nib.Nifti1Image]) -> None:
    """Of diffusivity 1000 everywhere: no slice of one stands on another slice of the other."""
    b0, trace, adc = (found[name].get_fdata() for name in ("DWI b0", "DWI", "ADC"))
    np.testing.assert_allclose(trace * np.e, b0, atol=2.5)
    assert adc[b0 > 1000] == pytest.approx(1000, rel=1e-2)
    for name, weight in (("DWI b0", 10), ("DWI", 10 / np.e)):
        for place, value in (((30, 0, 0), 900), ((0, 0, 32), 600), ((0, -38, 0), 100)):
            assert value_at(found[name], place) == pytest.approx(value * weight, abs=1), (name, place)


@pytest.mark.parametrize(
    ("low", "high", "slices"),
    [((23,), (0,), 22), ((0, 1), (), 22), ((20, 21, 22, 23), (), 20), ((), (0, 1, 2), 21), ((0, 7), (23, 9), 22)],
)
def test_b_values_of_different_extent_are_cut_to_the_slices_of_all(
    tmp_path: Path, low: tuple[int, ...], high: tuple[int, ...], slices: int
) -> None:
    uid = generate_uid()
    for place, (b_value, drop) in enumerate(((0, low), (1000, high))):
        diffusion(tmp_path / "in", b_value, uid, standard, first=100 * place, drop=drop)
    run(tmp_path / "in", tmp_path / "out")
    found = scans(tmp_path / "out")
    assert {name: image.shape[2] for name, image in found.items()} == dict.fromkeys(("DWI b0", "DWI", "ADC"), slices)
    if 7 not in low:  # made slices are means
        assert_in_place(found)
    assert all(f"cut to the {slices} slices that all volumes have" in row["notes"] for row in rows(tmp_path / "out"))


def test_an_incomplete_b_value_is_passed_over_whichever_it_is(tmp_path: Path) -> None:
    for number, drops in enumerate((((), range(12, 24)), (range(12, 24), ())), 1):
        uid = generate_uid()
        for place, (b_value, drop) in enumerate(zip((0, 1000), drops, strict=True)):
            tags = {"number": number, "drop": tuple(drop)}
            diffusion(tmp_path / "in", b_value, uid, standard, first=100 * place, **tags)
    run(tmp_path / "in", tmp_path / "out")
    found = [
        (row["sequence"], row["shape"], "1 incomplete volumes passed over" in row["notes"]) for row in rows(tmp_path / "out")
    ]
    assert found == [("DWI b0", "40x40x24", True), ("DWI", "40x40x24", True)]


def test_an_incomplete_direction_costs_no_slice_of_the_others(tmp_path: Path) -> None:
    uid = generate_uid()
    for place, (b_value, drop) in enumerate(((0, ()), (1000, (23,)), (1000, ()))):
        tags = {"drop": drop, "AcquisitionNumber": place}
        diffusion(tmp_path / "in", b_value, uid, standard, first=100 * place, **tags)
    run(tmp_path / "in", tmp_path / "out")
    found = scans(tmp_path / "out")
    assert found["ADC"].shape[2] == 24
    assert_in_place(found)
    assert "1 incomplete volumes passed over" in rows(tmp_path / "out")[0]["notes"]


@pytest.mark.parametrize("by", [(0, 0, 20), (20, 0, 0), (0, 1.5, 0)])
def test_b_values_that_lie_apart_become_scans_of_their_own(tmp_path: Path, by: tuple[float, float, float]) -> None:
    uid = generate_uid()

    def moved(data: pydicom.Dataset, b_value: float) -> None:
        standard(data, b_value)
        data.ImagePositionPatient = [a + b for a, b in zip(data.ImagePositionPatient, by, strict=True)]

    diffusion(tmp_path / "in", 0, uid, standard)
    diffusion(tmp_path / "in", 1000, uid, moved, first=100)
    run(tmp_path / "in", tmp_path / "out")
    found = scans(tmp_path / "out")
    assert sorted(found) == ["DWI", "DWI b0"]
    apart = (found["DWI"].affine - found["DWI b0"].affine)[:3, 3]
    assert apart == pytest.approx([-by[0], -by[1], by[2]], abs=1e-4)
    assert [row["files"] for row in rows(tmp_path / "out")] == ["24", "24"]
    assert all("no ADC" in row["notes"] for row in rows(tmp_path / "out"))


def test_whole_steps_apart_only_shared_slices_are_taken(tmp_path: Path) -> None:
    uid = generate_uid()
    diffusion(tmp_path / "in", 0, uid, standard, drop=(0, 1, 2), slices=24)
    diffusion(tmp_path / "in", 1000, uid, standard, first=100, drop=(22, 23), slices=24)
    run(tmp_path / "in", tmp_path / "out")
    found = scans(tmp_path / "out")
    assert found["ADC"].shape[2] == 19
    assert_in_place(found)


@pytest.mark.parametrize("names", [("*ep_b0", "*ep_b1000t"), ("ep_b0", "ep_b1000#12"), ("*re_b0", "*re_b1000t")])
def test_the_name_of_the_sequence_tells_a_b_value_that_no_tag_does(tmp_path: Path, names: tuple[str, str]) -> None:
    uid = generate_uid()
    for place, (b_value, name) in enumerate(zip((0, 1000), names, strict=True)):
        diffusion(tmp_path / "in", b_value, uid, lambda *_: None, first=100 * place, SequenceName=name)
    run(tmp_path / "in", tmp_path / "out")
    assert_in_place(scans(tmp_path / "out"))


@pytest.mark.parametrize("name", ["*ep_b0_1000", "*fl3d1", "*tse2d1_15", "ep_b"])
def test_other_names_of_sequences_tell_none(name: str) -> None:
    data = pydicom.Dataset()
    data.SequenceName = name
    assert b_value_of(data, "Siemens") is None
    data.SequenceName, data.DiffusionBValue = "*ep_b0", 700.0
    assert b_value_of(data, "Siemens") == 700


def test_files_that_alone_lack_a_b_value_are_the_b0(tmp_path: Path) -> None:
    uid = generate_uid()
    diffusion(tmp_path / "in", 0, uid, lambda *_: None)
    diffusion(tmp_path / "in", 1000, uid, standard, first=100)
    run(tmp_path / "in", tmp_path / "out")
    assert_in_place(scans(tmp_path / "out"))


def test_b0_and_diffusion_images_of_one_place_in_two_series_are_told(tmp_path: Path) -> None:
    for number, b_value in enumerate((0, 1000), 1):
        diffusion(tmp_path / "in", b_value, generate_uid(), standard, number=number)
    diffusion(tmp_path / "in", 1000, generate_uid(), standard, number=3, spacing=3.0)
    run(tmp_path / "in", tmp_path / "out")
    assert [(row["sequence"], row["notes"]) for row in rows(tmp_path / "out")] == [
        ("DWI b0", ""),
        ("DWI", "its b0 is in 001: no ADC is computed over two series"),
        ("DWI", ""),
    ]


@pytest.mark.parametrize(("lost", "kept"), [(7, True), (23, False)])
def test_a_slice_that_cannot_be_decoded_costs_no_more_than_itself(tmp_path: Path, lost: int, kept: bool) -> None:
    """Unless it is at an end, where nothing fills it in."""
    uid = generate_uid()
    for place, b_value in enumerate((0, 1000)):
        diffusion(tmp_path / "in", b_value, uid, standard, first=100 * place)
    for n, file in enumerate(sorted((tmp_path / "in").iterdir())):
        data = pydicom.dcmread(file)
        data.compress(RLELossless, encoding_plugin="pydicom")
        if n == lost:
            data.PixelData = encapsulate([b"x" * 90])
        data.save_as(file)
    phantom.series(tmp_path / "in", number=2)
    run(tmp_path / "in", tmp_path / "out")
    row = rows(tmp_path / "out")[0]
    assert row["reason"] == ("" if kept else "damaged")
    if kept:
        assert list(scans(tmp_path / "out")) == ["DWI b0", "DWI", "ADC", "T1"]
        assert "1 of 24 files cannot be decoded" in row["notes"]
