"""Twin of ``tn_conv_dsp_s8``: dense convolutions on Armv7E-M, whose weights are packed for two products at a time.

A word of four inputs becomes unsigned in its even bytes, value + 128, which goes into the bias. It then is two halves,
256 × odd + even. With two halves of weights, 256 × w0 − w1 and w3 − 256 × w2, SMLSD and SMLSDX add 256 times the sum
of the four products, so accumulators and biases are 256 times what they are elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from export import numerics
from export.generic_kernels import folded_weights, geometry
from export.graph import Graph, Operator
from export.kernel import Fields, Kernel
from export.numerics import INT8_MAX, INT8_MIN, Requantization, is_pointwise, quantization_of

Int64Array = npt.NDArray[np.int64]
UInt32Array = npt.NDArray[np.uint32]

_PAIR_PARAMETERS = 7
"""Words per pair of channels beside its weights: 2 biases, 2 multipliers, 2 rounding terms, and the shifts."""
_ACCUMULATOR_LIMIT = 1 << 23
"""Accumulators below it fit into 32 bits when multiplied by 256."""
_HALF = 1 << 6
"""One half, in what the core's multiplication leaves: 7 bits of fraction."""
_SCALED_BITS = 7


@dataclass(frozen=True, slots=True)
class Runs:
    """How a window's taps become words: runs of inputs that lie side by side, whole words first, then what is left."""

    count: int
    bytes: int

    @property
    def steps(self) -> int:
        """Words of one window."""
        return self.count * (self.bytes // 4) + -(-self.count * (self.bytes % 4) // 4)

    def positions(self) -> npt.NDArray[np.intp]:
        """Where each of the window's taps × channels, in the order of the weights, lies in the packed window."""
        run, byte = np.divmod(np.arange(self.count * self.bytes), self.bytes)
        whole = self.bytes // 4 * 4
        rest = self.count * whole + run * (self.bytes - whole) + byte - whole
        return np.where(byte < whole, run * whole + byte, rest)


@dataclass(frozen=True, slots=True, eq=False)
class Scaling:
    """What the core's requantization is given, by channel: (256 × acc × multiplier >> 32) + rounding >> shift."""

    multipliers: Int64Array
    rounding: Int64Array
    shifts: Int64Array
    negatives_may_vary: bool
    """Halves below zero need not round away from zero, because the clamp hides what differs."""


def runs_of(graph: Graph, operator: Operator) -> Runs:
    """Runs are kernel rows; or single taps, if columns are dilated."""
    assert operator.window is not None
    rows, columns = operator.window.kernel
    channels = graph.input_tensors(operator)[0].shape[-1]
    dilated = operator.window.dilation[1] > 1 and columns > 1
    return Runs(rows * columns, channels) if dilated else Runs(rows, columns * channels)


def pack_weights(weights: npt.NDArray[np.int8], runs: Runs) -> UInt32Array:
    """One row of ``runs.steps`` words per output channel, from rows in the order of `numerics.kernel_weights`."""
    w = _in_words(weights, runs)
    low, high = 256 * w[..., 0] - w[..., 1], w[..., 3] - 256 * w[..., 2]
    return np.asarray((low & 0xFFFF) | (high & 0xFFFF) << 16, np.uint32)


def _in_words(weights: npt.NDArray[np.int8], runs: Runs) -> Int64Array:
    """The weights at their packed positions: [output channel, word, byte]."""
    packed = np.zeros((len(weights), 4 * runs.steps), np.int64)
    packed[:, runs.positions()] = weights
    return packed.reshape(len(weights), runs.steps, 4)


def accumulator_range(
    weights: npt.NDArray[np.int8], folded_bias: npt.NDArray[np.int32]
) -> tuple[Int64Array, Int64Array]:
    """The smallest and largest accumulator of each channel, over all int8 inputs."""
    w = weights.astype(np.int64)
    least = folded_bias + np.minimum(w * INT8_MIN, w * INT8_MAX).sum(axis=1)
    most = folded_bias + np.maximum(w * INT8_MIN, w * INT8_MAX).sum(axis=1)
    return least, most


def scaling_of(requantization: Requantization, least: Int64Array, most: Int64Array) -> Scaling | None:
    """The core's requantization for accumulators in [least, most], or None if it cannot round as LiteRT does.

    LiteRT rounds twice: to acc × multiplier / 2^31, and then to that / 2^e, halves away from zero. The first rounding
    adds one half, 64 in the core's units; the second adds 2^(e - 1), which is 2^(e + 6) in them. For a negative
    accumulator and e > 0 the core subtracts one, 128, before the second rounding, unless negatives may vary.
    """
    zero_point = requantization.output_zero_point
    multipliers = requantization.multipliers.astype(np.int64)
    exponents = -requantization.shifts.astype(np.int64)
    may_vary = requantization.minimum >= zero_point
    # A channel that never leaves the zero point, such as one without weights, may have any scale.
    largest = np.maximum(np.abs(least), np.abs(most))
    below_half = np.left_shift(np.left_shift(1, np.clip(exponents, 0, 31)) - 1, 30)
    silent = (multipliers == 0) | (largest * multipliers < below_half)
    multipliers, exponents = np.where(silent, 0, multipliers), np.where(silent, 1, exponents)
    smallest_exponent = 0 if may_vary else 1
    if np.any(exponents < smallest_exponent) or np.any(~silent & (largest >= _ACCUMULATOR_LIMIT)):
        return None
    half = np.where(exponents > 0, np.left_shift(1, exponents + _SCALED_BITS - 1), 0)
    rounding = _HALF + half + zero_point * np.left_shift(1, exponents + _SCALED_BITS)
    scaled = (largest * multipliers >> (31 - _SCALED_BITS)) + 1
    if np.any(scaled + np.abs(rounding) + 128 >= 1 << 31):
        return None
    return Scaling(multipliers, rounding, exponents + _SCALED_BITS, may_vary)


def pack_stream(
    weights: npt.NDArray[np.int8], folded_bias: npt.NDArray[np.int32], runs: Runs, scaling: Scaling
) -> UInt32Array:
    """What the core reads, pair of channels by pair, as ``tn_conv_dsp.h`` describes it."""
    channels = len(weights)
    flipped = 128 * _in_words(weights, runs)[..., ::2].sum(axis=(1, 2))
    words = pack_weights(weights, runs)
    first = np.arange(0, channels - 1, 2)
    if channels % 2:
        first = np.append(first, channels - 2)
    pairs = np.stack([first, first + 1], axis=1)
    # An odd channel's pair is run by a call of its own, so that the last even one ends the main run.
    more = np.arange(1, len(first) + 1) < channels // 2
    shifts = scaling.shifts[pairs]
    columns = [
        256 * (folded_bias.astype(np.int64) - flipped)[pairs],
        words[pairs].transpose(0, 2, 1).reshape(len(first), -1),
        scaling.multipliers[pairs],
        scaling.rounding[pairs],
        (shifts[:, :1] | shifts[:, 1:] << 8 | more[:, None].astype(np.int64) << 31),
    ]
    stream = np.concatenate([column.astype(np.int64) for column in columns], axis=1)
    return np.asarray(stream & 0xFFFFFFFF, np.uint32).ravel()


def inner_columns(graph: Graph, operator: Operator) -> tuple[int, int]:
    """Output columns [first, last) that the core can gather three at a time; maybe none.

    Their windows reach over neither the left nor the right border, and have one run for each kernel row.
    """
    window = operator.window
    assert window is not None
    size, outputs = graph.input_tensors(operator)[0].shape[2], graph.output_tensor(operator).shape[2]
    (_, kernel), (_, stride), (_, dilation), (_, left) = window.kernel, window.stride, window.dilation, window.padding
    if runs_of(graph, operator).count > window.kernel[0]:
        return 0, 0
    first = min(-(-left // stride), outputs)
    last = min((size - 1 - (kernel - 1) * dilation + left) // stride + 1, outputs)
    return first, max(first, last)


def _layer_scaling(graph: Graph, operator: Operator) -> Scaling | None:
    weights, bias = folded_weights(graph, operator)
    return scaling_of(numerics.conv_requantization(graph, operator), *accumulator_range(weights, bias))


def _fits(graph: Graph, operator: Operator) -> bool:
    source, target = graph.input_tensors(operator)[0], graph.output_tensor(operator)
    if operator.groups != 1 or target.shape[-1] < 2:
        return False
    runs = runs_of(graph, operator)
    row_bytes = source.shape[2] * source.shape[3]
    # Where a run of whole words reaches over a border, a word is read from the nearest place inside of the row.
    readable = runs.bytes < 4 or row_bytes >= 4
    return readable and max(runs.steps, runs.bytes) < 1 << 16 and row_bytes < 1 << 30


def _accepts(graph: Graph, operator: Operator) -> bool:
    weights, _ = folded_weights(graph, operator)
    return bool(weights.min(initial=0) > INT8_MIN) and _layer_scaling(graph, operator) is not None


def _scratch(graph: Graph, operator: Operator) -> int:
    """The windows of the pixels that are computed at a time."""
    _, rows, columns, _ = graph.output_tensor(operator).shape
    pixels = 3 if rows * columns > 2 else 2
    return pixels * 4 * runs_of(graph, operator).steps


def _fields(graph: Graph, operator: Operator) -> Fields:
    weights, bias = folded_weights(graph, operator)
    scaling = _layer_scaling(graph, operator)
    assert scaling is not None
    runs = runs_of(graph, operator)
    requantization = numerics.conv_requantization(graph, operator)
    inner_first, inner_last = inner_columns(graph, operator)
    return {
        **geometry(graph, operator),
        "inner_first": inner_first,
        "inner_last": inner_last,
        "run_bytes": runs.bytes,
        "runs_per_row": _runs_per_row(operator, runs),
        "steps": runs.steps,
        "input_zero_point": quantization_of(graph.input_tensors(operator)[0]).zero_point,
        "minimum": requantization.minimum,
        "maximum": requantization.maximum,
        "pointwise": int(is_pointwise(graph, operator)),
        "negatives_may_vary": int(scaling.negatives_may_vary),
        "stream": pack_stream(weights, bias, runs, scaling),
    }


def _runs_per_row(operator: Operator, runs: Runs) -> int:
    assert operator.window is not None
    return runs.count // operator.window.kernel[0]


def _array_bytes(graph: Graph, operator: Operator) -> tuple[int, ...]:
    channels = graph.output_tensor(operator).shape[-1]
    return (-(-channels // 2) * 4 * (_PAIR_PARAMETERS + 2 * runs_of(graph, operator).steps),)


CONV_DSP = Kernel(
    "tn_conv_dsp_s8",
    "tn_conv_dsp_layer",
    _fits,
    _scratch,
    _fields,
    _array_bytes,
    _accepts,
    planes=True,
    header="tn_conv_dsp.h",
)
