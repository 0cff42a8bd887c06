"""What a run leaves of itself: the whole diagnoser with its facts, its AUC of every class, and what a step was made of that went wrong."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from finetune.cohort import Labels
from finetune.settings import FinetuneConfig
from finetune.tuning import merged
from hlip.files.jsonable import jsonable
from hlip.metrics import class_aucs
from hlip.store import StudyRecord
from hlip.taxonomy import Taxonomy
from hp2l.diagnoser import Diagnoser
from hp2l.encoders import Encoder
from hp2l.long_tail import classes_without_positives, count_labels

State = dict[str, Tensor]
CLASSES = "validation.csv"


def parted(state: State, visual: nn.Module) -> tuple[State, State]:
    """The gathered weights of a trained encoder with its head: those of the encoder under their own names (low-rank additions
    merged, see `merged`), and the head's.

    Args:
        state: of `finetune.tuning.Tuned`.
        visual: its trunk.
    """
    own: dict[str, State] = {"visual.": {}, "head.": {}}
    for start, part in own.items():
        part |= {name.removeprefix(start): value for name, value in state.items() if name.startswith(start)}
    return merged(visual, own["visual."]), own["head."]


def rebuilt(fresh: Encoder, visual: State, config: FinetuneConfig, taxonomy: Taxonomy) -> Diagnoser:
    """A diagnoser on a fresh encoder that takes these weights: the one in training stays as the engine has it."""
    fresh.visual.load_state_dict(visual)
    return Diagnoser(fresh, config.head, taxonomy)


def facts(
    config: FinetuneConfig,
    records: Sequence[StudyRecord],
    learnt: Labels,
    taxonomy: Taxonomy,
    step: int,
    values: Mapping[str, float],
) -> dict[str, object]:
    """What a checkpoint says of itself; an AUC that is not defined is None.

    Args:
        records, learnt: of the training studies.
        values: of the validation at this step.
    """
    positives, _ = count_labels(learnt.targets, learnt.known)
    return {
        "step": step,
        "kind": "finetune",
        "studies": len(records),
        "simulated": all(record.extra.get("simulated") is True for record in records),
        "tuned": config.tuning.encoder,
        "fraction": config.cohort.fraction,
        "head": config.head.kind,
        "seed": config.seed,
        "without_training_studies": classes_without_positives(taxonomy, positives),
        **jsonable(dict(values)),
    }


def write_classes(run: Path, scores: Sequence[Tensor], labels: Labels, taxonomy: Taxonomy) -> None:
    """RUN/validation.csv: of every class of every level its positive and negative validation studies, as far as they are known, and the
    kept model's AUC, empty without both.

    Args:
        scores: (N, K_l) of each level.
        labels: of the same studies.
    """
    partial = run / f".{CLASSES}"
    with partial.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["level", "class", "positives", "negatives", "auc"])
        for level, values in enumerate(scores, start=1):
            truth, known = labels.targets[level - 1].cpu().numpy() > 0.5, labels.known[level - 1].cpu().numpy() > 0.5
            areas = class_aucs(truth, known, values.float().cpu().numpy())
            counts = (truth & known).sum(axis=0), (~truth & known).sum(axis=0)
            for name, positives, negatives, area in zip(taxonomy.levels[level - 1], *counts, areas, strict=True):
                table.writerow([level, name, positives, negatives, "" if math.isnan(area) else round(float(area), 6)])
    os.replace(partial, run / CLASSES)


def write_bad_step(run: Path, step: int, studies: Sequence[str], parts: Mapping[str, Tensor], kept: Sequence[Path]) -> str:
    """Write `bad_step.json` of a step whose loss is not finite, and say what to do.

    Args:
        studies: ids of the step's.
        parts: of the loss.
        kept: checkpoints that there are.
    """
    content = {"step": step, "studies": list(studies)} | {name: str(float(value.detach())) for name, value in parts.items()}
    (run / "bad_step.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    state = f"the last good checkpoint is {kept[-1].name}" if kept else "no checkpoint was written yet"
    remedy = "Lower --optimizer.lr, or look at its studies, which bad_step.json names"
    return f"{run}, step {step}: the loss is {content['loss']}; {state}. {remedy}"
