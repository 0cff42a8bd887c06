"""Retrieval on the validation split, by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from accelerate import Accelerator

import hlip
from pretrain.train import main
from pretrain.validate import ValidationConfig, both_ways, report_of, validate

pytestmark = pytest.mark.usefixtures("fresh_engine", "unsaved_figures")


def test_both_directions_count_alike():
    """Study 0's own report is second for it, but it is first for its report; the others are right both ways."""
    similarity = np.array([[0.5, 0.6, 0.0], [0.1, 0.9, 0.0], [0.2, 0.0, 0.7]], np.float32)
    own = np.eye(3, dtype=bool)
    assert both_ways(similarity, own, 1) == pytest.approx((2 / 3 + 1) / 2)
    assert both_ways(similarity, own, 2) == 1.0
    equal = own.copy()
    equal[0, 1] = equal[1, 0] = True  # reports 0 and 1 are the same text
    assert both_ways(similarity, equal, 1) == 1.0


def test_validation_equals_the_slow_way(tiny_store, tmp_path):
    """Each study and each report encoded alone; ranks counted one by one."""
    tiny = Path(__file__).with_name("tiny.yaml")
    main(
        [
            "--config",
            str(tiny),
            "--store",
            str(tiny_store),
            "--out",
            str(tmp_path / "run"),
            "--steps",
            "20",
            "--model.vision.patch_norm",
            "true",
        ]
    )
    model, store = hlip.load(tmp_path / "run"), hlip.Store(tiny_store)
    values = validate(Accelerator(cpu=True), model, store, ValidationConfig(batch_size=3))
    records = store.split("val")
    studies, reports = [], []
    for record in records:
        volumes = store.volumes(record.study_id)
        studies.append(model.encode_study(volumes, [len(volumes)])[0, 1].detach())
        reports.append(model.encode_text([model.config.prefix + report_of(record)])[0].detach())
    texts, found = [report_of(record) for record in records], []
    for number, study in enumerate(studies):
        own = max(float(study @ report) for report, text in zip(reports, texts, strict=True) if text == texts[number])
        better = [float(study @ report) for report, text in zip(reports, texts, strict=True) if text != texts[number]]
        found.append(sum(value > own for value in better) < 5)
    for number, report in enumerate(reports):
        own = max(float(study @ report) for study, text in zip(studies, texts, strict=True) if text == texts[number])
        found.append(
            sum(float(study @ report) > own for study, text in zip(studies, texts, strict=True) if text != texts[number]) < 5
        )
    assert values["val_recall_5"] == pytest.approx(np.mean(found), abs=1e-6)
    assert set(values) == {"val_auc", "val_classes", "val_recall_1", "val_recall_5"}  # 8 studies: no recall at 10
