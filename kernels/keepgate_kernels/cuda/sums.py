"""What thread blocks make of lanes' sums: a quarter's after another's, whichever warps have multiplied them.

A warp that takes all quarters adds each to the sums of its thread block in shared memory ("folds" it). Where
every quarter is another warp's, each leaves its sums there as a *part*, and who wants a unit's total adds its
parts up, in the same order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cuda

from keepgate_kernels.cuda.ptx import WORD, load2, shared_address, store2
from keepgate_kernels.cuda.target import at32, at64, device_function
from keepgate_kernels.cuda.tiles import QUARTERS, ROWS, UNITS, Shape, sum_groups


def make_put_part(precision: str, gates: int, shape: Shape) -> Any:
    """put_part(numbers, at, lane, sums).

    Leaves a lane's sums in shared memory from word `at` on, [row][gate, unit]: one warp's, which has all rows
    and units of the thread block.
    """
    half_tiles, tiles = 2 * shape.row_tiles, shape.blocks_of(gates) * gates
    stride, units = shape.sum_stride(gates), shape.blocks_across(gates) * UNITS
    half_tile_size = ROWS // 2 * stride * WORD

    @device_function
    def put_part(numbers: Any, at: Any, lane: Any, sums: Any) -> None:
        address = shared_address(numbers, at + lane // 4 * stride + lane % 4 * 2)
        for tile in range(tiles):
            first = address + (tile % gates * units + tile // gates * UNITS) * WORD
            for half_tile in range(half_tiles):
                s = (half_tile // 2 * tiles + tile) * 4 + half_tile % 2 * 2
                even, odd = np.float32(sums[s]), np.float32(sums[s + 1])
                store2(numbers, first + half_tile * half_tile_size, even, odd)

    return put_part


def make_add_parts(precision: str, gates: int, shape: Shape, area: int) -> Any:
    """add_parts(numbers, at, shift, row_scale, column_scales, totals).

    Adds a unit's parts to its totals, float32 [groups], quarter by quarter. at: word of the first gate of the
    first quarter; the next quarter's lies `area` words on. shift: the group that the first gate goes to. For
    int8: row_scale, and column_scales [groups].
    """
    groups, units = sum_groups(gates), shape.blocks_across(gates) * UNITS
    quantised = precision == "int8"

    @device_function
    def add_parts(numbers: Any, at: Any, shift: Any, row_scale: Any, column_scales: Any, totals: Any) -> None:
        for group in range(groups):
            if gates == groups or shift <= group < gates + shift:
                own, total = at + (group - shift) * units, totals[group]
                for quarter in range(QUARTERS):
                    part = numbers[at32(own + quarter * area)]
                    if quantised:
                        total = cuda.fma(part, row_scale * column_scales[group], total)
                    else:
                        total += part
                totals[group] = total

    return add_parts


def make_column_scales(gates: int) -> Any:
    """read_column_scales(values, at, shift, unit, column_scales).

    Sets the scales of a unit's columns, float32 [groups]. at: where in values those of all columns lie.
    """
    groups = sum_groups(gates)

    @device_function
    def read_column_scales(values: Any, at: Any, shift: Any, unit: Any, column_scales: Any) -> None:
        first = at + unit // UNITS * (gates * UNITS) + unit % UNITS
        for group in range(groups):
            column_scales[group] = np.float32(0)
            if gates == groups or shift <= group < gates + shift:
                column_scales[group] = values[at64(first + (group - shift) * UNITS)]

    return read_column_scales


def make_fold(precision: str, gates: int, shape: Shape) -> Any:
    """fold(numbers, sums_at, shift, warp_row, warp_tile, lane, sums, scales, first_scale, values, at, tiles).

    Adds a lane's sums of a quarter to those in shared memory, [row][group, unit], and clears them. shift: the
    group of sums that the first gate goes to. warp_row, warp_tile: the warp's first. scales: float32, from
    first_scale on those of the rows, and at `at` in values those of the columns of `tiles` tiles: for int8
    alone.
    """
    half_tiles, tiles_of_warp = 2 * shape.row_tiles, shape.blocks_of(gates) * gates
    stride, units = shape.sum_stride(gates), shape.blocks_across(gates) * UNITS
    half_tile_size = ROWS // 2 * stride * WORD
    quantised = precision == "int8"
    zero = np.int32(0) if quantised else np.float32(0)

    @device_function
    def fold(
        numbers: Any,
        sums_at: Any,
        shift: Any,
        warp_row: Any,
        warp_tile: Any,
        lane: Any,
        sums: Any,
        scales: Any,
        first_scale: Any,
        values: Any,
        at: Any,
        tiles: Any,
    ) -> None:
        row, column = warp_row + lane // 4, lane % 4 * 2
        own = sums_at + row * stride + shift * units + warp_tile // gates * UNITS + column
        address = shared_address(numbers, own)
        for tile in range(tiles_of_warp):
            first = address + (tile % gates * units + tile // gates * UNITS) * WORD
            even_scale = odd_scale = np.float32(0)
            if quantised and warp_tile + tile < tiles:
                place = at64(at + (warp_tile + tile) * UNITS + column)
                even_scale, odd_scale = values[place], values[place + at64(1)]
            for half_tile in range(half_tiles):
                s = (half_tile // 2 * tiles_of_warp + tile) * 4 + half_tile % 2 * 2
                even, odd = load2(numbers, first + half_tile * half_tile_size)
                if quantised:
                    scale = scales[at32(first_scale + row + half_tile * (ROWS // 2))]
                    even = cuda.fma(np.float32(sums[s]), scale * even_scale, even)
                    odd = cuda.fma(np.float32(sums[s + 1]), scale * odd_scale, odd)
                else:
                    even, odd = even + sums[s], odd + sums[s + 1]
                store2(numbers, first + half_tile * half_tile_size, even, odd)
                sums[s], sums[s + 1] = zero, zero

    return fold
