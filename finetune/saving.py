"""What a run leaves of itself: the whole diagnoser with its facts, and what a step was made of that went wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from finetune.cohort import Labels
from finetune.settings import FinetuneConfig
from finetune.tuning import merged
from hlip.files.jsonable import jsonable
from hlip.store import StudyRecord
from hlip.taxonomy import Taxonomy
from hp2l.diagnoser import Diagnoser
from hp2l.encoders import Encoder
from hp2l.long_tail import classes_without_positives, count_labels

State = dict[str, Tensor]


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


def rebuilt(encoder: Callable[[], Encoder], visual: State, config: FinetuneConfig, taxonomy: Taxonomy) -> Diagnoser:
    """A diagnoser on a fresh encoder with trained weights: the one in training stays as the engine has it."""
    fresh = encoder()
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
