"""Sequences of the Open Inference Protocol are sessions; these are their ids.

A session id has the characters [A-Za-z0-9._~-], at most 128. Names of models have no "~".
"""

from __future__ import annotations

import hashlib
import re

from keepgate.directory import OIP_PREFIX

MAX_LENGTH = 128
DIGEST_BYTES = 16
_ODD = re.compile(rb"[^A-Za-z0-9._-]")


def session_id_of(model: str, sequence: int | str, principal: str = "") -> str:
    """oip.i~MODEL~NUMBER or oip.s~MODEL~TEXT; in the text, what is no letter, digit, ".", "_" or "-" is "~"
    and two digits for each byte of UTF-8. If that is too long: oip.h~ and a digest of it. So it is where the
    server knows principals, for each of them may have a sequence of the same id."""
    if isinstance(sequence, int):
        name = f"{OIP_PREFIX}i~{model}~{sequence}"
    else:
        plain = _ODD.sub(lambda odd: b"~%02X" % odd[0][0], sequence.encode())
        name = f"{OIP_PREFIX}s~{model}~{plain.decode()}"
    if len(name) <= MAX_LENGTH and not principal:
        return name
    whole = f"{principal}\0{name}" if principal else name
    return f"{OIP_PREFIX}h~{hashlib.blake2b(whole.encode(), digest_size=DIGEST_BYTES).hexdigest()}"
