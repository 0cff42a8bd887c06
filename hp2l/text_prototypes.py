"""Prototypes that begin where the pretrained language side sees their classes (ours; the paper begins at N(0, 1)).

Classes whose prompts mean something alike begin close together, so that the prompt's first choices among prototypes already follow the
tree's meaning. The joint space and the head's width are different spaces: distances between classes carry over, directions do not.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from hlip.model import HLIP
from hlip.taxonomy import Taxonomy
from hlip.zeroshot import PromptSet, embed_classes


@torch.no_grad()
def text_prototypes(model: HLIP, taxonomy: Taxonomy, width: int, seed: int = 0) -> list[Tensor]:
    """One (K_l, C) float32 tensor a level.

    Each class is the mean embedding of its prompt and synonyms in HLIP's templates. What all classes of a level share is subtracted
    (the embeddings of a text tower lie in a narrow cone), rows are brought to the length that N(0, 1) has, sqrt(C), and a random
    isometry takes the joint space to the width of the head (a random projection where the head is narrower).

    Args:
        model: gives the text side.
        taxonomy: classes with prompts and synonyms.
        width: C.
        seed: of the isometry.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(max(width, model.config.embed_dim), max(width, model.config.embed_dim), generator=generator)
    turn = torch.linalg.qr(rows).Q[: model.config.embed_dim, :width]
    prompts, levels = PromptSet.load("hlip"), []
    for level in range(1, taxonomy.depth + 1):
        phrases = [[item.prompt, *item.synonyms] for item in taxonomy.classes(level)]
        embedded = embed_classes(model, phrases, prompts).cpu()
        centred = embedded - embedded.mean(dim=0) if len(embedded) > 1 else embedded
        levels.append(F.normalize(F.normalize(centred, dim=-1) @ turn, dim=-1) * width**0.5)
    return levels
