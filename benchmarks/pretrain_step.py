"""What a pretraining step costs: studies and tokens a second, time spent waiting for data, peak memory; and what two savings cost or bring.

    python benchmarks/pretrain_step.py --threads 2 --json step.json

The real loop's parts (loader, packed chunks, train_step, optimizer) on a store of noise written for the occasion, studies of 1 to 8 scans:

1. The plain step, its data read by the training process itself, and by loader processes.
2. The same batch in chunks (gradient caching): the same loss, less memory, more time.
3. All scans of each study, packed, against the same studies with their scans repeated to 8, as the official code does.
4. On CUDA, where the model is ViT-B at true size in bf16: batches up to 768 in chunks and whole, blocks recomputed or not, and model-FLOPs
   utilisation (what recomputing adds does not count as model FLOPs).

Each measurement is a process of its own; cases take turns. A step's seconds are the median over all measured steps; to it comes the
mean, not the median, of waiting, since several loader processes deliver in bursts. The store has just been written and is read from the
page cache: a slow disk waits longer. On a CPU the peak is the training process's largest resident set (libraries and weights included,
loader processes not).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from measure import Machine, apart, chosen_device, describe, model_flops, peak_bytes
from rich.console import Console
from step_table import largest_gap, ratios, summary, table
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from hlip.config import parse_config
from hlip.data import Batch, Chunks, StudyDataset
from hlip.store import Store, StudyRecord, write_index, write_spec, write_study
from hlip.training.batches import GlobalBatches
from hlip.training.engine import make_accelerator
from hlip.training.optimizer import learning_rate, make_optimizer, set_learning_rate
from hlip.volume import VolumeSpec
from pretrain.settings import PretrainConfig
from pretrain.start import build_model
from pretrain.step import train_step

SCANS = 8  # of a study at most
FINDINGS = ("infarction", "hemorrhage", "atrophy", "edema", "mass", "gliosis", "cyst", "calcification")
PLACES = (
    "left frontal lobe",
    "right frontal lobe",
    "left temporal lobe",
    "brainstem",
    "left cerebellum",
    "right parietal lobe",
)
TOLERANCE = 1e-3  # of the first loss, chunks against whole


@dataclass(frozen=True)
class Setting:
    """A model and what is measured on it."""

    config: str
    overrides: tuple[str, ...]
    batch_sizes: tuple[int, ...]
    chunk: int
    """Studies of a chunk where the batch is taken in chunks."""
    volume: str
    """Spec of the store; the model's size is written into it."""


# a BERT of base size with a small vocabulary grown from the store's reports: nothing is downloaded
BERT_BASE = ("--model.text.source", "null", "--model.text.width", "768", "--model.text.depth", "12", "--model.text.heads", "12")
SMALL = {
    "model.vision.size": "[8,32,32]",
    "model.vision.patch": "[2,16,16]",
    "model.vision.width": "32",
    "model.text.width": "32",
}
SETTINGS = {
    "base": Setting("mri", BERT_BASE, (48, 192, 384, 768), 48, "mri"),
    "demo": Setting("demo", (), (64,), 16, "demo"),
    "tiny": Setting("demo", tuple(word for key, value in SMALL.items() for word in (f"--{key}", value)), (8,), 2, "demo"),
}


@dataclass(frozen=True)
class Case:
    """One thing to measure."""

    name: str
    batch: int
    workers: int = 0
    chunk: int = 0
    """Studies of a forward pass at most; 0 takes the batch whole."""
    max_scans: int | None = None
    """Scans drawn from a study at most; the configuration's by default."""
    checkpoint: bool | None = None
    """Recompute each block in the backward pass; the configuration's choice by default."""
    repeated: bool = False
    """Repeat each study's scans to `SCANS`."""


class Taken:
    """What the measured steps of a case were like."""

    def __init__(self) -> None:
        self.step: list[float] = []
        self.busy: list[float] = []
        self.wait: list[float] = []
        self.scans: list[int] = []
        self.patches: list[int] = []
        self.words: list[int] = []
        self.flops: list[float] = []

    def add(self, chunks: Sequence[Batch], config: PretrainConfig, wait: float, step: float, busy: float) -> None:
        """One more step."""
        self.wait.append(wait)
        self.step.append(step)
        self.busy.append(busy)
        self.scans.append(sum(len(chunk.volumes) for chunk in chunks))
        self.patches.append(sum(patches(chunk, config) for chunk in chunks))
        self.words.append(
            sum(ids.numel() for chunk in chunks for ids in (chunk.sentence_ids, chunk.report_ids) if ids is not None)
        )
        self.flops.append(sum(step_flops(chunk, config) for chunk in chunks))


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print a table, and write JSON where asked."""
    arguments = parse(argv)
    machine = Machine(arguments.size, arguments.device, arguments.threads)
    setting = replace(SETTINGS[machine.size], batch_sizes=tuple(arguments.batch_sizes), chunk=arguments.chunk)
    all_cases = cases(setting, arguments.workers, machine.cuda)
    console = Console(highlight=False, width=140)
    if not machine.cuda:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed says in every process that it found no GPU
    report: dict[str, Any] = {
        "machine": asdict(machine) | describe(machine),
        "setting": asdict(setting),
        "load": os.getloadavg(),
    }
    console.print(f"{report['machine']['name']}, torch {torch.__version__}, {machine.size}, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory(prefix="pretrain-step-", dir=arguments.folder) as folder:
        write_store(Path(folder) / "store", setting, max(setting.batch_sizes))
        found = measure_all(all_cases, machine, setting, Path(folder), arguments)
    report["cases"] = rows = [summary(asdict(case), turns, machine) for case, turns in found]
    console.print(table(rows, machine.cuda))
    report["ratios"] = ratios(rows)
    for text, values in report["ratios"].items():
        console.print(f"{text}: [bold]{values['seconds']:.2f} x[/bold] the seconds (CPU seconds {values['cpu_seconds']:.2f} x), "
                      f"{values['peak_gb']:.2f} x the memory")  # fmt: skip
    report["chunks_equal_whole"] = gap = largest_gap(rows)
    if gap is not None:
        console.print(f"first loss, in chunks against whole: largest relative difference {gap:.1e}")
    report["load_after"] = os.getloadavg()
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    if gap is not None and gap > TOLERANCE and machine.size != "base":  # whose stochastic depth draws otherwise in chunks
        raise SystemExit(f"the loss in chunks differs from the whole batch's by more than {TOLERANCE}: the times mean nothing")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--size",
        choices=["auto", *sorted(SETTINGS)],
        default="auto",
        help="base: configs/pretrain/mri.yaml (default on CUDA); demo: demo.yaml (default elsewhere); tiny: seconds",
    )
    parser.add_argument("--device", default="auto", help="cpu or cuda (default: cuda if there is one)")
    parser.add_argument("--threads", type=int, default=2, help="of a CPU (default: 2)")
    parser.add_argument("--repeats", type=int, default=None, help="turns of each case (default: 3, on CUDA 1)")
    parser.add_argument("--steps", type=int, default=6, help="measured steps of a turn (default: 6)")
    parser.add_argument("--warmup", type=int, default=2, help="steps before them (default: 2)")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2], metavar="N", help="loader processes (default: 0 2)")
    parser.add_argument("--batch-sizes", type=int, nargs="+", metavar="N", help="studies a step (default: 64; base: 48 to 768)")
    parser.add_argument("--chunk", type=int, metavar="N", help="studies of a chunk (default: 16; base: 48)")
    parser.add_argument(
        "--folder", type=Path, help="where the store is written for the while (base: 11 MB a study; default: /tmp)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every number here")
    arguments = parser.parse_args(argv)
    arguments.device = chosen_device(arguments.device)
    cuda = arguments.device.startswith("cuda")
    if arguments.size == "auto":
        arguments.size = "base" if cuda else "demo"
    arguments.repeats = arguments.repeats or (1 if cuda else 3)
    arguments.batch_sizes = sorted(arguments.batch_sizes or SETTINGS[arguments.size].batch_sizes)
    arguments.chunk = arguments.chunk or SETTINGS[arguments.size].chunk
    return arguments


def cases(setting: Setting, workers: Sequence[int], cuda: bool) -> list[Case]:
    """What is measured; after the first cases with the most loader processes on CUDA, with the fewest on a CPU, whose cores they share."""
    first, own = min(setting.batch_sizes), max(workers) if cuda else min(workers)
    found = [Case(f"{first} studies, {count} loader processes", first, count) for count in workers]
    plain = Case("", first, own)
    if cuda:
        found.append(replace(plain, name=f"{first} studies, blocks not recomputed", checkpoint=False))
    for batch in setting.batch_sizes:
        if batch > first:
            found.append(Case(f"{batch} studies, whole", batch, own))
        if batch > setting.chunk:
            found.append(Case(f"{batch} studies, chunks of {setting.chunk}", batch, own, setting.chunk))
    packed = replace(plain, name=f"{first} studies, all scans packed", max_scans=SCANS)
    return [*found, packed, replace(packed, name=f"{first} studies, all scans repeated to {SCANS}", repeated=True)]


# --- the store --------------------------------------------------------------------------------------------------------


def write_store(folder: Path, setting: Setting, studies: int) -> None:
    """Noise in the model's size, 1 to 8 scans a study in turn, with reports of some fifty words."""
    config = configured(setting, folder)
    spec = VolumeSpec.from_dict(VolumeSpec.load(setting.volume).as_dict() | {"size": list(config.model.vision.size)})
    (folder / "studies").mkdir(parents=True)
    write_spec(folder, spec)
    generator, records = np.random.default_rng(0), []
    for number in tqdm(range(studies), desc="write a store", unit="study"):
        scans = 1 + number % SCANS
        volumes = generator.integers(0, 256, (scans, *config.model.vision.size), dtype=np.uint8)
        write_study(folder, f"s{number}", list(volumes), {})
        report = " ".join(sentence(generator) for _ in range(6))
        records.append(
            StudyRecord(f"s{number}", f"p{number}", ("T1",) * scans, report, split="train", extra={"simulated": True})
        )
    write_index(folder, records)


def sentence(generator: np.random.Generator) -> str:
    """As reports have them, of no meaning."""
    what, where, size = generator.choice(FINDINGS), generator.choice(PLACES), generator.integers(3, 40)
    return f"There is {what} of {size} mm in the {where}."


# --- a turn of a case -------------------------------------------------------------------------------------------------


def configured(setting: Setting, folder: Path, case: Case | None = None, machine: Machine | None = None) -> PretrainConfig:
    """The recipe with what the case changes."""
    argv = ["--config", setting.config, "--store", str(folder), "--out", str(folder.parent / "run"), *setting.overrides]
    config = parse_config(PretrainConfig, command="pretrain", description="", argv=argv)
    if case and machine:
        config.batch_size, config.workers, config.chunk_studies = case.batch, case.workers, case.chunk
        config.precision = config.precision if machine.cuda else "no"
        config.sampling.max_scans = case.max_scans or config.sampling.max_scans
        if case.checkpoint is not None:
            config.model.vision.checkpoint_blocks = case.checkpoint
    return config


def measure(case: Case, machine: Machine, setting: Setting, folder: Path, warmup: int, steps: int) -> dict[str, Any]:
    """One turn: seconds, CPU seconds and waiting of each measured step, what it held, the first loss, and peak bytes."""
    torch.set_num_threads(machine.threads)
    config = configured(setting, folder / "store", case, machine)
    accelerator = make_accelerator(config.precision, config.optimizer.clip_norm, case.chunk or case.batch)
    data = StudyDataset(Store(config.store), "train", config.sampling, config.seed, config.model.prefix, config.model.vision)
    torch.manual_seed(config.seed)
    model = build_model(config.model, data, accelerator, config.out, centre_studies=8)
    tokenizer = model.tokenizer
    optimizer = make_optimizer({model: 1.0}, config.optimizer)
    model, optimizer = accelerator.prepare(model, optimizer)
    batches = loader(config, data, tokenizer, warmup + steps, machine.cuda)
    if machine.cuda:
        torch.cuda.reset_peak_memory_stats()
    try:
        taken, loss = run(accelerator, model, optimizer, batches, config, case, warmup, machine.cuda)
    except torch.cuda.OutOfMemoryError:
        return {"error": "out of memory"}
    return {**vars(taken), "loss": loss, "peak": peak_bytes(machine.cuda)}


def loader(config: PretrainConfig, data: StudyDataset, tokenizer: Any, steps: int, cuda: bool) -> Iterator[list[Batch]]:
    """As pretraining's; large batches are not prepared far ahead, since a batch of 768 true studies is 8 GB."""
    places = GlobalBatches(
        len(data), config.batch_size, seed=config.seed, steps=steps, sizes=data.sizes, chunk_studies=config.chunk_studies
    )
    ahead = 4 if config.batch_size <= 64 else 1
    return iter(
        DataLoader(
            data,
            batch_sampler=places,
            num_workers=config.workers,
            collate_fn=Chunks(tokenizer),
            pin_memory=cuda,
            prefetch_factor=ahead if config.workers else None,
            multiprocessing_context="fork" if config.workers else None,  # a process begun by `apart` would choose otherwise
        )
    )


def run(
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: Any,
    batches: Iterator[list[Batch]],
    config: PretrainConfig,
    case: Case,
    warmup: int,
    cuda: bool,
) -> tuple[Taken, float]:
    """Every step; those after the warm-up, and the loss of the first."""
    taken, first = Taken(), float("nan")
    step, asked = 0, time.perf_counter()
    for chunks in batches:
        wait = time.perf_counter() - asked
        if case.repeated:  # not timed: only the step is compared
            chunks = [repeated(chunk) for chunk in chunks]
            chunks = [pinned(chunk) for chunk in chunks] if cuda else chunks
        began, busy = time.perf_counter(), time.process_time()
        set_learning_rate(optimizer, learning_rate(step, config.steps or 10_000, config.optimizer))
        result = train_step(accelerator, model, optimizer, chunks, config.loss, config.optimizer.clip_norm, [config.seed, step])
        if cuda:
            torch.cuda.synchronize()
        seconds, busy = time.perf_counter() - began, time.process_time() - busy
        if step == 0:
            first = float(result.losses.total.detach())
        if step >= warmup:
            taken.add(chunks, config, wait, seconds, busy)
        step, asked = step + 1, time.perf_counter()
    return taken, first


def repeated(batch: Batch) -> Batch:
    """Each study's scans in turn until it has `SCANS`, each with its own kept patches."""
    rows, first = [], 0
    for count in batch.scans_per_study:
        rows += [first + place % count for place in range(SCANS)]
        first += count
    kept = None if batch.kept is None else batch.kept[rows]
    return batch._replace(volumes=batch.volumes[rows], kept=kept, scans_per_study=[SCANS] * len(batch.study_ids))


def pinned(batch: Batch) -> Batch:
    """In memory that a device reads directly, as a loader leaves it."""
    return batch._replace(volumes=batch.volumes.pin_memory(), kept=None if batch.kept is None else batch.kept.pin_memory())


def patches(batch: Batch, config: PretrainConfig) -> int:
    """Patch tokens that the encoder sees."""
    return len(batch.volumes) * int(np.prod(config.model.vision.grid)) if batch.kept is None else batch.kept.numel()


def step_flops(batch: Batch, config: PretrainConfig) -> float:
    """Model FLOPs of forward and backward (twice the forward), both towers; recomputing is not counted."""
    text, total = config.model.text, model_flops(config.model.vision, batch.scans_per_study)
    for ids in (batch.sentence_ids, batch.report_ids):
        assert ids is not None
        number, length = ids.shape
        linear = 2 * 12 * text.width**2  # a token: queries, keys, values, projection, and an MLP of four times the width
        total += number * length * text.depth * (linear + 4 * length * text.width)
    return 3 * total


def measure_all(
    all_cases: Sequence[Case], machine: Machine, setting: Setting, folder: Path, arguments: argparse.Namespace
) -> list[tuple[Case, list[dict[str, Any]]]]:
    """Cases in turns, each turn in a process of its own."""
    found: dict[str, list[dict[str, Any]]] = {case.name: [] for case in all_cases}
    preload = ("torch", "accelerate", "pretrain.train", "transformers.models.bert.modeling_bert", "open_clip.hf_model")
    for case in tqdm([*all_cases] * arguments.repeats, desc="measure"):
        turn = apart(measure, case, machine, setting, folder, arguments.warmup, arguments.steps, preload=preload)
        words = turn.get("error") or f"{statistics.median(turn['step']):.3g} s a step, {turn['peak'] / 1e9:.2f} GB"
        tqdm.write(f"{case.name}: {words}, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
        found[case.name].append(turn)
    return [(case, found[case.name]) for case in all_cases]


if __name__ == "__main__":
    main()
