"""What an earlier run of the same import left at the manifest's place.

Exports come in tranches, and cohorts grow. So nothing of an earlier run is dropped without a word, and a patient whose split was drawn once
stays in it: drawn anew, a patient that a model was trained on could stand in its test split.

    earlier = Earlier.at(manifest, how)          how: "" refuses where studies are gone, "add" keeps them, "replace" drops all that was
    earlier.splits                               patient -> split
    studies, notes = earlier.beside(studies)     with those that are kept
"""

from __future__ import annotations

import csv
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from hlip.importing.outcome import ImportingError, LeftOut, left_out_file
from hlip.study import Study, read_manifest

How = Literal["", "add", "replace"]
_NAMED = 3


@dataclass(frozen=True)
class Earlier:
    """An earlier import's studies, and what is to become of them."""

    manifest: Path
    studies: tuple[Study, ...] = ()
    how: How = ""

    @classmethod
    def at(cls, manifest: Path, how: How = "") -> Earlier:
        """
        Raises:
            ManifestError: what stands there has faults.
        """
        if how == "replace" or not manifest.exists():
            return cls(manifest, (), how)
        return cls(manifest, tuple(read_manifest(manifest)), how)

    @cached_property
    def splits(self) -> Mapping[str, str]:
        """The split of each patient that has one."""
        return {study.patient_id: study.split for study in self.studies if study.split is not None}

    def gone(self, found: Collection[str]) -> list[Study]:
        """Those that are not among the ids which a new run found."""
        return [study for study in self.studies if study.study_id not in found]

    def check(self, found: Collection[str]) -> None:
        """
        Raises:
            ImportingError: studies would be dropped, and nobody said that they are to be.
        """
        if self.how == "add" or not (gone := self.gone(found)):
            return
        names = ", ".join(study.study_id for study in gone[:_NAMED]) + (", ..." if len(gone) > _NAMED else "")
        raise ImportingError(
            f"{self.manifest}: holds {len(gone)} studies that are not among the {len(found)} found now ({names}); --add keeps them, "
            "--replace drops them, or name another place"
        )

    def beside(self, studies: Sequence[Study]) -> tuple[list[Study], list[str]]:
        """The new studies, the kept ones before them, and notes.

        Raises:
            ImportingError: see `check`.
        """
        found = {study.study_id for study in studies}
        self.check(found)
        gone = self.gone(found)
        if self.how != "add" or not self.studies:
            return list(studies), []
        both = len(self.studies) - len(gone)
        notes = [f"{len(gone)} studies of earlier imports are kept, {len(studies) - both} are new"]
        if both:
            notes.append(f"{both} studies were there before: what was found now stands in their place")
        return [*gone, *studies], notes

    def left_out(self, found: Sequence[LeftOut], studies: Sequence[Study]) -> list[LeftOut]:
        """What is left out now, before it what earlier imports left out, but for rows of studies (`ID/...`) that were found anew.

        Args:
            studies: all that the manifest will hold.
        """
        file = left_out_file(self.manifest)
        if self.how != "add" or not file.is_file():
            return list(found)
        with file.open(encoding="utf-8", newline="") as lines:
            rows = [LeftOut(row["path"], row["reason"], row["message"]) for row in csv.DictReader(lines)]
        anew = {study.study_id for study in studies} - {
            study.study_id for study in self.gone({study.study_id for study in studies})
        }
        return [*(row for row in rows if row not in found and row.path.split("/")[0] not in anew), *found]
