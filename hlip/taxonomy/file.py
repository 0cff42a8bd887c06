"""Reading and checking a taxonomy file: content -> checked nodes, with every fault named by line and field.

The form of the file is described in `hlip.taxonomy`, which is the room to enter by; this is its workbench.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

TREE_KEYS = ("name", "level_names", "classes")
CLASS_KEYS = ("name", "prompt", "synonyms", "codes", "levels", "normal", "children")
_SHOWN = 20

Trail = tuple[str | int, ...]
"""Where a value stands: ("classes", 0, "children", 2, "name")."""


class TaxonomyError(ValueError):
    """A tree or a label cannot be used; the message names file, line and field, or the label and its near names."""


@dataclass
class Node:
    """One checked entry of the file."""

    name: str
    prompt: str
    synonyms: tuple[str, ...]
    codes: dict[str, str]
    normal: bool
    levels: tuple[int, ...]
    default_levels: tuple[int, ...]
    parent: Node | None
    children: list[Node] = field(default_factory=list)

    def walk(self) -> Iterator[Node]:
        """This node and everything below it, in tree order."""
        yield self
        for child in self.children:
            yield from child.walk()

    def content(self) -> dict[str, Any]:
        """The entry in the form of the file, without what equals its default: equal trees have equal content."""
        entry: dict[str, Any] = {"name": self.name, "prompt": self.prompt}
        if self.synonyms:
            entry["synonyms"] = list(self.synonyms)
        if self.codes:
            entry["codes"] = dict(sorted(self.codes.items()))
        if self.normal:
            entry["normal"] = True
        if self.levels != self.default_levels:
            entry["levels"] = list(self.levels)
        if self.children:
            entry["children"] = [child.content() for child in self.children]
        return entry


def read_yaml(path: Path) -> tuple[Any, dict[Trail, int]]:
    """A YAML file's content and the line of each of its values.

    Raises:
        TaxonomyError: not YAML, a key given twice, or an alias that makes an entry its own descendant.
    """
    try:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        lines: dict[Trail, int] = {}
        if root is not None:
            _note_lines(root, (), (), lines, path)
        return yaml.safe_load(text), lines
    except UnicodeDecodeError as error:
        raise TaxonomyError(f"{path}: not UTF-8 text") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise TaxonomyError(f"{path}{line}: not YAML ({getattr(error, 'problem', None) or error})") from error


def build(content: Any, source: str, lines: Mapping[Trail, int]) -> tuple[str, tuple[str, ...], list[Node]]:
    """Name, level names and root nodes of a tree; a file (it has lines) whose classes share a prompt is warned of.

    Raises:
        TaxonomyError: with all faults of the content.
    """
    faults = _Faults(source, lines)
    if not isinstance(content, Mapping):
        faults.add((), f"a taxonomy is a mapping with {', '.join(TREE_KEYS)}, not {_kind(content)}")
        faults.stop()
    _check_keys(content, TREE_KEYS, (), faults)
    if not _is_text(content.get("name")):
        faults.add(("name",), "missing, or not a non-empty string")
    names = content.get("level_names")
    if names is not None and not (isinstance(names, list) and names and all(map(_is_text, names))):
        faults.add(("level_names",), f"must be a list of strings, not {_kind(names)}")
    _check_entries(content.get("classes"), ("classes",), faults)
    faults.stop()
    depth = _depth(content["classes"])
    if names is not None and len(names) != depth:
        faults.add(("level_names",), f"{len(names)} name(s), but the tree has {depth} level(s)")
    entries = enumerate(content["classes"])
    roots = [_node(entry, None, 1, depth, ("classes", place), faults) for place, entry in entries]
    _check_tree(roots, depth, faults)
    if lines:  # a file's; what a checkpoint was trained with must open
        _check_synonyms(roots, faults)
    faults.stop()
    if lines:
        _warn_of_shared_prompts(roots, faults)
    return content["name"], tuple(names or (f"level {level}" for level in range(1, depth + 1))), roots


class _Faults:
    """Collects faults, so that one round of corrections is enough."""

    def __init__(self, source: str, lines: Mapping[Trail, int]) -> None:
        self.source, self.lines, self.found = source, lines, list[str]()

    def line(self, trail: Trail) -> int | None:
        """Line of a value, or of the nearest entry around it."""
        while trail and trail not in self.lines:
            trail = trail[:-1]
        return self.lines.get(trail)

    def add(self, trail: Trail, text: str) -> None:
        spelled = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in trail).lstrip(".")
        line = self.line(trail)
        self.found.append((f"line {line}: " if line else "") + (f"{spelled}: " if spelled else "") + text)

    def stop(self) -> None:
        """Raise if anything was found."""
        if self.found:
            more = f"\n  and {len(self.found) - _SHOWN} more" if len(self.found) > _SHOWN else ""
            listing = "\n  ".join(self.found[:_SHOWN])
            raise TaxonomyError(f"{self.source}: {len(self.found)} problem(s)\n  {listing}{more}")


def _note_lines(node: yaml.Node, trail: Trail, above: tuple[int, ...], lines: dict[Trail, int], path: Path) -> None:
    """Record the line of every value below a YAML node."""
    line = node.start_mark.line + 1
    lines.setdefault(trail, line)
    if id(node) in above:
        line = lines[trail[:-1]]  # where the alias stands; its own mark is the anchor's
        raise TaxonomyError(f"{path}, line {line}: a cycle: the alias makes this entry its own descendant")
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            step = (*trail, str(key.value))
            if step in lines:
                raise TaxonomyError(f"{path}, line {key.start_mark.line + 1}: key '{key.value}' given twice")
            lines[step] = key.start_mark.line + 1
            _note_lines(value, step, (*above, id(node)), lines, path)
    elif isinstance(node, yaml.SequenceNode):
        for place, value in enumerate(node.value):
            _note_lines(value, (*trail, place), (*above, id(node)), lines, path)


def _check_entries(entries: Any, trail: Trail, faults: _Faults) -> None:
    """The form of a list of classes and of everything below it."""
    if not isinstance(entries, list) or not entries:
        faults.add(trail, f"must be a non-empty list of classes, not {_kind(entries)} (a leaf has no children)")
        return
    for place, entry in enumerate(entries):
        here = (*trail, place)
        if not isinstance(entry, Mapping):
            faults.add(here, f"a class is a mapping such as {{name: glioma}}, not {_kind(entry)}")
            continue
        _check_keys(entry, CLASS_KEYS, here, faults)
        if not _is_text(entry.get("name")):
            faults.add((*here, "name"), "missing, or not a non-empty string (quote YAML words such as no)")
        if "prompt" in entry and not _is_text(entry["prompt"]):
            faults.add((*here, "prompt"), "not a non-empty string")
        synonyms = entry.get("synonyms", [])
        if not (isinstance(synonyms, list) and all(map(_is_text, synonyms))):
            faults.add((*here, "synonyms"), f"must be a list of strings, not {_kind(synonyms)}")
        codes = entry.get("codes", {})
        if not (isinstance(codes, Mapping) and all(_is_text(text) for pair in codes.items() for text in pair)):
            faults.add((*here, "codes"), "must map a terminology to a code, both strings (quote digits)")
        if "normal" in entry and not isinstance(entry["normal"], bool):
            faults.add((*here, "normal"), "must be true or false")
        levels = entry.get("levels", [1])
        if not (isinstance(levels, list) and levels and all(type(it) is int and it > 0 for it in levels)):
            faults.add((*here, "levels"), f"must be a non-empty list of integers from 1, not {levels!r}")
        if "children" in entry:
            _check_entries(entry["children"], (*here, "children"), faults)


def _check_keys(content: Mapping[Any, Any], known: tuple[str, ...], trail: Trail, faults: _Faults) -> None:
    for key in content:
        if key not in known:
            near = get_close_matches(str(key), known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}"
            if key in ("parent", "parents") and "children" in known:
                above = f"of {content[key]!r:.60}" if _is_text(content[key]) else "of its parent"
                hint = f"nesting is written the other way: this class stands in the list 'children:' {above}"
            faults.add((*trail, str(key)), f"unknown key ({hint})")


def _depth(entries: list[Any], nesting: int = 1) -> int:
    """Levels of the tree: the deepest nesting, or the deepest level that a leaf lists."""
    deepest = nesting
    for entry in entries:
        below = _depth(entry["children"], nesting + 1) if "children" in entry else nesting
        deepest = max(deepest, below, *entry.get("levels", ()))
    return deepest


def _node(entry: Any, parent: Node | None, nesting: int, depth: int, trail: Trail, faults: _Faults) -> Node:
    """One entry, well formed by now, as a node with its levels."""
    inner = "children" in entry
    default = (nesting,) if inner else tuple(range(nesting, depth + 1))
    levels = tuple(entry.get("levels", default))
    if inner and "levels" in entry:
        faults.add((*trail, "levels"), "only a leaf lists levels; a class with children has that of its nesting")
    elif list(levels) != sorted(set(levels)) or levels[0] < nesting:
        faults.add((*trail, "levels"), f"{list(levels)} must rise and start at {nesting} (the nesting) or deeper")
    node = Node(
        name=entry["name"].strip(),
        prompt=entry.get("prompt", entry["name"]).strip(),
        synonyms=tuple(synonym.strip() for synonym in entry.get("synonyms", ())),
        codes=dict(entry.get("codes", {})),
        normal=entry.get("normal", False),
        levels=levels,
        default_levels=default,
        parent=parent,
    )
    if inner:
        node.children = [
            _node(child, node, nesting + 1, depth, (*trail, "children", place), faults)
            for place, child in enumerate(entry["children"])
        ]
    return node


def _check_tree(roots: list[Node], depth: int, faults: _Faults) -> None:
    """One name is one class, at most one normal leaf, no empty level."""
    first: dict[str, tuple[Node, Trail]] = {}
    normal: Trail | None = None
    for node, trail in _trails(roots, ("classes",)):
        known = first.get(node.name.casefold())
        if known is not None and known[0] is not node.parent:
            line = faults.line((*known[1], "name"))
            where = f"on line {line}" if line else f"at {'/'.join(map(str, known[1]))}"
            faults.add((*trail, "name"), f"'{node.name}' stands already {where} (one name is one class)")
        first[node.name.casefold()] = (node, trail)
        if node.normal and (normal is not None or node.children):
            faults.add((*trail, "normal"), "at most one class is normal, and it has no children")
        normal = trail if node.normal else normal
    filled = {level for root in roots for node in root.walk() for level in node.levels}
    for level in sorted(set(range(1, depth + 1)) - filled):
        faults.add(("classes",), f"no class at level {level}")


def _check_synonyms(roots: list[Node], faults: _Faults) -> None:
    """A synonym is no name and no synonym of another class."""
    owners = {node.name.casefold(): ("the name", node.name) for root in roots for node in root.walk()}
    for node, trail in _trails(roots, ("classes",)):
        for place, synonym in enumerate(node.synonyms):
            what, owner = owners.setdefault(synonym.casefold(), ("a synonym", node.name))
            if owner.casefold() != node.name.casefold():
                faults.add((*trail, "synonyms", place), f"'{synonym}' is already {what} of '{owner}' (one word is one class)")


def _warn_of_shared_prompts(roots: list[Node], faults: _Faults) -> None:
    """Classes of different names and one prompt are one class to the text tower."""
    first: dict[str, Node] = {}
    for node, trail in _trails(roots, ("classes",)):
        other = first.setdefault(node.prompt.casefold(), node)
        if other.name.casefold() != node.name.casefold():
            line = faults.line((*trail, "prompt"))
            where = f"{faults.source}, line {line}" if line else faults.source
            warnings.warn(
                f"{where}: '{node.name}' has the prompt of '{other.name}', '{node.prompt}': no text tells the two apart",
                stacklevel=1,
            )


def _trails(nodes: list[Node], trail: Trail) -> Iterator[tuple[Node, Trail]]:
    for place, node in enumerate(nodes):
        yield node, (*trail, place)
        yield from _trails(node.children, (*trail, place, "children"))


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _kind(value: Any) -> str:
    if value is None or value == []:
        return "nothing" if value is None else "an empty list"
    return f"{type(value).__name__} {value!r:.60}"
