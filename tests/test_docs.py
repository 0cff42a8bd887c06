"""What the pages say can be done: links lead somewhere, commands parse, configurations exist."""

from __future__ import annotations

import re
import shlex
import subprocess
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from itertools import pairwise
from pathlib import Path

import pytest

from hlip.cli import build_parser
from hlip.files.resources import names

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "configs").rglob("README.md"))]
LINK = re.compile(r"\]\((?!https?://|#|mailto:)([^)\s#]+)")
VALUES = {"I/N": "1/2"}  # words that stand for something of a form


def dead_links(page: Path) -> list[str]:
    """Relative links of a page that lead to no file, or to one that git ignores."""
    found = []
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        file = (page.parent / target).resolve()
        ignored = subprocess.run(["git", "check-ignore", "-q", str(file)], cwd=ROOT, capture_output=True, check=False)
        if not file.exists() or ignored.returncode == 0:
            found.append(target)
    return found


def commands(text: str) -> list[str]:
    """Command lines of the fenced blocks, without comments and placeholders for more."""
    lines = []
    for block in re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            lines += [part.strip() for part in re.split(r"\s#\s|\s#$", line)[0].split("&&")]
    return [line for line in lines if re.match(r"(hlip|accelerate) ", line) and "..." not in line and "|" not in line]


def fault(command: str) -> str:
    """Why a command line cannot be; empty where it can."""
    words = [VALUES.get(word, word) for word in shlex.split(command)]
    if words[0] == "hlip":
        said = StringIO()
        try:
            with redirect_stderr(said), redirect_stdout(said):
                build_parser().parse_args(words[1:])
        except SystemExit as error:
            return said.getvalue().strip().splitlines()[-1] if error.code else ""
        return ""
    verb = next((word for word in words if word.removesuffix("/") in ("pretrain", "finetune")), "")
    for key, value in pairwise(words):
        if key == "--config" and value not in names(verb) and not (ROOT / value).is_file():
            return f"no configuration '{value}' for {verb}"
        if key == "--config_file" and not (ROOT / value).is_file():
            return f"no file {value}"
    return "" if verb else "no verb"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_that_belong_to_the_project(page: Path) -> None:
    assert not dead_links(page)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_can_be_typed(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    faults = {command: why for command in commands(text) if (why := fault(command))}
    assert not faults


def test_the_readme_has_commands_of_every_kind() -> None:
    found = commands((ROOT / "README.md").read_text(encoding="utf-8"))
    assert {command.split()[0] for command in found} == {"hlip", "accelerate"}
    assert len(found) > 15


def test_what_is_wrong_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("[a](gone.md) [b](https://x.y/z) [c](page.md)\n```\nhlip ask --no-such-option   # why\n```\n")
    assert dead_links(page) == ["gone.md"]
    (command,) = commands(page.read_text())
    assert "required" in fault(command) or "unrecognized" in fault(command)
    assert fault("hlip prepare m.jsonl store --spec mri --no-such-option") != ""
    assert fault("accelerate launch -m pretrain --config no_such") == "no configuration 'no_such' for pretrain"
    assert fault("hlip prepare m.jsonl store --spec mri --shard I/N") == ""
