"""What preparing costs: `hlip prepare` of N studies, relative to merely reading and decompressing the same files in the same run.

A few simulated scans are brought to the matrices of clinical ones (their size decides, so it must be right) and linked under many names.
Both sides run in one process; the ratio, not the seconds, is what can be compared between machines.

    python benchmarks/preparing.py                      # 24 studies of 4 scans with the matrices of a routine protocol
    python benchmarks/preparing.py --studies 10000 --spec demo --workers 2 --cohort runs/demo/cohort/manifest.jsonl
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from measure import apart
from scipy import ndimage

from hlip.prepare import prepare
from hlip.study import Scan, Study, read_manifest, write_manifest
from hlip.volume import VolumeSpec

# sequence, matrix, spacing in mm: a routine head protocol at 1.5 or 3 T
PROTOCOL = (
    ("T1", (256, 256, 176), (1.0, 1.0, 1.0)),
    ("T2", (448, 448, 28), (0.49, 0.49, 5.0)),
    ("FLAIR", (320, 320, 28), (0.69, 0.69, 5.0)),
    ("DWI", (256, 256, 28), (0.86, 0.86, 5.0)),
)
SEVERAL = 2
"""Files of each sequence that are really made; the others are links to them."""
_HEAD = (75.0, 95.0, 70.0)  # mm, half axes


@dataclass(frozen=True)
class Measured:
    """One run over all studies."""

    studies: int
    scans: int
    gigabytes: float
    """On disk, compressed."""
    read_seconds: float
    prepare_seconds: float
    read_cpu_seconds: float
    """Of this process alone: with one worker this tells less of who else is on the machine."""
    prepare_cpu_seconds: float
    again_seconds: float
    """A second run, which finds everything done."""
    usable: int

    @property
    def ratio(self) -> float:
        """Preparing over reading."""
        return self.prepare_seconds / self.read_seconds

    @property
    def cpu_ratio(self) -> float:
        """The same of processor time; means something with one worker."""
        return self.prepare_cpu_seconds / self.read_cpu_seconds


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--studies", type=int, default=24)
    parser.add_argument("--spec", nargs="+", default=["demo", "mri"], help="VolumeSpecs to prepare with (default: demo mri)")
    parser.add_argument("--workers", type=int, default=1, help="processes on both sides (default: 1)")
    parser.add_argument(
        "--cohort", type=Path, help="a manifest whose studies are taken, as often as needed, instead of made ones"
    )
    parser.add_argument("--folder", type=Path, help="where files go, and stay (default: a temporary folder)")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    given = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="hlip-") as scratch:
        folder = given.folder or Path(scratch)
        manifest = repeat_studies(folder, given.studies, given.cohort) if given.cohort else write_studies(folder, given.studies)
        found = {}
        for spec in given.spec:
            found[spec] = measured = apart(
                measure, manifest, folder / f"store_{spec}", spec, given.workers, preload=["hlip.prepare"]
            )
            print(f"{spec}: {measured.studies} studies, {measured.scans} scans, {measured.gigabytes:.2f} GB")
            print(
                f"  read and decompress {measured.read_seconds:.2f} s, prepare {measured.prepare_seconds:.2f} s: "
                f"{measured.ratio:.2f} x (processor time: {measured.cpu_ratio:.2f} x); again {measured.again_seconds:.2f} s"
            )
            if measured.usable != measured.scans:
                sys.exit(f"{spec}: only {measured.usable} of {measured.scans} scans were usable: nothing was measured")
    if given.json:
        report = {
            spec: asdict(measured) | {"ratio": measured.ratio, "cpu_ratio": measured.cpu_ratio}
            for spec, measured in found.items()
        }
        given.json.write_text(json.dumps(report, indent=2) + "\n")


def write_studies(folder: Path, studies: int) -> Path:
    """A manifest of `studies` studies of one scan a sequence; files are links to a few."""
    folder.mkdir(parents=True, exist_ok=True)
    originals = [
        [head(folder / f"{name}_{n}.nii.gz", matrix, spacing, n) for n in range(SEVERAL)] for name, matrix, spacing in PROTOCOL
    ]
    made = []
    for number in range(studies):
        scans = []
        for (name, *_), files in zip(PROTOCOL, originals, strict=True):
            path = folder / "scans" / f"{number // 1000:03d}" / f"s{number}_{name.lower()}.nii.gz"
            link(files[number % SEVERAL], path)
            scans.append(Scan(path, name))
        made.append(Study(f"s{number}", f"p{number}", tuple(scans), f"Study {number}. No abnormality."))
    write_manifest(made, folder / "manifest.jsonl")
    return folder / "manifest.jsonl"


def repeat_studies(folder: Path, studies: int, cohort: Path) -> Path:
    """A manifest of `studies` studies whose files are links to those of a cohort's studies, taken in turn."""
    known, made = read_manifest(cohort), []
    for number in range(studies):
        study = known[number % len(known)]
        scans = []
        for place, scan in enumerate(study.scans):
            path = folder / "scans" / f"{number // 1000:03d}" / f"s{number}_{place}.nii.gz"
            link(scan.path, path)
            scans.append(Scan(path, scan.sequence))
        made.append(Study(f"s{number}", f"p{number}", tuple(scans), study.report))
    write_manifest(made, folder / "manifest.jsonl")
    return folder / "manifest.jsonl"


def link(file: Path, path: Path) -> None:
    """The file under another name; a copy where links end or do not exist."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(file, path)
    except OSError:
        shutil.copyfile(file, path)


def head(path: Path, matrix: tuple[int, int, int], spacing: tuple[float, float, float], seed: int) -> Path:
    """An ellipsoid with folds and a scanner's noise, int16: it compresses as a clinical scan does, to about half."""
    if path.is_file():
        return path
    rng = np.random.default_rng(seed)
    places = [(np.arange(n, dtype=np.float32) - n / 2) * step for n, step in zip(matrix, spacing, strict=True)]
    x, y, z = np.meshgrid(*places, indexing="ij", sparse=True)
    inside = (x / _HEAD[0]) ** 2 + (y / _HEAD[1]) ** 2 + (z / _HEAD[2]) ** 2 < 1
    folds = ndimage.zoom(rng.normal(size=tuple(max(4, int(n * step / 8)) for n, step in zip(matrix, spacing, strict=True))), [
        n / max(4, int(n * step / 8)) for n, step in zip(matrix, spacing, strict=True)
    ], order=1)  # fmt: skip
    signal = inside * (600 + 120 * folds[: matrix[0], : matrix[1], : matrix[2]])
    noise = rng.normal(scale=15, size=(2, *matrix))
    values = np.hypot(signal + noise[0], noise[1]).astype(np.int16)
    nib.save(nib.Nifti1Image(values, np.diag([*spacing, 1.0])), path)
    return path


def measure(manifest: Path, store: Path, spec: str, workers: int) -> Measured:
    """Read all files, then prepare them into a new store, then once more."""
    studies = read_manifest(manifest)
    files = [scan.path for study in studies for scan in study.scans]
    few = manifest.with_name("few.jsonl")
    write_manifest(studies[:SEVERAL], few)
    _prepared(few, store, spec, 1)  # imports are done and the cache is warm for both
    read_all(files[: 4 * SEVERAL], 1)
    start, cpu = time.perf_counter(), time.process_time()
    read_all(files, workers)
    read, read_cpu = time.perf_counter() - start, time.process_time() - cpu
    shutil.rmtree(store)
    start, cpu = time.perf_counter(), time.process_time()
    usable = _prepared(manifest, store, spec, workers)
    prepared, prepared_cpu = time.perf_counter() - start, time.process_time() - cpu
    start = time.perf_counter()
    _prepared(manifest, store, spec, workers)
    again = time.perf_counter() - start
    size = sum(file.stat().st_size for file in files) / 1e9
    shutil.rmtree(store)
    return Measured(len(studies), len(files), size, read, prepared, read_cpu, prepared_cpu, again, usable)


def _prepared(manifest: Path, store: Path, spec: str, workers: int) -> int:
    return prepare(manifest, store, VolumeSpec.load(spec), workers=workers, progress=False).scans_ok


def read_all(files: Sequence[Path], workers: int) -> None:
    """Read and decompress, and keep nothing."""
    if workers > 1:
        from concurrent.futures import ProcessPoolExecutor

        with ProcessPoolExecutor(workers) as pool:
            list(pool.map(read_one, files, chunksize=8))
    else:
        for file in files:
            read_one(file)


def read_one(file: Path) -> None:
    with gzip.open(file) as stream:
        while stream.read(1 << 20):
            pass


if __name__ == "__main__":
    main()
