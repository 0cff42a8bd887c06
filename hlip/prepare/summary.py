"""What a run of `hlip prepare` did, in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hlip.quality.flags import FLAGS

_TOLD = ("mirrored", "orientation", "wrong-spec")  # flags explained here: what they say is wrong, the volumes may be, too


@dataclass(frozen=True)
class PrepareSummary:
    """What a run did and what the store now holds."""

    store: Path
    studies: int
    """In the manifest, or in the shard."""
    studies_ready: int
    """In the index: with at least one volume."""
    studies_reused: int
    """Already prepared by an earlier run."""
    studies_without_report: int
    """Of those ready; they cannot be used for contrastive training."""
    scans_ok: int
    scans_skipped: int
    reasons: dict[str, int] = field(default_factory=dict)
    """Skipped scans by reason code."""
    flags: dict[str, int] = field(default_factory=dict)
    """Usable scans by flag; see `hlip.quality.flags.FLAGS`."""
    seconds: float = 0.0
    shard: tuple[int, int] | None = None
    note: str = ""
    """Of reports that look as if they were in another language."""

    def __str__(self) -> str:
        part = f"shard {self.shard[0]} of {self.shard[1]}: " if self.shard else ""
        lines = [
            f"{part}{self.studies_ready} of {self.studies} studies ready in {self.store} ({self.studies_reused} from before), "
            f"{self.scans_ok} scans, {self.seconds:.1f} s",
        ]
        if self.scans_skipped:
            table = "" if self.shard else f"; see {self.store / 'quality.parquet'}"
            lines.append(f"{self.scans_skipped} scans skipped: {_counts(self.reasons)}{table}")
        if self.studies_without_report:
            lines.append(f"{self.studies_without_report} studies have no report: not usable for contrastive training")
        lines += [self.note] if self.note else []
        if self.flags:
            lines.append(f"to be looked at: {_counts(self.flags)}")
            lines += [f"{name} {self.flags[name]}: {FLAGS[name].meaning}" for name in _TOLD if name in self.flags]
        if self.shard:
            lines.append("when all shards are done, run the same command without --shard: it writes index and quality table")
        else:
            lines.append(f"look before you train: {self.store / 'quality.html'}")
        return "\n".join(lines)


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())
