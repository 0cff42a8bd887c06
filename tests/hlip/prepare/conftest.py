"""Good studies to prepare, and a look at which of them are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hlip.prepare import cohort as every_study

from .small_cohort import manifest, scan, study


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    """Five good studies of one or two scans."""
    studies = []
    for n in range(5):
        names = [scan(tmp_path / f"s{n}_t1.nii.gz", n)] + ([scan(tmp_path / f"s{n}_flair.nii.gz", 50 + n)] if n % 2 else [])
        studies.append(study(f"s{n}", *names, age=n))
    return manifest(tmp_path, studies)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ids of the studies that are really prepared, in order."""
    ids: list[str] = []
    real: Callable[..., str] = every_study.prepare_study

    def spy(*job: Any) -> str:
        ids.append(job[1].study_id)
        return real(*job)

    monkeypatch.setattr(every_study, "prepare_study", spy)
    return ids
