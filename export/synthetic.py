"""Gives a candidate random weights and a plausible quantization, so that it can be compiled and timed untrained.

The kernels' work does not depend on the values but for where outputs are clamped and rounded, and in that a range that
ends where the activation does, as a converter chooses it, makes the cycles those of the trained network.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from export.graph import Activation, DType, Graph, Operator, OpKind, Quantization, Tensor

_WEIGHTED = (OpKind.CONV_2D, OpKind.DEPTHWISE_CONV_2D, OpKind.FULLY_CONNECTED)
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
            zero_point = -128 if operator.activation in (Activation.RELU, Activation.RELU6) else 3
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
    # Uniform int8 has a standard deviation of 73. A smaller output scale takes smaller weights; integers stay the same.
    natural = 73 * math.sqrt(taps) * input_scale * 0.005
    output_scale = _limited(natural, operator, rng)
    shrunk = output_scale / natural
    scales = tuple(float(np.float32(shrunk * scale)) for scale in rng.uniform(0.004, 0.006, channels))
    values = rng.integers(-127, 128, weights.shape, dtype=np.int8)
    tensors[operator.inputs[1]] = dataclasses.replace(
        weights, data=values, quantization=Quantization(scales, (0,) * channels, axis=3 if depthwise else 0)
    )
    if len(operator.inputs) > 2:
        bias = tensors[operator.inputs[2]]
        bound = int(73 * _SPREAD * math.sqrt(taps) / 2)
        tensors[operator.inputs[2]] = dataclasses.replace(
            bias,
            data=rng.integers(-bound, bound + 1, bias.shape, dtype=np.int32),
            quantization=Quantization(tuple(input_scale * scale for scale in scales), (0,) * channels),
        )
    return output_scale
