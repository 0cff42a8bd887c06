"""Weights and shifts of rare classes: numbers worked out by hand, counts that leave unknown labels out, classes with one side only."""

from __future__ import annotations

import math

import pytest
import torch

from hlip.taxonomy import Taxonomy
from hp2l.long_tail import balance, classes_without_positives, count_labels, effective_number

TREE = Taxonomy.from_dict(
    {"name": "t", "classes": [{"name": "a", "children": [{"name": "b"}, {"name": "c"}]}, {"name": "z"}]}
)  # 2 / 3 classes
FORMS = ("none", "class_balanced", "logit_adjusted", "positive_weight")


def test_counts_leave_unknown_labels_out() -> None:
    targets = [torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0, 0.0]] * 3)]
    masks = [torch.tensor([[1.0, 1.0], [0.0, 1.0], [1.0, 0.0]]), torch.zeros(3, 3)]
    positives, known = count_labels(targets, masks)
    assert [level.tolist() for level in positives] == [[1.0, 1.0], [0.0, 0.0, 0.0]]
    assert [level.tolist() for level in known] == [[2.0, 2.0], [0.0, 0.0, 0.0]]


def test_counts_stay_exact_where_float32_would_stop() -> None:
    ones = torch.ones(2**24 + 3, 1)
    (positives,), (known,) = count_labels([ones.bool()], [ones.bool()])
    # the nearest float32 to 2^24 + 3
    assert positives.item() == known.item() == 2**24 + 4


def test_classes_without_positives_are_named() -> None:
    positives, _ = count_labels(*zip(*pairs([["b"], ["b"], None]), strict=True))
    assert classes_without_positives(TREE, positives) == ["level 1: z", "level 2: c", "level 2: z"]
    positives, _ = count_labels(*zip(*pairs([["b", "c"], ["z"]]), strict=True))
    assert classes_without_positives(TREE, positives) == []


def pairs(labels: list[list[str] | None]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(torch.from_numpy(target), torch.from_numpy(mask)) for target, mask in TREE.encode_all(labels)]


def test_effective_number_by_hand() -> None:
    # 1 + 0.5 + 0.25 at n = 3 and beta = 0.5
    counts = torch.tensor([1.0, 3.0, 1e6], dtype=torch.float64)
    assert effective_number(counts, 0.5).tolist() == pytest.approx([1.0, 1.75, 2.0])
    assert effective_number(counts, 0.0).tolist() == [1.0, 1.0, 1.0]
    assert effective_number(counts[:2], 1 - 1e-9).tolist() == pytest.approx([1.0, 3.0], abs=1e-6)


def test_class_balanced_by_hand() -> None:
    # n+ = 1, n- = 3, beta = 0.5: 1 / 1 and 1 / 1.75 = 4/7; mean (1 + 3 * 4/7) / 4 = 19/28; so 28/19 and 16/19
    parts = balance("class_balanced", torch.tensor([1.0, 2.0]), torch.tensor([4.0, 4.0]), beta=0.5)
    assert parts.present.tolist() == pytest.approx([28 / 19, 1.0])
    assert parts.absent.tolist() == pytest.approx([16 / 19, 1.0])
    assert parts.shift.tolist() == [0.0, 0.0]
    untouched = balance("class_balanced", torch.tensor([1.0]), torch.tensor([1000.0]), beta=0.0)
    assert (untouched.present.item(), untouched.absent.item()) == pytest.approx((1.0, 1.0))
    inverse = balance("class_balanced", torch.tensor([5.0]), torch.tensor([100.0]), beta=1 - 1e-9)
    assert (inverse.present.item(), inverse.absent.item()) == pytest.approx((100 / 10, 100 / 190), rel=1e-4)


def test_a_class_keeps_its_say_and_a_rarer_side_weighs_more() -> None:
    positives, known = torch.tensor([1.0, 30.0, 900.0, 5000.0]), torch.tensor([10000.0, 9000.0, 10000.0, 7000.0])
    parts = balance("class_balanced", positives, known, beta=0.999)
    whole = positives * parts.present + (known - positives) * parts.absent
    assert whole.tolist() == pytest.approx(known.tolist(), rel=1e-5)
    ratio = parts.present / parts.absent
    assert (ratio.diff() < 0).all()
    assert ratio[-1] < 1.0 < ratio[-2]


def test_positive_weight_and_logit_adjustment_by_hand() -> None:
    positives, known = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([4.0, 4.0, 4.0])
    weighted = balance("positive_weight", positives, known)
    assert weighted.present.tolist() == pytest.approx([3.0, 1.0, 1 / 3])
    assert weighted.absent.tolist() == [1.0, 1.0, 1.0]
    adjusted = balance("logit_adjusted", positives, known, tau=2.0)
    assert adjusted.shift.tolist() == pytest.approx([-2 * math.log(3), 0.0, 2 * math.log(3)])
    assert adjusted.present.tolist() == adjusted.absent.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("form", FORMS)
def test_a_class_with_one_side_or_no_label_is_left_alone(form) -> None:
    # no positive, no negative, nothing known; and a class of two sides beside them
    parts = balance(form, torch.tensor([0.0, 50.0, 0.0, 1.0]), torch.tensor([50.0, 50.0, 0.0, 50.0]))
    assert all(part.isfinite().all() for part in parts)
    assert parts.present[:3].tolist() == parts.absent[:3].tolist() == [1.0, 1.0, 1.0]
    assert parts.shift[:3].tolist() == [0.0, 0.0, 0.0]
    changed = (parts.present[3], parts.absent[3], parts.shift[3]) != (1.0, 1.0, 0.0)
    assert changed == (form != "none")


def test_what_does_not_fit_is_an_error() -> None:
    with pytest.raises(ValueError, match="more positives than known"):
        balance("positive_weight", torch.tensor([3.0]), torch.tensor([2.0]))
    with pytest.raises(ValueError, match="none of none, class_balanced"):
        balance("focal", torch.tensor([1.0]), torch.tensor([2.0]))  # type: ignore[arg-type]
