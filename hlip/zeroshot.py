"""Text queries -> scores.

A class is a list of phrases; phrases x templates are embedded, normalised, averaged and normalised again to one vector a
class. A study's score for it is the cosine similarity of its sentence token (class token 0) with that vector; held against
the phrase of a normal study it becomes a number between 0 and 1. That number ranks studies; it is not a calibrated
probability of disease.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import yaml
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from hlip.data import evaluation_batches
from hlip.files.resources import find
from hlip.model import HLIP, SENTENCE
from hlip.store import Store, StudyRecord
from hlip.taxonomy import Taxonomy

NORMAL_PHRASE = "no significant abnormalities"


@dataclass(frozen=True)
class PromptSet:
    """Templates around a class phrase; `{c}` is the phrase."""

    name: str
    prefix: str
    templates: tuple[str, ...]
    untemplated: tuple[str, ...] = ()
    """Phrases that are sentences already: prefix + phrase + "." in every template."""

    @classmethod
    def load(cls, name_or_path: str | Path) -> PromptSet:
        """Read a built-in set (`hlip`, `plain`) or a YAML file.

        Raises:
            ValueError: no template, or one without {c}.
        """
        path = find("prompts", name_or_path)
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise ValueError(f"{path}: not YAML ({error})") from error
        if not isinstance(content, dict):
            raise ValueError(f"{path}: not a prompt set (expected the keys prefix, templates, untemplated)")
        templates = tuple(content.get("templates") or ())
        if not templates or any("{c}" not in template for template in templates):
            raise ValueError(f"{path}: templates must be a list of texts with {{c}} in each")
        return cls(path.stem, content.get("prefix", ""), templates, tuple(content.get("untemplated") or ()))

    def texts(self, phrase: str) -> list[str]:
        """The prompts of one phrase, in the order of the templates."""
        if phrase in self.untemplated:
            return [f"{self.prefix}{phrase}."] * len(self.templates)
        return [self.prefix + template.replace("{c}", phrase) for template in self.templates]


@dataclass(frozen=True)
class ZeroShotSettings:
    """Choices of a zero-shot diagnosis; made on a validation split, never on test."""

    prompts: str = "hlip"
    """Name or path of the prompt set."""
    synonyms: bool = True
    """Average over the class's synonyms as well as its own prompt."""
    contrast: bool = True
    """Score against the normal phrase; False uses the similarity alone."""
    parents: Literal["own", "children"] = "own"
    """Score an inner class by its own prompt, or by the highest score of the last level's classes below it (by its own where there
    are none)."""


@torch.no_grad()
def embed_classes(model: HLIP, phrases: Sequence[Sequence[str]], prompts: PromptSet, batch_size: int = 256) -> Tensor:
    """K lists of phrases -> (K, E) float32 of unit length."""
    texts = [prompts.texts(phrase) for names in phrases for phrase in names]
    flat = [text for group in texts for text in group]
    parts = [model.encode_text(flat[first : first + batch_size]).float() for first in range(0, len(flat), batch_size)]
    embedded = rearrange(torch.cat(parts), "(p t) E -> p t E", t=len(prompts.templates))
    by_class = embedded.split([len(names) for names in phrases])
    return torch.stack([F.normalize(part.flatten(0, 1).mean(dim=0), dim=0) for part in by_class])


@torch.no_grad()
def embed_studies(
    model: HLIP, store: Store, records: Sequence[StudyRecord], batch_size: int = 16, progress: str | None = None
) -> Tensor:
    """Studies -> (N, P, E) float32 of unit length, on the host; `progress` is the bar's caption."""
    parts = []
    with tqdm(total=len(records), desc=progress, unit="study", mininterval=0.5, disable=progress is None) as bar:
        for batch in evaluation_batches(store, records, batch_size):
            parts.append(model.encode_study(batch.volumes.to(model.device), batch.scans_per_study).float().cpu())
            bar.update(len(batch.study_ids))
    return torch.cat(parts) if parts else torch.empty(0, model.config.vision.class_tokens, model.config.embed_dim)


def contrast_scores(similarities: Tensor, normal: Tensor, scale: float) -> Tensor:
    """(N, K) cosine similarities against (N,) of the normal phrase -> two-way softmax at the model's temperature, (N, K)."""
    return torch.sigmoid(scale * (similarities - normal[:, None]))


@torch.no_grad()
def score_taxonomy(
    model: HLIP, features: Tensor, taxonomy: Taxonomy, settings: ZeroShotSettings = ZeroShotSettings()
) -> list[np.ndarray]:
    """Scores of every class at every level.

    Args:
        model: gives the text side and the temperature.
        features: (N, P, E) from `embed_studies`.
        taxonomy: classes with prompts.
        settings: how classes become scores.

    Returns:
        L arrays (N, K_l), float64 in [0, 1].
    """
    prompts = PromptSet.load(settings.prompts)
    study = features[:, SENTENCE].float()
    scale = float(model.logit_scale_sentence.exp())
    levels = range(1, taxonomy.depth + 1)
    similarities = []
    for level in levels:
        classes = taxonomy.classes(level)
        phrases = [[c.prompt, *(c.synonyms if settings.synonyms else ())] for c in classes]
        similarities.append(study @ embed_classes(model, phrases, prompts).cpu().T)
    normal_prompt = study @ embed_classes(model, [[NORMAL_PHRASE]], prompts)[0].cpu()
    scores = []
    for level, similarity in zip(levels, similarities, strict=True):
        score = (similarity + 1) / 2
        if settings.contrast:
            score = contrast_scores(similarity, normal_prompt, scale)
            if taxonomy.normal in taxonomy.levels[level - 1]:
                place = taxonomy.levels[level - 1].index(taxonomy.normal)
                others = [index for index in range(similarity.shape[1]) if index != place]
                if others:
                    rival = similarity[:, others].amax(dim=1)
                    score[:, place] = torch.sigmoid(scale * (similarity[:, place] - rival))
        scores.append(score.numpy().astype(np.float64))
    return from_children(scores, taxonomy) if settings.parents == "children" else scores


def highest(below: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, children) -> (N,)"""
    return below.max(axis=1)


def from_children(
    scores: Sequence[NDArray[np.float64]],
    taxonomy: Taxonomy,
    combine: Callable[[NDArray[np.float64]], NDArray[np.float64]] = highest,
) -> list[NDArray[np.float64]]:
    """Inner classes answered by the last level's classes below them; by their own score where there are none.

    Args:
        scores: L arrays (N, K_l).
        combine: scores below a class (N, children) -> its own (N,).
    """
    found = [level.copy() for level in scores]
    for level in range(1, taxonomy.depth):
        for index in range(len(taxonomy.levels[level - 1])):
            if below := taxonomy.subtree_leaves(level, index):
                found[level - 1][:, index] = combine(scores[-1][:, below])
    return found
