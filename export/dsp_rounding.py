"""Requantization of dense convolutions on Armv7E-M: pairs of channels with one rounding, or with two.

Sums are 256 times the accumulators. One rounding is ((sum + offset) × multiplier) >> (32 + SHIFT), which needs a
multiplication and a saturation only: with the right pair (offset, multiplier) its steps lie at the same accumulators as
those of LiteRT's two roundings. `export.single_rounding` explains why such pairs exist for practically every channel
whose zero point is its lower clamp. Here they are searched for channel by channel, for any shift; a pair of channels
without them is rounded twice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from export.numerics import Requantization
from export.single_rounding import two_roundings

Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

SHIFT = 12
"""What one rounding shifts out after the product's high word: part of the core's instructions. It serves scales below
2^-5, and finds pairs for more of the small ones than a smaller shift would."""

_UNIT = 256
_MULTIPLIER_LIMIT = 1 << 31
_ACCUMULATOR_LIMIT = (1 << 31) // _UNIT
_HALF = 1 << 6
"""One half, in what the high word of a sum times a multiplier is: 7 bits of fraction."""
_SCALED_BITS = 7
_TRIES = np.array([0, *(side * (n + n**2 // 8 + n**3 // 512) for n in range(1, 300) for side in (1, -1))], np.int64)
"""How far from the exact multiplier others are tried, the nearest first."""
_TRIED_AT_ONCE = 8
_FAR = np.int64(1 << 60)


@dataclass(frozen=True, slots=True, eq=False)
class OneRounding:
    """By channel: out = ((256 × acc + offset) × multiplier) >> (32 + SHIFT), saturated to int8.

    A ``constant`` channel's accumulator has to be left out: its weights become zero. Where it does not work, there is
    no such pair.
    """

    offsets: Int64Array
    multipliers: Int64Array
    constant: BoolArray
    works: BoolArray


@dataclass(frozen=True, slots=True, eq=False)
class TwoRoundings:
    """By channel: (256 × acc × multiplier >> 32) + rounding − (128 if acc < 0) >> shift, saturated to int8."""

    multipliers: Int64Array
    rounding: Int64Array
    shifts: Int64Array
    works: BoolArray


@dataclass(frozen=True, slots=True, eq=False)
class Rounding:
    """How the sums of a layer become outputs. A pair of channels is rounded once if that works for both."""

    one: OneRounding
    two: TwoRoundings

    @property
    def pairs(self) -> npt.NDArray[np.intp]:
        """The channels that are computed at a time; an odd one at the end together with the one before."""
        channels = len(self.one.works)
        first = np.arange(0, channels - 1, 2)
        if channels % 2:
            first = np.append(first, channels - 2)
        return np.stack([first, first + 1], axis=1)

    @property
    def once(self) -> BoolArray:
        """Which pairs are rounded once."""
        return np.asarray(self.one.works[self.pairs].all(axis=1))


def rounding_of(requantization: Requantization, least: Int64Array, most: Int64Array) -> Rounding | None:
    """What gives LiteRT's outputs for accumulators in [least, most], by channel; None if for some pair nothing does."""
    rounding = Rounding(one_rounding(requantization, least, most), two_roundings_of(requantization, least, most))
    twice = rounding.pairs[~rounding.once]
    return rounding if np.all(rounding.two.works[twice]) else None


def two_roundings_of(requantization: Requantization, least: Int64Array, most: Int64Array) -> TwoRoundings:
    """The parameters of two roundings for accumulators in [least, most], by channel.

    LiteRT rounds to acc × multiplier / 2^31, and that to a multiple of 2^e, halves away from zero. The core adds one
    half for the first rounding, 64 of its units, and 2^(e - 1) for the second one; and takes 1, 128 of its units, from
    what is negative before the second one. That is wrong for e = 0, for which nothing is rounded twice.
    """
    multipliers = requantization.multipliers.astype(np.int64)
    exponents = -requantization.shifts.astype(np.int64)
    # A channel that never leaves the zero point, such as one without weights, may have any scale.
    largest = np.maximum(np.abs(least), np.abs(most))
    below_half = np.left_shift(np.left_shift(1, np.clip(exponents, 0, 31)) - 1, 30)
    silent = (multipliers == 0) | (largest * multipliers < below_half)
    multipliers, exponents = np.where(silent, 0, multipliers), np.where(silent, 1, exponents)
    unit = np.left_shift(1, np.maximum(exponents, 0) + _SCALED_BITS)
    rounding = _HALF + unit // 2 + requantization.output_zero_point * unit
    scaled = (largest * multipliers >> (31 - _SCALED_BITS)) + 1
    works = (exponents >= 1) & (silent | (largest < _ACCUMULATOR_LIMIT))
    works &= scaled + np.abs(rounding) + 2 * _HALF < 1 << 31
    return TwoRoundings(multipliers, rounding, exponents + _SCALED_BITS, works)


def one_rounding(requantization: Requantization, least: Int64Array, most: Int64Array) -> OneRounding:
    """The parameters of one rounding for accumulators in [least, most], by channel.

    Outputs beyond the clamps of ``requantization`` come out as some value beyond the same clamp, or at it.
    """
    multipliers = requantization.multipliers.astype(np.int64)
    exponents = np.maximum(-requantization.shifts.astype(np.int64), 0)
    zero_point, minimum, maximum = requantization.output_zero_point, requantization.minimum, requantization.maximum

    def output(accumulators: Int64Array) -> Int64Array:
        scaled = two_roundings(accumulators, multipliers[:, None], exponents[:, None], zero_point)
        return np.clip(scaled, minimum, maximum)

    ends = output(np.stack([least, most], axis=1))
    constant = ends[:, 0] == ends[:, 1]
    offsets, found = ends[:, 0] << (SHIFT + 2), np.where(constant, 1 << 30, 0)
    # Halves below zero round the other way, which shows unless the clamp hides it: no single rounding does that.
    if minimum >= zero_point:
        values = np.arange(minimum + 1, maximum + 1, dtype=np.int64)
        # The first accumulator of each value, by bisection: output(low) < value <= output(high).
        low, high = np.tile(least[:, None] - 1, len(values)), np.tile(most[:, None] + 1, len(values))
        while np.any(high - low > 1):
            middle = (low + high) >> 1
            reached = output(middle) >= values
            low, high = np.where(reached | (high - low <= 1), low, middle), np.where(reached, middle, high)
        first = np.asarray(np.rint(multipliers * np.exp2(SHIFT - 7.0 - exponents)), np.int64)
        for channel in np.flatnonzero(~constant):
            bounds = int(least[channel]), int(most[channel])
            offsets[channel], found[channel] = _search(int(first[channel]), values, high[channel], *bounds)
    works = (found > 0) & (requantization.shifts <= 0)
    return OneRounding(offsets, found, constant, works)


def _search(first: int, values: Int64Array, steps: Int64Array, least: int, most: int) -> tuple[int, int]:
    """Find (offset, multiplier); (0, 0) where there is none. ``steps`` is the first accumulator of each value."""
    # An accumulator that must reach a value, and one that must not; where the range holds none, nothing is asked.
    reaching, short = steps <= most, steps > least
    must, must_not = _UNIT * steps[reaching], _UNIT * (steps[short] - 1)
    # Sums stay within 32 bits.
    smallest, largest = -(1 << 31) - _UNIT * least, (1 << 31) - 1 - _UNIT * most
    trials = first + _TRIES
    trials = trials[(trials > 0) & (trials < _MULTIPLIER_LIMIT)]
    for start in range(0, len(trials), _TRIED_AT_ONCE):
        trial = trials[start : start + _TRIED_AT_ONCE]
        sums = -((-values << (32 + SHIFT)) // trial[:, None])
        lower = (sums[:, reaching] - must).max(axis=1, initial=smallest)
        upper = (sums[:, short] - 1 - must_not).min(axis=1, initial=largest)
        good = np.flatnonzero(lower <= upper)
        if len(good):
            return int(lower[good[0]] + upper[good[0]]) >> 1, int(trial[good[0]])
    return 0, 0
