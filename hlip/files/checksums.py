"""What a store's files are recognised by: a digest within each study's file, and SHA-256 of the files beside the studies."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hlip.files.folders import write_atomically

NAME = "checksums.txt"
_BESIDE = ("volume_spec.json", "report_spec.json", "quality.parquet", "quality.html", "index.jsonl")


def canonical(metadata: Mapping[str, Any]) -> str:
    """JSON whose bytes depend on the content alone."""
    return json.dumps(metadata, ensure_ascii=False, sort_keys=True)


def study_digest(metadata: Mapping[str, Any], pictures: Mapping[str, NDArray[np.uint8]]) -> str:
    """Of everything in a study's file but the voxels, whose hashes are part of the metadata; 32 hex digits.

    Args:
        metadata: its own `digest`, if it has one, does not count.
        pictures: by the name of their tensors.
    """
    content = hashlib.blake2b(canonical({key: metadata[key] for key in metadata if key != "digest"}).encode(), digest_size=16)
    for name in sorted(pictures):
        content.update(name.encode() + pictures[name].tobytes())
    return content.hexdigest()


def write_checksums(store: Path, coming: Mapping[str, bytes] | None = None) -> None:
    """Write STORE/checksums.txt of what lies beside the studies.

    Args:
        coming: content of files that are about to be written.
    """
    coming = coming or {}
    sums = {name: hashlib.sha256(coming[name]).hexdigest() if name in coming else sha256(store / name)
            for name in _BESIDE if name in coming or (store / name).is_file()}  # fmt: skip
    write_atomically(store / NAME, "".join(f"{digest}  {name}\n" for name, digest in sums.items()).encode())


def read_checksums(store: Path) -> dict[str, str]:
    """File name -> SHA-256; empty for a store of an earlier version.

    Raises:
        OSError, ValueError: it cannot be read.
    """
    file = store / NAME
    if not file.is_file():
        return {}
    pairs = [line.split("  ", 1) for line in file.read_text(encoding="utf-8").splitlines()]
    return {name: digest for digest, name in pairs}


def sha256(file: Path) -> str:
    """Of a file's content, hex."""
    content = hashlib.sha256()
    with file.open("rb") as stream:
        while piece := stream.read(1 << 20):
            content.update(piece)
    return content.hexdigest()
