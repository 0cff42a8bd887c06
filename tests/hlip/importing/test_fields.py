"""One word a thing, however the source writes it."""

from __future__ import annotations

import pytest

from hlip.dicom.people import vendor_of
from hlip.importing import fields


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("SIEMENS", "Siemens"),
        ("Siemens Healthineers", "Siemens"),
        ("GE MEDICAL SYSTEMS", "GE"),
        ("GE_MEDICAL_SYSTEMS", "GE"),
        ("Philips Medical Systems", "Philips"),
        ("TOSHIBA_MEC", "Canon"),
        ("UIH", "United Imaging"),
        ("Gebrüder Test", "Gebrüder Test"),
        ("  Neusoft ", "Neusoft"),
        ("Hitachi Medical Corporation", "Fujifilm"),
        ("FUJIFILM Healthcare", "Fujifilm"),
        ("NeuroLogica", "Samsung"),
        (None, ""),
    ],
)
def test_vendor(text: object, name: str) -> None:
    assert fields.vendor(text) == name
    assert vendor_of(str(text or "").strip()) in (name, "other"), "headers and tables speak of the same makers"


@pytest.mark.parametrize(
    ("value", "tesla"),
    [
        (3, 3.0),
        ("2.89362", 3.0),
        ("1.5T", 1.5),
        (15000, 1.5),
        (1.494, 1.5),
        (0.064, 0.064),
        (11.7, 11.7),
        ("n/a", None),
        (0, None),
    ],
)
def test_field_strength(value: object, tesla: float | None) -> None:
    assert fields.field_strength(value) == tesla


def test_numbers_that_are_none() -> None:
    assert [fields.field_strength(value) for value in (float("nan"), float("inf"), -3, None, "")] == [None] * 5
    assert [fields.age(value) for value in ("n/a", "", None, "-3", "150", "nan", "12Q", "1961-03-12", "12.03.1961")] == [
        None
    ] * 9


@pytest.mark.parametrize(
    ("text", "years"),
    [
        ("34", 34),
        ("034Y", 34),
        ("18M", 1.5),
        ("89+", 89),
        (72.5, 72.5),
        ("61.0", 61),
        ("61,5", 61.5),
        ("045Y", 45),
        ("67 J", 67),
        ("67 Jahre", 67),
        ("67 J.", 67),
        ("6 Monate", 0.5),
        ("40 years", 40),
        ("0", 0),
        ("010D", 0.03),
    ],
)
def test_age(text: object, years: float) -> None:
    found = fields.age(text)
    assert found == years
    assert type(found) is type(years)


def test_columns_of_sex_and_age_in_any_letters() -> None:
    cells = [("SEX", "w"), ("Gender", "Male"), ("PatientAge", "045Y"), ("AGE", "61,5"), ("age", "old"), ("Site", "X")]
    assert [fields.told(column, text) for column, text in cells] == [
        ("sex", "F"), ("sex", "M"), ("age", 45), ("age", 61.5), ("age", "old"), ("Site", "X"),
    ]  # fmt: skip


def test_sex() -> None:
    assert [fields.sex(text) for text in ("M", "male", " F ", "Female", "w", "weiblich", "o", "n/a", "1", None)] == [
        "M", "M", "F", "F", "F", "F", "O", None, None, None,
    ]  # fmt: skip
