"""Twins of the Helium kernels (Armv8.1-M with its vector extension, Cortex-M55), which ``tn_mve.h`` describes.

The kernels' requantization is LiteRT's own, so they run every layer whose scales are below 1, but for the halves of
negative values: VRSHL rounds them up, LiteRT away from zero. To subtract one from a negative value first makes up for
that where the shift is not 0, and is needed only where the lower clamp is below the zero point.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from export import numerics
from export.graph import Graph, Operator
from export.kernels.dsp_add import litert_outputs
from export.kernels.dsp_fully_connected import ACCUMULATOR_LIMIT, high_word_requantization
from export.kernels.generic import folded_weights, geometry
from export.kernels.kernel import Fields, Kernel
from export.numerics import INT8_MAX, INT8_MIN, Requantization, add_parameters, quantization_of

Int64Array = npt.NDArray[np.int64]

_HEADER = "tn_mve.h"
_LANES = 16
_PIXELS = 3
"""Pixels that a dense convolution computes at once."""
_LARGEST_BLOCK = 8 * _PIXELS
_GATHERED_BYTES = 1024
"""What the windows gathered at a time should not exceed."""
_POINTER_BYTES = 4
_FRACTIONS = 3
"""How many numbers of fraction bits are tried for the line that stands in for an addition."""
_FARTHEST = 4
"""How far from the nearest factors others are tried."""
_INT8 = np.arange(INT8_MIN, INT8_MAX + 1, dtype=np.int64)


def _rounds_away(requantization: Requantization) -> bool:
    """Whether the rounding of negative halves can be seen in the output."""
    return requantization.minimum < requantization.output_zero_point


def _shifts_right(requantization: Requantization, *, always: bool) -> bool:
    """Whether no shift is to the left, and, if ``always``, none is 0."""
    # A multiplier of 0 makes a value of 0 of every sum, whatever the shift.
    return bool(np.all((requantization.shifts <= (-1 if always else 0)) | (requantization.multipliers == 0)))


def _zero_points_and_clamps(graph: Graph, operator: Operator) -> dict[str, object]:
    requantization = numerics.conv_requantization(graph, operator)
    return {
        "input_zero_point": quantization_of(graph.input_tensors(operator)[0]).zero_point,
        "output_zero_point": requantization.output_zero_point,
        "minimum": requantization.minimum,
        "maximum": requantization.maximum,
    }


# --- dense convolutions -----------------------------------------------------------------------------------------------


def _accepts_conv(graph: Graph, operator: Operator) -> bool:
    requantization = numerics.conv_requantization(graph, operator)
    return _shifts_right(requantization, always=_rounds_away(requantization))


def _fits_conv(graph: Graph, operator: Operator) -> bool:
    return operator.groups == 1 and graph.output_tensor(operator).shape[-1] > 1


def _fits_conv_1x1(graph: Graph, operator: Operator) -> bool:
    window = operator.window
    assert window is not None
    source, target = graph.input_tensors(operator)[0], graph.output_tensor(operator)
    inside = all(
        (outputs - 1) * stride < inputs
        for outputs, stride, inputs in zip(target.shape[1:3], window.stride, source.shape[1:3], strict=True)
    )
    return _fits_conv(graph, operator) and window.kernel == (1, 1) and window.padding == (0, 0) and inside


def _fits_conv_window(graph: Graph, operator: Operator) -> bool:
    return _fits_conv(graph, operator) and not _fits_conv_1x1(graph, operator)


def is_columns_first(graph: Graph, operator: Operator) -> bool:
    """Whether windows are gathered column by column, which copies no input twice, but more and shorter pieces."""
    window = operator.window
    assert window is not None
    return window.dilation[1] == 1 and window.kernel[1] * graph.input_tensors(operator)[0].shape[-1] > _LANES


def block_columns(graph: Graph, operator: Operator) -> int:
    """Output columns whose windows are gathered at a time."""
    blocks = range(_PIXELS, _LARGEST_BLOCK + 1, _PIXELS)
    sizes = [block for block in blocks if _windows_bytes(graph, operator, block) <= _GATHERED_BYTES]
    return max(sizes, default=_PIXELS)


def _windows_bytes(graph: Graph, operator: Operator, block: int) -> int:
    window = operator.window
    assert window is not None
    channels, columns = graph.input_tensors(operator)[0].shape[-1], graph.output_tensor(operator).shape[2]
    block = min(block, columns)
    rows, width = window.kernel
    if is_columns_first(graph, operator):
        return ((block - 1) * window.stride[1] + width) * rows * channels
    return block * width * rows * channels


def _conv_scratch(graph: Graph, operator: Operator) -> int:
    assert operator.window is not None
    return _POINTER_BYTES * operator.window.kernel[0] + _windows_bytes(graph, operator, block_columns(graph, operator))


def _conv_fields(graph: Graph, operator: Operator) -> Fields:
    weights, bias = folded_weights(graph, operator)
    requantization = numerics.conv_requantization(graph, operator)
    by_column = is_columns_first(graph, operator)
    if by_column:
        shape = graph.input_tensors(operator)[1].shape
        weights = np.ascontiguousarray(weights.reshape(shape).swapaxes(1, 2))
    return {
        **geometry(graph, operator),
        "block": block_columns(graph, operator),
        "columns_first": int(by_column),
        "away": int(_rounds_away(requantization)),
        **_zero_points_and_clamps(graph, operator),
        "weights": weights.ravel(),
        "bias": bias,
        "multipliers": requantization.multipliers,
        "shifts": requantization.shifts,
    }


def _conv_arrays(graph: Graph, operator: Operator) -> tuple[int, ...]:
    channels = graph.output_tensor(operator).shape[-1]
    return graph.input_tensors(operator)[1].elements, 4 * channels, 4 * channels, channels


CONV_1X1_MVE = Kernel(
    name="tn_conv_1x1_mve_s8",
    struct="tn_conv_mve_layer",
    fits=_fits_conv_1x1,
    scratch_bytes=lambda graph, operator: 0,
    fields=_conv_fields,
    array_bytes=_conv_arrays,
    accepts=_accepts_conv,
    header=_HEADER,
)
CONV_MVE = Kernel(
    name="tn_conv_mve_s8",
    struct="tn_conv_mve_layer",
    fits=_fits_conv_window,
    scratch_bytes=_conv_scratch,
    fields=_conv_fields,
    array_bytes=_conv_arrays,
    accepts=_accepts_conv,
    header=_HEADER,
)


# --- depthwise convolutions -------------------------------------------------------------------------------------------

_SUM_ORDER = np.array([4 * lane + vector for vector in (0, 2, 1, 3) for lane in range(4)])
_SHIFT_ORDER = np.array([4 * lane + vector for lane in range(4) for vector in (0, 2, 1, 3)])


def _fits_depthwise(graph: Graph, operator: Operator) -> bool:
    window = operator.window
    assert window is not None
    source, target = graph.input_tensors(operator)[0], graph.output_tensor(operator)
    reach = (window.kernel[1] - 1) * window.dilation[1]
    return source.shape[-1] == target.shape[-1] and window.padding[1] <= reach


def _accepts_depthwise(graph: Graph, operator: Operator) -> bool:
    """Two products must fit into 16 bits, so no weight may be -128."""
    weights, _ = folded_weights(graph, operator)
    requantization = numerics.conv_requantization(graph, operator)
    always = not _is_plain(requantization)
    return bool(weights.min(initial=0) > INT8_MIN) and _shifts_right(requantization, always=always)


def _is_plain(requantization: Requantization) -> bool:
    """Whether saturation is all the clamp there is, and hides how negative halves are rounded."""
    clamps = requantization.minimum, requantization.maximum
    return requantization.output_zero_point == INT8_MIN and clamps == (INT8_MIN, INT8_MAX)


def _is_flat(graph: Graph, operator: Operator) -> bool:
    """Whether vectors run across pixels: their channels' weights repeat within a vector."""
    assert operator.window is not None
    _, _, columns, channels = graph.output_tensor(operator).shape
    return operator.window.stride[1] == 1 and _LANES % channels == 0 and columns * channels >= _LANES


def _depthwise_scratch(graph: Graph, operator: Operator) -> int:
    window = operator.window
    assert window is not None
    _, _, columns, channels = graph.output_tensor(operator).shape
    rows, width = window.kernel
    pointers = _POINTER_BYTES * (rows + 2 * 4 * -(-rows * width // 4))
    if _is_flat(graph, operator):
        return pointers + rows * (columns + (width - 1) * window.dilation[1]) * channels
    return pointers + (channels if channels >= _LANES else _LANES * (1 + rows * width))


def _block_channels(graph: Graph, operator: Operator) -> npt.NDArray[np.intp]:
    """The channels of each block: [blocks, 16], -1 where there is none."""
    channels = graph.output_tensor(operator).shape[-1]
    if channels < _LANES:
        lanes = np.arange(_LANES)
        return (lanes % channels if _is_flat(graph, operator) else np.where(lanes < channels, lanes, -1))[np.newaxis]
    first = np.minimum(np.arange(0, channels, _LANES), channels - _LANES)
    return np.asarray(first[:, np.newaxis] + np.arange(_LANES))


def _depthwise_fields(graph: Graph, operator: Operator) -> Fields:
    weights, bias = folded_weights(graph, operator)
    requantization = numerics.conv_requantization(graph, operator)
    chosen = _block_channels(graph, operator)

    def of_blocks(values: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        """[blocks, 16, ...], with zeros where there is no channel."""
        return np.concatenate([values, np.zeros_like(values[:1])])[chosen]

    taps = np.ascontiguousarray(of_blocks(weights).swapaxes(1, 2)).reshape(len(chosen), -1).view("<i4")
    shifts = np.ascontiguousarray(of_blocks(requantization.shifts)[:, _SHIFT_ORDER]).view("<i4")
    parts = [of_blocks(bias)[:, _SUM_ORDER], taps, of_blocks(requantization.multipliers)[:, _SUM_ORDER], shifts]
    return {
        **geometry(graph, operator),
        "plain": int(_is_plain(requantization)),
        "flat": int(_is_flat(graph, operator)),
        **_zero_points_and_clamps(graph, operator),
        "blocks": np.concatenate(parts, axis=1).astype(np.int32).ravel(),
    }


def _depthwise_arrays(graph: Graph, operator: Operator) -> tuple[int, ...]:
    assert operator.window is not None
    blocks = -(-graph.output_tensor(operator).shape[-1] // _LANES)
    return (blocks * _LANES * (4 + math.prod(operator.window.kernel) + 4 + 1),)


DEPTHWISE_MVE = Kernel(
    name="tn_depthwise_mve_s8",
    struct="tn_depthwise_mve_layer",
    fits=_fits_depthwise,
    scratch_bytes=_depthwise_scratch,
    fields=_depthwise_fields,
    array_bytes=_depthwise_arrays,
    accepts=_accepts_depthwise,
    header=_HEADER,
)


# --- fully connected layers -------------------------------------------------------------------------------------------


def _fits_fully_connected(graph: Graph, operator: Operator) -> bool:
    return 1 < graph.input_tensors(operator)[1].shape[0] < 1 << 16


def _accepts_fully_connected(graph: Graph, operator: Operator) -> bool:
    weights, bias = folded_weights(graph, operator)
    least, most = numerics.accumulator_range(weights, bias)
    if max(-least.min(), most.max()) >= ACCUMULATOR_LIMIT:
        return False
    return high_word_requantization(graph, operator, least, most) is not None


def _fully_connected_fields(graph: Graph, operator: Operator) -> Fields:
    weights, bias = folded_weights(graph, operator)
    ranges = numerics.accumulator_range(weights, bias)
    requantization = high_word_requantization(graph, operator, *ranges)
    assert requantization is not None, "the kernel was chosen for a layer that it does not accept"
    outputs, inputs = weights.shape
    return {
        "batches": graph.input_tensors(operator)[0].elements // inputs,
        "inputs": inputs,
        "outputs": outputs,
        "per_channel": int(len(requantization.multipliers) > 1),
        "minimum": requantization.minimum,
        "maximum": requantization.maximum,
        "rounding": requantization.rounding,
        "shift": -requantization.shift,
        "weights": weights.ravel(),
        "bias": bias,
        "multipliers": requantization.multipliers.astype(np.int32),
    }


def _fully_connected_arrays(graph: Graph, operator: Operator) -> tuple[int, ...]:
    weights = graph.input_tensors(operator)[1]
    outputs = weights.shape[0]
    # A candidate is taken to be quantized per channel, as today's converter does it.
    scales = outputs if weights.quantization is None else len(weights.quantization.scales)
    return weights.elements, 4 * outputs, 4 * scales


FULLY_CONNECTED_MVE = Kernel(
    name="tn_fully_connected_mve_s8",
    struct="tn_fully_connected_mve_layer",
    fits=_fits_fully_connected,
    scratch_bytes=lambda graph, operator: 0,
    fields=_fully_connected_fields,
    array_bytes=_fully_connected_arrays,
    accepts=_accepts_fully_connected,
    header=_HEADER,
)


# --- additions --------------------------------------------------------------------------------------------------------


def _has_scales(graph: Graph, operator: Operator) -> bool:
    tensors = (*graph.input_tensors(operator), graph.output_tensor(operator))
    return all(tensor.quantization is not None for tensor in tensors)


def _line(graph: Graph, operator: Operator) -> tuple[tuple[int, int], int, int] | None:
    """Factors, offset and shift of one line through both inputs, equal to LiteRT for all pairs; None if none is."""
    parameters = add_parameters(graph, operator)
    output_scale = quantization_of(graph.output_tensor(operator)).scale
    ratios = [quantization_of(tensor).scale / output_scale for tensor in graph.input_tensors(operator)]
    exact = litert_outputs(parameters)
    is_open_below, is_open_above = exact > parameters.minimum, exact < parameters.maximum
    # The more bits of fraction the better, as long as a sum fits into 32 bits: it is below 256 * (ratios + 1).
    most_bits = 31 - math.floor(math.log2(256 * (sum(ratios) + 1)))
    for bits in range(most_bits, most_bits - _FRACTIONS, -1):
        if bits < 1:
            return None
        for factor_a, factor_b in _close_by(*(round(ratio * (1 << bits)) for ratio in ratios)):
            products = (_INT8 * factor_a)[:, np.newaxis] + _INT8 * factor_b
            # What each pair demands of the offset. Sums beyond a clamp may lie as far beyond as they like.
            offsets = (exact << bits) - products
            least = int(offsets.max(initial=-(1 << 31), where=is_open_below))
            most = int(offsets.min(initial=(1 << 31) - (1 << bits), where=is_open_above)) + (1 << bits) - 1
            offset = (least + most) >> 1
            fits = max(map(abs, (int(products.min()) + offset, int(products.max()) + offset, offset))) < 1 << 31
            if least <= most and fits:
                return (factor_a, factor_b), offset, -bits
    return None


def _close_by(factor_a: int, factor_b: int) -> Iterator[tuple[int, int]]:
    """The factors, then others nearby, the nearest first."""
    for distance in range(_FARTHEST + 1):
        for step_a in range(-distance, distance + 1):
            for step_b in range(-distance, distance + 1):
                if max(abs(step_a), abs(step_b)) == distance:
                    yield factor_a + step_a, factor_b + step_b


def _accepts_add(graph: Graph, operator: Operator) -> bool:
    # An addition has no constants that would tell a candidate.
    return not _has_scales(graph, operator) or _line(graph, operator) is not None


def _add_fields(graph: Graph, operator: Operator) -> Fields:
    line = _line(graph, operator)
    assert line is not None, "the kernel was chosen for a layer that it does not accept"
    factors, offset, shift = line
    parameters = add_parameters(graph, operator)
    return {
        "elements": graph.output_tensor(operator).elements,
        "factors": factors,
        "offset": offset,
        "shift": shift,
        "minimum": parameters.minimum,
        "maximum": parameters.maximum,
    }


ADD_MVE = Kernel(
    name="tn_add_mve_s8",
    struct="tn_add_mve_layer",
    fits=lambda graph, operator: True,
    scratch_bytes=lambda graph, operator: 0,
    fields=_add_fields,
    array_bytes=lambda graph, operator: (),
    accepts=_accepts_add,
    header=_HEADER,
)
