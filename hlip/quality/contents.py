"""One number for what a store holds, whoever prepared it and where: for two sites to see that they have the same data."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from hlip.store import read_metadata, read_spec, study_file


def contents_digest(folder: Path) -> str | None:
    """32 hex digits of the spec, every study's row of the index (reports, labels, splits) and the hashes and places of its volumes.

    The order of the studies, paths and times of change have no part in it. None for a store of an earlier version, without hashes.

    Raises:
        StoreError, OSError: the store cannot be read.
    """
    lines = []
    for line in (folder / "index.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        metadata = read_metadata(study_file(folder, row["study_id"]))
        if "hashes" not in metadata:
            return None
        lines.append(json.dumps([row, metadata["hashes"], metadata.get("affines", [])], sort_keys=True))
    whole = "\n".join([read_spec(folder).digest(), *sorted(lines)])
    return hashlib.blake2b(whole.encode(), digest_size=16).hexdigest()
