"""Loading weights, slots, and the cache of compiled kernels."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

import keepgate_kernels
import numpy as np
import pytest
from keepgate_kernels import PRECISIONS, CellKind, Network, WeightsError, cpu_info
from keepgate_kernels.cpu.slots import CpuSlots
from keepgate_kernels.weights import fingerprint
from support.random_models import feature_spec, random_tensors, token_spec


def test_exported_names() -> None:
    assert sorted(keepgate_kernels.__all__) == [
        "CategoricalHead", "CellKind", "CellSpec", "CharacterTokenizer", "FeatureInput", "Lanes", "LayerSpec",
        "LinearHead", "ModelSpec", "Network", "PRECISIONS", "Sampling", "SpecError", "TokenInput",
        "WeightsError", "check_device", "cpu_info", "packed_bytes", "sample", "top_tokens",
    ]  # fmt: skip
    assert all(hasattr(keepgate_kernels, name) for name in keepgate_kernels.__all__)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda t: t.pop("head.bias"), r"head\.bias: missing, expected float32 \[11\]"),
        (lambda t: t.update(extra=t["head.bias"]), "extra: not expected"),
        (
            lambda t: t.update({"head.bias": t["head.bias"].astype(np.float64)}),
            r"head\.bias: got float64 \[11\], expected float32 \[11\]",
        ),
        (lambda t: t.update({"head.weight": t["head.weight"].T}), r"got float32 \[8, 11\]"),
        (lambda t: t["layers.0.bias_ih"].__setitem__(3, np.nan), "layers.0.bias_ih: holds NaN"),
    ],
)
def test_weights_that_do_not_fit(change, text: str) -> None:  # type: ignore[no-untyped-def]
    spec = token_spec()
    tensors = random_tensors(spec)
    change(tensors)
    with pytest.raises(WeightsError, match=text):
        Network(spec, tensors, slots=1)


def test_fingerprint_tells_weights_and_specs_apart() -> None:
    spec = token_spec()
    tensors = random_tensors(spec)
    first = fingerprint(spec, tensors)
    assert first == fingerprint(spec, {name: t.copy() for name, t in reversed(tensors.items())})
    tensors["head.bias"][0] = np.nextafter(tensors["head.bias"][0], np.float32(9))
    assert fingerprint(spec, tensors) != first
    assert fingerprint(token_spec(cell_clip=1.0), random_tensors(spec)) != first


def test_slots_come_back_zeroed() -> None:
    spec = token_spec(hidden=(8, 3))
    slots = CpuSlots(spec, 3)
    taken = [slots.allocate() for _ in range(3)]
    assert sorted(slot for slot in taken if slot is not None) == [0, 1, 2]
    assert slots.allocate() is None
    assert slots.free == 0
    slots.state.h[:] = 5.0
    slots.state.c[:] = 5.0
    slots.release(1)
    assert slots.free == 1
    assert slots.allocate() == 1
    assert not slots.state.h[:, 1].any()
    assert not slots.state.c[:, 1].any()
    assert slots.state.h[:, 0].all()


def test_flops_count_both_products_and_the_head() -> None:
    spec = feature_spec("lstm", size=16, outputs=5, hidden=(32,))
    network = Network(spec, random_tensors(spec), slots=1)
    assert network.flops_per_step == 2 * (4 * 32 * (16 + 32) + 5 * 32)
    assert network.weight_bytes >= 4 * spec.parameters


def test_compile_leaves_the_slots_as_they_were() -> None:
    spec = token_spec(CellKind.GRU)
    network = Network(spec, random_tensors(spec), slots=1)
    assert network.compile() > 0
    assert network.slots.free == 1
    slot = network.slots.allocate()
    assert slot is not None
    assert not network.hidden(slot)[0].any()


def test_cpu_info_names_the_rung() -> None:
    info = cpu_info()
    assert info["rung"] in info["runs"].split(", ")
    assert all(info[f"{precision}_kernel"] for precision in PRECISIONS)
    assert info["processor"]


CACHE_PROBE = """
from keepgate_kernels import jit
print(jit.cache_directory())
from keepgate_kernels.sampling import _list_one, top_tokens
import numpy as np
top_tokens(np.zeros(3, np.float32), 2)
print(sum(_list_one.stats.cache_hits.values()))
"""


PR_CAPBSET_DROP, CAP_DAC_OVERRIDE = 24, 1


def obey_permissions() -> None:
    """Make root's child process obey permission bits; any other user's does so anyway."""
    ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE)


def probe_cache(cache: Path) -> list[str]:
    environment = os.environ | {"KEEPGATE_KERNEL_CACHE": str(cache)}
    result = subprocess.run(
        [sys.executable, "-c", CACHE_PROBE],
        env=environment,
        preexec_fn=obey_permissions,
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    return result.stdout.split()


def test_compiled_kernels_are_kept(tmp_path: Path) -> None:
    folder, hits = probe_cache(tmp_path)
    assert Path(folder).parent == tmp_path
    assert hits == "0"
    assert probe_cache(tmp_path) == [folder, "1"]


def test_the_cache_is_that_of_these_sources(tmp_path: Path) -> None:
    """A change for another device leaves the CPU's kernels as they are, and not those of that device."""
    package = tmp_path / "keepgate_kernels"
    shutil.copytree(
        Path(keepgate_kernels.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__")
    )
    probe = "from keepgate_kernels import jit; print(jit.source_digest(), jit.device_digest())"
    digests = []
    for source in ("", "cuda/step.py", "cpu/step.py", "sampling.py"):
        if source:
            (package / source).write_text((package / source).read_text() + "\n# more\n")
        answer = subprocess.check_output([sys.executable, "-c", probe], cwd=tmp_path, timeout=60)
        digests.append(answer.split())
    of_cpu, of_device = zip(*digests, strict=True)
    assert of_cpu[0] == of_cpu[1]
    assert len(set(of_cpu)) == 3
    assert of_device[0] != of_device[1]


def test_a_cache_that_cannot_be_written_is_still_read(tmp_path: Path) -> None:
    folder = Path(probe_cache(tmp_path)[0])
    folder.chmod(0o555)
    substitute, hits = probe_cache(tmp_path)
    assert substitute != str(folder)
    assert hits == "1"
    assert not Path(substitute).exists()
