"""Evidence maps drawn: a PNG montage to look at, and NIfTI files that open on top of the scans.

A map has one number a patch. Between patch centres it is read trilinearly, in millimetres, so that it lands at the right place
of a scan however that scan was tilted or flipped. A map of few and large patches is shown as the cells it has.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import affine_transform, binary_fill_holes, binary_opening, gaussian_filter

from hlip.prepare.montage import sides
from hlip.volume.resample import tilted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap

COLOURS = ("cyan", "royalblue", "black", "red", "yellow")  # from against the query to for it
TISSUE = 40  # of 255: darker, and not enclosed by brighter, is air
AIR = 0.1  # opacity of colours in air, of that in tissue
SPECK = 0.05  # a cell with less tissue than this share lies outside of it


@dataclass(frozen=True)
class Legend:
    """How the numbers of a map are read."""

    name: str = "the evidence"
    """What a number other than 0 is."""
    ends: tuple[str, str] = ("for", "against")
    """What the upper and the lower end of the colours mean."""
    unit: str = ""
    """Stands beside the colour bar."""
    ticks: Mapping[float, str] = field(default_factory=dict)
    """Number -> how it is written at the colour bar, those that matter most first; empty: numbers as they are."""
    least: float = 1e-12
    """The colours reach this far at least, so that next to nothing looks like it."""
    signed: bool = True
    """False: no number lies below 0."""

    def ticks_within(self, limit: float) -> dict[float, str]:
        """The ticks from -limit to limit that have room beside one another."""
        kept: dict[float, str] = {}
        for value, text in self.ticks.items():
            if abs(value) <= 1.001 * limit and all(abs(value - other) >= limit / 8 for other in kept):
                kept[value] = text
        return kept


EVIDENCE = Legend()


@dataclass(frozen=True)
class ScanEvidence:
    """One prepared volume and where its evidence lies."""

    name: str
    """Caption, e.g. FLAIR."""
    voxels: NDArray[np.uint8]
    """(D, H, W)."""
    evidence: NDArray[np.float32]
    """(d, h, w), one number a patch (or voxel): above 0 speaks for the query, below 0 against it."""
    affine: NDArray[np.float64]
    """(4, 4), voxel index (D, H, W) -> RAS mm."""
    cells: bool = False
    """A patch is one cell with one number, up to its faces; else numbers change smoothly from centre to centre."""

    @property
    def patch_affine(self) -> NDArray[np.float64]:
        """(4, 4), patch index (d, h, w) -> RAS mm of the patch's centre."""
        to_voxel = np.eye(4)
        for axis, (voxels, patches) in enumerate(zip(self.voxels.shape, self.evidence.shape, strict=True)):
            step = voxels / patches
            to_voxel[axis, axis], to_voxel[axis, 3] = step, (step - 1) / 2
        return self.affine @ to_voxel

    def on_grid(self, shape: tuple[int, int, int], affine: NDArray[np.float64]) -> NDArray[np.float32]:
        """The map on another grid, float32: trilinear between patch centres, level from the outermost centres to the volume's
        faces, 0 outside of what the model saw. Of cells the number of the cell.

        Args:
            shape: voxels of the grid.
            affine: (4, 4), its index -> RAS mm.
        """
        to_patch, values = np.linalg.inv(self.patch_affine) @ affine, np.asarray(self.evidence, np.float32)
        if not self.cells:
            return tilted(values, to_patch, shape, 0.0)
        return np.asarray(affine_transform(values, to_patch[:3, :3], to_patch[:3, 3], shape, order=0, mode="grid-constant"))

    def on_voxels(self) -> NDArray[np.float32]:
        """The map on the prepared volume itself, (D, H, W)."""
        depth, height, width = self.voxels.shape
        return self.on_grid((depth, height, width), self.affine)


def all_scans(scans: Sequence[ScanEvidence]) -> ScanEvidence:
    """What all scans of one study say of each place together: the mean of their maps, by millimetres, on the first scan's volume.

    One lesion lies at one place in every scan, so the mean finds it better than any scan alone.
    """
    first = scans[0]
    depth, height, width = first.voxels.shape
    mean = np.mean([scan.on_grid((depth, height, width), first.affine) for scan in scans], axis=0)
    return ScanEvidence(f"all scans, on {first.name}", first.voxels, mean, first.affine)


def write_nifti(scan: ScanEvidence, path: Path, like: nib.Nifti1Image | None = None) -> None:
    """Write the map as NIfTI, float32, gzipped.

    Args:
        like: the original image: the map takes its first three axes, its affine, and both of the header's transforms, so that every
            viewer lays it over the original whichever transform it reads. None: the prepared volume's own grid.
    """
    if like is None:
        nib.save(nib.Nifti1Image(scan.on_voxels(), scan.affine), path)
        return
    x, y, z = (int(n) for n in like.shape[:3])
    image = nib.Nifti1Image(scan.on_grid((x, y, z), like.affine), like.affine)
    image.set_qform(*like.get_qform(coded=True), update_affine=False)
    image.set_sform(*like.get_sform(coded=True), update_affine=False)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)


def montage(
    scans: Sequence[ScanEvidence],
    path: Path,
    title: str,
    warning: str = "",
    slices: int = 5,
    together: ScanEvidence | None = None,
    about: str = "",
    legend: Legend = EVIDENCE,
) -> None:
    """Draw a row a scan: its slice with the most evidence plain, then coloured among its neighbours; of cells slices from end to end.

    The plain slice has its sides named, L and R. Scans of one name are numbered: T1 1, T1 2.
    Colours are scaled by what lies in tissue and faint in air: the model may lean on it, but nothing is to be found there. Where more
    than half of all evidence lies outside of tissue, a line below the title says so.

    Args:
        scans: of one study; they share one colour scale, so that scans can be compared.
        path: of the PNG.
        title: stands above all.
        warning: stands below the title, in a warning colour.
        slices: coloured slices a scan.
        together: what all scans say together: the first row, with a colour scale of its own, as a mean is weaker than its parts.
        about: stands below the title: what the map is.
        legend: how its numbers are read.
    """
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    colours = LinearSegmentedColormap.from_list("evidence", COLOURS)
    drawn = [_Drawn.of(scan) for scan in told_apart(scans)]
    groups = [drawn] if together is None else [[_Drawn.of(together)], drawn]
    rows = [(row, _limit(group, legend)) for group in groups for row in group]
    lines = [(about, "0.8"), (_caution(drawn, legend.name), "orange"), (warning, "orange")]
    lines = [(text, colour) for text, colour in lines if text]
    width, height, top = 1.7 * (slices + 1) + 1.0, 1.9 * len(rows), 0.5 + 0.25 * len(lines)
    figure = Figure(figsize=(width, height + top), facecolor="black")
    head, body = figure.subfigures(2, 1, squeeze=False, height_ratios=[top, height])[:, 0]
    head.text(0.5, 1 - 0.25 / top, title, color="white", fontsize=10, ha="center", va="center")
    for line, (text, colour) in enumerate(lines):
        head.text(0.5, 1 - (0.52 + 0.25 * line) / top, text, color=colour, fontsize=9, ha="center", va="center")
    panels = body.subplots(len(rows), slices + 1, squeeze=False)
    body.subplots_adjust(left=0.005, right=0.9, bottom=0.01, top=1 - 0.2 / height, wspace=0.03, hspace=0.13)
    for (row, limit), places in zip(rows, panels, strict=True):
        _row(places, row, limit, colours)
    below = 0
    for group in reversed(groups):
        spot = ((below + 0.17) / len(rows), (len(group) - 0.42) / len(rows))
        _bar(body.add_axes((0.925, spot[0], 0.012, spot[1])), _limit(group, legend), colours, legend)
        below += len(group)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, facecolor="black")


def told_apart(scans: Sequence[ScanEvidence]) -> list[ScanEvidence]:
    """Scans of one name get numbers: T1 1, T1 2; a name that stands once stays."""
    times, seen = Counter(scan.name for scan in scans), Counter[str]()
    found = []
    for scan in scans:
        seen[scan.name] += 1
        found.append(replace(scan, name=f"{scan.name} {seen[scan.name]}") if times[scan.name] > 1 else scan)
    return found


class _Drawn(NamedTuple):
    """A scan, its map voxel by voxel, and where there is tissue: (D, H, W) each."""

    scan: ScanEvidence
    values: NDArray[np.float32]
    tissue: NDArray[np.bool_]

    @classmethod
    def of(cls, scan: ScanEvidence) -> _Drawn:
        return cls(scan, scan.on_voxels(), tissue_of(scan.voxels))

    @property
    def peak(self) -> int:
        """The slice with the most evidence for the query in tissue."""
        return int((self.values * self.tissue).clip(min=0).sum(axis=(1, 2)).argmax())


def tissue_of(voxels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """(D, H, W): all within a head's outline, what is dark inside included; specks of noise in air are not."""
    return np.stack([binary_fill_holes(binary_opening(slice_ > TISSUE)) for slice_ in voxels])


def _limit(group: Sequence[_Drawn], legend: Legend) -> float:
    """The strongest evidence in tissue, either way."""
    return max(*(float(np.abs(drawn.values[drawn.tissue]).max(initial=0)) for drawn in group), legend.least)


def _caution(drawn: Sequence[_Drawn], name: str) -> str:
    """What to say where most of the evidence lies outside of tissue."""
    total = sum(float(np.abs(row.values).sum()) for row in drawn)
    outside = sum(float(np.abs(row.values[_outside(row)]).sum()) for row in drawn)
    if outside <= 0.5 * total:
        return ""
    return f"Caution: {100 * outside / total:.0f} % of {name} lies outside of tissue, where nothing can be found: distrust this map."


def _outside(drawn: _Drawn) -> NDArray[np.bool_]:
    """(D, H, W): no tissue; a cell lies there as a whole, or not at all."""
    scan, _, tissue = drawn
    if not scan.cells:
        return ~tissue
    numbers = np.arange(scan.evidence.size, dtype=np.float32).reshape(scan.evidence.shape)
    cell = replace(scan, evidence=numbers).on_voxels().astype(int)
    share = np.bincount(cell.ravel(), weights=tissue.ravel()) / np.bincount(cell.ravel()).clip(min=1)
    outside: NDArray[np.bool_] = share[cell] < SPECK
    return outside


def _shown(drawn: _Drawn, count: int) -> list[tuple[int, str]]:
    """Slices to colour, and their captions: the one with the most evidence and its neighbours; of cells some from end to end."""
    depth, peak, cells = len(drawn.values), drawn.peak, len(drawn.scan.evidence)
    if drawn.scan.cells:
        places = sorted({int((number + 0.5) * depth / count) for number in range(count)})
        return [(place, f"slice {place + 1}, depth block {int((place + 0.5) * cells / depth) + 1}/{cells}") for place in places]
    first = max(0, min(peak - count // 2, depth - count))
    places = list(range(first, min(first + count, depth)))
    return [(place, f"slice {place + 1}" + ": most evidence" * (place == peak)) for place in places]


def _row(panels: NDArray[Any], drawn: _Drawn, limit: float, colours: Colormap) -> None:
    scan, values, tissue = drawn
    shown = _shown(drawn, len(panels) - 1)
    plain = shown[len(shown) // 2][0] if scan.cells else drawn.peak
    _slice(panels[0], scan, plain, f"{scan.name}, slice {plain + 1}/{len(values)}")
    for x, side, align in zip((0.02, 0.98), sides(scan.affine), ("left", "right"), strict=True):
        panels[0].text(x, 0.5, side, transform=panels[0].transAxes, color="#ffd166", fontsize=8, va="center", ha=align)
    smooth = "nearest" if scan.cells else None
    for panel in panels[1:]:
        panel.axis("off")
    for panel, (place, caption) in zip(panels[1:], shown, strict=False):
        _slice(panel, scan, place, caption)
        share = gaussian_filter(tissue[place].astype(np.float32), 1.0)  # no hard edge at the skin
        opacity = np.clip(1.2 * np.abs(values[place]) / limit, 0, 0.6) * (AIR + (1 - AIR) * share)
        layer = {"cmap": colours, "vmin": -limit, "vmax": limit, "interpolation": smooth}
        panel.imshow(values[place], alpha=opacity, aspect=_aspect(scan), **layer)


def _bar(axes: Axes, limit: float, colours: Colormap, legend: Legend) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    bar = axes.figure.colorbar(ScalarMappable(Normalize(-limit, limit), colours), cax=axes)
    if not legend.signed:
        bar.ax.set_ylim(0, limit)
    if legend.ticks:
        ticks = legend.ticks_within(limit)
        bar.set_ticks(list(ticks), labels=list(ticks.values()))
    for height, text, anchor in ((1.02, legend.ends[0], "bottom"), (-0.02, legend.ends[1], "top")):
        bar.ax.text(0.5, height, text, transform=bar.ax.transAxes, color="white", fontsize=8, ha="center", va=anchor)
    bar.set_label(legend.unit, color="white", fontsize=8)
    bar.ax.tick_params(colors="white", labelsize=7)


def _slice(panel: Axes, scan: ScanEvidence, place: int, caption: str) -> None:
    panel.imshow(scan.voxels[place], cmap="gray", vmin=0, vmax=255, aspect=_aspect(scan), interpolation="bilinear")
    panel.set_title(caption, color="white", fontsize=7, loc="left", pad=2)
    panel.axis("off")


def _aspect(scan: ScanEvidence) -> float:
    """Millimetres in proportion: a row's height over a column's width."""
    _, row, column = np.linalg.norm(scan.affine[:3, :3], axis=0)
    return float(row / column)
