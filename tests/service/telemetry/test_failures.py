"""What is counted when things go wrong, and whose a line of the log is."""

from __future__ import annotations

import asyncio
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue

import numpy as np
import pytest
from keepgate.engine.compute import ComputeThread
from keepgate.engine.engine import Engine
from keepgate.engine.job import Job
from keepgate.models.format import save_model
from keepgate.telemetry import calls
from keepgate.telemetry.calls import Calls, add_call, current
from keepgate_kernels import Network
from keepgate_protos.v1 import sequences_pb2 as pb
from support.metrics import Metrics
from support.operator import wait_for
from support.random_models import feature_spec, random_tensors
from support.servers import ServerProcess
from support.wire import DEADLINE, connect, failure

Start = Callable[..., ServerProcess]


def test_a_state_that_overflows(start_server: Start, tmp_path: Path) -> None:
    spec = feature_spec("rnn_relu", size=1)
    tensors = {key: np.abs(values) for key, values in random_tensors(spec).items()}
    tensors["layers.0.weight_hh"][:] = 10.0
    save_model(tmp_path / "models" / "vectors" / "1" / "model.safetensors", spec, tensors)
    server = start_server(models=tmp_path / "models")
    with connect(server.address) as wire:
        session = wire.open("vectors")
        assert failure(lambda: wire.step(session, [1.0] * 100)).reason == "NOT_FINITE"
        other = wire.open("vectors")
        wire.step(other, [1.0])
        now = Metrics(server)
    assert now("nv_inference_request_failure", model="vectors") == 1
    assert now("nv_inference_request_success", model="vectors") == 1
    assert now("nv_inference_count", model="vectors") == 1
    assert now("nv_inference_pending_request_count", model="vectors") == 0
    assert now("keepgate_sessions_ended_total", model="vectors", reason="lost") == 1
    assert now("keepgate_sessions", model="vectors") == 1
    assert now("keepgate_errors_total", reason="NOT_FINITE") == 1
    assert now("grpc_server_handled_total", grpc_code="OutOfRange") == 1


def test_a_call_over_the_limit_is_one_too(start_server: Start) -> None:
    server = start_server(max_calls=1)
    with connect(server.address) as wire:
        session = wire.open()
        silent: SimpleQueue[pb.StreamRequest | None] = SimpleQueue()
        held = wire.sequences.Stream(iter(silent.get, None), timeout=DEADLINE)
        wait_for(lambda: Metrics(server)("keepgate_calls_in_flight") == 1)
        refused = failure(lambda: wire.step(session, "a"))
        assert (refused.reason, bool(refused.request_id)) == ("CALLS_EXHAUSTED", True)
        silent.put(None)
        assert list(held) == []
        assert Metrics(server)("grpc_server_handled_total", grpc_code="ResourceExhausted") == 1


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="needs redis-server")
def test_a_session_that_another_server_takes(start_server: Start, tmp_path: Path) -> None:
    from support.redis_server import RedisServer

    redis = RedisServer(tmp_path / "redis")
    try:
        settings = {"store": redis.url, "durability": "always", "lease_seconds": 0.5}
        first, second = start_server(**settings), start_server(**settings)
        with connect(first.address) as here, connect(second.address) as there:
            session = here.open(version="1")
            here.step(session, "a", 0)
            first.process.send_signal(signal.SIGSTOP)
            try:
                wait_for(lambda: goes_on(there.position, session))
            finally:
                first.process.send_signal(signal.SIGCONT)
            assert Metrics(second)("keepgate_sessions_adopted_total") == 1
            assert failure(lambda: here.step(session, "b", 1)).reason == "SESSION_MOVED"
            now = Metrics(first)
            assert now("keepgate_sessions_ended_total", reason="moved") == 1
            assert now("keepgate_sessions") == 0
            assert now("keepgate_store_failing", store="durable") == 0
            redis.kill()
            wait_for(lambda: Metrics(first)("keepgate_store_failing", store="durable") == 1)
            assert Metrics(first)("keepgate_store_failing", store="spill") == 0
    finally:
        redis.stop()


def goes_on(position: Callable[[str], int], session: str) -> bool:
    """Whether the session is here; SESSION_ELSEWHERE means not yet."""
    import grpc

    try:
        return position(session) == 1
    except grpc.RpcError:
        return False


def test_a_batch_is_no_calls() -> None:
    """Whichever call came first, lines of a batch are not its own."""

    async def main() -> None:
        spec = feature_spec(size=3)
        seen: list[object] = []

        def on_done(jobs: list[Job]) -> list[Job]:
            seen.append(current())
            seen.append(add_call(None, "error", {}))
            return jobs

        compute = ComputeThread()
        engine = Engine(Network(spec, random_tensors(spec), slots=4), compute, on_done, max_lanes=8)
        counted = Calls()
        method = counted.method("/keepgate.v1.Sequences/Step", "unary")
        calls._current.set(calls.Call(counted, method, "mine"))
        assert add_call(None, "error", {}) == {"request_id": "mine"}
        job = Job(np.ones((2, 3), np.float32), 0, slot=0)
        engine.submit(job)
        await job.wait()
        assert seen == [None, {}]
        compute.close()

    asyncio.run(main())
