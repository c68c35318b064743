"""What was compiled for a device is kept on disk."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROBE = """
import numpy as np
from keepgate_kernels import Network
from keepgate_kernels.cuda.catalogue import entries
from keepgate_kernels.cuda.launch import Queue
from support.random_models import feature_spec, random_tensors

spec = feature_spec()
slots = Network(spec, random_tensors(spec), device="cuda", slots=1, precision="bf16").slots
slot = slots.allocate()
state = np.linspace(-1, 1, spec.state_bytes // 4, dtype="<f4").tobytes()
slots.write(slot, state)
assert slots.read(slot) == state
kernels = [Queue().load(entry).kernel for entry in entries() if entry.name in ("write_bf16", "read")]
for kernel in kernels:
    print(sum(kernel.stats.cache_misses.values()), sum(kernel.stats.cache_hits.values()))
"""


def probe(cache: Path) -> list[str]:
    """What the kernels compiled, and what they found, in a process of its own."""
    environment = os.environ | {"KEEPGATE_KERNEL_CACHE": str(cache)}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    command = [sys.executable, "-c", PROBE]
    return subprocess.check_output(command, env=environment, text=True, timeout=300).splitlines()


def test_a_second_process_compiles_nothing(tmp_path: Path) -> None:
    assert probe(tmp_path) == ["1 0", "1 0"]
    (folder,) = tmp_path.iterdir()
    files = {path.name.split("-")[0] for path in folder.glob("rows.*")}
    assert files == {"rows.write_bf16", "rows.read"}
    assert probe(tmp_path) == ["0 1", "0 1"]
