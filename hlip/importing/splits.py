"""Splits by patient: checked where somebody states them, drawn for the patients of whom nobody does.

Drawn patient by patient, largest first: each goes where its classes, and studies altogether, are most wanting. Classes then have about the
wanted shares in each split, whatever the shares are (equal folds, as libraries make them, give only some). A patient that an earlier run of
the import placed stays there; the new ones fill up what is wanting. A study that is not in the split it had is told.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from hlip.importing.earlier import Earlier
from hlip.importing.outcome import ImportingError, some
from hlip.study import SPLITS, Study

SHARES = (0.7, 0.1, 0.2)
"""Of train, val and test."""
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "holdout", "held_out", "held-out"), "test"),
}
"""What others call the splits."""
REMEDY = "give all studies of a patient the same one"
"""For whom a patient stands in several splits."""


def split_studies(
    studies: Sequence[Study], shares: Sequence[float] | None, seed: int, earlier: Earlier | None = None
) -> tuple[list[Study], list[str]]:
    """Studies with their splits, and notes: a patient's is the one that any of its studies states, else drawn, beside the stated ones.

    Args:
        earlier: an earlier run, whose patients stay where they are.

    Raises:
        ImportingError: `shares` although all splits are stated, a patient in several splits, or impossible shares.
    """
    stated = [study for study in studies if study.split is not None]
    earlier = earlier or Earlier(Path())
    gone = earlier.gone({study.study_id for study in studies}) if earlier.how == "add" else []
    if shares is not None and len(stated) == len(studies):
        raise ImportingError(f"all {len(stated)} studies state their split themselves; leave --splits out")
    if stated:
        check_patients([*(study for study in gone if study.split is not None), *stated], REMEDY)
    said = {study.patient_id: str(study.split) for study in stated}
    before = earlier.homes(studies)
    drawn = draw_splits([*gone, *studies], SHARES if shares is None else shares, seed, before | said)
    done = [replace(study, split=drawn[study.patient_id]) for study in studies]
    notes = _on_bare(studies, said)
    bare = [study.patient_id for study in studies if study.split is None]
    if kept := len(set(bare) & before.keys() - said.keys()):
        notes.append(f"{kept} patients stay in the split that they had; --replace draws all of them anew")
    return done, [*notes, *earlier.moved(done)]


def _on_bare(studies: Sequence[Study], said: Mapping[str, str]) -> list[str]:
    """A note on studies without a split beside others that state theirs (`said`: patient -> split)."""
    bare = [study.patient_id for study in studies if study.split is None]
    if not said or not bare:
        return []
    same = sum(patient in said for patient in bare)
    return [
        f"{len(bare)} of {len(studies)} studies state no split: {same} take the one that their patient has elsewhere, {len(bare) - same} "
        "are drawn by patient, beside the stated ones"
    ]


def draw_beside(studies: Sequence[Study], shares: Sequence[float], seed: int, manifest: Path) -> tuple[list[Study], list[str]]:
    """Studies with drawn splits, and notes: patients of an earlier manifest at this place stay where they were, but for stated splits.

    Raises:
        ImportingError: shares that are not three parts of 1.
        ManifestError: what stands there has faults.
    """
    before = Earlier.at(manifest).homes(studies)
    said = {study.patient_id: study.split for study in studies if study.split is not None}
    drawn = draw_splits(studies, shares, seed, before | said)
    kept = len({study.patient_id for study in studies} & before.keys() - said.keys())
    notes = _on_bare(studies, said)
    notes += [f"{kept} patients stay in the split that they had; delete {manifest} to draw all of them anew"] if kept else []
    return [replace(study, split=drawn[study.patient_id]) for study in studies], notes


def draw_splits(
    studies: Sequence[Study], shares: Sequence[float], seed: int, before: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The split of each patient; every split with a share gets a patient as long as there are enough.

    Args:
        before: patient -> split of those that have one and keep it.

    Raises:
        ImportingError: shares that are not three parts of 1.
    """
    import numpy as np  # here, so that a command line that only describes itself is quick

    check_shares(shares)
    patients = sorted({study.patient_id for study in studies})
    columns = {
        name: place for place, name in enumerate(sorted({label for study in studies for label in study.labels or ("",)}), 1)
    }
    row = {patient: place for place, patient in enumerate(patients)}
    counts = np.zeros((len(patients), 1 + len(columns)))  # column 0: all studies
    for study in studies:
        counts[row[study.patient_id], [0, *(columns[label] for label in study.labels or ("",))]] += 1
    wanted = np.array(shares)[:, None] * np.ones(counts.shape[1])
    parts = counts / counts.sum(axis=0)  # of each class, so that rare ones weigh as much
    order = np.random.default_rng(seed).permutation(len(patients))
    order = order[np.argsort(-counts[order, 0], kind="stable")]
    home = np.zeros(len(patients), dtype=np.int64)
    fixed = {row[patient]: SPLITS.index(split) for patient, split in (before or {}).items() if patient in row}
    for number, its_split in fixed.items():
        home[number] = its_split
        wanted[its_split] -= parts[number]
    order = order[[place not in fixed for place in order.tolist()]]
    for place in order:
        lack = (wanted[:, counts[place] > 0]).mean(axis=1)
        home[place] = np.where(np.array(shares) > 0, lack, -np.inf).argmax()
        wanted[home[place]] -= parts[place]
    for split in np.flatnonzero(np.array(shares) > 0):
        sizes = np.bincount(home, minlength=len(SPLITS))
        movable = [place for place in order[::-1] if sizes[home[place]] > 1]
        if not sizes[split] and movable:
            # the smallest patient of the largest split that can spare one
            home[max(movable, key=lambda place: (sizes[home[place]], -home[place]))] = split
    return {patient: SPLITS[home[row[patient]]] for patient in patients}


def check_shares(shares: Sequence[float]) -> None:
    """
    Raises:
        ImportingError: shares that are not three parts of 1.
    """
    if len(shares) != len(SPLITS) or not min(shares) >= 0 or not abs(sum(shares) - 1) <= 1e-6:
        raise ImportingError(
            f"splits {' '.join(map(str, shares))}: expected the shares of {', '.join(SPLITS)}, which sum up to 1"
        )


def check_patients(
    studies: Sequence[Study], remedy: str, table: Path | None = None, lines: Mapping[str, int] | None = None
) -> None:
    """
    Args:
        remedy: what their owner can do.
        table: that states the splits, if one does.
        lines: study -> its line there.

    Raises:
        ImportingError: a patient in several splits.
    """
    homes: defaultdict[str, dict[str, str]] = defaultdict(dict)  # patient -> split -> an example of it
    for study in studies:
        line = (lines or {}).get(study.study_id)
        homes[study.patient_id].setdefault(str(study.split), f" (line {line})" if line else f" ({study.study_id})")
    torn = [
        f"{patient}: {', '.join(split + example for split, example in sorted(found.items()))}"
        for patient, found in sorted(homes.items())
        if len(found) > 1
    ]
    if torn:
        where = f"{table}: " if table else ""
        raise ImportingError(f"{where}{len(torn)} patients are in several splits, a leak; {remedy}{some(torn)}")
