"""Which classes a fine-tuned model could learn at all: no study of the training split need have had one."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from hp2l.diagnoser import Diagnoser
from hp2l.prototypes import PrototypeBank

NotLearnt = Sequence[set[int]]
"""Of each level the places of classes that were not learnt."""


def not_learnt(model: Diagnoser) -> list[set[int]]:
    """Classes without a training study that has them, as far as the checkpoint tells.

    It tells in its facts (`without_training_studies`, entries like `level 3: glioma`), and by prototypes that were never moved. A bank of
    which none was moved is that of a model put together by hand, and tells nothing.
    """
    told = model.facts.get("without_training_studies")
    named = set(told) if isinstance(told, list) else set()
    bank = getattr(getattr(model.head, "head", model.head), "bank", None)  # inside a dependency prior
    found = []
    levels = range(1, model.taxonomy.depth + 1)
    moved = isinstance(bank, PrototypeBank) and any(bool(bank.updates(level).any()) for level in levels)
    for level in levels:
        missing = {item.index for item in model.taxonomy.classes(level) if f"level {level}: {item.name}" in named}
        if moved and isinstance(bank, PrototypeBank):
            missing |= set((bank.updates(level) == 0).nonzero().flatten().tolist())
        found.append(missing)
    return found


def without(levels: Sequence[Tensor], missing: NotLearnt) -> list[Tensor]:
    """Numbers (1, K_l) of every level, 0 at the classes that were not learnt: they are no level's highest."""
    kept = [level.clone() for level in levels]
    for level, places in zip(kept, missing, strict=True):
        level[:, sorted(places)] = 0.0
    return kept


def learnt_notes(model: Diagnoser, missing: NotLearnt) -> list[str]:
    """Classes that were not learnt, and those whose probability no validation study bears out."""
    tree, notes = model.taxonomy, []
    for level, places in enumerate(missing, start=1):
        if places:
            names = ", ".join(tree.levels[level - 1][place] for place in sorted(places))
            notes.append(
                f"level {level} ({tree.level_names[level - 1]}): not learnt, as no training study up to the kept step had it: {names}; "
                "without probability, rank and cosine"
            )
    for level, rules in enumerate(model.scaling.rules if model.scaling else (), start=1):
        unseen = [place for place, rule in enumerate(rules) if rule.method != "none" and rule.negatives and not rule.positives]
        names = ", ".join(tree.levels[level - 1][place] for place in unseen if place not in missing[level - 1])
        if names:
            notes.append(
                f"level {level} ({tree.level_names[level - 1]}): no validation study had {names}: the probability was fitted without one"
            )
    return notes
