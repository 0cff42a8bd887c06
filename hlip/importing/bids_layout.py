"""How a BIDS data set calls its files: entities and suffixes, which are scans we use and why the others are not, and sidecars.

https://bids-specification.readthedocs.io, 1.10.

Notable choices:
- Read by name here and not by pybids: that builds an SQL database of the tree, brings a dozen packages (SQLAlchemy, formulaic, a
  validator), and what is needed of it is a pattern and the rule of inheritance.
- Inheritance: a sidecar holds for the files below its folder with its suffix and all of its entities; a deeper one wins, in one folder
  the one of more entities.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hlip.importing.files import children
from hlip.scans.filekind import is_nifti

SEQUENCES = {
    "T1w": "T1",
    "inplaneT1": "T1",
    "UNIT1": "T1",
    "T2w": "T2",
    "inplaneT2": "T2",
    "FLAIR": "FLAIR",
    "PDw": "PD",
    "PD": "PD",
    "T2starw": "SWI",
    "T2star": "SWI",
    "angio": "MRA",
    "swi": "SWI",
    "SWI": "SWI",
    "dwi": "DWI",
    "trace": "DWI",
    "ADC": "ADC",
    "ct": "CT",
    "CT": "CT",
}
"""Suffix -> sequence, of files that are scans; T2* counts with SWI, as everywhere here. dwi may be a series of volumes and is split."""
_WITH_CONTRAST = {"T1": "T1 contrast", "FLAIR": "FLAIR contrast", "T2": "T2 contrast"}
_MAPS = r"[TRM][12]?(rho|star)?map|(PD|MT|MTV|MTR|MTsat|MWF|S0|B0|B1|TB1|RB1|Chi)map|MTR|MTsat|FA|colFA|expADC|minIP"
_REASONS = (  # pattern of the suffix, reason, what it is
    (r"bold|cbv|sbref", "functional", "a functional series or its reference"),
    (r"asl|m0scan|asllabeling", "perfusion", "a perfusion series or its calibration"),
    (r"phase\d?|phasediff|magnitude\d?|fieldmap|epi|TB1.*|RB1.*|B[01]map", "fieldmap", "a map of the magnetic field"),
    (r"mask|defacemask|dseg|probseg|roi|label", "mask", "a mask or segmentation"),
    (r"PDT2", "double_echo", "proton density and T2 in one file, which does not say which of its images is which"),
    (_MAPS, "map", "a computed map, whose values are no image"),
    (r"MP2RAGE|MPM|MTS|VFA|IRT1|MESE|MEGRE|TB1|mtw|MTw", "part", "one of several images of which a map is computed"),
    (r"pet|blood|eeg|meg|ieeg|nirs|motion|mrsi|svs|unloc|mrsref", "other_modality", "no CT or MR image"),
)
_NAME = re.compile(r"(?P<entities>(?:[a-z]+-[A-Za-z0-9+]+_)+)(?P<suffix>[A-Za-z0-9]+)")
_PARTS = ("phase", "real", "imag")  # of part-: not the magnitude


@dataclass(frozen=True)
class BidsName:
    """A file name taken apart: sub-01_ses-2_acq-tse_T2w -> {"sub": "01", "ses": "2", "acq": "tse"}, "T2w"."""

    entities: dict[str, str]
    suffix: str

    @classmethod
    def of(cls, stem: str) -> BidsName | None:
        """Of a name without its ending; None where it is no such name."""
        found = _NAME.fullmatch(stem)
        if not found:
            return None
        pairs = [(pair.split("-")[0], pair.split("-")[1]) for pair in found["entities"].rstrip("_").split("_")]
        return cls(dict(pairs), found["suffix"])

    @property
    def sequence(self) -> str:
        """What is shown and stored; with a contrast agent (ce-) "T1 contrast"."""
        name = SEQUENCES[self.suffix]
        return _WITH_CONTRAST.get(name, name) if "ce" in self.entities else name


def why_not(name: BidsName | None, folder: str) -> tuple[str, str] | None:
    """Reason code and words for a NIfTI file that is no scan of a study; None where it is one.

    Args:
        folder: the data type: anat, dwi, func, fmap, perf, ...
    """
    if name is None:
        return "not_bids", "not called as BIDS calls files (sub-01_T1w.nii.gz)"
    if folder in ("fmap", "func", "perf", "pet", "meg", "eeg", "ieeg"):
        found = {"fmap": "fieldmap", "func": "functional", "perf": "perfusion"}.get(folder, "other_modality")
        return found, f"a file of {folder}/"
    for pattern, reason, words in _REASONS:
        if re.fullmatch(pattern, name.suffix):
            return reason, words
    if name.suffix not in SEQUENCES:
        return "unknown_suffix", f"the suffix {name.suffix} is none of {', '.join(SEQUENCES)}"
    if name.entities.get("part") in _PARTS:
        return "not_magnitude", f"the {name.entities['part']} part; the magnitude is used"
    if {"desc", "space", "label", "hemi"} & set(name.entities):
        return "derivative", "a processed image among raw ones"
    return None


class Sidecars:
    """The files beside NIfTI files that say more of them: JSON and b-values, with inheritance. Folders are listed once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.broken: dict[Path, str] = {}
        """JSON files that cannot be read, and why."""
        self._listed: dict[Path, list[tuple[BidsName, str, Path]]] = {}
        self._read: dict[Path, dict[str, Any]] = {}

    def fields(self, file: Path, name: BidsName) -> dict[str, Any]:
        """What the JSON files say of a scan, the nearest last word."""
        merged: dict[str, Any] = {}
        for path in self._applicable(file, name, ".json"):
            merged |= self._json(path)
        return merged

    def b_values(self, file: Path, name: BidsName) -> Path | None:
        """The nearest .bval of a diffusion file."""
        return next(reversed([*self._applicable(file, name, ".bval")]), None)

    def forget(self, folder: Path) -> None:
        """Let go of what was read below a folder that is done."""
        self._listed = {path: found for path, found in self._listed.items() if not path.is_relative_to(folder)}
        self._read = {path: found for path, found in self._read.items() if not path.is_relative_to(folder)}

    def _applicable(self, file: Path, name: BidsName, ending: str) -> Iterator[Path]:
        """From the root down, in one folder by the number of entities."""
        parents = [self.root, *(self.root / part for part in _heads(file.parent.relative_to(self.root)))]
        for folder in parents:
            if folder not in self._listed:
                self._listed[folder] = [*_sidecars_of(folder)]
            fits = [
                (len(own.entities), path)
                for own, suffix, path in self._listed[folder]
                if suffix == ending and own.suffix == name.suffix and own.entities.items() <= name.entities.items()
            ]
            yield from (path for _, path in sorted(fits))

    def _json(self, path: Path) -> dict[str, Any]:
        if path not in self._read:
            try:
                content = json.loads(path.read_text(encoding="utf-8-sig"))
                if not isinstance(content, dict):
                    raise ValueError("no JSON object")
            except (OSError, ValueError) as error:
                self.broken[path] = str(error)
                content = {}
            self._read[path] = content
        return self._read[path]


def scans_below(folder: Path, closed: list[Path] | None = None) -> Iterator[Path]:
    """NIfTI files below a subject's or session's folder, in order: of itself and of its data types. Folders that may not be read are
    added to `closed`."""
    for child in children(folder, closed):
        if child.is_dir():
            yield from (file for file in children(child, closed) if is_nifti(file) and not file.is_dir())
        elif is_nifti(child):
            yield child


def _sidecars_of(folder: Path) -> Iterator[tuple[BidsName, str, Path]]:
    for child in children(folder):
        if child.suffix in (".json", ".bval"):
            stem = child.name[: -len(child.suffix)]
            name = BidsName.of(stem) or (BidsName({}, stem) if stem.isalnum() else None)  # T1w.json at the root
            if name is not None:
                yield name, child.suffix, child


def _heads(path: Path) -> Iterator[Path]:
    """sub-01/anat -> sub-01, sub-01/anat."""
    yield from (Path(*path.parts[:count]) for count in range(1, len(path.parts) + 1))
