"""Names that do not tell who a patient is: keyed hashes of what the hospital called them.

The salt is a secret. Who has it, and the hospital's own identifiers, can find a patient again; who has only our files cannot, and cannot try
out identifiers either. The same salt gives the same names, so that a second export of a patient meets the first.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path

from hlip.importing.outcome import ImportingError

_BYTES = 32
_DIGITS = 16  # hex digits of a name: 64 bits, no two of a million agree by chance (3e-8)


def hashed(text: str, salt: bytes, kind: str) -> str:
    """A name for `text`: `kind` and 16 hex digits of HMAC-SHA256. One text under two kinds (patient, study) gives two unrelated names."""
    message = kind.encode() + b"\0" + text.encode()
    return f"{kind}-{hmac.new(salt, message, hashlib.sha256).hexdigest()[:_DIGITS]}"


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
