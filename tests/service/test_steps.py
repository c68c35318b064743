"""Steps, scores and the bookkeeping of sessions, over a socket."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf.duration_pb2 import Duration
from keepgate.models.format import load_model
from keepgate_kernels import Lanes, Network, Sampling
from keepgate_protos.v1 import models_pb2
from keepgate_protos.v1 import sequences_pb2 as pb
from support.random_models import random_inputs
from support.repositories import ALPHABET
from support.servers import ServerProcess
from support.wire import Wire, connect, failure, inputs, step

EVERYTHING = pb.Outputs(top_k=3, logits=True, hidden=True)


def in_process(repository: Path, model: str, version: int, values: Any) -> pb.Prediction:
    """What the kernels say after `values`, without a server."""
    file = load_model(repository / model / str(version) / "model.safetensors")
    network, lanes = Network(file.spec, file.tensors, slots=1), Lanes(file.spec)
    slot = network.slots.allocate()
    assert slot is not None
    lanes.add(slot, values, position=len(values), sampling=Sampling(), logits=model != "vectors")
    network.step(lanes)
    hidden = [pb.Hidden(values=layer) for layer in network.hidden(slot)]
    if model == "vectors":
        return pb.Prediction(outputs=lanes.outputs(0), hidden=hidden)
    return pb.Prediction(
        token=lanes.token(0), log_probability=lanes.log_probability(0), logits=lanes.logits(0), hidden=hidden
    )


@pytest.mark.parametrize(("model", "version"), [("letters", 1), ("letters", 2), ("ids", 1), ("vectors", 1)])
def test_the_server_says_what_the_kernels_say(wire: Wire, repository: Path, model: str, version: int) -> None:
    file = load_model(repository / model / str(version) / "model.safetensors")
    values = random_inputs(file.spec, (100,))
    expected = in_process(repository, model, version, values)
    session = wire.open(model, version=str(version))
    outputs = pb.Outputs(hidden=True, logits=model != "vectors")
    reply = wire.step(session, values.ravel().tolist(), 0, outputs=outputs)
    reply.prediction.text = ""
    assert reply == pb.StepResponse(position=100, prediction=expected)


def test_parts_of_a_prediction(wire: Wire) -> None:
    prediction = wire.step(wire.open(), "hello", outputs=EVERYTHING).prediction
    logits = np.array(prediction.logits, np.float64)
    log_probabilities = logits - np.log(np.exp(logits).sum())
    order = np.argsort(-log_probabilities, kind="stable")
    assert prediction.token == order[0]
    assert prediction.text == ALPHABET[order[0]]
    assert prediction.log_probability == pytest.approx(log_probabilities[order[0]], abs=1e-5)
    assert [entry.token for entry in prediction.top] == order[:3].tolist()
    assert [entry.text for entry in prediction.top] == [ALPHABET[token] for token in order[:3]]
    assert [entry.log_probability for entry in prediction.top] == pytest.approx(
        log_probabilities[order[:3]], abs=1e-5
    )
    assert [len(layer.values) for layer in prediction.hidden] == [16, 12]


def test_only_what_was_asked_for_is_sent(wire: Wire) -> None:
    prediction = wire.step(wire.open(), "hello").prediction
    assert not prediction.top
    assert not prediction.logits
    assert not prediction.hidden
    assert not prediction.outputs
    prediction = wire.step(wire.open("vectors"), [0.5, 1.0, 1.5]).prediction
    assert not prediction.HasField("token")
    assert len(prediction.outputs) == 2


def test_text_is_its_tokens(wire: Wire) -> None:
    first, second = wire.open(), wire.open()
    text = "the cat, the mat.\n"
    one = wire.step(first, text, outputs=EVERYTHING)
    assert wire.step(second, [ALPHABET.index(letter) for letter in text], outputs=EVERYTHING) == one
    # and so the one is a retry of the other
    assert wire.step(first, [ALPHABET.index(letter) for letter in text], 0, outputs=EVERYTHING).replayed


def test_a_prompt_is_its_tokens_one_by_one(wire: Wire) -> None:
    text = "a prompt that takes several turns, for it is longer than one of them is. and then some more of it"
    whole, single = wire.open(), wire.open()
    at_once = wire.step(whole, text, outputs=EVERYTHING)
    for index, letter in enumerate(text):
        one_by_one = wire.step(single, letter, index, outputs=EVERYTHING)
    assert at_once == one_by_one


def test_a_step_sent_a_thousand_times_is_applied_once(wire: Wire) -> None:
    session, other = wire.open(), wire.open()
    wire.step(session, "once", 0)
    first = wire.step(session, "x", 4, outputs=EVERYTHING)
    assert not first.replayed
    again = pb.StepResponse()
    again.CopyFrom(first)
    again.replayed = True
    request = step(session, "x", 4, outputs=EVERYTHING)
    calls = [wire.sequences.Step.future(request) for _ in range(1_000)]
    assert all(call.result() == again for call in calls)
    assert wire.position(session) == 5
    # The state is that of a session that got it once.
    wire.step(other, "oncex", 0)
    assert wire.step(session, "y", 5, outputs=EVERYTHING) == wire.step(other, "y", 5, outputs=EVERYTHING)


def test_retries_that_overtake_the_answer_are_applied_once(wire: Wire) -> None:
    session = wire.open()
    request = step(session, "a long text that takes a while " * 100, 0)
    calls = [wire.sequences.Step.future(request) for _ in range(50)]
    replies = [call.result() for call in calls]
    assert sum(not reply.replayed for reply in replies) == 1
    assert len({reply.prediction.log_probability for reply in replies}) == 1
    assert wire.position(session) == 3_100


def test_a_step_without_position_is_applied_each_time(wire: Wire) -> None:
    session = wire.open()
    assert [wire.step(session, "ab").position for _ in range(3)] == [2, 4, 6]
    assert not wire.step(session, "ab").replayed


def test_sessions_do_not_disturb_each_other(wire: Wire) -> None:
    text = "each session has its own state."
    alone = wire.open()
    expected = [wire.step(alone, letter, outputs=EVERYTHING) for letter in text]
    crowd = [wire.open() for _ in range(40)]
    among = wire.open()
    calls = []
    for index, letter in enumerate(text):
        calls += [
            wire.sequences.Step.future(step(session, [(index * number) % 30]))
            for number, session in enumerate(crowd)
        ]
        assert wire.step(among, letter, outputs=EVERYTHING) == expected[index]
    for call in calls:
        call.result()


def test_scores_are_the_log_probabilities_of_the_tokens(wire: Wire) -> None:
    text = "a text that is scored, in more than one turn of the engine."
    session, other = wire.open(), wire.open()
    expected = []
    for index, letter in enumerate(text):
        logits = np.array(
            wire.step(session, letter, outputs=pb.Outputs(logits=True)).prediction.logits, np.float64
        )
        if index + 1 < len(text):
            normal = logits - np.log(np.exp(logits).sum())
            expected.append(normal[ALPHABET.index(text[index + 1])])
    reply = wire.score(other, text, 0, per_token=True)
    assert (reply.scored, reply.position, reply.replayed) == (len(text) - 1, len(text), False)
    assert reply.log_probabilities == pytest.approx(expected, abs=1e-5)
    assert reply.log_likelihood == pytest.approx(math.fsum(reply.log_probabilities), abs=1e-9)
    # Both sessions read the same text, so they agree on what follows.
    assert wire.step(session, "x", outputs=EVERYTHING) == wire.step(other, "x", outputs=EVERYTHING)


def test_scores_of_parts_add_up(wire: Wire) -> None:
    whole, parts = wire.open(), wire.open()
    text = "one half of it and the other half of it"
    reply = wire.score(whole, text, per_token=True)
    first = wire.score(parts, text[:20], 0, per_token=True)
    second = wire.score(parts, text[20:], 20, per_token=True)
    assert (first.scored, second.scored) == (19, 19)
    assert [*first.log_probabilities, *second.log_probabilities] == list(reply.log_probabilities)


def test_a_score_is_applied_once(wire: Wire) -> None:
    session = wire.open()
    first = wire.score(session, "abc", 0)
    assert not first.log_probabilities
    again = wire.score(session, "abc", 0)
    assert again.replayed
    assert (again.log_likelihood, again.scored, again.position) == (first.log_likelihood, 2, 3)
    assert list(wire.score(session, "abc", 0, per_token=True).log_probabilities)
    assert wire.position(session) == 3
    assert failure(lambda: wire.score(session, "abd", 0)).reason == "STEP_MISMATCH"


def test_a_single_first_token_scores_nothing(wire: Wire) -> None:
    reply = wire.score(wire.open(), "a", 0, per_token=True)
    assert (reply.log_likelihood, reply.scored, list(reply.log_probabilities)) == (0.0, 0, [])


def test_scoring_on_a_model_keeps_nothing(start_server: Callable[..., ServerProcess]) -> None:
    with connect(start_server(max_sessions=1).address) as wire:
        request = pb.ScoreRequest(
            model=pb.ModelReference(name="letters", version="1"), inputs=inputs("the text"), per_token=True
        )
        replies = [wire.sequences.Score(request) for _ in range(20)]
        assert all(reply == replies[0] for reply in replies)
        assert wire.sequences.List(pb.ListRequest()).total == 0
        assert wire.score(wire.open(version="1"), "the text", per_token=True) == replies[0]


def test_the_life_of_a_session(wire: Wire) -> None:
    opened = wire.sequences.Open(
        pb.OpenRequest(model="letters", version="1", session_id="My.session~1", idle_ttl=Duration(seconds=90))
    ).session
    assert (opened.session_id, opened.model, opened.version) == ("My.session~1", "letters", "1")
    assert (opened.position, opened.idle_ttl.seconds) == (0, 90)
    wire.step("My.session~1", "abc")
    described = wire.sequences.Describe(pb.DescribeRequest(session_id="My.session~1")).session
    assert described.position == 3
    assert described.last_used.ToNanoseconds() >= opened.created.ToNanoseconds()
    assert abs(described.created.ToNanoseconds() - opened.created.ToNanoseconds()) < 1e9
    assert wire.close("My.session~1") == 3
    assert wire.open(session_id="My.session~1") == "My.session~1"
    assert wire.position("My.session~1") == 0
    wire.close("My.session~1")


def test_ids_chosen_by_the_server_are_128_random_bits(wire: Wire) -> None:
    ids = {wire.open() for _ in range(20)}
    assert len(ids) == 20
    assert all(re.fullmatch("[0-9a-f]{32}", session) for session in ids)


def test_listing_sessions(start_server: Callable[..., ServerProcess]) -> None:
    with connect(start_server().address) as wire:
        ids = [wire.open("letters" if index % 3 else "ids") for index in range(20)]
        seen: list[str] = []
        token = ""
        while True:
            page = wire.sequences.List(pb.ListRequest(page_size=7, page_token=token))
            assert page.total == 20
            assert len(page.sessions) <= 7
            seen += [session.session_id for session in page.sessions]
            token = page.next_page_token
            if not token:
                break
        assert seen == ids
        letters = wire.sequences.List(pb.ListRequest(model="letters"))
        assert [session.session_id for session in letters.sessions] == [
            session for index, session in enumerate(ids) if index % 3
        ]
        assert letters.total == 13
        assert wire.sequences.List(pb.ListRequest(model="none")) == pb.ListResponse()


def test_models(wire: Wire, repository: Path) -> None:
    models = wire.models.List(models_pb2.ListModelsRequest()).models
    assert [(model.name, model.version) for model in models] == [
        ("ids", "1"),
        ("letters", "1"),
        ("letters", "2"),
        ("vectors", "1"),
    ]
    ids, letters, newest, vectors = models
    assert letters.token_input.vocabulary_size == letters.categorical_head.size == 30
    assert (letters.token_input.tokenizer, "".join(letters.token_input.vocabulary)) == (
        "characters",
        ALPHABET,
    )
    assert (ids.token_input.tokenizer, list(ids.token_input.vocabulary)) == ("", [])
    assert [(layer.cell, layer.hidden_size) for layer in newest.layers] == [("gru", 16), ("gru", 12)]
    assert (vectors.feature_input.size, vectors.linear_head.size) == (3, 2)
    file = load_model(repository / "letters" / "1" / "model.safetensors")
    assert letters.file_bytes == file.file_bytes
    assert letters.parameters == sum(tensor.size for tensor in file.tensors.values())
    assert letters.state_bytes == 2 * 16 * 4
    assert letters.precision == "fp32"
    assert re.fullmatch("[0-9a-f]{64}", letters.fingerprint)
    assert (letters.description, letters.licence) == ("random weights", "CC0-1.0")


def test_models_count_their_sessions(start_server: Callable[..., ServerProcess]) -> None:
    with connect(start_server().address) as wire:
        session = wire.open(version="1")
        wire.open(version="1")
        wire.open()
        wire.close(session)
        models = wire.models.List(models_pb2.ListModelsRequest()).models
        assert [model.sessions for model in models] == [0, 1, 1, 0]
        described = wire.models.Describe(models_pb2.DescribeModelRequest(name="letters")).model
        assert (described.version, described.sessions) == ("2", 1)
