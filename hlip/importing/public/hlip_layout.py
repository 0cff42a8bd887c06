"""The layout of the official HLIP code -> NIfTI files and a manifest.

    FOLDER/<uid>/<scan>/img.pt    uint8 (D, H, W) tensors, clipped and oriented, not yet sized
    --studies JSON                {uid: [scan names]}, or {uid: {series: {name: {num_slices, view}}, report: [...]}}; default: all in FOLDER
    --reports JSON                {uid: [sentences]}
    --labels CSV                  column uid, then 0 or 1 a class

Notable choices:
- Tensors become NIfTI files, not a store: they have their own sizes, so a VolumeSpec must still size them, and only then is a store's
  digest true. Any spec of fit `square` (mri) does it as the official code does; clipping at the 0.5 and 99.5 percentiles changes next to
  nothing a second time.
- The millimetres are gone. The affine says 1 mm in the slices and 5 mm between them, so that D stays the depth; and, of the view if it is
  known (else axial), the orientation that the official preparation gives. Specs of fit `spacing` mean nothing on such files.
- The uid is the patient, which the layout does not name.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hlip.importing.outcome import Imported, ImportingError, LeftOut, check_place, manifest_file, write_import
from hlip.importing.public.listing import Labels, bar, existing, folder_name, read_list
from hlip.importing.public.volumes import is_made, write_volume
from hlip.importing.splits import SHARES, draw_beside
from hlip.scans.scan import VolumeError
from hlip.scans.sequence import guess_sequence
from hlip.study import Scan, Study

SOURCE = "hlip"
SPACING = (5.0, 1.0, 1.0)
"""Of D, H, W in mm; not measured."""
VIEWS = {"axial": "IPR", "coronal": "PIR", "sagittal": "RIP"}
"""View -> where D, H, W grow to."""


@dataclass(frozen=True)
class _Listed:
    """A study as the JSON names it."""

    scans: tuple[tuple[str, str], ...]
    """(name, view)."""
    sentences: tuple[str, ...] = ()


def import_hlip(
    folder: str | Path,
    out: str | Path,
    *,
    studies: Path | None = None,
    reports: Path | None = None,
    labels: Path | None = None,
    splits: Sequence[float] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Imported:
    """Write NIfTI files and the manifest; files that are there already and not older than their tensor are kept.

    Raises:
        ImportingError: no study, or a JSON or CSV of another form.
    """
    folder, manifest = existing(folder), manifest_file(out)
    check_place(manifest, SOURCE)
    listed = _listed(studies) if studies else _found(folder)
    sentences = _sentences(reports) if reports else {}
    notes: list[str] = []
    known: dict[str, Labels] = read_list(labels, "uid", notes=notes) if labels else {}
    left_out: list[LeftOut] = []
    done: list[Study] = []
    for uid in bar(list(listed), "study", progress):
        scans = tuple(_scans(folder / uid, listed[uid], manifest.parent / "scans" / folder_name(uid), left_out))
        if scans:
            words = sentences.get(uid) or listed[uid].sentences
            done.append(Study(folder_name(uid), uid, scans, sentences=words, labels=known.get(uid)))
    if done:
        done, said = draw_beside(done, SHARES if splits is None else splits, seed, manifest)
        notes += said
    notes += [
        "tensors have no millimetres: prepare with a spec of fit square, such as mri",
        "each uid counts as a patient of its own: where it is one of several studies of a patient, splits leak",
    ]
    return write_import(SOURCE, done, manifest, left_out, notes)


def convert(tensor: Path, place: Path, view: str = "axial") -> None:
    """Write one img.pt as NIfTI, unless that was done before.

    Raises:
        VolumeError: missing, truncated, not_an_image (no tensor of three axes), not_8_bit.
    """
    import torch

    if not tensor.is_file():
        raise VolumeError("missing", f"{tensor}: no such file")
    if is_made(place, tensor):
        return
    try:
        data = torch.load(tensor, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise VolumeError(
            "truncated", f"{tensor}: not a tensor file that can be read ({str(error).splitlines()[0]})"
        ) from error
    if not isinstance(data, torch.Tensor) or data.squeeze().ndim != 3:
        raise VolumeError("not_an_image", f"{tensor}: not one tensor of three axes (D, H, W)")
    if data.dtype != torch.uint8:
        raise VolumeError("not_8_bit", f"{tensor}: {data.dtype}, while the layout has uint8; is it another preparation?")
    write_volume(place, data.squeeze().numpy(), VIEWS[view], SPACING)


def _scans(study: Path, listed: _Listed, place: Path, left_out: list[LeftOut]) -> Iterator[Scan]:
    for name, view in listed.scans:
        made = place / f"{folder_name(name)}.nii.gz"
        try:
            convert(study / name / "img.pt", made, view)
        except VolumeError as error:
            left_out.append(LeftOut(f"{study.name}/{name}", error.reason, str(error)))
            continue
        yield Scan(made, guess_sequence(name))


def _found(folder: Path) -> dict[str, _Listed]:
    names: dict[str, list[str]] = {}
    for file in sorted(folder.glob("*/*/img.pt")):
        names.setdefault(file.parent.parent.name, []).append(file.parent.name)
    if not names:
        raise ImportingError(f"{folder}: no <uid>/<scan>/img.pt")
    return {uid: _Listed(tuple((name, "axial") for name in scans)) for uid, scans in names.items()}


def _listed(file: Path) -> dict[str, _Listed]:
    found = {}
    for uid, entry in _json(file).items():
        if isinstance(entry, list) and all(isinstance(name, str) for name in entry):
            found[uid] = _Listed(tuple((name, "axial") for name in entry))
        elif isinstance(entry, Mapping) and isinstance(entry.get("series"), Mapping):
            found[uid] = _Listed(
                tuple((name, _view(said)) for name, said in entry["series"].items()), _texts(entry.get("report"))
            )
        else:
            raise ImportingError(f"{file}: study '{uid}' is neither a list of scan names nor {{series, report}}")
    return found


def _view(said: Any) -> str:
    word = str(said.get("view", "")).lower() if isinstance(said, Mapping) else ""
    return next((view for view in VIEWS if word and view.startswith(word[:3])), "axial")


def _sentences(file: Path) -> dict[str, tuple[str, ...]]:
    return {uid: _texts(said) for uid, said in _json(file).items()}


def _texts(said: Any) -> tuple[str, ...]:
    texts = [said] if isinstance(said, str) else said if isinstance(said, list) else []
    return tuple(text.strip() for text in texts if isinstance(text, str) and text.strip())


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ImportingError(f"{file}: no JSON that can be read ({error})") from error
    if not isinstance(content, dict):
        raise ImportingError(f"{file}: a JSON object {{uid: ...}} was expected")
    return content
