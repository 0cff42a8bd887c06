"""Plan: who is in the cohort, with which findings, in which split. Drawn once from the seed, before any image.

Frequencies are long-tailed: white matter hyperintensity, mostly as a companion of other disease, is about 21 times as
common as porencephaly, the ratio of HP2L's cohort. A study's primary finding is drawn by quota, its companions by
chance. Splits are by patient and stratified by the rarest finding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hlip.simulate.lesions import CLASSES

PRIMARY = {
    "normal": 0.140,
    "white matter hyperintensity": 0.108,
    "Alzheimer's disease": 0.080,
    "acute infarction": 0.080,
    "mild cognitive impairment": 0.075,
    "chronic infarction": 0.065,
    "glioma": 0.065,
    "meningioma": 0.058,
    "metastasis": 0.056,
    "lacunar infarction": 0.050,
    "acute hemorrhage": 0.050,
    "cerebral microbleeds": 0.045,
    "subacute hemorrhage": 0.038,
    "chronic hemorrhage": 0.038,
    "arachnoid cyst": 0.030,
    "porencephaly": 0.022,
}
"""Share of studies whose main finding is the class."""

_WMH, _LACUNE, _BLEEDS, _OLD = (
    "white matter hyperintensity", "lacunar infarction", "cerebral microbleeds", "chronic infarction"
)  # fmt: skip
COMPANIONS = {
    "white matter hyperintensity": {_LACUNE: 0.28, _BLEEDS: 0.15, _OLD: 0.08},
    "lacunar infarction": {_WMH: 0.80, _BLEEDS: 0.25, _OLD: 0.12},
    "cerebral microbleeds": {_WMH: 0.70, _LACUNE: 0.25},
    "acute infarction": {_WMH: 0.50, _LACUNE: 0.15, _OLD: 0.15, _BLEEDS: 0.08},
    "chronic infarction": {_WMH: 0.65, _LACUNE: 0.25, _BLEEDS: 0.12},
    "acute hemorrhage": {_WMH: 0.45, _LACUNE: 0.12, _BLEEDS: 0.30},
    "subacute hemorrhage": {_WMH: 0.40, _LACUNE: 0.10, _BLEEDS: 0.15},
    "chronic hemorrhage": {_WMH: 0.50, _LACUNE: 0.12, _BLEEDS: 0.30},
    "Alzheimer's disease": {_WMH: 0.60, _LACUNE: 0.10, _BLEEDS: 0.15},
    "mild cognitive impairment": {_WMH: 0.50, _LACUNE: 0.10, _BLEEDS: 0.10},
    "glioma": {_WMH: 0.25},
    "meningioma": {_WMH: 0.35},
    "metastasis": {_WMH: 0.30},
    "arachnoid cyst": {_WMH: 0.10},
    "porencephaly": {_WMH: 0.10},
}
"""Chance of a further finding beside a primary one."""

_BECOMES = {
    "acute hemorrhage": "subacute hemorrhage",
    "subacute hemorrhage": "chronic hemorrhage",
    "acute infarction": "chronic infarction",
    "mild cognitive impairment": "Alzheimer's disease",
}
"""What a finding is at the follow-up visit."""

_FOLLOW_UPS = 0.08
"""Share of studies that are a patient's second."""

SPLIT_SHARES = {"train": 0.70, "val": 0.10, "test": 0.20}


@dataclass(frozen=True)
class StudyPlan:
    """One study before it is imaged."""

    index: int
    patient: int
    visit: int
    labels: tuple[str, ...]
    """Class names, the primary finding first."""
    split: str
    evolved: bool = False
    """Whether the primary finding is another than at the visit before."""

    @property
    def study_id(self) -> str:
        return f"sim{self.index:05d}"

    @property
    def patient_id(self) -> str:
        return f"pat{self.patient:05d}"


def plan_cohort(studies: int, seed: int) -> list[StudyPlan]:
    """All studies in index order; the same for the same arguments."""
    rng = np.random.default_rng([seed, 0])
    visits = _patients(_quotas(PRIMARY, studies), rng)
    labelled = []
    for patient in visits:
        companions = _companions(patient[0], rng)
        labelled.append([(main, *(name for name in companions if name not in patient)) for main in patient])
    rng.shuffle(labelled)
    splits = _split(labelled, rng)
    places = iter(rng.permutation(studies))
    plans = [
        StudyPlan(int(next(places)), number, visit, labels, split, evolved=labels[0] != patient_labels[0][0])
        for number, (patient_labels, split) in enumerate(zip(labelled, splits, strict=True))
        for visit, labels in enumerate(patient_labels)
    ]
    return sorted(plans, key=lambda plan: plan.index)


def _quotas(shares: dict[str, float], total: int) -> dict[str, int]:
    """Whole numbers that add up to `total` (largest remainders)."""
    exact = {name: share * total / sum(shares.values()) for name, share in shares.items()}
    counts = {name: int(value) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: exact[name] - counts[name], reverse=True)
    for name in by_remainder[: total - sum(counts.values())]:
        counts[name] += 1
    return counts


def _patients(counts: dict[str, int], rng: np.random.Generator) -> list[list[str]]:
    """Primary findings of each patient's visits: one, or two that follow from each other."""
    left = dict(counts)
    pairs = round(_FOLLOW_UPS * sum(counts.values()))
    out: list[list[str]] = []
    while len(out) < pairs:
        names = [name for name, count in left.items() if count]
        first = str(rng.choice(names, p=np.array([left[name] for name in names]) / sum(left.values())))
        second = _BECOMES.get(first, first)
        left[first] -= 1
        if left[second]:
            left[second] -= 1
            out.append([first, second])
        else:
            left[first] += 1
            pairs -= 1
    return out + [[name] for name, count in left.items() for _ in range(count)]


def _companions(primary: str, rng: np.random.Generator) -> list[str]:
    return [name for name, chance in COMPANIONS.get(primary, {}).items() if rng.random() < chance]


def _split(patients: Sequence[Sequence[tuple[str, ...]]], rng: np.random.Generator) -> list[str]:
    """Split of each patient: within the patients sharing a rarest finding, always the split furthest behind its share."""
    frequency = Counter(name for visits in patients for labels in visits for name in labels)
    rarest = [
        min((name for labels in visits for name in labels), key=lambda name: (frequency[name], CLASSES.index(name)))
        for visits in patients
    ]
    out = [""] * len(patients)
    overall: Counter[str] = Counter()
    for name in sorted(set(rarest), key=lambda name: (frequency[name], CLASSES.index(name))):
        members = [place for place, other in enumerate(rarest) if other == name]
        rng.shuffle(members)
        own: Counter[str] = Counter()
        for place in sorted(members, key=lambda place: -len(patients[place])):
            size = len(patients[place])

            def behind(split: str, size: int = size, own: Counter[str] = own) -> float:
                share = SPLIT_SHARES[split]
                return (share * (own.total() + size) - own[split]) / share**0.5 + 0.2 * (
                    share * (overall.total() + size) - overall[split]
                )

            best = max(SPLIT_SHARES, key=behind)
            out[place] = best
            own[best] += size
            overall[best] += size
    _fill_empty(out, [frequency[name] for name in rarest])
    return out


def _fill_empty(splits: list[str], frequencies: list[int]) -> None:
    """In a tiny cohort, give an empty split the commonest patient of train, in place."""
    for split in SPLIT_SHARES:
        training = [place for place, name in enumerate(splits) if name == "train"]
        if split not in splits and len(training) > 1:
            splits[max(training, key=lambda place: frequencies[place])] = split
