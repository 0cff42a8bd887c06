"""Typed configuration: a dataclass beside what it configures, a YAML file, and `--key.sub value` overrides, before or behind it.

Unknown keys are errors, `--help` shows every field with its type, default and meaning, and `--config` takes a path or a
built-in name.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from jsonargparse import ArgumentParser, set_parsing_settings

from hlip.files.resources import find

T = TypeVar("T")


def parse_config(kind: type[T], *, command: str, description: str, argv: Sequence[str] | None = None) -> T:
    """Command-line arguments -> an instance of a configuration dataclass.

    Args:
        kind: the dataclass; fields without a default must be given.
        command: the folder of `configs/` where names given to --config are looked up.
        description: first lines of the help text.
        argv: arguments, those of the process by default.
    """
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = _Parser(prog=f"accelerate launch {command}", description=description, allow_abbrev=False)
    parser.add_argument("--config", action="config", help=f"a YAML file, or the name of one in configs/{command}")
    parser.add_class_arguments(kind)
    values = parser.instantiate_classes(parser.parse_args(_resolve(argv, command)))
    return kind(**{field.name: getattr(values, field.name) for field in fields(kind)})  # type: ignore[arg-type]


class _Parser(ArgumentParser):
    """Says what is wrong without printing all options first: the last line is the one people read."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if os.environ.get("HLIP_TRACEBACK") and ex is not None:
            raise ex
        print(f"{self.prog}: {message} (see --help)", file=sys.stderr)
        raise SystemExit(2)


def _resolve(argv: Sequence[str] | None, command: str) -> list[str]:
    """`--config demo` -> `--config <configs>/pretrain/demo.yaml`, and to the front: options win, wherever they stand."""
    files: list[str] = []
    others: list[str] = []
    given = iter(sys.argv[1:] if argv is None else argv)
    for argument in given:
        if argument == "--config" and (name := next(given, None)) is not None:
            files.append(name)
        elif argument.startswith("--config="):
            files.append(argument.split("=", 1)[1])
        else:
            others.append(argument)
    return [*(f"--config={find(command, name)}" for name in files), *others]


@contextmanager
def plain_errors() -> Iterator[None]:
    """Bad input (a missing store, a label outside the tree, a batch that cannot be filled) ends in one line, not in a
    traceback."""
    from hlip.store import StoreError

    try:
        yield
    except (ValueError, OSError, FloatingPointError, StoreError) as error:
        if os.environ.get("HLIP_TRACEBACK"):
            raise
        raise SystemExit(f"{error}\n(HLIP_TRACEBACK=1 shows where)") from error


def plain(value: Any) -> Any:
    """A configuration as JSON-able values, to be written beside what it made."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return str(value) if isinstance(value, Path) else value
