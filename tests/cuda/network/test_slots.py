"""States on the device: what is written is read, slots are cleared, copied and shared as on the CPU."""

from __future__ import annotations

import numpy as np
import pytest
from keepgate_kernels import PRECISIONS, Lanes, Network, Sampling
from support.cuda_runs import cuda_network
from support.random_models import random_inputs, random_tensors, token_spec

SPEC = token_spec("lstm", hidden=(7, 5), projection=3)


def stepped(network: Network, slot: int) -> bytes:
    """The state after one input, whatever it was."""
    lanes = Lanes(network.spec)
    lanes.add(slot, random_inputs(network.spec, (1,)), position=1, sampling=Sampling(), predict=False)
    network.step(lanes)
    return network.slots.read(slot)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_states_go_in_and_out(precision: str) -> None:
    network = cuda_network(SPEC, random_tensors(SPEC), slots=3, precision=precision)
    slots = network.slots
    first, second, third = (slots.allocate() or 0 for _ in range(3))
    assert slots.allocate() is None
    zero = slots.read(first)
    assert zero == bytes(SPEC.state_bytes)
    after = stepped(network, first)
    twice = stepped(network, first)
    assert after != twice
    slots.write(second, after)
    assert slots.read(second) == after
    assert stepped(network, second) == twice
    assert slots.read_many(np.array([third, second, first])) == [zero, twice, twice]
    assert slots.read_many(np.array([], np.int64)) == []
    with pytest.raises(ValueError, match=f"got 3 bytes, expected {SPEC.state_bytes}"):
        slots.write(second, b"abc")
    assert slots.release(first)
    again = slots.allocate()
    assert again == first
    assert slots.read(first) == zero
    assert stepped(network, first) == after


def test_a_shared_slot_is_separated_with_a_copy() -> None:
    network = cuda_network(SPEC, random_tensors(SPEC), slots=2, precision="int8")
    slots = network.slots
    slot = slots.allocate()
    assert slot is not None
    after = stepped(network, slot)
    slots.share(slot)
    own = slots.separate(slot)
    assert own is not None
    assert not slots.is_shared(slot)
    assert slots.read(own) == slots.read(slot) == after
    assert stepped(network, own) == stepped(network, slot)


def test_compile_leaves_the_slots_as_they_were() -> None:
    network = cuda_network(SPEC, random_tensors(SPEC), slots=1)
    assert network.compile() > 0
    assert network.slots.free == 1
    assert network.weight_bytes > 0
    slot = network.slots.allocate()
    assert slot is not None
    assert not any(h.any() for h in network.hidden(slot))


def test_more_states_than_are_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keepgate_kernels.cuda.slots.MOST_AT_ONCE", 2)
    network = cuda_network(SPEC, random_tensors(SPEC), slots=5, precision="fp32")
    slots = [network.slots.allocate() or 0 for _ in range(5)]
    states = [np.full(SPEC.state_bytes // 4, slot + 1, "<f4").tobytes() for slot in slots]
    for slot, state in zip(slots, states, strict=True):
        network.slots.write(slot, state)
    assert network.slots.read_many(np.array(slots[::-1])) == states[::-1]
