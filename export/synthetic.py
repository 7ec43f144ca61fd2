"""Gives a candidate random weights and a plausible quantization, so that it can be compiled and timed untrained.

The kernels' work does not depend on the values but for where outputs are clamped and rounded, and for how far sums can
get. In the first, a range that ends where the activation does, as a converter chooses it, makes the cycles those of the
trained network; in the second, weights that are normal in every channel, as those of trained networks are: their mean
size over the largest agrees within a fifth in nearly every layer of MLPerf Tiny's convolutional models.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from export.graph import Activation, DType, Graph, Operator, OpKind, Quantization, Tensor

_WEIGHTED = (OpKind.CONV_2D, OpKind.DEPTHWISE_CONV_2D, OpKind.FULLY_CONNECTED)
_CLAMPED = (Activation.RELU, Activation.RELU6)
_SPREAD = 40.0
"""Standard deviation aimed at for every int8 output, so that values neither vanish nor saturate."""
_RELU6_RANGES, _OTHER_RANGES = (5.5, 6.0), (10.0, 16.0)
"""How wide the range of a layer's outputs may at most be, with RELU6 and without: a converter goes by the values that
it has seen, which normalization keeps in bounds."""


def with_random_weights(graph: Graph, seed: int = 0) -> Graph:
    """``graph`` with every constant filled and every int8 tensor quantized. The same seed gives the same graph."""
    rng = np.random.default_rng(seed)
    tensors = list(graph.tensors)
    for index in graph.inputs:
        tensors[index] = _quantized(tensors[index], 1 / 64, 0)
    for operator in graph.operators:
        source = tensors[operator.inputs[0]]
        assert source.quantization is not None
        scale, zero_point = source.quantization.scale, source.quantization.zero_point
        if operator.kind in _WEIGHTED:
            scale = _fill_weights(tensors, operator, scale, rng)
            zero_point = -128 if operator.activation in _CLAMPED else 3
        elif operator.kind is OpKind.ADD:
            other = tensors[operator.inputs[1]].quantization
            assert other is not None
            scale, zero_point = math.hypot(scale, other.scale), -5
            if operator.activation is Activation.RELU6:
                scale, zero_point = _limited(scale, operator, rng), -128
        elif operator.kind is OpKind.MEAN:
            zero_point = -128
        elif operator.kind is OpKind.SOFTMAX:
            scale, zero_point = 1 / 256, -128
        for output in operator.outputs:
            tensors[output] = _quantized(tensors[output], scale, zero_point)
    return dataclasses.replace(graph, tensors=tuple(tensors))


def _quantized(tensor: Tensor, scale: float, zero_point: int) -> Tensor:
    if tensor.dtype is not DType.INT8:
        return tensor
    rounded = float(np.float32(scale))  # a .tflite file stores scales as float32
    return dataclasses.replace(tensor, quantization=Quantization((rounded,), (zero_point,)))


def _limited(scale: float, operator: Operator, rng: np.random.Generator) -> float:
    """An output's scale, no larger than its range makes it."""
    widest = _RELU6_RANGES if operator.activation is Activation.RELU6 else _OTHER_RANGES
    return min(scale, rng.uniform(*widest) / 255)


def _fill_weights(tensors: list[Tensor], operator: Operator, input_scale: float, rng: np.random.Generator) -> float:
    """Draw weights and biases in place; return the output scale that keeps the outputs' spread."""
    weights = tensors[operator.inputs[1]]
    depthwise = operator.kind is OpKind.DEPTHWISE_CONV_2D
    channels = weights.shape[-1] if depthwise else weights.shape[0]
    taps = weights.elements // channels
    drawn = rng.standard_normal((channels, taps))
    values = np.rint(127 * drawn / np.abs(drawn).max(axis=1, keepdims=True)).astype(np.int8)
    # What the taps of a window add up to, of which those over the border add nothing.
    spread = float(np.sqrt(np.mean(values.astype(np.float64) ** 2))) * math.sqrt(taps * _inside(tensors, operator))
    # A smaller output scale takes smaller weights; integers stay the same.
    natural = spread * input_scale * 0.005
    output_scale = _limited(natural, operator, rng)
    shrunk = output_scale / natural
    scales = tuple(float(np.float32(shrunk * scale)) for scale in rng.uniform(0.004, 0.006, channels))
    tensors[operator.inputs[1]] = dataclasses.replace(
        weights,
        data=np.ascontiguousarray(values.T if depthwise else values).reshape(weights.shape),
        quantization=Quantization(scales, (0,) * channels, axis=3 if depthwise else 0),
    )
    if len(operator.inputs) > 2:
        bias = tensors[operator.inputs[2]]
        bound = int(spread * _SPREAD / 2)
        # With few taps a negative one may leave a channel at zero whatever the input, and then it would be left out.
        least = 0 if operator.activation in _CLAMPED else -bound
        tensors[operator.inputs[2]] = dataclasses.replace(
            bias,
            data=rng.integers(least, bound + 1, bias.shape, dtype=np.int32),
            quantization=Quantization(tuple(input_scale * scale for scale in scales), (0,) * channels),
        )
    return output_scale


def _inside(tensors: Sequence[Tensor], operator: Operator) -> float:
    """The share of a window's taps that lie inside of the input, in the mean of all windows."""
    window = operator.window
    if window is None:
        return 1.0
    source, target = tensors[operator.inputs[0]].shape, tensors[operator.outputs[0]].shape
    return math.prod(float(window.taps_inside(axis, source[axis + 1], target[axis + 1]).mean()) for axis in (0, 1))
