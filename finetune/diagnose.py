"""`hlip diagnose`: one study through a fine-tuned model, level by level, and where its prompt looked.

HP2L's prompt reads the image tokens at every level; its attention, averaged over heads, is a map over the study's place (tokens are
means over scans). Each level's map is drawn on every scan and written as NIfTI in the first scan's own grid.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from einops import rearrange, reduce
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from hlip.explain import originals, scan_evidence
from hlip.inputs import SIMULATED, expected_spec, find_study, folder_notes, pick_device, scan_notes, skipped_scans
from hlip.overlay import ScanEvidence, montage, write_nifti
from hlip.store import Store, StudyRecord
from hlip.taxonomy import Taxonomy
from hp2l.diagnoser import Diagnoser, load
from hp2l.head import HP2LOutput

MEANING = (
    "score: the level's sigmoid, each class by itself; it ranks studies for a class. It is no diagnosis, and not calibrated."
)
LOOKED = (
    "Maps: how the prompt attends to each place, against an even look at all of them (0 is even). They show where the model looked at a "
    "level, not why."
)


def diagnose_command(arguments: argparse.Namespace) -> None:
    """Print every level's scores of one study; with --out also the prompt's maps."""
    model = load(arguments.finetuned, pick_device(arguments.device))
    with tempfile.TemporaryDirectory() as scratch:
        store, record = find_study(arguments, expected_spec(model.encoder.volume_spec, str(arguments.finetuned)), Path(scratch))
        volumes = store.volumes(record.study_id)
        output = read(model, volumes)
        notes = scan_notes(store, record.study_id) + folder_notes(store, record.study_id)
        notes += [f"skipped: {line}" for line in skipped_scans(store, record.study_id)]
        if arguments.out:
            base = Path(scratch) if store.path.is_relative_to(scratch) else None
            notes += write_attention(model, store, record, volumes, output, arguments.out, base)
    print_levels(arguments.study, model.taxonomy, output, arguments.top)
    for note in notes:
        print(f"  note: {note}")
    print(MEANING)
    if arguments.out:
        print(f"written: {arguments.out}\n{LOOKED}")
    if model.facts.get("simulated"):
        print(SIMULATED)


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


def write_attention(
    model: Diagnoser,
    store: Store,
    record: StudyRecord,
    volumes: Tensor,
    output: HP2LOutput,
    out: Path,
    base: Path | None,
) -> list[str]:
    """`level_1_prompt.png` and `level_1_prompt.nii.gz`, ...; returns notes.

    Raises:
        ValueError: the head has no prompt.
    """
    maps = prompt_maps(model, output)
    if not maps:
        raise ValueError(f"--out: a head of kind {model.config.kind} has no prompt that looks at the image; leave --out out")
    out.mkdir(parents=True, exist_ok=True)
    sources, notes = originals(store, record, base), []
    warning = SIMULATED if model.facts.get("simulated") else ""
    for level, (name, looked) in enumerate(zip(model.taxonomy.level_names, maps, strict=True), start=1):
        scans = scan_evidence(store, record, volumes, looked.expand(len(volumes), -1, -1, -1))
        place = int(output.logits[level - 1][0].argmax())
        best = model.taxonomy.classes(level)[place].name
        montage(
            scans,
            out / f"level_{level}_prompt.png",
            f"level {level} ({name}), highest: {best}. Where the prompt looked",
            warning,
        )
        first: ScanEvidence = scans[0]
        write_nifti(first, out / f"level_{level}_prompt.nii.gz", sources.get(0))
    if 0 not in sources:
        notes.append("NIfTI maps are in the prepared volume's grid; the original is not at hand")
    return notes


def prompt_maps(model: Diagnoser, output: HP2LOutput) -> list[Tensor]:
    """(1, d, h, w) of each level: log2 of the prompt's attention over an even look, mean over heads; empty without a prompt."""
    d, h, w = model.config.blocks
    maps = []
    for attention in output.prompt_attention or []:
        looked = reduce(attention, "1 heads N -> N", "mean").float().cpu()
        even = looked.sum() / (d * h * w)
        maps.append(rearrange((looked / even).clamp(min=2**-6).log2(), "(d h w) -> 1 d h w", d=d, h=h, w=w))
    return maps
