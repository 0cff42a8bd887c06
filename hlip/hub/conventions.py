"""The Hugging Face conventions for our checkpoint folders: `save_pretrained`, `from_pretrained`, `push_to_hub`.

    model = HLIP.from_pretrained("owner/name", revision="v1.0", device="cuda")
    model.save_pretrained("folder")                    # what `model.save` writes
    model.push_to_hub("owner/name", private=True)      # the same folder, with its model card, in one commit

A pretrained `hlip.HLIP` and a fine-tuned `hp2l.Diagnoser` follow them alike.

The folder stays ours: of `huggingface_hub.ModelHubMixin` the repository and the upload are taken, while its own ways of writing
config.json, of rebuilding a model from `__init__`'s arguments and of filling in a card are replaced.
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from huggingface_hub import ModelCard, ModelHubMixin

if TYPE_CHECKING:
    import torch

LIBRARY = "hlip-hp2l"
PATTERNS = ["*.json", "*.txt", "*.safetensors"]

Kind = TypeVar("Kind", bound="HubCheckpoint")


class HubCheckpoint(ModelHubMixin, ABC, library_name=LIBRARY):
    """A module whose `save(folder)` leaves all of a checkpoint, and whose `_open` reads it back."""

    files: ClassVar[frozenset[str]] = frozenset()
    """What stands in a checkpoint folder of this kind."""
    facts: dict[str, Any]

    @abstractmethod
    def save(self, folder: str | Path) -> None:
        """Write the checkpoint folder, card included, whole or not at all."""

    @abstractmethod
    def card(self) -> str:
        """The model card, Markdown with a YAML header."""

    @classmethod
    @abstractmethod
    def _open(cls: type[Kind], path: str | Path, device: str | torch.device, **settings: Any) -> Kind:
        """A model in evaluation mode, from all that the kind's own `load` takes."""

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        config: Any = None,
        repo_id: str | None = None,
        push_to_hub: bool = False,
        model_card_kwargs: dict[str, Any] | None = None,
        **push_to_hub_kwargs: Any,
    ) -> str | None:
        """What `save` writes, in that folder; an older checkpoint there is replaced.

        Args:
            save_directory: its place: new, empty or a checkpoint of this kind, of which foreign files stay.
            config: not to be given, as `model_card_kwargs`: both files are written from what the model itself says.
            repo_id: with `push_to_hub`, the repository; by default of the folder's name.
            push_to_hub: upload it as well.
            push_to_hub_kwargs: passed on to `push_to_hub`.

        Returns:
            The commit's address if it was uploaded.

        Raises:
            FileExistsError: the folder holds other things, and no checkpoint.
            NotADirectoryError: it is a file.
            TypeError: `config` or `model_card_kwargs` was given.
        """
        if config is not None or model_card_kwargs:
            raise TypeError(
                "config and model_card_kwargs: a checkpoint describes itself; set model.config or model.facts instead"
            )
        folder = Path(os.path.abspath(save_directory))
        self.save(folder)
        if push_to_hub:
            return self.push_to_hub(repo_id or folder.name, **push_to_hub_kwargs)
        return None

    @classmethod
    def from_pretrained(
        cls: type[Kind],
        pretrained_model_name_or_path: str | Path,
        *,
        device: str | torch.device = "cpu",
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
        **settings: Any,
    ) -> Kind:
        """A model in evaluation mode, from a folder or from the hub.

        Args:
            pretrained_model_name_or_path: whatever `load` takes: a checkpoint or run folder, or a hub id (`owner/name`,
                `hf-hub:owner/name`, with `@revision` if one is meant); a folder of that name comes first.
            device: where the model goes.
            revision: branch, tag or commit on the hub.
            token: for private repositories; by default the one this machine is logged in with.
            cache_dir: where downloads are kept.
            local_files_only: ask no network.
            force_download: fetch again what is kept already.
            settings: further arguments of `load`.

        Raises:
            CheckpointError: no such folder or repository, or a damaged checkpoint.
        """
        name = str(pretrained_model_name_or_path)
        wishes = {
            "revision": revision,
            "cache_dir": cache_dir,
            "local_files_only": local_files_only,
            "force_download": force_download,
        }
        options: dict[str, Any] = {key: value for key, value in wishes.items() if value}
        if token is not None:  # False is a wish: none at all
            options["token"] = token
        folder = local(name, **options)
        model = cls._open(folder, device, **settings)
        if model.facts.get("source") == str(folder):  # the name outlives this machine's cache
            model.facts["source"] = name
        return model

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """The card as huggingface_hub's object."""
        return ModelCard(self.card())


def local(name: str | Path, **options: Any) -> Path:
    """`name` as it is, or the folder that the hub's files of `owner/name[@revision]` were downloaded to.

    Only json, txt, safetensors and, failing those, bin files are fetched.

    Args:
        name: a path; or a hub id, with `hf-hub:` before it if a folder of that name may exist.
        options: of `huggingface_hub.snapshot_download`; a `revision` among them goes before the name's own.

    Raises:
        CheckpointError: the hub was meant and does not answer, or has no such repository.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    from hlip.model import CheckpointError

    found = re.fullmatch(r"(hf-hub:)?([\w.-]+/[\w.-]+?)(?:@([\w./-]+))?", str(name))
    here = Path(name)
    if not found or (not found[1] and _stands_here(here)):
        return here
    options = {"revision": found[3]} | options
    try:
        folder = Path(snapshot_download(found[2], allow_patterns=PATTERNS, **options))
        if not any(folder.glob("*.safetensors")):
            folder = Path(snapshot_download(found[2], allow_patterns=[*PATTERNS, "*.bin"], **options))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(f"{name}: no such folder here, and not to be had from the hub ({reason})") from error
    return folder


def _stands_here(path: Path) -> bool:
    """A folder, one that a crash moved aside, or a mistyped one in a folder that exists."""
    return path.exists() or path.parent.exists() or path.with_name(f".{path.name}.previous").exists()
