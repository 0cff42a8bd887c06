"""What is no scan that a reader would look at, by its description or the name of its file: localizers, maps, projections, subtractions.

Words alone are looked for: not inside of another word, nor as another kind of phase. DICOM tags, which come first, are read by
`hlip.dicom.kinds`.
"""

from __future__ import annotations

import re
from functools import lru_cache

from hlip.scans.sequence import without_other_phases

_WORDS = (
    (
        "dose_report",
        r"dose (report|info\w*|summary|record)|dosis\w*|patient protocol|patientenprotokoll|\Asummary\Z|exam(ination)? summary|contrast timing",
    ),
    ("screenshot", r"screen ?(save|shot)"),
    (
        "localizer",
        r"loc(?!\.)|lo[ck]ali[zs]\w*|(aa ?h(ead)? ?)?scout\w*|surv\w*|topo\w*|scann?o\w*|pilot\w*|(3|three)[- ]?(plane|pl)|smartbrain|"
        r"plan scan|planung\w*|übersicht\w*|uebersicht\w*|rep[eé]rage|vue d.?ensemble",
    ),
    (
        "calibration",
        r"\Acal|calib\w*|asset( cal)?|sense ref\w*|ref scan|coil survey|prescan|shim\w*|b0 ?map|b1 ?map|field ?map\w*",
    ),
    ("subtraction", r"subs?(?![ -]?(?:acute|second|optimal|dural|total|arach|mand|occ))|subtr\w*|soustr\w*|sottra\w*|sustr\w*"),
    ("projection", r"min? ?ip|mip|vrt|vr|pjn|\Acol(?=:)"),
    (
        "derived_map",
        r"\Afa\Z|fa[ -]?(map|colou?r\w*)|(dti|diff\w*|ep2d\w*).* fa|colou?r\w*[ -]?fa|colfa|eadc|exp\w* ?(adc|apparent).*",
    ),
    (
        "derived_map",
        r"(r|rel)?cbf|(r|rel)?cbv|mtt|ttp|tmax|pbp|ktrans|[tr][12]\*? ?map\w*|t1 ?rho|qsm|cerebral blood (flow|volume)|mean transit time",
    ),
    ("derived_map", r"fractional aniso\w*|tractogra\w*|fib(er|re)s?( track\w*)?"),
    ("derived_map", r"mono ?energetic.*|iodine\w*|virtual (non ?contrast|unenhanced)|vnc"),
    (
        "time_series",
        r"(?<!ven )bold|f-?mri|dsc|dce|[ep]?p?c?asl|perf\w*|dynasusc\w*|ep2d_perf|bolus( tracking)?|smart ?prep|care ?bolus|(pre ?)?monitoring",
    ),
    ("phase", r"pha|ph(?=:)|phase( map| image)?"),
)


def unwanted(text: str, passed: tuple[str, ...] = ()) -> str:
    """The reason against a scan of this description or file name, a short code; empty if it has none.

    Args:
        passed: reasons that do not count.
    """
    words = without_other_phases(text.replace("_", " "))
    return next((reason for reason, pattern in _WORDS if reason not in passed and says(pattern, words)), "")


def unwanted_file(name: str) -> str:
    """As `unwanted`, of a file's name without its ending; the names that BIDS gives to subjects and the like are passed over."""
    return unwanted(re.sub(r"(?<![a-z0-9])(?:(?:sub|ses|run|acq)-[a-z0-9]+|sub[ _]?[0-9]+)", " ", name.lower()))


@lru_cache(maxsize=4096)
def says(pattern: str, words: str) -> bool:
    """Whether one of these words stands there, alone."""
    return bool(re.search(rf"(?<![a-z0-9])(?:{pattern})(?![a-z0-9])", words))
