"""`hlip diagnose`: one study through a fine-tuned model, level by level, and where it looked (`looks`)."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from finetune.diagnosis.learnt import NotLearnt, learnt_notes, not_learnt, without
from finetune.diagnosis.looks import chosen_prototypes, prototype_similarity
from finetune.diagnosis.reading import channel_notes, read, read_scans
from finetune.diagnosis.written import write_looks
from hlip.inference.explain import folder_of
from hlip.inference.inputs import SIMULATED, expected_spec, find_study, folder_notes, pick_device, scan_notes, skipped_scans
from hlip.taxonomy import Taxonomy
from hp2l.diagnoser import Diagnoser, load
from hp2l.head import HP2LOutput

MEANING = (
    "score: the level's sigmoid, each class by itself; it ranks studies for a class. It is no diagnosis, and not calibrated: "
    "scores of two classes, or of two levels, cannot be held against one another."
)
SCALED = (
    "probability: the score Platt-scaled on {} validation studies, so that classes can be held against one another; it holds where "
    "diseases are as frequent as there. It is no diagnosis."
)
TIE = 0.001
"""Probabilities that differ by less are the same as printed; a flat Platt slope leaves no more between classes as frequent as one another."""
UNITS = {
    "scores": "sigmoid of each class by itself, 0 to 1, not calibrated: ranks studies for a class, not classes for a study",
    "probabilities": "score after Platt scaling on the validation split, 0 to 1: can be compared between classes",
    "not_learnt": "classes that no training study up to the kept step had: without probability and cosine, their scores say nothing",
    "attention_to_prototypes": "share of the prompt's attention, mean over heads, 1 in all; no prompt reads the last level's prototypes",
    "similarity_to_prototypes": "cosine of the study's class token with the class's prototype, -1 to 1",
}


def diagnose_command(arguments: argparse.Namespace) -> None:
    """Print every level's scores of one study; with --out also pictures and maps."""
    model = load(arguments.finetuned, pick_device(arguments.device))
    with tempfile.TemporaryDirectory() as scratch:
        store, record = find_study(arguments, expected_spec(model.encoder.volume_spec, str(arguments.finetuned)), Path(scratch))
        volumes = read_scans(model, store, record)
        output = read(model, volumes, model.encoder.reader.axes(store, record))
        missing = not_learnt(model)
        likely = without(model.comparable(output.probabilities()), missing)
        notes = scan_notes(store, record.study_id) + folder_notes(store, record.study_id) + channel_notes(model, record)
        notes += [f"skipped: {line}" for line in skipped_scans(store, record.study_id)]
        if arguments.out:
            base = Path(scratch) if store.path.is_relative_to(scratch) else folder_of(arguments.manifest)
            title = titled(Path(arguments.study))
            notes += write_looks(model, store, record, volumes, output, likely, missing, arguments.out, base, title)
            content = json.dumps(described(arguments.study, model, output, likely, missing), indent=2)
            (arguments.out / "scores.json").write_text(content + "\n", encoding="utf-8")
    notes = (
        path_notes(model.taxonomy, likely, scaled_levels(model)) + unscaled_notes(model) + learnt_notes(model, missing) + notes
    )
    if arguments.json:
        print(json.dumps(described(arguments.study, model, output, likely, missing) | {"notes": notes}, indent=2))
        return
    print_levels(arguments.study, model, output, likely, missing, arguments.top)
    for note in notes:
        print(f"  note: {note}")
    print(MEANING if model.scaling is None else SCALED.format(model.scaling.studies))
    if arguments.out:
        print(f"written: {arguments.out}. Maps show where the model looked at a level, not why.")
    if model.facts.get("simulated"):
        print(SIMULATED)


def titled(study: Path) -> str:
    """A study as pictures name it: a file with its folder, which may be all that says whose it is."""
    return "/".join(study.absolute().parts[-2:]) if study.is_file() else study.name


def print_levels(study: str, model: Diagnoser, output: HP2LOutput, likely: list[Tensor], missing: NotLearnt, top: int) -> None:
    """The likeliest learnt classes of each level: (1, K_l) probabilities where the model has them, and raw scores."""
    taxonomy, names = model.taxonomy, ["probability", "score"] if model.scaling else ["score"]
    table = Table("level", "class", *names, "0 to 1", title=escape(study), title_justify="left")
    for level, (scores, values) in enumerate(zip(output.probabilities(), likely, strict=True), start=1):
        ranked = values[0].argsort(descending=True).tolist()
        order = [place for place in ranked if place not in missing[level - 1]][:top]
        for rank, place in enumerate(order):
            name, value = taxonomy.level_names[level - 1] if rank == 0 else "", float(values[0, place])
            numbers = [value, float(scores[0, place])] if model.scaling else [value]
            bar = "█" * round(20 * value) + "·" * (20 - round(20 * value))
            table.add_row(escape(name), escape(taxonomy.classes(level)[place].name), *(f"{x:.3f}" for x in numbers), bar)
        table.add_section()
    Console(highlight=False).print(table)


def unscaled_notes(model: Diagnoser) -> list[str]:
    """Levels of which a checkpoint with probabilities has none."""
    levels = model.scaling.unscaled if model.scaling else []
    return [
        f"level {level} ({model.taxonomy.level_names[level - 1]}): too few labelled validation studies to scale it, its probabilities are the "
        "raw scores"
        for level in levels
    ]


def scaled_levels(model: Diagnoser) -> set[int]:
    """Levels (from 1) that have probabilities."""
    return set(range(1, model.taxonomy.depth + 1)).difference(model.scaling.unscaled) if model.scaling else set()


def path_notes(taxonomy: Taxonomy, likely: list[Tensor], scaled: Collection[int]) -> list[str]:
    """Where a level's highest class does not lie below the highest of its parent's level: every level answers for itself.

    Raw scores cannot be compared between classes, so their highest says nothing, and neither does that of a level whose two highest are as
    good as equal (`TIE`). A level that does not know the normal class says nothing against it.

    Args:
        scaled: levels that have probabilities.
    """
    best = [taxonomy.classes(level)[int(values[0].argmax())] for level, values in enumerate(likely, start=1)]
    ties = {level for level, values in enumerate(likely, start=1) if (values[0] > values[0].max() - TIE).sum() > 1}
    notes = []
    for item in best[1:]:
        if item.parent is None or item.parent_level is None:
            continue
        above = best[item.parent_level - 1]
        if not {item.level, above.level} <= set(scaled) - ties:
            continue
        if above.index != item.parent_index and above.name != taxonomy.normal:
            names = taxonomy.level_names[item.level - 1], taxonomy.level_names[above.level - 1]
            notes.append(
                f"the levels disagree: the highest {names[0]}, {item.name}, does not lie below the highest {names[1]}, {above.name}"
            )
    return notes


def described(study: str, model: Diagnoser, output: HP2LOutput, likely: list[Tensor], missing: NotLearnt) -> dict[str, Any]:
    """Every score and probability, and what the prototypes have to do with it, for other programs; None where nothing was learnt."""
    taxonomy, chosen, near = model.taxonomy, chosen_prototypes(output), prototype_similarity(model.head, output)
    levels = []
    for place, scores in enumerate(output.probabilities()):
        names = taxonomy.levels[place]
        entry: dict[str, Any] = {"level": place + 1, "name": taxonomy.level_names[place]}
        blank = {names[index]: None for index in sorted(missing[place])}
        if blank:
            entry["not_learnt"] = list(blank)
        entry["scores"] = {name: float(score) for name, score in zip(names, scores[0], strict=True)}
        if place + 1 in scaled_levels(model):
            entry["probabilities"] = {name: float(value) for name, value in zip(names, likely[place][0], strict=True)} | blank
        if place < len(chosen):
            entry["attention_to_prototypes"] = {name: float(share) for name, share in zip(names, chosen[place], strict=True)}
        if near:
            cosines = {name: float(cosine) for name, cosine in zip(names, near[place], strict=True)}
            entry["similarity_to_prototypes"] = cosines | blank
        levels.append(entry)
    units = {name: unit for name, unit in UNITS.items() if any(name in entry for entry in levels)}
    return {"study": study, "taxonomy": taxonomy.name, "units": units, "levels": levels}
