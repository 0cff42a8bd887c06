"""One training step: the loss over chunks is the loss over the batch, and what is not finite stops the run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from hlip.config import parse_config
from hlip.data import Chunks, StudyDataset
from hlip.loss import LossConfig, dual_contrastive_loss
from hlip.store import Store
from hlip.training.batches import GlobalBatches
from pretrain.settings import PretrainConfig
from pretrain.start import build_model
from pretrain.step import BadStepError, features_of, joined, train_step

TINY = Path(__file__).with_name("tiny.yaml")
EVEN = LossConfig()
DROPPING = ("--model.vision.patch_dropout", "0.5", "--model.vision.drop_path", "0.3")


class Bench:
    """A tiny model, and one global batch of 12 studies in as many chunks as asked for."""

    def __init__(self, accelerator: Accelerator, store: Path, out: Path, *more: str):
        arguments = ["--config", str(TINY), "--store", str(store), "--out", str(out), *more]
        self.config = parse_config(PretrainConfig, command="pretrain", description="", argv=arguments)
        vision = self.config.model.vision
        self.data = StudyDataset(Store(store), "train", self.config.sampling, 0, self.config.model.prefix, vision)
        torch.manual_seed(0)
        self.accelerator = accelerator
        self.model = build_model(self.config.model, self.data, accelerator, out).train()
        for parameter in self.model.visual.parameters():  # away from the start, where all studies look alike
            torch.nn.init.normal_(parameter, std=0.3)

    def chunks(self, studies: int) -> list:
        places = next(iter(GlobalBatches(24, 12, seed=0, steps=1, sizes=self.data.sizes, chunk_studies=studies)))
        return Chunks(self.model.tokenizer)([self.data[place] for place in places])

    def step(self, chunks: list, loss: LossConfig = EVEN) -> tuple[float, dict[str, torch.Tensor]]:
        """Loss and gradients of one step that changes nothing."""
        gradients: dict[str, torch.Tensor] = {}

        def note() -> None:
            gradients.update({name: value.grad.clone() for name, value in self.model.named_parameters()})

        optimizer = torch.optim.SGD(self.model.parameters(), lr=0.0)
        optimizer.register_step_pre_hook(lambda *arguments: note())
        taken = train_step(self.accelerator, self.model, optimizer, chunks, loss, 1e9, [7, 3])
        assert taken.norm == pytest.approx(sum(float(g.square().sum()) for g in gradients.values()) ** 0.5, rel=1e-4)
        return taken.losses.total.item(), gradients


def close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        largest = float(other[name].abs().max())
        assert largest > 0 or "key.bias" in name, name
        torch.testing.assert_close(
            value, other[name], atol=1e-6 * max(1.0, largest), rtol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("objective", ["clip", "siglip"])
def test_chunks_equal_the_whole_batch(tiny_store, tmp_path, accelerator, objective):
    """Every gradient, temperatures and biases included; patch dropout is drawn study by study, so it is the same too."""
    bench = Bench(accelerator, tiny_store, tmp_path, *DROPPING[:2], "--model.objective", objective)
    loss = LossConfig(identical_texts_match=True)
    whole, gradients = bench.step(bench.chunks(12), loss)
    for studies in (6, 4, 1):
        chunks = bench.chunks(studies)
        assert len(chunks) == 12 // studies
        total, cut = bench.step(chunks, loss)
        assert total == pytest.approx(whole, abs=1e-6)
        close(cut, gradients)


def test_both_passes_of_a_chunk_drop_the_same(tiny_store, tmp_path, accelerator):
    """With stochastic depth and dropout in the text tower: equal to one graph over all chunks under the same random numbers."""
    bench = Bench(accelerator, tiny_store, tmp_path, *DROPPING)
    for module in bench.model.text.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.2
    chunks = bench.chunks(4)
    total, gradients = bench.step(chunks)
    parts = []
    for number, chunk in enumerate(chunks):
        torch.manual_seed(int(np.random.SeedSequence([7, 3, number]).generate_state(1)[0]))
        parts.append(features_of(accelerator, bench.model, chunk))
    losses = dual_contrastive_loss(joined(parts), LossConfig())
    bench.model.zero_grad()
    losses.total.backward()
    assert total == pytest.approx(losses.total.item(), abs=1e-6)
    close(gradients, {name: value.grad for name, value in bench.model.named_parameters()})
    torch.manual_seed(0)
    again, _ = bench.step(chunks)
    assert again == total  # whatever the generator's state was
    other = train_step(
        accelerator, bench.model, torch.optim.SGD(bench.model.parameters(), lr=0.0), chunks, LossConfig(), 1e9, [7, 4]
    )
    assert other.losses.total.item() != pytest.approx(total, abs=1e-4)


def test_what_is_not_finite_names_its_study_and_changes_nothing(tiny_store, tmp_path, accelerator):
    bench = Bench(accelerator, tiny_store, tmp_path)
    chunks = bench.chunks(4)
    study = chunks[1].study_ids[2]
    scans = chunks[1].scans_per_study
    volumes = chunks[1].volumes.float()
    volumes[sum(scans[:2])] = float("nan")  # floats are taken as normalised
    chunks[1] = chunks[1]._replace(volumes=volumes)
    before = {name: value.clone() for name, value in bench.model.state_dict().items()}
    optimizer = torch.optim.SGD(bench.model.parameters(), lr=1.0)
    with pytest.raises(BadStepError, match="the loss is nan") as error:
        train_step(accelerator, bench.model, optimizer, chunks, LossConfig(), 1.0, [0, 0])
    assert error.value.study_ids == [study]
    for name, value in bench.model.state_dict().items():
        assert torch.equal(value, before[name]), name
