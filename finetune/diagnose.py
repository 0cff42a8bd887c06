"""`hlip diagnose`: one study through a fine-tuned model, level by level, and where it looked.

HP2L's prompt reads the image tokens at every level; its attention, averaged over heads, is a map over the study's place. Encoders with
named channels (the CNN, 2-D backbones) also have Grad-CAM, of the highest class of each level, whatever the head.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from einops import rearrange
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from finetune.looked import draw_image, draw_levels, prompt_maps
from hlip.explain import originals
from hlip.inputs import SIMULATED, expected_spec, find_study, folder_notes, pick_device, scan_notes, skipped_scans
from hlip.overlay import ScanEvidence, montage, write_nifti
from hlip.store import Store, StudyRecord
from hlip.taxonomy import Taxonomy
from hp2l.diagnoser import Diagnoser, load
from hp2l.encoders import ChannelEncoder
from hp2l.grad_cam import GradCAM
from hp2l.head import HP2LOutput

MEANING = (
    "score: the level's sigmoid, each class by itself; it ranks studies for a class. It is no diagnosis, and not calibrated."
)
LOOKED = {
    "prompt": "prompt: how the prompt attends to each place, against an even look at all of them (0 is even).",
    "grad_cam": "grad_cam: which places of the encoder's last map raise the level's highest class.",
}


def diagnose_command(arguments: argparse.Namespace) -> None:
    """Print every level's scores of one study; with --out also pictures and maps."""
    model = load(arguments.finetuned, pick_device(arguments.device))
    with tempfile.TemporaryDirectory() as scratch:
        store, record = find_study(arguments, expected_spec(model.encoder.volume_spec, str(arguments.finetuned)), Path(scratch))
        volumes = read_scans(model, store, record)
        output = read(model, volumes)
        notes = scan_notes(store, record.study_id) + folder_notes(store, record.study_id) + channel_notes(model, record)
        notes += [f"skipped: {line}" for line in skipped_scans(store, record.study_id)]
        if arguments.out:
            base = Path(scratch) if store.path.is_relative_to(scratch) else None
            notes += write_looks(model, store, record, volumes, output, arguments.out, base)
    print_levels(arguments.study, model.taxonomy, output, arguments.top)
    for note in notes:
        print(f"  note: {note}")
    print(MEANING)
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


def print_levels(study: str, taxonomy: Taxonomy, output: HP2LOutput, top: int) -> None:
    """The highest classes of each level, indented as the tree is."""
    table = Table("level", "class", "score", "", title=escape(study), title_justify="left")
    for level, scores in enumerate(output.probabilities(), start=1):
        order = scores[0].argsort(descending=True)[:top].tolist()
        for rank, place in enumerate(order):
            item, score = taxonomy.classes(level)[place], float(scores[0, place])
            name = taxonomy.level_names[level - 1] if rank == 0 else ""
            table.add_row(escape(name), escape(item.name), f"{score:.3f}", "█" * round(20 * score))
        table.add_section()
    Console(highlight=False).print(table)


class Look(NamedTuple):
    """One map of one level."""

    kind: str
    """A key of LOOKED."""
    level: int
    title: str
    map: Tensor
    """(d, h, w) on the host."""
    ends: tuple[str, str]
    """What its high and low values mean."""


def looks(model: Diagnoser, volumes: Tensor, output: HP2LOutput) -> Iterator[Look]:
    """The prompt's maps, then those of Grad-CAM, as far as head and encoder have them."""
    for level, found in enumerate(prompt_maps(output, model.config.blocks), start=1):
        yield Look("prompt", level, "where the prompt looked", found[0], ("more than even", "less"))
    if isinstance(model.encoder, ChannelEncoder):
        cam = GradCAM(model, volumes.to(model.encoder.device), [len(volumes)])
        for level, logits in enumerate(output.logits, start=1):
            yield Look("grad_cam", level, "Grad-CAM", cam.map(level, int(logits[0].argmax()))[0].cpu(), ("raises it", ""))


def write_looks(
    model: Diagnoser, store: Store, record: StudyRecord, volumes: Tensor, output: HP2LOutput, out: Path, base: Path | None
) -> list[str]:
    """`levels.png`, and for each level and kind of map a picture and a NIfTI file (of 2-D images `image.png`); returns notes."""
    out.mkdir(parents=True, exist_ok=True)
    warning = SIMULATED if model.facts.get("simulated") else ""
    draw_levels(output, model.taxonomy, out / "levels.png", record.study_id, warning)
    found = list(looks(model, volumes, output))
    if not found:
        return [
            f"no maps: a head of kind {model.config.kind} has no prompt that looks at the image (`hlip explain` asks the encoder)"
        ]
    if model.encoder.kind == "image":
        return write_image(model, record, volumes, output, found, out)
    return write_volumes(model, store, record, output, found, out, base)


def best_class(taxonomy: Taxonomy, output: HP2LOutput, level: int) -> str:
    """Name of the highest class."""
    return taxonomy.levels[level - 1][int(output.logits[level - 1][0].argmax())]


def write_volumes(
    model: Diagnoser, store: Store, record: StudyRecord, output: HP2LOutput, found: list[Look], out: Path, base: Path | None
) -> list[str]:
    """`level_1_prompt.png`, `level_1_prompt.nii.gz`, ...: the map on every scan that was read, and in the first one's own grid."""
    own = [place for place in model.encoder.reader.places(record) if place is not None] or list(range(len(record.sequences)))
    voxels, affines = store.volumes(record.study_id, own)[:, 0].numpy(), store.affines(record.study_id)[own]
    sources, notes = originals(store, record, base), []
    warning = SIMULATED if model.facts.get("simulated") else ""
    for look in found:
        values = look.map.numpy()
        scans = [
            ScanEvidence(record.sequences[place] or "scan", scan, values, affine)
            for place, scan, affine in zip(own, voxels, affines, strict=True)
        ]
        name = model.taxonomy.level_names[look.level - 1]
        title = f"level {look.level} ({name}), highest: {best_class(model.taxonomy, output, look.level)}. {look.title}"
        montage(scans, out / f"level_{look.level}_{look.kind}.png", title, warning, ends=look.ends)
        write_nifti(scans[0], out / f"level_{look.level}_{look.kind}.nii.gz", sources.get(own[0]))
    if own[0] not in sources:
        notes.append("NIfTI maps are in the prepared volume's grid; the original is not at hand")
    return notes + [LOOKED[kind] for kind in dict.fromkeys(look.kind for look in found)]


def write_image(
    model: Diagnoser, record: StudyRecord, volumes: Tensor, output: HP2LOutput, found: list[Look], out: Path
) -> list[str]:
    """`image.png`: the image and its maps, a row a kind, a column a level."""
    rows: dict[str, list[tuple[str, Tensor]]] = {}
    for look in found:
        shown = look.map[0] if look.kind == "grad_cam" else look.map[0].exp2()
        caption = f"level {look.level}: {best_class(model.taxonomy, output, look.level)}"
        rows.setdefault(look.title, []).append((caption, shown))
    pixels = rearrange(volumes, "c 1 1 H W -> H W c").cpu().numpy()
    draw_image(pixels, rows, out / "image.png", record.study_id)
    return [LOOKED[kind] for kind in dict.fromkeys(look.kind for look in found)]
