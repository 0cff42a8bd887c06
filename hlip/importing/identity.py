"""Names that do not tell who a patient is: keyed hashes of what the hospital called them.

The salt is a secret. Who has it, and the hospital's own identifiers, can find a patient again; who has only our files cannot, and cannot try
out identifiers either. The same salt gives the same names, so that a second export of a patient meets the first.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from pathlib import Path

from hlip.files.folders import write_atomically
from hlip.importing.outcome import ImportingError

_BYTES = 32
_DIGITS = 16  # hex digits of a name: 64 bits, no two of a million agree by chance (3e-8)


def hashed(text: str, salt: bytes, kind: str) -> str:
    """A name for `text`: `kind` and 16 hex digits of HMAC-SHA256. One text under two kinds (patient, study) gives two unrelated names."""
    message = kind.encode() + b"\0" + text.encode()
    return f"{kind}-{hmac.new(salt, message, hashlib.sha256).hexdigest()[:_DIGITS]}"


def record_names(manifest: Path, salt: bytes, keep_ids: bool) -> None:
    """Write beside a manifest how its studies were named: as they were, or hashed with which salt (a digest keyed by it, no way back)."""
    content = {"keep_ids": keep_ids, "salt": "" if keep_ids else _fingerprint(salt)}
    write_atomically(_record(manifest), (json.dumps(content) + "\n").encode())


def check_names(manifest: Path, salt_file: Path, keep_ids: bool) -> None:
    """Studies that join those of a manifest must be named as they are: the same patient under another name would be another one, and might
    stand in another split.

    Raises:
        ImportingError: another salt, none at its place, or ids that were kept, now not (or the other way round).
    """
    try:
        known = json.loads(_record(manifest).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}  # of an earlier version
    if known and bool(known["keep_ids"]) != keep_ids:
        ways = ("hashed, now they would be kept: leave --keep-ids out", "kept, now they would be hashed: give --keep-ids")
        raise ImportingError(
            f"{manifest}: its ids were {ways[not keep_ids]}; or --replace what is there, or name another place"
        )
    if keep_ids:
        return
    if not salt_file.exists():
        raise ImportingError(
            f"{manifest}: the salt of its ids is not at {salt_file}, and with another one known patients would be new ones; name it with "
            "--salt, or --replace what is there, or name another place"
        )
    if known and known.get("salt") != _fingerprint(read_salt(salt_file)):
        raise ImportingError(
            f"{manifest}: its ids were made with another salt than {salt_file}; name that one with --salt, or --replace what is there, or "
            "name another place"
        )


def _record(manifest: Path) -> Path:
    return manifest.with_name(f"{manifest.stem}.ids.json")


def _fingerprint(salt: bytes) -> str:
    return hmac.new(salt, b"fingerprint", hashlib.sha256).hexdigest()[:_DIGITS]


def read_salt(file: str | Path) -> bytes:
    """The salt in a file; written there, readable to its owner alone, where there is none yet.

    Raises:
        ImportingError: the file is no salt, or cannot be read or written.
    """
    file = Path(file)
    try:
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
                out.write(secrets.token_hex(_BYTES) + "\n")
        salt = bytes.fromhex(file.read_text(encoding="ascii").strip())
    except (OSError, ValueError) as error:
        raise ImportingError(f"{file}: no salt can be read or written here ({error})") from error
    if len(salt) < _BYTES // 2:
        raise ImportingError(f"{file}: a salt of {len(salt)} bytes is too short; delete it to have a new one drawn")
    return salt
