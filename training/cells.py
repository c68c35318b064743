"""Four recurrent cells with hand-written backward passes through time.

One implementation serves all four, so that a comparison of their training times is about
the cells and not about how well a library's kernel for each was tuned. The forward loop
stores the gates' activations; the backward loop reuses them; the gradient of the recurrent
weight is one matrix product after the loop.

T steps, B streams, H hidden units, G gates. Gate order is PyTorch's where PyTorch has the
cell: LSTM i, f, g, o; GRU r, z, n; the coupled-gate LSTM (CIFG) f, g, o.

``xp`` is the input's share of the gates' pre-activations, W_ih x + b, [T, B, G*H].

- RNN (Elman 1990):            h' = tanh(xp + R h)
- LSTM (Gers 2000):            c' = f c + i g,        h' = o tanh(c')
- CIFG (Greff 2017, "CIFG"):   c' = f c + (1 - f) g,  h' = o tanh(c')
- GRU (Cho 2014, reset after): n = tanh(xp_n + r (R_n h + b_n)),  h' = (1 - z) n + z h
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
_tanh_backward = torch.ops.aten.tanh_backward.grad_input

GATES = {"rnn": 1, "lstm": 4, "cifg": 3, "gru": 3}
CELLS = tuple(GATES)


def _recurrent_gradient(dp: Tensor, before: Tensor) -> Tensor:
    """Gradient of R, [G*H, H], from dp [T, B, G*H] and the h before each step [T, B, H]."""
    return dp.flatten(0, 1).t() @ before.flatten(0, 1)


class RnnFunction(torch.autograd.Function):
    """apply(xp [T,B,H], h0 [B,H], R [H,H]) -> h after every step, [T,B,H]."""

    @staticmethod
    def forward(ctx: Any, xp: Tensor, h0: Tensor, R: Tensor) -> Tensor:
        h = xp.new_empty(len(xp) + 1, *h0.shape)
        h[0] = h0
        Rt = R.t()
        for t in range(len(xp)):
            torch.addmm(xp[t], h[t], Rt, out=h[t + 1]).tanh_()
        ctx.save_for_backward(h, R)
        return h[1:].clone()

    @staticmethod
    def backward(ctx: Any, dh_out: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h, R = ctx.saved_tensors
        dp = torch.empty_like(dh_out)
        carry = torch.zeros_like(h[0])
        for t in reversed(range(len(dp))):
            carry += dh_out[t]
            _tanh_backward(carry, h[t + 1], grad_input=dp[t])
            torch.mm(dp[t], R, out=carry)
        return dp, carry, _recurrent_gradient(dp, h[:-1])


class LstmFunction(torch.autograd.Function):
    """apply(xp [T,B,4H], h0 [B,H], c0 [B,H], R [4H,H]) -> (h, c) after every step, [T,B,H]."""

    @staticmethod
    def forward(ctx: Any, xp: Tensor, h0: Tensor, c0: Tensor, R: Tensor) -> tuple[Tensor, Tensor]:
        T, H = len(xp), h0.shape[1]
        h, c = xp.new_empty(T + 1, *h0.shape), xp.new_empty(T + 1, *h0.shape)
        tanh_c, gates = xp.new_empty(T, *h0.shape), torch.empty_like(xp)
        h[0], c[0] = h0, c0
        Rt = R.t()
        for t in range(T):
            a = torch.addmm(xp[t], h[t], Rt, out=gates[t])
            i, f, g, o = a.split(H, dim=1)
            a[:, : 2 * H].sigmoid_()
            g.tanh_()
            o.sigmoid_()
            torch.mul(f, c[t], out=c[t + 1]).addcmul_(i, g)
            torch.tanh(c[t + 1], out=tanh_c[t])
            torch.mul(o, tanh_c[t], out=h[t + 1])
        ctx.save_for_backward(h, c, tanh_c, gates, R)
        return h[1:].clone(), c[1:].clone()

    @staticmethod
    def backward(ctx: Any, dh_out: Tensor, dc_out: Tensor) -> tuple[Tensor, ...]:
        h, c, tanh_c, gates, R = ctx.saved_tensors
        H = h.shape[2]
        dp = torch.empty_like(gates)
        dh, dc, tmp = torch.zeros_like(h[0]), torch.zeros_like(h[0]), torch.empty_like(h[0])
        for t in reversed(range(len(dp))):
            i, f, g, o = gates[t].split(H, dim=1)
            di, df, dg, do = dp[t].split(H, dim=1)
            dh += dh_out[t]
            dc += dc_out[t]
            _sigmoid_backward(torch.mul(dh, tanh_c[t], out=tmp), o, grad_input=do)
            dh *= o
            dc += _tanh_backward(dh, tanh_c[t], grad_input=tmp)
            _sigmoid_backward(torch.mul(dc, g, out=tmp), i, grad_input=di)
            _sigmoid_backward(torch.mul(dc, c[t], out=tmp), f, grad_input=df)
            _tanh_backward(torch.mul(dc, i, out=tmp), g, grad_input=dg)
            dc *= f
            torch.mm(dp[t], R, out=dh)
        return dp, dh, dc, _recurrent_gradient(dp, h[:-1])


class CifgFunction(torch.autograd.Function):
    """apply(xp [T,B,3H], h0 [B,H], c0 [B,H], R [3H,H]) -> (h, c) after every step, [T,B,H]."""

    @staticmethod
    def forward(ctx: Any, xp: Tensor, h0: Tensor, c0: Tensor, R: Tensor) -> tuple[Tensor, Tensor]:
        T, H = len(xp), h0.shape[1]
        h, c = xp.new_empty(T + 1, *h0.shape), xp.new_empty(T + 1, *h0.shape)
        tanh_c, gates = xp.new_empty(T, *h0.shape), torch.empty_like(xp)
        h[0], c[0] = h0, c0
        Rt = R.t()
        for t in range(T):
            f, g, o = torch.addmm(xp[t], h[t], Rt, out=gates[t]).split(H, dim=1)
            f.sigmoid_()
            g.tanh_()
            o.sigmoid_()
            torch.lerp(g, c[t], f, out=c[t + 1])
            torch.tanh(c[t + 1], out=tanh_c[t])
            torch.mul(o, tanh_c[t], out=h[t + 1])
        ctx.save_for_backward(h, c, tanh_c, gates, R)
        return h[1:].clone(), c[1:].clone()

    @staticmethod
    def backward(ctx: Any, dh_out: Tensor, dc_out: Tensor) -> tuple[Tensor, ...]:
        h, c, tanh_c, gates, R = ctx.saved_tensors
        H = h.shape[2]
        dp = torch.empty_like(gates)
        dh, dc, tmp = torch.zeros_like(h[0]), torch.zeros_like(h[0]), torch.empty_like(h[0])
        for t in reversed(range(len(dp))):
            f, g, o = gates[t].split(H, dim=1)
            df, dg, do = dp[t].split(H, dim=1)
            dh += dh_out[t]
            dc += dc_out[t]
            _sigmoid_backward(torch.mul(dh, tanh_c[t], out=tmp), o, grad_input=do)
            dh *= o
            dc += _tanh_backward(dh, tanh_c[t], grad_input=tmp)
            torch.sub(c[t], g, out=tmp).mul_(dc)
            _sigmoid_backward(tmp, f, grad_input=df)
            torch.mul(dc, f, out=tmp)
            _tanh_backward(dc.sub_(tmp), g, grad_input=dg)
            dc, tmp = tmp, dc
            torch.mm(dp[t], R, out=dh)
        return dp, dh, dc, _recurrent_gradient(dp, h[:-1])


class GruFunction(torch.autograd.Function):
    """apply(xp [T,B,3H], h0 [B,H], R [3H,H], b_n [H]) -> h after every step, [T,B,H]."""

    @staticmethod
    def forward(ctx: Any, xp: Tensor, h0: Tensor, R: Tensor, b_n: Tensor) -> Tensor:
        T, H = len(xp), h0.shape[1]
        h = xp.new_empty(T + 1, *h0.shape)
        gates, inner = torch.empty_like(xp), xp.new_empty(T, *h0.shape)
        h[0] = h0
        Rt_rz, Rt_n = R[: 2 * H].t(), R[2 * H :].t()
        for t in range(T):
            rz, n = gates[t][:, : 2 * H], gates[t][:, 2 * H :]
            torch.addmm(xp[t][:, : 2 * H], h[t], Rt_rz, out=rz).sigmoid_()
            torch.addmm(b_n, h[t], Rt_n, out=inner[t])
            r, z = rz.split(H, dim=1)
            torch.addcmul(xp[t][:, 2 * H :], r, inner[t], out=n).tanh_()
            torch.lerp(n, h[t], z, out=h[t + 1])
        ctx.save_for_backward(h, gates, inner, R)
        return h[1:].clone()

    @staticmethod
    def backward(ctx: Any, dh_out: Tensor) -> tuple[Tensor, ...]:
        h, gates, inner, R = ctx.saved_tensors
        H = h.shape[2]
        dxp, dp = torch.empty_like(gates), torch.empty_like(gates)
        dh, tmp = torch.zeros_like(h[0]), torch.empty_like(h[0])
        for t in reversed(range(len(dp))):
            r, z, n = gates[t].split(H, dim=1)
            dr, dz, dn = dp[t].split(H, dim=1)
            dn_x = dxp[t][:, 2 * H :]
            dh += dh_out[t]
            torch.sub(h[t], n, out=tmp).mul_(dh)
            _sigmoid_backward(tmp, z, grad_input=dz)
            torch.mul(dh, z, out=tmp)
            _tanh_backward(dh.sub_(tmp), n, grad_input=dn_x)
            _sigmoid_backward(torch.mul(dn_x, inner[t], out=dh), r, grad_input=dr)
            torch.mul(dn_x, r, out=dn)
            torch.addmm(tmp, dp[t], R, out=dh)
        dxp[:, :, : 2 * H] = dp[:, :, : 2 * H]
        return dxp, dh, _recurrent_gradient(dp, h[:-1]), dp[:, :, 2 * H :].sum((0, 1))


State = tuple[Tensor, ...]  # (h,) or (h, c), each [B, H]


class RecurrentLayer(nn.Module):
    """One layer of ``cell`` with K inputs and H units; biases only where they are distinct."""

    def __init__(self, cell: str, inputs: int, hidden: int) -> None:
        """Orthogonal R a gate, uniform W, zero biases but a forget gate's, which is 1."""
        super().__init__()
        self.cell, self.hidden = cell, hidden
        gates = GATES[cell]
        self.weight_ih = nn.Parameter(torch.empty(gates * hidden, inputs))
        self.weight_hh = nn.Parameter(torch.empty(gates * hidden, hidden))
        self.bias = nn.Parameter(torch.zeros(gates * hidden))
        bound = 1 / math.sqrt(inputs)
        nn.init.uniform_(self.weight_ih, -bound, bound)
        for block in self.weight_hh.data.split(hidden):
            nn.init.orthogonal_(block)
        if cell == "gru":
            self.bias_n = nn.Parameter(torch.zeros(hidden))
        forget = {"lstm": 1, "cifg": 0}.get(cell)
        if forget is not None:  # Gers 2000, Jozefowicz 2015: start by remembering
            self.bias.data[forget * hidden : (forget + 1) * hidden] = 1.0

    def zero_state(self, batch: int) -> State:
        """A state of zeros for ``batch`` streams."""
        parts = 2 if self.cell in ("lstm", "cifg") else 1
        return tuple(self.weight_hh.new_zeros(batch, self.hidden) for _ in range(parts))

    def run(self, xp: Tensor, state: State) -> tuple[Tensor, State]:
        """From xp [T,B,G*H] to (h [T,B,H], the last state)."""
        if self.cell == "rnn":
            h = RnnFunction.apply(xp, *state, self.weight_hh)
            return h, (h[-1],)
        if self.cell == "gru":
            h = GruFunction.apply(xp, *state, self.weight_hh, self.bias_n)
            return h, (h[-1],)
        function = LstmFunction if self.cell == "lstm" else CifgFunction
        h, c = function.apply(xp, *state, self.weight_hh)
        return h, (h[-1], c[-1])

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """From x [T,B,K] to (h [T,B,H], the last state)."""
        return self.run(x @ self.weight_ih.t() + self.bias, state)
