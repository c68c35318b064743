"""Rows of frames that come again before they are answered."""

from __future__ import annotations

from queue import SimpleQueue

import numpy as np
from keepgate_protos.v1 import sequences_pb2 as pb
from support.wire import DEADLINE, Wire, take_apart

ROWS, STEPS, TIMES = 64, 20, 3


def test_a_row_under_way_is_busy_and_answered_later(wire: Wire) -> None:
    names = [wire.open() for _ in range(ROWS)]
    requests: SimpleQueue[pb.FramesRequest | None] = SimpleQueue()
    answers = wire.sequences.StreamFrames(iter(requests.get, None), timeout=DEADLINE)

    def ask(request: pb.FramesRequest, times: int = 1) -> list[pb.FramesResponse]:
        for _ in range(times):
            requests.put(request)
        return [next(answers) for _ in range(times)]

    (answer,) = ask(pb.FramesRequest(bind=pb.Bind(session_ids=names)))
    handles = answer.bound.handles
    tokens = np.zeros(ROWS, "<u4").tobytes()
    for position in range(STEPS):
        at = np.full(ROWS, position, "<u8").tobytes()
        frame = pb.FramesRequest(frame=pb.Frame(handles=handles, positions=at, tokens=tokens))
        several = ask(frame, TIMES)
        (last,) = ask(frame)
        assert (last.frame.replayed, len(last.frame.errors)) == (ROWS, 0)
        for answer in several:
            reasons = {take_apart(error.status).reason for error in answer.frame.errors}
            assert reasons <= {"SESSION_BUSY"}
            refused = {error.row for error in answer.frame.errors}
            good = [row for row in range(ROWS) if row not in refused]
            drawn = [
                np.frombuffer(column, "<u4")[good] for column in (answer.frame.tokens, last.frame.tokens)
            ]
            assert drawn[0].tolist() == drawn[1].tolist()
        tokens = last.frame.tokens
    requests.put(None)
    assert [wire.position(name) for name in names] == [STEPS] * ROWS
