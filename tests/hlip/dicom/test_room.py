"""The room of one series lies below the imports: it knows scans, and no import knows it otherwise than from above."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import hlip

HOME = Path(hlip.__file__).parent


def imported(file: Path) -> set[str]:
    """Modules of ours that a file imports, inside functions too."""
    nodes = list(ast.walk(ast.parse(file.read_text())))
    return {node.module for node in nodes if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hlip.")}


@pytest.mark.parametrize(("room", "below"), [("dicom", ("hlip.dicom.", "hlip.scans.")), ("scans", ("hlip.importing.",))])
def test_no_import_is_needed_to_read_a_series(room: str, below: tuple[str, ...]) -> None:
    files = sorted((HOME / room).glob("*.py"))
    assert len(files) > 5
    for file in files:
        for module in imported(file):
            assert module.startswith(below) == (room == "dicom"), f"{file.name} imports {module}"
