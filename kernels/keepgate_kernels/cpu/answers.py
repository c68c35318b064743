"""From a row of logits to a lane's answers: token, log-probability, list of the most probable, score.

All of it is a function of the logits, the options and the position, to the last bit: vectors are summed by
a tree, their sums in ascending order, in float64, wherever the row lies. `keepgate_kernels.sampling` says
what is drawn and how; `powers` describes rows and work space.
"""

from __future__ import annotations

import numpy as np

from keepgate_kernels.cpu.philox import uniform
from keepgate_kernels.cpu.powers import (
    ONE,
    ZERO,
    log_of,
    log_probability_of,
    powers_at,
    sums_at,
    survey,
    total_power,
    vectors_of,
    weigh,
)
from keepgate_kernels.cpu.ranking import list_top, truncate
from keepgate_kernels.cpu.vectors import (
    WIDTH,
    address,
    first_beyond,
    first_equal,
    load,
    load_double,
    load_float,
    offset,
    store_float,
)
from keepgate_kernels.jit import part

_LEAST_TEMPERATURE = np.float32(1e-6)
"""Below it the most probable token has all of the mass already; keeps 1 / temperature finite."""


@part(inline=True)
def _most_probable(row, size, largest):
    """The lowest id of the largest logit."""
    start = 0
    lane = first_equal(load(row, start), largest)
    while lane == WIDTH:
        start += WIDTH
        lane = first_equal(load(row, start), largest)
    return start + lane


@part(inline=True)
def _pick(work, size, mass, u):
    """The token at which the running sum of powers, `mass` in all, exceeds its share u, in [0, 1)."""
    target = u * mass  # below mass though it is rounded, since u is at most 1 - 2**-53
    vector = 0
    for n in range(vectors_of(size)):
        vector += load_double(work, sums_at(size, n)) <= target
    before = load_double(work, sums_at(size, vector - 1)) if vector > 0 else 0.0
    return vector * WIDTH + first_beyond(load(work, powers_at(vector)), target - before)


@part(inline=True)
def _draw(row, size, largest, position, option, work):
    """(token, log of the sum of e**(logit - largest)) for a row of finite logits.

    option: a record with the fields of `sampling.OPTIONS`.
    """
    if option.temperature == ZERO:
        log_total = log_of(total_power(row, size, largest))
        token = _most_probable(row, size, largest)
    else:
        scale = ONE / max(option.temperature, _LEAST_TEMPERATURE)
        total, mass = weigh(row, size, largest, scale, work)
        log_total = log_of(total)
        if 0 < option.top_k < size or option.top_p < ONE:
            mass = truncate(row, size, largest, option, work)
        u = uniform(option.seed, position)
        token = _pick(work, size, mass, u)
    return token, log_total


@part(inline=True)
def answer(record, pool, row, size, draws, work):
    """Fill in a predicting lane's answers from its row of logits or, unless `draws`, of outputs.

    record: the lane's; pool, row, work: addresses of the batch's pool, of the row and of its work space.
    """
    largest, finite = survey(row, size)
    kept = record.logits if draws else record.outputs
    if kept >= 0:
        for n in range(size):
            store_float(pool, kept + n, load_float(row, n))
    if not finite:
        record.finite = False
    elif draws:
        token, log_total = _draw(row, size, largest, record.position, record, work)
        record.token = token
        record.log_probability = log_probability_of(load_float(row, token), largest, log_total)
        if record.top_count > 0:
            top = offset(pool, record.top)
            list_top(row, size, largest, log_total, work, top, np.int64(record.top_count))


@part(inline=True)
def score(record, pool, row, size, step, token):
    """Put down the log-probability that the logits before input `step`, a token, gave it.

    record: a scoring lane's; pool, row: addresses as for `answer`.
    """
    largest, finite = survey(row, size)
    log_probability = np.float32(np.nan)
    if finite:
        log_total = log_of(total_power(row, size, largest))
        log_probability = log_probability_of(load_float(row, np.int64(token)), largest, log_total)
    if not np.isfinite(log_probability):
        record.finite = False
    store_float(pool, record.scores + step, log_probability)


@part()
def draw_alone(logits, position, option, work):
    """(token, log-probability) of finite logits, as `answer` has it.

    logits: float32 [V], in memory that goes on to a whole vector; work: of `make_work`.
    """
    row, size = address(logits, 0), logits.size
    largest, _ = survey(row, size)
    token, log_total = _draw(row, size, largest, position, option, address(work, 0))
    return token, log_probability_of(logits[token], largest, log_total)


@part()
def list_alone(logits, work, top):
    """The list of finite logits, as `answer` has it; logits and work as for `draw_alone`.

    top: float32 [2 k]; gets the bits of k uint32 ids, then k log-probabilities.
    """
    row, size = address(logits, 0), logits.size
    largest, _ = survey(row, size)
    log_total = log_of(total_power(row, size, largest))
    list_top(row, size, largest, log_total, address(work, 0), address(top, 0), top.size // 2)
