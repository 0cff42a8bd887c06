"""Train what is not trained yet, score it, and hand everything to the page.

A run is finished when its `result.json` is there; it is written last, beside `scores.npz` (val and test scores of every level).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import time
import traceback
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from finetune.cohort import cohort, labelled
from finetune.experiments.measures import Measured, Test, measure
from finetune.experiments.page import write
from finetune.experiments.plan import (
    Experiment,
    ExperimentError,
    Job,
    Setting,
    Variant,
    experiment_names,
    experiments,
    jobs,
    make_job,
    parse_overrides,
    suited,
)
from finetune.experiments.verdict import summarise
from finetune.tokens import encode, encode_once
from finetune.train import main as finetune
from hlip.model import checkpoint_folder
from hlip.store import Store
from hlip.taxonomy import Taxonomy
from hlip.training.engine import share_cores
from hp2l.diagnoser import Diagnoser, load
from hp2l.encoders import FRESH, make_encoder
from hp2l.tokens import Tokens

Scored = dict[str, list[NDArray[np.float64]]]
"""Split -> scores (N, K_l) of each level."""


def run(arguments: argparse.Namespace) -> None:
    """The command: plan, train, score, write the page."""
    if arguments.seeds < 1:
        raise ValueError(f"--seeds {arguments.seeds}: at least one run of each variant is needed")
    data = data_digest(arguments.encoder, arguments.store)
    where = (arguments.encoder, arguments.store, arguments.out, arguments.config)
    more = {"taxonomy": arguments.taxonomy, "overrides": parse_overrides(arguments.override)}
    setting = Setting(*where, steps=arguments.steps, threads=arguments.threads, data=data, **more)
    found, sentences = suited(experiments(arguments.only, arguments.variants), setting)
    print("\n".join(sentences), end="\n" if sentences else "")
    if not found:
        raise ExperimentError("no experiment is left to run")
    distinct, places = jobs(found, setting)
    print(f"{len(found)} experiments, {len(places)} variants, {len(distinct)} of them distinct, {arguments.seeds} seeds each")
    if arguments.plan:
        for job in distinct.values():
            print(f"{job.key}  {job.label}")
        return
    share_cores(setting.threads)
    failed = train_all(list(distinct.values()), setting, arguments.seeds)
    shown = on_page(found, setting, arguments.seeds)
    report(shown, setting, arguments.seeds, arguments.resamples, failed, sentences)
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(distinct)} variants failed; the page names them")


def on_page(found: Sequence[Experiment], setting: Setting, seeds: int) -> list[Experiment]:
    """Every built-in experiment whose runs are all finished, whole, whatever part of it was asked for; and those asked for."""
    asked = {experiment.name: experiment for experiment in found}
    taken = {experiment.name for experiment in found if not experiment.built_in}
    shown = []
    for name in experiment_names():
        if name not in taken and (whole := finished(name, setting, seeds)):
            shown.append(whole)
        elif name in asked and name not in taken:
            shown.append(asked[name])
    return shown + [experiment for experiment in found if not experiment.built_in]


def finished(name: str, setting: Setting, seeds: int) -> Experiment | None:
    """A built-in experiment, if every run of it is there."""
    try:
        with redirect_stderr(StringIO()):  # a variant that this setting does not allow has no runs, and nobody asked for it
            kept, _ = suited([Experiment.load(name)], setting)
            runs = (make_job(variant, setting) for experiment in kept for variant in experiment.variants)
            there = all(is_finished(job, setting, seed) for job in runs for seed in range(seeds))
    except (SystemExit, ValueError):
        return None
    return kept[0] if kept and there else None


def data_digest(encoder: Path, store: Path) -> str:
    """16 hex digits of the encoder's checkpoint (if it comes from one), the store's studies and their preparation."""
    digest = hashlib.sha256(Store(store).spec.digest().encode())
    weights = [] if str(encoder) in FRESH else [checkpoint_folder(encoder) / "model.safetensors"]
    for path in (*weights, store / "index.jsonl"):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def train_all(todo: Sequence[Job], setting: Setting, seeds: int) -> dict[str, str]:
    """Every job with every seed, seed by seed, so that an early look has all variants. Returns key -> what went wrong.

    Raises:
        KeyboardInterrupt: a run was told to stop; it saved its state, and the same command goes on from there.
    """
    failed: dict[str, str] = {}
    waiting = [(job, seed) for seed in range(seeds) for job in todo if not is_finished(job, setting, seed)]
    if done := len(todo) * seeds - len(waiting):
        print(f"{done} of {len(todo) * seeds} runs are there already")
    if waiting and is_frozen(waiting[0][0]):
        encode_all(waiting[0][0], setting)
    began = time.perf_counter()
    for number, (job, seed) in enumerate(waiting):
        if job.key in failed:
            continue
        spent = time.perf_counter() - began
        left = f", about {_time(spent / number * (len(waiting) - number))} left" if number else ""
        print(f"run {number + 1} of {len(waiting)}: {job.label}, seed {seed}{left}", flush=True)
        try:
            train(job, setting, seed)
        except (
            SystemExit,
            Exception,
        ) as error:  # one variant's fault must not cost the others their hours; it is named on the page
            failed[job.key] = (str(error).splitlines() or [type(error).__name__])[0]
            with (job.folder(setting, seed) / "log.txt").open("a", encoding="utf-8") as log:
                traceback.print_exc(file=log)
            print(f"  failed: {failed[job.key]}", flush=True)
    return failed


def _time(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def is_finished(job: Job, setting: Setting, seed: int) -> bool:
    """Whether a run and its scores are there."""
    return (job.folder(setting, seed) / "result.json").is_file()


def is_frozen(job: Job) -> bool:
    """Whether a run's encoder stays as it is, so that its tokens serve all."""
    return job.config.tuning.encoder == "frozen"


def encode_all(job: Job, setting: Setting) -> None:
    """The tokens of all three splits, before the first run: the only slow part that every run shares."""
    config = job.config
    encoder = make_encoder(config.encoder, config.cnn, config.image, Store(setting.store).spec)
    model = Diagnoser(encoder, config.head, job.tree).eval()
    for split in ("train", "val", "test"):
        _tokens(model, job, setting, split)


def _tokens(model: Diagnoser, job: Job, setting: Setting, split: str) -> Tokens:
    store, config = Store(setting.store), job.config
    records = labelled(store, "test") if split == "test" else cohort(store, config.cohort, job.tree)[split]
    if not is_frozen(job):
        return encode(model, store, records, config.encode_batch)
    return encode_once(model, store, records, setting.out / "tokens", split, config.encode_batch, config.precision, True)


def train(job: Job, setting: Setting, seed: int) -> None:
    """One run: fine-tuning as the verb does it, its words in RUN/log.txt; then the scores. Its resumable states go when it is done."""
    folder = job.folder(setting, seed)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("a", encoding="utf-8") as log, redirect_stdout(log):
        finetune([*job.arguments, "--out", str(folder), "--seed", str(seed)])
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    if rows[-1]["step"] < job.config.steps:
        raise KeyboardInterrupt
    model = load(folder)
    scores = score(model, job, setting)
    arrays = {f"{split}_{level}": table for split, levels in scores.items() for level, table in enumerate(levels, start=1)}
    np.savez_compressed(folder / "scores.npz", **cast(dict[str, Any], arrays))
    facts = {key: value for key, value in model.facts.items() if key == "step" or key.startswith("val_auc")}
    trained = sum(parameter.numel() for parameter in model.head.parameters() if parameter.requires_grad)
    losses = [row["loss"] for row in rows if "loss" in row]
    facts |= {"seconds": rows[-1]["seconds"], "steps": job.config.steps, "parameters": trained, "loss": losses[-1]}
    (folder / "result.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


@torch.no_grad()
def score(model: Diagnoser, job: Job, setting: Setting) -> Scored:
    """What a trained model says of the validation and the test studies, from cached tokens where its encoder stayed as it was."""
    found: Scored = {}
    for split in ("val", "test"):
        tokens = _tokens(model, job, setting, split)
        parts = []
        for first in range(0, len(tokens.cls), 256):
            batch = Tokens(*(part[first : first + 256] for part in tokens))
            parts.append([level.numpy().astype(np.float64) for level in model(batch).probabilities()])
        found[split] = [np.concatenate(level) for level in zip(*parts, strict=True)]
    return found


def report(
    found: Sequence[Experiment],
    setting: Setting,
    seeds: int,
    resamples: int,
    failed: dict[str, str],
    sentences: Sequence[str] = (),
) -> None:
    """Measure every job of these experiments that is there and write OUT/index.html, results.json and results.md.

    Args:
        failed: key of a job -> what went wrong. sentences: what was left out, for the page.
    """
    store = Store(setting.store)
    distinct, places = jobs(found, setting)
    base = next(iter(distinct.values())).config
    ruler = setting_tree(setting)
    measured: dict[str, Measured] = {}
    facts: dict[str, list[dict[str, Any]]] = {}
    for key, job in distinct.items():
        if key in failed:
            continue
        records = {"val": cohort(store, job.config.cohort, job.tree)["val"], "test": labelled(store, "test")}
        test = Test.of(records["val"], records["test"], job.tree, resamples=resamples, ruler=ruler)
        folders = [job.folder(setting, seed) for seed in range(seeds)]
        measured[key] = measure([read_scores(folder, job) for folder in folders], test)
        facts[key] = [json.loads((folder / "result.json").read_text(encoding="utf-8")) for folder in folders]
    simulated = all(record.extra.get("simulated") is True for record in store.split("test"))
    counts = {split: len(store.split(split)) for split in ("train", "val", "test")}
    head = {"simulated": simulated, "studies": counts, "seeds": seeds, "resamples": resamples, "steps": base.steps}
    head |= {
        "config": setting.base,
        "encoder": base.encoder if base.encoder in FRESH else "hlip",
        "tuned": base.tuning.encoder,
        "data": setting.data,
        "taxonomy": f"{ruler.name} ({' / '.join(map(str, ruler.counts))} classes)",
        "overrides": dict(setting.overrides),
        "left_out": list(sentences),
        "failed": {distinct[key].label: text for key, text in failed.items()},
    }
    results = head | {"experiments": [summarise(experiment, places, measured, facts) for experiment in found]}
    print(f"results: {write(results, setting.out).resolve()}")


def setting_tree(setting: Setting) -> Taxonomy:
    """The tree that variants have unless they say otherwise; mistakes are measured in it."""
    return make_job(Variant("shared", "shared"), setting).tree


def read_scores(folder: Path, job: Job) -> Scored:
    """`scores.npz` of a finished run."""
    with np.load(folder / "scores.npz") as arrays:
        levels = range(1, job.tree.depth + 1)
        return {split: [arrays[f"{split}_{level}"] for level in levels] for split in ("val", "test")}
