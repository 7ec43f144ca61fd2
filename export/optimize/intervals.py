"""Between which int8 values each channel of each activation lies, whatever the model's input.

Sound, not tight: no input leads outside of the interval, though some of its values may never occur. Every operator is
monotone in each of its inputs (or in their products with a weight of known sign), and so are LiteRT's roundings; so the
ends of an output's interval follow exactly from the ends of its inputs'.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

from export import numerics
from export.graph import DType, Graph, Operator, OpKind, Tensor
from export.numerics import INT8_MAX, INT8_MIN, quantization_of
from export.optimize.edit import clamps

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

_INT32_LIMIT = 2**31


@dataclass(frozen=True, slots=True, eq=False)
class Interval:
    """The least and the largest value of each channel (element of the last axis) at any position."""

    low: IntArray
    high: IntArray

    @property
    def constant(self) -> BoolArray:
        """Which channels have one value only."""
        return np.asarray(self.low == self.high)


def channel_intervals(graph: Graph) -> dict[int, Interval]:
    """The intervals of every int8 activation. All constants must have data, all int8 tensors a quantization."""
    found: dict[int, Interval] = {}
    for index in graph.inputs:
        if graph.tensors[index].dtype is DType.INT8:
            found[index] = _anything(graph.tensors[index])
    for operator in graph.operators:
        target = graph.output_tensor(operator)
        if target.dtype is DType.INT8:
            found[operator.outputs[0]] = _output(graph, operator, found)
    return found


def weighted_rows(operator: Operator, weights: Tensor, channels: int) -> npt.NDArray[np.int8]:
    """Weights as [output channel, row, column, input channel]; depthwise as [output channel, row, column, 1].

    A fully connected layer's columns are so many positions of ``channels`` input channels.
    """
    data = np.asarray(weights.data, np.int8)
    if operator.kind is OpKind.DEPTHWISE_CONV_2D:
        return np.asarray(np.moveaxis(data[0], -1, 0)[..., np.newaxis])
    if operator.kind is OpKind.FULLY_CONNECTED:
        return data.reshape(len(data), 1, -1, channels)
    return data


def reads_padding(graph: Graph, operator: Operator) -> bool:
    """Whether any tap of a windowed operator ever lies outside of its input."""
    if operator.window is None:
        return False
    source, target = graph.input_tensors(operator)[0].shape, graph.output_tensor(operator).shape
    return not all(operator.window.taps_inside(axis, source[axis + 1], target[axis + 1]).all() for axis in (0, 1))


def _anything(tensor: Tensor) -> Interval:
    return _within(tensor, INT8_MIN, INT8_MAX)


def _within(tensor: Tensor, low: int, high: int) -> Interval:
    channels = tensor.shape[-1] if tensor.shape else 1
    return Interval(np.full(channels, low, np.int64), np.full(channels, high, np.int64))


def _output(graph: Graph, operator: Operator, found: dict[int, Interval]) -> Interval:
    target = graph.output_tensor(operator)
    sources = [found[index] for index in operator.inputs if index in found]
    if not sources or operator.kind is OpKind.SOFTMAX:
        return _anything(target)
    minimum, maximum = clamps(graph, operator)
    match operator.kind:
        case OpKind.CONV_2D | OpKind.DEPTHWISE_CONV_2D | OpKind.FULLY_CONNECTED:
            return _weighted(graph, operator, sources[0])
        case OpKind.ADD:
            return _sum(graph, operator, found)
        case OpKind.MAX_POOL_2D | OpKind.AVERAGE_POOL_2D:
            (source,) = sources
            return Interval(np.clip(source.low, minimum, maximum), np.clip(source.high, minimum, maximum))
        case OpKind.MEAN:
            return _mean(graph, operator, sources[0])
        case OpKind.QUANTIZE | OpKind.RELU | OpKind.RELU6:
            return _requantized(graph, operator, sources[0])
        case OpKind.PAD:
            return _padded(operator, sources[0], quantization_of(target).zero_point)
        case OpKind.RESHAPE:
            return _reshaped(sources[0], target)
        case OpKind.CONCATENATION if operator.axes[0] == len(target.shape) - 1:
            return Interval(
                np.concatenate([source.low for source in sources]), np.concatenate([source.high for source in sources])
            )
        case OpKind.CONCATENATION:
            low = np.minimum.reduce([source.low for source in sources])
            return Interval(low, np.maximum.reduce([source.high for source in sources]))
        case _:
            return _anything(target)


def _weighted(graph: Graph, operator: Operator, source: Interval) -> Interval:
    """Layers with weights: the least and largest accumulator of each output channel, requantized."""
    tensors, target = graph.input_tensors(operator), graph.output_tensor(operator)
    channels = len(source.low)
    if operator.kind is OpKind.FULLY_CONNECTED and tensors[1].shape[1] % channels:
        return _within(target, *clamps(graph, operator))
    weights = weighted_rows(operator, tensors[1], channels).astype(np.float64)  # sums stay below 2^53, hence exact
    zero_point = quantization_of(tensors[0]).zero_point
    low, high = (_per_output(end - zero_point, operator, target) for end in (source.low, source.high))
    positive, negative = np.maximum(weights, 0), np.minimum(weights, 0)
    tap_low, tap_high = _dot(positive, low) + _dot(negative, high), _dot(positive, high) + _dot(negative, low)
    least, largest = np.full(len(weights), np.inf), np.full(len(weights), -np.inf)
    for rows, columns in _window_forms(graph, operator, weights.shape[1:3]):
        inside = np.outer(rows, columns)
        least = np.minimum(least, tap_low[:, inside].sum(axis=1))
        largest = np.maximum(largest, tap_high[:, inside].sum(axis=1))
    if len(tensors) > 2:
        bias = np.asarray(tensors[2].data, np.float64).ravel()
        least, largest = least + bias, largest + bias
    return _requantized_sums(graph, operator, least.astype(np.int64), largest.astype(np.int64))


def _per_output(values: IntArray, operator: Operator, target: Tensor) -> FloatArray:
    """Input values as [output channel or 1, input channels of one output channel]."""
    channels = target.shape[-1]
    if operator.kind is OpKind.DEPTHWISE_CONV_2D:
        return np.repeat(values, channels // len(values)).astype(np.float64)[:, np.newaxis]
    if operator.groups > 1:
        return np.repeat(values.reshape(operator.groups, -1), channels // operator.groups, axis=0).astype(np.float64)
    return values.astype(np.float64)[np.newaxis]


def _dot(weights: FloatArray, values: FloatArray) -> FloatArray:
    """[output channel, row, column]: the products of every tap, summed over its input channels."""
    if len(values) == 1:
        return np.asarray(weights @ values[0])
    return np.asarray(np.einsum("orci,oi->orc", weights, values))


def _window_forms(graph: Graph, operator: Operator, kernel: tuple[int, ...]) -> list[tuple[BoolArray, BoolArray]]:
    """The different ways in which the layer's window meets the input's borders: which rows and columns lie inside."""
    window = operator.window
    if window is None:
        return [(np.ones(kernel[0], np.bool_), np.ones(kernel[1], np.bool_))]
    source, target = graph.input_tensors(operator)[0].shape, graph.output_tensor(operator).shape
    inside = (window.taps_inside(axis, source[axis + 1], target[axis + 1]) for axis in (0, 1))
    return list(product(*(np.unique(taps, axis=0) for taps in inside)))


def _requantized_sums(graph: Graph, operator: Operator, least: IntArray, largest: IntArray) -> Interval:
    magnitudes = np.maximum(np.abs(least), np.abs(largest))
    if operator.kind is OpKind.FULLY_CONNECTED:
        wide = numerics.fully_connected_requantization(graph, operator)
        whole = wide.high * 2.0**31 + wide.low  # exact: the last 9 of its 62 bits are zeros
        scales = np.ldexp(whole, -31 - wide.shifts.astype(np.int32))
        fits = (magnitudes < _INT32_LIMIT) & (magnitudes * scales < _INT32_LIMIT)
        minimum, maximum, zero_point = wide.minimum, wide.maximum, wide.output_zero_point
        low, high = (_round(np.where(fits, end, 0) * scales) for end in (least, largest))
    else:
        plain = numerics.conv_requantization(graph, operator)
        multipliers, shifts = plain.multipliers.astype(np.int64), plain.shifts.astype(np.int64)
        fits = magnitudes < _INT32_LIMIT >> np.maximum(shifts, 0)
        minimum, maximum, zero_point = plain.minimum, plain.maximum, plain.output_zero_point
        low, high = (_multiply(np.where(fits, end, 0), multipliers, shifts) for end in (least, largest))
    # Sums that may leave 32 bits say nothing.
    low = np.where(fits, np.clip(low + zero_point, minimum, maximum), minimum)
    return Interval(low, np.where(fits, np.clip(high + zero_point, minimum, maximum), maximum))


def _multiply(values: IntArray, multiplier: IntArray | int, shift: IntArray | int) -> IntArray:
    """``tn_multiply_any``, elementwise: values × multiplier / 2^31 × 2^shift with LiteRT's two roundings."""
    high = ((values << np.maximum(shift, 0)) * multiplier + (1 << 30)) >> 31
    right = np.maximum(-np.asarray(shift, np.int64), 0)
    half = (np.int64(1) << right) >> 1
    return np.asarray((high + half - ((high < 0) & (right > 0))) >> right)


def _round(values: FloatArray) -> IntArray:
    """To nearest, halves away from zero."""
    whole = np.trunc(values)
    return np.asarray(whole + np.sign(values) * (np.abs(values - whole) >= 0.5), np.int64)


def _sum(graph: Graph, operator: Operator, found: dict[int, Interval]) -> Interval:
    parameters = numerics.add_parameters(graph, operator)
    first, second = (found[index] for index in operator.inputs)

    def add(*values: IntArray) -> IntArray:
        terms = [
            _multiply((value - zero_point) << 20, multiplier, shift)
            for value, zero_point, multiplier, shift in zip(
                values, parameters.zero_points, parameters.multipliers, parameters.shifts, strict=True
            )
        ]
        total = _multiply(terms[0] + terms[1], parameters.output_multiplier, parameters.output_shift)
        return np.clip(total + parameters.output_zero_point, parameters.minimum, parameters.maximum)

    return Interval(add(first.low, second.low), add(first.high, second.high))


def _mean(graph: Graph, operator: Operator, source: Interval) -> Interval:
    p = numerics.mean_parameters(graph, operator)
    if p.reduced * 255 << max(p.shift, 0) >= _INT32_LIMIT:
        return _anything(graph.output_tensor(operator))

    def mean(values: IntArray) -> IntArray:
        scaled = _multiply(p.reduced * (values - p.input_zero_point), p.multiplier, p.shift)
        return np.clip(scaled + p.output_zero_point, INT8_MIN, INT8_MAX)

    return Interval(mean(source.low), mean(source.high))


def _requantized(graph: Graph, operator: Operator, source: Interval) -> Interval:
    p = numerics.requantize_parameters(graph, operator)
    if 255 << max(p.shift, 0) >= _INT32_LIMIT:
        return _within(graph.output_tensor(operator), p.minimum, p.maximum)

    def requantize(values: IntArray) -> IntArray:
        scaled = _multiply(values - p.input_zero_point, p.multiplier, p.shift)
        return np.clip(scaled + p.output_zero_point, p.minimum, p.maximum)

    return Interval(requantize(source.low), requantize(source.high))


def _padded(operator: Operator, source: Interval, value: int) -> Interval:
    low, high = source.low, source.high
    if any(before or after for before, after in operator.pads[:-1]):
        low, high = np.minimum(low, value), np.maximum(high, value)
    amounts = operator.pads[-1]
    return Interval(np.pad(low, amounts, constant_values=value), np.pad(high, amounts, constant_values=value))


def _reshaped(source: Interval, target: Tensor) -> Interval:
    channels, wanted = len(source.low), target.shape[-1] if target.shape else 1
    if wanted % channels == 0:
        return Interval(np.tile(source.low, wanted // channels), np.tile(source.high, wanted // channels))
    if channels % wanted == 0:
        low, high = source.low.reshape(-1, wanted), source.high.reshape(-1, wanted)
        return Interval(low.min(axis=0), high.max(axis=0))
    return _within(target, int(source.low.min()), int(source.high.max()))
