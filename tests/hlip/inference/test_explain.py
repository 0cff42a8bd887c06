"""Evidence maps: their numbers on tiny models, their place in millimetres, and the command on files."""

from __future__ import annotations

import argparse
import itertools
import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from nibabel.eulerangles import euler2mat
from torch.nn import functional as F

from hlip.inference import explain as explain_module
from hlip.inference.explain import explain, explain_command, integrated_gradients, mirrored
from hlip.inference.overlay import ScanEvidence, all_scans, montage, tissue_of, write_nifti
from hlip.model import HLIP, SENTENCE, HLIPConfig
from hlip.prepare import prepare
from hlip.text import TextConfig, grow_text_source
from hlip.vision import VisionConfig
from hlip.volume import VolumeSpec
from hlip.zeroshot import NORMAL_PHRASE, PromptSet

SIZE, PATCH, GRID = (8, 16, 16), (2, 4, 4), (4, 4, 4)
SPEC = VolumeSpec.from_dict(VolumeSpec.load("demo").as_dict() | {"size": list(SIZE), "spacing_mm": [12.0, 10.0, 10.0]})
TEXTS = [f"This study shows: {word}." for word in ("acute infarction", NORMAL_PHRASE, "glioma")] * 3


def tiny(folder: Path, **vision: object) -> HLIP:
    torch.manual_seed(0)
    text = TextConfig(width=16, depth=1, heads=2, vocabulary=120, context_length=24)
    settings = {"size": SIZE, "patch": PATCH, "width": 24, "heads": 2, "scopes": ["slice", "scan", "study"]} | vision
    config = HLIPConfig(embed_dim=12, vision=VisionConfig(**settings), text=text)
    model = HLIP(config, text_source=grow_text_source(folder / "bert", TEXTS, text))
    model.volume_spec, model.facts = SPEC, {"simulated": True}
    return model.eval()


def sees_brightness(model: HLIP) -> torch.Tensor:
    """Make the encoder one that only counts how bright patches are: blocks do nothing, the embedding is the mean on one channel.
    Returns the direction in which bright studies lie."""
    with torch.no_grad():
        for block in model.visual.blocks:
            block.attn.proj.weight.zero_()
            block.mlp.fc2.weight.zero_()
        model.visual.patch_embed.proj.weight.zero_()
        model.visual.patch_embed.proj.weight[0] = 0.1 / np.prod(PATCH)  # small, or the norm levels bright patches
        model.visual_proj.weight.zero_()
        model.visual_proj.weight[0, 24] = 1.0  # the mean patch token's channel 0
        model.visual_proj.weight[1, 25] = 1.0
    return F.one_hot(torch.tensor(0), 12).float()


@pytest.fixture
def model(tmp_path: Path) -> HLIP:
    return tiny(tmp_path)


def noise(scans: int, high: int = 256) -> torch.Tensor:
    return torch.randint(0, high, (scans, 1, *SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def score(model: HLIP, volumes: torch.Tensor, direction: torch.Tensor) -> float:
    with torch.no_grad():
        return float((model.encode_study(volumes, [len(volumes)])[:, SENTENCE] @ direction)[0])


@pytest.mark.parametrize("settings", [{}, {"patch_norm": True}, {"position": "rotary"}, {"pool": "class"}])
def test_the_shares_sum_to_the_score_less_that_of_the_reference(tmp_path, settings):
    model, volumes, direction = (
        tiny(tmp_path, **settings),
        noise(3),
        torch.randn(12, generator=torch.Generator().manual_seed(2)),
    )
    for reference in (torch.zeros_like(volumes), volumes.flip(-1)):
        shares = integrated_gradients(model, volumes, direction, reference, steps=64)
        assert shares.shape == (3, *GRID)
        assert shares.dtype == torch.float32
        wanted = score(model, volumes, direction) - score(model, reference, direction)
        assert abs(wanted) > 0.01
        assert float(shares.sum()) == pytest.approx(wanted, abs=2e-3)


def test_shares_are_linear_in_the_direction_and_turn_with_the_path(model):
    volumes, (one, two) = noise(2), torch.randn(2, 12, generator=torch.Generator().manual_seed(3))
    air = torch.zeros_like(volumes)
    both = integrated_gradients(model, volumes, 2 * one - two, air)
    parts = [integrated_gradients(model, volumes, direction, air) for direction in (one, two)]
    assert torch.allclose(both, 2 * parts[0] - parts[1], atol=1e-6)
    assert torch.allclose(integrated_gradients(model, air, one, volumes), -parts[0], atol=1e-6)


def test_a_patch_like_the_reference_has_no_share(model):
    volumes = noise(2)
    reference = volumes.clone()
    reference[1, 0, 2:4, 4:8, 8:12] = 0
    shares = integrated_gradients(model, volumes, torch.ones(12), reference)
    assert shares[1, 1, 1, 2] != 0
    assert int((shares != 0).sum()) == 1


@pytest.mark.parametrize("place", [(0, 3, 0, 2), (2, 1, 2, 3)])
def test_the_patch_that_drives_the_score_is_the_maximum(model, place):
    direction, volumes = sees_brightness(model), noise(3, 60)
    scan, d, h, w = place
    volumes[scan, 0, 2 * d : 2 * d + 2, 4 * h : 4 * h + 4, 4 * w : 4 * w + 4] = 250
    for reference in (torch.zeros_like(volumes), volumes.flip(-1)):
        shares = integrated_gradients(model, volumes, direction, reference)
        assert np.unravel_index(int(shares.argmax()), shares.shape) == place
    # without attention, exact occlusion gives the same order of patches
    rest = volumes.clone()
    rest[scan, 0, 2 * d : 2 * d + 2, 4 * h : 4 * h + 4, 4 * w : 4 * w + 4] = 0
    assert score(model, volumes, direction) > score(model, rest, direction)


def test_points_of_the_path_may_be_taken_in_parts(model, monkeypatch):
    volumes, direction = noise(3), torch.ones(12)
    whole = integrated_gradients(model, volumes, direction, volumes.flip(-1), steps=7)
    monkeypatch.setattr(explain_module, "SCANS_AT_ONCE", 6)
    assert torch.allclose(integrated_gradients(model, volumes, direction, volumes.flip(-1), steps=7), whole, atol=1e-7)


def test_explaining_leaves_the_model_as_it_was_and_wants_evaluation_mode(model):
    volumes = noise(2)
    before = model.encode_study(volumes, [2])
    integrated_gradients(model, volumes, torch.ones(12), volumes.flip(-1))
    assert torch.equal(model.encode_study(volumes, [2]), before)
    assert all(parameter.grad is None for parameter in model.parameters())
    with pytest.raises(ValueError, match="evaluation mode"):
        integrated_gradients(model.train(), volumes, torch.ones(12), volumes)


def test_explained_scores_are_those_of_the_formula(model):
    volumes, prompts = noise(2), PromptSet.load("plain")
    affines = np.stack([np.eye(4)] * 2)
    said = explain(model, volumes, affines, "glioma", prompts, steps=100)
    with torch.no_grad():
        texts = model.encode_text([prompts.texts(phrase)[0] for phrase in ("glioma", NORMAL_PHRASE)])
        query, normal = (model.encode_study(volumes, [2])[0, SENTENCE] @ texts.T).tolist()
    assert (said.similarity, said.normal) == pytest.approx((query, normal), abs=1e-5)
    scale = float(model.logit_scale_sentence.detach().exp())
    assert said.score == pytest.approx(1 / (1 + np.exp(-scale * (query - normal))), abs=1e-5)
    mirror = score(model, mirrored(volumes, affines), texts[0] - texts[1])
    assert float(said.evidence.sum()) == pytest.approx(query - normal - mirror, abs=1e-3)
    air = explain(model, volumes, affines, "glioma", prompts, reference="air", steps=100)
    empty = score(model, torch.zeros_like(volumes), texts[0] - texts[1])
    assert float(air.evidence.sum()) == pytest.approx(query - normal - empty, abs=1e-3)
    with pytest.raises(ValueError, match="mirror or air"):
        explain(model, volumes, affines, "glioma", prompts, reference="fog")


def test_each_scan_is_mirrored_along_its_own_left_right_axis():
    volumes = noise(3)
    axial, sagittal, coronal = np.eye(4), np.eye(4), np.eye(4)
    axial[:3, :3] = [[0, 0.3, 1.0], [0, -1.0, 0.3], [-5.0, 0, 0]]  # turned a little
    sagittal[:3, :3] = [[4.0, 0, 0], [0, 0, -1.0], [0, -1.0, 0]]
    coronal[:3, :3] = [[0, 0, -1.0], [5.0, 0, 0], [0, -1.0, 0]]
    turned = mirrored(volumes, np.stack([axial, sagittal, coronal]))
    for number, axis in enumerate((3, 1, 3)):
        assert torch.equal(turned[number], volumes[number].flip(axis))


AFFINES = {
    "straight": np.diag([1.0, 1.0, 1.0]),
    "flipped": np.diag([-1.0, 1.0, -1.0]),
    "tilted": euler2mat(0.3, -0.2, 0.4),
    "tilted, flipped, sagittal": euler2mat(0.2, 0.1, -0.3)[:, [2, 0, 1]] * [1, -1, 1],
}


def placed(rotation: np.ndarray, spacing: tuple[float, ...], centre: tuple[float, ...], shape: tuple[int, ...]) -> np.ndarray:
    """An affine whose grid has its middle at `centre` mm."""
    affine = np.eye(4)
    affine[:3, :3] = rotation * spacing
    affine[:3, 3] = np.array(centre) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


@pytest.mark.parametrize(("own", "other"), itertools.product(AFFINES, repeat=2))
def test_a_map_lands_at_the_right_millimetres_of_any_grid(tmp_path, own, other):
    shape, centre = (40, 44, 30), (3.0, -7.0, 11.0)
    affine = placed(AFFINES[own], (6.0, 5.0, 5.0), centre, SIZE)
    like = nib.Nifti1Image(np.zeros(shape, np.int16), placed(AFFINES[other], (2.0, 2.1, 2.5), centre, shape))
    evidence = np.zeros(GRID, np.float32)
    evidence[1, 2, 1] = 1.0
    scan = ScanEvidence("T1", np.zeros(SIZE, np.uint8), evidence, affine)
    write_nifti(scan, tmp_path / "map.nii.gz", like)
    image = nib.load(tmp_path / "map.nii.gz")
    assert image.shape == shape
    assert image.get_data_dtype() == np.float32
    assert np.allclose(image.affine, like.affine, atol=1e-5)  # a header holds float32
    values = image.get_fdata()
    found = nib.affines.apply_affine(image.affine, np.unravel_index(values.argmax(), shape))
    wanted = nib.affines.apply_affine(affine, [2.5, 9.5, 5.5])  # middle of voxels 2..3, 8..11, 4..7
    assert np.linalg.norm(found - wanted) <= np.linalg.norm([2.0, 2.1, 2.5]) / 2 + 1e-4
    # a field that is linear in millimetres stays that field between patch centres
    slope = np.array([0.3, -0.5, 0.2])
    places = np.stack(np.meshgrid(*map(np.arange, GRID), indexing="ij"), -1)
    linear = (nib.affines.apply_affine(scan.patch_affine, places) @ slope).astype(np.float32)
    values = ScanEvidence("T1", scan.voxels, linear, affine).on_grid(shape, like.affine)
    grid = nib.affines.apply_affine(like.affine, np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1))
    patch = nib.affines.apply_affine(np.linalg.inv(scan.patch_affine), grid)
    inside = ((patch > 0) & (patch < 3)).all(-1)
    outside = ((patch < -0.51) | (patch > 3.51)).any(-1)
    assert inside.sum() > 1000
    assert np.abs(values - grid @ slope)[inside].max() < 1e-3
    assert not values[outside].any()


def test_all_scans_together_are_their_mean_at_the_same_millimetres():
    evidence = np.random.default_rng(0).normal(size=GRID).astype(np.float32)
    first = ScanEvidence("T1", np.zeros(SIZE, np.uint8), evidence, placed(AFFINES["tilted"], (6, 5, 5), (0, 0, 0), SIZE))
    turned = placed(AFFINES["tilted"] * [-1, 1, 1], (6, 5, 5), (0, 0, 0), SIZE)  # the same places, counted from the other end
    second = ScanEvidence("T2", first.voxels, 3 * evidence[::-1], turned)
    together = all_scans([first, second])
    assert together.evidence.shape == SIZE
    assert np.allclose(together.on_voxels(), 2 * first.on_voxels(), atol=1e-5)


@pytest.mark.parametrize("codes", [(1, 0), (0, 1), (1, 4), (0, 0)])
def test_a_map_carries_both_transforms_of_its_scan(tmp_path, codes):
    like = nib.Nifti1Image(np.zeros((20, 18, 9), np.int16), placed(AFFINES["tilted"], (3, 3, 5), (0, 5, 9), (20, 18, 9)))
    like.set_qform(like.affine, codes[0])
    like.set_sform(like.affine + 0.01 if codes == (1, 4) else like.affine, codes[1])  # they may differ
    nib.save(like, tmp_path / "scan.nii.gz")
    like = nib.load(tmp_path / "scan.nii.gz")
    scan = ScanEvidence("T1", np.zeros(SIZE, np.uint8), np.ones(GRID, np.float32), np.diag([6.0, 5, 5, 1]))
    write_nifti(scan, tmp_path / "map.nii.gz", like)
    image = nib.load(tmp_path / "map.nii.gz")
    assert np.allclose(image.affine, like.affine, atol=1e-5)
    for transform in ("get_qform", "get_sform"):
        (ours, code), (theirs, wanted) = (getattr(part, transform)(coded=True) for part in (image, like))
        assert code == wanted
        assert (ours is None and theirs is None) or np.allclose(ours, theirs, atol=1e-5)


def test_the_montage_starts_at_the_slice_with_most_evidence_in_tissue(tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    drawn = []
    monkeypatch.setattr(Axes, "set_title", lambda self, text, **_: drawn.append(text))
    voxels, evidence = np.zeros(SIZE, np.uint8), np.zeros(GRID, np.float32)
    voxels[:, 8:] = 200
    evidence[0, 0, 0], evidence[3, 3, 3] = 9.0, 1.0  # the stronger one lies in air
    montage([ScanEvidence("T1", voxels, evidence, np.diag([6.0, 5, 5, 1]))], tmp_path / "new" / "x.png", "t", "w", slices=3)
    assert drawn[0] == "T1, slice 8/8"
    assert drawn[1:] == ["slice 6", "slice 7", "slice 8: most evidence"]
    assert (tmp_path / "new" / "x.png").stat().st_size > 5000


def lit(air: float, tissue: float) -> ScanEvidence:
    """Tissue fills the right half of each slice, dark in its middle; one patch speaks in the air, one in the dark middle."""
    voxels, evidence = np.full(SIZE, 20, np.uint8), np.zeros(GRID, np.float32)
    voxels[:, :, 6:] = 200
    voxels[:, 5:11, 9:13] = 0
    voxels[:, 3, 2] = 90  # noise
    evidence[:, 1, 0], evidence[:, 1, 2] = air, tissue
    return ScanEvidence("T1", voxels, evidence, np.diag([6.0, 5, 5, 1]))


def test_tissue_is_all_within_the_outline_and_no_speck():
    tissue = tissue_of(lit(0, 0).voxels)
    assert tissue[:, 1:-1, 6:].all()
    assert not tissue[:, :, :6].any()


def test_colours_are_scaled_by_tissue_the_mean_by_itself_and_air_is_faint(tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    seen = []
    monkeypatch.setattr(Axes, "imshow", lambda self, values, **said: seen.append((np.asarray(values), said)))
    parts = [lit(-8.0, 2.0), lit(0.0, -4.0)]
    mean = all_scans(parts)
    montage(parts, tmp_path / "x.png", "t", slices=3, together=mean)
    coloured = [(values, said) for values, said in seen if "alpha" in said]
    assert len(coloured) == 9
    limits = [said["vmax"] for _, said in coloured]
    alone, both = (max(np.abs(p.on_voxels()[tissue_of(p.voxels)]).max() for p in group) for group in ([mean], parts))
    assert limits == pytest.approx([alone] * 3 + [both] * 6)
    assert 3 * alone < both < 4  # and less than the 8 in air
    values, said = coloured[3]
    air, tissue = (np.unravel_index(np.argmax(sign * values), values.shape) for sign in (-1, 1))
    assert abs(values[air]) > 3 * abs(values[tissue])
    assert said["alpha"][air] < 0.2 * said["alpha"][tissue]


def test_evidence_outside_of_tissue_is_said_below_the_title(tmp_path, monkeypatch):
    from matplotlib.figure import FigureBase

    said = []
    monkeypatch.setattr(FigureBase, "text", lambda self, x, y, text, **_: said.append(text))
    montage([lit(1.0, 2.0)], tmp_path / "x.png", "good", "warning")
    assert said == ["good", "warning"]
    montage([lit(3.0, 1.0)], tmp_path / "x.png", "bad", "warning")
    assert said[2:] == ["bad", said[3], "warning"]
    assert re.match(r"Caution: [67]\d % of the evidence lies outside of tissue", said[3])


BRIGHT = (-25.0, 20.0, -18.0)  # mm


def head(path: Path, rotation: np.ndarray, shape: tuple[int, int, int]) -> Path:
    """A grey ball with one bright lesion, in the file's own frame."""
    affine = placed(rotation, (3.0, 3.0, 4.0), (0, 0, 0), shape)
    places = nib.affines.apply_affine(affine, np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1))
    voxels = 100.0 * (np.linalg.norm(places, axis=-1) < 65) + np.random.default_rng(0).normal(0, 3, shape)
    voxels[np.linalg.norm(places - BRIGHT, axis=-1) < 18] = 400
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels.astype(np.float32), affine), path)
    return path


@pytest.fixture
def asked(tmp_path: Path, model: HLIP, monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    """What the command line says: a study of a tilted and a flipped scan, and a model for which bright means the query."""
    direction = sees_brightness(model)
    model.save(tmp_path / "model")
    embedded = torch.stack([direction, torch.zeros(12)])
    monkeypatch.setattr(explain_module, "embed_classes", lambda *_: embedded)
    head(tmp_path / "study" / "t1.nii.gz", AFFINES["tilted"], (56, 60, 40))
    head(tmp_path / "study" / "flair.nii.gz", AFFINES["flipped"], (60, 56, 44))
    return argparse.Namespace(
        checkpoint=str(tmp_path / "model"), study=str(tmp_path / "study"), query="glioma", out=tmp_path / "out",
        store=None, manifest=None, templates=None, device="cpu", reference="mirror",
    )  # fmt: skip


def assert_bright_place(path: Path) -> nib.Nifti1Image:
    image = nib.load(path)
    found = nib.affines.apply_affine(image.affine, np.unravel_index(image.get_fdata().argmax(), image.shape))
    assert np.abs(found - BRIGHT).max() <= 24  # half a patch: 12, 20, 20 mm, and its tilt
    return image


@pytest.mark.parametrize("reference", ["mirror", "air"])
def test_the_command_writes_maps_that_open_on_the_scans(asked, capsys, tmp_path, reference):
    asked.reference = reference
    explain_command(asked)
    said = capsys.readouterr().out
    assert "SIMULATED" in said
    assert "prepared volume's grid" not in said
    for name, scan in (("1_FLAIR", "flair"), ("2_T1", "t1"), ("all_scans", "flair")):
        image = assert_bright_place(asked.out / f"{name}_evidence.nii.gz")
        original = nib.load(tmp_path / "study" / f"{scan}.nii.gz")
        assert image.shape == original.shape
        assert np.array_equal(image.affine, original.affine)
    assert (asked.out / "evidence.png").is_file()


def test_the_title_is_the_study_and_a_refused_study_leaves_no_folder(asked, tmp_path, monkeypatch):
    titles = []
    monkeypatch.setattr(
        explain_module, "montage", lambda scans, path, title, *_, together: titles.append((title, together.name))
    )
    explain_command(asked)
    assert titles[0][0].startswith('"glioma" in study: score')
    assert titles[0][1] == "all scans, on FLAIR"
    asked.out, asked.study = tmp_path / "none", "nobody"
    with pytest.raises(ValueError, match="neither a file nor a folder"):
        explain_command(asked)
    assert not asked.out.exists()
    asked.out = tmp_path / "file"
    asked.out.write_text("")
    with pytest.raises(NotADirectoryError, match="a file stands there"):
        explain_command(asked)


def test_a_study_of_a_store_finds_its_scans_by_the_manifest_or_says_so(asked, capsys, tmp_path):
    row = {"study_id": "a", "patient_id": "p", "scans": [{"path": "study/t1.nii.gz"}]}
    (tmp_path / "manifest.jsonl").write_text(json.dumps(row))
    prepare(tmp_path / "manifest.jsonl", tmp_path / "store", SPEC, workers=1, progress=False)
    asked.study, asked.store = "a", tmp_path / "store"
    explain_command(asked)
    assert "1_T1_evidence.nii.gz: in the prepared volume's grid" in capsys.readouterr().out
    assert assert_bright_place(asked.out / "1_T1_evidence.nii.gz").shape == SIZE
    asked.manifest = tmp_path / "manifest.jsonl"
    explain_command(asked)
    assert "prepared volume's grid" not in capsys.readouterr().out
    assert assert_bright_place(asked.out / "1_T1_evidence.nii.gz").shape == (56, 60, 40)
    head(tmp_path / "study" / "t1.nii.gz", AFFINES["tilted"], (30, 60, 40))  # another scan has taken its place
    explain_command(asked)
    assert "prepared volume's grid" in capsys.readouterr().out
    asked.query = " "
    with pytest.raises(ValueError, match="QUERY is empty"):
        explain_command(asked)


def test_the_place_of_an_original_with_nan_around_it_is_known(tmp_path: Path) -> None:
    voxels = np.random.default_rng(0).random((12, 10, 8)).astype(np.float32)
    voxels[:3] = np.nan
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    nib.save(nib.MGHImage(voxels, affine), tmp_path / "t1.mgz")
    image = explain_module._image(tmp_path / "t1.mgz")
    assert image is not None
    assert image.shape == (12, 10, 8)
    np.testing.assert_allclose(image.affine, affine)
