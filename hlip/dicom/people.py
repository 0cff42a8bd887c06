"""What may be told of patient and scanner: age in years, sex, vendor, model, and of a description the words that name no one.

Notable choices:
- Ages beyond 89 are one class, 90, as common rules of de-identification ask.
- Vendor and description pass through lists of known words; anything else may be a name, and is dropped.
- A model is told only where it looks like one: a short word or two.
"""

from __future__ import annotations

import re
from datetime import date
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

OLDEST = 90  # years
_VENDORS = (  # found anywhere in a name; the first match wins
    ("Siemens", r"siemens"),
    ("GE", r"\bge\b|general electric|gehc"),
    ("Philips", r"philips"),
    ("Canon", r"canon|toshiba"),
    ("United Imaging", r"\buih\b|united imaging"),
    ("Fujifilm", r"hitachi|fuji"),  # which took over Hitachi's scanners
    ("Neusoft", r"neusoft"),
    ("Samsung", r"samsung|neurologica"),
    ("Hyperfine", r"hyperfine"),
    ("Esaote", r"esaote"),
    ("Bruker", r"bruker"),
)
_MODELS = re.compile(  # product names; what is none of them may be a hospital's own word for its scanner
    r"\b(skyra|prisma|verio|trio|avanto|aera|vida|sola|lumina|altea|symphony|espree|amira|magnetom|terra|biograph|somatom|sensation|"
    r"emotion|definition|force|drive|edge|perspective|go|naeotom|signa|discovery|optima|revolution|lightspeed|brightspeed|architect|"
    r"premier|artist|pioneer|explorer|excite|hdxt?|hdx|mr\d{3}w?|ct\d{3}|achieva|ingenia|intera|ambition|elition|gyroscan|panorama|"
    r"brilliance|ict|iqon|incisive|ingenuity|spectral|mx\d+|aquilion|vantage|titan|galan|orian|activion|umr|uct|swoop|echelon|oasis|"
    r"airis|scenaria|supria|vct|ultra|one|prime|fit|plus|flash|as\+?|cx|x|dstream|\d{1,4}t?|\d\.\dt?)(?![\w])",
    re.IGNORECASE,
)
_WORDS = frozenset(
    re.findall(
        r"\w+",
        """
    2d 3d 4d aahead abdomen acq adc after angio angiography apparent arterial as asl ax axi axial b0 b1000 b500 base bh blade bold bone
    brain bravo brightspeed c cbf cbv ce ciss contrast cor coronal corr cow cranial cranio ct cta cube dce deep delayed derived diff
    diffusion dir dis2d dis3d dixon dose dsc dti dw dwi dyn dynamic early eadc echo ep2d epi exp exponential fa fast fat fd fe ffe
    fiesta fl2d fl3d flair fmri fov fr frfse fs fse fspgr gad gado gadolinium gd ge gre hd head helical high hires hr in inphase inv ir
    iso isotropic kernel lava loc localizer localiser low lung m map mask mb med mdc mean mez min minip mip mpgr mpr mprage mra mri mrv
    multi native nativ neck neuro no non noncontrast norm o of opp orbit p2 p3 pat pd perf perfusion ph phase pituitary plain plane
    post pre prep propeller protocol proton ps q qsm rapid recon ref report res resolve sag sagittal sat scan scanogram scout se sense
    sequence seq ser series setup sinus slab smartbrain soft space spair spc spgr spin spine spir stack star std ste stir sub subtract
    subtraction supine surview survey sw swan swi swip t1 t1w t1c t2 t2w t2star te temporal test tfe tfl thick thin thrive ti time tir
    tirm tof topogram tr tra trace tracew trans transverse tse tumor venous vibe view vista vol volume w water weighted wip with
    without x y z
    """,
    )
)


def age_of(data: Dataset) -> int | None:
    """Years, at most `OLDEST`: what the file states, else from birth to study; the dates themselves go no further."""
    stated = re.fullmatch(r"\s*(\d{1,3})([DWMY])\s*", str(data.get("PatientAge") or ""))
    if stated:
        years = int(stated[1]) / {"D": 365.25, "W": 52.18, "M": 12, "Y": 1}[stated[2]]
        return min(int(years), OLDEST)
    born, seen = (_date(str(data.get(name) or "")) for name in ("PatientBirthDate", "StudyDate"))
    if born is None or seen is None or seen < born:
        return None
    return min(seen.year - born.year - ((seen.month, seen.day) < (born.month, born.day)), OLDEST)


def sex_of(text: str) -> str:
    """M, F, O (other) or nothing."""
    return text.upper() if text.upper() in ("M", "F", "O") else ""


def vendor_of(text: str) -> str:
    """One of the known makers, "other", or nothing where none is stated."""
    return (known_vendor(text) or "other") if text else ""


def known_vendor(text: str) -> str | None:
    """One of the known makers; None where it is none of them."""
    return next((name for name, pattern in _VENDORS if re.search(pattern, text.lower().replace("_", " "))), None)


def model_of(text: str) -> str:
    """The words of a model's name that are known product names."""
    return " ".join(match[0] for match in _MODELS.finditer(text))


def told(description: str) -> str:
    """A description's known words in lower case; what is left out shows as one underscore."""
    words = [word for word in re.split(r"[^a-z0-9]+", description.lower()) if word]
    shown = [word if word in _WORDS else "_" for word in words]
    return " ".join(word for place, word in enumerate(shown) if word != "_" or shown[place - 1 : place] != ["_"])


def _date(text: str) -> date | None:
    try:
        return date(int(text[:4]), int(text[4:6]), int(text[6:8]))
    except ValueError:
        return None
