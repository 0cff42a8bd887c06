"""Which texts should a study be held against? The language ablation of HLIP's authors, repeated on a simulated cohort.

    hlip simulate COHORT --studies 2400 --seed 1 && hlip prepare COHORT/manifest.jsonl STORE --spec demo
    python benchmarks/language_ablation.py STORE OUT --steps 700 --seeds 3

Every variant is the same `pretrain` command with a few overrides, the same steps and the same seeds; models are those of the last step, none
is chosen. They answer the same queries about the test split: each class's own prompt as it stands (prompt set `plain`, no synonyms, no
normal phrase), cosine similarity with class token 0, macro AUC over the disease classes. Nothing is tuned.

Intervals: 95 % bootstrap over test patients of the mean over seeds, the same resamples for all variants, so that differences to `dual` are
paired. They say how much the choice of patients matters; how much the seed matters is shown by each seed's own value.

OUT/VARIANT/seed_N is a run folder. Started again, finished runs and scores are kept and others go on where they were.
OUT gets ablation.json, ablation.md and ablation.png.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

import hlip
from hlip.metrics import Ranking, macro, patient_bootstrap
from hlip.store import Store, StudyRecord
from hlip.taxonomy import Taxonomy
from hlip.zeroshot import ZeroShotSettings, embed_studies, score_taxonomy
from hp2l.comparison.resampling import summary
from pretrain.train import main as pretrain

Overrides = Mapping[str, str]

ALONE = {"loss.sentence": "1", "loss.report": "0", "model.vision.class_tokens": "1"}
VARIANTS: dict[str, Overrides] = {
    "report_only": {**ALONE, "sampling.sentence_dropout": "false"},
    "sentence_dropout_only": ALONE,
    "dual": {},
    "dual_identical_not_matched": {"loss.identical_texts_match": "false"},
    "dual_siglip": {"model.objective": "siglip"},
}
NAMES = {
    "report_only": "report only",
    "sentence_dropout_only": "sentence dropout only",
    "dual": "dual",
    "dual_identical_not_matched": "dual, identical texts not positives",
    "dual_siglip": "dual, sigmoid loss",
}
DEFAULT = ["report_only", "sentence_dropout_only", "dual", "dual_identical_not_matched"]
BASE = "dual"  # what the others are held against
SETTINGS = ZeroShotSettings(prompts="plain", synonyms=False, contrast=False)

Areas = NDArray[np.float64]  # macro AUC, (seeds, 1 + R): column 0 is the value, the others its resamples


def main(argv: Sequence[str] | None = None) -> None:
    """Train what is missing, score the test split, and write the table and the figure."""
    arguments = parse(argv)
    store, taxonomy = Store(arguments.store), Taxonomy.load(arguments.taxonomy)
    settings = remember(arguments, store)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    console = Console(highlight=False)
    records = [record for record in store.split("test") if record.labels is not None]
    if not records:
        raise SystemExit(f"{arguments.store}: no labelled study in the test split: nothing to measure")
    scores: dict[str, list[list[NDArray[np.float64]]]] = {name: [] for name in arguments.variants}
    runs = [(seed, name) for seed in range(arguments.seeds) for name in arguments.variants]  # a whole seed before the next
    for number, (seed, name) in enumerate(runs, start=1):
        folder = arguments.out / name / f"seed_{seed}"
        console.rule(f"run {number} of {len(runs)}: {NAMES[name]}, seed {seed}")
        train(folder, name, seed, arguments)
        scores[name].append(test_scores(folder, store, records, taxonomy, arguments.steps))
    result = settings | results(scores, records, taxonomy, arguments.resamples, arguments.min_positives)
    write(arguments.out / "ablation.json", json.dumps(result, indent=2) + "\n")
    table = markdown(result)
    write(arguments.out / "ablation.md", table)
    draw(result, arguments.out / "ablation.png")
    print(table)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; what it does not know goes to every `pretrain` run."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        epilog="Further options (--optimizer.lr 1e-3, ...) go to every pretrain run.",
    )
    parser.add_argument("store", type=Path, metavar="STORE", help="prepared store of a labelled cohort")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of the runs and results")
    parser.add_argument("--steps", type=int, default=700, help="of each run (default: 700)")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each variant, seeds from 0 (default: 3)")
    parser.add_argument("--batch_size", type=int, default=64, help="studies a step (default: 64)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: torch's own choice)")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=DEFAULT, help="default: all but dual_siglip")
    parser.add_argument("--config", default="demo", help="pretraining recipe that all share: a name or a file (default: demo)")
    parser.add_argument("--taxonomy", default="brain_mri", help="tree whose classes are asked for (default: brain_mri)")
    parser.add_argument("--resamples", type=int, default=1000, help="of the test patients (default: 1000)")
    parser.add_argument("--min_positives", type=int, default=5, help="positives and negatives a class needs (default: 5)")
    arguments, more = parser.parse_known_args(argv)
    arguments.more = more
    if arguments.seeds < 1:
        parser.error("--seeds: at least 1")
    if BASE not in arguments.variants:
        parser.error(f"--variants: {BASE} is what the others are held against, name it too")
    return arguments


def remember(arguments: argparse.Namespace, store: Store) -> dict[str, Any]:
    """What all runs in OUT share, written at the first start.

    Raises:
        SystemExit: OUT holds runs that were made otherwise.
    """
    index = hashlib.sha256((arguments.store / "index.jsonl").read_bytes()).hexdigest()[:12]
    sizes = {split: len(store.split(split)) for split in ("train", "test")}
    cohort = {"index": index, "spec": store.spec.digest(), **sizes}
    shared = {
        "config": arguments.config,
        "steps": arguments.steps,
        "batch_size": arguments.batch_size,
        "more": arguments.more,
        "taxonomy": arguments.taxonomy,
        "cohort": cohort,
    }
    path = arguments.out / "shared.json"
    if path.is_file() and (there := json.loads(path.read_text(encoding="utf-8"))) != shared:
        wrong = [f"{key} {there.get(key)}, not {value}" for key, value in shared.items() if there.get(key) != value]
        raise SystemExit(f"{path}: the runs there were made with {'; '.join(wrong)}: choose another OUT, or the same settings")
    arguments.out.mkdir(parents=True, exist_ok=True)
    write(path, json.dumps(shared, indent=2) + "\n")
    return shared


def train(folder: Path, name: str, seed: int, arguments: argparse.Namespace) -> None:
    """One run, from where it stands to its end; a finished one is left alone.

    Raises:
        SystemExit: it was told to stop; the same command goes on.
    """
    if steps_done(folder) < arguments.steps:
        given = {
            "store": str(arguments.store),
            "out": str(folder),
            "steps": str(arguments.steps),
            "batch_size": str(arguments.batch_size),
            "seed": str(seed),
            "threads": str(arguments.threads),
            "validation.every": "0",  # the last step's model is taken
            "trackers": "[]",
            "keep": "1",
            "resume": "auto",
        }
        words = [word for key, value in [*given.items(), *VARIANTS[name].items()] for word in (f"--{key}", value)]
        pretrain(["--config", arguments.config, *arguments.more, *words])
    if steps_done(folder) < arguments.steps:
        raise SystemExit(f"{folder}: stopped after step {steps_done(folder)}; the same command goes on from there")


def steps_done(folder: Path) -> int:
    """Of the run's saved model; 0 where there is none."""
    path = folder / "model" / "config.json"
    return int(json.loads(path.read_text(encoding="utf-8"))["facts"]["step"]) if path.is_file() else 0


def test_scores(
    folder: Path, store: Store, records: Sequence[StudyRecord], taxonomy: Taxonomy, steps: int
) -> list[NDArray[np.float64]]:
    """(N, K) scores of each level, kept in the run's folder."""
    path, ids = folder / "test_scores.npz", np.array([record.study_id for record in records])
    if path.is_file():
        with np.load(path) as kept:
            if (
                int(kept["steps"]) == steps
                and np.array_equal(kept["study_ids"], ids)
                and str(kept["taxonomy"]) == taxonomy.digest
            ):
                return [kept[f"level_{level}"] for level in range(1, taxonomy.depth + 1)]
    model = hlip.load(folder / "model")
    features = embed_studies(model, store, records, progress="test split")
    scores = score_taxonomy(model, features, taxonomy, SETTINGS)
    named = {f"level_{level}": table for level, table in enumerate(scores, start=1)}
    partial = path.with_name("partial.npz")
    np.savez(partial, study_ids=ids, steps=steps, taxonomy=taxonomy.digest, **named)  # type: ignore[arg-type]
    os.replace(partial, path)
    return scores


# --- statistics -------------------------------------------------------------------------------------------------------


def results(
    scores: Mapping[str, Sequence[Sequence[NDArray[np.float64]]]],
    records: Sequence[StudyRecord],
    taxonomy: Taxonomy,
    resamples: int,
    minimum: int,
) -> dict[str, Any]:
    """Levels -> variants -> mean over seeds with its interval, each seed, and the paired difference to `dual`."""
    encoded = taxonomy.encode_all([record.labels for record in records])
    patients = [record.patient_id for record in records]
    levels = {}
    for level, (targets, known) in enumerate(encoded):
        truth, valid = np.asarray(targets) > 0, np.asarray(known) > 0
        classes = taxonomy.levels[level]
        enough = np.minimum((truth & valid).sum(axis=0), (~truth & valid).sum(axis=0)) >= minimum
        columns = [k for k, name in enumerate(classes) if enough[k] and name != taxonomy.normal]
        areas = {
            name: np.stack([macro_areas(seed[level], truth, valid, columns, patients, resamples) for seed in seeds])
            for name, seeds in scores.items()
        }
        levels[taxonomy.level_names[level]] = {
            "classes": [classes[k] for k in columns],
            "left_out": [name for k, name in enumerate(classes) if k not in columns],
            "variants": {name: described(found, areas[BASE], name == BASE) for name, found in areas.items()},
        }
    facts = {"studies": len(records), "patients": len(set(patients)), "seeds": len(scores[BASE]), "resamples": resamples}
    simulated = all(record.extra.get("simulated") is True for record in records)
    return {"test": facts, "simulated": simulated, "levels": levels}


def macro_areas(
    scores: NDArray[np.float64],
    truth: NDArray[np.bool_],
    known: NDArray[np.bool_],
    columns: Sequence[int],
    patients: Sequence[str],
    resamples: int,
) -> Areas:
    """(1 + R,) macro AUC of the cohort itself and of its resamples, which are the same at every call."""
    rankings = [Ranking.of(truth[:, k], scores[:, k], known[:, k]) for k in columns]
    weights = [np.ones((len(patients), 1), np.float32), *patient_bootstrap(patients, resamples, seed=0)]
    return np.concatenate([macro(np.stack([ranking.areas(weight)[0] for ranking in rankings])) for weight in weights])


def described(areas: Areas, base: Areas, is_base: bool) -> dict[str, Any]:
    """One variant at one level; the interval is that of the mean over seeds."""
    entry: dict[str, Any] = {"auc": summary(areas.mean(axis=0)), "by_seed": areas[:, 0].tolist()}
    if not is_base:
        difference = areas - base
        entry["difference"] = summary(difference.mean(axis=0), paired=True) | {"by_seed": difference[:, 0].tolist()}
    return entry


# --- for people -------------------------------------------------------------------------------------------------------


def markdown(result: Mapping[str, Any]) -> str:
    """Both tables and what they are."""
    levels, test, cohort = result["levels"], result["test"], result["cohort"]
    heads = [f"{name} ({len(level['classes'])})" for name, level in levels.items()]
    lines = [
        f"Zero-shot macro AUC on the test split of a {'simulated ' if result['simulated'] else ''}cohort ({cohort['train']} training studies; "
        f"{test['studies']} test studies, {test['patients']} patients), {result['steps']} steps of {result['batch_size']} studies, mean of "
        f"{test['seeds']} seed(s). In round brackets 95 % bootstrap intervals over patients ({test['resamples']} resamples, paired for "
        "differences), in square brackets the least and the most of the seeds; in the heads the number of disease classes.",
        "",
        f"| variant | {' | '.join(heads)} |",
        f"|{'---|' * (1 + len(heads))}",
    ]
    names = list(next(iter(levels.values()))["variants"])
    for name in names:
        entries = [level["variants"][name] for level in levels.values()]
        lines.append(f"| {NAMES[name]} | {' | '.join(cell(entry['auc'], entry['by_seed'], '.3f') for entry in entries)} |")
    others = [name for name in names if name != BASE]
    if others:
        lines += ["", f"| minus {NAMES[BASE]} | {' | '.join(heads)} |", f"|{'---|' * (1 + len(heads))}"]
    for name in others:
        entries = [level["variants"][name]["difference"] for level in levels.values()]
        lines.append(f"| {NAMES[name]} | {' | '.join(cell(entry, entry['by_seed'], '+.3f') for entry in entries)} |")
    return "\n".join(lines) + "\n"


def cell(entry: Mapping[str, float], by_seed: Sequence[float], form: str) -> str:
    """0.681 (0.660 to 0.702) [0.675 to 0.690]"""
    value, low, high, least, most = (
        format(number, form) for number in (entry["value"], entry["low"], entry["high"], min(by_seed), max(by_seed))
    )
    return f"{value} ({low} to {high})" + (f" [{least} to {most}]" if len(by_seed) > 1 else "")


def draw(result: Mapping[str, Any], path: Path) -> None:
    """A panel a level: a point a seed, the mean with its interval."""
    from matplotlib.figure import Figure

    levels = result["levels"]
    figure = Figure(figsize=(10, 2.8), layout="constrained")
    panels = figure.subplots(1, len(levels), sharey=True, squeeze=False)[0]
    for axes, (title, level) in zip(panels, levels.items(), strict=True):
        for row, entry in enumerate(level["variants"].values()):
            auc = entry["auc"]
            axes.plot([auc["low"], auc["high"]], [row, row], color="0.3", linewidth=1.5, zorder=1)
            axes.plot(auc["value"], row, "D", color="0.1", markersize=6, zorder=2)
            offsets = 0.22 * np.ones(len(entry["by_seed"]))
            axes.plot(entry["by_seed"], row + offsets, "o", color="tab:blue", markersize=4, alpha=0.8, zorder=3)
        axes.set_title(title, fontsize=10, loc="left")
        axes.set_xlabel("zero-shot macro AUC", fontsize=8)
        axes.set_yticks(range(len(level["variants"])), [NAMES[name] for name in level["variants"]], fontsize=8)
        axes.tick_params(labelsize=8)
        axes.grid(axis="x", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].invert_yaxis()
    figure.savefig(path, dpi=150)


def write(path: Path, text: str) -> None:
    """Whole or not at all."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


if __name__ == "__main__":
    main()
