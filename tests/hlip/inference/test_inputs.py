"""What the command line says of a checkpoint and of a study."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import hlip
from hlip.inference.inputs import MOST_SCANS, expected_spec, find_study, open_model
from hlip.scans.scan import VolumeError
from hlip.volume import VolumeSpec


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A model that reads the demo's volumes and does not say how they are made."""
    model = hlip.create("tiny_scan_study", vision={"size": [24, 64, 64], "patch": [6, 16, 16]})
    model.volume_spec = None
    model.save(tmp_path / "model")
    return tmp_path / "model"


def said(checkpoint: Path, **more: str | None) -> argparse.Namespace:
    settings = {"checkpoint": str(checkpoint), "device": "cpu", "variant": None, "text_source": None, "spec": None}
    return argparse.Namespace(**settings | more)


def test_a_checkpoint_without_a_spec_asks_for_one_and_takes_it(checkpoint):
    with pytest.raises(VolumeError, match=r"does not say how its studies must be prepared; name it with --spec \(.*head_ct"):
        expected_spec(open_model(said(checkpoint)).volume_spec, str(checkpoint))
    assert expected_spec(open_model(said(checkpoint, spec="demo")).volume_spec, "") == VolumeSpec.load("demo")
    with pytest.raises(ValueError, match=r"--spec mri: volumes of \(48, 224, 224\), but the model reads \(24, 64, 64\)"):
        open_model(said(checkpoint, spec="mri"))


def test_what_a_checkpoint_says_of_itself_is_not_contradicted(checkpoint):
    model = hlip.load(checkpoint)
    model.volume_spec = VolumeSpec.from_dict(VolumeSpec.load("demo").as_dict() | {"percentiles": [1.0, 99.0]})
    model.save(checkpoint)
    with pytest.raises(ValueError, match="says itself how its studies are prepared"):
        open_model(said(checkpoint, spec="demo"))
    model.facts = {"kind": "official"}  # whose spec is a guess from its architecture
    model.save(checkpoint)
    assert open_model(said(checkpoint, spec="demo")).volume_spec == VolumeSpec.load("demo")
    assert json.loads((checkpoint / "config.json").read_text())["volume_spec"]["percentiles"] == [1.0, 99.0]


def test_a_folder_of_a_whole_cohort_is_not_one_study(tmp_path):
    image = nib.Nifti1Image(np.zeros((2, 2, 2), np.int16), np.eye(4))
    for number in range(MOST_SCANS + 1):
        nib.save(image, tmp_path / f"{number}.nii")
    arguments = argparse.Namespace(study=str(tmp_path), store=None, manifest=None)
    with pytest.raises(ValueError, match=f"holds {MOST_SCANS + 1} scans, more than one study has"):
        find_study(arguments, VolumeSpec.load("demo"), tmp_path)
