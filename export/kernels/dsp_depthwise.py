"""Twins of the depthwise kernels for Armv7E-M (``tn_depthwise_dsp.h``): multiplier 1, dilation 1.

Windows of 3×3 have cores of their own, whose weights are halfwords of 256 × w and whose requantization is one
multiplication (``single_rounding``). All other windows, and layers without such a multiplication, run on a kernel that
takes four columns of weights at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from export import numerics
from export.graph import Graph, Operator
from export.kernels.generic import folded_weights, geometry
from export.kernels.kernel import Fields, Kernel
from export.kernels.single_rounding import Int64Array, single_roundings
from export.numerics import quantization_of

_CHANNEL_WORDS = 5
_UNITS = (256, 1)
"""What weights may be multiplied by, the one to prefer first; 1 serves scales below 2^-11."""
_GATHERED_BYTES = 320
"""The 3×3 kernels gather four channels at a time, which is faster than one, if their rows take no more."""
_ACCUMULATOR_LIMIT = 1 << 23
_SCALED_BITS = 7
"""Bits of fraction in what SMMLA leaves of 256 × accumulator × multiplier."""
_LARGEST_EXPONENT = 24 - _SCALED_BITS
"""Beyond it the zero point would leave 32 bits."""


def is_plain(graph: Graph, operator: Operator) -> bool:
    """Multiplier 1 and dilation 1."""
    assert operator.window is not None
    source, target = graph.input_tensors(operator)[0], graph.output_tensor(operator)
    return source.shape[-1] == target.shape[-1] and operator.window.dilation == (1, 1)


# --- 3 × 3 ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Columns:
    """How the columns that 3×3 windows read are computed: some first ones by themselves, blocks of four, the rest."""

    start: int
    """0: a column of padding with a stride of 1, nothing with a stride of 2; 1: a column; 2: padding and a column."""
    blocks: int
    tail: int
    right: int
    """Columns of padding at the end."""

    read: int
    """Columns that are read from the row's first one on, since words are."""


def columns_3x3(graph: Graph, operator: Operator) -> Columns:
    """The columns of a layer that ``is_3x3``."""
    assert operator.window is not None
    if _is_narrow(graph, operator):
        tail = graph.input_tensors(operator)[0].shape[2] - 4
        return Columns(0, 1, tail, 1, 8 if tail == 3 else 4 + tail)
    size, outputs = graph.input_tensors(operator)[0].shape[2], graph.output_tensor(operator).shape[2]
    stride, left = operator.window.stride[1], operator.window.padding[1]
    needed = (outputs - 1) * stride + 3 - left
    right = max(needed - size, 0)
    columns = needed - right
    # With a stride of 1, after padding and a column, blocks may be all that is left.
    padded = stride == 2 or (columns % 4 == 1 and columns > 1)
    start = (2 if padded else 0) if left else stride % 2
    blocks, tail = divmod(columns - min(start, 1), 4)
    return Columns(start, blocks, tail, right, min(start, 1) + 4 * (blocks + (tail > 0)))


def is_3x3(graph: Graph, operator: Operator) -> bool:
    """A 3×3 window with at most one row or column of padding on any side."""
    window = operator.window
    assert window is not None
    if not is_plain(graph, operator) or window.kernel != (3, 3):
        return False
    sizes, outputs = graph.input_tensors(operator)[0].shape[1:3], graph.output_tensor(operator).shape[1:3]
    after = [
        (count - 1) * stride + 3 - before - size
        for size, count, stride, before in zip(sizes, outputs, window.stride, window.padding, strict=True)
    ]
    return max(*window.padding, *after) <= 1


def _has_stride_1(graph: Graph, operator: Operator) -> bool:
    assert operator.window is not None
    return is_3x3(graph, operator) and operator.window.stride[1] == 1


def _has_stride_2(graph: Graph, operator: Operator) -> bool:
    assert operator.window is not None
    return is_3x3(graph, operator) and operator.window.stride[1] == 2


def _is_narrow(graph: Graph, operator: Operator) -> bool:
    """One block of columns and more, between columns of padding."""
    assert operator.window is not None
    size, outputs = graph.input_tensors(operator)[0].shape[2], graph.output_tensor(operator).shape[2]
    return _has_stride_1(graph, operator) and operator.window.padding[1] == 1 and size == outputs and 5 <= size <= 7


def _row_bytes(graph: Graph, operator: Operator) -> int:
    """Bytes of one gathered row of one channel."""
    return -(-graph.input_tensors(operator)[0].shape[2] // 4) * 4


def _gather_channels(graph: Graph, operator: Operator) -> int:
    """Channels of NHWC rows that are gathered at a time."""
    _, _, _, channels = graph.input_tensors(operator)[0].shape
    four = channels >= 4 and 4 * 3 * _row_bytes(graph, operator) <= _GATHERED_BYTES
    return 4 if four else 1


def _scratch_3x3(graph: Graph, operator: Operator) -> int:
    """Gathered rows, and a word that the last one's last columns may reach into."""
    return _gather_channels(graph, operator) * 3 * _row_bytes(graph, operator) + 4


@dataclass(frozen=True, slots=True, eq=False)
class ScaledRounding:
    """By channel, how sums become outputs: what weights are multiplied by, and the rounding that goes with it."""

    units: Int64Array
    offsets: Int64Array
    multipliers: Int64Array


def rounding_3x3(requantization: numerics.Requantization, least: Int64Array, most: Int64Array) -> ScaledRounding | None:
    """The rounding for sums in [least, most]; None if some channel has none."""
    units = np.full(len(least), -1, np.int64)
    offsets, multipliers = np.zeros_like(units), np.zeros_like(units)
    for unit in _UNITS:
        rounding, found = single_roundings(requantization, least, most, unit=unit)
        new = found & (units < 0)
        units[new] = np.where(rounding.constant, 0, unit)[new]
        offsets[new], multipliers[new] = rounding.offsets[new], rounding.multipliers[new]
    return ScaledRounding(units, offsets, multipliers) if np.all(units >= 0) else None


def _rounding(graph: Graph, operator: Operator) -> ScaledRounding | None:
    weights, bias = folded_weights(graph, operator)
    return rounding_3x3(numerics.conv_requantization(graph, operator), *numerics.accumulator_range(weights, bias))


def pack_3x3(weights: numerics.Int8Array, bias: numerics.Int32Array, rounding: ScaledRounding) -> numerics.Int32Array:
    """Pack each channel into five words: three of weights, then the bias and the multiplier of its rounding.

    The weights' bytes are, from the lowest, (01 00 11 10) (21 02 20 12) (0 0 0 22), where digits are row and column. A
    multiplier whose highest bit is set is for weights as they are, others for weights times 256.
    """
    taps = np.where(rounding.units[:, None], weights, 0).astype(np.int8).view(np.uint8).reshape(-1, 3, 3)
    packed = np.zeros((len(taps), 12), np.uint8)
    packed[:, [0, 1, 2, 3, 4, 5, 6, 7, 11]] = taps[:, [0, 0, 1, 1, 2, 0, 2, 1, 2], [1, 0, 1, 0, 1, 2, 0, 2, 2]]
    words = np.ascontiguousarray(packed).view("<i4").reshape(-1, 3).astype(np.int64)
    sums = rounding.units * bias.astype(np.int64) + rounding.offsets
    unscaled = (rounding.units == 1).astype(np.int64) << 31
    channels = np.column_stack([words, sums, rounding.multipliers | unscaled])
    return (channels & 0xFFFFFFFF).astype(np.uint32).view(np.int32).ravel()


def _fields_3x3(graph: Graph, operator: Operator) -> Fields:
    weights, bias = folded_weights(graph, operator)
    rounding = _rounding(graph, operator)
    assert rounding is not None
    requantization = numerics.conv_requantization(graph, operator)
    source, columns = graph.input_tensors(operator)[0], columns_3x3(graph, operator)
    return {
        **geometry(graph, operator),
        "input_zero_point": quantization_of(source).zero_point,
        "minimum": requantization.minimum,
        "maximum": requantization.maximum,
        "start": columns.start,
        "tail": columns.tail,
        "right": columns.right,
        "reaching": min(source.shape[3], max(0, columns.read - 1) // source.shape[2]),
        "block_columns": 4 * columns.blocks,
        "gather_channels": _gather_channels(graph, operator),
        "channels": pack_3x3(weights, bias, rounding),
    }


def _accepts_3x3(graph: Graph, operator: Operator) -> bool:
    return _rounding(graph, operator) is not None


def _arrays_3x3(graph: Graph, operator: Operator) -> tuple[int, ...]:
    return (4 * _CHANNEL_WORDS * graph.output_tensor(operator).shape[-1],)


def _kernel_3x3(name: str, fits: Callable[[Graph, Operator], bool]) -> Kernel:
    return Kernel(
        name,
        "tn_depthwise_3x3_dsp_layer",
        fits,
        _scratch_3x3,
        _fields_3x3,
        _arrays_3x3,
        _accepts_3x3,
        planes=True,
        header="tn_depthwise_dsp.h",
    )


DEPTHWISE_3X3_DSP = _kernel_3x3("tn_depthwise_3x3_dsp_s8", _has_stride_1)
DEPTHWISE_3X3_NARROW_DSP = _kernel_3x3("tn_depthwise_3x3_narrow_dsp_s8", _is_narrow)
DEPTHWISE_3X3_STRIDE2_DSP = _kernel_3x3("tn_depthwise_3x3_stride2_dsp_s8", _has_stride_2)


# --- any window -------------------------------------------------------------------------------------------------------


def _weight_bytes(operator: Operator) -> int:
    """Bytes of one channel's weights: words, and a single byte if that is all that is left."""
    assert operator.window is not None
    rows, columns = operator.window.kernel
    taps = rows * columns
    return taps if taps % 4 == 1 else -(-taps // 4) * 4


def _scratch(graph: Graph, operator: Operator) -> int:
    """One channel's padded rows, with what a multiple of four windows reads."""
    assert operator.window is not None
    (rows, columns), stride = operator.window.kernel, operator.window.stride[1]
    outputs = -(-graph.output_tensor(operator).shape[2] // 4) * 4
    return -(-((outputs - 1) * stride * rows + max(rows * columns, _weight_bytes(operator))) // 4) * 4


def _accepts(graph: Graph, operator: Operator) -> bool:
    """No left shifts, and accumulators that still fit into 32 bits when multiplied by 256."""
    requantization = numerics.conv_requantization(graph, operator)
    least, most = numerics.accumulator_range(*folded_weights(graph, operator))
    exponents = -requantization.shifts.astype(np.int64)
    if np.any(exponents < 0) or max(-least.min(), most.max()) >= _ACCUMULATOR_LIMIT:
        return False
    scaled = np.maximum(-least, most) * requantization.multipliers.astype(np.int64) >> (31 - _SCALED_BITS)
    rounding = (abs(requantization.output_zero_point) + 1) << (exponents + _SCALED_BITS)
    return bool(np.all(exponents <= _LARGEST_EXPONENT) and np.all(scaled + rounding + 256 < 1 << 31))


def _fields(graph: Graph, operator: Operator) -> Fields:
    weights, bias = folded_weights(graph, operator)
    assert operator.window is not None
    channels, taps = weights.shape
    by_column = weights.reshape(channels, *operator.window.kernel).transpose(0, 2, 1).reshape(channels, taps)
    packed = np.zeros((channels, _weight_bytes(operator)), np.int8)
    packed[:, :taps] = by_column
    requantization = numerics.conv_requantization(graph, operator)
    return {
        **geometry(graph, operator),
        "input_zero_point": quantization_of(graph.input_tensors(operator)[0]).zero_point,
        "weights": packed.ravel(),
        "bias": bias,
        "requantization": {
            "multipliers": requantization.multipliers,
            "shifts": requantization.shifts,
            "output_zero_point": requantization.output_zero_point,
            "minimum": requantization.minimum,
            "maximum": requantization.maximum,
        },
    }


def _arrays(graph: Graph, operator: Operator) -> tuple[int, ...]:
    channels = graph.output_tensor(operator).shape[-1]
    return channels * _weight_bytes(operator), 4 * channels, 4 * channels, channels


DEPTHWISE_DSP = Kernel(
    "tn_depthwise_dsp_s8",
    "tn_depthwise_dsp_layer",
    is_plain,
    _scratch,
    _fields,
    _arrays,
    _accepts,
    planes=True,
    header="tn_depthwise_dsp.h",
)
