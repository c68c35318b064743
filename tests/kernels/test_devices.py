"""Asking for a device that is not here, from an installation without numba-cuda."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest
from keepgate_kernels import Network
from keepgate_kernels.errors import DeviceMissingError
from support.random_models import random_tensors, token_spec

WITHOUT = importlib.util.find_spec("numba_cuda") is None


@pytest.mark.skipif(not WITHOUT, reason="numba-cuda is installed here")
def test_cuda_without_numba_cuda() -> None:
    spec = token_spec()
    with pytest.raises(
        DeviceMissingError, match=r"install keepgate\[cuda\] or keepgate-kernels\[cuda\]"
    ) as caught:
        Network(spec, random_tensors(spec), slots=1, device="cuda")
    assert caught.value.reason == "not installed"


def test_an_unknown_device_is_refused() -> None:
    spec = token_spec()
    with pytest.raises(ValueError, match="device: got 'tpu', expected one of cpu, cuda"):
        Network(spec, random_tensors(spec), slots=1, device="tpu")


def test_nothing_imports_the_backend_unasked() -> None:
    code = (
        "import keepgate_kernels, sys;"
        "print([name for name in sys.modules if name.startswith(('keepgate_kernels.cuda', 'numba_cuda'))])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300
    )
    assert result.stdout.strip() == "[]"
