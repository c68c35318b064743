"""Mistakes of those who use groups: told at once or by the server, and nothing is applied."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from keepgate_client import (
    Client,
    InvalidArgumentError,
    MessageTooLargeError,
    Session,
)
from support.groups import VOCABULARY
from support.proxy import Proxy
from support.servers import ServerProcess

WRONG: list[Any] = [
    pytest.param({"tokens": [1, 2]}, ValueError, "tokens", id="length"),
    pytest.param({"tokens": np.zeros(3, np.float32)}, ValueError, "float32", id="dtype"),
    pytest.param({"tokens": [1, -1, 1]}, ValueError, r"tokens\[1\]: got -1", id="negative"),
    pytest.param({"tokens": [1, 1, 1 << 32]}, ValueError, r"tokens\[2\]", id="too large"),
    pytest.param({"tokens": [[1, 1, 1]]}, ValueError, "tokens", id="dimensions"),
    pytest.param({}, TypeError, "exactly one", id="nothing"),
    pytest.param({"tokens": [1, 1, 1], "features": np.zeros((3, 3))}, TypeError, "exactly one", id="both"),
    pytest.param({"features": np.zeros(3)}, ValueError, "features", id="features' dimensions"),
    pytest.param({"features": [["a"], ["b"], ["c"]]}, ValueError, "features", id="no numbers"),
    pytest.param({"tokens": [1, 1], "rows": [0, 3]}, ValueError, r"rows\[1\]: got 3", id="row"),
    pytest.param({"tokens": [1, 1], "rows": [-1, 2]}, ValueError, r"rows\[0\]: got -1", id="negative row"),
    pytest.param({"tokens": [1, 1], "rows": [2, 2]}, ValueError, "2 twice", id="row twice"),
    pytest.param({"tokens": [1, 1], "rows": [True, True]}, ValueError, "rows: got bool", id="mask"),
    pytest.param({"tokens": [], "rows": []}, ValueError, "at least one", id="no rows"),
]


@pytest.mark.parametrize(("arguments", "kind", "match"), WRONG)
def test_wrong_frames_are_not_sent(
    client: Client, sessions: list[Session], arguments: dict[str, Any], kind: type[Exception], match: str
) -> None:
    with client.group(sessions[:3]) as group:
        with pytest.raises(kind, match=match):
            group.step(**arguments)
        assert group.step(tokens=[1, 1, 1]).result().errors == {}


def test_frames_that_the_model_does_not_take(client: Client, sessions: list[Session]) -> None:
    with client.group(sessions[:3]) as group:
        wrongs: list[tuple[dict[str, Any], str]] = [
            ({"tokens": [1, VOCABULARY, 1]}, "frame.tokens[1]"),
            ({"features": np.zeros((3, 3))}, "frame.features"),
        ]
        for wrong, place in wrongs:
            with pytest.raises(InvalidArgumentError) as caught:
                group.step(**wrong).result()
            assert [violation.field for violation in caught.value.violations] == [place]
        assert group.positions.tolist() == [0, 0, 0]
        assert group.step(tokens=[1, 1, 1]).result().errors == {}
    with client.open("vectors") as session, client.group([session]) as group:
        for features, place in (
            (np.zeros((1, 4)), "frame.features"),
            ([[0, 0, np.nan]], "frame.features[0][2]"),
        ):
            with pytest.raises(InvalidArgumentError) as caught:
                group.step(features=features).result()
            assert [violation.field for violation in caught.value.violations] == [place]


def test_a_row_is_in_one_frame_at_a_time(proxy: Proxy, sessions: list[Session]) -> None:
    with Client(proxy.address) as client, client.group([s.session_id for s in sessions[:3]]) as group:
        proxy.delay = 0.3
        first = group.step(tokens=[1], rows=[1])
        for rows in (None, [2, 1]):
            with pytest.raises(ValueError, match="row 1 is in a frame under way"):
                group.step(tokens=[1] * len(rows or sessions[:3]), rows=rows)
        assert group.step(tokens=[1, 1], rows=[2, 0]).result().errors == {}
        first.result()
        assert group.step(tokens=[1, 1, 1]).result().errors == {}
        assert group.positions.tolist() == [2, 2, 2]


def test_wrong_groups(client: Client, sessions: list[Session]) -> None:
    with client.open("ids") as another:
        wrongs: list[tuple[list[Session | str], str]] = [
            ([], "at least one"),
            ([sessions[0], sessions[1], sessions[0].session_id], r"sessions\[2\].*again"),
            ([sessions[0], another], "one model version"),
        ]
        for wrong, match in wrongs:
            with pytest.raises(ValueError, match=match):
                client.group(wrong)
    for seeds in ([1], [-1, 0], [0.5, 1], [1 << 64, 0]):
        with pytest.raises(ValueError, match="seeds"):
            client.group(sessions[:2], seeds=seeds)
    with pytest.raises(InvalidArgumentError) as caught, client.group(sessions[:2], temperature=-1.0):
        pass
    assert [violation.field for violation in caught.value.violations] == ["bind.sampling.temperature"]
    with client.group(sessions[:2], seeds=[(1 << 64) - 1, 0], temperature=1) as group:
        token = group.step(tokens=[1, 1]).result().tokens
        assert token is not None
        with client.open("letters") as twin:
            assert twin.step(tokens=1, temperature=1, seed=(1 << 64) - 1).token == token[0]


def test_a_group_that_is_too_large_for_a_message(start_server: Callable[..., ServerProcess]) -> None:
    limited = start_server(max_message_bytes=1_024)
    with (
        Client(limited.address) as client,
        pytest.raises(MessageTooLargeError),
        client.group([f"a-session-that-need-not-be-there-{row}" for row in range(100)]),
    ):
        pass
