"""Streams: many sessions over one call, in order, owned, and with back pressure."""

from __future__ import annotations

import queue
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from keepgate_protos.v1 import sequences_pb2 as pb
from support.servers import ServerProcess
from support.wire import DEADLINE, Failure, Wire, connect, failure, step, take_apart

EVERYTHING = pb.Outputs(logits=True, hidden=True)


class OpenStream:
    """A stream that is written and read by turns."""

    def __init__(self, wire: Wire) -> None:
        self._requests: queue.SimpleQueue[pb.StreamRequest | None] = queue.SimpleQueue()
        self._sent = 0
        self.call = wire.sequences.Stream(self._written(), timeout=DEADLINE)

    def _written(self) -> Iterator[pb.StreamRequest]:
        while (request := self._requests.get()) is not None:
            yield request

    def send(self, session: str, what: Any, position: int | None = None, **fields: Any) -> None:
        self._sent += 1
        request = pb.StreamRequest(request_id=self._sent, step=step(session, what, position, **fields))
        self._requests.put(request)

    def ask(self, session: str, what: Any, position: int | None = None, **fields: Any) -> pb.StreamResponse:
        self.send(session, what, position, **fields)
        answer: pb.StreamResponse = next(self.call)
        return answer

    def finish(self) -> list[pb.StreamResponse]:
        """Say that nothing more comes; the answers that were due."""
        self._requests.put(None)
        return list(self.call)


def refusal(answer: pb.StreamResponse) -> Failure:
    assert answer.HasField("error"), answer
    return take_apart(answer.error)


def test_answers_are_those_of_unary_steps(wire: Wire) -> None:
    text = "the same, message by message"
    unary, streamed = wire.open(), wire.open()
    expected = [wire.step(unary, letter, index, outputs=EVERYTHING) for index, letter in enumerate(text)]
    answers = wire.stream(
        step(streamed, letter, index, outputs=EVERYTHING) for index, letter in enumerate(text)
    )
    assert [answer.step for answer in answers] == expected
    assert [answer.request_id for answer in answers] == list(range(len(text)))
    assert {answer.session_id for answer in answers} == {streamed}


def test_many_sessions_each_in_order(wire: Wire) -> None:
    sessions = [wire.open("letters" if index % 2 else "ids") for index in range(60)]
    requests = [step(session, [turn % 11], turn) for turn in range(20) for session in sessions]
    answers = wire.stream(requests)
    assert sorted(answer.request_id for answer in answers) == list(range(len(requests)))
    for session in sessions:
        own = [answer for answer in answers if answer.session_id == session]
        assert [answer.step.position for answer in own] == list(range(1, 21))
        assert [answer.request_id for answer in own] == sorted(answer.request_id for answer in own)


def test_a_long_step_does_not_hold_up_other_sessions(wire: Wire) -> None:
    slow, quick = wire.open(), wire.open()
    answers = wire.stream([step(slow, "x" * 16_000), *(step(quick, "a") for _ in range(5))])
    assert [answer.session_id for answer in answers] == [quick] * 5 + [slow]


def test_errors_come_in_band_and_in_order(wire: Wire) -> None:
    session = wire.open()
    answers = wire.stream(
        [
            step(session, "a long step that takes more than one turn of the engine", 0),
            step(session, "A", 55),
            step(session, "b", 99),
            step(session, "c", 55),
            step("nobody", "c"),
            pb.StepRequest(),
        ]
    )
    own = [answer for answer in answers if answer.session_id == session]
    assert [answer.request_id for answer in own] == [0, 1, 2, 3]
    assert own[0].step.position == 55
    assert refusal(own[1]).field == "inputs.text[0]"
    assert refusal(own[2]).metadata["expected_position"] == "55"
    assert own[3].step.position == 56
    rest = {answer.request_id: refusal(answer) for answer in answers if answer.session_id != session}
    assert rest[4].reason == "SESSION_NOT_FOUND"
    assert (rest[5].reason, rest[5].field) == ("INVALID_ARGUMENT", "session_id")


def test_a_request_without_step(wire: Wire) -> None:
    (answer,) = wire.sequences.Stream(iter([pb.StreamRequest(request_id=8)]))
    assert answer.request_id == 8
    assert refusal(answer).field == "step"


def test_retries_in_a_stream_are_applied_once(wire: Wire) -> None:
    session = wire.open()
    answers = wire.stream(step(session, "abc", 0) for _ in range(1_000))
    assert [answer.step.replayed for answer in answers] == [False] + [True] * 999
    assert wire.position(session) == 3


def test_a_session_belongs_to_the_first_stream(wire: Wire) -> None:
    session, free = wire.open(), wire.open()
    first, second = OpenStream(wire), OpenStream(wire)
    assert first.ask(session, "a", 0).step.position == 1
    error = refusal(second.ask(session, "b", 1))
    assert (error.code, error.reason) == ("ABORTED", "SESSION_IN_USE")
    assert error.metadata == {"session_id": session}
    assert error.retry_after > 0
    # The second stream lives, unary steps are taken, and the first goes on behind them.
    assert second.ask(free, "b", 0).step.position == 1
    assert wire.step(session, "b", 1).position == 2
    assert first.ask(session, "c", 2).step.position == 3
    assert first.finish() == []
    assert second.ask(session, "d", 3).step.position == 4
    assert second.finish() == []


def test_a_step_that_is_refused_takes_no_session(wire: Wire) -> None:
    session = wire.open()
    first, second = OpenStream(wire), OpenStream(wire)
    assert refusal(first.ask(session, "a", 7)).reason == "POSITION_MISMATCH"
    assert second.ask(session, "a", 0).step.position == 1
    first.finish()
    second.finish()


def test_a_cancelled_stream_gives_its_sessions_back(wire: Wire) -> None:
    session = wire.open()
    first, second = OpenStream(wire), OpenStream(wire)
    assert first.ask(session, "a", 0).step.position == 1
    first.call.cancel()
    while (answer := second.ask(session, "b", 1)).HasField("error"):
        assert refusal(answer).reason == "SESSION_IN_USE"
    assert answer.step.position == 2
    second.finish()


def test_what_a_stream_sent_before_it_broke_is_applied(wire: Wire) -> None:
    session = wire.open()
    stream = OpenStream(wire)
    assert stream.ask(session, "a", 0).step.position == 1
    stream.send(session, "x" * 5_000, 1)
    while wire.position(session) == 1:  # admitted, and perhaps not yet done
        time.sleep(0.001)
    stream.call.cancel()
    while wire.position(session) < 5_001:
        time.sleep(0.001)
    reply = wire.step(session, "x" * 5_000, 1)
    assert (reply.position, reply.replayed) == (5_001, True)


def test_a_client_that_does_not_read_is_not_read_from(wire: Wire) -> None:
    session = wire.open()
    total = 20_000
    call = wire.sequences.Stream(
        (
            pb.StreamRequest(request_id=index, step=step(session, "a", index, outputs=EVERYTHING))
            for index in range(total)
        ),
        timeout=DEADLINE,
    )
    unchanged = 0
    while unchanged < 10:
        before = wire.position(session)
        time.sleep(0.05)
        unchanged = unchanged + 1 if wire.position(session) == before else 0
    assert 0 < wire.position(session) < total
    for index in range(total // 2):
        answer = next(call)
        assert (answer.request_id, answer.step.position) == (index, index + 1)
    call.cancel()


def test_a_closed_session_ends_its_steps_only(wire: Wire) -> None:
    session, other = wire.open(), wire.open()
    stream = OpenStream(wire)
    stream.ask(session, "a")
    stream.ask(other, "a")
    wire.close(session)
    assert refusal(stream.ask(session, "b")).reason == "SESSION_CLOSED"
    assert stream.ask(other, "b").step.position == 2
    assert stream.finish() == []


def test_a_client_that_hangs_loses_its_sessions(start_server: Callable[..., ServerProcess]) -> None:
    server = start_server(keepalive_seconds=1, keepalive_timeout_seconds=1)
    client = textwrap.dedent(
        f"""
        import sys, time
        sys.path[:0] = {[str(Path(__file__).parent), *sys.path]!r}
        from support.wire import connect
        from test_stream import OpenStream

        with connect({server.address!r}) as wire:
            session = wire.open(session_id="hung")
            stream = OpenStream(wire)
            print(stream.ask(session, "a", 0).step.position, flush=True)
            time.sleep(600)
        """
    )
    process = subprocess.Popen([sys.executable, "-c", client], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process, connect(server.address) as wire:
        try:
            assert process.stdout.readline() == "1\n"
            process.send_signal(signal.SIGSTOP)
            stream = OpenStream(wire)
            deadline = time.monotonic() + 30
            while (answer := stream.ask("hung", "b", 1)).HasField("error"):
                assert refusal(answer).reason == "SESSION_IN_USE"
                assert time.monotonic() < deadline
                time.sleep(0.1)
            assert answer.step.position == 2
        finally:
            process.kill()


def test_draining_ends_streams(start_server: Callable[..., ServerProcess]) -> None:
    server = start_server()
    with connect(server.address) as wire:
        stream = OpenStream(wire)
        assert stream.ask(wire.open(), "a", 0).step.position == 1
        server.terminate()
        error = failure(lambda: list(stream.call))
        assert (error.code, error.reason) == ("UNAVAILABLE", "DRAINING")
        assert error.retry_after > 0
        assert server.wait() == 0
