"""Zero-shot protocols as data: classes, phrases, templates, and the tasks they are measured by.

A protocol is a YAML file (`configs/protocol`). Its tasks are of four kinds:
- `each`      a study may have any of the classes; each class ranks the studies by its own similarity
- `presence`  two phrases a class, absent and present; the score is the softmax over the pair
- `pairs`     each class against the class `against`, among studies that are one of the two; softmax over the pair
- `choice`    one of the classes; softmax over them, among studies that are one of them

Thresholds never come from the labels: a class is called at one half, a choice by the largest score. Classes without a positive or
without a negative study are named, and left out of every mean: calling none of a class that nobody has is no success. The official
means of accuracies count such classes. Source of the public protocols: HLIP's evaluation (arXiv 2505.21862).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from sklearn.metrics import balanced_accuracy_score, f1_score
from torch import Tensor

from hlip.files.resources import find
from hlip.metrics import Ranking, interval, macro, patient_bootstrap
from hlip.model import HLIP
from hlip.zeroshot import PromptSet, embed_classes

Kind = Literal["each", "presence", "pairs", "choice"]
Floats = NDArray[np.float64]


class ProtocolError(ValueError):
    """A protocol file, or labels for it, cannot be used; the message names the file and what is wrong."""


@dataclass(frozen=True)
class ProtocolClass:
    """One class: its column in the labels, and its words."""

    phrase: str
    column: str = ""
    """Name in the labels; the phrase itself by default."""
    absent: str = ""
    """The phrase of its absence, for `presence`."""
    prefix: str | None = None
    """Replaces the prompt set's prefix."""

    @property
    def name(self) -> str:
        return self.column or self.phrase


@dataclass(frozen=True)
class Task:
    """What is measured."""

    name: str
    kind: Kind
    classes: tuple[str, ...]
    against: str = ""
    """The other class of `pairs`."""
    studies: str = ""
    """Only studies whose id matches this pattern (`*brats*`); all by default."""


@dataclass(frozen=True)
class Protocol:
    """Classes, prompts and tasks."""

    title: str
    prompts: PromptSet
    classes: tuple[ProtocolClass, ...]
    tasks: tuple[Task, ...]

    @property
    def columns(self) -> list[str]:
        """Names of the classes in the labels, K of them."""
        return [c.name for c in self.classes]

    @classmethod
    def load(cls, name_or_path: str | Path) -> Protocol:
        """A built-in protocol (pub_brain_5, rsna, cq500, ct_rate, rad_chestct, mri_74, head_ct_82) or a YAML file.

        Raises:
            ProtocolError: not a protocol; the message names the file and the fault.
        """
        path = find("protocol", name_or_path)
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
            prompts = content["prompts"]
            if isinstance(prompts, Mapping):
                prompt_set = PromptSet(path.stem, str(prompts["prefix"]), tuple(prompts["templates"]))
            else:
                prompt_set = PromptSet.load(prompts)
            classes = tuple(ProtocolClass(**entry) for entry in content["classes"])
            names = tuple(c.name for c in classes)
            tasks = tuple(Task(name, **({"classes": names} | entry)) for name, entry in content["tasks"].items())
            protocol = cls(
                str(content["title"]), prompt_set, classes, tuple(replace(t, classes=tuple(t.classes)) for t in tasks)
            )
        except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
            raise ProtocolError(f"{path}: not a protocol (expected title, prompts, classes, tasks): {error!r}") from error
        if faults := protocol._faults():
            raise ProtocolError(f"{path}: " + "; ".join(faults))
        return protocol

    def _faults(self) -> list[str]:
        faults = []
        names = set(self.columns)
        if len(names) < len(self.classes):
            faults.append("a class stands twice")
        for task in self.tasks:
            if task.kind not in get_args(Kind):
                faults.append(f"task {task.name}: kind '{task.kind}' is not one of {', '.join(get_args(Kind))}")
            if unknown := sorted({*task.classes, *([task.against] if task.against else [])} - names):
                faults.append(f"task {task.name}: no class {', '.join(unknown)}")
            if (task.kind == "pairs") != bool(task.against):
                faults.append(f"task {task.name}: 'against' belongs to kind pairs, and pairs needs it")
            if task.kind == "presence" and not all(c.absent for c in self.classes if c.name in task.classes):
                faults.append(f"task {task.name}: kind presence needs an absent phrase for each class")
        return faults


@torch.no_grad()
def protocol_logits(model: HLIP, protocol: Protocol, study: Tensor) -> Floats:
    """(N, E) unit-length sentence features -> (N, K, 2) float64: temperature x cosine with the absent and the present phrase
    (absent is NaN where a class has none)."""
    scale = float(model.logit_scale_sentence.detach().exp())
    out = np.full((len(study), len(protocol.classes), 2), np.nan)
    for side in (0, 1):
        words = [(c.absent, c.phrase)[side] for c in protocol.classes]
        for prefix in {c.prefix for c in protocol.classes}:
            which = [k for k, c in enumerate(protocol.classes) if c.prefix == prefix and words[k]]
            if which:
                prompts = protocol.prompts if prefix is None else replace(protocol.prompts, prefix=prefix)
                embedded = embed_classes(model, [[words[k]] for k in which], prompts).cpu()
                out[:, which, side] = (scale * study.float() @ embedded.T).numpy()
    return out


def evaluate_protocol(
    protocol: Protocol,
    logits: Floats,
    targets: NDArray[Any],
    study_ids: Sequence[str],
    patient_ids: Sequence[str] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """Every task's metrics.

    Args:
        protocol: the tasks.
        logits: (N, K, 2) of `protocol_logits`, or (N, K) of the present phrases alone.
        targets: (N, K) 1 present, 0 absent.
        study_ids: (N,) for tasks that look at some studies only.
        patient_ids: (N,), for intervals; each study its own patient by default.
        resamples: of the bootstrap over patients; 0 leaves the intervals out.
        seed: of the bootstrap.

    Returns:
        task -> {`auc` {value, low, high}, `balanced_accuracy`, `weighted_f1` (None for each), `accuracies_of`, `studies`, `left_out`
        [classes without a positive or a negative study], `classes` {name: {`auc`, `low`, `high`, `positives`, `studies`,
        `balanced_accuracy`, `weighted_f1`}}}. AUC of a task is the mean over its classes less those left out, and so are the accuracies
        where `accuracies_of` is mean; where it is choice they are those of the choice among all of the task's classes.
    """
    logits = logits if logits.ndim == 3 else np.stack([np.full_like(logits, np.nan), logits], axis=-1)
    patients = list(patient_ids) if patient_ids is not None else list(study_ids)
    blocks = list(patient_bootstrap(patients, resamples, seed)) if resamples else []
    draws = np.concatenate(blocks, axis=1) if blocks else np.zeros((len(patients), 0), np.float32)
    return {
        task.name: _task(task, protocol.columns, logits, np.asarray(targets) > 0, study_ids, draws) for task in protocol.tasks
    }


def _task(
    task: Task,
    columns: list[str],
    logits: Floats,
    targets: NDArray[np.bool_],
    study_ids: Sequence[str],
    draws: NDArray[np.float32],
) -> dict[str, Any]:
    places = [columns.index(name) for name in task.classes]
    chosen = np.array([not task.studies or fnmatch(name, task.studies) for name in study_ids], dtype=bool)
    if task.kind == "choice":
        chosen &= targets[:, places].sum(axis=1) == 1
    classes: dict[str, dict[str, Any]] = {}
    samples = []
    used: set[int] = set()
    for name, place in zip(task.classes, places, strict=True):
        rows, score = _scores(task, columns, places, place, logits, targets, chosen)
        truth = targets[rows, place]
        used.update(rows.tolist())
        classes[name], resampled = _class(truth, score, draws[rows], called=task.kind != "each")
        samples.append(resampled)
    areas = [entry["auc"] for entry in classes.values()]
    low, high = interval(macro(np.stack(samples))) if draws.shape[1] else (math.nan, math.nan)
    result: dict[str, Any] = {
        "auc": {"value": float(macro(np.array(areas))), "low": low, "high": high},
        "studies": len(used),
        "left_out": [name for name, entry in classes.items() if math.isnan(entry["auc"])],
        "balanced_accuracy": _mean(classes, "balanced_accuracy"),
        "weighted_f1": _mean(classes, "weighted_f1"),
        "accuracies_of": "mean",
        "classes": classes,
    }
    if task.kind == "choice" and chosen.any():
        truth = targets[chosen][:, places].argmax(axis=1)
        called = logits[chosen][:, places, 1].argmax(axis=1)
        result |= {
            "balanced_accuracy": _balanced(truth, called),
            "weighted_f1": float(f1_score(truth, called, average="weighted")),
            "accuracies_of": "choice",
        }
    return result


def _scores(
    task: Task,
    columns: list[str],
    places: list[int],
    place: int,
    logits: Floats,
    targets: NDArray[np.bool_],
    chosen: NDArray[np.bool_],
) -> tuple[NDArray[np.intp], Floats]:
    """Rows of the studies a class is measured on, and their scores."""
    if task.kind == "pairs":
        other = columns.index(task.against)
        rows = np.flatnonzero(chosen & (targets[:, place] ^ targets[:, other]))
        return rows, softmax(logits[rows][:, [other, place], 1])[:, 1]
    rows = np.flatnonzero(chosen)
    if task.kind == "choice":
        return rows, softmax(logits[rows][:, places, 1])[:, places.index(place)]
    if task.kind == "presence":
        return rows, softmax(logits[rows, place])[:, 1]
    return rows, logits[rows, place, 1]


def softmax(logits: Floats) -> Floats:
    """Over the last axis, in float32 as the official evaluation does it: scores that round to the same value are ties."""
    return torch.from_numpy(np.ascontiguousarray(logits)).float().softmax(dim=-1).double().numpy()


def _class(truth: NDArray[np.bool_], score: Floats, draws: NDArray[np.float32], called: bool) -> tuple[dict[str, Any], Floats]:
    """One class's numbers, and its AUC in each resample (R,)."""
    ranking = Ranking.of(truth, score)
    resampled = ranking.areas(draws)[0]
    low, high = interval(resampled)
    entry: dict[str, Any] = {
        "auc": float(ranking.areas(np.ones((len(truth), 1)))[0][0]),
        "low": low,
        "high": high,
        "positives": int(truth.sum()),
        "studies": len(truth),
        "balanced_accuracy": None,
        "weighted_f1": None,
    }
    if called and len(truth):
        flagged = score >= 0.5
        entry |= {
            "balanced_accuracy": _balanced(truth, flagged),
            "weighted_f1": float(f1_score(truth, flagged, average="weighted")),
        }
    return entry, resampled


def _balanced(truth: NDArray[Any], called: NDArray[Any]) -> float:
    """Mean recall over the classes that occur in the truth."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a class called that never occurs
        return float(balanced_accuracy_score(truth, called))


def _mean(classes: Mapping[str, Mapping[str, Any]], key: str) -> float | None:
    """Over the classes whose AUC is known."""
    values = [entry[key] for entry in classes.values() if entry[key] is not None and not math.isnan(entry["auc"])]
    return float(np.mean(values)) if values else None
