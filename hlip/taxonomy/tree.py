"""The disease tree: classes of every level, their parents, their text prompts, and labels closed upward.

    name: brain_mri
    level_names: [category, family, subtype]
    classes:
      - name: vascular
        prompt: cerebrovascular disease         # a phrase for "This study shows: {c}."; default: the name
        synonyms: [cerebral vascular disease]
        codes: {snomed: "..."}                  # optional
        children:
          - name: white matter hyperintensity   # a leaf above the last level is a class of the deeper ones too
      - name: normal
        normal: true                            # at most one class; it contradicts every other
        levels: [1, 3]                          # ... unless the leaf lists its levels

A tree is data, never code: any depth from 1, ragged, single children. An inner class belongs to the level of its
nesting. One name is one class, except that a child may repeat its parent's name (a level that adds nothing there).
Levels count from 1, everywhere. The idea is HP2L's (Liu et al., Medical Image Analysis 112, 2026); its full list of
disorders is not public.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hlip.files import resources
from hlip.taxonomy.file import Node, TaxonomyError, build, read_yaml

__all__ = ["Taxonomy", "TaxonomyClass", "TaxonomyError"]

Place = tuple[int, int]
"""(level from 1, index within the level from 0): what identifies a class."""
Below = Literal["level", "absent", "subtree"]
"""What is unknown below a coarse label, see `Taxonomy.encode_all`."""


@dataclass(frozen=True)
class TaxonomyClass:
    """One class at one level. A leaf that several levels carry is one `TaxonomyClass` at each of them."""

    name: str
    level: int
    index: int
    """Place within its level, from 0: the column of every score and target."""
    parent: str | None
    """Name of the class above: the same leaf a level of its own up, else the nearest ancestor; `None` at the top."""
    parent_level: int | None
    parent_index: int | None
    prompt: str
    """A phrase that fits "This study shows: {c}."."""
    synonyms: tuple[str, ...] = ()
    codes: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Terminology -> code, e.g. `{"snomed": "393564001"}`."""


class Taxonomy:
    """A checked, immutable disease tree. Build it with `load` or `from_dict`."""

    def __init__(self, name: str, level_names: Sequence[str], roots: Sequence[Node]) -> None:
        self.name = name
        self.level_names = tuple(level_names)
        self._roots = tuple(roots)
        self._classes = _place(self._roots, len(self.level_names))
        self.levels = tuple(tuple(item.name for item in level) for level in self._classes)
        """Class names of each level, in tree order."""
        self.normal = next((node.name for root in roots for node in root.walk() if node.normal), None)
        """Name of the class that stands for "nothing found", or `None`."""
        # Later levels overwrite earlier ones: a name resolves to its deepest class.
        self._home: dict[str, Place] = {c.name: (c.level, c.index) for level in self._classes for c in level}
        self._called = _other_names(self._classes)
        self._below = self._descendants()

    # -- reading and writing ---------------------------------------------------------------------------------

    @classmethod
    def load(cls, name_or_path: str | Path) -> Taxonomy:
        """Read a tree: a built-in name (`brain_mri`) or a YAML file.

        Raises:
            ResourceError: neither a file nor a built-in name.
            TaxonomyError: the file is no valid tree; every fault is named with its line.
        """
        path = resources.find("taxonomy", name_or_path)
        content, lines = read_yaml(path)
        return cls(*build(content, str(path), lines))

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], source: str = "taxonomy") -> Taxonomy:
        """Rebuild a tree from `to_dict()`; `source` is what errors name (e.g. the checkpoint's folder)."""
        return cls(*build(content, source, {}))

    def to_dict(self) -> dict[str, Any]:
        """The whole tree as plain JSON / YAML content, in the form of the file; checkpoints carry it."""
        return {
            "name": self.name,
            "level_names": list(self.level_names),
            "classes": [root.content() for root in self._roots],
        }

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the canonical content: names, order, prompts, synonyms, codes, levels."""
        return hashlib.sha256(json.dumps(self.to_dict(), ensure_ascii=False).encode()).hexdigest()

    def same_tree(self, other: Taxonomy) -> bool:
        """Whether classes, parents and order agree: scores and weights of one then fit the other.

        Unlike `digest` it ignores the tree's name, the level names, prompts, synonyms and codes.
        """
        mine, theirs = (
            [[(c.name, c.parent_level, c.parent_index) for c in level] for level in tree._classes] for tree in (self, other)
        )
        return mine == theirs

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Taxonomy) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"Taxonomy({self.name}: {' / '.join(map(str, self.counts))} classes)"

    # -- the tree --------------------------------------------------------------------------------------------

    @property
    def depth(self) -> int:
        """Number of levels, L >= 1."""
        return len(self.levels)

    @property
    def counts(self) -> tuple[int, ...]:
        """Number of classes of each level, (K_1, ..., K_L)."""
        return tuple(len(level) for level in self.levels)

    def classes(self, level: int) -> tuple[TaxonomyClass, ...]:
        """The classes of one level (from 1), in the order of every score and target."""
        self._check_level(level, self.depth)
        return self._classes[level - 1]

    def find(self, name: str) -> TaxonomyClass:
        """The class of that name at its deepest level.

        Raises:
            TaxonomyError: unknown name; the message lists the nearest ones.
        """
        if name not in self._home:
            raise TaxonomyError(f"taxonomy {self.name} has no class '{name}'{self._suggest(name)}")
        level, index = self._home[name]
        return self._classes[level - 1][index]

    def meant_by(self, word: str) -> str:
        """The class that a name in any letters, a synonym or a code stands for: for importers, which say aloud what they take.

        Raises:
            TaxonomyError: no class, or several.
        """
        if word in self._home:
            return word
        if word.casefold() not in self._called:
            raise TaxonomyError(f"taxonomy {self.name} has no class that '{word}' stands for{self._suggest(word)}")
        return self._called[word.casefold()]

    def edges(self, level: int) -> list[tuple[int, int]]:
        """(parent index at `level`, child index at `level + 1`) of each class whose parent is exactly one level up."""
        self._check_level(level, self.depth - 1)
        return [
            (child.parent_index, child.index)
            for child in self._classes[level]
            if child.parent_level == level and child.parent_index is not None
        ]

    def subtree(self, level: int, index: int, at: int) -> list[int]:
        """Indices of the classes of level `at` that lie below a class (itself where `at == level`)."""
        self._check_level(at, self.depth)
        if not 0 <= index < len(self.classes(level)):
            raise TaxonomyError(f"taxonomy {self.name}: level {level} has no class {index}")
        return [index] if at == level else list(self._below[level, index].get(at, ()))

    def subtree_leaves(self, level: int, index: int) -> list[int]:
        """Indices of the last level's classes below a class (itself at the last level).

        Empty where no class below reaches the last level (a leaf with explicit `levels`).
        """
        return self.subtree(level, index, self.depth)

    def select_levels(self, levels: Sequence[int]) -> Taxonomy:
        """The tree with only these levels, renumbered from 1; the others' classes dissolve into their parents."""
        kept = sorted(set(levels))
        if not kept or len(kept) != len(levels) or not 1 <= kept[0] <= kept[-1] <= self.depth:
            raise TaxonomyError(f"taxonomy {self.name}: cannot keep levels {list(levels)} of {self.depth}")
        rank = {level: place for place, level in enumerate(kept, start=1)}

        def shrink(node: Node) -> list[dict[str, Any]]:
            children = [entry for child in node.children for entry in shrink(child)]
            own = [rank[level] for level in node.levels if level in rank]
            if not own:
                return children
            entry = node.content()
            for key in ("levels", "children"):
                entry.pop(key, None)
            return [entry | ({"children": children} if children else {"levels": own})]

        suffix = "" if len(kept) == self.depth else f"-levels-{'-'.join(map(str, kept))}"
        content = {
            "name": self.name + suffix,
            "level_names": [self.level_names[level - 1] for level in kept],
            "classes": [entry for root in self._roots for entry in shrink(root)],
        }
        return Taxonomy.from_dict(content, source=f"levels {kept} of {self.name}")

    def to_depth(self, depth: int) -> Taxonomy:
        """The tree with `depth` levels: always the last, and the `depth - 1` coarsest.

        For HP2L's ablation of depth, measured at the last level: brain_mri becomes 16, 4 / 16, 4 / 6 / 16.
        """
        self._check_level(depth, self.depth)
        return self.select_levels([*range(1, depth), self.depth])

    # -- labels ----------------------------------------------------------------------------------------------

    def encode(self, labels: Iterable[str]) -> list[np.ndarray]:
        """One study's labels as a multi-hot vector a level: float32 (K_l,), closed upward.

        Names of any level may be mixed; no label at all means that nothing of the tree was found.

        Raises:
            TaxonomyError: unknown label (with the nearest names), or the normal class beside another one.
        """
        labels = [labels] if isinstance(labels, str) else list(labels)
        self._check_contradiction(labels)
        targets = [np.zeros(count, dtype=np.float32) for count in self.counts]
        for label in labels:
            item: TaxonomyClass | None = self.find(label)
            while item is not None:
                targets[item.level - 1][item.index] = 1.0
                item = self._parent(item)
        return targets

    def encode_all(
        self,
        labels: Sequence[Iterable[str] | None],
        *,
        names: Sequence[str] | None = None,
        below: Below = "level",
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Targets and masks of N studies: (targets (N, K_l), mask (N, K_l)) a level, float32, mask 1 = known.

        `None` is an unlabelled study: masked everywhere. A study with a coarse label (one that has classes below, none
        of them labelled) is masked at the levels where those classes are. `below` says how much of such a level: all of it (`level`, as
        for a test, where a class that is known only if present would be too frequent); all but the classes that the study has, and the
        normal one, which it has not (`absent`, for training); or only those below the coarse label (`subtree`, which takes what lies
        under others as absent).

        Args:
            names: study ids, used in errors only.

        Raises:
            TaxonomyError: as `encode`, naming the study.
        """
        targets = [np.zeros((len(labels), count), dtype=np.float32) for count in self.counts]
        masks = [np.zeros_like(target) for target in targets]
        for row, given in enumerate(labels):
            if given is None:
                continue
            known = [given] if isinstance(given, str) else list(given)
            try:
                encoded = self.encode(known)
            except TaxonomyError as error:
                raise TaxonomyError(f"study {names[row] if names else f'{row} (from 0)'}: {error}") from error
            for target, mask, values in zip(targets, masks, encoded, strict=True):
                target[row], mask[row] = values, 1.0
            for level, indices in self._unknown_below(known, encoded):
                masks[level - 1][row, indices if below == "subtree" else slice(None)] = 0.0
                if below == "absent":
                    masks[level - 1][row] = encoded[level - 1]
                    if self.normal in self.levels[level - 1]:  # it contradicts whatever label the study has
                        masks[level - 1][row, self.levels[level - 1].index(self.normal)] = 1.0
        return list(zip(targets, masks, strict=True))

    # -- inside ----------------------------------------------------------------------------------------------

    def _unknown_below(self, labels: list[str], encoded: list[np.ndarray]) -> Iterator[tuple[int, list[int]]]:
        """(level, class indices) below each label of which nothing deeper is labelled."""
        for label in labels:
            below = self._below[self._home[label]]
            if not any(encoded[level - 1][indices].any() for level, indices in below.items()):
                yield from below.items()

    def _check_contradiction(self, labels: list[str]) -> None:
        others = sorted({label for label in labels if label != self.normal})
        if self.normal in labels and others:
            found = ", ".join(map(repr, others))
            raise TaxonomyError(f"labelled '{self.normal}' and also {found}: they contradict")

    def _check_level(self, level: int, last: int) -> None:
        if not 1 <= level <= last:
            raise TaxonomyError(f"taxonomy {self.name}: level {level} is not within 1 to {last}")

    def _parent(self, item: TaxonomyClass) -> TaxonomyClass | None:
        if item.parent_level is None or item.parent_index is None:
            return None
        return self._classes[item.parent_level - 1][item.parent_index]

    def _descendants(self) -> dict[Place, dict[int, list[int]]]:
        below: dict[Place, dict[int, list[int]]]
        below = {(item.level, item.index): {} for level in self._classes for item in level}
        for level in self._classes:
            for item in level:
                above = self._parent(item)
                while above is not None:
                    below[above.level, above.index].setdefault(item.level, []).append(item.index)
                    above = self._parent(above)
        return below

    def _suggest(self, label: str) -> str:
        """The class that it is a synonym of, or the nearest names, found through synonyms and prompts as well."""
        if own := self._called.get(label.casefold()):
            return f" (a synonym of {own!r}: write that name)"
        items = [item for level in self._classes for item in level]
        terms = {term.casefold(): item.name for item in items for term in (*item.synonyms, item.prompt)}
        terms |= {name.casefold(): name for name in self._home}
        near = get_close_matches(label.casefold(), terms, n=5, cutoff=0.5)
        found = list(dict.fromkeys(terms[term] for term in near))[:3]
        return f" (nearest: {', '.join(map(repr, found))})" if found else f" (known: {', '.join(self._home)})"


def _other_names(levels: Sequence[Sequence[TaxonomyClass]]) -> dict[str, str]:
    """Names in other letters, then synonyms and codes -> the one class that has them; what two classes have stands for none."""
    classes = [item for level in levels for item in level]
    found: dict[str, str] = {}
    for called in ([[item.name] for item in classes], [[*item.synonyms, *item.codes.values()] for item in classes]):
        owners: dict[str, set[str]] = {}
        for item, words in zip(classes, called, strict=True):
            for word in words:
                owners.setdefault(word.casefold(), set()).add(item.name)
        found = {word: next(iter(names)) for word, names in owners.items() if len(names) == 1} | found
    return found


def _place(roots: Sequence[Node], depth: int) -> tuple[tuple[TaxonomyClass, ...], ...]:
    """Every class at every level, with its index and its parent."""
    index: dict[tuple[int, int], int] = {}
    counts = [0] * depth
    nodes = [node for root in roots for node in root.walk()]
    for node in nodes:
        for level in node.levels:
            index[id(node), level] = counts[level - 1]
            counts[level - 1] += 1
    placed: list[list[TaxonomyClass]] = [[] for _ in range(depth)]
    for node in nodes:
        for place, level in enumerate(node.levels):
            above = node if place else node.parent
            parent_level = None if above is None else above.levels[place - 1 if place else -1]
            parent_index = None if above is None or parent_level is None else index[id(above), parent_level]
            placed[level - 1].append(
                TaxonomyClass(
                    name=node.name,
                    level=level,
                    index=index[id(node), level],
                    parent=None if above is None else above.name,
                    parent_level=parent_level,
                    parent_index=parent_index,
                    prompt=node.prompt,
                    synonyms=node.synonyms,
                    codes=node.codes,
                )
            )
    return tuple(tuple(level) for level in placed)
