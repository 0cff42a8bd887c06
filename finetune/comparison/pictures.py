"""Example studies as pictures: slices of every sequence and, where the models are at hand, what each of two methods drew its answer from.

Notable choices:
- A zero-shot method's map is `hlip explain`'s evidence for its highest disease, a fine-tuned one's that of `hlip diagnose` at the last
  level: where its prompt looked, or Grad-CAM. Only what speaks for the answer is drawn, each method scaled within the study.
- Both methods are drawn over the same slice of a sequence, the one that holds most of both maps, so that they can be held side by side.
- A row a sequence, one PNG each: the page names the rows in text, and a phone shows the same cells smaller.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from finetune.comparison.scoring import Method
from finetune.diagnosis.learnt import not_learnt, without
from finetune.diagnosis.looks import looks
from finetune.diagnosis.reading import read, read_scans
from finetune.diagnosis.written import on_scans
from hlip.inference.explain import explain
from hlip.inference.overlay import AIR, ScanEvidence, tissue_of
from hlip.model import HLIP
from hlip.store import Store, StudyRecord
from hlip.taxonomy import Taxonomy
from hlip.zeroshot import PromptSet
from hp2l.comparison.scores import Scores
from hp2l.diagnoser import Diagnoser

MOST_SCANS, MOST_MAPS = 5, 2
CELLS = 6
"""Slices in a row, the maps included."""
STEPS = 8
"""Points of the path of a zero-shot map: half of `hlip explain`'s own, as only its shape is shown."""
SIDE = 144
"""Pixels of a cell at most."""
FAINT, BRIGHT = np.array([230.0, 40.0, 20.0]), np.array([255.0, 225.0, 60.0])
"""Colours of a map from weak to strong."""

Volume = NDArray[np.uint8]
Map = NDArray[np.float32]


def pictured(
    store: Store,
    taxonomy: Taxonomy,
    example: Mapping[str, Any],
    methods: Sequence[Method] = (),
    tables: Mapping[str, Scores] | None = None,
) -> dict[str, Any]:
    """What `choose_examples` leaves to its caller.

    Args:
        store: with the study prepared.
        example: of `choose_examples`.
        methods: models at hand; the first two that give a map are drawn.
        tables: method -> its scores, for the prompts that a zero-shot one chose.

    Returns:
        `sequence` (names of the scans drawn), `scans` (number of all), `rows` [(sequence, PNG bytes)], `columns` [(heading, cells)] and
        `maps` {method: what its map shows}.
    """
    record = store.record(example["study_id"])
    drawn = list(range(min(MOST_SCANS, len(record.sequences))))
    names = [record.sequences[place] or "scan" for place in drawn]
    volumes, affines = store.volumes(record.study_id, drawn)[:, 0].numpy(), store.affines(record.study_id)[drawn]
    maps: dict[str, list[Map]] = {}
    told: dict[str, str] = {}
    for method in methods:
        if len(maps) < MOST_MAPS and (found := _map(method, store, record, taxonomy, example, (tables or {}).get(method.name))):
            shares, told[method.name] = found
            blocks = not isinstance(method.model, HLIP)  # few and large ones, to be seen as what they are
            maps[method.name] = [_strength(*scan, blocks) for scan in zip(volumes, shares[: len(drawn)], affines, strict=True)]
    layers = {method: _scaled(strengths) for method, strengths in maps.items()}
    plain = CELLS - 1 - len(layers) if layers else CELLS
    rows = []
    for place, (name, volume) in enumerate(zip(names, volumes, strict=True)):
        own = [strengths[place] for strengths in layers.values()]
        cells = [_grey(volume[depth]) for depth in _spread(len(volume), plain)]
        if own:
            parts = [layer.sum(axis=(1, 2)) / max(float(layer.sum()), 1e-12) for layer in own]  # every method has one vote
            telling = int(np.sum(parts, axis=0).argmax())
            cells += [_grey(volume[telling]), *(_over(volume[telling], layer[telling]) for layer in own)]
        rows.append((name, _png(cells, affines[place])))
    columns = [("slices", plain), *([("most telling", 1)] if layers else []), *((method, 1) for method in layers)]
    return {"sequence": ", ".join(names), "scans": len(record.sequences), "rows": rows, "columns": columns, "maps": told}


def _map(
    method: Method, store: Store, record: StudyRecord, taxonomy: Taxonomy, example: Mapping[str, Any], table: Scores | None
) -> tuple[Sequence[Map], str] | None:
    """(d, h, w) of each scan, and what they show; None where the method has no map of this study."""
    if isinstance(method.model, HLIP):
        return _evidence(method.model, store, record, taxonomy, example.get(method.name, ()), table)
    return _look(method.model, store, record)


def _evidence(
    model: HLIP, store: Store, record: StudyRecord, taxonomy: Taxonomy, top: Sequence[tuple[str, float]], table: Scores | None
) -> tuple[Sequence[Map], str] | None:
    """What speaks for the highest class that is not the normal one: for that one the direction to the normal phrase is no direction."""
    name = next((name for name, _ in top if name != taxonomy.normal), None)
    if name is None:
        return None
    item = taxonomy.classes(taxonomy.depth)[taxonomy.levels[-1].index(name)]
    chosen = (table.provenance.get("prompts") or {}) if table else {}
    prompts = PromptSet.load(chosen.get("prompts", "plain"))
    study = record.study_id
    found = explain(model, store.volumes(study), store.affines(study), item.prompt, prompts, steps=STEPS)
    return list(found.evidence.numpy()), f"evidence for {name}"


def _look(model: Diagnoser, store: Store, record: StudyRecord) -> tuple[Sequence[Map], str] | None:
    """The last level's map, the same for every scan but for how its grid lies: a head reads the study, not a scan."""
    if model.encoder.kind == "image" or not model.encoder.reader.reads(record):
        return None
    volumes = read_scans(model, store, record)
    output = read(model, volumes, model.encoder.reader.axes(store, record))
    likely = without(model.comparable(output.probabilities()), not_learnt(model))
    found = [look for look in looks(model, volumes, output, likely) if look.level == model.taxonomy.depth]
    if not found:
        return None
    shares = on_scans(model, store, record, found[0].map, range(len(record.sequences)))
    return shares, f"{found[0].title}, {found[0].blocks}"


def _strength(volume: Volume, shares: Map, affine: NDArray[np.float64], cells: bool) -> Map:
    """(D, H, W) what speaks for the answer, faint in air; smooth, or in the map's own cells."""
    tissue = np.stack([gaussian_filter(part.astype(np.float32), 1.0) for part in tissue_of(volume)])
    weight = AIR + (1 - AIR) * tissue
    found: Map = (ScanEvidence("", volume, shares, affine, cells=cells).on_voxels().clip(min=0) * weight).astype(np.float32)
    return found


def _scaled(strengths: Sequence[Map]) -> list[Map]:
    """A method's maps of all scans, the strongest place of the study at 1."""
    most = max(float(strength.max(initial=0)) for strength in strengths)
    return [strength / max(most, 1e-12) for strength in strengths]


def _spread(depth: int, count: int) -> list[int]:
    """Slices from low to high, without the ends, where there is little brain."""
    return [int(place) for place in np.linspace(0.25, 0.8, count) * (depth - 1)]


def _grey(pixels: Volume) -> NDArray[np.float64]:
    return np.repeat(pixels[..., None].astype(np.float64), 3, axis=2)


def _over(pixels: Volume, strength: Map) -> NDArray[np.float64]:
    """(H, W, 3) the slice with a map (H, W) of 0 to 1 on it; where the map is weak the slice shows through."""
    share = strength[..., None].astype(np.float64)
    colour = FAINT + (BRIGHT - FAINT) * share
    opacity = np.clip(1.3 * share, 0, 0.65)
    return (1 - opacity) * _grey(pixels) + opacity * colour


def _png(cells: Sequence[NDArray[np.float64]], affine: NDArray[np.float64]) -> bytes:
    """Cells of one scan side by side, each in a black square, millimetres in proportion."""
    _, down, across = np.linalg.norm(affine[:3, :3], axis=0)
    high, wide = cells[0].shape[0] * down, cells[0].shape[1] * across
    side = min(SIDE, max(cells[0].shape[:2]))
    size = max(1, round(side * wide / max(high, wide))), max(1, round(side * high / max(high, wide)))
    strip = Image.new("RGB", (side * len(cells), side))
    for place, cell in enumerate(cells):
        image = Image.fromarray(cell.round().clip(0, 255).astype(np.uint8)).resize(size, Image.Resampling.BILINEAR)
        strip.paste(image, (side * place + (side - size[0]) // 2, (side - size[1]) // 2))
    out = io.BytesIO()
    strip.save(out, format="PNG", optimize=True)
    return out.getvalue()
