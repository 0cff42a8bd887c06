"""What the pages say can be done: links lead somewhere, commands parse, configurations and trees load, every public set has its recipe."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from itertools import pairwise, product
from pathlib import Path

import pytest
import yaml

from finetune.settings import FinetuneConfig
from hlip.cli import build_parser
from hlip.config import parse_config
from hlip.files.resources import names
from hlip.importing.public.cli import add_public
from hlip.taxonomy import Taxonomy
from pretrain.settings import PretrainConfig

ROOT = Path(__file__).parents[1]
RECIPES = ROOT / "docs" / "data"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "configs").rglob("README.md"))]
LINK = re.compile(r"\]\((?!https?://|#|mailto:)([^)\s#]+)")
FENCE = re.compile(r"^```([\w-]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
QUOTED = re.compile(r"\"[^\"]*\"|'[^']*'")
WORD = re.compile(rf"(?:{QUOTED.pattern}|\S)+")
VALUES = {"I/N": "1/2", "N": "2"}  # words that stand for something of a form
SETTINGS: dict[str, type] = {"pretrain": PretrainConfig, "finetune": FinetuneConfig}
BUILT_IN = {"--spec": "volume", "--prepare": "volume", "--protocol": "protocol", "--taxonomy": "taxonomy", "--variant": "model"}
"""Options that take a built-in name, and the folder of configs/ where it must be; or a file of one's own."""


def dead_links(page: Path) -> list[str]:
    """Relative links of a page that lead to no file, or to one that git ignores."""
    found = []
    for target in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        file = (page.parent / target).resolve()
        if not file.exists() or ignored(file):
            found.append(target)
    return found


def ignored(file: Path) -> bool:
    """Whether git ignores a file. Outside a checkout, and without git, nothing is."""
    try:
        asked = subprocess.run(["git", "check-ignore", "-q", str(file)], cwd=ROOT, capture_output=True, check=False)
    except OSError:
        return False
    return asked.returncode == 0


def commands(text: str) -> list[str]:
    """Commands of the fenced blocks, one a line, and imports that stand in tables and sentences; those with ... for more are left out.

    Comments are taken away, continued lines joined, chains (&& ; |) parted, and alternatives (a|b) spelled out.
    """
    lines = [line for _, block in FENCE.findall(text) for line in block.replace("\\\n", " ").splitlines()]
    lines += re.findall(r"`(hlip import [^\s`]+ [^`]+)`", FENCE.sub("", text))
    found = []
    for line in lines:
        for words in _parts(line):
            if words[0] == "hlip" or words[:2] == ["accelerate", "launch"]:
                spelled = ([word] if QUOTED.search(word) else word.split("|") for word in words)
                found += [" ".join(chosen) for chosen in product(*spelled)]
    return [command for command in found if "..." not in command]


def _parts(line: str) -> list[list[str]]:
    """The commands of a line, each as its words, quotes kept; without a prompt, variables before a command, and a comment."""
    parts: list[list[str]] = [[]]
    for word in WORD.findall(line):
        if word.startswith("#"):
            break
        if word in ("&&", ";", "|"):
            parts.append([])
        elif parts[-1] or not re.fullmatch(r"\$|\w+=.*", word):
            parts[-1].append(word)
    return [part for part in parts if part]


def fault(command: str) -> str:
    """Why a command line cannot be; empty where it can."""
    words = [VALUES.get(word, word) for word in shlex.split(command)]
    for key, value in pairwise(words):
        own = Path(value).suffix or value.isupper()
        if key in BUILT_IN and not own and value not in names(BUILT_IN[key]):
            return f"no built-in {BUILT_IN[key]} '{value}'"
        if key == "--config_file" and not (ROOT / value).is_file():
            return f"no file {value}"
    said = StringIO()
    try:
        with redirect_stderr(said), redirect_stdout(said):
            parse(words)
    except SystemExit as error:
        return said.getvalue().strip().splitlines()[-1] if error.code else ""
    except (FileNotFoundError, ValueError) as error:
        return str(error)
    return ""


def parse(words: list[str]) -> None:
    """Parse a command line as the program that it names does.

    Raises:
        SystemExit: it refuses, or has shown its help.
        FileNotFoundError, ValueError: no such configuration, or no training program.
    """
    if words[0] == "hlip":
        build_parser().parse_args(words[1:])
        return
    place = next((place for place, word in enumerate(words) if word.removesuffix("/") in SETTINGS), None)
    if place is None:
        raise ValueError("neither pretrain nor finetune")
    verb = words[place].removesuffix("/")
    given = [
        str(ROOT / word) if key == "--config" and (ROOT / word).is_file() else word for key, word in pairwise(words[place:])
    ]
    parse_config(SETTINGS[verb], command=verb, description="", argv=given)


def public_sets() -> list[str]:
    """Names that `hlip import` has for public sets."""
    sources = argparse.ArgumentParser().add_subparsers()
    add_public(sources)
    return sorted(sources.choices)


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files_that_belong_to_the_project(page: Path) -> None:
    assert not dead_links(page)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_can_be_typed(page: Path) -> None:
    faults = {command: why for command in commands(page.read_text(encoding="utf-8")) if (why := fault(command))}
    assert not faults


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_trees_can_be_loaded(page: Path) -> None:
    for kind, block in FENCE.findall(page.read_text(encoding="utf-8")):
        content = yaml.safe_load(block) if kind == "yaml" else {}
        if "classes" in content:
            assert Taxonomy.from_dict(content, page.name).depth == len(content["level_names"])


@pytest.mark.parametrize("name", public_sets())
def test_every_public_set_has_its_recipe(name: str) -> None:
    page = RECIPES / f"{name.replace('-', '_')}.md"
    assert page.is_file()
    assert not ignored(page)
    typed = commands(page.read_text(encoding="utf-8"))
    assert any(command.startswith(f"hlip import {name} ") for command in typed)
    assert any(command.startswith("hlip prepare ") for command in typed)
    assert page.name in LINK.findall((RECIPES / "README.md").read_text(encoding="utf-8"))


def test_the_readme_has_commands_of_every_kind() -> None:
    found = commands((ROOT / "README.md").read_text(encoding="utf-8"))
    assert {command.split()[0] for command in found} == {"hlip", "accelerate"}
    assert len(found) > 15


def test_what_is_wrong_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "[a](gone.md) [b](https://x.y/z) [c](page.md#d) `hlip import rsna SET`\n```\nhlip ask --no-such-option   # why\n```\n"
    )
    assert dead_links(page) == ["gone.md"]
    typed, inline = commands(page.read_text())
    assert "required" in fault(typed)
    assert "required" in fault(inline)
    assert "no-such-option" in fault("hlip prepare m.jsonl store --spec mri --no-such-option")
    assert "no_such" in fault("hlip evaluate runs/hlip --protocol no_such --store store")
    assert "no_such" in fault("accelerate launch -m pretrain --config no_such --store store --out runs/hlip")
    assert "no_such" in fault("accelerate launch -m finetune --config mri --encoder e --store s --out o --head.no_such 1")
    assert "no_such.yaml" in fault("accelerate launch --config_file configs/accelerate/no_such.yaml -m pretrain --config mri")
    assert fault("accelerate launch train.py") == "neither pretrain nor finetune"
    if (ROOT / ".git").exists():
        assert ignored(ROOT / "runs" / "a_run")
        assert not ignored(RECIPES / "new_set.md")


def test_what_is_right_is_let_through() -> None:
    assert fault("hlip prepare m.jsonl store --spec mri --shard I/N") == ""
    assert fault("hlip compare a b --taxonomy tree.yaml --store store --out report") == ""
    assert fault("hlip import mr-rate --help") == ""
    assert fault("accelerate launch pretrain --config configs/pretrain/mri.yaml --store store --out runs/hlip") == ""


def test_commands_are_read_as_a_shell_reads_them() -> None:
    text = (
        "```\nhlip check \\\n  store   # whole?\n# hlip check no\nhlip check a && A=1 hlip check b | tee log\nhlip reports ... x\n"
        '$ hlip check c|d\nhlip ask e f "g|h; i # j" k\n```\nText: hlip check l, `hlip import rsna SET OUT`, `hlip check`.\n'
    )
    assert [shlex.split(command)[1:] for command in commands(text)] == [
        ["check", "store"], ["check", "a"], ["check", "b"], ["check", "c"], ["check", "d"], ["ask", "e", "f", "g|h; i # j", "k"],
        ["import", "rsna", "SET", "OUT"],
    ]  # fmt: skip
