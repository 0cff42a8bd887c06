"""From scores to numbers: how well each level is told, what is lost from coarse to fine, and whether errors are undone on the way.

Definitions, N test studies:
- A threshold is that of best balanced accuracy on the validation split, a class and a run at a time; 0.5 where that split lacks
  positives or negatives. AUC and balanced accuracy are means over the level's disease classes with at least 5 positive and 5 negative
  test studies.
- A study is right at a level if its highest-scoring class there is one of its labels; studies without a label at a level are not asked.
  Scores are Platt-scaled on the validation split for this, a class at a time: heads give their classes scales of their own.
- Recovery: P(right at the last level | wrong at the first), among studies asked at both and none of whose labels at the first level
  stands at the last as well (`normal`): such a class is not found further down but asked again, among other rivals. The share of right
  ones kept is of the same studies; that of studies wrong at the first level is of all that are asked at both.
- Child without parent: the share of called classes (score at or above the threshold) whose parent is not called, at all pairs of
  neighbouring levels. Parent without child: the share of called classes with children below of which none is called.
- Distance: edges between a study's highest-scoring class of the last level and the nearest of its labels, over the studies where it is
  wrong. Siblings are 2 apart; top classes meet in a root above the tree.

- Called below a miss: of the true classes of the last level whose class at the first is not called, the share that is called all the same;
  beside it the share called of the false ones below a class that is neither true nor called. The first without the second is no recovery:
  who calls everything calls these as well. Classes that stand at both levels (`normal`) are left out.

Intervals are percentiles over resamples of patients and of seeds, the same for all variants; a variant's number is the mean over its seeds
(of ratios: all seeds' counts together). Seeds are few, so that intervals are rather too short than too long. A share of none or of all, of
which every resample is the same, has the exact binomial interval (Clopper, Pearson, 1934) of one seed's mean denominator: seeds share their
studies, so that three do not know three times as much. A difference to such a share is made of both shares' intervals (Newcombe, 1998).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from finetune.cohort import Labels
from hlip import metrics
from hlip.store import StudyRecord
from hlip.taxonomy import Taxonomy
from hp2l.comparison.resampling import summary, with_normal_p
from hp2l.comparison.truth import Truth, left_out
from hp2l.statistics import hierarchy
from hp2l.statistics.calibration import calibrate
from hp2l.statistics.cases import masked, ratio
from hp2l.tree_nodes import tree_nodes

Floats = NDArray[np.float64]
MINIMUM = 5


@dataclass
class Test:
    """The studies that answer, and how often each resample draws them."""

    __test__ = False  # not a test of pytest's

    truth: Truth
    """Of val, then test."""
    tree: Taxonomy
    weights: NDArray[np.float32]
    """(N test, 1 + R), the cohort itself first."""
    edges: Floats
    """(K, K) distances between the classes of the last level."""
    carried: NDArray[np.bool_]
    """(K_1,) classes of the first level that stand at the last as well."""
    deepest: int
    """Number of the last level."""

    @classmethod
    def of(
        cls,
        val: Sequence[StudyRecord],
        test: Sequence[StudyRecord],
        tree: Taxonomy,
        *,
        resamples: int,
        seed: int = 0,
        ruler: Taxonomy | None = None,
        among: Sequence[StudyRecord] | None = None,
    ) -> Test:
        """The truth of both splits and the resamples of the second.

        Args:
            ruler: the shared tree: distances are its own where it has the same last level, and it numbers that level; None: `tree`.
            among: the studies whose patients are drawn from, `test` among them, so that variants that lack some stay paired; None: `test`.
        """
        records = [*val, *test]
        labels = Labels(records, tree)
        patients = [record.patient_id for record in records]
        truth = Truth(
            targets=[level.numpy() > 0.5 for level in labels.targets],
            known=[level.numpy() > 0.5 for level in labels.known],
            class_names=[list(level) for level in tree.levels],
            normal=tree.normal,
            split=np.array(["val"] * len(val) + ["test"] * len(test)),
            patients=np.array(patients, dtype=str),
            minimum=MINIMUM,
            prevalence=None,
        )
        among = test if among is None else among
        place = {record.study_id: number for number, record in enumerate(among)}
        own = [place[record.study_id] for record in test]
        ones = np.ones((len(test), 1), dtype=np.float32)
        drawn = [block[own] for block in metrics.patient_bootstrap([record.patient_id for record in among], resamples, seed)]
        measured_in = ruler if ruler is not None and ruler.levels[-1] == tree.levels[-1] else tree
        carried = hierarchy.carried(tree_nodes(tree).of)
        deepest = max(tree.depth, (ruler or tree).depth)
        return cls(truth, tree, np.concatenate([ones, *drawn], axis=1), leaf_distances(measured_in), carried, deepest)

    def rows(self, split: str, level: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Targets and known entries (N, K) of a split at a level (from 0)."""
        rows = self.truth.split == split
        return self.truth.targets[level][rows], self.truth.known[level][rows]

    def levels(self) -> tuple[list[NDArray[np.bool_]], list[NDArray[np.bool_]]]:
        """Targets and known entries of the test split at every level."""
        pairs = [self.rows("test", level) for level in range(self.tree.depth)]
        return [target for target, _ in pairs], [known for _, known in pairs]

    def draws(self, seeds: int) -> Floats:
        """(S, 1 + R) how often each resample draws each of S seeds, S in all; the seeds themselves first."""
        drawn = np.random.default_rng([seeds, 1]).multinomial(seeds, np.full(seeds, 1 / seeds), self.weights.shape[1] - 1)
        return np.concatenate([np.ones((1, seeds)), drawn]).T.astype(np.float64)


@dataclass
class Measured:
    """One variant: rows (1 + R,) of every measure, the value first, and what each seed alone came to."""

    rows: dict[str, Floats]
    seeds: dict[str, list[float]]
    counts: dict[str, tuple[int, int]]
    """Ratio -> numerator and denominator, all seeds together."""
    classes: dict[str, dict[str, Any]]
    """Class of the last level -> AUC and its interval, positives."""
    tree: Taxonomy
    left_out: dict[str, dict[str, str]]
    """Level -> class -> why it is in no mean."""
    notes: list[str] = field(default_factory=list)
    recovered: dict[str, int] = field(default_factory=dict)
    """Class of the last level -> how often a study was recovered as it, all seeds together, the most frequent first."""
    deepest: int = 3
    """Number of the last level."""
    usual: tuple[str, float] = ("", 0.0)
    """The class that is most often the highest at level 1, and in which share of the test studies of all seeds."""

    def summary(self) -> dict[str, Any]:
        """Measure -> {value, low, high, seeds}; behind ratios their counts, and whether the interval is the exact one."""
        return {name: self._entry(name) for name in self.rows}

    def _entry(self, name: str) -> dict[str, Any]:
        entry: dict[str, Any] = {**summary(self.rows[name]), "seeds": self.seeds[name]}
        if name in self.counts:
            entry["counts"] = self.counts[name]
            if limits := exact_interval(name, *self.counts[name], len(self.seeds[name])):
                entry |= {"low": limits[0], "high": limits[1], "exact": True}
        return entry

    def difference(self, other: Measured) -> dict[str, Any]:
        """Measure -> paired difference to another variant {value, low, high, p}; where the classes are others, none.

        With an exact interval on either side the difference's own is made of both shares' intervals, unpaired and without p.
        """
        same = [name for name in self.rows if name in other.rows and self._comparable(name, other)]
        found = {name: with_normal_p(self.rows[name] - other.rows[name]) for name in same}
        for name in self.counts.keys() & found.keys():
            mine, theirs = self._entry(name), other._entry(name)
            if "exact" in mine or "exact" in theirs:
                found[name] |= {**unpaired(mine, theirs), "p": float("nan")}
        return found

    def _comparable(self, name: str, other: Measured) -> bool:
        if name.startswith("drop"):
            levels = ["1", str(self.deepest)]
        else:
            levels = [name[-1]] if name[-1].isdigit() else []
        return all(self._names(level) == other._names(level) for level in levels)

    def _names(self, number: str) -> set[str] | None:
        """Classes of the level that `level_numbers` calls so."""
        numbers = level_numbers(self.tree, self.deepest)
        return next((set(names) for names, own in zip(self.tree.levels, numbers, strict=True) if str(own) == number), None)


def exact_interval(name: str, above: int, below: int, seeds: int) -> tuple[float, float] | None:
    """The 95 % Clopper-Pearson interval of a share of none or of all, from the mean denominator of a seed; None for every other ratio."""
    if name == "distance" or not below or 0 < above < below:
        return None
    trials = max(1, round(below / seeds))
    limits = binomtest(trials if above else 0, trials).proportion_ci(0.95, method="exact")
    return float(limits.low), float(limits.high)


def unpaired(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, float]:
    """{low, high} of a difference of two shares from their own intervals (Newcombe, Statistics in Medicine 17, 1998, method 10)."""
    gap = mine["value"] - theirs["value"]
    down = np.hypot(mine["value"] - mine["low"], theirs["high"] - theirs["value"])
    up = np.hypot(mine["high"] - mine["value"], theirs["value"] - theirs["low"])
    return {"low": float(gap - down), "high": float(gap + up)}


def level_numbers(tree: Taxonomy, deepest: int) -> list[int]:
    """What the levels of a tree are called on the page: from 1, the last by its number in the shared tree, also where that was cut."""
    return [*range(1, tree.depth), deepest]


def measure(runs: Sequence[dict[str, list[Floats]]], test: Test) -> Measured:
    """All measures of one variant.

    Args:
        runs: scores of each seed: split (`val`, `test`) -> (N, K_l) a level.
        test: truth and resamples.
    """
    notes: list[str] = []
    likely = [likeliest(scores, test, notes) for scores in runs]
    singles = [_single(scores, highest, test, notes) for scores, highest in zip(runs, likely, strict=True)]
    draws = test.draws(len(runs))
    rows: dict[str, Floats] = {}
    seeds: dict[str, list[float]] = {}
    for name in singles[0].rows:
        rows[name] = _pooled(draws, [single.rows[name] for single in singles]) / len(runs)
        seeds[name] = [float(single.rows[name][0]) for single in singles]
    counts: dict[str, tuple[int, int]] = {}
    for name in singles[0].ratios:
        above, below = (_pooled(draws, [single.ratios[name][side] for single in singles]) for side in (0, 1))
        rows[name] = ratio(above, below)
        seeds[name] = [float(ratio(*single.ratios[name])[0]) for single in singles]
        counts[name] = int(above[0]), int(below[0])
    last = len(test.truth.class_names) - 1
    positives = test.truth.counts(last, "test", True)
    areas = _pooled(draws, [single.areas for single in singles]) / len(runs)
    classes = {
        name: {**summary(areas[k]), "positives": int(positives[k])} for k, name in enumerate(test.truth.class_names[last])
    }
    numbers = level_numbers(test.tree, test.deepest)
    excluded = {str(number): left_out(test.truth, level) for level, number in enumerate(numbers)}
    undone = recovered_classes([{"test": highest} for highest in likely], test)
    told = list(dict.fromkeys(notes))
    return Measured(rows, seeds, counts, classes, test.tree, excluded, told, undone, test.deepest, usual_answer(likely, test))


def _pooled(draws: Floats, seeds: Sequence[Floats]) -> Floats:
    """(..., 1 + R) of S seeds and how often each resample draws them (S, 1 + R) -> their sum."""
    return np.sum([draw * own for draw, own in zip(draws, seeds, strict=True)], axis=0)


def usual_answer(likely: Sequence[Sequence[Floats]], test: Test) -> tuple[str, float]:
    """Class of level 1 that is most often the highest, and its share of the studies, all runs together."""
    answers = np.concatenate([highest[0].argmax(axis=1) for highest in likely])
    counts = np.bincount(answers, minlength=len(test.tree.levels[0]))
    return test.tree.levels[0][int(counts.argmax())], float(counts.max() / len(answers))


def likeliest(scores: dict[str, list[Floats]], test: Test, notes: list[str] | None = None) -> list[Floats]:
    """Test scores of every level (N, K_l) after Platt scaling on the validation split; as they are where nothing is known there, or where
    they are no probabilities. Classes whose scaling ran into the end of its range are noted."""
    found = []
    for level, (own, val) in enumerate(zip(scores["test"], scores["val"], strict=True)):
        labels = masked(*test.rows("val", level))
        usable = (~np.isnan(labels)).any() and all(s.min() >= 0 and s.max() <= 1 for s in (own, val))
        if not usable:
            found.append(own)
            continue
        scaled = calibrate(labels, val, own, "platt")
        found.append(scaled.scores)
        ends = [name for name, rule in zip(test.truth.class_names[level], scaled.rules, strict=True) if rule.at_limit]
        if ends and notes is not None:
            number = level_numbers(test.tree, test.deepest)[level]
            notes.append(f"level {number}, Platt scaling at the end of its range in a run: {', '.join(ends)}")
    return found


@dataclass
class _Single:
    """One run: rows (1 + R,) of measures, (numerator, denominator) rows of ratios, AUC (K, 1 + R) at the last level."""

    rows: dict[str, Floats]
    ratios: dict[str, tuple[Floats, Floats]]
    areas: Floats


def _single(scores: dict[str, list[Floats]], highest: list[Floats], test: Test, notes: list[str]) -> _Single:
    rows: dict[str, Floats] = {}
    flagged: list[NDArray[np.bool_]] = []
    numbers, areas = level_numbers(test.tree, test.deepest), np.empty(0)
    for level, number in enumerate(numbers):
        target, known = test.rows("test", level)
        limits = thresholds(scores["val"][level], *test.rows("val", level), test.truth.class_names[level], notes)
        flagged.append(scores["test"][level] >= limits)
        columns = zip(target.T, scores["test"][level].T, known.T, strict=True)
        areas = np.stack([metrics.Ranking.of(*column).areas(test.weights)[0] for column in columns])
        both = metrics.weighted_rates(target, flagged[-1], known, test.weights)
        keep = test.truth.in_macro(level)
        rows[f"auc_{number}"], rows[f"bacc_{number}"] = metrics.macro(areas, keep), metrics.macro((both[0] + both[1]) / 2, keep)
    if test.tree.depth > 1:
        rows |= {f"drop_{name}": rows[f"{name}_1"] - rows[f"{name}_{numbers[-1]}"] for name in ("auc", "bacc")}
    pairs = {**recovery(highest, test), **below_a_miss(flagged, test), **paths(flagged, test), **distance(highest[-1], test)}
    weights = test.weights.astype(np.float64)
    return _Single(rows, {name: (above @ weights, below @ weights) for name, (above, below) in pairs.items()}, areas)


def thresholds(
    score: Floats, target: NDArray[np.bool_], known: NDArray[np.bool_], names: Sequence[str], notes: list[str]
) -> Floats:
    """(K,) thresholds of best balanced accuracy on the validation split; 0.5, with a note, for a class that cannot have one."""
    found = np.array([metrics.best_threshold(target[rows, k], score[rows, k])[0] for k, rows in enumerate(known.T)])
    for k in np.flatnonzero(np.isnan(found)).tolist():
        notes.append(f"{names[k]}: no positive or no negative validation study, so its threshold is 0.5")
    return np.where(np.isnan(found), 0.5, found)


def recovery(scores: Sequence[Floats], test: Test) -> hierarchy.Pairs:
    """`hierarchy.recovery` of the test split."""
    return hierarchy.recovery(scores, *test.levels(), test.carried)


def below_a_miss(flagged: Sequence[NDArray[np.bool_]], test: Test) -> hierarchy.Pairs:
    """`hierarchy.below_a_miss` of the test split."""
    nodes = tree_nodes(test.tree)
    first = {node: place for place, node in enumerate(nodes.of[0])}
    above = [first.get(nodes.paths[node][0], -1) if node not in first else -1 for node in nodes.of[-1]]
    return hierarchy.below_a_miss(flagged, *test.levels(), above)


def recovered_classes(runs: Sequence[dict[str, list[Floats]]], test: Test) -> dict[str, int]:
    """Class of the last level -> how often a study was recovered as it, over all runs, the most frequent first.

    Of a study's labels, the one that was its highest-scoring class, so that counts add up to the recovered studies.
    """
    names = test.tree.levels[-1]
    counts = np.zeros(len(names), dtype=int)
    for scores in runs:
        if pairs := recovery(scores["test"], test):
            best = scores["test"][-1].argmax(axis=1)
            counts += np.bincount(best[pairs["recovery"][0] > 0], minlength=len(names))
    return {names[k]: int(counts[k]) for k in np.argsort(-counts, kind="stable") if counts[k]}


def paths(flagged: Sequence[NDArray[np.bool_]], test: Test) -> hierarchy.Pairs:
    """`hierarchy.broken_paths` of the test split."""
    edges = [test.tree.edges(level) for level in range(1, test.tree.depth)]
    return hierarchy.broken_paths(flagged, test.levels()[1], edges)


def distance(score: Floats, test: Test) -> hierarchy.Pairs:
    """`hierarchy.mistake_distance` of the test split's last level."""
    return hierarchy.mistake_distance(score, *test.rows("test", -1), test.edges)


def leaf_distances(tree: Taxonomy) -> Floats:
    """(K, K) edges between the classes of the last level (`hierarchy.path_distances`).

    A leaf that several levels carry is one node: it hangs from its parent directly.
    """
    nodes = tree_nodes(tree)
    return hierarchy.path_distances([nodes.paths[node] for node in nodes.of[-1]])
