"""Headers of a public set's files: read without a word about values that the standard does not allow."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import pytest

from hlip.importing.public.dicom_files import Header, read_headers

from .dicom_maker import head, write_slice


def test_pseudonyms_that_are_no_uids_are_read_quietly(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_slice(tmp_path / "in" / "a.dcm", head()[0], 0, "ID_study", "ID_series", "ID_p")
    caplog.clear()
    with warnings.catch_warnings(record=True) as told, caplog.at_level(logging.DEBUG):
        warnings.simplefilter("always")
        found = read_headers(tmp_path / "in", ["a.dcm"], tmp_path / "out" / "headers.csv", progress=False)
    assert found == [Header("a.dcm", "ID_study", "ID_series", "ID_p")]
    assert [str(warning.message) for warning in told] == []
    assert (caplog.text, capfd.readouterr().err) == ("", "")
