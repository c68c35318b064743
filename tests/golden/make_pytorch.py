"""Make pytorch.npz: what PyTorch computes for small networks, in float64.

    pip install torch==2.13.0 && python tests/golden/make_pytorch.py

Networks: torch.nn.RNN (tanh, relu), LSTM, LSTM with projection, GRU: two layers, K = 5, H = 7, T = 11. The
coupled-gate LSTM, which PyTorch lacks, is written out with torch operations. For every one the file holds
`<name>/<canonical tensor>`, `<name>/x` [T, K], `<name>/h` [T, P] (last layer), and the final state.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

K, H, P, T, LAYERS = 5, 7, 3, 11, 2


def modules() -> dict[str, torch.nn.RNNBase]:
    """PyTorch's own recurrent networks, by the name of their cell."""
    options = {"num_layers": LAYERS, "dtype": torch.float64}
    return {
        "rnn_tanh": torch.nn.RNN(K, H, nonlinearity="tanh", **options),
        "rnn_relu": torch.nn.RNN(K, H, nonlinearity="relu", **options),
        "lstm": torch.nn.LSTM(K, H, **options),
        "lstm_projection": torch.nn.LSTM(K, H, proj_size=P, **options),
        "gru": torch.nn.GRU(K, H, **options),
    }


def record_module(arrays: dict[str, np.ndarray], name: str, module: torch.nn.RNNBase) -> None:
    """Run one module and store its weights under canonical names."""
    x = torch.randn(T, K, dtype=torch.float64)
    h, final = module(x)
    final_h, final_c = final if isinstance(final, tuple) else (final, torch.zeros(LAYERS, 0))
    for key, value in module.state_dict().items():
        kind, layer = key.rsplit("_l", 1)
        canonical = {"weight_hr": "weight_projection"}.get(kind, kind)
        arrays[f"{name}/layers.{layer}.{canonical}"] = value.numpy()
    store(arrays, name, x, h, final_h, final_c)


def record_cifg(arrays: dict[str, np.ndarray]) -> None:
    """The coupled-gate LSTM, one layer: f and o are sigmoids, c' = f c + (1 - f) tanh(g)."""
    weights = {
        "weight_ih": torch.randn(3 * H, K, dtype=torch.float64) * 0.4,
        "weight_hh": torch.randn(3 * H, H, dtype=torch.float64) * 0.4,
        "bias_ih": torch.randn(3 * H, dtype=torch.float64),
        "bias_hh": torch.randn(3 * H, dtype=torch.float64),
    }
    x = torch.randn(T, K, dtype=torch.float64)
    h = torch.zeros(H, dtype=torch.float64)
    c = torch.zeros(H, dtype=torch.float64)
    outputs = []
    for t in range(T):
        gates = torch.nn.functional.linear(x[t], weights["weight_ih"], weights["bias_ih"])
        gates = gates + torch.nn.functional.linear(h, weights["weight_hh"], weights["bias_hh"])
        f, g, o = gates.chunk(3)
        c = torch.lerp(g.tanh(), c, f.sigmoid())
        h = o.sigmoid() * c.tanh()
        outputs.append(h)
    for kind, value in weights.items():
        arrays[f"cifg/layers.0.{kind}"] = value.numpy()
    store(arrays, "cifg", x, torch.stack(outputs), h[None], c[None])


def store(
    arrays: dict[str, np.ndarray],
    name: str,
    x: torch.Tensor,
    h: torch.Tensor,
    final_h: torch.Tensor,
    final_c: torch.Tensor,
) -> None:
    """Inputs, outputs and final state."""
    for key, value in (("x", x), ("h", h), ("final_h", final_h), ("final_c", final_c)):
        arrays[f"{name}/{key}"] = value.detach().numpy()


def main() -> None:
    torch.manual_seed(20261123)
    arrays: dict[str, np.ndarray] = {}
    for name, module in modules().items():
        record_module(arrays, name, module)
    record_cifg(arrays)
    np.savez_compressed(Path(__file__).with_name("pytorch.npz"), allow_pickle=False, **arrays)


if __name__ == "__main__":
    main()
