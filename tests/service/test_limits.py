"""What a server takes at most: more is refused at once, and the caller told when to try again."""

from __future__ import annotations

from collections.abc import Callable
from queue import SimpleQueue

import grpc
from keepgate_protos.v1 import sequences_pb2 as pb
from support.servers import ServerProcess
from support.wire import DEADLINE, Wire, connect, failure, step

Start = Callable[..., ServerProcess]


def test_too_many_sessions(start_server: Start) -> None:
    server = start_server(max_sessions=2)
    with connect(server.address) as wire:
        first, _ = wire.open(), wire.open()
        error = failure(wire.open)
        assert (error.code, error.reason) == ("RESOURCE_EXHAUSTED", "SESSIONS_EXHAUSTED")
        assert error.message == "model 'letters' version 2 has all its 2 sessions open"
        assert error.metadata == {"model": "letters", "version": "2", "limit": "2"}
        assert error.retry_after > 0
        wire.open("letters", version="1")  # another version has slots of its own
        wire.close(first)
        wire.step(wire.open(), "abc", 0)


def test_too_much_work_at_once(start_server: Start) -> None:
    server = start_server(max_pending_steps=10, max_inputs_per_request=10)
    with connect(server.address) as wire:
        session = wire.open()
        answers = wire.stream(step(session, "abcdef") for _ in range(50))
        refused = [answer for answer in answers if answer.HasField("error")]
        applied = [answer for answer in answers if answer.HasField("step")]
        assert len(refused) + len(applied) == 50
        assert wire.position(session) == 6 * len(applied) > 0
        for answer in refused:
            assert answer.error.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
            assert answer.error.message == (
                "6 inputs wait to be applied: got 6 more, expected at most 10 in all"
            )


def test_too_many_calls_at_once(start_server: Start) -> None:
    server = start_server(max_calls=2)
    with connect(server.address) as wire:
        session = wire.open()
        streams = [Idle(wire), Idle(wire)]
        for stream in streams:
            stream.begin()
        error = failure(lambda: wire.step(session, "a"))
        assert (error.code, error.reason) == ("RESOURCE_EXHAUSTED", "CALLS_EXHAUSTED")
        assert error.metadata == {"limit": "2"}
        assert error.retry_after > 0
        streams[0].end()
        assert wire.step(session, "a").position == 1
        streams[1].end()


class Idle:
    """A stream on which one step was answered, and that is still open."""

    def __init__(self, wire: Wire) -> None:
        self._requests: SimpleQueue[pb.StreamRequest | None] = SimpleQueue()
        self._session = wire.open()
        self._call = wire.sequences.Stream(iter(self._requests.get, None), timeout=DEADLINE)

    def begin(self) -> None:
        self._requests.put(pb.StreamRequest(step=step(self._session, "a")))
        next(self._call)

    def end(self) -> None:
        self._requests.put(None)
        assert list(self._call) == []
