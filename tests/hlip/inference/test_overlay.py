"""Maps of few and large patches: shown as the cells they are (smooth ones: test_explain.py)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hlip.inference.overlay import Legend, ScanEvidence, montage

SIZE, GRID = (12, 10, 8), (3, 2, 2)


def turned() -> np.ndarray:
    """(4, 4): voxels of 3 x 2 x 2.5 mm, tilted about two axes."""
    a, b = 0.4, 0.3
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = about_x @ about_z * [3.0, 2.0, 2.5], [-20, 5, 8]
    return affine


def test_each_voxel_of_another_grid_has_the_number_of_the_cell_it_lies_in():
    numbers = np.arange(1, 13, dtype=np.float32).reshape(GRID)
    scan = ScanEvidence("T1", np.zeros(SIZE, np.uint8), numbers, turned(), cells=True)
    grid = np.diag([1.7, 1.9, 2.1, 1.0])
    grid[:3, 3] = [-45, -25, -10]
    shape = (40, 40, 30)
    found = scan.on_grid(shape, grid)
    voxel = np.linalg.inv(turned()) @ grid @ np.stack([*np.indices(shape).reshape(3, -1), np.ones(np.prod(shape))])
    cell = np.floor((voxel[:3].T + 0.5) / (np.array(SIZE) / GRID)).astype(int)
    inside = ((cell >= 0) & (cell < GRID)).all(axis=1)
    wanted = np.where(inside, numbers[tuple(np.clip(cell, 0, np.array(GRID) - 1).T)], 0)
    assert set(wanted) == set(range(13))
    assert np.mean(found.ravel() != wanted) < 1e-3  # but for places on a face
    assert (scan.on_voxels() == numbers.repeat(4, 0).repeat(5, 1).repeat(4, 2)).all()


def cells(corner: float, inner: float) -> ScanEvidence:
    """Four by four cells; a head fills half of each inner one, the corners hold only air."""
    voxels, numbers = np.full((12, 32, 32), 10, np.uint8), np.zeros((2, 4, 4), np.float32)
    voxels[:, 12:20, 12:20] = 200
    numbers[:, 0, 0], numbers[:, 1, 1] = corner, inner
    return ScanEvidence("T1", voxels, numbers, np.eye(4), cells=True)


def test_a_cell_that_holds_tissue_does_not_lie_outside_of_it(tmp_path, monkeypatch):
    from matplotlib.figure import FigureBase

    said = []
    monkeypatch.setattr(FigureBase, "text", lambda self, x, y, text, **_: said.append(text))
    montage([cells(1.0, 1.2)], tmp_path / "x.png", "title", "warning", about="about", legend=Legend(name="the look"))
    assert said == ["title", "about", "warning"]
    montage([cells(3.0, 1.0)], tmp_path / "x.png", "title", "warning", about="about", legend=Legend(name="the look"))
    assert said[3:5] == ["title", "about"]
    assert said[5].startswith("Caution: 75 % of the look lies outside of tissue")


def test_cells_are_drawn_from_end_to_end_and_colours_reach_the_least(tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    seen, captions = [], []
    monkeypatch.setattr(Axes, "imshow", lambda self, values, **more: seen.append((np.asarray(values), more)))
    monkeypatch.setattr(Axes, "set_title", lambda self, text, **_: captions.append(text))
    montage([cells(0.0, 0.1)], tmp_path / "x.png", "t", slices=4, legend=Legend(least=0.5, signed=False, unit="shares"))
    assert captions[:2] == ["T1, slice 8/12", "slice 2, depth block 1/2"]
    assert captions[2:] == [f"slice {n}, depth block {block}/2" for n, block in ((5, 1), (8, 2), (11, 2))]
    layers = [(values, more) for values, more in seen if "alpha" in more]
    assert [(more["vmax"], more["interpolation"]) for _, more in layers] == [(0.5, "nearest")] * 4
    values, more = layers[0]
    assert values[15, 15] == pytest.approx(0.1)
    assert more["alpha"][15, 15] == pytest.approx(0.24, abs=0.01)
    montage([cells(0.0, 2.0)], tmp_path / "x.png", "t", legend=Legend(least=0.5))
    assert seen[-1][1]["vmax"] == 2.0


def test_sides_are_written_and_scans_of_one_name_are_numbered(tmp_path, monkeypatch):
    """Columns go to the right in the first scan, to the left in the second, to the back in the third."""
    from matplotlib.axes import Axes

    letters, captions, plain = [], [], Axes.text
    monkeypatch.setattr(Axes, "text", lambda self, x, y, text, **m: letters.append((x, text)) or plain(self, x, y, text, **m))
    monkeypatch.setattr(Axes, "set_title", lambda self, text, **_: captions.append(text))
    scans = []
    for name, axis, way in (("T1", 0, 1), ("FLAIR", 0, -1), ("T1", 1, -1)):
        affine = np.zeros((4, 4))
        affine[axis, 2], affine[1 - axis, 1], affine[2, 0], affine[3, 3] = way, 1, 1, 1
        scans.append(replace(cells(0.0, 1.0), name=name, affine=affine))
    montage(scans, tmp_path / "x.png", "t", slices=2, legend=Legend(ends=("up", "down")))
    assert letters[:6] == [(0.02, "L"), (0.98, "R"), (0.02, "R"), (0.98, "L"), (0.02, "A"), (0.98, "P")]
    assert captions[::3] == ["T1 1, slice 10/12", "FLAIR, slice 10/12", "T1 2, slice 10/12"]
