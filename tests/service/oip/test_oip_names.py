"""Ids of sequences as ids of sessions."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from keepgate.directory import SESSION_ID_PATTERN
from keepgate.rpc.oip.names import session_id_of

MODELS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", fullmatch=True)
IDS = st.one_of(st.integers(-(1 << 63), (1 << 63) - 1), st.text(min_size=1))


@given(MODELS, IDS, MODELS, IDS)
def test_different_sequences_have_different_sessions(
    model: str, sequence: int | str, other: str, another: int | str
) -> None:
    first, second = session_id_of(model, sequence), session_id_of(other, another)
    assert SESSION_ID_PATTERN.fullmatch(first)
    assert (first == second) == ((model, type(sequence), sequence) == (other, type(another), another))


@given(st.integers(1, (1 << 63) - 1))
def test_a_number_is_not_its_digits(number: int) -> None:
    assert session_id_of("letters", number) != session_id_of("letters", str(number))
