"""What a jitted call gets: a record of the network's addresses, and one of a thread's work space."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from keepgate_kernels.cpu.chosen import RUNG
from keepgate_kernels.cpu.dots import X_BYTES
from keepgate_kernels.cpu.matmul import ROW_HEADER, ROWS
from keepgate_kernels.cpu.memory import LINE, address_of, aligned
from keepgate_kernels.cpu.native import MOST_VECTORS, Native
from keepgate_kernels.cpu.packing import Packed
from keepgate_kernels.cpu.phase import LANES, OWN_BYTES, PHASE, TILE
from keepgate_kernels.cpu.powers import make_work
from keepgate_kernels.cpu.sharing import CONTROL_BYTES, OPEN
from keepgate_kernels.cpu.slots import State

_NETWORK = "native weights layers ends depth h c h_stride c_stride slots"
NETWORK = np.dtype([(name, "<i8") for name in _NETWORK.split()])
"""Addresses of the table of `native`, of the packed weights, of LAYER [L], ENDS [1] and of the state; strides
in bytes."""

_ROWS = "x_rows h_rows row_stride hs hs_stride wide wide_stride sums sums_stride logits head_rows answers"
_SINGLES = "plain zeros own control shared turn"
_LISTS = "row_lane row_place latest before after cells starts second_starts listed"
WORK = np.dtype(
    [("phase", PHASE), *((name, "<i8") for name in [*f"{_ROWS} {_SINGLES} {_LISTS}".split(), "first_rows"])]
)
"""Addresses and strides in bytes of a thread's work space; contents mean nothing between calls.

x_rows, h_rows: converted rows [TILE]. hs, wide, sums: float32 rows [TILE]: new h; what is yet to be
projected, or r h; sums of whole rows. logits: float32 [head_rows, N]. answers: see `powers.make_work`.
plain: one row of inputs. zeros: one row of zeros. own: see `phase.run_blocks`. control: see `sharing`.
shared: whether helpers take part. turn: 0 or 1, see `phase.PHASE.backwards`.
int64 [TILE]: a row's lane and place among the inputs; a lane's latest row; addresses of a row's h before and
after its step, of its c, of the sums it starts from, of those that another product starts from; of the rows
of h that the head takes. first_rows: int64 [TILE + 1], the first row of each step."""

MOST_LOGITS = 1 << 20
"""Numbers of logits computed at a time, unless that would be fewer than ROWS rows of them."""


class Workspace:
    """A thread's own. record: WORK [1]; address: where it lies."""

    def __init__(self, packed: Packed, precision: str) -> None:
        self.record = np.zeros(1, WORK)
        self.address = address_of(self.record)
        self._memory: list[NDArray[np.uint8]] = []
        self._lay_out(packed, precision)
        self._open = self._control.view(np.int64)[OPEN // 8 :][:1]

    def share(self, shared: bool) -> None:
        """Whether helpers take part in steps from now on. A step sends them away at its end."""
        self.record["shared"] = self._open[0] = shared

    def _lay_out(self, packed: Packed, precision: str) -> None:
        layers, end = packed.layers, packed.ends[0]
        row = self.record[0]

        def place(name: str, size: int) -> NDArray[np.uint8]:
            self._memory.append(aligned(size))
            row[name] = address_of(self._memory[-1])
            return self._memory[-1]

        def rows(name: str, stride_name: str, stride: int) -> None:
            row[stride_name] = -(-stride // LINE) * LINE
            place(name, TILE * int(row[stride_name]))

        slack = MOST_VECTORS * LANES
        widest = int(max(layers[name].max() for name in ("hidden", "output", "inner")))
        converted = ROW_HEADER + widest * X_BYTES[RUNG.dot(precision).x_kind]
        rows("x_rows", "row_stride", converted)
        rows("h_rows", "row_stride", converted)
        rows("hs", "hs_stride", (widest + slack) * 4)
        rows("wide", "wide_stride", (widest + slack) * 4)
        rows("sums", "sums_stride", int(layers["width"].max()) * 4)
        width = int(end["width"])
        row["head_rows"] = min(TILE, max(ROWS, MOST_LOGITS // width))
        place("logits", int(row["head_rows"]) * width * 4 + LINE)
        place("answers", make_work(int(end["size"])).nbytes)
        place("plain", widest * 4)
        place("zeros", (widest + slack) * 4)
        place("own", OWN_BYTES)
        for name in _LISTS.split():
            place(name, TILE * 8)
        place("first_rows", (TILE + 1) * 8)
        self._control = place("control", CONTROL_BYTES)


def network_record(functions: Native, packed: Packed, state: State) -> NDArray[np.void]:
    """The addresses of weights and state. The caller keeps the arrays alive."""
    record = np.zeros(1, NETWORK)
    row = record[0]
    row["native"] = address_of(functions.table)
    row["weights"] = address_of(packed.weights)
    row["layers"], row["ends"] = address_of(packed.layers), address_of(packed.ends)
    row["depth"], row["slots"] = len(packed.layers), state.h.shape[1]
    row["h"], row["c"] = address_of(state.h), address_of(state.c)
    row["h_stride"], row["c_stride"] = state.h.strides[1], state.c.strides[1]
    return record
