"""Grad-CAM: which places of an encoder's last feature map raise a class's score (Selvaraju et al., ICCV 2017, eqs. 1 and 2).

For encoders with channels (the CNN, 2-D backbones). A ViT's map is its patch tokens after the last block: through them the head must read
the image, or there is nothing to show.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from einops import reduce
from torch import Tensor

from hp2l.diagnoser import Diagnoser
from hp2l.encoders import ChannelEncoder
from hp2l.head import HP2LOutput


class GradCAM:
    """The maps of packed studies, encoded once; every class's map is one backward pass more.

    Args:
        model: in evaluation mode.
        volumes: (S, 1, D, H, W) uint8, as the encoder's `reader` gives them.
        scans_per_study: B counts on the host.

    Raises:
        ValueError: the encoder has no channels; `hlip explain` is for HLIP.
    """

    def __init__(self, model: Diagnoser, volumes: Tensor, scans_per_study: list[int]):
        encoder = model.encoder
        if not isinstance(encoder, ChannelEncoder):
            raise ValueError(f"Grad-CAM is for encoders with a feature map, not for kind {encoder.kind}: take `hlip explain`")
        self.place: Callable[[Tensor], Tensor] = encoder.trunk.place  # type: ignore[assignment]  # of the trunk's own class
        with torch.enable_grad():
            with torch.no_grad():
                features = encoder.features(encoder.trunk, volumes, scans_per_study)
            self.features = features.detach().requires_grad_()
            self.output: HP2LOutput = model(encoder.to_tokens(encoder.trunk, self.features, model.config.blocks))

    def map(self, level: int, index: int) -> Tensor:
        """(B, d, h, w) float32, at least 0: what speaks for a class, larger where it does so more; only ratios within a map mean something.

        Args:
            level: from 1.
            index: of the class in the level.
        """
        score = self.output.logits[level - 1][:, index].sum()
        (slopes,) = torch.autograd.grad(score, self.features, retain_graph=True)
        weights = reduce(self.place(slopes), "B C d h w -> B C 1 1 1", "mean")
        found = (weights * self.place(self.features.detach())).sum(dim=1).relu()
        return found.float()
