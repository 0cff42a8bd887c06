"""What a stack of images is, and whether it is a scan a reader would look at; else the reason why it is left out.

Notable choices:
- Classes of objects and image types, which scanners write, come before descriptions, which people write.
- The apparent diffusion coefficient is the one derived map that is kept: it is read beside its diffusion images.
- A phase is that of MR signals where a description says no more: phases of a contrast agent, images in or out of phase, and
  vessels by phase contrast, are scans.
- Secondary captures and images with burned-in text are always left out, whatever else they say: they may show a name.
"""

from __future__ import annotations

import re

from pydicom.uid import UID

from hlip.dicom.tags import Stack
from hlip.scans.sequence import without_other_phases
from hlip.scans.unwanted import says, unwanted

IMAGES = {
    "1.2.840.10008.5.1.4.1.1.2": "CT",
    "1.2.840.10008.5.1.4.1.1.2.1": "CT",
    "1.2.840.10008.5.1.4.1.1.2.2": "CT",
    "1.2.840.10008.5.1.4.1.1.4": "MR",
    "1.2.840.10008.5.1.4.1.1.4.1": "MR",
    "1.2.840.10008.5.1.4.1.1.4.4": "MR",
}
"""Storage classes of CT and MR: plain, enhanced, and enhanced from plain."""
_OBJECTS = (  # words of the standard's name of a storage class: what it is
    (r"radiation dose", "dose_report"),
    (r"key object", "key_objects"),
    (r"\bSR\b|report|measurement", "structured_report"),
    (r"presentation state", "presentation_state"),
    (r"segmentation", "segmentation"),
    (r"^RT |plan|structure set", "radiotherapy"),
    (r"encapsulated", "document"),
    (r"secondary capture", "secondary_capture"),
    (r"spectroscopy", "spectroscopy"),
    (r"raw data|waveform|registration|fiducial|surface|real world|tractography|parametric", "not_an_image"),
)
_OPPOSED = {"OP", "OPP_PHASE", "OUT_PHASE"}
_TYPES = (  # words of ImageType
    ({"LOCALIZER", "SCOUT"}, "localizer"),
    ({"SCREEN SAVE", "SCREENSHOT", "SCREEN_SAVE"}, "screenshot"),
    ({"DOSE_INFO", "DOSE"}, "dose_report"),
    ({"SUBTRACT", "SUBTRACTION", "SUB"}, "subtraction"),
    ({"PROJECTION IMAGE", "MIP", "MINIP", "MNIP", "MIN IP", "MIN_IP", "MAX_IP", "MEAN_IP", "VOLREN", "VRT"}, "projection"),
    ({"P", "PHASE", "PHASE MAP", "PHASE_MAP", "PHASE_CONTRAST", "R", "REAL", "I", "IMAGINARY", "VELOCITY MAP"}, "phase"),
    (
        {"FA", "FRACTIONAL_ANISOTROPY", "TENSOR", "TENSOR_B0", "EADC", "EXPONENTIAL", "RCBV", "RCBF", "CBV", "CBF", "MTT", "TTP", "TMAX",
         "PERFUSION", "T1 MAP", "T2 MAP", "T2_STAR MAP", "T2 STAR MAP", "R2 MAP", "R2_STAR MAP", "B0 MAP", "B1 MAP", "FIELD_MAP",
         "GRAPH", "BVALUE", "FMRI", "T2STAR", "KTRANS", "CSA REPORT", "CSAPARALLEL", "CSA BLACK IMAGE", "CSA AVI"},
        "derived_map",
    ),
    ({"FAT", "F", "FAT_FRACTION", *_OPPOSED}, "dixon_part"),
)  # fmt: skip
_OF_MR = ("phase", "dixon_part", "calibration")  # reasons that CT knows not: "CAL" is its calcium
UNWANTED = frozenset(
    {"burned_in_text", "calibration", "derived_map", "dixon_part", "dose_report", "localizer", "other_modality", "phase", "projection",
     "screenshot", "secondary_capture", "subtraction", "time_series"}
)  # fmt: skip
"""Reasons by which images are not wanted, though they may be a volume."""
_ADC = {"ADC", "ADC_UNSPECIFIED", "APPARENT DIFFUSION COEFFICIENT"}


def is_adc(stack: Stack) -> bool:
    """An apparent diffusion coefficient made by the scanner (exponential ones, eADC, are not meant)."""
    if set(stack.image_type) & (_ADC | {"EADC"}):
        return bool(set(stack.image_type) & _ADC)
    return _says(r"d?adc|apparent diffusion\w*( \w+)*|average dc", stack) and not _says(r"eadc|exp\w* ?(adc|apparent).*", stack)


def reason_against(stack: Stack) -> str:
    """Why a stack is no scan to keep; empty where it is one."""
    name = UID(stack.sop_class).name
    if stack.sop_class not in IMAGES:
        found = next((reason for pattern, reason in _OBJECTS if re.search(pattern, name, re.IGNORECASE)), "")
        return found or ("other_modality" if "Image" in name else "not_an_image")
    if stack.burned_in:
        return "burned_in_text"
    if not stack.grey:
        return "colour"
    if not stack.rows or not stack.columns:
        return "damaged"
    if is_adc(stack):
        return ""
    types, ct = set(stack.image_type), stack.modality == "CT"
    for words, reason in _TYPES:
        if types & words and not (ct and reason in _OF_MR):
            return reason
    return unwanted(stack.description, _OF_MR if ct else ())


def is_opposed(stack: Stack) -> bool:
    """The opposed-phase part of a Dixon scan by its image type: anatomy, unlike its fat part."""
    return bool(set(stack.image_type) & _OPPOSED) and reason_against(stack) == "dixon_part"


def is_reformat(stack: Stack) -> bool:
    """Cut anew from other images, in another plane or thickness."""
    return bool(set(stack.image_type) & {"REFORMATTED", "MPR", "CSA MPR", "CSAMANIPULATED", "CURVED"}) or (
        "DERIVED" in stack.image_type and _says(r"mpr|reformat\w*", stack)
    )


_SHARP = re.compile(
    r"bone|edge|lung|(?<![a-z])ultra(?![a-z])|^[bchiqu][a-z]?[6-9]\d|^[js][6-9]\d|^bl\d|^fc(3\d|5\d|8\d)|^y[a-d]$|^[del]$|sharp|^(uc|uh)",
    re.IGNORECASE,
)


def is_sharp(stack: Stack) -> bool:
    """A CT reconstructed for bone or lung: kernels of Siemens from 60 on of any family (B, C, H, S, U; iterative I, J; Br, Hr, Qr, Ur and
    their kin), and all of its lung family Bl; GE bone, edge, lung and ultra; Philips D, E, L, YA to YD; Canon FC30, FC50 and FC80
    families. A kernel that is not stated is soft, unless the description says bone or lung."""
    kernel = stack.kernel.split("\\")[0].strip()
    return bool(_SHARP.search(kernel)) if kernel else _says(r"bone|knochen|os|lung", stack)


def _says(pattern: str, stack: Stack) -> bool:
    """Whether a description has one of these words, alone: not inside of another word, nor as another kind of phase."""
    return says(pattern, without_other_phases(stack.description.replace("_", " ")))
