"""What may go wrong with a part of a series, and with the machine that is to convert it."""

from __future__ import annotations

from hlip.dicom.tags import Slice


class ConversionError(ValueError):
    """A part cannot be converted. `reason` is a short code of `hlip.dicom.reasons`; the text names no file."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class DamagedError(ConversionError):
    """Some files cannot be decoded. `whole`: those that can."""

    def __init__(self, whole: tuple[Slice, ...]) -> None:
        super().__init__("damaged", "files of the series cannot be decoded; copy them again")
        self.whole = whole


class MachineError(RuntimeError):
    """No fault of the files: `reason` no_room (the temporary folder is full) or no_converter. The text tells the remedy."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
