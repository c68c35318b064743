"""Where models are computed, what the operator hears of it, and what remains when a device fails."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from keepgate_protos.v1 import models_pb2, models_pb2_grpc, sequences_pb2_grpc
from keepgate_protos.v1 import sequences_pb2 as pb
from support.servers import ServerProcess
from support.wire import DEADLINE, failure

FAULT = """
import os

from keepgate_kernels.cpu.network import CpuNetwork
from keepgate_kernels.errors import DeviceLostError

compute = CpuNetwork.step


def step(self, lanes):
    if os.path.exists(os.environ["DEVICE_FAULT"]):
        raise DeviceLostError("a step: the device failed (a fault of the test); restart the process")
    compute(self, lanes)


CpuNetwork.step = step
"""

STEP = pb.StepRequest(session_id="a", inputs=pb.Inputs(tokens=pb.Tokens(ids=[1, 2, 3])))


def logged(server: ServerProcess, event: str) -> list[dict[str, object]]:
    lines = (json.loads(line) for line in server.log().splitlines() if line.startswith("{"))
    return [line for line in lines if line["event"] == event]


def test_auto_takes_the_cpu_where_there_is_no_other(start_server: Callable[..., ServerProcess]) -> None:
    server = start_server(device="auto")
    (told,) = logged(server, "no CUDA device, models are computed on the CPU")
    assert told["reason"]
    assert {line["device"] for line in logged(server, "model loaded")} == {"cpu"}
    with grpc.insecure_channel(server.address) as channel:
        stub = models_pb2_grpc.ModelsStub(channel)  # type: ignore[no-untyped-call]
        models = stub.List(models_pb2.ListModelsRequest(), timeout=DEADLINE).models
    assert {model.device for model in models} == {"cpu"}


def test_a_device_that_is_not_there(start_server: Callable[..., ServerProcess]) -> None:
    with pytest.raises(RuntimeError, match=r"exited with 1:\n.*keepgate: device cuda"):
        start_server(device="cuda")


def test_a_device_that_nobody_knows(start_server: Callable[..., ServerProcess]) -> None:
    with pytest.raises(RuntimeError, match=r"device: got 'tpu'\. Input should be 'cpu', 'cuda' or 'auto'"):
        start_server(device="tpu")


def by_step(stub: Any) -> None:
    stub.Step(STEP, timeout=DEADLINE)


def by_frame(stub: Any) -> None:
    """Bind the session, and step it; the first handle is 0."""
    handle, position, token = (0).to_bytes(8, "little"), (3).to_bytes(8, "little"), bytes(4)
    requests = [
        pb.FramesRequest(bind=pb.Bind(session_ids=["a"])),
        pb.FramesRequest(frame=pb.Frame(handles=handle, positions=position, tokens=token)),
    ]
    list(stub.StreamFrames(iter(requests), timeout=DEADLINE))


@pytest.mark.parametrize("use", [by_step, by_frame])
def test_a_device_that_fails(
    start_server: Callable[..., ServerProcess], tmp_path: Path, use: Callable[[Any], None]
) -> None:
    """The server ends, and what was applied up to then is in the store."""
    (tmp_path / "sitecustomize.py").write_text(FAULT)
    fault = tmp_path / "fault"
    settings = {"store": f"sqlite:{tmp_path / 'sessions.db'}", "durability": "everysec"}
    server = start_server(**settings, extra={"PYTHONPATH": str(tmp_path), "DEVICE_FAULT": str(fault)})
    with grpc.insecure_channel(server.address) as channel:
        stub = sequences_pb2_grpc.SequencesStub(channel)  # type: ignore[no-untyped-call]
        stub.Open(pb.OpenRequest(model="letters", session_id="a"), timeout=DEADLINE)
        stub.Step(STEP, timeout=DEADLINE)
        fault.touch()
        assert failure(lambda: use(stub)).reason == "DRAINING"
    assert server.wait() == 1
    assert "keepgate: a step: the device failed (a fault of the test)" in server.log()
    assert "Traceback" not in server.log()
    with grpc.insecure_channel(start_server(**settings).address) as channel:
        stub = sequences_pb2_grpc.SequencesStub(channel)  # type: ignore[no-untyped-call]
        found = stub.Describe(pb.DescribeRequest(session_id="a"), timeout=DEADLINE).session
        assert (found.position, found.durable_position) == (3, 3)
        assert stub.Step(STEP, timeout=DEADLINE).position == 6
