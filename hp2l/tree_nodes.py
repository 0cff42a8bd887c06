"""The nodes of a disease tree: a leaf that several levels carry is several classes, but one node."""

from __future__ import annotations

from typing import NamedTuple

from hlip.taxonomy import Taxonomy, TaxonomyClass


class Nodes(NamedTuple):
    """Nodes are numbered from 0, those of coarser levels first."""

    of: list[list[int]]
    """The node of each class: one list a level."""
    paths: list[tuple[int, ...]]
    """Each node's path from the top down, itself last."""


def tree_nodes(taxonomy: Taxonomy) -> Nodes:
    """Number the nodes of a tree. A class that repeats its parent and has no sibling is its parent's node."""
    of: list[list[int]] = []
    paths: list[tuple[int, ...]] = []
    for level in range(1, taxonomy.depth + 1):
        of.append([])
        for item in taxonomy.classes(level):
            above = (
                None if item.parent_level is None or item.parent_index is None else of[item.parent_level - 1][item.parent_index]
            )
            if above is not None and _carried(taxonomy, item):
                of[-1].append(above)
                continue
            of[-1].append(len(paths))
            paths.append((*(() if above is None else paths[above]), len(paths)))
    return Nodes(of, paths)


def _carried(taxonomy: Taxonomy, item: TaxonomyClass) -> bool:
    assert item.parent_level is not None
    assert item.parent_index is not None
    same = taxonomy.classes(item.parent_level)[item.parent_index].name == item.name
    return same and taxonomy.subtree(item.parent_level, item.parent_index, item.level) == [item.index]
