"""Fully connected layers on Armv7E-M: the weights as the kernel streams them, and a requantization proved exact.

LiteRT rounds the double product of accumulator and scale once. The kernel computes ``acc * multiplier / 2**(24 + shift)
+ 1/2`` with 32 bits for each figure. Both only ever rise with the accumulator, so they are the same function when they
agree on both sides of every step of LiteRT's: a few hundred accumulators are a proof for all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from export import numerics
from export.graph import Graph, Operator, OpKind
from export.kernels.generic import folded_weights
from export.kernels.kernel import Fields, Kernel
from export.numerics import activation_range, effective_scales, quantization_of

Int64Array = npt.NDArray[np.int64]
UInt32Array = npt.NDArray[np.uint32]

_GROUPS = (6, 2, 1)
"""Channels that the kernel computes at once, in the order of the stream."""
ACCUMULATOR_LIMIT = 1 << 23
"""Accumulators are kept in 32 bits, 256 times as large."""
_LARGEST_SHIFT = 22
"""A larger one would take the rounding term out of 32 bits."""
_LARGEST_OWN_SHIFT = 31
"""Of a channel whose shift is its own: the rounding term is added after all but the last bit have been shifted out."""
_MULTIPLIER_STEPS = (0, 1, -1, 2, -2, 3, -3, 4, -4)
"""From the nearest multiplier, what to try: a step moves any boundary by less than 1/250 of an accumulator's unit."""


@dataclass(frozen=True, slots=True, eq=False)
class HighWordRequantization:
    """((256 × acc × multiplier >> 32) + rounding) >> shift, which includes the zero point, then clamped."""

    multipliers: Int64Array
    """One, or one per channel."""
    shifts: Int64Array
    """As many."""
    zero_point: int
    minimum: int
    maximum: int

    @property
    def shift(self) -> int:
        """The shift that all channels share."""
        (shift,) = set(self.shifts.tolist())
        return int(shift)

    @property
    def rounding(self) -> int:
        """The rounding term of the shift that all channels share, the zero point included."""
        return (1 << (self.shift - 1)) + (self.zero_point << self.shift)


def _fits(graph: Graph, operator: Operator) -> bool:
    outputs, inputs = graph.input_tensors(operator)[1].shape
    return operator.kind is OpKind.FULLY_CONNECTED and inputs >= 4 and outputs < 1 << 16


def _accepts(graph: Graph, operator: Operator) -> bool:
    weights, bias = folded_weights(graph, operator)
    lowest, highest = numerics.accumulator_range(weights, bias)
    if weights.min() == -128 or max(-lowest.min(), highest.max()) >= ACCUMULATOR_LIMIT:
        return False
    return high_word_requantization(graph, operator, lowest, highest, own_shifts=True) is not None


def _fields(graph: Graph, operator: Operator) -> Fields:
    weights, bias = folded_weights(graph, operator)
    rows = weights.astype(np.int64)
    starts = 256 * bias.astype(np.int64)
    lowest, highest = numerics.accumulator_range(weights, bias)
    requantization = high_word_requantization(graph, operator, lowest, highest, own_shifts=True)
    assert requantization is not None, "the kernel was chosen for a layer that it does not accept"
    outputs, inputs = weights.shape
    if len(requantization.multipliers) > 1:
        starts += requantization.shifts - 1  # products are multiples of 256, so the lowest byte keeps it
        stream = _stream(rows, starts, requantization.multipliers)
        figures = {"multiplier": 0, "rounding": 2 * requantization.zero_point + 1, "shift": 0}
    else:
        stream = _stream(rows, starts, None)
        (multiplier,) = requantization.multipliers.tolist()
        figures = {"multiplier": multiplier, "rounding": requantization.rounding, "shift": requantization.shift}
    return {
        "batches": graph.input_tensors(operator)[0].elements // inputs,
        "inputs": inputs,
        "outputs": outputs,
        "groups": _group_counts(outputs),
        **figures,
        "channel_bytes": stream.nbytes // outputs,
        "stream": stream,
        "minimum": requantization.minimum,
        "maximum": requantization.maximum,
    }


def _array_bytes(graph: Graph, operator: Operator) -> tuple[int, ...]:
    weights = graph.input_tensors(operator)[1]
    outputs, inputs = weights.shape
    # A candidate is taken to be quantized per channel, as today's converter does it.
    per_channel = weights.quantization is None or len(weights.quantization.scales) > 1
    return (4 * outputs * (1 + math.ceil(inputs / 4) + per_channel),)


FULLY_CONNECTED_DSP = Kernel(
    name="tn_fully_connected_dsp_s8",
    struct="tn_fully_connected_dsp_layer",
    fits=_fits,
    scratch_bytes=lambda graph, operator: 0,
    fields=_fields,
    array_bytes=_array_bytes,
    accepts=_accepts,
    header="tn_fully_connected_dsp.h",
)


def _group_counts(outputs: int) -> tuple[int, ...]:
    counts = []
    for size in _GROUPS:
        counts.append(outputs // size)
        outputs %= size
    return tuple(counts)


def _stream(weights: Int64Array, starts: Int64Array, multipliers: Int64Array | None) -> UInt32Array:
    """The layout that ``tn_fully_connected_dsp.h`` describes."""
    outputs, inputs = weights.shape
    fours = np.pad(weights, ((0, 0), (0, -inputs % 4))).reshape(outputs, -1, 4)
    words = np.roll(_packed(fours), 1 if inputs % 4 else 0, axis=1)
    flipped_starts = (starts - 256 * 128 * fours[:, :, ::2].sum(axis=(1, 2))).astype(np.uint32)
    parts: list[UInt32Array] = []
    first = 0
    for size, count in zip(_GROUPS, _group_counts(outputs), strict=True):
        for _ in range(count):
            group = slice(first, first + size)
            parts += [flipped_starts[group], words[group].T.ravel()]
            if multipliers is not None:
                parts.append(multipliers[group].astype(np.uint32))
            first += size
    return np.concatenate(parts)


def _packed(fours: Int64Array) -> UInt32Array:
    """Weights w0 ... w3, the last axis, as one word of the halves 256 w0 - w1 and -(256 w2 - w3)."""
    low = 256 * fours[..., 0] - fours[..., 1]
    high = fours[..., 3] - 256 * fours[..., 2]
    return ((low & 0xFFFF) | (high & 0xFFFF) << 16).astype(np.uint32)


def high_word_requantization(
    graph: Graph, operator: Operator, lowest: Int64Array, highest: Int64Array, *, own_shifts: bool = False
) -> HighWordRequantization | None:
    """Multipliers that give LiteRT's output for every accumulator of each channel's range; None if none were found.

    Channels share one shift, or have their own, which gives those of small scales better multipliers.
    """
    scales = np.array(effective_scales(graph, operator))
    if len(scales) == 1:
        lowest, highest, own_shifts = lowest.min(keepdims=True), highest.max(keepdims=True), False
    output = quantization_of(graph.output_tensor(operator))
    minimum, maximum = activation_range(operator.activation, output)
    shifts = 7 - np.frexp(scales)[1].astype(np.int64)
    shifts = np.minimum(shifts, _LARGEST_OWN_SHIFT if own_shifts else min(int(shifts.min()), _LARGEST_SHIFT))
    if shifts.min() < 1:
        return None
    nearest = np.rint(np.ldexp(scales, 24 + shifts)).astype(np.int64)
    found = np.zeros_like(nearest)
    todo = np.arange(len(scales))
    accumulators = _around_steps(scales, lowest, highest, output.zero_point, minimum, maximum)
    exact = np.clip(_double_rounded(accumulators, scales) + output.zero_point, minimum, maximum)
    for step in _MULTIPLIER_STEPS:
        candidates = np.clip(nearest[todo] + step, 1, 2**31 - 1)
        halves = (accumulators[todo] * 256 * candidates[:, np.newaxis]) >> (31 + shifts[todo, np.newaxis])
        outputs = (halves + 2 * output.zero_point + 1) >> 1
        agrees = np.all(np.clip(outputs, minimum, maximum) == exact[todo], axis=1)
        found[todo[agrees]] = candidates[agrees]
        todo = todo[~agrees]
        if not len(todo):
            return HighWordRequantization(found, shifts, output.zero_point, minimum, maximum)
    return None


def _around_steps(
    scales: npt.NDArray[np.float64],
    lowest: Int64Array,
    highest: Int64Array,
    zero_point: int,
    minimum: int,
    maximum: int,
) -> Int64Array:
    """Accumulators [scale, ...] within a channel's range: both neighbours of every step of the output, and the ends."""
    boundaries = np.arange(minimum + 1, maximum + 1) - 0.5 - zero_point
    below = np.floor(np.clip(boundaries / scales[:, np.newaxis], -(2.0**32), 2.0**32)).astype(np.int64)
    # A step lies at the boundary rounded up, but for the rounding of the quotient and of LiteRT's product.
    near = (below[:, :, np.newaxis] + np.arange(-1, 3)).reshape(len(scales), -1)
    ends = np.stack([lowest, highest], axis=1)
    return np.concatenate([np.clip(near, lowest[:, np.newaxis], highest[:, np.newaxis]), ends], axis=1)


def _double_rounded(accumulators: Int64Array, scales: npt.NDArray[np.float64]) -> Int64Array:
    """C's round() of each accumulator's double product with its channel's scale."""
    products = accumulators * scales[:, np.newaxis]
    whole = np.trunc(products)
    away = np.abs(products - whole) >= 0.5
    return (whole + np.where(away, np.copysign(1.0, products), 0.0)).astype(np.int64)
