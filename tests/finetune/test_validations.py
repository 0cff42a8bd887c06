"""Which validation a run keeps, when it ends early, and what it says of one without an AUC."""

from __future__ import annotations

import math

import pytest

from finetune.validations import Validations

NAN = math.nan


@pytest.mark.parametrize(
    ("means", "kept", "best", "ends"),
    [
        ([NAN, NAN, NAN, NAN], [True, True, True, True], NAN, False),  # none has an AUC: the last
        ([NAN, 0.6, NAN, NAN], [True, True, False, False], 0.6, False),
        ([0.6, NAN, 0.5, 0.6], [True, False, False, False], 0.6, True),
        ([0.6, 0.5, NAN, 0.7], [True, False, False, True], 0.7, False),
    ],
)
def test_validations_without_an_auc_lose_to_those_with_one(means, kept, best, ends):
    found = Validations(patience=2)
    assert [found.add(mean) for mean in means] == kept
    assert found.best == pytest.approx(best, nan_ok=True)
    assert found.is_out_of_patience is ends
    again = Validations([None if math.isnan(mean) else mean for mean in means], patience=2)  # of the log, after a stop
    assert again.means == pytest.approx(means, nan_ok=True)
    assert again.is_out_of_patience is ends
    assert not Validations(means).is_out_of_patience  # without patience


def test_an_undefined_auc_is_explained_once():
    found = Validations(patience=3)
    undefined = {"val_auc_level_1": 0.5, "val_auc_level_2": NAN, "val_auc": NAN}
    first, second = found.notes(10, undefined), found.notes(20, undefined)
    assert first[0] == "step 10: val_auc_level_1 0.500, val_auc_level_2 not defined"
    assert len(first) == 2
    assert first[1].endswith("patience 3 does not count such validations")
    assert second == ["step 20: val_auc_level_1 0.500, val_auc_level_2 not defined"]
