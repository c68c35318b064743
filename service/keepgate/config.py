"""Settings: flag over environment (KEEPGATE_*) over TOML file over default."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from keepgate.cores import usable_cores
from keepgate.errors import ConfigError
from keepgate.models.device import Device
from keepgate.models.precision import PrecisionChoice
from keepgate.sessions.durability import Durability

PREFIX = "KEEPGATE_"
CONFIG_VARIABLE = PREFIX + "CONFIG"
BUNDLED_MODELS = Path(__file__).parent / "bundled_models"

MIB = 1 << 20
MAX_PORT = 65_535
MAX_THREADS = 64
DEFAULT_THREADS = 8
"""The most threads that are taken unasked: with more, one step's parts get so short that handing them out
costs more than they do."""
REPEATABLE = frozenset({"precision"})
"""Settings whose flag may be given several times; the values come as a list."""


def _checked_address(address: str) -> str:
    """host:port, or nothing. Raises ValueError."""
    match = re.fullmatch(r"(?:\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]+):([0-9]{1,5})", address)
    if address and (match is None or int(match[1]) > MAX_PORT):
        raise ValueError(f"Expected host:port with a port of at most {MAX_PORT}, or nothing")
    return address


class Settings(BaseSettings):
    """All settings of the server. Flags come as keyword arguments.

    Raises pydantic's ValidationError; `load_settings` turns it into a ConfigError for people.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    config: Path | None = Field(None, description="TOML file with any of these settings")
    host: str = Field("127.0.0.1", min_length=1, description="address to listen on")
    port: int = Field(8001, ge=0, le=MAX_PORT, description="gRPC port; 0 takes a free one")
    admin_address: Annotated[str, AfterValidator(_checked_address)] = Field(
        "127.0.0.1:8003",
        description="host:port of the Admin service, for the operator alone; port 0 takes a free one, empty "
        "turns it off",
    )
    http_address: Annotated[str, AfterValidator(_checked_address)] = Field(
        "127.0.0.1:8002",
        description="host:port for metrics and health over HTTP; port 0 takes a free one, empty turns it off",
    )
    oip_repository_control: bool = Field(
        False,
        description="whether clients of the Open Inference Protocol may load and unload models",
    )
    tls_cert: Path | None = Field(
        None,
        description="PEM file of the server's certificate and those between it and its root; turns TLS on",
    )
    tls_key: Path | None = Field(None, description="PEM file of its private key, without a password")
    tls_client_ca: Path | None = Field(
        None, description="PEM file of the roots of the certificates that clients must show: mutual TLS"
    )
    tls_principal: bool = Field(
        False, description="whether a call without a token is the one's whom its client's certificate names"
    )
    tokens_file: Path | None = Field(
        None, description="TOML file of the tokens that calls must bring; none: everybody may do everything"
    )
    open_health: bool = Field(True, description="whether health may be asked for without a token")
    ready_file: Path | None = Field(None, description="file that gets host:port once the server answers")
    models: Path = Field(
        BUNDLED_MODELS, description="model repository: DIR/<name>/<version>/model.safetensors"
    )
    watch_seconds: float = Field(
        0.0,
        allow_inf_nan=False,
        ge=0,
        description="how often the model repository is looked at for changes to load; 0: never",
    )
    ready_with_refused_models: bool = Field(
        False, description="whether a server is ready that has started with a model refused"
    )
    max_model_bytes: int = Field(512 * MIB, ge=1, description="largest model file that is read, in bytes")
    precision: Annotated[PrecisionChoice, NoDecode, BeforeValidator(PrecisionChoice.parse)] = Field(
        PrecisionChoice(),
        description="fp32, bf16 or int8 for all models, NAME=int8 or NAME/VERSION=int8 for one; several with "
        "commas",
    )
    device: Device = Field(
        Device.CPU, description="where models are computed: cpu, cuda, or auto: on CUDA where that can be"
    )
    threads: int = Field(
        0,
        ge=0,
        le=MAX_THREADS,
        description="threads that a heavy batch may use on the CPU; 0: as many as there are cores, at most "
        f"{DEFAULT_THREADS}",
    )
    max_sessions: int = Field(100_000, ge=1, le=10_000_000, description="open sessions of each model version")
    max_sessions_per_principal: int = Field(
        0, ge=0, description="open sessions of each principal, of all models; 0: any number"
    )
    slots: int = Field(
        10_000, ge=1, le=10_000_000, description="sessions of each model version whose state is in memory"
    )
    store: str = Field(
        "", description="where durable sessions are kept: sqlite:PATH or redis://HOST:PORT/DB; empty: nowhere"
    )
    durability: Durability = Field(
        Durability.NONE,
        description="what of a session survives the server by default: none, everysec or always",
    )
    retained_steps: int = Field(
        4_096, ge=0, le=1 << 24, description="steps that a session can be rewound, at least"
    )
    snapshot_steps: int = Field(
        256, ge=1, le=1 << 20, description="steps between the states that a session's history keeps"
    )
    lease_seconds: float = Field(
        5.0,
        allow_inf_nan=False,
        ge=0.5,
        description="silence after which other servers may take over this one's sessions in a shared store",
    )
    idle_ttl_seconds: float = Field(
        3_600.0,
        allow_inf_nan=False,
        gt=0,
        description="how long a session outlives its last request by default",
    )
    idle_ttl_limit_seconds: float = Field(
        86_400.0, allow_inf_nan=False, gt=0, description="the longest idle_ttl a client may ask for"
    )
    max_pending_steps: int = Field(
        65_536, ge=1, description="inputs admitted and not yet applied, over all sessions"
    )
    max_batch: int = Field(1_024, ge=1, le=65_536, description="sessions computed in one tick")
    max_inputs_per_request: int = Field(16_384, ge=1, description="inputs of one Step, prompt or Score")
    max_generated_tokens: int = Field(16_384, ge=1, description="largest max_tokens of a Generate")
    max_calls: int = Field(10_000, ge=1, description="calls and streams served at once")
    max_calls_per_principal: int = Field(
        0, ge=0, description="calls and streams of each principal at once; 0: any number"
    )
    max_connection_calls: int = Field(
        0,
        ge=0,
        le=(1 << 31) - 1,
        description="calls and streams on one connection at once, others wait at the client; 0: any number",
    )
    max_metadata_bytes: int = Field(
        16_384, ge=1_024, le=1 << 20, description="largest metadata of a call that is taken, in bytes"
    )
    max_stream_pending: int = Field(
        256, ge=1, description="unanswered steps of one stream before the server stops reading it"
    )
    max_message_bytes: int = Field(
        4 * MIB, ge=1_024, le=(1 << 31) - 1, description="largest gRPC message that is taken, in bytes"
    )
    keepalive_seconds: float = Field(
        15.0,
        allow_inf_nan=False,
        ge=1,
        description="silence on a connection after which the server pings the client",
    )
    keepalive_timeout_seconds: float = Field(
        10.0,
        allow_inf_nan=False,
        ge=1,
        description="wait for a ping's answer before the connection counts as dead",
    )
    connection_age_seconds: float = Field(
        0.0,
        allow_inf_nan=False,
        ge=0,
        description="how old a connection or a stream gets before its client needs another; 0: no limit",
    )
    connection_age_grace_seconds: float = Field(
        30.0,
        allow_inf_nan=False,
        ge=0,
        description="how long calls on a connection that is too old may still take",
    )
    drain_seconds: float = Field(
        20.0, allow_inf_nan=False, ge=0, description="how long work in flight may take after SIGTERM"
    )
    log_format: Literal["human", "json"] = Field("human", description="how log lines look")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="least severe log lines written"
    )
    traces: str = Field(
        "", description="OTLP endpoint (gRPC) that gets a span of each call, http://HOST:4317; empty: none"
    )

    @property
    def thread_count(self) -> int:
        """`threads`, or what 0 stands for on this machine."""
        return self.threads or min(usable_cores(), DEFAULT_THREADS)

    @model_validator(mode="after")
    def _check_pairs(self) -> Settings:
        if self.idle_ttl_seconds > self.idle_ttl_limit_seconds:
            raise ValueError(
                f"idle_ttl_seconds: got {self.idle_ttl_seconds}, expected at most "
                f"idle_ttl_limit_seconds, {self.idle_ttl_limit_seconds}"
            )
        if self.durability is not Durability.NONE and not self.store:
            raise ValueError(
                f"durability: got {self.durability}, which needs a store; expected none or a store"
            )
        self._check_security()
        if self.max_inputs_per_request > self.max_pending_steps:
            raise ValueError(
                f"max_inputs_per_request: got {self.max_inputs_per_request}, expected at most "
                f"max_pending_steps, {self.max_pending_steps}: a longer request would never start"
            )
        return self

    def _check_security(self) -> None:
        if (self.tls_cert is None) != (self.tls_key is None):
            given, lacking = ("tls_cert", "tls_key") if self.tls_key is None else ("tls_key", "tls_cert")
            raise ValueError(f"{lacking}: got nothing, expected it beside {given}")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise ValueError("tls_client_ca: got one, which needs tls_cert and tls_key")
        if self.tls_principal and self.tls_client_ca is None:
            raise ValueError("tls_principal: got True, which needs tls_client_ca")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        flags = init_settings.init_kwargs if isinstance(init_settings, InitSettingsSource) else {}
        path = flags.get("config") or os.environ.get(CONFIG_VARIABLE)
        if not path:
            return init_settings, env_settings
        if not Path(path).is_file():
            raise ConfigError(f"config: got {str(path)!r}, expected a TOML file")
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, Path(path))


def load_settings(**flags: Any) -> Settings:
    """Settings from flags, environment, file and defaults. Flags that are None count as not given.

    Raises ConfigError with one line a setting at fault: name, what came, what was expected.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        return Settings(**given)
    except ValidationError as error:
        raise ConfigError("\n".join(_describe(fault) for fault in error.errors())) from error
    except ValueError as error:  # a TOML file that does not parse
        raise ConfigError(f"config: {error}") from error


def _describe(fault: Any) -> str:
    name = ".".join(str(part) for part in fault["loc"])
    message = str(fault["msg"]).removeprefix("Value error, ")
    if not name or message.startswith(f"{name}: "):
        return message
    if fault["type"] == "extra_forbidden":
        return f"{name}: there is no such setting"
    return f"{name}: got {fault['input']!r}. {message}"
