"""Could the result be too good? Checks that need no model: patients and images in several splits, labels that metadata alone tells, prompts
that stand in the reports.

Every check is a finding in words with its numbers, `ok`, `warning` (look at it) or `leak` (the test result is not clean).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hlip import metrics
from hlip.quality.duplicates import voxel_hash
from hlip.store import Store, StoreError, StudyRecord, read_metadata, study_file
from hlip.taxonomy import Taxonomy

METADATA_WARNING = 0.7
"""AUC of metadata alone from which a class is named, where the interval's lower end lies above chance too."""
LEAST_WORDS = 5
"""A prompt of fewer words is the name of a disease, which a report may well contain."""
SHOWN = 10


@dataclass
class Finding:
    """What one check came to."""

    check: str
    state: str
    """ok, warning, leak or not checked."""
    text: str
    cases: list[Any] = field(default_factory=list)
    """The first few, for the report."""
    looked: str = ""
    """How much was looked at: `2,208 patients`."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class Place(NamedTuple):
    """Where a study stands, for who has no `StudyRecord`."""

    patient_id: str
    split: str


def patients_apart(records: Sequence[StudyRecord | Place]) -> Finding:
    """No patient in two splits."""
    splits: dict[str, set[str]] = defaultdict(set)
    for record in records:
        if record.split:
            splits[record.patient_id].add(record.split)
    torn = sorted(patient for patient, found in splits.items() if len(found) > 1)
    looked = f"{len(splits):,} patients"
    if not torn:
        return Finding("patients", "ok", f"each of {len(splits)} patients has studies in one split only", looked=looked)
    some = f"{len(torn)} of {len(splits)} patients have" if len(torn) > 1 else f"1 of {len(splits)} patients has"
    return Finding("patients", "leak", f"{some} studies in several splits", torn[:SHOWN], looked)


def _hashes(store: Store, study_id: str) -> list[str]:
    """Of a study's volumes; studies of an earlier version, which hold none, are read."""
    found = read_metadata(study_file(store.path, study_id)).get("hashes")
    return list(found) if found is not None else [voxel_hash(volume) for volume in store.volumes(study_id).numpy()]


def _constant(store: Store, study_id: str, digest: str) -> bool:
    volumes = [volume for volume in store.volumes(study_id).numpy() if voxel_hash(volume) == digest]
    return all(np.ptp(volume) == 0 for volume in volumes)


def images_apart(
    store: Store, records: Sequence[StudyRecord], progress: Callable[[Iterable[Any]], Iterable[Any]] = iter
) -> Finding:
    """No prepared volume, voxel by voxel, in two splits or two patients; constant volumes do not count.

    By the hashes in the study files (`hlip check` holds them against the voxels); voxels are read only of what several studies have.
    """
    places: dict[str, list[StudyRecord]] = defaultdict(list)
    unread = []
    for record in progress(records):
        try:
            for digest in set(_hashes(store, record.study_id)):
                places[digest].append(record)
        except StoreError:
            unread.append(record.study_id)
    shared = {digest: found for digest, found in places.items() if len(found) > 1}
    twice = [found for digest, found in shared.items() if not _constant(store, found[0].study_id, digest)]
    torn = [found for found in twice if len({record.split for record in found}) > 1]
    others = [found for found in twice if found not in torn and len({record.patient_id for record in found}) > 1]
    looked = f"{len(places):,} volumes"
    note = f"; {len(unread)} studies could not be read" if unread else ""
    cases = [[f"{record.study_id} ({record.split})" for record in found] for found in (torn or others)[:SHOWN]]
    if torn:
        return Finding("images", "leak", f"{len(torn)} volumes are, voxel by voxel, in several splits{note}", cases, looked)
    if others:
        return Finding(
            "images",
            "warning",
            f"{len(others)} volumes are, voxel by voxel, in studies of several patients{note}",
            cases,
            looked,
        )
    if not places:
        return Finding("images", "not checked", f"no volume could be read{note}")
    return Finding("images", "ok", f"no two splits share any of {len(places)} volumes{note}", looked=looked)


def metadata_alone(records: Sequence[StudyRecord], taxonomy: Taxonomy, *, resamples: int = 200, seed: int = 0) -> Finding:
    """How well the last level is told without looking: a random forest on scanner, sequences, number of scans, sex, age and other plain
    fields of the manifest, fitted on the training split, asked about the test split."""
    from sklearn.ensemble import RandomForestClassifier

    labelled = [record for record in records if record.labels is not None]
    train, test = ([record for record in labelled if record.split == split] for split in ("train", "test"))
    if not train or not test:
        return Finding("metadata", "not checked", "there are no labelled training studies to learn from")
    features, names = _features(labelled)
    rows = {record.study_id: row for row, record in enumerate(labelled)}
    both = [features[[rows[record.study_id] for record in part]] for part in (train, test)]
    (targets, known), (asked, answerable) = (taxonomy.encode_all([r.labels for r in part])[-1] for part in (train, test))
    weights = np.concatenate(
        [np.ones((len(test), 1), np.float32), *metrics.patient_bootstrap([r.patient_id for r in test], resamples, seed)], axis=1
    )
    told = []
    for place, item in enumerate(taxonomy.classes(taxonomy.depth)):
        own, others = known[:, place] > 0, answerable[:, place] > 0
        positives = asked[others, place] > 0
        if len(set(targets[own, place])) < 2 or min(positives.sum(), (~positives).sum()) < 5:
            continue
        forest = RandomForestClassifier(200, min_samples_leaf=5, class_weight="balanced", random_state=seed, n_jobs=1)
        chance = forest.fit(both[0][own], targets[own, place]).predict_proba(both[1])[:, 1]
        areas = metrics.Ranking.of(asked[:, place] > 0, chance, others).areas(weights)[0]
        told.append((float(areas[0]), *metrics.interval(areas[1:]), item.name))
    if not told:
        return Finding("metadata", "not checked", "no class has 5 positive and 5 negative test studies")
    mean = float(np.mean([area for area, *_ in told]))
    area, low, high, highest = max(told)
    text = f"mean AUC {mean:.2f} over {len(told)} classes from {', '.join(names)} alone"
    text += f", most of {highest}: {area:.2f} ({low:.2f} to {high:.2f})"
    looked = f"{len(told)} of {len(taxonomy.classes(taxonomy.depth))} classes"
    suspect = sorted((entry for entry in told if entry[0] >= METADATA_WARNING and entry[1] > 0.5), reverse=True)
    cases = [f"{name}: {area:.2f} ({low:.2f} to {high:.2f})" for area, low, high, name in suspect[:SHOWN]]
    if suspect:
        return Finding(
            "metadata",
            "warning",
            f"{text}; they tell {len(suspect)} classes, which a model may have learnt instead",
            cases,
            looked,
        )
    return Finding("metadata", "ok", f"{text}; looked into from {METADATA_WARNING} on", looked=looked)


def prompts_not_in_reports(prompts: Sequence[str], records: Sequence[StudyRecord]) -> Finding:
    """No whole prompt of `LEAST_WORDS` words or more stands word for word in a test study's report."""
    long = {prompt: f" {_plain(prompt)} " for prompt in dict.fromkeys(prompts) if len(_plain(prompt).split()) >= LEAST_WORDS}
    if not prompts:
        return Finding("prompts", "not checked", "no method answers by prompts")
    if not long:
        few = f"none of {len(set(prompts))} prompts has {LEAST_WORDS} words or more; shorter ones are names of diseases"
        return Finding("prompts", "not checked", few)
    test = [record for record in records if record.split == "test"]
    texts = {record.study_id: f" {_plain(record.report or ' '.join(record.sentences))} " for record in test}
    told = sum(bool(text.strip()) for text in texts.values())
    if not told:
        return Finding("prompts", "not checked", "no test study has a report")
    looked = f"{len(long)} of {len(set(prompts))} prompts (those of {LEAST_WORDS} words or more) in {told:,} reports"
    found = []
    for record in test:
        text = texts[record.study_id]
        found += [(record.study_id, prompt) for prompt, words in long.items() if words in text]
    if found:
        studies = len({study for study, _ in found})
        cases = [f"{study}: {prompt}" for study, prompt in found[:SHOWN]]
        said = f"{len({prompt for _, prompt in found})} prompts stand word for word in the reports of {studies} of {len(test)} test studies"
        return Finding("prompts", "warning", f"{said}: they may have been written from them", cases, looked)
    return Finding(
        "prompts",
        "ok",
        f"none of {len(long)} prompts of {LEAST_WORDS} words or more (of {len(set(prompts))} prompts) stands in a test study's report",
        looked=looked,
    )


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", " ", text.lower()).strip()


def _features(records: Sequence[StudyRecord]) -> tuple[NDArray[np.float32], list[str]]:
    """(N, F) and what they are: number of scans, count of each sequence, plain fields of the manifest (numbers, or words with few values)."""
    sequences = sorted({name for record in records for name in record.sequences})
    columns = [[float(len(record.sequences)) for record in records]]
    columns += [[float(record.sequences.count(name)) for record in records] for name in sequences]
    names = ["number of scans", "sequences"]
    for key in sorted({key for record in records for key in record.extra}):
        values = [record.extra.get(key) for record in records]
        if all(value is None or isinstance(value, bool | int | float) for value in values):
            numbers = [float("nan") if value is None else float(value) for value in values]
            if len(set(numbers)) > 1:
                columns.append([-1.0 if np.isnan(number) else number for number in numbers])
                names.append(key)
        elif all(value is None or isinstance(value, str) for value in values) and len(set(values)) <= min(50, len(values) // 5):
            columns += [[float(value == one) for value in values] for one in sorted({str(value) for value in values if value})]
            names.append(key)
    return np.array(columns, np.float32).T, names
