"""What only a device is fast enough for: real sizes and batches, replayed ticks, the sanitizer's checks."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from keepgate_kernels import PRECISIONS, CellKind, Lanes, Sampling
from keepgate_kernels.cuda.network import CudaNetwork
from support.cuda_runs import check, cuda_network
from support.random_models import random_inputs, random_tensors, token_spec


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", CellKind)
@pytest.mark.parametrize("hidden", [127, 512])
def test_real_sizes(kind: CellKind, hidden: int, precision: str) -> None:
    spec = token_spec(kind, vocabulary=78, hidden=(hidden, hidden))
    check(spec, random_inputs(spec, (64, 3)), precision)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", CellKind)
def test_batches_of_1_7_64_and_1000(kind: CellKind, precision: str) -> None:
    """The same bits in each, tick after tick, so that replayed graphs are among them."""
    spec = token_spec(kind, vocabulary=23, hidden=(100,))
    network = cuda_network(spec, random_tensors(spec), slots=1000, precision=precision)
    tokens = random_inputs(spec, (1000, 4))
    expected = None
    for batch in (1000, 64, 7, 1):
        lanes = Lanes(spec)
        states, drawn = [], []
        for first in range(0, 1000 if batch > 1 else 50, batch):
            slots = [network.slots.allocate() or 0 for _ in range(min(batch, 1000 - first))]
            for turn in range(4):
                lanes.clear()
                for lane, slot in enumerate(slots):
                    sampling = Sampling(temperature=1.0, top_p=0.9, seed=first + lane)
                    given = tokens[first + lane, turn : turn + 1]
                    lanes.add(slot, given, position=turn + 1, sampling=sampling)
                network.step(lanes)
            drawn += lanes.tokens.tolist()
            states += network.slots.read_many(np.array(slots))
            for slot in slots:
                network.slots.release(slot)
        if expected is None:
            expected = states, drawn
        assert states == expected[0][: len(states)]
        assert drawn == expected[1][: len(drawn)]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", ["lstm", "gru", "cifg", "rnn_tanh"])
def test_long_sequences_have_the_bits_of_steps(kind: str, precision: str) -> None:
    spec = token_spec(kind, vocabulary=23, hidden=(256, 100))
    network = cuda_network(spec, random_tensors(spec), slots=17, precision=precision)
    assert isinstance(network.backend, CudaNetwork)
    assert network.backend._sequence is not None
    tokens = random_inputs(spec, (16, 300))
    lanes = Lanes(spec)
    for sequence in tokens:
        slot = network.slots.allocate()
        assert slot is not None
        lanes.add(slot, sequence, position=300, sampling=Sampling())
    network.step(lanes)
    slot = network.slots.allocate()
    assert slot == 16
    for position in range(300):
        lanes.clear()
        lanes.add(slot, tokens[5, position : position + 1], position=position + 1, sampling=Sampling())
        network.step(lanes)
    assert network.slots.read(16) == network.slots.read(5)


SMALL_RUN = """
from keepgate_kernels import Lanes, Sampling
from keepgate_kernels.cuda.choice import fits
from keepgate_kernels.cuda.launch import limits
from keepgate_kernels.cuda.tiles import SHAPES
from support.cuda_runs import cuda_network
from support.random_models import random_inputs, random_tensors, token_spec
for precision in ("fp32", "bf16", "int8"):
    for kind in ("lstm", "gru", "rnn_relu", "gru_reset_before"):
        spec = token_spec(kind, vocabulary=1025 if kind == "gru" else 11, hidden=(40, 9))
        network, lanes = cuda_network(spec, random_tensors(spec), slots=20, precision=precision), Lanes(spec)
        for sequence in random_inputs(spec, (20, 9)):
            slot = network.slots.allocate()
            lanes.add(slot, sequence, position=9, sampling=Sampling(1.0, 9, 0.9), top_k=3, score=True)
        network.step(lanes)
        for shape in SHAPES:
            if not all(fits(shape, gates, limits()) for gates in (1, 3, 4)):
                continue
            network.backend.shape = shape
            lanes.clear()
            for slot in range(20):
                lanes.add(slot, random_inputs(spec, (1,)), position=10, sampling=Sampling())
            network.step(lanes)
        network.backend.shape = None
        lanes.clear()
        for slot in range(3):  # in one launch a layer, where that can be
            lanes.add(slot, random_inputs(spec, (9,)), position=18, sampling=Sampling(), logits=True)
        network.step(lanes)
        network.slots.read(0)
"""


def sanitizer() -> list[str]:
    """The CUDA toolkit's, if there is one, or that which `make test-cuda` installs."""
    found = shutil.which("compute-sanitizer")
    if found:
        return [found]
    package = importlib.util.find_spec("nvidia.cuda_sanitizer_api")
    assert package is not None
    assert package.submodule_search_locations
    folder = Path(package.submodule_search_locations[0])
    program = folder / "bin" / "compute-sanitizer"
    program.chmod(0o755)  # as it is not in the wheel
    return [str(program), "--injection-path", str(folder / "lib")]


@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "synccheck"])
def test_the_sanitizer_finds_nothing(tool: str) -> None:
    # What the driver's own libraries ask it in vain, as cuda-python does at start, is no kernel's fault.
    options = ["--tool", tool, "--error-exitcode", "9", "--report-api-errors", "no"]
    command = [*sanitizer(), *options, sys.executable, "-c", SMALL_RUN]
    result = subprocess.run(command, cwd="tests", capture_output=True, text=True, timeout=900, check=False)
    if "Device not supported" in result.stdout:
        pytest.skip("the driver here, or what virtualises it, refuses compute-sanitizer")
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]
