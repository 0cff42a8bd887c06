"""What may be told of patients and machines; ages; private tags."""

from __future__ import annotations

import pytest
from pydicom.dataset import Dataset

from hlip.dicom.bvalues import b_value_of
from hlip.dicom.people import age_of, model_of, sex_of, told, vendor_of


@pytest.mark.parametrize(
    ("tags", "age"),
    [({"PatientAge": "045Y"}, 45), ({"PatientAge": "095Y"}, 90), ({"PatientAge": "018M"}, 1), ({"PatientAge": "003W"}, 0), ({}, None),
     ({"PatientBirthDate": "19500602", "StudyDate": "20200601"}, 69), ({"PatientBirthDate": "19500601", "StudyDate": "20200601"}, 70),
     ({"PatientBirthDate": "19010101", "StudyDate": "20200601"}, 90), ({"PatientBirthDate": "20210101", "StudyDate": "20200601"}, None),
     ({"PatientAge": "Miller", "PatientBirthDate": "x"}, None)],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_ages(tags: dict, age: int | None) -> None:
    data = Dataset()
    for name, value in tags.items():
        setattr(data, name, value)
    assert age_of(data) == age


def test_only_known_words_are_told() -> None:
    assert told("T1 AX POST Miller 17.08.2019 fs") == "t1 ax post _ fs"
    assert told("MRN 4711^Smith") == "_"
    assert told("") == ""
    assert vendor_of("SIEMENS Healthineers AG, Dr. Miller") == "Siemens"
    assert vendor_of("GE MEDICAL SYSTEMS") == "GE"
    assert vendor_of("St. Mary's") == "other"
    assert vendor_of("") == ""
    assert model_of("MAGNETOM Skyra of Dr. Miller") == "MAGNETOM Skyra"
    assert model_of("Miller") == ""
    assert (sex_of("f"), sex_of("Miller")) == ("F", "")


def test_a_private_tag_is_believed_from_its_vendor_alone() -> None:
    data = Dataset()
    data.add_new((0x0019, 0x0010), "LO", "SOMEBODY")
    data.add_new((0x0019, 0x100C), "IS", "700")
    assert b_value_of(data, "Siemens") == 700
    assert b_value_of(data, "GE") is None
    data.DiffusionBValue = 800.0
    assert b_value_of(data, "Siemens") == 800
    data.DiffusionBValue = 1e8
    assert b_value_of(data, "Siemens") is None
