"""Turns of measured training steps -> rows, what is held against what, and a table for people."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from measure import Machine, peak_flops
from rich.table import Table


def summary(row: dict[str, Any], turns: Sequence[dict[str, Any]], machine: Machine) -> dict[str, Any]:
    """One case (`row`, its settings) over all its turns."""
    if errors := [turn["error"] for turn in turns if "error" in turn]:
        return row | {"error": errors[0]}
    everything = {
        name: [value for turn in turns for value in turn[name]] for name in turns[0] if isinstance(turns[0][name], list)
    }
    seconds, wait = statistics.median(everything["step"]), statistics.fmean(everything["wait"])
    mean = {name: statistics.fmean(everything[name]) for name in ("scans", "patches", "words", "flops")}
    row |= {
        "step_seconds": seconds,
        "all_step_seconds": everything["step"],
        "cpu_seconds": statistics.median(everything["busy"]),
        "wait_seconds": wait,
        "wait_share": wait / (seconds + wait),
        "scans": mean["scans"],
        "studies_per_second": row["batch"] / (seconds + wait),
        "patch_tokens_per_second": mean["patches"] / (seconds + wait),
        "text_tokens_per_second": mean["words"] / (seconds + wait),
        "peak_gb": statistics.median(turn["peak"] for turn in turns) / 1e9,
        "first_loss": turns[0]["loss"],
        "flops_per_second": mean["flops"] / seconds,
    }
    peak = peak_flops(machine.device) if machine.cuda else None
    return row | {"mfu": None if peak is None else row["flops_per_second"] / peak}


def pairs(rows: Sequence[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """What is compared: text, case, and the case it is held against; those that were measured."""
    done = [row for row in rows if "error" not in row]

    def plain(row: dict[str, Any]) -> list[dict[str, Any]]:
        special = ("chunk", "max_scans", "repeated")
        same = [other for other in done if all(other[name] == row[name] for name in ("batch", "workers"))]
        return [other for other in same if not any(other[name] for name in special) and other["checkpoint"] is None]

    for row in done:
        if row["chunk"]:
            yield from (
                (f"{row['batch']} studies in chunks of {row['chunk']}, against whole", row, base) for base in plain(row)
            )
        if row["checkpoint"] is False:
            yield from (("blocks not recomputed, against recomputed", row, base) for base in plain(row))
        if row["repeated"]:
            packed = [other for other in done if other["max_scans"] and not other["repeated"]]
            yield from (("scans repeated, against packed", row, base) for base in packed)


def ratios(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Of a step's seconds (without waiting), its CPU seconds, and peak memory."""
    names = {"seconds": "step_seconds", "cpu_seconds": "cpu_seconds", "peak_gb": "peak_gb"}
    return {text: {short: row[name] / base[name] for short, name in names.items()} for text, row, base in pairs(rows)}


def largest_gap(rows: Sequence[dict[str, Any]]) -> float | None:
    """Relative difference of the first loss, chunks against whole; None where nothing was measured in both ways."""
    gaps = [abs(row["first_loss"] / base["first_loss"] - 1) for _, row, base in pairs(rows) if row["chunk"]]
    return max(gaps, default=None)


def table(rows: Sequence[dict[str, Any]], cuda: bool) -> Table:
    """For people."""
    more = ("TFLOP/s", "of the peak") if cuda else ()
    found = Table("case", "scans", "s a step", "(least - most)", "studies/s", "patch tokens/s", "waiting", "peak GB", *more)
    for row in rows:
        if "error" in row:
            found.add_row(row["name"], "", row["error"])
            continue
        cells = [
            row["name"],
            f"{row['scans']:.0f}",
            f"{row['step_seconds']:.3g}",
            f"{min(row['all_step_seconds']):.3g} - {max(row['all_step_seconds']):.3g}",
            f"{row['studies_per_second']:.3g}",
            f"{row['patch_tokens_per_second']:.0f}",
            f"{row['wait_share']:.1%}",
            f"{row['peak_gb']:.2f}",
        ]
        if cuda:
            cells += [f"{row['flops_per_second'] / 1e12:.0f}", "unknown device" if row["mfu"] is None else f"{row['mfu']:.0%}"]
        found.add_row(*cells)
    return found
