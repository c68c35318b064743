"""Telemetry as a whole: what is noted from the start on, and where it can be read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keepgate.config import Settings
from keepgate.errors import ConfigError
from keepgate.rpc.health import HealthServicer
from keepgate.sequences import Sequences
from keepgate.telemetry.calls import Calls
from keepgate.telemetry.collect import Metrics
from keepgate.telemetry.http import Http

if TYPE_CHECKING:
    from keepgate.telemetry.traces import Traces

OTEL = "opentelemetry"


class Telemetry:
    """calls: of all gRPC servers of the process. Raises ConfigError if traces are wanted and the packages for
    them are not there, or the endpoint is none."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._traces = _traces(settings.traces)
        self.calls = Calls(self._traces)
        self._http: Http | None = None

    async def start(self, sequences: Sequences, status: HealthServicer) -> str:
        """Answer over HTTP; where, or "" if that is turned off. Raises ListenError."""
        if self._traces is not None:
            self._traces.sequences = sequences
        address = self._settings.http_address
        if not address:
            return ""

        async def is_ready() -> bool:
            return status.is_serving("")

        self._http = Http(Metrics(self.calls, sequences).document, is_ready)
        return await self._http.start(address)

    async def stop(self) -> None:
        """Answer no more, and send the spans that are left."""
        if self._http is not None:
            await self._http.stop()
        if self._traces is not None:
            await self._traces.close()


def _traces(endpoint: str) -> Traces | None:
    if not endpoint:
        return None
    try:
        from keepgate.telemetry.traces import Traces  # noqa: PLC0415 - the packages are an extra
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != OTEL:
            raise
        raise ConfigError(
            f"traces: got {endpoint!r}, which needs OpenTelemetry: install keepgate[otel], or leave it empty"
        ) from error
    return Traces(endpoint)
