"""Requantization of dense convolutions on Armv7E-M: pairs of channels with one rounding, or with two.

Sums are 256 times the accumulators. One rounding is ((sum + offset) × multiplier) >> (32 + SHIFT), which needs a
multiplication and a saturation only, and which `single_rounding` finds for practically every channel whose zero point
is its lower clamp. A pair of channels for which it does not is rounded twice, as LiteRT does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from export.kernels.single_rounding import SingleRounding, single_roundings
from export.numerics import Requantization

Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

SHIFT = 12
"""What one rounding shifts out after the product's high word: part of the core's instructions. It serves scales below
2^-5, and finds pairs for more of the small ones than a smaller shift would."""

_ACCUMULATOR_LIMIT = 1 << 23
"""Accumulators below it fit into 32 bits when multiplied by 256."""
_HALF = 1 << 6
"""One half, in what the high word of a sum times a multiplier is: 7 bits of fraction."""
_SCALED_BITS = 7


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

    one: SingleRounding
    one_works: BoolArray
    two: TwoRoundings

    @property
    def pairs(self) -> npt.NDArray[np.intp]:
        """The channels that are computed at a time; an odd one at the end together with the one before."""
        channels = len(self.one_works)
        first = np.arange(0, channels - 1, 2)
        if channels % 2:
            first = np.append(first, channels - 2)
        return np.stack([first, first + 1], axis=1)

    @property
    def once(self) -> BoolArray:
        """Which pairs are rounded once."""
        return np.asarray(self.one_works[self.pairs].all(axis=1))


def rounding_of(requantization: Requantization, least: Int64Array, most: Int64Array) -> Rounding | None:
    """What gives LiteRT's outputs for accumulators in [least, most], by channel; None if for some pair nothing does."""
    two = two_roundings_of(requantization, least, most)
    rounding = Rounding(*one_rounding(requantization, least, most), two)
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


def one_rounding(
    requantization: Requantization, least: Int64Array, most: Int64Array
) -> tuple[SingleRounding, BoolArray]:
    """The parameters of one rounding for accumulators in [least, most], and for which channels there are any."""
    if requantization.minimum < requantization.output_zero_point:
        # Halves below zero round the other way, which no single rounding does.
        none = np.zeros(len(least), np.int64)
        return SingleRounding(none, none, none > 0), none > 0
    return single_roundings(requantization, least, most, SHIFT)
