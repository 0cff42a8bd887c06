"""What a run starts from: a new model, other weights, a text tower grown from the reports, a 2-D ViT."""

from __future__ import annotations

from pathlib import Path

import torch
from accelerate import Accelerator

from hlip.config import plain
from hlip.data import StudyDataset
from hlip.model import HLIP, CheckpointError, HLIPConfig, load
from hlip.text import grow_text_source, widen_word_embeddings
from hlip.training.engine import whole_weights

# how a model is trained or where it came from, not what it is
FREE = {
    "vision": {"patch_dropout", "drop_air_first", "drop_path", "checkpoint_blocks"},
    "text": {"locked", "pretrained", "source"},
}


def build_model(
    config: HLIPConfig,
    data: StudyDataset,
    accelerator: Accelerator,
    out: Path,
    init: Path | None = None,
    init_vision: str | None = None,
    centre_studies: int = 500,
) -> HLIP:
    """The model in training mode: that of `init`, or a new one.

    Args:
        config: the architecture; its text tower is grown from the training reports if it names no source.
        data: the training studies.
        accelerator: of this launch.
        out: run folder, where a grown text source is kept.
        init: run or checkpoint whose weights are taken.
        init_vision: 2-D ViT whose weights the vision tower takes: a timm name, or a file.
        centre_studies: training studies whose mean is subtracted where `vision.patch_norm` is on.

    Raises:
        CheckpointError: the weights of `init` are of another architecture.
    """
    with whole_weights(accelerator):
        if init is not None:
            return continued(init, config)
        if config.text.source is not None:
            model = HLIP(config, pretrained_text=config.text.pretrained)
        else:
            model = HLIP(config, text_source=grown(config, data, accelerator, out / "text"))
            widen_word_embeddings(model.text, config.text.embedding_std)
        if init_vision is not None:
            from hlip.vision.inflate import start_from

            start_from(model.visual, init_vision)
        if config.vision.patch_norm:
            model.visual.patch_embed.set_centre(some_volumes(data, centre_studies))
        return model


def grown(config: HLIPConfig, data: StudyDataset, accelerator: Accelerator, source: Path) -> Path:
    """A text source learnt from the training reports, by the main process, once."""
    texts = [config.prefix + sentence for sentences in data.sentences for sentence in sentences]
    if accelerator.is_main_process and not (source / "config.json").exists():
        grow_text_source(source, texts, config.text)
    accelerator.wait_for_everyone()
    return source


def continued(path: Path, config: HLIPConfig) -> HLIP:
    """The weights of a checkpoint under this configuration (another patch dropout, say), in training mode.

    Raises:
        CheckpointError: they are of another architecture; the message names what differs.
    """
    start = load(path)
    wanted, found = plain(config), plain(start.config)
    for part, names in FREE.items():
        for side in (wanted, found):
            side[part] = {key: value for key, value in side[part].items() if key not in names}
    wrong = [f"{key}: {value}, but {path} has {found[key]}" for key, value in wanted.items() if found[key] != value]
    if wrong:
        raise CheckpointError("the model differs from that of init: " + "; ".join(wrong))
    vision = start.visual.config
    for name in FREE["vision"]:
        setattr(vision, name, getattr(config.vision, name))
    start.visual.spread_drop_path()
    if config.text.locked:
        start.text.encoder.lock()
    return start.train()


def some_volumes(data: StudyDataset, studies: int) -> torch.Tensor:
    """(S, 1, D, H, W) uint8: the drawn scans of training studies spread over the split."""
    step = max(1, len(data) // studies)
    return torch.cat([data[0, index].volumes for index in range(0, len(data), step)])
