"""The dual contrastive loss: slow sums, open_clip's loss, and one process against two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from open_clip.loss import ClipLoss, SigLipLoss
from torch.nn import functional as F

from hlip.loss import LossConfig, clip_loss, dual_contrastive_loss, siglip_losses


def features(studies: int = 6, seed: int = 0, siglip: bool = False) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    study = F.normalize(torch.randn(studies, 2, 8, generator=generator), dim=-1)
    sentence, report = (F.normalize(torch.randn(studies, 8, generator=generator), dim=-1) for _ in range(2))
    scales = {"sentence_scale": torch.tensor([9.0]), "report_scale": torch.tensor([4.0])}
    biases = {"sentence_bias": torch.tensor([-2.0]), "report_bias": torch.tensor([-3.0])} if siglip else {}
    return {"study": study, "sentence": sentence, "report": report} | scales | biases


def infonce(image: torch.Tensor, text: torch.Tensor, scale: float) -> float:
    """Slow and plain."""
    total = 0.0
    for one, other in ((image, text), (text, image)):
        for row in range(len(one)):
            logits = [scale * float(one[row] @ other[column]) for column in range(len(other))]
            total += float(torch.tensor(logits).logsumexp(0)) - logits[row]
    return total / (2 * len(image))


def test_each_token_meets_its_own_text_at_its_own_temperature():
    parts = features()
    losses = dual_contrastive_loss(parts, LossConfig(sentence=0.5, report=0.5))
    sentence = infonce(parts["study"][:, 0], parts["sentence"], 9.0)
    report = infonce(parts["study"][:, 1], parts["report"], 4.0)
    assert losses.sentence.item() == pytest.approx(sentence, abs=1e-5)
    assert losses.report.item() == pytest.approx(report, abs=1e-5)
    assert losses.total.item() == pytest.approx(0.5 * sentence + 0.5 * report, abs=1e-5)


def test_one_objective_equals_open_clip():
    parts = features()
    losses = dual_contrastive_loss(parts, LossConfig(sentence=1.0, report=0.0))
    expected = ClipLoss()(parts["study"][:, 0], parts["sentence"], parts["sentence_scale"])
    torch.testing.assert_close(losses.total, expected)


def test_siglip_equals_open_clip():
    parts = features(siglip=True)
    losses = dual_contrastive_loss(parts, LossConfig())
    sentence = SigLipLoss()(parts["study"][:, 0], parts["sentence"], parts["sentence_scale"], parts["sentence_bias"])
    report = SigLipLoss()(parts["study"][:, 1], parts["report"], parts["report_scale"], parts["report_bias"])
    torch.testing.assert_close(losses.total, (sentence + report) / 2)


def test_siglip_counts_identical_texts_as_positives():
    """All four pairs positive at logit 5 - 1: 2 ln(1 + e^-4) a row; without, one of two is a wrong negative."""
    unit = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]]).repeat(2, 1, 1)
    scale, bias = torch.tensor([5.0]), torch.tensor([-1.0])
    every = torch.ones(2, 2, dtype=torch.bool)
    shared, plain = siglip_losses(unit, unit, (scale, scale), (bias, bias), (every, None))
    assert shared.item() == pytest.approx(2 * 0.0181499, abs=1e-5)
    assert plain.item() == pytest.approx(0.0181499 + 4.0181499, abs=1e-5)


def test_identical_texts_share_the_probability():
    """Two studies with the same text and the same features: each is the other's positive, by hand ln(2) a row."""
    image = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    text = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    same = torch.ones(2, 2, dtype=torch.bool)
    scale = torch.tensor([5.0])
    assert clip_loss(image, text, image, text, scale, same).item() == pytest.approx(0.693147, abs=1e-5)
    better = torch.tensor([[1.0, 0.0], [0.0, 1.0]])  # telling them apart is not rewarded when their texts are the same
    rewarded = clip_loss(image, better, image, better, scale, same)
    assert rewarded > clip_loss(image, text, image, text, scale, same)


def test_with_infonce_identical_texts_change_nothing():
    """Equal texts have equal embeddings: neither the loss nor any gradient moves, whatever the studies look like."""
    results = []
    for match in (False, True):
        parts = features()
        own = torch.tensor([0, 1, 0, 2, 1, 0])
        leaves = {"study": parts["study"].clone().requires_grad_(), "rows": parts["sentence"][:3].clone().requires_grad_()}
        shared = parts | {"study": leaves["study"], "sentence": leaves["rows"][own]}
        texts = [f"text {number}" for number in own.tolist()]
        losses = dual_contrastive_loss(shared, LossConfig(identical_texts_match=match), (texts, [f"r{n}" for n in range(6)]))
        losses.total.backward()
        results.append([losses.total.detach(), leaves["study"].grad, leaves["rows"].grad])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def test_identical_texts_need_the_texts():
    with pytest.raises(ValueError, match="needs the texts"):
        dual_contrastive_loss(features(), LossConfig(identical_texts_match=True))


def test_weights_are_checked():
    with pytest.raises(ValueError, match="above zero"):
        LossConfig(sentence=0.0, report=0.0)


TEXTS = (["a", "b", "a", "c", "b", "a"], ["r"] * 6)


def _process(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    for siglip in (False, True):
        torch.save(_half(rank, siglip), Path(folder) / f"{rank}_{siglip}.pt")
    torch.distributed.destroy_process_group()


def _half(rank: int, siglip: bool) -> dict[str, Any]:
    """Of one of two processes, holding three of six studies; the mean gradient is what DDP makes of both."""
    parts = features(siglip=siglip)
    own = slice(3 * rank, 3 * rank + 3)
    local = {key: value[own].clone() if "_" not in key else value.clone() for key, value in parts.items()}
    for value in local.values():
        value.requires_grad_()
    config = LossConfig(identical_texts_match=True)
    losses = dual_contrastive_loss(local, config, (TEXTS[0][own], TEXTS[1][own]))
    losses.total.backward()
    grads = {key: value.grad for key, value in local.items()}
    return {"total": losses.total.detach(), "grads": grads}


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what each of two processes made of its half, both losses."""
    folder = tmp_path_factory.mktemp("halves")
    mp.spawn(_process, args=(str(folder),), nprocs=2)
    return folder


@pytest.mark.parametrize("siglip", [False, True], ids=["clip", "siglip"])
def test_two_processes_equal_one(two_processes, siglip):
    halves = [torch.load(two_processes / f"{rank}_{siglip}.pt", weights_only=True) for rank in range(2)]
    parts = {key: value.requires_grad_() for key, value in features(siglip=siglip).items()}
    losses = dual_contrastive_loss(parts, LossConfig(identical_texts_match=True), TEXTS)
    losses.total.backward()
    torch.testing.assert_close(sum(half["total"] for half in halves) / 2, losses.total.detach())
    for key, value in parts.items():
        if "_" in key:  # a scale or a bias, held by both
            gathered = sum(half["grads"][key] for half in halves) / 2
        else:
            gathered = torch.cat([half["grads"][key] for half in halves]) / 2
        torch.testing.assert_close(gathered, value.grad, atol=1e-6, rtol=1e-4)
