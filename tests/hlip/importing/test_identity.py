"""Names that do not tell who a patient is: keyed, stable, apart by kind, and a salt that only its owner reads."""

from __future__ import annotations

import hashlib
import hmac
import re
from pathlib import Path

import pytest

from hlip.importing.identity import hashed, read_salt
from hlip.importing.outcome import ImportingError

SALT = bytes(range(32))


def test_the_same_text_has_the_same_name_and_others_another() -> None:
    name = hashed("12345", SALT, "patient")
    assert name == hashed("12345", SALT, "patient")
    assert re.fullmatch(r"patient-[0-9a-f]{16}", name)
    digits = name.removeprefix("patient-")
    others = [hashed("12346", SALT, "patient"), hashed("12345", SALT[::-1], "patient"), hashed("12345", SALT, "study")]
    assert len({digits, *(other.split("-")[1] for other in others)}) == 4
    assert len({hashed(str(n), SALT, "patient") for n in range(20_000)}) == 20_000


def test_kind_and_text_do_not_run_into_each_other() -> None:
    assert hashed("bc", SALT, "a").split("-")[1] != hashed("c", SALT, "ab").split("-")[1]


def test_it_is_hmac_sha256_of_kind_and_text() -> None:
    """Files of an earlier release must go on meeting their patients."""
    expected = hmac.new(SALT, "patient\0Müller".encode(), hashlib.sha256).hexdigest()[:16]
    assert hashed("Müller", SALT, "patient") == f"patient-{expected}"
    assert hashed("12345", SALT, "patient") == "patient-91bd7d71fb2e755e"


def test_a_salt_is_drawn_once_and_private(tmp_path: Path) -> None:
    file = tmp_path / "new" / "salt.txt"
    salt = read_salt(file)
    assert len(salt) == 32
    assert file.stat().st_mode & 0o777 == 0o600
    assert read_salt(str(file)) == salt
    assert read_salt(tmp_path / "other.txt") != salt


@pytest.mark.parametrize("content", ["", "no salt", "abc", "00" * 15, "\u00e9" * 64])
def test_what_is_no_salt(tmp_path: Path, content: str) -> None:
    (tmp_path / "salt.txt").write_text(content, encoding="utf-8")
    with pytest.raises(ImportingError, match=r"salt\.txt"):
        read_salt(tmp_path / "salt.txt")
    assert (tmp_path / "salt.txt").read_text(encoding="utf-8") == content
    with pytest.raises(ImportingError, match="no salt can be read or written here"):
        read_salt(tmp_path)
