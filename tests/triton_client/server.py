"""What clients ask about the server and its models, and the client's own descriptors."""

from __future__ import annotations

from typing import Any

import tritonclient.grpc as triton
from google.protobuf.json_format import MessageToDict

from triton_client.common import infer, number, refused


def ready(address: str, model: str) -> list[bool]:
    """Whether the server lives, is ready, and has the model."""
    with triton.InferenceServerClient(address) as client:
        return [client.is_server_live(), client.is_server_ready(), client.is_model_ready(model)]


def told(address: str, model: str) -> dict[str, Any]:
    """All that can be asked without a change."""
    with triton.InferenceServerClient(address) as client:
        return {
            "live": client.is_server_live(),
            "ready": client.is_server_ready(),
            "model_ready": [
                client.is_model_ready(model),
                client.is_model_ready(model, "1"),
                client.is_model_ready(model, "77"),
                client.is_model_ready("nobody"),
            ],
            "server": client.get_server_metadata(as_json=True),
            "metadata": client.get_model_metadata(model, as_json=True),
            "config": client.get_model_config(model, as_json=True)["config"],
            "unknown": [
                refused(lambda: client.get_model_metadata("nobody")),
                refused(lambda: client.get_model_config("nobody")),
                refused(lambda: client.get_inference_statistics("nobody")),
            ],
            "index": client.get_model_repository_index(as_json=True)["models"],
            "trace": client.get_trace_settings(as_json=True),
            "log": client.get_log_settings(as_json=True),
            "changes": [
                refused(lambda: client.update_trace_settings(settings={"trace_level": ["TIMESTAMPS"]})),
                refused(lambda: client.update_log_settings({"log_verbose_level": 1})),
            ],
        }


def statistics(address: str, model: str) -> tuple[list[Any], list[Any]]:
    """Before and after five steps of one sequence, and a whole one of four inputs in one request."""
    with triton.InferenceServerClient(address) as client:

        def now() -> list[Any]:
            message = client.get_inference_statistics(model)
            return list(MessageToDict(message, preserving_proto_field_name=True)["model_stats"])

        before, key = now(), number()
        for index in range(5):
            infer(client, model, [1], sequence_id=key, sequence_start=index == 0)
        infer(client, model, [1, 2, 3, 4], parameters={"keepgate_last_only": True})
        return before, now()


def repository(address: str) -> list[tuple[str, str]]:
    """Load and Unload where they are not allowed."""
    with triton.InferenceServerClient(address) as client:
        return [
            refused(lambda: client.load_model("letters")),
            refused(lambda: client.unload_model("letters")),
        ]


def controlled(address: str) -> None:
    """Load and Unload where they are allowed: a live sequence goes on, new ones are refused."""
    with triton.InferenceServerClient(address) as client:
        key = number()
        infer(client, "letters", [1], sequence_id=key, sequence_start=True)
        client.unload_model("letters")
        assert not client.is_model_ready("letters")
        infer(client, "letters", [2], sequence_id=key)
        status, text = refused(
            lambda: infer(client, "letters", [1], sequence_id=number(), sequence_start=True)
        )
        assert (status, "unknown model" in text) == ("StatusCode.NOT_FOUND", True)
        states = {
            (each["name"], each["version"]): (each["state"], each.get("reason", ""))
            for each in client.get_model_repository_index(as_json=True)["models"]
        }
        assert states["letters", "1"] == ("UNAVAILABLE", "is not loaded")
        assert states["letters", "2"] == ("UNAVAILABLE", "is retired: it serves the sequences that it has")
        assert states["vectors", "1"] == ("READY", "")
        client.load_model("letters")
        assert client.is_model_ready("letters", "1")
        assert client.is_model_ready("letters", "2")
        infer(client, "letters", [2], sequence_id=key, sequence_end=True)
        assert refused(lambda: client.load_model("nobody"))[0] == "StatusCode.NOT_FOUND"
        assert refused(lambda: client.unload_model("nobody"))[0] == "StatusCode.NOT_FOUND"
        status, _ = refused(lambda: client.load_model("letters", config="{}"))
        assert status == "StatusCode.UNIMPLEMENTED"


def descriptors() -> tuple[dict[str, Any], dict[str, Any]]:
    """Of the client's two files: see `support.descriptors.described`."""
    from support.descriptors import described
    from tritonclient.grpc import model_config_pb2, service_pb2

    return described(service_pb2.DESCRIPTOR), described(model_config_pb2.DESCRIPTOR)


def readme(source: str) -> None:
    """A block of Python of a README."""
    exec(compile(source, "README.md", "exec"), {"__name__": "__main__"})  # noqa: S102
