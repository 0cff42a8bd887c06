"""What a command line names, made ready: a device, templates, and a study or a cohort prepared as the checkpoint wants it; and what a
reader must be told of them.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

import torch

from hlip.files.resources import names
from hlip.model import HLIP, load
from hlip.prepare import prepare
from hlip.scans.reading import check_one_patient, find_scans
from hlip.scans.scan import VolumeError
from hlip.store import Store, StudyRecord
from hlip.study import Study, read_manifest, write_manifest
from hlip.volume import VolumeSpec

MOST_SCANS = 100  # of one study; real ones have 1 to 40
SIMULATED = "This checkpoint has seen SIMULATED data only: on a real study its scores mean nothing clinically."


def pick_device(name: str) -> torch.device:
    """The device of that name; `auto` is the first GPU, or the CPU.

    Raises:
        ValueError: not a device's name, or one this machine or this torch does not have.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"--device {name}: cannot be used here ({reason}); cpu always can") from error
    return device


def open_model(arguments: argparse.Namespace) -> HLIP:
    """The checkpoint named on the command line, with what else is said of it there (--device, --variant, --text-source, --spec).

    Raises:
        CheckpointError: no checkpoint, or one that needs more to be said.
        ValueError: --spec makes volumes of another size than the model's, or contradicts what the checkpoint says of itself.
    """
    said = {name: getattr(arguments, name, None) for name in ("variant", "text_source", "spec")}
    device = pick_device(getattr(arguments, "device", "cpu"))
    model = load(arguments.checkpoint, device, variant=said["variant"], text_source=said["text_source"])
    if said["spec"]:
        spec = VolumeSpec.load(said["spec"])
        if tuple(spec.size) != tuple(model.config.vision.size):
            raise ValueError(
                f"--spec {arguments.spec}: volumes of {tuple(spec.size)}, but the model reads {model.config.vision.size}"
            )
        guessed = model.facts.get("kind") == "official"  # its files name no spec; the architecture's usual one was taken
        if model.volume_spec and not guessed and model.volume_spec.digest() != spec.digest():
            raise ValueError(f"{arguments.checkpoint}: says itself how its studies are prepared; leave --spec out")
        model.volume_spec = spec
    return model


def expected_spec(spec: VolumeSpec | None, checkpoint: str) -> VolumeSpec:
    """How the checkpoint says that its studies are prepared.

    Raises:
        VolumeError: it does not say.
    """
    if spec is None:
        remedy = f"name it with --spec ({', '.join(names('volume'))}, or a YAML file)"
        raise VolumeError("no_spec", f"{checkpoint}: does not say how its studies must be prepared; {remedy}")
    return spec


def check_spec(store: Store, spec: VolumeSpec) -> None:
    """Nothing, if the store was prepared so.

    Raises:
        ValueError: it was not; what differs is named.
    """
    if store.spec.digest() == spec.digest():
        return
    ours, theirs = store.spec.as_dict(), spec.as_dict()
    differing = "; ".join(
        f"{key}: {ours.get(key)} here, {value} there" for key, value in theirs.items() if ours.get(key) != value
    )
    raise ValueError(
        f"{store.path}: prepared with another VolumeSpec than the checkpoint was trained on ({differing}); prepare it into a new store "
        "with the checkpoint's own, which stands in its config.json"
    )


def find_study(arguments: argparse.Namespace, spec: VolumeSpec, scratch: Path) -> tuple[Store, StudyRecord]:
    """The study named on the command line, prepared as the checkpoint wants it.

    Raises:
        ValueError: no such study or path; no readable scan in it.
    """
    name = arguments.study
    if arguments.store and not Path(name).exists():
        store = Store(arguments.store)
        check_spec(store, spec)
        return store, store.record(name)
    if arguments.manifest and not Path(name).exists():
        studies = [study for study in read_manifest(arguments.manifest) if study.study_id == name]
        if not studies:
            raise ValueError(f"{arguments.manifest}: holds no study '{name}'")
        study = studies[0]
    else:
        path = Path(name)
        if not path.exists():
            raise ValueError(f"'{name}' is neither a file nor a folder; a study id needs --store or --manifest")
        scans = tuple(find_scans(path))
        if len(scans) > MOST_SCANS:
            raise ValueError(
                f"{path}: holds {len(scans)} scans, more than one study has; name one study's folder, or score a cohort by its manifest"
            )
        study = Study("asked", "asked", scans)
        check_one_patient(path, study.scans)
    store = prepare_few([study], spec, scratch)
    if not store.records:
        raise ValueError(f"'{name}': no usable scan\n  " + "\n  ".join(skipped_scans(store)))
    return store, store.records[0]


def prepare_few(studies: list[Study], spec: VolumeSpec, scratch: Path) -> Store:
    """Prepare studies into a store in a scratch folder."""
    write_manifest(studies, scratch / "manifest.jsonl")
    prepare(scratch / "manifest.jsonl", scratch / "store", spec, workers=1, progress=False)
    return Store(scratch / "store")


def cohort_store(arguments: argparse.Namespace, spec: VolumeSpec, scratch: Path) -> Store:
    """The cohort of --store, or that of --manifest prepared in a scratch folder."""
    if arguments.store:
        store = Store(arguments.store)
        check_spec(store, spec)
        return store
    prepare(arguments.manifest, scratch / "store", spec, workers=None)
    return Store(scratch / "store")


def skipped_scans(store: Store, study_id: str | None = None) -> list[str]:
    """One line a scan (of one study, or of all) that could not be used: why, and its file."""
    rows = [row for row in store.quality if row["status"] != "ok" and study_id in (None, row["study_id"])]
    return [f"{row['reason']}: {row['message']}" for row in rows]


def scan_notes(store: Store, study_id: str) -> list[str]:
    """One line a scan of a study that was used, but with something a reader should know."""
    rows = [row for row in store.quality if row["status"] == "ok" and row["study_id"] == study_id and row["notes"]]
    return [f"{row['path']}: {row['notes']}" for row in rows]


def folder_notes(store: Store, study_id: str) -> list[str]:
    """A line when scans of one study came from several folders: they may be several patients' or several visits'."""
    rows = [row for row in store.quality if row["study_id"] == study_id and row["status"] == "ok"]
    folders = sorted({Path(row["path"]).parent.name for row in rows if Path(row["path"]).suffix in (".gz", ".nii")})
    return [f"taken as one study: scans of {len(folders)} folders ({', '.join(folders)})"] if len(folders) > 1 else []


def templates_of(arguments: argparse.Namespace, model: HLIP) -> str:
    """The prompt set asked for, else the one the checkpoint was validated with, else HLIP's."""
    return str(arguments.templates or model.facts.get("prompts") or "hlip")


def vocabulary_notes(model: HLIP, queries: Sequence[str]) -> list[str]:
    """A line when the tokenizer can only spell words of the queries letter by letter, or not at all."""
    words = dict.fromkeys(word for query in queries for word in re.findall(r"[^\W\d_]{3,}", query))
    pieces = {word: [piece.removeprefix("##") for piece in model.tokenizer.hf.tokenize(word)] for word in words}
    unknown = [word for word, parts in pieces.items() if all(len(part) == 1 or part == "[UNK]" for part in parts)]
    said = "words this checkpoint's vocabulary does not hold, so they say little to it"
    return [f"{said}: {', '.join(unknown)}"] if unknown else []
