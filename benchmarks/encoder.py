"""What the study encoder costs: seconds, peak memory, and what packing saves.

    python benchmarks/encoder.py --threads 2 --repeats 3 --json encoder.json

1. One study of two scans, forward and forward + backward, patch dropout 0 and 0.5.
2. A mixed batch, studies of 1, 3, 5 and 8 scans: packed, against the same studies with their scans repeated until each has 8, as the
   official code does. The same encoder runs both, so the ratio is what packing alone saves.
3. On CUDA: model-FLOPs utilisation of a training step's forward + backward at several batch sizes, bf16.

Cases that are compared take turns, and medians are reported: on a shared machine trust the ratios more than the seconds, and that of
CPU seconds most. On a CPU each measurement has a process of its own, whose largest resident set is the peak memory (the libraries and
weights included).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from measure import Machine, chosen_device, describe, fresh, model_flops, peak_bytes, peak_flops
from rich.console import Console
from rich.table import Table
from torch import Tensor
from tqdm import tqdm

from hlip.vision import StudyEncoder, VisionConfig

MIXED = (1, 3, 5, 8)
TOLERANCE = 1e-5
LONG = 2.0  # seconds: what the first pass of a process costs more is then lost in the whole
SIZES = {
    "base": VisionConfig(),
    "tiny": VisionConfig(size=(8, 32, 32), patch=(2, 8, 8), width=48, heads=4, scopes=["scan", "scan", "study"]),
}


@dataclass(frozen=True)
class Case:
    """One thing to measure."""

    name: str
    counts: tuple[int, ...]
    """Scans of each study as the encoder sees them."""
    dropout: float = 0.0
    backward: bool = False
    checkpoint: bool = False
    """Recompute each block in the backward pass."""
    repeated: tuple[int, ...] = ()
    """The studies' own counts, where scans were repeated to reach `counts`."""


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print tables, and write JSON where asked."""
    arguments = parse(argv)
    machine = Machine(arguments.size, arguments.device, arguments.threads, arguments.compile)
    console = Console(highlight=False, width=120)
    report: dict[str, Any] = {"machine": asdict(machine) | describe(machine), "load": os.getloadavg()}
    console.print(
        f"{report['machine']['name']}, torch {torch.__version__}, encoder {machine.size}, load {os.getloadavg()[0]:.1f}"
    )
    report["packed_equals_alone"] = fresh(machine, largest_difference, machine)
    console.print(f"packed batch against each study alone: largest difference {report['packed_equals_alone']:.1e}")
    if not report["packed_equals_alone"] <= TOLERANCE:
        raise SystemExit(f"the packed batch differs from each study alone by more than {TOLERANCE}: times would mean nothing")
    rows = measure_all(cases(machine.size, arguments.mixed_backward), machine, arguments.repeats)
    report["cases"] = rows
    console.print(cost_table(rows))
    report["packing"] = packing(rows)
    for kind, values in report["packing"].items():
        console.print(
            f"mixed batch {'+'.join(map(str, MIXED))}, {kind}: packed {values['packed']:.3g} studies/s, repeated "
            f"{values['repeated']:.3g}, [bold]{values['ratio']:.2f} x[/bold] (by CPU seconds {values['cpu_ratio']:.2f} x)"
        )
    if machine.cuda:
        report["utilisation"] = utilisation(machine, arguments.batch_sizes, arguments.repeats)
        console.print(utilisation_table(report["utilisation"]))
    report["load_after"] = os.getloadavg()
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--size", choices=sorted(SIZES), default="base", help="base: ViT-B, 48 x 224 x 224 (default); tiny: seconds"
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ... (default: cuda if there is one)")
    parser.add_argument("--threads", type=int, default=2, help="of a CPU (default: 2)")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each case (default: 3)")
    parser.add_argument("--mixed-backward", action="store_true", help="the mixed batch in training, too (minutes on a CPU)")
    parser.add_argument("--compile", action="store_true", help="torch.compile each block")
    parser.add_argument(
        "--batch-sizes",
        type=int,
        nargs="+",
        default=[4, 16, 64],
        metavar="N",
        help="studies of 4 scans a step, for utilisation",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every number here")
    arguments = parser.parse_args(argv)
    arguments.device = chosen_device(arguments.device)
    return arguments


def cases(size: str, mixed_backward: bool) -> list[Case]:
    """What is measured."""
    single = [
        Case(f"forward{' + backward' if backward else ''}, patch dropout {dropout:g}", (2,), dropout, backward)
        for backward in (False, True)
        for dropout in (0.0, 0.5)
    ]
    equal = (max(MIXED),) * len(MIXED)
    mixed = [Case("mixed packed, forward", MIXED), Case("mixed repeated, forward", equal, repeated=MIXED)]
    if mixed_backward or size == "tiny":
        mixed += [
            Case("mixed packed, training", MIXED, 0.5, True, True),
            Case("mixed repeated, training", equal, 0.5, True, True, repeated=MIXED),
        ]
    return single + mixed


def build(machine: Machine, dropout: float = 0.0, checkpoint: bool = False) -> StudyEncoder:
    """A randomly initialised encoder; the same weights every time."""
    torch.manual_seed(0)
    config = replace(SIZES[machine.size], patch_dropout=dropout, checkpoint_blocks=checkpoint)
    encoder = StudyEncoder(config).to(machine.device)
    if machine.compiled:
        for block in encoder.blocks:
            block.compile()
    return encoder


def scans(machine: Machine, counts: Sequence[int], repeated: Sequence[int] = ()) -> Tensor:
    """(S, 1, D, H, W) uint8 noise; with `repeated`, each study's own scans in turn until it has as many as `counts` says."""
    generator = torch.Generator().manual_seed(0)
    own = repeated or counts
    volumes = torch.randint(0, 256, (sum(own), 1, *SIZES[machine.size].size), dtype=torch.uint8, generator=generator)
    if repeated:
        studies = zip(volumes.split(list(own)), counts, strict=True)
        volumes = torch.cat([study[torch.arange(count) % len(study)] for study, count in studies])
    return volumes.to(machine.device)


def largest_difference(machine: Machine) -> float:
    """Of the mixed batch's features, packed against one study at a time; float32."""
    torch.set_num_threads(machine.threads)
    encoder, volumes = build(machine).eval(), scans(machine, MIXED)
    with torch.no_grad():
        packed = encoder(volumes, MIXED)
        alone = torch.cat([encoder(study, [len(study)]) for study in volumes.split(list(MIXED))])
    return float((packed - alone).abs().max())


def measure(case: Case, machine: Machine) -> tuple[float, float, float]:
    """Seconds and CPU seconds of the last of four passes, or of the first where it is long, and peak bytes."""
    torch.set_num_threads(machine.threads)
    encoder = build(machine, case.dropout, case.checkpoint).train(case.backward or case.dropout > 0)
    volumes = scans(machine, case.counts, case.repeated)
    if machine.cuda:
        torch.cuda.reset_peak_memory_stats()
    for _ in range(4):
        busy = time.process_time()
        seconds = one_pass(encoder, volumes, case.counts, case.backward, machine.device)
        busy = time.process_time() - busy
        if seconds > LONG and not machine.cuda:
            break
    return seconds, busy, peak_bytes(machine.cuda)


def one_pass(encoder: StudyEncoder, volumes: Tensor, counts: Sequence[int], backward: bool, device: str) -> float:
    """Seconds of one forward (and backward) pass; bf16 autocast on CUDA."""
    cuda = device.startswith("cuda")
    encoder.zero_grad(set_to_none=True)
    if cuda:
        torch.cuda.synchronize()
    started = time.perf_counter()
    with torch.autocast("cuda", torch.bfloat16) if cuda else nullcontext(), torch.set_grad_enabled(backward):
        features = encoder(volumes, counts)
    if backward:
        features.float().square().mean().backward()
    if cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started


def measure_all(all_cases: Sequence[Case], machine: Machine, repeats: int) -> list[dict[str, Any]]:
    """Medians of cases measured in turns."""
    seconds: dict[str, list[float]] = {case.name: [] for case in all_cases}
    cpu: dict[str, list[float]] = {case.name: [] for case in all_cases}
    peaks: dict[str, list[float]] = {case.name: [] for case in all_cases}
    for case in tqdm([*all_cases] * repeats, desc="measure"):
        taken, busy, peak = fresh(machine, measure, case, machine)
        tqdm.write(f"{case.name}: {taken:.3g} s, {peak / 1e9:.2f} GB, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
        seconds[case.name].append(taken)
        cpu[case.name].append(busy)
        peaks[case.name].append(peak)
    rows = []
    for case in all_cases:
        middle = statistics.median(seconds[case.name])
        rows.append({
            **asdict(case),
            "seconds": middle,
            "all_seconds": seconds[case.name],
            "cpu_seconds": statistics.median(cpu[case.name]),
            "peak_gb": statistics.median(peaks[case.name]) / 1e9,
            "studies_per_second": len(case.counts) / middle,
        })  # fmt: skip
    return rows


def packing(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Studies a second, packed and repeated, and the median of the ratios of neighbouring measurements."""
    found = {row["name"]: row for row in rows}
    answer = {}
    for kind in ("forward", "training"):
        if f"mixed packed, {kind}" in found:
            packed, repeated = found[f"mixed packed, {kind}"], found[f"mixed repeated, {kind}"]
            pairs = zip(packed["all_seconds"], repeated["all_seconds"], strict=True)
            answer[kind] = {
                "packed": packed["studies_per_second"],
                "repeated": repeated["studies_per_second"],
                "ratio": statistics.median(slow / fast for fast, slow in pairs),
                "cpu_ratio": repeated["cpu_seconds"] / packed["cpu_seconds"],
            }
    return answer


def utilisation(machine: Machine, batch_sizes: Sequence[int], repeats: int) -> list[dict[str, Any]]:
    """Forward + backward of training steps: model FLOPs (backward counts twice the forward) over what the device could do."""
    peak, rows = peak_flops(machine.device), []
    for studies in batch_sizes:
        for dropout in (0.0, 0.5):
            row: dict[str, Any] = {"studies": studies, "scans": 4 * studies, "dropout": dropout}
            try:
                row |= step_cost(machine, (4,) * studies, dropout, repeats)
                row["mfu"] = None if peak is None else row["flops_per_second"] / peak
            except torch.cuda.OutOfMemoryError:
                row["error"] = "out of memory"
            torch.cuda.empty_cache()
            rows.append(row)
    return rows


def step_cost(machine: Machine, counts: Sequence[int], dropout: float, repeats: int) -> dict[str, float]:
    """Median seconds, peak memory and model FLOP/s of a step."""
    encoder, volumes = build(machine, dropout).train(), scans(machine, counts)
    for _ in range(3):
        one_pass(encoder, volumes, counts, True, machine.device)
    torch.cuda.reset_peak_memory_stats()
    seconds = statistics.median(one_pass(encoder, volumes, counts, True, machine.device) for _ in range(max(5, repeats)))
    peak = torch.cuda.max_memory_allocated() / 1e9
    return {"seconds": seconds, "peak_gb": peak, "flops_per_second": 3 * model_flops(encoder.config, counts) / seconds}


def cost_table(rows: Sequence[dict[str, Any]]) -> Table:
    """Seconds and memory, for people."""
    table = Table("case", "scans", "s (median)", "s (least - most)", "peak GB")
    for row in rows:
        spread = f"{min(row['all_seconds']):.3g} - {max(row['all_seconds']):.3g}"
        table.add_row(row["name"], str(sum(row["counts"])), f"{row['seconds']:.3g}", spread, f"{row['peak_gb']:.2f}")
    return table


def utilisation_table(rows: Sequence[dict[str, Any]]) -> Table:
    """Utilisation, for people."""
    table = Table("studies", "scans", "dropout", "s a step", "peak GB", "TFLOP/s", "of the peak", title="training step, bf16")
    for row in rows:
        cells = [str(row["studies"]), str(row["scans"]), f"{row['dropout']:g}"]
        if "error" in row:
            table.add_row(*cells, row["error"])
            continue
        share = "unknown device" if row["mfu"] is None else f"{row['mfu']:.0%}"
        table.add_row(*cells, f"{row['seconds']:.3f}", f"{row['peak_gb']:.1f}", f"{row['flops_per_second'] / 1e12:.0f}", share)
    return table


if __name__ == "__main__":
    main()
