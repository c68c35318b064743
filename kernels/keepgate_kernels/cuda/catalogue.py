"""Every kernel there is: its signature, threads and shared memory, for whoever compiles or reports it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

from keepgate_kernels.cuda.answers import make_answer, make_score
from keepgate_kernels.cuda.layout import ROW_WARPS
from keepgate_kernels.cuda.rows import THREADS as ROW_THREADS
from keepgate_kernels.cuda.rows import make_feed, make_read, make_write
from keepgate_kernels.cuda.sequence import SHAPE, make_sequence, shared_bytes
from keepgate_kernels.cuda.step import make_step
from keepgate_kernels.cuda.tiles import SHAPES, WARP, Shape, chunk_of, padded_k
from keepgate_kernels.weights import PRECISIONS

GATES = (1, 3, 4)
_ELEMENT = {"fp32": "float32", "bf16": "uint16", "int8": "int8"}


class Entry(NamedTuple):
    """make(): the kernel. arguments: the element type and dimensions of each array, or ("at", count) for a
    tuple of int64, or ("int64", 0). mma: how many mma.sync it holds; it is a step kernel if shape is set."""

    name: str
    make: Callable[[], Any]
    arguments: tuple[tuple[str, int], ...]
    threads: int
    shared_bytes: int = 0
    shape: Shape | None = None
    mma: int = 0


@functools.cache
def step_entry(precision: str, gates: int, shape: Shape) -> Entry:
    """The kernel of a product."""
    mma = 0 if precision == "fp32" else 2 * shape.row_tiles * shape.blocks_of(gates) * gates
    arguments = (
        *(("int32", 1), ("float32", 1), (_ELEMENT[precision], 1), ("uint32", 1), ("float32", 1)),
        *(("float32", 1), ("int64", 1), ("at", 2)),
    )
    return Entry(
        f"step_{precision}_{gates}_{shape.name}",
        partial(make_step, precision, gates, shape),
        arguments,
        shape.threads,
        shape.shared_bytes(gates),
        shape,
        mma,
    )


def sequence_entry(precision: str, gates: int, chunks: int) -> Entry:
    """The kernel of many steps of a layer with so many chunks of h."""
    step = step_entry(precision, gates, SHAPE)
    return step._replace(
        name=f"sequence_{precision}_{gates}",
        make=partial(make_sequence, precision, gates),
        arguments=(*step.arguments[:-1], ("at", 3)),
        shared_bytes=shared_bytes(gates, chunks),
    )


REPORTED_WIDTH = 512
"""Units for which the shared memory of a sequence's kernel is told where no model is at hand."""


def entries() -> Iterator[Entry]:
    """All of them."""
    for precision in PRECISIONS:
        element = (_ELEMENT[precision], 1)
        for gates in GATES:
            for shape in SHAPES:
                yield step_entry(precision, gates, shape)
            chunks = padded_k(REPORTED_WIDTH, precision) // chunk_of(precision)
            yield sequence_entry(precision, gates, chunks)
        yield Entry(
            f"feed_{precision}",
            partial(make_feed, precision),
            (
                *(("int32", 1), ("float32", 1), ("float32", 1), element, ("float32", 1)),
                *(("float32", 1), ("int64", 1), ("at", 2)),
            ),
            ROW_THREADS,
        )
        yield Entry(
            f"write_{precision}",
            partial(make_write, precision),
            (
                *(("int32", 2), ("float32", 1), ("int64", 2), ("float32", 1), ("int64", 0)),
                *(element, ("float32", 1)),
            ),
            ROW_THREADS,
        )
    yield Entry("read", make_read, (("int32", 2), ("float32", 1), ("int64", 2), ("float32", 2)), ROW_THREADS)
    for threads in (WARP, ROW_WARPS * WARP):
        yield from head_entries(threads).values()


def head_entries(threads: int) -> dict[str, Entry]:
    """The kernels of so many threads that take a row of logits, by what they do."""
    arguments = (
        *(("int32", 1), ("float32", 1), ("uint64", 1), ("uint32", 1), ("int64", 1)),
        ("at", 3),
    )
    made = {
        "answer_drawn": partial(make_answer, True, threads),
        "answer_plain": partial(make_answer, False, threads),
        "score": partial(make_score, threads),
    }
    return {task: Entry(f"{task}_{threads}", make, arguments, threads) for task, make in made.items()}
