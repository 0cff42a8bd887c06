"""The command: train what is not trained yet, measure everything, and hand it to the page."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

from finetune.cohort import unfitted
from finetune.experiments.agenda import Agenda
from finetune.experiments.measures import Measured, Test, measure
from finetune.experiments.page import write
from finetune.experiments.plan import (
    Experiment,
    ExperimentError,
    Job,
    Setting,
    Variant,
    as_published,
    experiment_names,
    experiments,
    jobs,
    make_job,
    parse_overrides,
    suited,
)
from finetune.experiments.side_by_side import share, side_by_side
from finetune.experiments.training import attempt, encode_all, is_finished, is_frozen, read_scores, scored_studies
from finetune.experiments.verdict import summarise
from hlip.model import checkpoint_folder
from hlip.store import Store
from hlip.taxonomy import Taxonomy
from hlip.training.engine import share_cores
from hp2l.encoders import FRESH


def run(arguments: argparse.Namespace) -> None:
    """The command: plan, train, score, write the page."""
    if arguments.seeds < 1:
        raise ValueError(f"--seeds {arguments.seeds}: at least one run of each variant is needed")
    if arguments.workers < 0 or arguments.threads < 0:
        raise ValueError("--workers and --threads are 0, for a choice by the cores there are, or more")
    os.environ.pop("ACCELERATE_MIXED_PRECISION", None)  # tokens are shared: their precision is the configuration's alone
    data = data_digest(arguments.encoder, arguments.store)
    where = (arguments.encoder, arguments.store, arguments.out, arguments.config)
    more = {"taxonomy": arguments.taxonomy, "overrides": parse_overrides(arguments.override)}
    workers, threads = share(arguments.workers, arguments.threads)
    labels = frozenset(label for record in Store(arguments.store).records for label in record.labels or ())
    setting = Setting(*where, steps=arguments.steps, threads=threads, data=data, labels=labels, **more)
    found, sentences = suited(experiments(arguments.only, arguments.variants), setting)
    print("\n".join(sentences), end="\n" if sentences else "")
    if not found:
        raise ExperimentError("no experiment is left to run")
    distinct, places = jobs(found, setting)
    print(f"{len(found)} experiments, {len(places)} variants, {len(distinct)} of them distinct, {arguments.seeds} seeds each")
    if arguments.plan:
        print("\n".join(plan_lines(distinct, places, setting, arguments.seeds)))
        return
    share_cores(arguments.threads)
    failed = train_all(list(distinct.values()), setting, arguments.seeds, workers)
    shown = on_page(found, setting, arguments.seeds)
    report(shown, setting, arguments.seeds, arguments.resamples, failed, sentences)
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(distinct)} variants failed; the page names them")


def plan_lines(distinct: Mapping[str, Job], places: Mapping[tuple[str, str], str], setting: Setting, seeds: int) -> list[str]:
    """A line a distinct run: its folder, label, experiments, and how many of its seeds are there; then how long the rest may take."""
    lines, seconds, left = [], [], 0
    folder, width = max(map(len, distinct)), max(len(job.label) for job in distinct.values())
    for key, job in distinct.items():
        there = [seed for seed in range(seeds) if is_finished(job, setting, seed)]
        results = [json.loads((job.folder(setting, seed) / "result.json").read_text(encoding="utf-8")) for seed in there]
        seconds += [result["seconds"] for result in results]
        left += seeds - len(there)
        stands = ", ".join(experiment for (experiment, _), own in places.items() if own == key)
        line = f"{key:{folder}}  {job.label:{width}}  {len(there)} of {seeds} seeds there  {stands}"
        lines.append(shorten_list(line, LONGEST_LINE))
    rest = f"{left} of {len(distinct) * seeds} runs are left"
    if left and seconds:
        rest += f": about {left * sum(seconds) / len(seconds) / 60:.0f} minutes, one after the other, by those that are there"
    return [*lines, rest]


LONGEST_LINE = 140
"""Characters."""


def shorten_list(line: str, most: int) -> str:
    """A line that ends in a list, cut behind a comma: `a, b, ... (3 more)`."""
    if len(line) <= most or "," not in line[:most]:
        return line
    kept = line[: line[: most - len(", ... (99 more)")].rfind(",")]
    return f"{kept}, ... ({line[len(kept) :].count(',')} more)"


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
    if fresh := str(encoder) in FRESH:
        digest.update(str(encoder).encode())
    files = [] if fresh else [checkpoint_folder(encoder) / name for name in ("config.json", "model.safetensors")]
    for path in (*files, store / "index.jsonl"):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def train_all(todo: Sequence[Job], setting: Setting, seeds: int, workers: int = 1) -> dict[str, str]:
    """Every job with every seed, seed by seed, so that an early look has all variants. Returns key -> what went wrong.

    Args:
        workers: how many runs go side by side; 1: one after the other, in this process.

    Raises:
        KeyboardInterrupt: a run was told to stop; it saved its state, and the same command goes on from there.
    """
    waiting = [(job, seed) for seed in range(seeds) for job in todo if not is_finished(job, setting, seed)]
    if done := len(todo) * seeds - len(waiting):
        print(f"{done} of {len(todo) * seeds} runs are there already")
    encode_before([job for job, _ in waiting if is_frozen(job)], setting)
    with Agenda(waiting) as agenda:
        if workers > 1:
            side_by_side(agenda, setting, workers)
        else:
            one_by_one(agenda, setting)
        return agenda.failed


def one_by_one(agenda: Agenda, setting: Setting) -> None:
    """Work through an agenda in this process."""
    while run := agenda.take():
        job, seed = run
        agenda.done(run, attempt(job, setting, seed))


def encode_before(todo: Sequence[Job], setting: Setting) -> None:
    """The tokens of each folder that these jobs read, so that no two runs write the same."""
    for job in {job.config.tokens: job for job in reversed(todo)}.values():
        try:
            encode_all(job, setting)
        except (SystemExit, Exception):
            if job.config.tokens == setting.out / "tokens":
                raise
            # tokens of one variant's own: its run meets the fault again, and is named


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
    there = {key: job for key, job in distinct.items() if key not in failed}
    scored = {key: scored_studies(job.folder(setting, 0), job, store) for key, job in there.items()}
    among = list({record.study_id: record for own in scored.values() for record in own["test"]}.values())
    for key, job in there.items():
        folders = [job.folder(setting, seed) for seed in range(seeds)]
        test = Test.of(scored[key]["val"], scored[key]["test"], job.tree, resamples=resamples, ruler=ruler, among=among)
        measured[key] = measure([read_scores(folder, job) for folder in folders], test)
        facts[key] = [json.loads((folder / "result.json").read_text(encoding="utf-8")) for folder in folders]
    without = {key: text for key, job in there.items() if (text := unfitted(store, job.config.cohort, job.tree))}
    shown, unpublished = as_published(found, ruler)
    simulated = all(record.extra.get("simulated") is True for record in store.split("test"))
    head = {
        "simulated": simulated,
        "studies": labelled_studies(store),
        "seeds": seeds,
        "resamples": resamples,
        "steps": base.steps,
    }
    head |= {
        "config": setting.base,
        "encoder": base.encoder if base.encoder in FRESH else "hlip",
        "tuned": base.tuning.encoder,
        "data": setting.data,
        "taxonomy": f"{ruler.name} ({' / '.join(map(str, ruler.counts))} classes)",
        "overrides": dict(setting.overrides),
        "left_out": [*sentences, *([unpublished] if unpublished else [])],
        "last": ruler.depth,
        "failed": {distinct[key].label: text for key, text in failed.items()},
    }
    results = head | {"experiments": [summarise(one, places, measured, facts, ruler.depth, failed, without) for one in shown]}
    print(f"results: {write(results, setting.out).resolve()}")


def labelled_studies(store: Store) -> dict[str, int]:
    """Split -> how many of its studies have labels."""
    return {split: sum(record.labels is not None for record in store.split(split)) for split in ("train", "val", "test")}


def setting_tree(setting: Setting) -> Taxonomy:
    """The tree that variants have unless they say otherwise; mistakes are measured in it."""
    return make_job(Variant("shared", "shared"), setting).tree
