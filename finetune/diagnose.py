"""`hlip diagnose`: one study through a fine-tuned model, level by level, and where it looked.

HP2L's prompt reads the image tokens at every level; its attention, averaged over heads, is a map over the study's place: one number a
block of tokens (2 x 4 x 4 by default), one map for all scans, as the head reads one token a block, and one for all classes of the level.
Encoders with named channels (the CNN, 2-D backbones) also have Grad-CAM, of the highest class of each level, whatever the head.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from einops import rearrange
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from finetune.looked import LEGENDS, ImageRow, chosen_prototypes, draw_image, draw_levels, prompt_maps, prototype_similarity
from hlip.inference.explain import originals
from hlip.inference.inputs import SIMULATED, expected_spec, find_study, folder_notes, pick_device, scan_notes, skipped_scans
from hlip.inference.overlay import ScanEvidence, montage, write_nifti
from hlip.store import Store, StudyRecord
from hlip.taxonomy import Taxonomy
from hp2l.diagnoser import Diagnoser, load
from hp2l.encoders import ChannelEncoder
from hp2l.grad_cam import GradCAM
from hp2l.head import HP2LOutput

MEANING = (
    "score: the level's sigmoid, each class by itself; it ranks studies for a class. It is no diagnosis, and not calibrated."
)
SCALED = (
    "probability: the score Platt-scaled on {} validation studies, so that classes can be held against one another; it holds where "
    "diseases are as frequent as there. It is no diagnosis."
)
LOOKED = {
    "prompt": "prompt: how the level's prompt attends to each of {blocks}, in times an even look (1 is even); one map for all classes",
    "grad_cam": "grad_cam: which of {blocks} of the encoder's last map raise the level's highest class, as a share of the map's highest",
}
ONE_MAP = "; one map for all scans of the study, as the head does not read them one by one"
UNITS = {
    "scores": "sigmoid of each class by itself, 0 to 1, not calibrated: ranks studies for a class, not classes for a study",
    "probabilities": "score after Platt scaling on the validation split, 0 to 1: can be compared between classes",
    "attention_to_prototypes": "share of the prompt's attention, mean over heads, 1 in all; no prompt reads the last level's prototypes",
    "similarity_to_prototypes": "cosine of the study's class token with the class's prototype, -1 to 1",
}


def diagnose_command(arguments: argparse.Namespace) -> None:
    """Print every level's scores of one study; with --out also pictures and maps."""
    model = load(arguments.finetuned, pick_device(arguments.device))
    with tempfile.TemporaryDirectory() as scratch:
        store, record = find_study(arguments, expected_spec(model.encoder.volume_spec, str(arguments.finetuned)), Path(scratch))
        volumes = read_scans(model, store, record)
        output = read(model, volumes)
        likely = model.comparable(output.probabilities())
        notes = scan_notes(store, record.study_id) + folder_notes(store, record.study_id) + channel_notes(model, record)
        notes += [f"skipped: {line}" for line in skipped_scans(store, record.study_id)]
        if arguments.out:
            base = Path(scratch) if store.path.is_relative_to(scratch) else None
            title = Path(arguments.study).name
            notes += write_looks(model, store, record, volumes, output, likely, arguments.out, base, title)
            content = json.dumps(described(arguments.study, model, output, likely), indent=2)
            (arguments.out / "scores.json").write_text(content + "\n", encoding="utf-8")
    notes = path_notes(model.taxonomy, likely) + notes
    if arguments.json:
        print(json.dumps(described(arguments.study, model, output, likely) | {"notes": notes}, indent=2))
        return
    print_levels(arguments.study, model, output, likely, arguments.top)
    for note in notes:
        print(f"  note: {note}")
    print(MEANING if model.scaling is None else SCALED.format(model.scaling.studies))
    if arguments.out:
        print(f"written: {arguments.out}. Maps show where the model looked at a level, not why.")
    if model.facts.get("simulated"):
        print(SIMULATED)


def read_scans(model: Diagnoser, store: Store, record: StudyRecord) -> Tensor:
    """(n, 1, D, H, W) uint8 of what the encoder reads.

    Raises:
        ValueError: it reads named scans, and the study has none of them.
    """
    reader = model.encoder.reader
    if not reader.reads(record):
        wanted, there = ", ".join(reader.channels or ()), ", ".join(record.sequences)
        raise ValueError(
            f"{record.study_id}: the model reads {wanted}; the study has {there or 'no usable scan'}. Name its scans in a manifest"
        )
    return reader(store, record)


def channel_notes(model: Diagnoser, record: StudyRecord) -> list[str]:
    """Which named scans were missing."""
    channels = model.encoder.channels or ()
    absent = [name for name, place in zip(channels, model.encoder.reader.places(record), strict=True) if place is None]
    return [f"not in the study, zeros instead: {', '.join(absent)}"] if absent else []


@torch.no_grad()
def read(model: Diagnoser, volumes: Tensor) -> HP2LOutput:
    """Output of one study's (n, 1, D, H, W) uint8 volumes, with the prompt's attention."""
    device = next(model.parameters()).device
    return model(model.tokens(volumes.to(device), [len(volumes)]), return_attention=True)


def print_levels(study: str, model: Diagnoser, output: HP2LOutput, likely: list[Tensor], top: int) -> None:
    """The likeliest classes of each level: (1, K_l) probabilities where the model has them, and raw scores."""
    taxonomy, names = model.taxonomy, ["probability", "score"] if model.scaling else ["score"]
    table = Table("level", "class", *names, "0 to 1", title=escape(study), title_justify="left")
    for level, (scores, values) in enumerate(zip(output.probabilities(), likely, strict=True), start=1):
        order = values[0].argsort(descending=True)[:top].tolist()
        for rank, place in enumerate(order):
            name, value = taxonomy.level_names[level - 1] if rank == 0 else "", float(values[0, place])
            numbers = [value, float(scores[0, place])] if model.scaling else [value]
            bar = "█" * round(20 * value) + "·" * (20 - round(20 * value))
            table.add_row(escape(name), escape(taxonomy.classes(level)[place].name), *(f"{x:.3f}" for x in numbers), bar)
        table.add_section()
    Console(highlight=False).print(table)


def path_notes(taxonomy: Taxonomy, likely: list[Tensor]) -> list[str]:
    """Where a level's highest class does not lie below the highest of its parent's level: every level answers for itself.

    A level that does not know the normal class says nothing against it.
    """
    best = [taxonomy.classes(level)[int(values[0].argmax())] for level, values in enumerate(likely, start=1)]
    notes = []
    for item in best[1:]:
        if item.parent is None or item.parent_level is None:
            continue
        above = best[item.parent_level - 1]
        if above.index != item.parent_index and above.name != taxonomy.normal:
            names = taxonomy.level_names[item.level - 1], taxonomy.level_names[above.level - 1]
            notes.append(
                f"the levels disagree: the highest {names[0]}, {item.name}, does not lie below the highest {names[1]}, {above.name}"
            )
    return notes


def described(study: str, model: Diagnoser, output: HP2LOutput, likely: list[Tensor]) -> dict[str, Any]:
    """Every score and probability, and what the prototypes have to do with it, for other programs."""
    taxonomy, chosen, near = model.taxonomy, chosen_prototypes(output), prototype_similarity(model.head, output)
    levels = []
    for place, scores in enumerate(output.probabilities()):
        names = taxonomy.levels[place]
        entry: dict[str, Any] = {"level": place + 1, "name": taxonomy.level_names[place]}
        entry["scores"] = {name: float(score) for name, score in zip(names, scores[0], strict=True)}
        if model.scaling:
            entry["probabilities"] = {name: float(value) for name, value in zip(names, likely[place][0], strict=True)}
        if place < len(chosen):
            entry["attention_to_prototypes"] = {name: float(share) for name, share in zip(names, chosen[place], strict=True)}
        if near:
            entry["similarity_to_prototypes"] = {name: float(cosine) for name, cosine in zip(names, near[place], strict=True)}
        levels.append(entry)
    units = {name: unit for name, unit in UNITS.items() if any(name in entry for entry in levels)}
    return {"study": study, "taxonomy": taxonomy.name, "units": units, "levels": levels}


class Look(NamedTuple):
    """One map of one level."""

    kind: str
    """A key of LOOKED."""
    level: int
    title: str
    map: Tensor
    """(d, h, w) on the host: log2 of the prompt's attention over an even look, or Grad-CAM's share of its highest."""

    @property
    def values(self) -> Tensor:
        """The map in its unit: times an even look, or the share."""
        return self.map.exp2() if self.kind == "prompt" else self.map

    @property
    def blocks(self) -> str:
        """What it is made of, in words."""
        d, h, w = self.map.shape
        return f"{h} x {w} blocks (height x width)" if d == 1 else f"{d} x {h} x {w} blocks (depth x height x width)"

    @property
    def range(self) -> str:
        """From where to where it goes, in words."""
        low, high = float(self.values.min()), float(self.values.max())
        if self.kind == "prompt":
            return f"{low:.3g} to {high:.3g} times an even look"
        return "the highest place is 1" if high > 0 else "no place raises it"

    def of(self, best: str) -> str:
        """What it is a look for: the prompt's is not one for a class."""
        return "one look for all classes" if self.kind == "prompt" else f"for {best}, the highest class"


def looks(model: Diagnoser, volumes: Tensor, output: HP2LOutput) -> Iterator[Look]:
    """The prompt's maps, then those of Grad-CAM, as far as head and encoder have them."""
    for level, found in enumerate(prompt_maps(output, model.config.blocks), start=1):
        yield Look("prompt", level, "where the prompt looked", found[0])
    if isinstance(model.encoder, ChannelEncoder):
        cam = GradCAM(model, volumes.to(model.encoder.device), [len(volumes)])
        for level, values in enumerate(model.comparable(output.probabilities()), start=1):
            found = cam.map(level, int(values[0].argmax()))[0].cpu()
            yield Look("grad_cam", level, "Grad-CAM", found / found.max().clamp(min=torch.finfo(found.dtype).tiny))


def looked_notes(found: list[Look], more: str = "") -> list[str]:
    """What each kind of map is."""
    kinds = dict.fromkeys((look.kind, look.blocks) for look in found)
    return [f"{LOOKED[kind].format(blocks=blocks)}{more}." for kind, blocks in kinds]


def write_looks(
    model: Diagnoser,
    store: Store,
    record: StudyRecord,
    volumes: Tensor,
    output: HP2LOutput,
    likely: list[Tensor],
    out: Path,
    base: Path | None,
    title: str,
) -> list[str]:
    """`levels.png`, and for each level and kind of map a picture and a NIfTI file (of 2-D images `image.png`); returns notes."""
    out.mkdir(parents=True, exist_ok=True)
    warning = SIMULATED if model.facts.get("simulated") else ""
    kind = "score" if model.scaling is None else "probability"
    chosen, near = chosen_prototypes(output), prototype_similarity(model.head, output)
    draw_levels(likely, chosen, near, model.taxonomy, out / "levels.png", title, warning, kind)
    found = list(looks(model, volumes, output))
    if not found:
        return [
            f"no maps: a head of kind {model.config.kind} has no prompt that looks at the image (`hlip explain` asks the encoder)"
        ]
    if model.encoder.kind == "image":
        return write_image(model, volumes, likely, found, out, title)
    return write_volumes(model, store, record, likely, found, out, base, title)


def best_class(taxonomy: Taxonomy, likely: list[Tensor], level: int) -> str:
    """Name of the highest class."""
    return taxonomy.levels[level - 1][int(likely[level - 1][0].argmax())]


def write_volumes(
    model: Diagnoser,
    store: Store,
    record: StudyRecord,
    likely: list[Tensor],
    found: list[Look],
    out: Path,
    base: Path | None,
    study: str,
) -> list[str]:
    """`level_1_prompt.png`, ... with the map on every scan that was read, and `level_1_prompt_1_FLAIR.nii.gz`, ... on each one's own grid."""
    own = [place for place in model.encoder.reader.places(record) if place is not None] or list(range(len(record.sequences)))
    voxels, affines = store.volumes(record.study_id, own)[:, 0].numpy(), store.affines(record.study_id)[own]
    sources, notes = originals(store, record, base), []
    warning = SIMULATED if model.facts.get("simulated") else ""
    for look in found:
        scans = [
            ScanEvidence(record.sequences[place] or "scan", scan, look.map.numpy(), affine, cells=True)
            for place, scan, affine in zip(own, voxels, affines, strict=True)
        ]
        name, best = model.taxonomy.level_names[look.level - 1], best_class(model.taxonomy, likely, look.level)
        title = f"{study}, level {look.level} ({name}): {look.title} ({look.of(best)})"
        about = f"one map of {look.blocks} for all scans of the study: {look.range}"
        stem = f"level_{look.level}_{look.kind}"
        montage(scans, out / f"{stem}.png", title, warning, about=about, legend=LEGENDS[look.kind])
        for place, scan in zip(own, scans, strict=True):
            safe = re.sub(r"[^A-Za-z0-9+-]+", "_", scan.name).strip("_") or "scan"
            path = out / f"{stem}_{place + 1}_{safe}.nii.gz"
            write_nifti(replace(scan, evidence=look.values.numpy()), path, sources.get(place))
    notes.append("NIfTI maps hold the numbers of the colour bars, and 0 where the model saw nothing")
    if any(place not in sources for place in own):
        notes.append(
            "NIfTI maps are in the prepared volumes' grids; not every original is at hand (a store needs its --manifest)"
        )
    return notes + looked_notes(found, ONE_MAP)


def write_image(model: Diagnoser, volumes: Tensor, likely: list[Tensor], found: list[Look], out: Path, study: str) -> list[str]:
    """`image.png`: the image and its maps, a row a kind, a column a level."""
    rows: dict[str, ImageRow] = {}
    for look in found:
        name, best = model.taxonomy.level_names[look.level - 1], best_class(model.taxonomy, likely, look.level)
        what = look.range if look.kind == "prompt" else best + (f": {look.range}" if look.map.max() == 0 else "")
        aim = "one look for all classes" if look.kind == "prompt" else "for the highest class"
        row = rows.setdefault(look.kind, ImageRow(look.kind, f"{look.title}, {aim}\n{look.blocks}", []))
        row.maps.append((f"level {look.level} ({name})\n{what}", look.map[0]))
    pixels = rearrange(volumes, "c 1 1 H W -> H W c").cpu().numpy()
    draw_image(pixels, list(rows.values()), out / "image.png", study)
    return looked_notes(found)
