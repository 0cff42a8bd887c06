"""Built-in files (configurations, taxonomies, prompts) found by name.

`configs/` is one folder for people. In a checkout it stands beside the packages; in an installed wheel it travels
inside `hlip/configs`. Either way a name such as `brain_mri` or a path to one's own file is a valid argument.
"""

from __future__ import annotations

from pathlib import Path


class ResourceError(FileNotFoundError):
    """A name is neither a file nor a built-in; the message lists the built-ins."""


def configs_folder() -> Path:
    """The folder of built-in files, in a checkout or in an installed wheel."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "configs", package.parent / "configs"):
        if (folder / "taxonomy").is_dir():
            return folder
    raise ResourceError(f"no configs folder beside or inside {package}: reinstall hlip-hp2l")


def names(kind: str, suffix: str = ".yaml") -> list[str]:
    """Names of the built-in files of one kind (`taxonomy`, `volume`, `model`, ...), sorted."""
    return sorted(path.name.removesuffix(suffix) for path in (configs_folder() / kind).glob(f"*{suffix}"))


def find(kind: str, name_or_path: str | Path, suffix: str = ".yaml") -> Path:
    """A path as given if it is a file, else the built-in file of that name.

    Raises:
        ResourceError: neither exists.
    """
    given = Path(name_or_path)
    if given.is_file():
        return given
    built_in = configs_folder() / kind / f"{str(name_or_path).removesuffix(suffix)}{suffix}"
    if built_in.is_file():
        return built_in
    known = ", ".join(names(kind, suffix)) or "none"
    raise ResourceError(f"no file '{name_or_path}' and no built-in {kind} of that name (built in: {known})")
