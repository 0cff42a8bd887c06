"""HP2L: hierarchical prompt and prototype learning over a disease tree.

    from hp2l import HP2L, HP2LConfig, HP2LLoss, Taxonomy

Names are loaded when first used, so that importing the package does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hlip.taxonomy import Taxonomy, TaxonomyClass, TaxonomyError
    from hp2l.baselines import FlatConfig, FlatHead
    from hp2l.diagnoser import Diagnoser, load
    from hp2l.heads import HeadConfig
    from hp2l.loss import HP2LLoss, LossConfig, edge_consistency, level_bce
    from hp2l.model import HP2L, HP2LConfig, HP2LOutput
    from hp2l.prompts import PromptLearning
    from hp2l.prototypes import PrototypeBank

_HOMES = {
    "hlip.taxonomy": ("Taxonomy", "TaxonomyClass", "TaxonomyError"),
    "hp2l.diagnoser": ("Diagnoser", "load"),
    "hp2l.heads": ("HeadConfig",),
    "hp2l.baselines": ("FlatConfig", "FlatHead"),
    "hp2l.loss": ("HP2LLoss", "LossConfig", "edge_consistency", "level_bce"),
    "hp2l.model": ("HP2L", "HP2LConfig", "HP2LOutput"),
    "hp2l.prompts": ("PromptLearning",),
    "hp2l.prototypes": ("PrototypeBank",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "HP2L",
    "Diagnoser",
    "FlatConfig",
    "FlatHead",
    "HP2LConfig",
    "HP2LLoss",
    "HP2LOutput",
    "HeadConfig",
    "LossConfig",
    "PromptLearning",
    "PrototypeBank",
    "Taxonomy",
    "TaxonomyClass",
    "TaxonomyError",
    "edge_consistency",
    "level_bce",
    "load",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'hp2l' has no attribute '{name}'")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
