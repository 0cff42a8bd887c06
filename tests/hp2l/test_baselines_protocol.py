"""What every kind of head promises to training: gradients, scores, odd trees, folders, and options that are refused."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import hp2l.baselines
from hlip.model import HLIP, HLIPConfig
from hlip.taxonomy import Taxonomy
from hlip.text import TextConfig, grow_text_source
from hlip.vision import VisionConfig
from hp2l.diagnoser import Diagnoser, load
from hp2l.head import Head, HP2LOutput
from hp2l.heads import KINDS, SHARED_OPTIONS, HeadConfig, build_head
from hp2l.loss import HP2LLoss, LossConfig

WIDTH = 8
CONFIGS = [
    *(HeadConfig(kind=kind, width=16, heads=2, blocks=(1, 2, 2)) for kind in KINDS),
    HeadConfig(kind="prompt_vit", width=16, heads=2, blocks=(1, 2, 2), prompt_depth="deep", readout="levels", prompt_tokens=2),
    HeadConfig(kind="prompt_vit", width=16, heads=2, blocks=(1, 2, 2), prompt_tokens=0),
    *(HeadConfig(width=16, heads=2, blocks=(1, 2, 2), prompt=p, prototypes="none") for p in ("none", "one_hot", "learnable")),
    *(HeadConfig(width=16, heads=2, blocks=(1, 2, 2), prototypes=p) for p in ("none", "one_hot", "learnable")),
]
CONFIGS += [replace(config, cls="learned") for config in CONFIGS]

RAGGED = {
    "name": "ragged",
    "classes": [
        {"name": "a", "children": [{"name": "b", "children": [{"name": "c"}, {"name": "d"}]}, {"name": "e"}]},
        {"name": "f", "children": [{"name": "g", "children": [{"name": "h"}]}]},
        {"name": "z", "normal": True},
    ],
}
TREES = {
    "brain_mri": Taxonomy.load("brain_mri"),
    "ragged": Taxonomy.from_dict(RAGGED),  # e and z are carried to level 3; g and h are single children
    "one level": Taxonomy.from_dict({"name": "t", "classes": [{"name": "a"}, {"name": "b"}]}),
    "one class": Taxonomy.from_dict({"name": "t", "classes": [{"name": "a"}]}),
}


def name_of(config: HeadConfig) -> str:
    return f"{config.kind}-{config.cls}-{config.prompt}-{config.prototypes}-{config.prompt_tokens}"


def studies(tree: Taxonomy, rows: int) -> tuple[list[Tensor], list[Tensor]]:
    """Targets and masks of studies that have every class of the last level in turn, and every fourth none known."""
    names = tree.levels[-1]
    labels = [None if row % 4 == 3 else [names[row % len(names)]] for row in range(rows)]
    levels = tree.encode_all(labels)
    return [torch.from_numpy(target) for target, _ in levels], [torch.from_numpy(mask) for _, mask in levels]


def inputs(config: HeadConfig, rows: int) -> tuple[Tensor, Tensor | None]:
    generator = torch.Generator().manual_seed(1)
    tokens, cls = torch.randn(rows, 4, WIDTH, generator=generator), torch.randn(rows, WIDTH, generator=generator)
    return tokens, cls if config.cls == "encoder" else None


def total_loss(head: Head, output: HP2LOutput, targets: list[Tensor], masks: list[Tensor], tree: Taxonomy) -> Tensor:
    """As training does it, see hp2l/head.py."""
    total, _ = HP2LLoss(tree, head.loss_config(LossConfig()))(output.logits, targets, head.level_loss_mask(targets, masks))
    return sum(head.extra_losses(output, targets, masks).values(), start=total)


def built(config: HeadConfig, tree: Taxonomy) -> Head:
    """A head whose weights are large enough that every path shows."""
    torch.manual_seed(0)
    head = build_head(config, tree, WIDTH)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return head


@pytest.mark.parametrize("tree", TREES.values(), ids=list(TREES))
@pytest.mark.parametrize("config", CONFIGS, ids=name_of)
def test_every_parameter_gets_a_gradient_and_scores_are_within_0_and_1(config: HeadConfig, tree: Taxonomy) -> None:
    head, rows = built(config, tree).train(), 2 * tree.counts[-1] + 8
    targets, masks = studies(tree, rows)
    given = inputs(config, rows)
    head.update_prototypes(head(*given), targets, masks)  # nearest: without prototypes nothing could be near
    output = head(*given)
    total_loss(head, output, targets, masks, tree).backward()
    for name, parameter in head.named_parameters():
        assert parameter.ndim > 0, f"{name}: DeepSpeed cannot hold a 0-dim parameter"
        assert parameter.grad is not None, f"{name}: distributed training refuses a parameter without a gradient"
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name
    shown = head.eval()(*given, return_attention=True)
    assert shown.prompt_attention is not None
    assert [tuple(level.shape) for level in shown.cls] == [(rows, shown.cls[0].shape[1])] * tree.depth
    for scores, count in zip(shown.probabilities(), tree.counts, strict=True):
        assert scores.shape == (rows, count)
        assert ((scores >= 0.0) & (scores <= 1.0)).all()
        assert tree is TREES["one class"] or scores.std() > 0, "scores that do not vary say nothing"


@pytest.mark.parametrize("config", CONFIGS[: len(CONFIGS) // 2], ids=name_of)
def test_a_class_without_a_positive_and_a_level_without_a_label_give_a_finite_loss(config: HeadConfig) -> None:
    tree = TREES["ragged"]
    head, given = built(config, tree).train(), inputs(config, 3)
    levels = tree.encode_all([["z"], ["a"], None])  # one with a coarse label: its levels 2 and 3 are unknown
    targets, masks = ([torch.from_numpy(level[part]) for level in levels] for part in (0, 1))
    for known in (masks, [mask * (place == 0) for place, mask in enumerate(masks)]):
        head.zero_grad()
        output = head(*given)
        total = total_loss(head, output, targets, known, tree)
        total.backward()
        head.update_prototypes(output, targets, known)
        assert total.isfinite()
        assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in head.parameters())
    assert all(scores.isfinite().all() for scores in head.eval()(*given).probabilities())


@pytest.mark.parametrize("config", CONFIGS[: len(CONFIGS) // 2], ids=name_of)
def test_level_masks_are_never_more_than_what_is_known(config: HeadConfig) -> None:
    tree = TREES["ragged"]
    targets, masks = studies(tree, 12)
    counted = built(config, tree).level_loss_mask(targets, masks)
    assert all(((own == 0) | (own == known)).all() for own, known in zip(counted, masks, strict=True))


@pytest.mark.parametrize("config", CONFIGS, ids=name_of)
def test_a_folder_rebuilds_every_kind(config: HeadConfig, tmp_path: Path) -> None:
    torch.manual_seed(0)
    text = TextConfig(width=16, depth=1, heads=2, vocabulary=80, context_length=24)
    vision = VisionConfig(size=(4, 16, 16), patch=(2, 8, 8), width=WIDTH, heads=2, scopes=["study"], patch_dropout=0.0)
    encoder = HLIP(HLIPConfig(12, vision, text), text_source=grow_text_source(tmp_path / "text", ["No glioma."], text))
    tree = TREES["ragged"]
    made = Diagnoser(encoder, config, tree).eval()
    targets, masks = studies(tree, 12)
    made.head.update_prototypes(made.head(*inputs(config, 12)), targets, masks)
    made.save(tmp_path / "model")
    again = load(tmp_path / "model")
    assert again.config == config
    volumes = torch.randint(0, 256, (3, 1, 4, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    for one, other in zip(again.diagnose(volumes, [2, 1]), made.diagnose(volumes, [2, 1]), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("config", CONFIGS[: len(CONFIGS) // 2], ids=name_of)
@torch.no_grad()
def test_bfloat16_stays_near_float32(config: HeadConfig) -> None:
    tree = TREES["ragged"]
    head, rows = built(config, tree).eval(), 12
    given = inputs(config, rows)
    head.update_prototypes(head(*given), *studies(tree, rows))
    exact = head(*given).probabilities()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = head(*given).probabilities()
    for one, other in zip(rough, exact, strict=True):
        assert one.dtype == torch.float32
        near = (one - other).abs() < 0.1
        # A hard decision may fall on the other side of its threshold.
        assert near.float().mean() > 0.9 if config.kind == "cascade" else near.all()


def test_the_documented_parameter_counts() -> None:
    rows = re.findall(r"^\| (\w+) \| `.*\| ([\d.]+)( M)? \|$", hp2l.baselines.__doc__ or "", flags=re.MULTILINE)
    assert [kind for kind, _, _ in rows] == list(KINDS)
    for kind, written, millions in rows:
        with torch.device("meta"):
            head = build_head(HeadConfig(kind=kind), TREES["brain_mri"], 768)
        count = sum(parameter.numel() for parameter in head.parameters())
        assert f"{count / 1e6:.2f}" == written if millions else str(count) == written, kind


def test_options_of_another_kind_and_values_out_of_range_are_refused() -> None:
    for options, message in (
        ({"kind": "flat", "prompt_tokens": 4}, "head.prompt_tokens is an option of kind prompt_vit, not of flat"),
        ({"prompt_loss": 0.5}, "head.prompt_loss is an option of kind transhp, not of hp2l"),
        ({"kind": "transhp", "prompt": "none"}, "head.prompt is an option of kind hp2l, not of transhp"),
        ({"prompt": "none"}, "head.prompt none reads no prototypes, but head.prototypes is ema: give --head.prototypes none"),
        ({"prompt": "some"}, "head.prompt 'some' is none of none, one_hot"),
        ({"prototypes": "some"}, "head.prototypes 'some' is none of"),
        ({"kind": "cascade", "threshold": 1.0}, "head.threshold must be between 0 and 1"),
        ({"kind": "nearest", "nearest": 0}, "head.nearest must be at least 1"),
        ({"kind": "prompt_vit", "prompt_depth": "flat"}, "head.prompt_depth 'flat' is neither shallow nor deep"),
        ({"kind": "prompt_vit", "readout": "all"}, "head.readout 'all' is neither leaves nor levels"),
        ({"kind": "prompt_vit", "prompt_depth": "deep", "prompt_tokens": 0}, "deep needs prompts"),
        ({"kind": "flat", "cls": "both"}, "head.cls 'both' is neither"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            HeadConfig(**options)
    with pytest.raises(ValueError, match=r"^head.width 16 is no multiple of head.heads 3"):
        build_head(HeadConfig(kind="cascade", width=16, heads=3), TREES["ragged"], WIDTH)


@pytest.mark.parametrize("config", CONFIGS[: len(CONFIGS) // 2], ids=name_of)
def test_an_option_is_read_or_named_as_unread(config: HeadConfig) -> None:
    """Scores and parameters after a training pass and an update, with another value of each option that several kinds may read."""
    tree, other = (
        TREES["ragged"],
        {"width": 20, "heads": 4, "mlp_ratio": 2.0, "dropout": 0.5, "prompt_update": "sum", "momentum": 0.5},
    )

    def trained(config: HeadConfig) -> list[Tensor]:
        head, given = built(config, tree).train(), inputs(config, 8)
        torch.manual_seed(1)
        for _ in range(2):  # nearest: the first update sets its averages, whatever the momentum
            output = head(*given)
            head.update_prototypes(output, *studies(tree, 8))
            given = given[0].flip(0), given[1]
        return [*head.state_dict().values(), *output.logits, *head.eval()(*given).logits]

    assert set(other) == set(SHARED_OPTIONS)
    if config.kind == "hp2l":
        other["prompt_attention"] = "unit"
    before = trained(config)
    for name, value in other.items():
        after = trained(replace(config, **{name: value}))
        same = len(before) == len(after) and all(map(torch.equal, before, after))
        assert same == (name in config.unread()), name


def test_what_each_loss_leaves_out() -> None:
    tree = TREES["ragged"]
    given = LossConfig(focal_gamma=2.0)
    for kind in KINDS:
        fitted = build_head(HeadConfig(kind=kind, width=16, heads=2), tree, WIDTH).loss_config(given)
        assert fitted.focal_gamma == 2.0
        assert fitted.consistency == (0.5 if kind in ("hp2l", "transhp") else 0.0), kind
        assert fitted.level_weights == ((0.0, 0.0, 1.0) if kind in ("flat", "prompt_vit") else None), kind
    own = build_head(HeadConfig(kind="flat"), tree, WIDTH).loss_config(LossConfig(level_weights=(1.0, 1.0, 1.0)))
    assert own.level_weights == (1.0, 1.0, 1.0)
