"""What a server tells over HTTP."""

from __future__ import annotations

from http.client import HTTPConnection
from typing import NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from support.servers import ServerProcess

DEADLINE = 60.0
Labels = tuple[tuple[str, str], ...]


class Reply(NamedTuple):
    status: int
    body: str
    content_type: str


def get(server: ServerProcess, path: str, method: str = "GET", **headers: str) -> Reply:
    """One request, without a proxy."""
    connection = HTTPConnection(server.http_address, timeout=DEADLINE)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return Reply(answer.status, answer.read().decode(), answer.headers.get("Content-Type", ""))
    finally:
        connection.close()


class Metrics:
    """The samples of /metrics."""

    def __init__(self, server: ServerProcess) -> None:
        reply = get(server, "/metrics")
        assert reply.status == 200, reply
        self.text = reply.body
        self.values: dict[str, dict[frozenset[tuple[str, str]], float]] = {}
        self.names: set[str] = set()
        for family in text_string_to_metric_families(self.text):
            # The parser takes the suffix off a counter's name.
            self.names.add(f"{family.name}_total" if family.type == "counter" else family.name)
            for sample in family.samples:
                self.values.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value

    def __call__(self, name: str, **labels: str) -> float:
        """The sum of the samples that have these labels; 0 if there are none."""
        wanted = labels.items()
        return sum(value for had, value in self.values.get(name, {}).items() if wanted <= set(had))
