"""What an earlier run of the same import left at the manifest's place.

Exports come in tranches, and cohorts grow. So nothing of an earlier run is dropped without a word, and a patient whose split was drawn once
stays in it: drawn anew, a patient that a model was trained on could stand in its test split.

    earlier = Earlier.at(manifest, how)          how: "" refuses where studies are gone, "add" keeps them, "replace" drops all that was
    earlier.splits                               patient -> split
    earlier.homes(studies)                       the same, with patients whose id was not known then
    studies, notes = earlier.fields(studies, given)  with what tables said of them, where no table is given now
    studies, notes = earlier.beside(studies)     with those that are kept
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from hlip.importing.outcome import ImportingError, LeftOut, left_out_file
from hlip.study import SPLITS, Study, read_manifest

How = Literal["", "add", "replace"]
_NAMED = 3
_OF_STUDY = ("patient_id", "report", "sentences", "labels")  # fields that are no `extra`
_WITH = {"sentences": "report", "labels_from": "labels"}  # field -> the one it goes with


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

    @cached_property
    def _of_study(self) -> Mapping[str, str]:
        """The split of each study that has one."""
        return {study.study_id: study.split for study in self.studies if study.split is not None}

    def homes(self, studies: Sequence[Study]) -> dict[str, str]:
        """The split that each patient had: under its id, else by its studies; of several train before val before test, as a model may
        know them.

        Args:
            studies: of the new run.
        """
        homes = dict(self.splits)
        for study in studies:
            split = self._of_study.get(study.study_id)
            if split is not None and study.patient_id not in self.splits:
                homes[study.patient_id] = min(split, homes.get(study.patient_id, split), key=SPLITS.index)
        return homes

    def moved(self, studies: Sequence[Study]) -> list[str]:
        """A note on studies of the new run that are not in the split they had."""
        before = [(study, self._of_study.get(study.study_id)) for study in studies]
        moves = [
            f"{study.study_id} ({split} -> {study.split or 'none'})"
            for study, split in before
            if split not in (None, study.split)
        ]
        if not moves:
            return []
        return [
            f"{len(moves)} studies are in another split than before: {_named(moves)}; a model that was trained before may know studies "
            "that are now in val or test"
        ]

    def unusable(self, left_out: Sequence[LeftOut]) -> set[str]:
        """Ids of those of whose scans a file, or a folder above it, is left out now: they are there, but not usable."""
        paths = {row.path for row in left_out}
        scans = ((study, scan.path) for study in self.studies for scan in study.scans)
        return {study.study_id for study, path in scans if any(str(place) in paths for place in (path, *path.parents))}

    def fields(
        self, studies: Sequence[Study], given: Collection[str], unchanged: Collection[str] = ()
    ) -> tuple[list[Study], list[str]]:
        """Studies with the fields that they had and that nobody states now, and notes with the counts.

        Args:
            studies: of the new run, joined.
            given: fields of which a table is given now: they are as it says, though it says nothing of a study.
            unchanged: ids of studies whose files are as they were: what else they had, a table said, and it stays.
        """
        before = {study.study_id: _stated(study) for study in self.studies}
        kept, other, lost = Counter[str](), Counter[str](), Counter[str]()
        done = []
        for study in studies:
            now, put = _stated(study), {}
            for name, value in before.get(study.study_id, {}).items():
                if _WITH.get(name, name) in given:
                    lost[name] += name not in now
                elif name not in now or (study.study_id in unchanged and now[name] != value):
                    put[name], kept[name] = value, kept[name] + 1
                else:
                    other[name] += now[name] != value
            own = {name: value for name, value in put.items() if name in _OF_STUDY}
            extra = {name: value for name, value in put.items() if name not in own}
            done.append(replace(study, **own, extra=study.extra | extra) if put else study)
        notes = [
            f"{words}: {', '.join(f'{name} of {count} studies' for name, count in sorted(counts.items()) if count)}"
            for words, counts in (
                ("kept from earlier imports, as no table is given for it now (--replace starts from nothing)", kept),
                ("no longer there, as the tables given now do not state it", lost),
                ("not what earlier imports had", other),
            )
            if counts.total()
        ]
        return done, notes

    def gone(self, found: Collection[str]) -> list[Study]:
        """Those that are not among the ids which a new run found."""
        return [study for study in self.studies if study.study_id not in found]

    def others(self, studies: Sequence[Study]) -> set[str]:
        """Patients of studies that stay beside those of a new run."""
        kept = self.gone({study.study_id for study in studies}) if self.how == "add" else []
        return {study.patient_id for study in kept}

    def check(self, found: Collection[str]) -> None:
        """
        Raises:
            ImportingError: studies would be dropped, and nobody said that they are to be.
        """
        if self.how == "add" or not (gone := self.gone(found)):
            return
        names = _named([study.study_id for study in gone])
        raise ImportingError(
            f"{self.manifest}: holds {len(gone)} studies that are not among the {len(found)} found now ({names}); --add keeps them, "
            "--replace drops them, or name another place"
        )

    def beside(self, studies: Sequence[Study], seen: Collection[str] = ()) -> tuple[list[Study], list[str]]:
        """The new studies, the kept ones before them, and notes.

        Args:
            seen: ids of studies that are there, but not usable: they leave the manifest, which is said, unless earlier ones are kept.

        Raises:
            ImportingError: see `check`.
        """
        found = {study.study_id for study in studies}
        self.check(found | set(seen))
        gone = self.gone(found)
        if self.how != "add" or not self.studies:
            names = _named([study.study_id for study in gone])
            return list(studies), [f"{len(gone)} studies are not usable now and leave the manifest: {names}"] if gone else []
        both = len(self.studies) - len(gone)
        notes = [f"{len(gone)} studies of earlier imports are kept, {len(studies) - both} are new"]
        if both:
            notes.append(f"{both} studies were there before: what was found now stands in their place")
        return [*gone, *studies], notes

    def left_out(self, found: Sequence[LeftOut], studies: Sequence[Study]) -> list[LeftOut]:
        """What is left out now, before it what earlier imports left out, but for rows of studies (`ID/...`) that were found anew, and of
        files and folders that are scans now, or hold some.

        Args:
            studies: all that the manifest will hold, the kept ones as they are in `self.studies`.
        """
        file = left_out_file(self.manifest)
        if self.how != "add" or not file.is_file():
            return list(found)
        with file.open(encoding="utf-8", newline="") as lines:
            rows = [LeftOut(row["path"], row["reason"], row["message"]) for row in csv.DictReader(lines)]
        kept = {id(study) for study in self.studies}
        anew = [study for study in studies if id(study) not in kept]
        ids = {study.study_id for study in anew}
        files = {scan.path for study in anew for scan in study.scans}
        places = {str(place) for place in files | {above for file in files for above in file.parents}}
        rows = [row for row in rows if row not in found and row.path.split("/")[0] not in ids and row.path not in places]
        return [*rows, *found]


def _stated(study: Study) -> dict[str, Any]:
    """The fields of a study that a table can state, as far as they are known; a patient of the study's own name is not."""
    own: dict[str, Any] = {"patient_id": study.patient_id} if study.patient_id != study.study_id else {}
    own |= {"report": study.report} if study.report else {}
    own |= {"sentences": study.sentences} if study.sentences else {}
    own |= {"labels": study.labels} if study.labels is not None else {}
    plain = {name: value for name, value in study.extra.items() if not isinstance(value, list | dict) and name != "imported"}
    return own | plain


def _named(names: Sequence[str]) -> str:
    """The first of them."""
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
