"""Requantization by one multiplication: LiteRT's two roundings, zero point and clamp, found in one affine function.

A layer's output is a staircase of its accumulator: value k begins at some integer t(k). So any

    ((unit × acc + offset) × multiplier) >> (32 + SHIFT)

that has its steps at the same integers, for every accumulator that the layer's weights and any int8 inputs can give, is
LiteRT's output, bit for bit. On Armv7E-M that is SMMUL and SSAT, with the offset in the bias. Such a pair (offset,
multiplier) exists for practically every channel whose output's zero point is its lower clamp: where LiteRT's rounding
of halves away from zero shows, below zero, nothing is left of it. It is searched for here, never assumed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from export.numerics import Requantization

SHIFT = 10
"""What is shifted out after the high word of the product; the same for all layers, since it is part of instructions."""

Int64Array = npt.NDArray[np.int64]

_TRIES = tuple(side * (n + n**2 // 8 + n**3 // 512) for n in range(300) for side in ((1, -1) if n else (1,)))
"""How far from the exact multiplier others are tried, the nearest first. One in some thousand multipliers near 2^31
needs to go as far as 25,000; the smaller a multiplier, the nearer its neighbours that move no step."""
_FAR = np.int64(1 << 60)


@dataclass(frozen=True, slots=True, eq=False)
class SingleRounding:
    """One pair per output channel: out = ((unit × acc + offset) × multiplier) >> (32 + shift), saturated to int8."""

    offsets: Int64Array
    multipliers: Int64Array
    constant: npt.NDArray[np.bool_]
    """Channels whose output never changes: the accumulator has to be left out of the formula (weights of zero)."""


def two_roundings(
    accumulators: Int64Array, multipliers: Int64Array, exponents: Int64Array, zero_point: int
) -> Int64Array:
    """Give acc × multiplier / 2^31 / 2^exponent + zero point, not clamped. LiteRT's MultiplyByQuantizedMultiplier."""
    high = (accumulators * multipliers + (1 << 30)) >> 31
    half = np.left_shift(1, exponents) >> 1
    return ((high + half - ((high < 0) & (exponents > 0))) >> exponents) + zero_point


def single_roundings(
    requantization: Requantization, least: Int64Array, most: Int64Array, shift: int = SHIFT, unit: int = 256
) -> tuple[SingleRounding, npt.NDArray[np.bool_]]:
    """Find the pairs for accumulators in [least, most], by channel, and tell which have been found.

    Outputs beyond the clamps of ``requantization`` come out as some value beyond the same clamp, or at it. A scale has
    to be below unit / 2^(shift + 1). Small scales ask for a small unit, for the offset to fit into 32 bits.
    """
    multipliers = requantization.multipliers.astype(np.int64)
    exponents = -requantization.shifts.astype(np.int64)
    enlarging = exponents < 0
    exponents = np.maximum(exponents, 0)
    zero_point, minimum, maximum = requantization.output_zero_point, requantization.minimum, requantization.maximum

    def output(accumulators: Int64Array) -> Int64Array:
        many = (multipliers[:, None], exponents[:, None])
        return np.clip(two_roundings(accumulators, *many, zero_point), minimum, maximum)

    ends = output(np.stack([least, most], axis=1))
    values = np.arange(minimum + 1, maximum + 1, dtype=np.int64)
    # t(k), by bisection: output(low) < k <= output(high), where the ends may lie outside of the range.
    low, high = np.tile(least[:, None] - 1, len(values)), np.tile(most[:, None] + 1, len(values))
    while np.any(high - low > 1):
        middle = (low + high) >> 1
        reached = output(middle) >= values
        low, high = np.where(reached | (high - low <= 1), low, middle), np.where(reached, middle, high)
    first = np.asarray(np.rint(multipliers * np.exp2(shift + 1.0 - exponents) / unit), np.int64)
    offsets, found = _search(first, values, high, least, most, shift, unit)
    constant = ends[:, 0] == ends[:, 1]
    offsets = np.where(constant, ends[:, 0] << (shift + 2), offsets)
    found = np.where(constant, 1 << 30, found)
    return SingleRounding(offsets, found, constant), (found > 0) & ~enlarging


def _search(
    first: Int64Array,
    values: Int64Array,
    steps: Int64Array,
    least: Int64Array,
    most: Int64Array,
    shift: int,
    unit: int,
) -> tuple[Int64Array, Int64Array]:
    """Find (offset, multiplier) by channel; multiplier 0 where there is none.

    ``first`` are the multipliers to begin with, ``steps`` each value's first accumulator.
    """
    # An accumulator that must reach a value, and one that must not; where the range holds none, nothing is asked.
    reaching, short = unit * np.maximum(steps, least[:, None]), unit * np.minimum(steps - 1, most[:, None])
    must_reach, must_not = steps <= most[:, None], steps > least[:, None]
    # What is multiplied has 32 bits.
    smallest, largest = -(1 << 31) - unit * least, (1 << 31) - 1 - unit * most
    offsets, found = np.zeros_like(first), np.zeros_like(first)
    for distance in _TRIES:
        open_ = np.flatnonzero(found == 0)
        trial = first[open_] + distance
        usable = (trial > 0) & (trial < 1 << 31)
        open_, trial = open_[usable], trial[usable]
        if not len(open_):
            continue
        bounds = -((-values << (32 + shift)) // trial[:, None])
        lower = np.where(must_reach[open_], bounds - reaching[open_], -_FAR).max(axis=1, initial=-_FAR)
        upper = np.where(must_not[open_], bounds - 1 - short[open_], _FAR).min(axis=1, initial=_FAR)
        lower, upper = np.maximum(lower, smallest[open_]), np.minimum(upper, largest[open_])
        good = lower <= upper
        offsets[open_[good]], found[open_[good]] = (lower + upper)[good] >> 1, trial[good]
    return offsets, found
