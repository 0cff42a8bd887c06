"""`hlip explain`: where in the scans of one study the evidence for a query lies.

What is explained is what `hlip ask` ranks by: the cosine similarity of the study's sentence token with the query, less that with
the phrase of a normal study. Integrated gradients share that number among the patches: along a straight path from a reference
study to the study itself, each patch is credited with the gradient times its change. The shares sum to the score less that of the
reference, so a patch's number has a meaning.

The reference decides what is asked. `mirror` is the same study with left and right exchanged: what is on this side and not on
the other? A lesion stands out, what is the same on both sides and in every head does not; what lies in the midline, or on both
sides alike, cannot be seen. `air` is an empty study: where does the score come from at all? Much of it from any tissue.

A map says what moved this model's score, not where a disease is.

Source: Sundararajan et al., Axiomatic Attribution for Deep Networks, arXiv 1703.01365.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from einops import rearrange, repeat
from numpy.typing import NDArray
from torch import Tensor

from hlip.inference.ask import MEANING
from hlip.inference.inputs import (
    SIMULATED,
    expected_spec,
    find_study,
    folder_notes,
    open_model,
    scan_notes,
    skipped_scans,
    templates_of,
    vocabulary_notes,
)
from hlip.inference.overlay import ScanEvidence, all_scans, montage, write_nifti
from hlip.model import HLIP, SENTENCE
from hlip.scans.background import filled
from hlip.scans.reading import read_scan
from hlip.scans.scan import VolumeError
from hlip.store import Store, StudyRecord
from hlip.vision import grid_of
from hlip.zeroshot import NORMAL_PHRASE, PromptSet, contrast_scores, embed_classes

REFERENCES = ("mirror", "air")
STEPS = 16
"""Points of the path. On the demo model 4 rank voxels as 16 do; deeper models bend more."""
SCANS_AT_ONCE = 32
"""Scans of all the path's points that are in memory together."""
READING = {
    "mirror": "evidence: what each patch adds to (similarity to query - similarity to normal) against the study with left and right "
    "exchanged. The mirrored place of a finding speaks against; a finding in the midline, or alike on both sides, cannot be seen.",
    "air": "evidence: what each patch adds to (similarity to query - similarity to normal) against an empty study. Any tissue adds some.",
}


@dataclass(frozen=True)
class Explanation:
    """Where one study's score for one query comes from."""

    evidence: Tensor
    """(S, d, h, w) float32 on the host, a number a patch; above 0 speaks for the query."""
    similarity: float
    """Cosine of the study's sentence token and the query."""
    normal: float
    """Cosine with the phrase of a normal study."""
    score: float
    """As `hlip ask` gives it: two-way softmax of both at the model's temperature."""


def explain(
    model: HLIP,
    volumes: Tensor,
    affines: NDArray[np.float64],
    query: str,
    prompts: PromptSet,
    reference: str = "mirror",
    steps: int = STEPS,
) -> Explanation:
    """Explain one study's score for a query.

    Args:
        model: in evaluation mode.
        volumes: (S, 1, D, H, W) uint8, all scans of the study.
        affines: (S, 4, 4), voxel index (d, h, w, 1) -> RAS mm (`Store.affines`).
        query: plain words, put into the templates of `prompts`.
        reference: mirror or air; see the head of this file.
        steps: points of the path; more are closer to the exact shares.

    Raises:
        ValueError: another reference.
    """
    if reference not in REFERENCES:
        raise ValueError(f"reference '{reference}' is neither {' nor '.join(REFERENCES)}: choose mirror or air")
    embedded = embed_classes(model, [[query], [NORMAL_PHRASE]], prompts)
    with torch.no_grad():
        study = model.encode_study(volumes.to(model.device), [len(volumes)])[:, SENTENCE].float()
    similarity = (study @ embedded.T).cpu()
    scale = float(model.logit_scale_sentence.detach().exp())
    score = contrast_scores(similarity[:, :1], similarity[:, 1], scale)
    other = mirrored(volumes, affines) if reference == "mirror" else torch.zeros_like(volumes)
    shares = integrated_gradients(model, volumes, embedded[0] - embedded[1], other, steps)
    return Explanation(shares.cpu(), float(similarity[0, 0]), float(similarity[0, 1]), float(score))


def mirrored(volumes: Tensor, affines: NDArray[np.float64]) -> Tensor:
    """(S, 1, D, H, W) with each scan flipped along that of its axes which runs nearest to the patient's left-right."""
    left_right = np.abs(affines[:, 0, :3] / np.linalg.norm(affines[:, :3, :3], axis=1)).argmax(axis=1).tolist()
    return torch.stack([scan.flip(1 + axis) for scan, axis in zip(volumes, left_right, strict=True)])


def integrated_gradients(model: HLIP, volumes: Tensor, direction: Tensor, reference: Tensor, steps: int = STEPS) -> Tensor:
    """Each patch's share of `study token . direction`, against a reference study.

    Args:
        model: in evaluation mode (in training mode patches would be dropped).
        volumes: (S, 1, D, H, W) uint8, all scans of one study.
        direction: (E,) in the joint space.
        reference: (S, 1, D, H, W) uint8, what the path starts from.
        steps: points of the path (midpoint rule).

    Returns:
        (S, d, h, w) float32 on the model's device. The sum is the study's score less the reference's, the closer the more steps.

    Raises:
        ValueError: the model is in training mode.
    """
    if model.training:
        raise ValueError("integrated gradients need the model in evaluation mode: call model.eval() first")
    volumes, scans = volumes.to(model.device), len(volumes)
    with torch.no_grad():
        study = model.visual.patch_embed(volumes, None)
        start = model.visual.patch_embed(reference.to(model.device), None)
    gradient = torch.zeros_like(study)
    for places in ((torch.arange(steps) + 0.5) / steps).to(study).split(max(1, SCANS_AT_ONCE // scans)):
        path = start + places[:, None, None, None] * (study - start)  # (n, S, T, C)
        path = rearrange(path, "n S T C -> (n S) T C").requires_grad_()
        with embedded_as(model, path):
            features = model.encode_study(repeat(volumes, "S 1 D H W -> (n S) 1 D H W", n=len(places)), [scans] * len(places))
        total = (features[:, SENTENCE] @ direction.to(features)).sum()
        (slope,) = torch.autograd.grad(total, path)
        gradient += rearrange(slope, "(n S) T C -> n S T C", S=scans).sum(dim=0)
    d, h, w = grid_of(volumes.shape[2:], model.config.vision.patch)
    return rearrange((gradient / steps * (study - start)).sum(dim=-1), "S (d h w) -> S d h w", d=d, h=h, w=w).float()


@contextmanager
def embedded_as(model: HLIP, tokens: Tensor) -> Iterator[None]:
    """Within the block the model takes these patch embeddings (S, T, C), before positions, for those of the volumes."""
    handle = model.visual.patch_embed.register_forward_hook(lambda *_: tokens)
    try:
        yield
    finally:
        handle.remove()


def explain_command(arguments: argparse.Namespace) -> None:
    """Explain one study's score for one query: a NIfTI map a scan and a montage, written to `arguments.out`.

    Args:
        arguments: checkpoint, study, query, out (folder), store, manifest, templates, device as in `hlip ask`; reference (mirror or
            air).
    """
    query = arguments.query.strip()
    if not query:
        raise ValueError("the QUERY is empty")
    out = arguments.out
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"--out {out}: a file stands there; name a folder")
    model = open_model(arguments)
    prompts = PromptSet.load(templates_of(arguments, model))
    with tempfile.TemporaryDirectory() as scratch:
        store, record = find_study(arguments, expected_spec(model.volume_spec, arguments.checkpoint), Path(scratch))
        base = Path(scratch) if store.path.is_relative_to(scratch) else folder_of(arguments.manifest)
        volumes = store.volumes(record.study_id)
        explained = explain(model, volumes, store.affines(record.study_id), query, prompts, arguments.reference)
        scans = scan_evidence(store, record, volumes, explained.evidence)
        notes = scan_notes(store, record.study_id) + folder_notes(store, record.study_id)
        notes += [f"skipped: {line}" for line in skipped_scans(store, record.study_id)]
        out.mkdir(parents=True, exist_ok=True)
        notes += write_maps(scans, originals(store, record, base), out)
    notes += vocabulary_notes(model, [query])
    warning = SIMULATED if model.facts.get("simulated") else ""
    numbers = f"score {explained.score:.3f}, similarity {explained.similarity:+.3f} (normal {explained.normal:+.3f})"
    path = Path(arguments.study)
    title = f'"{query}" in {path.resolve().name if path.exists() else arguments.study}: {numbers}'
    montage(scans, out / "evidence.png", title, warning, together=all_scans(scans) if len(scans) > 1 else None)
    print(f'{arguments.study}: "{query}": {numbers}')
    for note in notes:
        print(f"  note: {note}")
    print(f"{len(scans)} maps and evidence.png in {out}\n{READING[arguments.reference]}\n{MEANING}")
    if warning:
        print(warning)


def scan_evidence(store: Store, record: StudyRecord, volumes: Tensor, evidence: Tensor) -> list[ScanEvidence]:
    """One a volume: (S, 1, D, H, W) uint8 and (S, d, h, w) on the host with their names and places."""
    parts = zip(record.sequences, volumes[:, 0].numpy(), evidence.numpy(), store.affines(record.study_id), strict=True)
    return [ScanEvidence(name or "scan", voxels, shares, affine) for name, voxels, shares, affine in parts]


def originals(store: Store, record: StudyRecord, base: Path | None) -> dict[int, nib.Nifti1Image]:
    """The scan that each volume was made from, by the volume's number, where it still is what was prepared.

    Args:
        base: folder that relative paths of the store are meant from (the manifest's); None where it is not known.
    """
    found: dict[int, nib.Nifti1Image] = {}
    for row in store.quality:
        path = Path(row["path"])
        if row["study_id"] != record.study_id or row["status"] != "ok" or not (path.is_absolute() or base):
            continue
        image = _image(path if base is None else base / path)
        if image is not None and list(image.shape[:3]) == row["shape"]:
            found |= dict.fromkeys(row["volumes"], image)
    return found


def write_maps(scans: list[ScanEvidence], sources: dict[int, nib.Nifti1Image], out: Path) -> list[str]:
    """Write `<n>_<sequence>_evidence.nii.gz` for each volume, n from 1, and of several the mean, `all_scans_evidence.nii.gz`, in the
    first one's grid; returns a note for each that is not in its scan's grid."""
    notes = []
    for number, scan in enumerate(scans):
        safe = re.sub(r"[^A-Za-z0-9+-]+", "_", scan.name).strip("_") or "scan"
        name = f"{number + 1}_{safe}_evidence.nii.gz"
        write_nifti(scan, out / name, sources.get(number))
        if number not in sources:
            notes.append(f"{name}: in the prepared volume's grid; the original is not at hand (a store needs its --manifest)")
    if len(scans) > 1:
        write_nifti(all_scans(scans), out / "all_scans_evidence.nii.gz", sources.get(0))
    return notes


def _image(path: Path) -> nib.Nifti1Image | None:
    """The original as an image, its voxels unread if it is NIfTI; None where it can no longer be read."""
    try:
        if path.name.lower().endswith((".nii", ".nii.gz")):
            image = nib.load(path)
            return image if isinstance(image, nib.Nifti1Image) else None
        scan = read_scan(path, partial(filled, within=True))
        return nib.Nifti1Image(np.broadcast_to(np.int8(0), scan.data.shape), scan.affine)  # its place is wanted, not its voxels
    except (OSError, VolumeError, nib.filebasedimages.ImageFileError):
        return None


def folder_of(manifest: Path | None) -> Path | None:
    """From where relative paths of a store's scans count; None where no manifest is given."""
    return None if manifest is None else Path(manifest).absolute().parent
