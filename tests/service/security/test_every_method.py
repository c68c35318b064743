"""Every method of every service that reflection lists, on both listeners, called by those who may not."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from grpc_status import rpc_status
from keepgate_protos.v1 import sequences_pb2 as pb
from support.operator import loaded
from support.reflect import methods, naming
from support.servers import ServerProcess
from support.tokens import ALL_SCOPES, TokenFile, bearer, connect_as, showing
from support.wire import DEADLINE, Wire

YESTERDAY = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
ANY, OPEN = "any", "open"


class Rule(NamedTuple):
    """What this test expects of a method.

    scope: what it needs; ANY: any token; OPEN: none. session: "names" one that is open, "makes" one of the id
    in the request, or "" if its request has no session_id.
    """

    scope: str
    session: str = ""


SEQUENCES = "/keepgate.v1.Sequences"
INFERENCE = "/inference.GRPCInferenceService"
RULES = {
    f"{SEQUENCES}/Open": Rule("sequences", "makes"),
    f"{SEQUENCES}/Step": Rule("sequences", "names"),
    f"{SEQUENCES}/Stream": Rule("sequences", "names"),
    f"{SEQUENCES}/StreamFrames": Rule("sequences", "names"),
    f"{SEQUENCES}/Generate": Rule("sequences", "names"),
    f"{SEQUENCES}/Score": Rule("sequences", "names"),
    f"{SEQUENCES}/Describe": Rule("sequences", "names"),
    f"{SEQUENCES}/List": Rule("sequences"),
    f"{SEQUENCES}/Fork": Rule("sequences", "names"),
    f"{SEQUENCES}/Rewind": Rule("sequences", "names"),
    f"{SEQUENCES}/Export": Rule("sequences", "names"),
    f"{SEQUENCES}/Import": Rule("sequences", "makes"),
    f"{SEQUENCES}/Close": Rule("sequences", "names"),
    "/keepgate.v1.Models/List": Rule("models"),
    "/keepgate.v1.Models/Describe": Rule("models"),
    "/keepgate.v1.Admin/Reload": Rule("admin"),
    "/keepgate.v1.Admin/Load": Rule("admin"),
    "/keepgate.v1.Admin/Unload": Rule("admin"),
    "/keepgate.v1.Admin/Drain": Rule("admin"),
    **{f"{INFERENCE}/{name}": Rule(OPEN) for name in ("ServerLive", "ServerReady")},
    **{
        f"{INFERENCE}/{name}": Rule("models")
        for name in (
            *("ModelReady", "ServerMetadata", "ModelMetadata", "ModelConfig", "ModelStatistics"),
            "RepositoryIndex",
        )
    },
    # Sequences have names of their own for each principal: see test_sequences_of_principals.
    **{f"{INFERENCE}/{name}": Rule("sequences") for name in ("ModelInfer", "ModelStreamInfer")},
    **{
        f"{INFERENCE}/{kind}SharedMemory{what}": Rule("sequences")
        for kind in ("System", "Cuda")
        for what in ("Status", "Register", "Unregister")
    },
    **{
        f"{INFERENCE}/{name}": Rule("admin")
        for name in ("RepositoryModelLoad", "RepositoryModelUnload", "TraceSetting", "LogSettings")
    },
    "/grpc.health.v1.Health/Check": Rule(OPEN),
    "/grpc.health.v1.Health/Watch": Rule(ANY),
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Rule(ANY),
}
"""All there are. A service that is added needs its rows, or the tests fail."""


@dataclass
class Guarded:
    """A server with tokens, and alice's session on it."""

    server: ServerProcess
    tokens: dict[str, str]
    session: str
    methods: dict[str, dict[str, MethodDescriptor]]
    """By listener: its address."""

    @property
    def all_methods(self) -> Iterator[tuple[str, str, MethodDescriptor]]:
        """Address, path and descriptor."""
        for address, there in self.methods.items():
            for path, method in there.items():
                yield address, path, method


@pytest.fixture(scope="module")
def guarded(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    directory = tmp_path_factory.mktemp("guarded")
    file = TokenFile(directory / "tokens.toml")
    tokens = {
        "alice": file.add("alice"),
        "bob": file.add("bob"),
        "root": file.add("root", ALL_SCOPES),
        "expired": file.add("alice", ALL_SCOPES, expires=YESTERDAY),
        **{scope: file.add("carol", [scope]) for scope in ALL_SCOPES},
    }
    settings = {"models": repository, "tokens_file": file.path}
    server = ServerProcess(directory / "server", settings).wait_ready()
    there = {}
    for address in (server.address, server.admin_address):
        with grpc.insecure_channel(address) as channel:
            there[address] = methods(showing(channel, tokens["root"]))
    with connect_as(server.address, tokens["alice"]) as wire:
        session = wire.open(session_id="alices-session")
        wire.step(session, "abc", 0)
    yield Guarded(server, tokens, session, there)
    assert server.stop() == 0, server.log()
    assert '"level": "error"' not in server.log()
    for token in tokens.values():
        assert token not in server.log()


@pytest.fixture(autouse=True)
def unchanged(guarded: Guarded) -> Iterator[None]:
    """Whatever a test tries, alice's session, the list of sessions and the models stay as they are."""
    with connect_as(guarded.server.address, guarded.tokens["alice"]) as alice:
        before = everything(alice)
        yield
        assert everything(alice) == before


def everything(wire: Wire) -> Any:
    listed = wire.sequences.List(pb.ListRequest(), timeout=DEADLINE)
    return [(each.session_id, each.position, each.durability) for each in listed.sessions], loaded(wire)


class Answer(NamedTuple):
    """How a call ended. parts: its messages."""

    code: str
    message: str
    reason: str
    details: bytes
    parts: list[bytes]


def call(
    address: str, path: str, metadata: tuple[tuple[str, str], ...] = (), request: bytes | None = b""
) -> Answer:
    """Any method, as bytes. request None: the call is made and nothing is sent on it."""
    requests: Iterator[bytes] = iter(() if request is None else (request,))
    parts: list[bytes] = []
    with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        method: Any = channel.stream_stream(path)
        made = method(requests, timeout=DEADLINE, metadata=(*metadata, ("x-request-id", "the-test")))
        with contextlib.suppress(grpc.RpcError):  # what it was, `made` tells
            parts.extend(made)
        assert made.code() is not grpc.StatusCode.DEADLINE_EXCEEDED, path
        status = rpc_status.from_call(made)
        reason = ""
        for detail in status.details if status is not None else ():
            info = error_details_pb2.ErrorInfo()
            if detail.Unpack(info):
                reason = info.reason
        details = b"" if status is None else status.SerializeToString()
        return Answer(made.code().name, made.details() or "", reason, details, parts)


def test_the_table_has_every_method_and_no_other(guarded: Guarded) -> None:
    assert {path for _, path, _ in guarded.all_methods} == set(RULES)


def test_every_request_with_a_session_id_is_known_to_have_one(guarded: Guarded) -> None:
    for _, path, method in guarded.all_methods:
        has_one = naming(method, "session_id", "x") is not None
        assert has_one == bool(RULES[path].session), path


STRANGERS = {
    "no token": ((), "TOKEN_MISSING"),
    "an empty header": ((("authorization", ""),), "TOKEN_INVALID"),
    "an empty token": ((("authorization", "Bearer "),), "TOKEN_INVALID"),
    "a wrong token": ((("authorization", "Bearer kg_wrong"),), "TOKEN_INVALID"),
    "another scheme": ((("authorization", "Basic YWxpY2U6"),), "TOKEN_INVALID"),
    "another header": ((("x-authorization", "Bearer x"),), "TOKEN_MISSING"),
}


@pytest.mark.parametrize("stranger", STRANGERS)
def test_strangers_are_refused(guarded: Guarded, stranger: str) -> None:
    metadata, reason = STRANGERS[stranger]
    for address, path, method in guarded.all_methods:
        named = naming(method, "session_id", guarded.session)
        answer = call(address, path, metadata, b"" if named is None else named.SerializeToString())
        if RULES[path].scope == OPEN and reason == "TOKEN_MISSING":
            assert answer.code == "OK", path
        else:
            assert (answer.code, answer.reason, answer.parts) == ("UNAUTHENTICATED", reason, []), path


def test_an_expired_token_is_refused(guarded: Guarded) -> None:
    for address, path, _ in guarded.all_methods:
        answer = call(address, path, bearer(guarded.tokens["expired"]))
        assert (answer.code, answer.reason) == ("UNAUTHENTICATED", "TOKEN_EXPIRED"), path


def test_two_tokens_are_none(guarded: Guarded) -> None:
    both = bearer(guarded.tokens["alice"]) + bearer(guarded.tokens["bob"])
    for address, path, _ in guarded.all_methods:
        assert call(address, path, both).code == "UNAUTHENTICATED", path


def test_a_token_without_the_scope_is_refused(guarded: Guarded) -> None:
    for address, path, _ in guarded.all_methods:
        needed = RULES[path].scope
        if needed in (ANY, OPEN):
            continue
        for scope in ALL_SCOPES:
            if scope != needed:
                answer = call(address, path, bearer(guarded.tokens[scope]))
                assert (answer.code, answer.reason) == ("PERMISSION_DENIED", "SCOPE_MISSING"), (path, scope)
                assert needed in answer.message


def test_a_stranger_is_refused_before_anything_is_read(guarded: Guarded) -> None:
    for address, path, _ in guarded.all_methods:
        if RULES[path].scope != OPEN:
            assert call(address, path, request=None).code == "UNAUTHENTICATED", path
            assert call(address, path, request=b"\xff" * 100).code == "UNAUTHENTICATED", path


@pytest.mark.parametrize("path", ["/keepgate.v1.Sequences/Nothing", "/nothing.Nothing/Nothing", "/", "//"])
def test_a_stranger_does_not_learn_what_methods_there_are(guarded: Guarded, path: str) -> None:
    for address in guarded.methods:
        assert call(address, path).code == "UNAUTHENTICATED"
        assert call(address, path, bearer("wrong")).code == "UNAUTHENTICATED"
    assert call(guarded.server.address, path, bearer(guarded.tokens["root"])).code == "UNIMPLEMENTED"


def test_the_token_with_the_scope_is_let_in(guarded: Guarded) -> None:
    for address, path, _ in guarded.all_methods:
        rule = RULES[path]
        if path.endswith(("/Drain", "/Reload")) or rule.scope in (ANY, OPEN):
            continue  # these would do something with an empty request; others have tests of their own
        answer = call(address, path, bearer(guarded.tokens[rule.scope]))
        refused = answer.code in ("UNAUTHENTICATED", "PERMISSION_DENIED", "UNIMPLEMENTED")
        # Shared memory, and what the operator has not allowed, is refused to all alike.
        assert not refused or answer.reason in ("UNSUPPORTED", "REPOSITORY_CONTROL"), path


def test_the_session_of_another_is_as_one_that_never_was(guarded: Guarded) -> None:
    unknown = "x" * len(guarded.session)
    tried = 0
    for address, path, method in guarded.all_methods:
        if RULES[path].session != "names":
            continue
        answers = []
        for session in (guarded.session, unknown):
            request = naming(method, "session_id", session)
            assert request is not None
            answers.append(call(address, path, bearer(guarded.tokens["bob"]), request.SerializeToString()))
        theirs, nobodys = answers
        assert "SESSION_NOT_FOUND" in (theirs.reason, reason_within(theirs)), path
        assert as_if(theirs, guarded.session) == as_if(nobodys, unknown), path
        tried += 1
    assert tried == sum(rule.session == "names" for rule in RULES.values())


def reason_within(answer: Answer) -> str:
    """Of an answer in-band, as bytes."""
    return next(("SESSION_NOT_FOUND" for part in answer.parts if b"SESSION_NOT_FOUND" in part), "")


def as_if(answer: Answer, session: str) -> Answer:
    """The answer, without the session's name."""
    name = session.encode()
    return answer._replace(
        message=answer.message.replace(session, "*"),
        details=answer.details.replace(name, b"*"),
        parts=[part.replace(name, b"*") for part in answer.parts],
    )


def test_the_id_of_another_cannot_be_taken(guarded: Guarded) -> None:
    with connect_as(guarded.server.address, guarded.tokens["bob"]) as bob:
        own = bob.open()
        blob = bob.export(own)
        for attempt in (
            lambda: bob.open(session_id=guarded.session),
            lambda: bob.import_session(blob, session_id=guarded.session),
            lambda: bob.fork(own, fork_id=guarded.session),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                attempt()
            assert caught.value.code() is grpc.StatusCode.ALREADY_EXISTS
        bob.close(own)


def test_status_of_an_unknown_principal_has_no_details_of_others(guarded: Guarded) -> None:
    with connect_as(guarded.server.address, guarded.tokens["bob"]) as bob:
        listed = bob.sequences.List(pb.ListRequest(), timeout=DEADLINE)
        assert (list(listed.sessions), listed.total, listed.next_page_token) == ([], 0, "")
        answer = bob.stream([pb.StepRequest(session_id=guarded.session)])[0]
        assert isinstance(answer.error, status_pb2.Status)
        assert "alice" not in answer.error.message.replace(guarded.session, "")
