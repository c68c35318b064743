"""The unmodified tritonclient on sequences: the same bits as the native API's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.random_models import token_spec
from support.repositories import write_model
from support.servers import ServerProcess
from triton_client.process import TritonProcess

MODELS = ["shakespeare-lstm", "el-nino"]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    "scenario",
    [
        "sequences.interleaved",
        "sequences.interleaved_aio",
        "sequences.restart",
        "sequences.alone",
        "sequences.several_inputs",
        "sequences.retries",
        "sequences.typed",
        "streams.interleaved",
        "streams.interleaved_aio",
        "streams.sent_ahead",
    ],
)
def test_bits(triton: TritonProcess, bundled: ServerProcess, scenario: str, model: str) -> None:
    triton.run(scenario, bundled.address, model)


def test_sampling_and_hidden_states(triton: TritonProcess, bundled: ServerProcess) -> None:
    triton.run("sequences.sampling", bundled.address, "shakespeare-gru")


def test_sequences_are_sessions(triton: TritonProcess, server: ServerProcess) -> None:
    ids = triton.run("sequences.visible", server.address, "letters")
    assert ids[:3] == ["oip.i~letters~-5", "oip.s~letters~5", "oip.s~letters~a~20b~2F~C3~BC~7E"]
    assert ids[3].startswith("oip.h~")
    assert ids[4] == "oip.s~letters~a.b"
    assert len(set(ids)) == 5


def test_errors_on_a_stream_are_answers(triton: TritonProcess, server: ServerProcess) -> None:
    triton.run("streams.in_band", server.address, "letters")


def test_an_error_in_band_has_id_and_reason(triton: TritonProcess, server: ServerProcess) -> None:
    text, request_id, parameters = triton.run("streams.raw_error", server.address, "letters")
    assert "must specify the START flag" in text
    assert request_id == "seventeen"
    assert parameters["keepgate_reason"] == "SEQUENCE_NOT_STARTED"
    assert parameters["keepgate_cause"] == "SESSION_NOT_FOUND"


def test_triton_grpc_error_ends_the_stream(triton: TritonProcess, server: ServerProcess) -> None:
    assert triton.run("streams.grpc_error", server.address, "letters") == "StatusCode.INVALID_ARGUMENT"


def test_timeouts(triton: TritonProcess, server: ServerProcess) -> None:
    triton.run("streams.timeouts", server.address, "letters", 5_000)


def test_timeouts_of_a_model_that_runs_on_the_compute_thread(
    triton: TritonProcess, start_server: Callable[..., ServerProcess], tmp_path: Path
) -> None:
    write_model(tmp_path / "models", "heavy", 1, token_spec("lstm", vocabulary=30, hidden=(512,)))
    server = start_server(models=tmp_path / "models")
    triton.run("streams.timeouts", server.address, "heavy", 1_000)


@pytest.mark.parametrize("durability", ["everysec", "always"])
def test_durable_sequences_restart_and_end(
    triton: TritonProcess, start_server: Callable[..., ServerProcess], tmp_path: Path, durability: str
) -> None:
    server = start_server(store=f"sqlite:{tmp_path / 'sessions.db'}", durability=durability)
    triton.run("sequences.restart", server.address, "letters")
    triton.run("streams.sent_ahead", server.address, "letters")
    triton.run("streams.in_band", server.address, "letters")


def test_a_sequence_ends_with_its_idle_time(
    triton: TritonProcess, start_server: Callable[..., ServerProcess]
) -> None:
    server = start_server(idle_ttl_seconds=0.05)
    triton.run("sequences.expired", server.address, "letters")


def test_a_stream_with_little_room_gets_all_its_answers(
    triton: TritonProcess, start_server: Callable[..., ServerProcess]
) -> None:
    server = start_server(max_stream_pending=2)
    triton.run("streams.interleaved", server.address, "letters")


def test_a_drain_ends_streams(triton: TritonProcess, start_server: Callable[..., ServerProcess]) -> None:
    server = start_server()
    status, text = triton.run("streams.drained", server.address, "letters", server.pid)
    assert (status, "shutting down" in text) == ("StatusCode.UNAVAILABLE", True)
    assert server.wait() == 0
