"""Export, Import and initial states over a socket: a session goes on elsewhere with the same bits."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from google.protobuf.duration_pb2 import Duration
from keepgate.sessions import blob as blobs
from keepgate_protos.v1 import sequences_pb2 as pb
from support.inputs import EVERYTHING, MODELS, TEXT, outputs, values
from support.repositories import characters_spec, write_model
from support.servers import ServerProcess
from support.wire import Wire, connect, failure

STATE = pb.Outputs(state=True)


@pytest.fixture
def exported(wire: Wire) -> bytes:
    """A session of letters/1 after TEXT."""
    session = wire.open(version="1")
    wire.step(session, TEXT)
    return wire.export(session)


@pytest.mark.parametrize(("model", "version"), MODELS)
def test_an_imported_session_goes_on(wire: Wire, model: str, version: str) -> None:
    session = wire.open(model, version=version)
    wire.step(session, values(model, 9))
    blob = wire.export(session)
    imported = wire.import_session(blob)
    assert (imported.model, imported.version, imported.position) == (model, version, 9)
    following = values(model, 4, seed=5)
    expected = wire.step(session, following, 9, outputs=outputs(model))
    assert wire.step(imported.session_id, following, 9, outputs=outputs(model)) == expected
    header, state = blobs.unpack(blob)
    assert (header.model, header.version, header.position) == (model, version, 9)
    assert len(state) == header.state_bytes


def test_export_changes_nothing(wire: Wire) -> None:
    session = wire.open()
    before = wire.step(session, TEXT[:10], 0, outputs=EVERYTHING)
    assert wire.export(session) == wire.export(session)
    again = wire.step(session, TEXT[:10], 0, outputs=EVERYTHING)
    assert (again.replayed, again.prediction) == (True, before.prediction)


def test_a_session_that_nothing_was_applied_to(wire: Wire) -> None:
    imported = wire.import_session(wire.export(wire.open())).session_id
    assert wire.step(imported, TEXT, 0, outputs=EVERYTHING) == wire.step(
        wire.open(), TEXT, 0, outputs=EVERYTHING
    )


def test_an_imported_session_goes_back_to_its_import(wire: Wire, exported: bytes) -> None:
    imported = wire.import_session(exported).session_id
    first = wire.step(imported, "x", outputs=EVERYTHING)
    assert wire.describe(imported).oldest_position == len(TEXT)
    wire.rewind(imported, len(TEXT))
    assert wire.step(imported, "x", outputs=EVERYTHING) == first
    refused = failure(lambda: wire.rewind(imported, len(TEXT) - 1))
    assert (refused.reason, refused.metadata["oldest_position"]) == ("NOT_RETAINED", str(len(TEXT)))


def test_what_an_import_is_told(wire: Wire, exported: bytes) -> None:
    session = wire.import_session(exported, session_id="carried", idle_ttl=Duration(seconds=55))
    assert (session.session_id, session.idle_ttl.seconds) == ("carried", 55)
    assert failure(lambda: wire.import_session(exported, session_id="carried")).reason == "SESSION_EXISTS"
    assert failure(lambda: wire.import_session(exported, session_id="a b")).field == "session_id"
    assert failure(lambda: wire.import_session(exported, idle_ttl=Duration())).field == "idle_ttl"
    no_store = failure(lambda: wire.import_session(exported, durability=pb.DURABILITY_EVERYSEC))
    assert (no_store.code, no_store.field) == ("INVALID_ARGUMENT", "durability")
    assert wire.import_session(exported, model="letters", version="1").version == "1"
    other = failure(lambda: wire.import_session(exported, model="letters"))
    assert (other.reason, other.field) == ("INVALID_ARGUMENT", "blob")
    assert "letters" in other.message
    assert failure(lambda: wire.import_session(exported, model="nothing")).reason == "MODEL_NOT_FOUND"


def test_a_blob_damaged_in_any_byte_is_refused(wire: Wire, exported: bytes) -> None:
    for index in range(len(exported)):
        damaged = bytearray(exported)
        damaged[index] ^= 0x10
        refused = failure(lambda damaged=damaged: wire.import_session(bytes(damaged)))  # type: ignore[misc]
        assert (refused.code, refused.field) == ("INVALID_ARGUMENT", "blob"), index


def test_a_blob_of_another_length_is_refused(wire: Wire, exported: bytes) -> None:
    for damaged in [*(exported[:end] for end in range(0, len(exported), 7)), exported + b"\0", b"\0" * 999]:
        refused = failure(lambda damaged=damaged: wire.import_session(damaged))  # type: ignore[misc]
        assert (refused.code, refused.field) == ("INVALID_ARGUMENT", "blob"), len(damaged)


@pytest.mark.parametrize(
    "changes",
    [
        {"weights": "0" * 64},
        {"position": -1},
        {"position": 2**48 + 1},
        {"position": 2**63 - 1},
        {"position": 2**63},
        {"position": 2**80},
        {"position": 1.5},
        {"position": True},
        {"position": "7"},
        {"state_bytes": 4},
        {"state_bytes": -128},
        {"model": None},
        {"model": "\udfff"},  # a lone surrogate, which no message can carry
        {"version": "\udfff"},
        {"weights": "\udfff"},
        {"kernel": "\udfff"},
        {"kernel": ["a"]},
        {"surplus": 1},
        {"model": ...},
    ],
    ids=str,
)
def test_a_blob_that_lies_is_refused(wire: Wire, exported: bytes, changes: dict[str, object]) -> None:
    """Its checksum is right, as anybody can make it."""
    header, state = blobs.unpack(exported)
    fields = {**dataclasses.asdict(header), **changes}
    packed = seal(
        json.dumps({name: value for name, value in fields.items() if value is not ...}).encode(), state
    )
    assert failure(lambda: wire.import_session(packed)).field == "blob"


@pytest.mark.parametrize("header", [b"", b"[]", b"null", b"{", b"\xff", b"1" * 5000])
def test_a_blob_whose_header_is_no_header_is_refused(wire: Wire, exported: bytes, header: bytes) -> None:
    _, state = blobs.unpack(exported)
    assert failure(lambda: wire.import_session(seal(header, state))).field == "blob"


def test_a_blob_whose_header_is_deep_is_refused(
    start_server: Callable[..., ServerProcess], exported: bytes
) -> None:
    with connect(start_server().address) as other:
        assert failure(lambda: other.import_session(seal(b"[" * 5000, b""))).field == "blob"


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_a_blob_with_a_state_that_is_not_finite_is_refused(wire: Wire, exported: bytes, wrong: float) -> None:
    header, state = blobs.unpack(exported)
    numbers = np.frombuffer(state, "<f4").copy()
    numbers[3] = wrong
    refused = failure(lambda: wire.import_session(blobs.pack(header, numbers.tobytes())))
    assert refused.field == "blob"
    assert "finite" in refused.message


def test_a_blob_with_a_state_of_another_size_is_refused(wire: Wire, exported: bytes) -> None:
    header, state = blobs.unpack(exported)
    for size in (0, 4, len(state) + 4):
        shorter = (state + state)[:size]
        packed = blobs.pack(dataclasses.replace(header, state_bytes=size), shorter)
        refused = failure(lambda packed=packed: wire.import_session(packed))  # type: ignore[misc]
        assert (refused.field, f"{size} bytes" in refused.message) == ("blob", True)


def seal(header: bytes, state: bytes) -> bytes:
    """A blob with this header as it is."""
    body = blobs._HEAD.pack(blobs.MAGIC, blobs.VERSION, len(header)) + header + state
    return body + blobs._checksum(body)


def test_a_session_of_other_weights_is_refused(
    start_server: Callable[..., ServerProcess], exported: bytes, tmp_path: Path
) -> None:
    """Same name, same shape."""
    write_model(tmp_path / "models", "letters", 1, characters_spec("lstm"), seed=77)
    with connect(start_server(models=tmp_path / "models").address) as other:
        for model in ("", "letters"):
            refused = failure(lambda model=model: other.import_session(exported, model=model))  # type: ignore[misc]
            assert (refused.code, refused.field) == ("INVALID_ARGUMENT", "blob")
            assert blobs.unpack(exported)[0].weights in refused.message
    write_model(tmp_path / "none", "other", 1, characters_spec("lstm"), seed=77)
    with connect(start_server(models=tmp_path / "none").address) as other:
        refused = failure(lambda: other.import_session(exported))
        assert (refused.reason, refused.metadata["model"]) == ("MODEL_NOT_FOUND", "letters")


def test_the_same_weights_under_another_name(
    start_server: Callable[..., ServerProcess], exported: bytes, tmp_path: Path
) -> None:
    write_model(tmp_path / "models", "renamed", 3, characters_spec("lstm"))
    with connect(start_server(models=tmp_path / "models").address) as other:
        session = other.import_session(exported)
        assert (session.model, session.version, session.position) == ("renamed", "3", len(TEXT))


@pytest.fixture
def cramped(start_server: Callable[..., ServerProcess]) -> Iterator[Wire]:
    """A server with two slots a model."""
    with connect(start_server(slots=2).address) as wire:
        yield wire


def test_export_of_sessions_that_are_paged_out(wire: Wire, cramped: Wire) -> None:
    sessions = [cramped.open(version="1") for _ in range(12)]
    for index, session in enumerate(sessions):
        cramped.step(session, TEXT[index : index + 20], 0)
    residencies = [cramped.describe(session).residency for session in sessions]
    assert residencies.count(pb.RESIDENCY_RESIDENT) == 2
    for index, session in enumerate(sessions):
        imported = wire.import_session(cramped.export(session))
        assert imported.position == 20
        fresh = wire.open(version="1")
        wire.step(fresh, TEXT[index : index + 20])
        expected = wire.step(fresh, "x", outputs=EVERYTHING)
        assert wire.step(imported.session_id, "x", outputs=EVERYTHING) == expected
        assert cramped.step(session, "x", 20, outputs=EVERYTHING) == expected


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_import_under_another_precision(
    start_server: Callable[..., ServerProcess], wire: Wire, exported: bytes, precision: str
) -> None:
    header, state = blobs.unpack(exported)
    with connect(start_server(precision=precision).address) as other:
        session = other.import_session(exported).session_id
        there, same = blobs.unpack(other.export(session))
        assert same == state
        assert there == dataclasses.replace(header, kernel=there.kernel)
        assert there.kernel.endswith(f"/{precision}")
        further = other.step(session, "x", len(TEXT), outputs=STATE).prediction.state
        back = wire.import_session(other.export(session)).session_id
        assert wire.position(back) == len(TEXT) + 1
    here = wire.step(wire.import_session(exported).session_id, "x", outputs=STATE).prediction.state
    assert further != here
    for one, another in zip(further, here, strict=True):
        assert one.h == pytest.approx(another.h, abs=0.05)
        assert one.c == pytest.approx(another.c, abs=0.05)
    assert wire.step(back, "y", outputs=STATE).position == len(TEXT) + 2


@pytest.mark.parametrize(("model", "version"), MODELS)
def test_the_final_state_of_one_session_starts_another(wire: Wire, model: str, version: str) -> None:
    encoder = wire.open(model, version=version)
    final = wire.step(encoder, values(model, 25), outputs=STATE).prediction.state
    decoder = wire.open(model, version=version, initial_state=final)
    assert wire.position(decoder) == 0
    following = values(model, 6, seed=8)
    expected = wire.step(encoder, following, 25, outputs=outputs(model))
    got = wire.step(decoder, following, 0, outputs=outputs(model))
    assert got.prediction == expected.prediction
    assert got.position == 6
    # It is the beginning of the session's history.
    wire.rewind(decoder, 0)
    assert wire.step(decoder, following, 0, outputs=outputs(model)) == got
    fork = wire.fork(decoder)
    wire.rewind(fork, 0)
    assert wire.step(fork, following, 0, outputs=outputs(model)).prediction == expected.prediction


def test_initial_states_that_are_paged_out(cramped: Wire) -> None:
    encoder = cramped.open(version="1")
    final = cramped.step(encoder, TEXT, outputs=STATE).prediction.state
    decoders = [cramped.open(version="1", initial_state=final) for _ in range(8)]
    expected = cramped.step(encoder, "x", outputs=EVERYTHING).prediction
    for decoder in decoders:
        assert cramped.step(decoder, "x", 0, outputs=EVERYTHING).prediction == expected


def layer(h: int, c: int = 0) -> pb.LayerState:
    return pb.LayerState(h=[0.25] * h, c=[0.5] * c)


def spoilt(value: float, *, cell: bool = False) -> list[pb.LayerState]:
    state = layer(16, 16)
    (state.c if cell else state.h)[5] = value
    return [state]


@pytest.mark.parametrize(
    ("version", "state", "field"),
    [
        ("1", [layer(16, 16), layer(16, 16)], "initial_state"),
        ("2", [layer(16)], "initial_state"),
        ("1", [layer(15, 16)], "initial_state[0].h"),
        ("1", [layer(17, 16)], "initial_state[0].h"),
        ("1", [layer(16, 15)], "initial_state[0].c"),
        ("1", [layer(16)], "initial_state[0].c"),
        ("1", [layer(0, 16)], "initial_state[0].h"),
        ("2", [layer(16), layer(16)], "initial_state[1].h"),
        ("2", [layer(16), layer(12, 12)], "initial_state[1].c"),
        ("1", spoilt(math.nan), "initial_state[0].h[5]"),
        ("1", spoilt(math.inf), "initial_state[0].h[5]"),
        ("1", spoilt(-math.inf, cell=True), "initial_state[0].c[5]"),
        ("1", spoilt(math.nan, cell=True), "initial_state[0].c[5]"),
    ],
)
def test_initial_states_that_do_not_fit(
    wire: Wire, version: str, state: list[pb.LayerState], field: str
) -> None:
    refused = failure(lambda: wire.open(version=version, initial_state=state))
    assert (refused.code, refused.field) == ("INVALID_ARGUMENT", field)


def test_int8_has_a_scale_for_what_is_bounded(start_server: Callable[..., ServerProcess], wire: Wire) -> None:
    with connect(start_server(precision="int8").address) as other:
        for value in (1.5, -1.001, 1e30):
            refused = failure(
                lambda value=value: other.open(version="1", initial_state=spoilt(value))  # type: ignore[misc]
            )
            assert (refused.code, refused.field) == ("INVALID_ARGUMENT", "initial_state[0].h[5]")
        for state in (spoilt(1.0), spoilt(-1.0), spoilt(7.5, cell=True)):
            other.step(other.open(version="1", initial_state=state), "a")
    wire.step(wire.open(version="1", initial_state=spoilt(1.5)), "a")


def test_an_import_into_int8_is_checked_as_an_initial_state_is(
    start_server: Callable[..., ServerProcess], wire: Wire
) -> None:
    blob = wire.export(wire.open(version="1", initial_state=spoilt(1.5)))
    assert wire.import_session(blob).position == 0
    with connect(start_server(precision="int8").address) as other:
        refused = failure(lambda: other.import_session(blob))
        assert (refused.code, refused.field) == ("INVALID_ARGUMENT", "blob")
