"""What we keep of a DICOM header: a record for a slice, and one for what all slices of a stack share."""

from __future__ import annotations

from dataclasses import dataclass

from hlip.dicom.found import Found

Vector = tuple[float, float, float]
"""mm, in DICOM's axes: x to the left, y to the back, z to the head."""


@dataclass(frozen=True, slots=True)
class Stack:
    """What the slices of one stack have in common. Hashable: it tells stacks apart. Holds identifiers; never written."""

    study_uid: str
    series_uid: str
    patient_id: str
    accession: str
    series_number: int | None
    sop_class: str
    modality: str
    image_type: tuple[str, ...]
    description: str
    protocol: str
    sequence_name: str
    scanning: tuple[str, ...]
    """ScanningSequence: SE, IR, GR, EP, RM."""
    variant: tuple[str, ...]
    """SequenceVariant: SK, MTC, SS, TRSS, SP, MP, OSP."""
    echo_time: float | None
    """ms, as are the other two."""
    repetition_time: float | None
    inversion_time: float | None
    flip_angle: float | None
    """Degrees."""
    b_value: float | None
    """s/mm^2."""
    contrast: str
    """ContrastBolusAgent."""
    angio: bool
    kernel: str
    vendor: str
    model: str
    field_strength: float | None
    """Tesla."""
    sex: str
    age: int | None
    """Years, 90 at most."""
    frame: str
    """FrameOfReferenceUID."""
    rows: int
    columns: int
    spacing: tuple[float, float]
    """mm from row to row and from column to column."""
    orientation: tuple[float, ...]
    """Direction of a row, then of a column; empty where none is stated."""
    grey: bool
    burned_in: bool
    """Text is drawn into the image."""
    enhanced: bool
    """A multi-frame object."""
    inverted: bool = False
    """MONOCHROME1: the lowest value is shown white."""
    stack_id: str = ""
    """Of an enhanced object that holds several stacks."""
    thickness: float | None = None
    """Of a slice, mm."""


@dataclass(frozen=True, slots=True)
class Slice:
    """One DICOM file, or one frame of an enhanced multi-frame object."""

    stack: Stack
    file: Found
    uid: str
    """SOPInstanceUID; of a frame with its number."""
    position: Vector | None
    """Centre of the first voxel."""
    instance: int
    temporal: float | None
    """TemporalPositionIdentifier."""
    acquisition: float | None
    trigger: float | None
    frames: int
    b_values: tuple[float, ...]
    """s/mm^2; none, or its own."""
    whole: bool
    """As long as its header says; compressed files are taken at their word."""
    frame: int = 0
    """From 1 on; 0: the file itself."""
    lut: bool = False
    """Its stored values are places in a table of its own (ModalityLUTSequence)."""
    acquired: int | None = None
    """Images of its acquisition, as it states (ImagesInAcquisition)."""


@dataclass(frozen=True, slots=True)
class Unread:
    """A file that is no slice: `reason` not_dicom, damaged, damaged_archive, encrypted_archive, archive_not_read, no_permission or no_uid;
    `kind` a harmless word for counting."""

    file: Found
    reason: str
    kind: str = ""
