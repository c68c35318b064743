"""Which shape is chosen: arithmetic alone, for the device that it is meant for and for smaller ones."""

from __future__ import annotations

import pytest
from keepgate_kernels.cuda.choice import Device, Work, choices, clocks, fits, index_of
from keepgate_kernels.cuda.tiles import HUGE, SHAPES, SMALL, TALL, chunk_of, padded_k

HOPPER = Device(132, 228 << 10, 216 << 10, 50 << 20)
AMPERE = Device(108, 164 << 10, 152 << 10, 40 << 20)
ADA = Device(58, 100 << 10, 88 << 10, 48 << 20)


def layer(precision: str, gates: int, width: int) -> Work:
    """Of so many units, whose x is as wide."""
    return Work(precision, gates, width // 8, 2 * padded_k(width, precision) // chunk_of(precision))


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_few_rows_take_the_shape_with_the_most_thread_blocks_and_many_the_largest(precision: str) -> None:
    for gates in (3, 4):
        shapes = choices(layer(precision, gates, 1024), 4096, HOPPER)
        assert shapes[index_of(1)] is SMALL
        assert shapes[index_of(4096)] is HUGE


def test_some_dozens_of_rows_do_not_read_the_weights_again_for_every_sixteen() -> None:
    """With 64 rows of 2,048 units SMALL would read 67 MB of weights four times."""
    work = layer("bf16", 4, 2048)
    chosen = choices(work, 64, HOPPER)[index_of(64)]
    assert chosen.rows >= 64
    assert 2 * clocks(chosen, work, 64, HOPPER) < clocks(SMALL, work, 64, HOPPER)


@pytest.mark.parametrize("device", [AMPERE, ADA], ids=["ampere", "ada"])
def test_a_shape_fits_the_device(device: Device) -> None:
    for gates in (1, 3, 4):
        fitting = [shape for shape in SHAPES if fits(shape, gates, device)]
        assert SMALL in fitting
        assert HUGE not in fitting
        assert (TALL in fitting) == (device is AMPERE)
        assert set(choices(layer("bf16", gates, 2048), 8192, device)) <= set(fitting)


def test_weights_that_the_cache_cannot_keep_want_more_bytes_under_way() -> None:
    work = layer("bf16", 4, 2048)
    assert work.weight_bytes == 2 * 2 * 4 * 2048 * 2048
    assert work.weight_bytes > HOPPER.cache_bytes
    assert choices(work, 1, HOPPER)[0] in (SMALL, TALL)


def test_more_rows_never_take_less_time() -> None:
    for shape in SHAPES:
        times = [clocks(shape, layer("bf16", 4, 512), rows, HOPPER) for rows in range(1, 600)]
        assert times == sorted(times)


def test_every_number_of_rows_has_its_place() -> None:
    shapes = choices(layer("bf16", 4, 512), 5, HOPPER)
    assert [index_of(rows) for rows in (1, 2, 3, 4, 5, 8)] == [0, 1, 2, 2, 3, 3]
    assert len(shapes) == index_of(5) + 1
