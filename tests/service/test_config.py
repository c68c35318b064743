"""Settings: flag over environment over file over default, and errors that name the setting."""

from __future__ import annotations

from pathlib import Path

import pytest
from keepgate.config import Settings, load_settings
from keepgate.errors import ConfigError


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"KEEPGATE_{name.upper()}", raising=False)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keepgate.toml"
    path.write_text('port = 1000\nmax_batch = 7\nhost = "::1"\n')
    return path


def test_defaults() -> None:
    settings = load_settings()
    assert (settings.host, settings.port, settings.slots) == ("127.0.0.1", 8001, 10_000)
    assert settings.max_message_bytes == 4 * 1024 * 1024


def test_flag_over_environment_over_file_over_default(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEEPGATE_CONFIG", str(file))
    monkeypatch.setenv("KEEPGATE_PORT", "2000")
    monkeypatch.setenv("KEEPGATE_HOST", "0.0.0.0")  # noqa: S104
    settings = load_settings(port=3000, log_level=None)
    assert settings.port == 3000
    assert settings.host == "0.0.0.0"  # noqa: S104
    assert settings.max_batch == 7
    assert settings.log_level == "info"


def test_file_by_flag(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEEPGATE_CONFIG", "/nowhere")
    assert load_settings(config=file).port == 1000


@pytest.mark.parametrize(
    ("flags", "fault"),
    [
        ({"port": 70_000}, "port: got 70000. Input should be less than or equal to 65535"),
        ({"port": "http"}, "port: got 'http'. Input should be a valid integer"),
        ({"log_format": "xml"}, "log_format: got 'xml'. Input should be 'human' or 'json'"),
        ({"max_sessions": 0}, "max_sessions: got 0"),
        ({"max_sesions": 5}, "max_sesions: there is no such setting"),
        (
            {"idle_ttl_seconds": 20, "idle_ttl_limit_seconds": 10},
            "idle_ttl_seconds: got 20.0, expected at most",
        ),
        ({"max_inputs_per_request": 20, "max_pending_steps": 10}, "max_inputs_per_request: got 20"),
        ({"idle_ttl_seconds": "nan"}, "idle_ttl_seconds: got 'nan'"),
        ({"drain_seconds": "inf"}, "drain_seconds: got 'inf'"),
    ],
)
def test_errors_name_the_setting(flags: dict[str, object], fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(**flags)
    assert fault in str(caught.value)


def test_all_faults_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEEPGATE_MAX_BATCH", "many")
    with pytest.raises(ConfigError) as caught:
        load_settings(port=-1)
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("text", "fault"),
    [("port = ", "config:"), ("prot = 5", "prot: there is no such setting"), ("port = 'x'", "port: got 'x'")],
)
def test_errors_in_a_file(tmp_path: Path, text: str, fault: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_settings(config=path)
    assert fault in str(caught.value)


def test_the_example_of_a_server_on_a_network() -> None:
    settings = load_settings(config=Path(__file__).parents[2] / "deploy" / "keepgate.toml")
    assert settings.tls_cert
    assert settings.tls_key
    assert settings.tokens_file


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match="config: got '/nowhere', expected a TOML file"):
        load_settings(config="/nowhere")


@pytest.mark.parametrize(
    ("flags", "fault"),
    [
        ({"tls_cert": "a.pem"}, "tls_key: got nothing, expected it beside tls_cert"),
        ({"tls_key": "a.key"}, "tls_cert: got nothing, expected it beside tls_key"),
        ({"tls_client_ca": "ca.pem"}, "tls_client_ca: got one, which needs tls_cert and tls_key"),
        (
            {"tls_cert": "a.pem", "tls_key": "a.key", "tls_principal": True},
            "tls_principal: got True, which needs tls_client_ca",
        ),
        ({"max_metadata_bytes": 10}, "max_metadata_bytes: got 10"),
    ],
)
def test_security_that_does_not_go_together(flags: dict[str, object], fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(**flags)
    assert fault in str(caught.value)
