"""Twin of the depthwise kernel for narrow maps on Armv7E-M (``tn_depthwise_channels_dsp.h``): four channels at a time.

Signals of one column are such maps. The other kernels go along rows, one channel after the other, and spend more on
getting there than on a few columns, or on few taps.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from export import numerics
from export.graph import Graph, Operator, OpKind
from export.kernels.dsp_depthwise import is_3x3, is_plain
from export.kernels.dsp_rounding import two_roundings_of
from export.kernels.generic import folded_weights, geometry
from export.kernels.kernel import Fields, Kernel
from export.kernels.single_rounding import single_roundings
from export.numerics import quantization_of

GROUP = 4
"""Channels that are computed together."""
_UNIT = 256
"""What the kernel multiplies sums by."""
_FINISH_WORDS = 1 + 2 * GROUP
"""Words of a group besides its weights: shifts, biases and multipliers."""

# Measured on the emulated mps2-an386 against the kernels that go along rows.
_COLUMNS = 6
_TAPS = 6
"""Windows of no more taps than these, or of one column, are faster here whatever the map's width."""
_COLUMNS_3X3 = 4
_COLUMNS_3X3_PLANES = 2
"""3×3 kernels of their own read planes, if a convolution writes them."""


def _can_run(graph: Graph, operator: Operator) -> bool:
    """At least one group of channels, and input rows in every window."""
    window = operator.window
    assert window is not None
    source, target = graph.input_tensors(operator)[0], graph.output_tensor(operator)
    last = (target.shape[1] - 1) * window.stride[0] - window.padding[0]
    inside = window.padding[0] < window.kernel[0] and last < source.shape[1]
    return is_plain(graph, operator) and target.shape[3] >= GROUP and inside


def _fits(graph: Graph, operator: Operator) -> bool:
    assert operator.window is not None
    rows, columns = operator.window.kernel
    is_better = graph.output_tensor(operator).shape[2] <= _COLUMNS or rows * columns <= _TAPS or columns == 1
    return _can_run(graph, operator) and is_better


def _fits_3x3(graph: Graph, operator: Operator) -> bool:
    produced = any(other.outputs[0] == operator.inputs[0] and other.kind is OpKind.CONV_2D for other in graph.operators)
    columns = _COLUMNS_3X3_PLANES if produced else _COLUMNS_3X3
    is_narrow = graph.output_tensor(operator).shape[2] <= columns
    return _can_run(graph, operator) and is_3x3(graph, operator) and is_narrow


def _taps(operator: Operator) -> int:
    """The window's taps and what is added to them: one tap, and then one pair of taps or more, are computed."""
    assert operator.window is not None
    rows, columns = operator.window.kernel
    return max(3, rows * columns | 1)


def _scratch(graph: Graph, operator: Operator) -> int:
    """Where each tap's pixel lies, and a pixel of zero points."""
    channels = graph.output_tensor(operator).shape[-1]
    return 4 * _taps(operator) + -(-channels // 4) * 4


def first_channels(channels: int) -> list[int]:
    """The groups' first channels, in the kernel's order."""
    return [max(0, first) for first in range(channels - GROUP, -GROUP, -GROUP)]


def pack_weights(weights: numerics.Int8Array, taps: int) -> numerics.Int32Array:
    """Pack a group's weights, one row per channel, into ``taps`` words: the first tap, then pairs of taps."""
    padded = np.zeros((GROUP, taps), np.int8)
    padded[:, : weights.shape[1]] = weights
    # By pair: channels 0 and 1 of either tap, and then channels 2 and 3.
    pairs = padded[:, 1:].reshape(2, 2, -1, 2).transpose(2, 0, 3, 1)
    return np.concatenate([padded[:, 0], pairs.ravel()]).view("<i4")


def pack_groups(
    weights: numerics.Int8Array, bias: numerics.Int32Array, taps: int, requantization: numerics.Requantization
) -> numerics.Int32Array | None:
    """Pack all groups, whose weights are column by column; None if some channel can be rounded neither way.

    A group is rounded once where that gives LiteRT's outputs for all its channels (``export.kernels.single_rounding``).
    """
    least, most = numerics.accumulator_range(weights, bias)
    two = two_roundings_of(requantization, least, most)
    one, once = single_roundings(requantization, least, most, unit=_UNIT)
    words = []
    for first in first_channels(len(weights)):
        group = slice(first, first + GROUP)
        taken, sums = weights[group], bias[group].astype(np.int64)
        if np.all(once[group]):
            varying = ~one.constant[group]
            taken = np.where(varying[:, None], taken, 0).astype(np.int8)
            sums = np.where(varying, _UNIT * sums, 0) + one.offsets[group]
            multipliers, shifts = one.multipliers[group], np.zeros(GROUP, np.int8)
        elif np.all(two.works[group]):
            # The last bit is shifted out by itself.
            multipliers, shifts = two.multipliers[group], (two.shifts[group] - 1).astype(np.int8)
        else:
            return None
        finish = np.column_stack([sums, multipliers]).ravel() & 0xFFFFFFFF
        words += [pack_weights(taken, taps), shifts.view("<i4"), finish.astype("<u4").view("<i4")]
    return np.concatenate(words).astype(np.int32)


def _groups(graph: Graph, operator: Operator) -> numerics.Int32Array | None:
    assert operator.window is not None
    weights, bias = folded_weights(graph, operator)
    by_column = weights.reshape(-1, *operator.window.kernel).transpose(0, 2, 1).reshape(weights.shape)
    return pack_groups(by_column, bias, _taps(operator), numerics.conv_requantization(graph, operator))


def _accepts(graph: Graph, operator: Operator) -> bool:
    ranges = numerics.accumulator_range(*folded_weights(graph, operator))
    two = two_roundings_of(numerics.conv_requantization(graph, operator), *ranges)
    return bool(np.all(two.works)) or _groups(graph, operator) is not None


def _fields(graph: Graph, operator: Operator) -> Fields:
    requantization = numerics.conv_requantization(graph, operator)
    return {
        **geometry(graph, operator),
        "input_zero_point": quantization_of(graph.input_tensors(operator)[0]).zero_point,
        "output_zero_point": requantization.output_zero_point,
        "minimum": requantization.minimum,
        "maximum": requantization.maximum,
        "taps": _taps(operator),
        "groups": _groups(graph, operator),
    }


def _arrays(graph: Graph, operator: Operator) -> tuple[int, ...]:
    groups = -(-graph.output_tensor(operator).shape[-1] // GROUP)
    return (4 * groups * (_taps(operator) + _FINISH_WORDS),)


def _kernel(fits: Callable[[Graph, Operator], bool]) -> Kernel:
    return Kernel(
        "tn_depthwise_channels_dsp_s8",
        "tn_depthwise_channels_dsp_layer",
        fits,
        _scratch,
        _fields,
        _arrays,
        _accepts,
        header="tn_depthwise_channels_dsp.h",
    )


DEPTHWISE_CHANNELS_DSP = _kernel(_fits)
DEPTHWISE_3X3_CHANNELS_DSP = _kernel(_fits_3x3)
"""The same, to be preferred to the 3×3 kernels."""
