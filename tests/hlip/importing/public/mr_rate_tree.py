"""A simulated copy of MR-RATE's layout, in the small: zips and folders, masks, localizers, tables, official splits."""

from __future__ import annotations

import csv
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np

FINDINGS = {
    "Glioma": "There is an infiltrating glioma in the left frontal lobe.",
    "Cerebral infarction": "There is a cerebral infarction in the right hemisphere.",
    "Arachnoid cyst": "There is an arachnoid cyst in the middle cranial fossa.",
    "Cerebral atrophy": "There is cerebral atrophy with widened sulci.",
}
SPINE = "Herniation of nucleus pulposus"
COLUMNS = [*FINDINGS, SPINE, "Rathke's pouch cyst"]
SERIES = ("t1w-raw-axi", "flair-raw-axi", "t2w-raw-sag-2")


def volume(number: int, shape: tuple[int, int, int] = (24, 24, 10)) -> nib.Nifti1Image:
    """A noisy head with a bright corner that tells `number % 4`."""
    rng = np.random.default_rng(number)
    data = rng.integers(0, 60, shape).astype(np.int16)
    data[3:-3, 3:-3, 1:-1] += 300
    row, column = divmod(number % 4, 2)
    data[4 + 9 * row : 11 + 9 * row, 4 + 9 * column : 11 + 9 * column, 2:-2] += 400
    return nib.Nifti1Image(data, np.diag([9.0, 9.0, 12.0, 1.0]))


def write_tree(folder: Path, studies: int = 6) -> Path:
    """Studies b0.. of brains in batch00 (even ones zipped), a spine, a study of both and one of neither in batch01, batch02 without images."""
    metadata: dict[str, list[dict[str, object]]] = {"batch00": [], "batch01": [], "batch02": []}
    reports: dict[str, list[dict[str, object]]] = {name: [] for name in metadata}
    labels: list[dict[str, object]] = []
    splits: list[dict[str, object]] = []

    def add(
        batch: str, uid: str, number: int, series: tuple[str, ...], found: tuple[str, ...], technique: str, text: str
    ) -> None:
        patient = f"p{uid}"
        split = ("train", "train", "train", "val", "test")[number // 4 % 5]
        for name in (*series, "t1w-raw-sag"):
            metadata[batch].append(
                {
                    "patient_uid": patient,
                    "study_uid": uid,
                    "series_id": name,
                    "classified_modality": name.split("-")[0],
                    "acquisition_plane": name.split("-")[2],
                    "is_localizer": name == "t1w-raw-sag",
                    "Patient'sAge": "047Y",
                    "Patient'sSex": "F",
                    "FieldStrength_T": "1.5",
                    "Manufacturer": "SIEMENS",
                }
            )
        row = {
            "clinical_information": "Headache.",
            "technique": technique,
            "findings": text,
            "impression": f"{text} Seen on [date_1].",
        }
        reports[batch].append({"study_uid": uid, "report": f"TECHNIQUE: {technique} {text}"} | row)
        labels.append({"study_uid": uid} | {name: int(name in found) for name in COLUMNS})
        splits.append({"batch_id": batch, "patient_uid": patient, "study_uid": uid, "split": split})
        if batch != "batch02":
            write_study(folder / "mri" / batch, uid, (*series, "t1w-raw-sag"), number, zipped=number % 2 == 0)

    for number in range(studies):
        name = list(FINDINGS)[number % 4]
        extra = (SPINE,) if number == 5 else ()
        add(
            "batch00",
            f"b{number}",
            number,
            SERIES[: 2 + number % 2],
            (name, *extra),
            "Axial FLAIR and T1 of the brain.",
            FINDINGS[name],
        )
    add(
        "batch01",
        "spine",
        0,
        ("t1w-raw-sag-3", "t2w-raw-sag"),
        (SPINE,),
        "Sagittal T1 and T2 of the lumbar spine.",
        "Disc herniation.",
    )
    add("batch01", "both", 1, ("flair-raw-cor", "t2w-raw-sag"), (SPINE,), "Brain and cervical spine.", "Disc herniation.")
    add("batch01", "neither", 2, ("t1w-raw-obl",), (), "", "Unremarkable.")
    add("batch02", "absent", 3, SERIES, ("Glioma",), "Brain.", "Glioma.")
    for batch, rows in metadata.items():
        table(folder / "metadata" / f"{batch}_metadata.csv", rows)
        table(folder / "reports" / f"{batch}_reports.csv", reports[batch])
    table(folder / "pathology_labels" / "mrrate_labels.csv", labels)
    table(folder / "splits.csv", splits)
    return folder


def write_study(batch: Path, uid: str, series: tuple[str, ...], number: int, zipped: bool) -> None:
    place = batch / uid
    for name in series:
        (place / "img").mkdir(parents=True, exist_ok=True)
        (place / "seg").mkdir(exist_ok=True)
        image = volume(number)
        nib.save(image, place / "img" / f"{uid}_{name}.nii.gz")
        mask = nib.Nifti1Image((image.get_fdata() > 200).astype(np.uint8), image.affine)
        nib.save(mask, place / "seg" / f"{uid}_{name}_brain-mask.nii.gz")
    if zipped:
        with zipfile.ZipFile(batch / f"{uid}.zip", "w") as archive:
            for file in sorted(place.rglob("*.nii.gz")):
                archive.write(file, file.relative_to(batch).as_posix())
                file.unlink()
        for sub in ("img", "seg", "."):
            (place / sub).rmdir()


def table(file: Path, rows: list[dict[str, object]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return file
