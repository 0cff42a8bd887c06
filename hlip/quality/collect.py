"""What lies in a store's study files -> quality.parquet, quality.html and the check sums of the files beside the studies.

Everything comes from the study files and the reports, so that `hlip quality STORE` needs no scan, and shards need not meet.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hlip.files.checksums import write_checksums
from hlip.quality.duplicates import same_text
from hlip.quality.flags import FLAGS, set_flags
from hlip.quality.sheet import write_sheet
from hlip.quality.table import complete, read_table, write_table
from hlip.store import Store, StoreError, read_metadata, skipped_file, study_file


@dataclass(frozen=True)
class Quality:
    """What the table says."""

    rows: list[dict[str, Any]]

    @property
    def flags(self) -> dict[str, int]:
        """Scans by flag, in the order of `FLAGS`; only those that any has."""
        found = Counter(name for row in self.rows for name in row["flags"])
        return {name: found[name] for name in FLAGS if found[name]}

    @property
    def reasons(self) -> dict[str, int]:
        """Skipped scans by reason, the commonest first."""
        return dict(Counter(row["reason"] for row in self.rows if row["status"] != "ok").most_common())

    @property
    def parts(self) -> dict[str, int]:
        """Usable scans by the part of the body that they look like."""
        ready = Counter(row["part"] or "unknown" for row in self.rows if row["status"] == "ok")
        return dict(ready.most_common())

    def __str__(self) -> str:
        ready = sum(row["status"] == "ok" for row in self.rows)
        lines = [f"{ready} scans usable, {len(self.rows) - ready} skipped{_listed(self.reasons)}"]
        lines.append(f"flagged, to be looked at{_listed(self.flags)}" if self.flags else "no scan is flagged")
        if set(self.parts) - {"unknown"}:
            lines.append(f"by their millimetres the scans look like{_listed(self.parts)}")
        if old := sum(row["status"] == "ok" and not row["digest"] for row in self.rows):
            lines.append(
                f"{old} scans were prepared by an earlier version, without measures; prepare into a new folder to have them"
            )
        return "\n".join(lines)


def rows_of(metadata: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The complete rows of one study from the metadata of its file."""
    rows = [complete(row) for row in metadata.get("quality", [])]
    hashes = metadata.get("hashes", [])
    for row in rows:
        row["hashes"] = [hashes[number] for number in row["volumes"] if number < len(hashes)]
        row["digest"] = metadata.get("digest", "")
    return rows


def write_quality(store: Path, rows: list[dict[str, Any]], reports: Mapping[str, str]) -> Quality:
    """Set the flags of complete rows, and write the table and the page.

    Args:
        reports: study id -> report, of the studies that have one.
    """
    set_flags(rows, {study: same_text(report) for study, report in reports.items()})
    write_table(store, rows)
    quality = Quality(rows)
    write_sheet(store, rows, quality.flags, quality.reasons, quality.parts)
    return quality


def renew_quality(folder: str | Path) -> Quality:
    """Make table and page of a finished store again, from what lies in it; of an earlier version's, too.

    Raises:
        StoreError: no finished store, a damaged study, or the place cannot be written.
    """
    store = Store(folder)
    try:
        rows = [row for file in _files(store) for row in rows_of(read_metadata(file))]
        quality = write_quality(store.path, rows, {record.study_id: record.report for record in store.records})
        write_checksums(store.path)
    except OSError as error:
        raise StoreError(f"{store.path}: cannot be written ({error})") from error
    return quality


def _files(store: Store) -> Iterable[Path]:
    """Of every study, in the order of the table that is there, which is the manifest's."""
    try:
        known = [row["study_id"] for row in read_table(store.path)]
    except (OSError, ValueError):  # lost: skipped studies are known by their files alone
        known = [file.name.removesuffix(".skipped.json") for file in sorted((store.path / "studies").glob("*.skipped.json"))]
    for study in dict.fromkeys([*known, *store.study_ids]):
        skipped = skipped_file(store.path, study)
        yield skipped if skipped.is_file() else study_file(store.path, study)


def _listed(counts: Mapping[str, int] | Sequence[str]) -> str:
    said = [f"{name} {count}" for name, count in counts.items()] if isinstance(counts, Mapping) else list(counts)
    return f": {', '.join(said)}" if said else ""
