"""The b-value of a slice: the standard's tag, else the vendor's own, else that in the name of a Siemens sequence (*ep_b1000t).

Notable choices:
- A vendor's private tag is believed only from that vendor: private groups are anybody's.
- Vendors add flags to the number: GE 1000000000. Values beyond 20,000 s/mm^2 are none.
- Where private tags were removed the name of the sequence is left: *ep_b0, *ep_b1000t, *re_b50#3; with two numbers (*ep_b0_1000) it is of
  an ADC, and none.
- Files of implicit encoding give private tags as bytes; they are read as the vendor writes them.
"""

from __future__ import annotations

import re
import struct
from typing import Any

from pydicom.dataset import Dataset
from pydicom.tag import Tag

_PRIVATE = {  # vendor: (tag, how its bytes are written)
    "Siemens": (Tag(0x0019, 0x100C), "text"),
    "GE": (Tag(0x0043, 0x1039), "text"),
    "Philips": (Tag(0x2001, 0x1003), "<f"),
    "United Imaging": (Tag(0x0065, 0x1009), "<d"),
}
PRIVATE_TAGS = [tag for tag, _ in _PRIVATE.values()]
_FLAG = 1_000_000_000  # GE adds it
_HIGHEST = 20_000.0
_NAMED = re.compile(r"\*?(?:ep|re|ez)\w*_b(\d{1,5})[a-z]?(?:#\d+)?", re.IGNORECASE)


def b_value_of(data: Dataset, vendor: str) -> float | None:
    """s/mm^2, or `None` where no tag tells."""
    found = _plain(data.get("DiffusionBValue"))
    if found is None and vendor in _PRIVATE:
        tag, form = _PRIVATE[vendor]
        element = data.get(tag)
        found = _plain(_decoded(element.value, form)) if element is not None else None
    if found is None and (named := _NAMED.fullmatch(str(data.get("SequenceName") or "").strip())):
        found = float(named[1])
    if found is None:
        return None
    found = found % _FLAG
    return found if 0 <= found <= _HIGHEST else None


def _decoded(value: Any, form: str) -> Any:
    if not isinstance(value, bytes):
        return value
    if form == "text":
        return value.decode("ascii", "ignore").strip("\0 ").split("\\")[0]
    return struct.unpack_from(form, value)[0] if len(value) >= struct.calcsize(form) else None


def _plain(value: Any) -> float | None:
    if isinstance(value, (list, tuple)) or type(value).__name__ == "MultiValue":
        value = value[0] if len(value) else None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
