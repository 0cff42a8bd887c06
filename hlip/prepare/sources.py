"""What a study is made of, and whether that is what lies in the store."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hlip.reports import split_sentences
from hlip.scans.archive import archive_of
from hlip.scans.filekind import is_dicom
from hlip.store import StoreError, read_metadata, skipped_file, study_file
from hlip.study import Study
from hlip.volume import VolumeSpec


def is_done(store: Path, study: Study, spec: VolumeSpec, base: Path) -> bool:
    """Whether a study was prepared with this spec from just these files, and nothing of it is to be tried again."""
    for file in (study_file(store, study.study_id), skipped_file(store, study.study_id)):
        if file.is_file():
            try:
                metadata = read_metadata(file)
            except StoreError:
                return False
            same = metadata.get("spec") == spec.digest() and metadata.get("sources") == sources_of(study, base)
            return same and not metadata.get("again")
    return False


def sources_of(study: Study, base: Path) -> list[list[Any]]:
    """What a study is made of, as JSON gives it back: whether it has a report (the quality rows say so), and path,
    sequence, bytes and time of change of each scan."""
    sources: list[list[Any]] = [[bool(study.sentences or split_sentences(study.report))]]
    for scan in study.scans:
        inside = archive_of(scan.path)
        # a DICOM file stands for its series, a zip for what lies in it
        whole = inside[0] if inside else scan.path.parent if is_dicom(scan.path) else scan.path
        try:
            stats = [file.stat() for file in (whole.iterdir() if whole.is_dir() else [whole])]
        except OSError:  # missing or closed to us: reading will say so
            stats = []
        sources.append([
            source_path(scan.path, base), scan.sequence, sum(stat.st_size for stat in stats),
            max((stat.st_mtime_ns for stat in stats), default=0),
        ])  # fmt: skip
    return sources


def source_path(path: Path, base: Path) -> str:
    """Relative to the manifest where it lies below it, so that a moved tree keeps its store."""
    whole = absolute(path)
    return whole.relative_to(base).as_posix() if whole.is_relative_to(base) else whole.as_posix()


def absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))  # `resolve` would follow links, and a linked tree would lose its names
