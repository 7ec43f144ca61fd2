"""Twin of ``tn_conv_dsp_s8``: dense convolutions on Armv7E-M, whose weights are packed for two products at a time.

A word of four inputs becomes unsigned in its even bytes, value + 128, which goes into the bias. It then is two halves,
256 × odd + even. With two halves of weights, 256 × w0 − w1 and w3 − 256 × w2, SMLSD and SMLSDX add 256 times the sum
of the four products, so accumulators and biases are 256 times what they are elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from export import numerics
from export.graph import Activation, Graph, Operator
from export.kernels.dsp_rounding import Int64Array, Rounding, rounding_of
from export.kernels.generic import folded_weights, geometry
from export.kernels.kernel import Fields, Kernel
from export.numerics import INT8_MIN, is_pointwise, quantization_of

UInt32Array = npt.NDArray[np.uint32]

_ONE_ROUNDING_WORDS, _TWO_ROUNDINGS_WORDS = 4, 7
"""Words per pair of channels beside its weights: 2 biases and 2 multipliers; and 2 rounding terms, and the shifts."""

_UNLIKELY_TAPS = 1950
"""With weights that are normal, as trained ones are, and inputs after a ReLU, some channel's sums reach 2^23 in hardly
any layer of 1,800 taps, and in nearly every one of 2,000."""


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


def pack_stream(
    weights: npt.NDArray[np.int8], folded_bias: npt.NDArray[np.int32], runs: Runs, rounding: Rounding
) -> list[UInt32Array]:
    """What the core reads for each pair of channels, as ``tn_conv_dsp.h`` describes it."""
    one, two = rounding.one, rounding.two
    stream = []
    for pair, once in zip(rounding.pairs, rounding.once, strict=True):
        rows, bias = weights[pair], 256 * folded_bias[pair].astype(np.int64)
        if once:
            rows = np.where(one.constant[pair, None], np.int8(0), rows)
            bias = np.where(one.constant[pair], 0, bias) + one.offsets[pair]
            parameters = one.multipliers[pair]
        else:
            first, second = two.multipliers[pair]
            shifts = two.shifts[pair] << [0, 8]
            parameters = np.array([first | 1 << 31, second, *two.rounding[pair], shifts.sum()])
        flipped = 256 * 128 * _in_words(rows, runs)[..., ::2].sum(axis=(1, 2))
        words = np.concatenate([bias - flipped, pack_weights(rows, runs).T.ravel().astype(np.int64), parameters])
        stream.append(np.asarray(words & 0xFFFFFFFF, np.uint32))
    return stream


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


@lru_cache(maxsize=64)
def _layer_rounding(graph: Graph, operator: Operator) -> Rounding | None:
    """Cached, because the search for one rounding takes long for a layer that has none, and is asked for many times."""
    weights, bias = folded_weights(graph, operator)
    return rounding_of(numerics.conv_requantization(graph, operator), *numerics.accumulator_range(weights, bias))


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
    return bool(weights.min(initial=0) > INT8_MIN) and _layer_rounding(graph, operator) is not None


def _expects(graph: Graph, operator: Operator) -> bool:
    runs = runs_of(graph, operator)
    return runs.count * runs.bytes < _UNLIKELY_TAPS


def _scratch(graph: Graph, operator: Operator) -> int:
    """The windows of the pixels that are computed at a time."""
    _, rows, columns, _ = graph.output_tensor(operator).shape
    pixels = 3 if rows * columns > 2 else 2
    return pixels * 4 * runs_of(graph, operator).steps


def _fields(graph: Graph, operator: Operator) -> Fields:
    weights, bias = folded_weights(graph, operator)
    rounding = _layer_rounding(graph, operator)
    assert rounding is not None
    runs = runs_of(graph, operator)
    stream = pack_stream(weights, bias, runs, rounding)
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
        "stream": np.concatenate(stream),
        "pairs_words": sum(map(len, stream[: len(weights) // 2])),
        "stream_words": sum(map(len, stream)),
    }


def _runs_per_row(operator: Operator, runs: Runs) -> int:
    assert operator.window is not None
    return runs.count // operator.window.kernel[0]


def _array_bytes(graph: Graph, operator: Operator) -> tuple[int, ...]:
    """Of a layer without data, as if an activation that hides what is negative left it to one rounding everywhere."""
    channels = graph.output_tensor(operator).shape[-1]
    pairs = -(-channels // 2)
    if any(graph.tensors[index].data is None for index in operator.inputs[1:]):
        once = pairs if operator.activation in (Activation.RELU, Activation.RELU6) else 0
    else:
        rounding = _layer_rounding(graph, operator)
        once = 0 if rounding is None else int(np.count_nonzero(rounding.once))
    words = pairs * (_TWO_ROUNDINGS_WORDS + 2 * runs_of(graph, operator).steps)
    return (4 * (words - once * (_TWO_ROUNDINGS_WORDS - _ONE_ROUNDING_WORDS)),)


CONV_DSP = Kernel(
    "tn_conv_dsp_s8",
    "tn_conv_dsp_layer",
    _fits,
    _scratch,
    _fields,
    _array_bytes,
    _accepts,
    _expects,
    planes=True,
    header="tn_conv_dsp.h",
)
