"""Classifiers that HP2L is compared with: the same encoder tokens in, the same output, the same protocol (`hp2l.head.Head`).

| kind | class | what it is | parameters |
|---|---|---|---|
| hp2l | `hp2l.model.HP2L` | the method | 47.27 M |
| flat | `FlatHead` | one linear layer for the last level, a level's score being the maximum below | 0.03 M |
| linear | `LevelHeads` | one linear layer a level: the linear probe | 0.04 M |
| prompt_vit | `PromptViT` | prompt tokens, no taxonomy; with no prompt a flat ViT as large as HP2L | 42.55 M |
| transhp | `TransHP` | prompts of the coarse classes, with a coarse loss | 42.56 M |
| decision_tree | `DecisionTree` | products over node prototypes and a distance term: our reading of HPDT | 42.55 M |
| cascade | `Cascade` | one model a decision node (brain_mri: 8), hard decisions | 113.42 M |
| isolated | `Isolated` | a level's loss stays in its level | 42.55 M |
| nearest | `NearestPrototypes` | k nearest class means | 29 |

Parameters for brain_mri (4 / 6 / 16 classes), width 768, MLP ratio 4, with the defaults of `HeadConfig`; a test keeps them. Heads with
blocks have HP2L's: two a level, of the same width. What HP2L has more is the prompt's attention over prototypes.
"""

from hp2l.baselines.cascade import Cascade
from hp2l.baselines.decision_tree import DecisionTree
from hp2l.baselines.flat import FlatConfig, FlatHead, LevelHeads
from hp2l.baselines.isolated import Isolated
from hp2l.baselines.nearest import NearestPrototypes
from hp2l.baselines.prompt_vit import PromptViT
from hp2l.baselines.transhp import TransHP

__all__ = [
    "Cascade",
    "DecisionTree",
    "FlatConfig",
    "FlatHead",
    "Isolated",
    "LevelHeads",
    "NearestPrototypes",
    "PromptViT",
    "TransHP",
]
