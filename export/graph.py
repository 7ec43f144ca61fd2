"""The one graph that a candidate and a ``.tflite`` file are both lowered to.

Everything after it (planner, code generator, cost model) cannot tell the two apart, except that a candidate's
constants have a shape but no data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt


class DType(Enum):
    """Element types that the kernels know; the value is numpy's name."""

    INT8 = "int8"
    INT32 = "int32"
    FLOAT32 = "float32"

    @property
    def size_bytes(self) -> int:
        return np.dtype(self.value).itemsize


class OpKind(Enum):
    """Operators with a kernel; the value is TensorFlow Lite's name."""

    CONV_2D = "CONV_2D"
    DEPTHWISE_CONV_2D = "DEPTHWISE_CONV_2D"
    FULLY_CONNECTED = "FULLY_CONNECTED"
    ADD = "ADD"
    AVERAGE_POOL_2D = "AVERAGE_POOL_2D"
    MAX_POOL_2D = "MAX_POOL_2D"
    MEAN = "MEAN"
    PAD = "PAD"
    RESHAPE = "RESHAPE"
    SOFTMAX = "SOFTMAX"
    CONCATENATION = "CONCATENATION"
    QUANTIZE = "QUANTIZE"
    DEQUANTIZE = "DEQUANTIZE"
    RELU = "RELU"
    RELU6 = "RELU6"


class Activation(Enum):
    """Activations fused into an operator's output; the value is TensorFlow Lite's name."""

    NONE = "NONE"
    RELU = "RELU"
    RELU_N1_TO_1 = "RELU_N1_TO_1"
    RELU6 = "RELU6"


@dataclass(frozen=True, slots=True)
class Quantization:
    """Affine quantization, real = scale × (quantized − zero_point): one pair, or one per channel of ``axis``."""

    scales: tuple[float, ...]
    zero_points: tuple[int, ...]
    axis: int = 0

    @property
    def scale(self) -> float:
        """The scale of a per-tensor quantization."""
        (value,) = self.scales
        return value

    @property
    def zero_point(self) -> int:
        """The zero point of a per-tensor quantization."""
        (value,) = self.zero_points
        return value


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """A value of the graph. Activations keep TensorFlow Lite's NHWC shape, the batch of 1 included."""

    name: str
    shape: tuple[int, ...]
    dtype: DType = DType.INT8
    quantization: Quantization | None = None
    is_constant: bool = False
    data: npt.NDArray[np.generic] | None = None
    """The constant's values; None for an activation, and for a candidate's weights."""

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        return self.elements * self.dtype.size_bytes


@dataclass(frozen=True, slots=True)
class Window:
    """A sliding window's geometry, padding already resolved to zeros (or skipped taps) before each side."""

    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    """Rows above and columns left; what lies below and right follows from the output's shape."""

    def taps_inside(self, axis: int, input_size: int, output_size: int) -> npt.NDArray[np.bool_]:
        """Which taps of which window along an axis (0: rows) read the input: [output, tap]; the others read padding."""
        taps = np.arange(self.kernel[axis]) * self.dilation[axis]
        positions = np.arange(output_size)[:, np.newaxis] * self.stride[axis] - self.padding[axis] + taps
        return np.asarray((positions >= 0) & (positions < input_size))


@dataclass(frozen=True, slots=True)
class Operator:
    """One layer.

    Tensor indices point into ``Graph.tensors``. Inputs follow TensorFlow Lite: convolutions and fully connected layers
    take (activation, weights[, bias]), with weights OHWI, 1HWO for depthwise and OI for fully connected. PAD's amounts,
    MEAN's axes and RESHAPE's shape are attributes here, never inputs.
    """

    kind: OpKind
    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    activation: Activation = Activation.NONE
    window: Window | None = None
    """Convolutions and pools only."""
    groups: int = 1
    """CONV_2D only."""
    axes: tuple[int, ...] = ()
    """MEAN: reduced axes, non-negative. CONCATENATION: its one axis, non-negative."""
    pads: tuple[tuple[int, int], ...] = ()
    """PAD: (before, after) of each axis."""
    beta: float = 1.0
    """SOFTMAX only."""


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """Operators in execution order over one table of tensors."""

    name: str
    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    def input_tensors(self, operator: Operator) -> tuple[Tensor, ...]:
        return tuple(self.tensors[index] for index in operator.inputs)

    def output_tensor(self, operator: Operator) -> Tensor:
        return self.tensors[operator.outputs[0]]

    def activations_in(self, operator: Operator) -> tuple[int, ...]:
        """Indices of the operator's inputs that are not constants."""
        return tuple(index for index in operator.inputs if not self.tensors[index].is_constant)


def same_padding(size: int, kernel: int, stride: int, dilation: int = 1) -> tuple[int, int]:
    """TensorFlow's SAME: the output's size along one axis, and the padding before it (the smaller half)."""
    output = -(-size // stride)
    total = max(0, (output - 1) * stride + (kernel - 1) * dilation + 1 - size)
    return output, total // 2


def macs(graph: Graph, operator: Operator) -> int:
    """Multiply-accumulates of one layer: those of convolutions and fully connected layers, padding taps included."""
    output = graph.output_tensor(operator)
    if operator.kind in (OpKind.CONV_2D, OpKind.FULLY_CONNECTED):
        weights = graph.tensors[operator.inputs[1]]
        return output.elements * math.prod(weights.shape[1:])
    if operator.kind is OpKind.DEPTHWISE_CONV_2D:
        weights = graph.tensors[operator.inputs[1]]
        return output.elements * math.prod(weights.shape[1:3])
    return 0


def total_macs(graph: Graph) -> int:
    """Multiply-accumulates of one inference."""
    return sum(macs(graph, operator) for operator in graph.operators)
