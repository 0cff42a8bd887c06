"""One run of an experiment: trained as the verb of fine-tuning does it, then scored.

A run is finished when its `result.json` is there; it is written last, beside `scores.npz` (val and test scores of every level).
"""

from __future__ import annotations

import json
import math
import shutil
import traceback
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from textwrap import shorten
from typing import Any, cast

import numpy as np
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from numpy.typing import NDArray

from finetune.cohort import cohort, fitted, labelled
from finetune.experiments.plan import Job, Setting
from finetune.tokens import encode, encode_once, probabilities
from finetune.train import main as finetune
from hlip.store import Store, StudyRecord
from hp2l.diagnoser import Diagnoser, load
from hp2l.encoders import make_encoder
from hp2l.tokens import Tokens

Scored = dict[str, list[NDArray[np.float64]]]
"""Split -> scores (N, K_l) of each level."""
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def is_finished(job: Job, setting: Setting, seed: int) -> bool:
    """Whether a run and its scores are there."""
    return (job.folder(setting, seed) / "result.json").is_file()


def is_frozen(job: Job) -> bool:
    """Whether a run's encoder stays as it is, so that its tokens serve all."""
    return job.config.tuning.encoder == "frozen"


def encode_all(job: Job, setting: Setting) -> None:
    """The tokens of all three splits, before the first run: the only slow part that every run shares."""
    config, store = job.config, Store(setting.store)
    encoder = make_encoder(config.encoder, config.cnn, config.image, store.spec)
    model = Diagnoser(encoder, config.head, job.tree).to(DEVICE).eval()
    for split, records in _asked(model, job, store).items():
        _tokens(model, job, store, split, records)


def _tokens(model: Diagnoser, job: Job, store: Store, split: str, records: Sequence[StudyRecord]) -> Tokens:
    config = job.config
    if config.tokens is None or not is_frozen(job):
        return encode(model, store, records, config.encode_batch)
    return encode_once(model, store, records, config.tokens, split, config.encode_batch, config.precision, True)


def _asked(model: Diagnoser, job: Job, store: Store) -> dict[str, list[StudyRecord]]:
    """The labelled studies of train, val and test of which the encoder reads anything."""
    found = cohort(store, job.config.cohort, job.tree) | {"test": fitted(labelled(store, "test"), job.config.cohort, job.tree)}
    return {split: [record for record in records if model.encoder.reader.reads(record)] for split, records in found.items()}


def attempt(job: Job, setting: Setting, seed: int) -> str | None:
    """`train`, and where that fails what went wrong, in one line; the traceback is in the run's log.

    Raises:
        KeyboardInterrupt: the run was told to stop.
    """
    try:
        train(job, setting, seed)
    except (SystemExit, Exception) as error:  # one variant's fault must not cost the others their hours
        with (job.folder(setting, seed) / "log.txt").open("a", encoding="utf-8") as log:
            traceback.print_exc(file=log)
        lines = [line.strip() for line in str(error).splitlines() if line.strip() and "HLIP_TRACEBACK" not in line]
        return shorten(": ".join(lines[:2]), LONGEST, placeholder=" ...") or type(error).__name__
    return None


LONGEST = 400
"""Characters of a failure's reason; its first two lines, since the second often names what the first counts."""


def train(job: Job, setting: Setting, seed: int) -> None:
    """One run: fine-tuning as the verb does it, its words in RUN/log.txt; then the scores. Its resumable states go when it is done.

    Raises:
        KeyboardInterrupt: it was told to stop; it is finished, or saved its state and goes on from there when it is called again.
    """
    folder = job.folder(setting, seed)
    folder.mkdir(parents=True, exist_ok=True)
    job.write_tree(setting)
    forget_engine()
    with (folder / "log.txt").open("a", encoding="utf-8") as log, redirect_stdout(log), redirect_stderr(log):
        finished = finetune([*job.arguments, "--out", str(folder), "--seed", str(seed)], watched=False)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    if rows[-1]["step"] < job.config.steps:
        raise KeyboardInterrupt
    model, store = load(folder, DEVICE), Store(setting.store)
    asked = {split: records for split, records in _asked(model, job, store).items() if split != "train"}
    tokens = {split: _tokens(model, job, store, split, records) for split, records in asked.items()}
    scores = {split: probabilities(model, own) for split, own in tokens.items()}
    arrays = {f"{split}_{level}": table for split, levels in scores.items() for level, table in enumerate(levels, start=1)}
    arrays |= {f"{split}_studies": np.array([record.study_id for record in records]) for split, records in asked.items()}
    np.savez_compressed(folder / "scores.npz", **cast(dict[str, Any], arrays))
    facts = {key: value for key, value in model.facts.items() if key == "step" or key.startswith("val_auc")}
    trained = sum(parameter.numel() for parameter in model.head.parameters() if parameter.requires_grad)
    losses = [row["loss"] for row in rows if "loss" in row]
    facts |= {"seconds": rows[-1]["seconds"], "steps": job.config.steps, "parameters": trained, "loss": losses[-1]}
    if job.config.head.kind == "hp2l" and job.config.head.prototypes != "none":
        facts["prompt_evenness"] = prompt_evenness(model, tokens["val"])
    (folder / "result.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    if not finished:
        raise KeyboardInterrupt  # told in its last step: it is done, those that follow are not


def forget_engine() -> None:
    """accelerate keeps precision and gradients' state in singletons: a run begins without those of the run before it."""
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


@torch.no_grad()
def prompt_evenness(model: Diagnoser, tokens: Tokens) -> float | None:
    """Entropy of the prompt's attention over prototypes as a share of an even look's, 0 to 1: mean over studies, heads and levels; None
    of a head without such attention."""
    parts = []
    for first in range(0, len(tokens.cls), 256):
        batch = Tokens(*(part[first : first + 256].to(model.encoder.device) for part in tokens))
        found = model.eval()(batch, return_attention=True).prototype_attention or []
        rows = [attention.double().cpu() for attention in found if attention.shape[-1] > 1]
        parts.append([torch.special.entr(row).sum(dim=-1) / math.log(row.shape[-1]) for row in rows])
    levels = [torch.cat(level).mean() for level in zip(*parts, strict=True)]
    return float(torch.stack(levels).mean()) if levels else None


def scored_studies(folder: Path, job: Job, store: Store) -> dict[str, list[StudyRecord]]:
    """The studies of `scores.npz`, in its order; of a run from before they were named all that are labelled."""
    with np.load(folder / "scores.npz") as arrays:
        if "test_studies" in arrays:
            named = {split: [store.record(str(name)) for name in arrays[f"{split}_studies"]] for split in ("val", "test")}
            return {split: fitted(records, job.config.cohort, job.tree) for split, records in named.items()}
    return {"val": cohort(store, job.config.cohort, job.tree)["val"], "test": labelled(store, "test")}


def read_scores(folder: Path, job: Job) -> Scored:
    """`scores.npz` of a finished run."""
    with np.load(folder / "scores.npz") as arrays:
        levels = range(1, job.tree.depth + 1)
        return {split: [arrays[f"{split}_{level}"] for level in levels] for split in ("val", "test")}
