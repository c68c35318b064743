"""What a fuzzer knows of the server from its answers, so that many of its requests make sense."""

from __future__ import annotations

import json
from collections import OrderedDict, deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fuzz.dice import Dice
from keepgate.sessions import blob
from keepgate_protos.v1 import sequences_pb2 as pb
from support.random_models import feature_spec, token_spec
from support.repositories import ALPHABET, characters_spec, write_model

NAMES = tuple(f"s{number}" for number in range(10))
"""Ids that sessions get again and again."""
MOST_SESSIONS = 24
MODELS = ("letters", "ids", "vectors")
VOCABULARY = {"letters": len(ALPHABET), "ids": 11}
FEATURES = 3
WIDTHS = {"letters": ((16, 0), (12, 0)), "ids": ((8, 8),), "vectors": ((8, 0),)}
"""h and c of the newest versions' layers."""


def write_repository(folder: Path) -> Path:
    """Small models: characters in two versions, token ids, features."""
    write_model(folder, "letters", 1, characters_spec("lstm"))
    write_model(folder, "letters", 2, characters_spec("gru", hidden=(16, 12)), seed=2)
    write_model(folder, "ids", 1, token_spec("cifg", vocabulary=11), seed=3)
    write_model(folder, "vectors", 1, feature_spec("gru", size=FEATURES, outputs=2), seed=4)
    return folder


@dataclass
class Known:
    """One session. before: the position before the last step."""

    model: str
    position: int = 0
    before: int = 0


class World:
    """Sessions, blobs and requests seen of late."""

    def __init__(self) -> None:
        self.sessions: OrderedDict[str, Known] = OrderedDict()
        self.blobs: deque[bytes] = deque(maxlen=4)
        self.pages: deque[str] = deque(maxlen=2)
        self.requests: deque[tuple[str, bytes]] = deque(maxlen=8)

    def forget(self) -> None:
        """All that no later input should depend on."""
        self.sessions.clear()
        self.blobs.clear()
        self.pages.clear()
        self.requests.clear()

    def opened(self, session: pb.Session) -> None:
        self.sessions[session.session_id] = Known(session.model, session.position, session.position)
        if len(self.sessions) > MOST_SESSIONS:
            self.sessions.popitem(last=False)

    def moved(self, session_id: str, position: int) -> None:
        known = self.sessions.get(session_id)
        if known is not None and known.position != position:
            known.before, known.position = known.position, position

    def closed(self, session_id: str) -> None:
        """Asked for again all the same, but less often."""
        self.sessions.pop(session_id, None)

    def some_session(self, dice: Dice) -> str:
        if self.sessions and dice.chance(95):
            return dice.pick(list(self.sessions))
        return dice.pick(NAMES) if dice.chance(70) else dice.text()

    def new_session(self, dice: Dice) -> str:
        if dice.chance(85):
            return dice.pick(NAMES)
        return "" if dice.chance(50) else dice.text()

    def model_of(self, session_id: str, dice: Dice) -> str:
        known = self.sessions.get(session_id)
        if known is not None and dice.chance(92):
            return known.model
        return dice.pick(MODELS)

    def some_position(self, session_id: str, dice: Dice) -> int:
        known = self.sessions.get(session_id, Known(""))
        kind = dice.below(20)
        if kind < 11:
            return known.position
        if kind < 15:
            return known.before
        if kind < 18:
            return int(max(0, known.position + dice.below(60) - 50))
        return dice.integer(64)

    def some_blob(self, dice: Dice) -> bytes:
        """An exported session, as it was, damaged, or lying under a good checksum."""
        if not self.blobs:
            return dice.some_bytes(80)
        good = dice.pick(self.blobs)
        if dice.chance(50):
            return good
        return dice.damage(good) if dice.chance(30) else forged(good, dice)


def forged(good: bytes, dice: Dice) -> bytes:
    """A blob with another header or state, and the checksum that belongs to it."""
    _, version, size = blob._HEAD.unpack_from(good)
    begin = blob._HEAD.size
    text, state = good[begin : begin + size], good[begin + size : -blob.CHECKSUM_BYTES]
    kind = dice.below(6)
    if kind == 0:
        text = dice.damage(text)
    elif kind == 1:
        state = dice.damage(state)
    elif kind == 2:
        text = dice.pick(ODD_HEADERS)
    else:
        fields = json.loads(text)
        fields[dice.pick([*fields, "other"])] = odd_value(dice)
        text = json.dumps(fields).encode()
    size = dice.integer(32) if dice.chance(5) else len(text)
    body = blob._HEAD.pack(blob.MAGIC, version, size) + text + state
    return body + blob._checksum(body)


ODD_HEADERS = (
    b"",
    b"[]",
    b"null",
    b"[" * 5_000,
    b'{"model":' * 3_000,
    b"1" * 5_000,
    b"\xff\xfe{",
    b'"\\ud800"',
)


def odd_value(dice: Dice) -> Any:
    """A value that JSON can spell."""
    kind = dice.below(8)
    if kind == 0:
        return dice.integer(64) - dice.below(2)
    if kind == 1:
        return dice.number()
    if kind == 2:
        return dice.pick(("\ud800", "a\udfff" * 30, "", "letters", "99"))
    if kind == 3:
        return dice.pick((2**63 - 1, 2**63 - 40, 2**62, 2**64, -1, 10**400, 1e308))
    if kind == 4:
        return dice.pick((True, False, None))
    if kind == 5:
        return dice.pick(([], {}, [[]], {"a": 1}))
    return dice.text() if kind == 6 else -dice.integer(20)
