"""The plan of a simulated cohort: frequencies, splits, and scan geometry that knows nothing of the labels."""

from __future__ import annotations

from collections import Counter, defaultdict

import nibabel as nib
import numpy as np
import pytest
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict

from hlip.simulate.build import study_protocols
from hlip.simulate.contrast import SEQUENCES
from hlip.simulate.lesions import CLASSES, SIGNATURES
from hlip.simulate.plan import COMPANIONS, PRIMARY, plan_cohort
from hlip.simulate.scanner import scan_affine
from hlip.taxonomy import Taxonomy


@pytest.fixture(scope="module")
def plans():
    return plan_cohort(3000, seed=0)


def test_classes_are_the_leaves_of_the_default_taxonomy():
    taxonomy = Taxonomy.load("brain_mri")
    assert set(CLASSES) == set(taxonomy.levels[-1])
    assert set(PRIMARY) == set(CLASSES)
    assert all(set(row) <= set(CLASSES) - {"normal", name} for name, row in COMPANIONS.items())
    assert sorted(row.code for row in SIGNATURES) == list(range(16))
    assert all(row.source for row in SIGNATURES if row.name != "normal")


def test_the_plan_is_a_function_of_its_arguments(plans):
    assert plan_cohort(3000, seed=0) == plans
    assert plan_cohort(3000, seed=1) != plans
    assert [plan.index for plan in plans] == list(range(3000))


def test_frequencies_have_the_published_tail(plans):
    count = Counter(name for plan in plans for name in plan.labels)
    order = [name for name, _ in count.most_common()]
    assert order[0] == "white matter hyperintensity"
    assert order[-1] == "porencephaly"
    assert 18 < count[order[0]] / count[order[-1]] < 24
    assert all(plan.labels == ("normal",) for plan in plans if "normal" in plan.labels)
    assert all(len(set(plan.labels)) == len(plan.labels) for plan in plans)


def test_splits_are_by_patient_and_hold_every_class(plans):
    homes = defaultdict(set)
    for plan in plans:
        homes[plan.patient_id].add(plan.split)
    assert all(len(splits) == 1 for splits in homes.values())
    assert len(homes) < len(plans)  # some patients come back
    sizes = Counter(plan.split for plan in plans)
    assert abs(sizes["test"] - 600) < 15
    assert abs(sizes["val"] - 300) < 15
    for split, least in (("test", 12), ("val", 5)):
        count = Counter(name for plan in plans if plan.split == split for name in plan.labels)
        assert min(count[name] for name in CLASSES) >= least


@pytest.mark.parametrize("studies", [1, 2, 7, 16, 40])
def test_small_cohorts_have_every_split_they_can(studies):
    plans = plan_cohort(studies, seed=3)
    assert [plan.index for plan in plans] == list(range(studies))
    assert len({plan.split for plan in plans}) == min(studies, 3)


def test_a_follow_up_never_gets_younger_disease(plans):
    visits = defaultdict(dict)
    for plan in plans:
        visits[plan.patient_id][plan.visit] = plan.labels[0]
    seconds = [(row[0], row[1]) for row in visits.values() if len(row) == 2]
    assert len(seconds) > 100
    assert ("chronic infarction", "acute infarction") not in seconds
    assert ("acute infarction", "chronic infarction") in seconds


def test_scan_geometry_noise_and_sequences_do_not_tell_the_label(plans):
    """A forest on all that is known of a study but its voxels stays at chance for every class."""
    plans = plans[:1500]
    table = []
    for plan in plans:
        vendor, strength, protocols = study_protocols(0, plan.index)
        assert all("".join(nib.aff2axcodes(scan_affine(p, np.zeros(3), np.eye(3)))) == p.codes for p in protocols)
        means = [
            np.mean([value(p) for p in protocols])
            for value in (
                lambda p: p.slices,
                lambda p: p.matrix,
                lambda p: p.pixel_mm,
                lambda p: p.thickness_mm,
                lambda p: p.noise,
                lambda p: p.scale,
                lambda p: p.plane == "axial",
                lambda p: np.linalg.det(scan_affine(p, np.zeros(3), np.eye(3))[:3, :3]) > 0,
            )
        ]
        present = [sum(p.sequence == name for p in protocols) for name in SEQUENCES]
        table.append([len(protocols), strength, len(vendor), *means, *present])
    features = np.array(table)
    assert set(features[:, 0]) == set(range(1, 9))
    forest = ExtraTreesClassifier(30, min_samples_leaf=5, random_state=0)
    scores = {}
    for name in ("normal", "white matter hyperintensity", "cerebral microbleeds", "acute infarction", "glioma"):
        target = np.array([name in plan.labels for plan in plans])
        chance = cross_val_predict(forest, features, target, cv=3, method="predict_proba")[:, 1]
        spread = np.sqrt((1 / target.sum() + 1 / (~target).sum()) / 12)  # of an AUC at chance
        scores[name] = (roc_auc_score(target, chance) - 0.5) / spread
    assert max(scores.values()) < 3.5, scores
