"""What grpc.health.v1 tells an orchestrator.

"" is readiness: whether clients should be sent here. A server that starts with a refused model is not ready,
so that a rollout stops before all servers lack it; it becomes ready when the repository has been mended and
reloaded. A server that was ready stays so: when a bad file is added to a repository that many servers share,
all of them go on serving what they have. "keepgate.v1.*" tell that calls are answered, and
"keepgate.model.NAME" whether a model takes new sessions.
"""

from __future__ import annotations

import structlog

from keepgate.config import Settings
from keepgate.models.registry import Registry
from keepgate.rpc.health import HealthServicer
from keepgate.swap import Swap

MODEL = "keepgate.model."

log = structlog.get_logger(__name__)


class Readiness:
    """Sets what `status` answers, at the start and whenever `swap` has changed something."""

    def __init__(self, status: HealthServicer, settings: Settings, registry: Registry, swap: Swap) -> None:
        self._status = status
        self._settings = settings
        self._registry = registry
        self._swap = swap
        self._ready = False
        self._names: set[str] = set()

    async def begin(self, services: tuple[str, ...]) -> None:
        """The server answers from now on; `services` are SERVING till it drains."""
        for name in services:
            self._status.set(name, True)
        self._swap.changed = self.update
        await self.update()
        if not self._ready:
            log.warning("not ready", reason="models were refused", refused=len(self._swap.refused))

    async def update(self) -> None:
        """To be called when models have come or gone."""
        was_ready = self._ready
        self._ready = was_ready or self._settings.ready_with_refused_models or not self._swap.refused
        self._status.set("", self._ready)
        serving = {model.key.name for model in self._registry if not self._registry.is_retired(model.key)}
        self._names |= serving | set(self._refused_names())
        for name in self._names:
            self._status.set(MODEL + name, name in serving)

    def _refused_names(self) -> list[str]:
        """Of models whose files are refused, as far as they lie where models do."""
        root = self._settings.models
        paths = [error.path for error in self._swap.refused if error.path.is_relative_to(root)]
        return [path.relative_to(root).parts[0] for path in paths if path != root]
