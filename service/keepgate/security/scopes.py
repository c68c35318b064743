"""What each method needs. What is not named here is open to nobody."""

from __future__ import annotations

import functools
from collections.abc import Mapping

SEQUENCES = "sequences"
MODELS = "models"
ADMIN = "admin"
SCOPES = (SEQUENCES, MODELS, ADMIN)
DEFAULT_SCOPES = frozenset({SEQUENCES, MODELS})
"""Of a token whose entry names none, and of a certificate."""
ANY = "any"
"""Any principal may call it."""
HEALTH = "health"
"""As ANY; without a principal too, if the server's `open_health` says so."""

_OIP = "inference.GRPCInferenceService"

SERVICES: Mapping[str, str] = {
    "keepgate.v1.Sequences": SEQUENCES,
    "keepgate.v1.Models": MODELS,
    "keepgate.v1.Admin": ADMIN,
    "grpc.reflection.v1alpha.ServerReflection": ANY,
    "grpc.reflection.v1.ServerReflection": ANY,
    "grpc.health.v1.Health": ANY,
}
"""For all methods of a service that METHODS does not name."""

METHODS: Mapping[str, str] = {
    # Watch keeps a stream open: whoever may be anybody may only ask and go.
    "/grpc.health.v1.Health/Check": HEALTH,
    "/grpc.health.v1.Health/List": HEALTH,
    f"/{_OIP}/ServerLive": HEALTH,
    f"/{_OIP}/ServerReady": HEALTH,
    f"/{_OIP}/ModelReady": MODELS,
    f"/{_OIP}/ServerMetadata": MODELS,
    f"/{_OIP}/ModelMetadata": MODELS,
    f"/{_OIP}/ModelConfig": MODELS,
    f"/{_OIP}/ModelStatistics": MODELS,
    f"/{_OIP}/RepositoryIndex": MODELS,
    f"/{_OIP}/ModelInfer": SEQUENCES,
    f"/{_OIP}/ModelStreamInfer": SEQUENCES,
    f"/{_OIP}/SystemSharedMemoryStatus": SEQUENCES,
    f"/{_OIP}/SystemSharedMemoryRegister": SEQUENCES,
    f"/{_OIP}/SystemSharedMemoryUnregister": SEQUENCES,
    f"/{_OIP}/CudaSharedMemoryStatus": SEQUENCES,
    f"/{_OIP}/CudaSharedMemoryRegister": SEQUENCES,
    f"/{_OIP}/CudaSharedMemoryUnregister": SEQUENCES,
    f"/{_OIP}/RepositoryModelLoad": ADMIN,
    f"/{_OIP}/RepositoryModelUnload": ADMIN,
    f"/{_OIP}/TraceSetting": ADMIN,
    f"/{_OIP}/LogSettings": ADMIN,
}


@functools.lru_cache(maxsize=1_024)  # every call asks; a bound, for callers may make names up
def scope_of(method: str) -> str:
    """What "/package.Service/Method" needs; "" if nobody may call it."""
    return METHODS.get(method) or SERVICES.get(method[1:].rpartition("/")[0], "")
