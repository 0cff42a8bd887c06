"""Who is learnt from: labelled studies of a split, a share of their patients, a fold, and how often each is drawn.

Everything goes by patient: two studies of one patient never part, neither between folds nor by the share of labels.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from textwrap import shorten

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hlip.metrics import class_aucs, macro
from hlip.store import Store, StudyRecord
from hlip.taxonomy import Taxonomy, TaxonomyError
from hlip.taxonomy.tree import Below
from hp2l.encoders import ScanReader

LONGEST = 200
"""Characters of a label's fault that are told."""


@dataclass
class CohortConfig:
    """Which labelled studies a run learns from."""

    fraction: float = 1.0
    """Share of the training patients whose labels are used; a smaller share is part of every larger one of the same seed."""
    folds: int = 0
    """k-fold: train and val splits are put together and parted anew by patient, as evenly in their classes as they can be. 0: the
    splits as they stand."""
    fold: int = 0
    """Which of the folds validates, from 0; -1 runs them all, into OUT/fold_0, OUT/fold_1, ..."""
    balance: float = 0.0
    """How often a study is drawn: (share of studies with its rarest class) ** -balance. 0: every study once an epoch."""
    seed: int = 0
    """Of shares and folds; kept apart from the run's seed, so that several seeds learn from the same studies."""
    labelled_in: str = ""
    """The tree, name or file, that the labels were written for, where the run's own was cut from it: a label that was cut away counts as
    the nearest class above it that was not; a study with one that has none is left out, unless another of its labels lies below that
    one. Empty: the run's own tree."""

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise ValueError(f"cohort.fraction {self.fraction} is not in (0, 1]")
        if self.folds == 1 or self.folds < 0 or not (-1 if self.folds else 0) <= self.fold < max(1, self.folds):
            raise ValueError(
                f"cohort.fold {self.fold} of cohort.folds {self.folds}: folds are 0 (none) or at least 2, fold from 0 to folds - 1 (-1: each)"
            )
        if self.balance < 0:
            raise ValueError(f"cohort.balance {self.balance} is negative")


class Labels:
    """Targets of studies at every level; rows follow the records.

    Args:
        below: what is unknown below a coarse label, see `Taxonomy.encode_all`.
    """

    def __init__(self, records: Sequence[StudyRecord], taxonomy: Taxonomy, below: Below = "level"):
        check_labels(records, taxonomy)
        levels = taxonomy.encode_all([record.labels for record in records], below=below)
        self.targets = [torch.from_numpy(targets) for targets, _ in levels]
        self.known = [torch.from_numpy(known) for _, known in levels]

    def rows(self, indices: Tensor, device: torch.device) -> tuple[list[Tensor], list[Tensor]]:
        """Targets and masks (B, K_l) of some rows, a level each."""
        return [t[indices].to(device) for t in self.targets], [k[indices].to(device) for k in self.known]


def cohort(store: Store, config: CohortConfig, taxonomy: Taxonomy) -> dict[str, list[StudyRecord]]:
    """The labelled studies that are learnt from (`train`) and watched (`val`).

    Raises:
        SystemExit: a split has none.
        TaxonomyError: labels of any split that do not fit the tree, those of the test split, too.
    """
    found = {split: fitted(labelled(store, split), config, taxonomy) for split in ("train", "val")}
    tested = [record for record in store.split("test") if record.labels is not None]  # told now, not after the training
    tested = fitted(tested, config, taxonomy)
    check_labels([*found["train"], *found["val"], *tested], taxonomy)
    if config.folds:
        found = fold(found["train"] + found["val"], config, taxonomy)
    found["train"] = share(found["train"], config.fraction, config.seed)
    return found


def only_read(
    records: dict[str, list[StudyRecord]], reader: ScanReader, say: Callable[[str], None]
) -> dict[str, list[StudyRecord]]:
    """The studies with any scan that an encoder reads; where it reads named ones, how many lack each is said.

    Raises:
        ValueError: a split has no such study.
    """
    if reader.channels is None:
        return records
    every = [record for found in records.values() for record in found]
    present = [sum(reader.places(record)[place] is not None for record in every) for place in range(len(reader.channels))]
    if min(present) == len(every):
        say(f"the encoder reads {', '.join(reader.channels)} of all {len(every)} studies")
    else:
        counts = ", ".join(f"{name} {count}" for name, count in zip(reader.channels, present, strict=True))
        say(f"the encoder reads, of {len(every)} studies: {counts}; what a study lacks is zeros")
    kept = {split: [record for record in found if reader.reads(record)] for split, found in records.items()}
    if without := [record.study_id for record in every if not reader.reads(record)]:
        named = sorted({name for record in every for name in record.sequences})
        say(
            f"left out, none of these scans: {len(without)} studies ({', '.join(without[:5])}{', ...' if len(without) > 5 else ''})"
        )
        if not all(kept.values()):
            empty = ", ".join(split for split, found in kept.items() if not found)
            raise ValueError(
                f"no {empty} study has any of the channels {', '.join(reader.channels)}; the store's scans are called: {', '.join(named)}"
            )
    return kept


def labelled(store: Store, split: str) -> list[StudyRecord]:
    """Studies of a split with labels.

    Raises:
        SystemExit: there is none.
    """
    records = [record for record in store.split(split) if record.labels is not None]
    if not records:
        raise SystemExit(f"{store.path}: no labelled study in split '{split}' (labels and split are fields of the manifest)")
    return records


def fitted(records: Sequence[StudyRecord], config: CohortConfig, taxonomy: Taxonomy) -> list[StudyRecord]:
    """Studies with labels of a tree that was cut, see `CohortConfig.labelled_in`; as they are where no other tree is named.

    Raises:
        SystemExit: none is left.
        TaxonomyError: labels that do not fit the whole tree.
    """
    if not config.labelled_in:
        return list(records)
    whole = Taxonomy.load(config.labelled_in)
    check_labels(records, whole)
    names = {name for level in taxonomy.levels for name in level}
    kept = []
    for record in records:
        above = {label: _upward(label, whole) for label in record.labels or ()}
        homes = {label: next((name for name in chain if name in names), None) for label, chain in above.items()}
        homeless = [label for label, home in homes.items() if home is None]
        if all(any(label in chain for other, chain in above.items() if other != label) for label in homeless):
            labels = dict.fromkeys(home for home in homes.values() if home is not None)
            kept.append(replace(record, labels=tuple(labels)))
    if records and not kept:
        raise SystemExit(f"no {records[0].split} study has labels of the tree {taxonomy.name}, cut from {whole.name}")
    return kept


def unfitted(store: Store, config: CohortConfig, taxonomy: Taxonomy) -> str:
    """How many labelled studies of each split `fitted` leaves out, with the first names; empty if none."""
    counts: list[str] = []
    names: list[str] = []
    total = 0
    for split in ("train", "val", "test"):
        records = [record for record in store.split(split) if record.labels is not None]
        kept = {record.study_id for record in fitted(records, config, taxonomy)}
        out = [record.study_id for record in records if record.study_id not in kept]
        counts, names, total = [*counts, f"{split} {len(out)}"], names + out, total + len(records)
    if not names:
        return ""
    named = ", ".join([*names[:5], *(["..."] if len(names) > 5 else [])])
    return (
        f"left out, labelled only above the levels of this tree: {len(names)} of {total} studies ({', '.join(counts)}; {named})"
    )


def _upward(label: str, taxonomy: Taxonomy) -> list[str]:
    """A class and those above it."""
    item, found = taxonomy.find(label), [label]
    while item.parent_level is not None and item.parent_index is not None:
        item = taxonomy.classes(item.parent_level)[item.parent_index]
        found.append(item.name)
    return found


def share(records: Sequence[StudyRecord], fraction: float, seed: int) -> list[StudyRecord]:
    """The studies of a share of the patients, at least one, in their order."""
    patients = sorted({record.patient_id for record in records})
    order = np.random.default_rng([seed, 0]).permutation(len(patients))
    kept = {patients[place] for place in order[: max(1, round(fraction * len(patients)))]}
    return [record for record in records if record.patient_id in kept]


def fold(records: Sequence[StudyRecord], config: CohortConfig, taxonomy: Taxonomy) -> dict[str, list[StudyRecord]]:
    """Train and val of one fold; stratified by each study's rarest class.

    Raises:
        ValueError: fewer patients than folds, or no class with as many studies.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    patients = [record.patient_id for record in records]
    if len(set(patients)) < config.folds:
        raise ValueError(f"{len(set(patients))} patients cannot be parted into {config.folds} folds")
    classes = rarest_class(Labels(records, taxonomy))
    if (most := int(np.bincount(classes).max())) < config.folds:
        raise ValueError(
            f"cohort.folds {config.folds}: studies are parted by their rarest class, and the largest such group has {most}; "
            + (f"{most} folds at most" if most > 1 else "they cannot be parted so")
        )
    parts = StratifiedGroupKFold(config.folds, shuffle=True, random_state=config.seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a class rarer than the folds cannot be in each; it is in some
        train, val = list(parts.split(patients, classes, patients))[config.fold]
    return {"train": [records[place] for place in train], "val": [records[place] for place in val]}


def rarest_class(labels: Labels) -> NDArray[np.int64]:
    """(N,) for each study the class of the last level it has that fewest have; K where it has none."""
    targets = labels.targets[-1].numpy()
    counts = targets.sum(axis=0)
    rarity = np.where(targets > 0, counts, np.inf)
    return np.where(targets.any(axis=1), rarity.argmin(axis=1), targets.shape[1]).astype(np.int64)


def draw_weights(labels: Labels, balance: float) -> list[float] | None:
    """Relative chance of each study to be drawn, by how many have its rarest class; None where all are alike.

    A study that is known at coarse levels alone counts by its rarest class there.
    """
    if not balance:
        return None
    shares = np.ones(len(labels.targets[0]))
    for targets in (level.numpy() for level in labels.targets):  # the finest level that knows a study has the last word
        rarest = np.where(targets > 0, targets.mean(axis=0), np.inf).min(axis=1)
        shares = np.where(np.isfinite(rarest), rarest, shares)
    return (shares**-balance).tolist()


def cohort_digest(records: Mapping[str, Sequence[StudyRecord]], spec: str) -> str:
    """Hex digest of which studies train and validate, whose they are, their labels, and their preparation (a VolumeSpec's digest)."""
    facts = {
        split: [[record.study_id, record.patient_id, sorted(record.labels or ())] for record in own]
        for split, own in records.items()
    }
    return hashlib.sha256(json.dumps([spec, facts], sort_keys=True).encode()).hexdigest()


def label_notes(labels: dict[str, Labels], taxonomy: Taxonomy) -> list[str]:
    """What a user should know of the labels: levels that are not labelled everywhere, classes that cannot be learnt or watched."""
    notes = []
    for split, own in labels.items():
        studies = len(own.targets[0])
        known = [int(mask.any(dim=1).sum()) for mask in own.known]
        if min(known) < studies:
            told = ", ".join(f"level {level} {count}" for level, count in enumerate(known, start=1))
            rest = (
                "of the rest the classes that a study has are learnt there, and that it is not normal"
                if split == "train"
                else "the rest is masked there"
            )
            notes.append(f"{split}: of {studies} studies are labelled at {told}; {rest}")
    for split, word in (("train", "cannot be learnt"), ("val", "has no AUC on validation")):
        if split in labels and (absent := classes_without(labels[split], taxonomy)):
            notes.append(f"no {split} study of: {', '.join(absent)}; what no study shows {word}")
    return notes


def classes_without(labels: Labels, taxonomy: Taxonomy) -> list[str]:
    """Classes that no study of a split has, each once, by the deepest level it stands at: `metastasis (level 3)`."""
    found = {
        item.name: level
        for level, (targets, known) in enumerate(zip(labels.targets, labels.known, strict=True), start=1)
        for item in taxonomy.classes(level)
        if not (targets[:, item.index] * known[:, item.index]).any()
    }
    return [f"{name} (level {level})" for name, level in found.items()]


def check_labels(records: Sequence[StudyRecord], taxonomy: Taxonomy) -> None:
    """Every label must stand in the tree, and none contradict another.

    Raises:
        TaxonomyError: every fault, the most frequent first and ten at most, with its first studies and their splits.
    """
    faults: dict[str, list[str]] = {}
    splits: dict[str, str | None] = {}
    for record in records:
        for fault in label_faults(record.labels or (), taxonomy):
            faults.setdefault(fault, []).append(f"{record.study_id} ({record.split})")
            splits[record.study_id] = record.split
    if faults:
        lines = [
            f"{shorten(fault, LONGEST, placeholder=' ...')}, in {len(found)}: {', '.join(found[:3])}"
            + (", ..." if len(found) > 3 else "")
            for fault, found in sorted(faults.items(), key=lambda pair: -len(pair[1]))
        ]
        more = f"\n  and {len(lines) - 10} more such faults" if len(lines) > 10 else ""
        have = "study has" if len(splits) == 1 else "studies have"
        counts = Counter(splits.values())
        where = f" ({', '.join(f'{split} {count}' for split, count in counts.items())})" if len(counts) > 1 else ""
        listing = "\n  ".join(lines[:10])
        raise TaxonomyError(f"{len(splits)} {have} labels that do not fit the tree{where}\n  {listing}{more}")


def label_faults(labels: Sequence[str], taxonomy: Taxonomy) -> list[str]:
    """What is wrong with one study's labels: each that is not in the tree, and a contradiction among the others."""
    faults, found = [], []
    for label in dict.fromkeys(labels):
        try:
            found.append(taxonomy.find(label).name)
        except TaxonomyError as error:
            faults.append(str(error))
    try:
        taxonomy.encode(found)
    except TaxonomyError as error:
        faults.append(str(error))
    return faults


def macro_auc(level: int, scores: Tensor, labels: Labels, taxonomy: Taxonomy) -> float:
    """Mean AUC over the level's disease classes that have positives and negatives; NaN if there is none."""
    targets, known, table = (part.cpu().numpy() for part in (labels.targets[level - 1], labels.known[level - 1], scores))
    areas = class_aucs(targets, known, table)[[name != taxonomy.normal for name in taxonomy.levels[level - 1]]]
    return float(macro(areas))
