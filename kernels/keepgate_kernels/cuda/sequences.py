"""Which sequences are computed in one launch a layer, and the plans of a model for that."""

from __future__ import annotations

from typing import Any, NamedTuple

from keepgate_kernels.cuda import plan as p
from keepgate_kernels.cuda.catalogue import Entry, sequence_entry
from keepgate_kernels.cuda.launch import Queue
from keepgate_kernels.cuda.layout import Layout
from keepgate_kernels.cuda.packing import Packed, Product
from keepgate_kernels.cuda.sequence import ROWS, SHAPE
from keepgate_kernels.cuda.tiles import sum_groups

SEQUENCE_LANES = ROWS
LEAST_SEQUENCE_STEPS = 8
"""Fewer steps are launched one by one: loading the weights would not pay. Reasoned, not measured."""


class SequenceLayer(NamedTuple):
    """hoisted: the plan of the products with x, on the device, or None; steps: that of the rest."""

    product: Product
    hoisted: Any
    steps: Any
    entry: Entry
    blocks: int


class Sequences:
    """layers: of the model. feed: the plan of layer 0's rows, or None.

    fits: whether all thread blocks of every layer can be on the device at once, as their barrier needs.
    """

    def __init__(self, queue: Queue, layout: Layout, packed: Packed, precision: str) -> None:
        self.feed = None if packed.feed is None else queue.put(layout.keeps_inputs(packed.feed))
        self.layers: list[SequenceLayer] = []
        self.fits = True
        for index, (product,) in enumerate(packed.layers):
            groups = sum_groups(product.gates)
            hoisted, steps = layout.sequence_plans(product.plan, index, groups)
            entry = sequence_entry(precision, product.gates, int(product.plan[p.H_CHUNKS]))
            blocks = -(-product.blocks // SHAPE.blocks_across(product.gates))
            self.fits = self.fits and queue.holds(entry, blocks)
            on_device = None if hoisted is None else queue.put(hoisted)
            self.layers.append(SequenceLayer(product, on_device, queue.put(steps), entry, blocks))
