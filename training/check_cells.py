"""Check the cells of ``cells.py``: gradients against finite differences, values against torch.nn.

    python training/check_cells.py

Prints the largest difference for each cell; exits with an error if a gradient is wrong or a
difference is above 1e-12 (everything is float64 here).
"""

from __future__ import annotations

import torch
from cells import CELLS, RecurrentLayer, State
from torch import Tensor, nn

STEPS, BATCH, INPUTS, HIDDEN = 4, 2, 3, 5
TOLERANCE = 1e-12
PEERS = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


def random_layer(cell: str) -> RecurrentLayer:
    """A float64 layer, every parameter away from its special initial value."""
    layer = RecurrentLayer(cell, INPUTS, HIDDEN).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return layer


def check_gradients(layer: RecurrentLayer, x: Tensor, state: State) -> None:
    """Finite differences in the input x [T,B,K], the state and every parameter; raises if wrong."""
    names = [name for name, _ in layer.named_parameters()]
    parts = len(state)

    def run(x: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        parameters = dict(zip(names, rest[parts:], strict=True))
        h, last = torch.func.functional_call(layer, parameters, (x, rest[:parts]))
        return (h, *last)

    torch.autograd.gradcheck(run, (x, *state, *layer.parameters()))


@torch.no_grad()
def naive_cifg(layer: RecurrentLayer, x: Tensor, state: State) -> Tensor:
    """h [T,B,H] of the coupled-gate LSTM, written out: torch.nn has none."""
    h, c = state
    outputs = []
    for frame in x:
        gates = frame @ layer.weight_ih.t() + layer.bias + h @ layer.weight_hh.t()
        f, g, o = gates.chunk(3, dim=1)
        c = f.sigmoid() * c + (1 - f.sigmoid()) * g.tanh()
        h = o.sigmoid() * c.tanh()
        outputs.append(h)
    return torch.stack(outputs)


@torch.no_grad()
def difference(layer: RecurrentLayer, x: Tensor, state: State) -> float:
    """Largest difference in h [T,B,H] from PyTorch's own layer (CIFG: from the plain equations)."""
    h, _ = layer(x, state)
    if layer.cell == "cifg":
        return float((h - naive_cifg(layer, x, state)).abs().max())
    peer = PEERS[layer.cell](INPUTS, HIDDEN).double()
    peer.weight_ih_l0.copy_(layer.weight_ih)
    peer.weight_hh_l0.copy_(layer.weight_hh)
    peer.bias_ih_l0.copy_(layer.bias)
    peer.bias_hh_l0.zero_()
    if layer.cell == "gru":
        peer.bias_hh_l0[2 * HIDDEN :] = layer.bias_n
    first = tuple(part[None] for part in state)
    expected, _ = peer(x, first if len(first) == 2 else first[0])
    return float((h - expected).abs().max())


def main() -> None:
    """Check all four cells."""
    torch.manual_seed(0)
    for cell in CELLS:
        layer = random_layer(cell)
        x = torch.randn(STEPS, BATCH, INPUTS, dtype=torch.double, requires_grad=True)
        zero = layer.zero_state(BATCH)
        state = tuple(torch.randn_like(part).requires_grad_() for part in zero)
        check_gradients(layer, x, state)
        off = difference(layer, x, state)
        print(f"{cell:5} gradients agree; largest difference in h {off:.1e}")
        if off > TOLERANCE:
            raise SystemExit(f"{cell}: h differs by {off}")


if __name__ == "__main__":
    main()
