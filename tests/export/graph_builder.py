"""Builds int8 graphs layer by layer, with random constants and quantization, for the tests of reader, planner and C."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from export.graph import Activation, DType, Graph, Operator, OpKind, Quantization, Tensor, Window, same_padding

Pair = tuple[int, int]


class GraphBuilder:
    """Every method appends one layer to the graph and returns the index of its output."""

    def __init__(self, shape: tuple[int, ...], seed: int = 0, *, name: str = "graph", from_float: bool = False) -> None:
        self.rng = np.random.default_rng(seed)
        self.tensors: list[Tensor] = []
        self.operators: list[Operator] = []
        self._name = name
        if from_float:
            self.input = self._tensor("input", shape, None, DType.FLOAT32)
            self.entry = self._append(OpKind.QUANTIZE, (self.input,), shape)
        else:
            self.input = self.entry = self._tensor("input", shape, self.quantization())

    def shape(self, value: int) -> tuple[int, ...]:
        return self.tensors[value].shape

    def quantization(self, scale: float | None = None) -> Quantization:
        """A random scale unless one is given, and a random zero point, the extremes among them."""
        if scale is None:
            scale = math.exp(self.rng.uniform(math.log(0.01), math.log(0.1)))
        zero_point = self.rng.choice([-128, 127, 0, int(self.rng.integers(-128, 128))])
        return Quantization((float(np.float32(scale)),), (int(zero_point),))

    def conv(
        self,
        value: int,
        channels: int,
        kernel: Pair = (1, 1),
        stride: Pair = (1, 1),
        *,
        dilation: Pair = (1, 1),
        same: bool = True,
        groups: int = 1,
        activation: Activation = Activation.NONE,
    ) -> int:
        window, size = self._window(value, kernel, stride, dilation, same)
        weights = (channels, *kernel, self.shape(value)[-1] // groups)
        constants, scale = self._weights(value, weights, 0)
        return self._append(
            OpKind.CONV_2D,
            (value, *constants),
            (1, *size, channels),
            self.quantization(scale),
            window=window,
            groups=groups,
            activation=activation,
        )

    def depthwise(
        self,
        value: int,
        kernel: Pair = (3, 3),
        stride: Pair = (1, 1),
        *,
        dilation: Pair = (1, 1),
        same: bool = True,
        multiplier: int = 1,
        activation: Activation = Activation.NONE,
    ) -> int:
        window, size = self._window(value, kernel, stride, dilation, same)
        channels = self.shape(value)[-1] * multiplier
        constants, scale = self._weights(value, (1, *kernel, channels), 3)
        quantization = self.quantization(scale)
        inputs = (value, *constants)
        shape = (1, *size, channels)
        kind = OpKind.DEPTHWISE_CONV_2D
        return self._append(kind, inputs, shape, quantization, window=window, activation=activation)

    def fully_connected(self, value: int, outputs: int, activation: Activation = Activation.NONE) -> int:
        constants, scale = self._weights(value, (outputs, self.shape(value)[-1]), 0)
        shape = (*self.shape(value)[:-1], outputs)
        quantization = self.quantization(scale)
        return self._append(OpKind.FULLY_CONNECTED, (value, *constants), shape, quantization, activation=activation)

    def pool(
        self,
        value: int,
        kernel: Pair,
        stride: Pair,
        *,
        maximum: bool = False,
        same: bool = True,
        activation: Activation = Activation.NONE,
    ) -> int:
        window, size = self._window(value, kernel, stride, (1, 1), same)
        kind = OpKind.MAX_POOL_2D if maximum else OpKind.AVERAGE_POOL_2D
        shape = (1, *size, self.shape(value)[-1])
        return self._append(
            kind, (value,), shape, self.tensors[value].quantization, window=window, activation=activation
        )

    def add(self, first: int, second: int, activation: Activation = Activation.NONE) -> int:
        return self._append(OpKind.ADD, (first, second), self.shape(first), activation=activation)

    def concatenate(self, values: Sequence[int], axis: int = 3) -> int:
        """The values must share their quantization; see `requantize`."""
        first = self.shape(values[0])
        total = sum(self.shape(value)[axis] for value in values)
        shape = (*first[:axis], total, *first[axis + 1 :])
        quantization = self.tensors[values[0]].quantization
        return self._append(OpKind.CONCATENATION, tuple(values), shape, quantization, axes=(axis,))

    def pad(self, value: int, pads: Sequence[Pair]) -> int:
        amounts = ((0, 0), *pads)
        shape = tuple(size + sum(pair) for size, pair in zip(self.shape(value), amounts, strict=True))
        return self._append(OpKind.PAD, (value,), shape, self.tensors[value].quantization, pads=amounts)

    def mean(self, value: int, *, keep: bool = False) -> int:
        """Over all axes between the batch and the channels."""
        shape = self.shape(value)
        axes = tuple(range(1, len(shape) - 1))
        reduced = (1, *(1 for _ in axes if keep), shape[-1])
        return self._append(OpKind.MEAN, (value,), reduced, axes=axes)

    def reshape(self, value: int, shape: tuple[int, ...]) -> int:
        return self._append(OpKind.RESHAPE, (value,), shape, self.tensors[value].quantization)

    def softmax(self, value: int, beta: float = 1.0) -> int:
        quantization = Quantization((1 / 256,), (-128,))
        return self._append(OpKind.SOFTMAX, (value,), self.shape(value), quantization, beta=beta)

    def elementwise(self, kind: OpKind, value: int, quantization: Quantization | None = None) -> int:
        """QUANTIZE, RELU or RELU6."""
        return self._append(kind, (value,), self.shape(value), quantization)

    def requantize(self, value: int, like: int) -> int:
        """The value in the quantization of another."""
        return self.elementwise(OpKind.QUANTIZE, value, self.tensors[like].quantization)

    def dequantize(self, value: int) -> int:
        output = self._tensor("output", self.shape(value), None, DType.FLOAT32)
        self.operators.append(Operator(OpKind.DEQUANTIZE, "output", (value,), (output,)))
        return output

    def finish(self, output: int) -> Graph:
        return Graph(self._name, tuple(self.tensors), tuple(self.operators), (self.input,), (output,))

    def random_input(self) -> np.ndarray:
        tensor = self.tensors[self.input]
        if tensor.dtype is DType.FLOAT32:
            return self.rng.normal(0, 3, tensor.shape).astype(np.float32)
        return self.rng.integers(-128, 128, tensor.shape, dtype=np.int8)

    def _tensor(
        self,
        name: str,
        shape: tuple[int, ...],
        quantization: Quantization | None,
        dtype: DType = DType.INT8,
        data: np.ndarray | None = None,
    ) -> int:
        self.tensors.append(Tensor(name, shape, dtype, quantization, data is not None, data))
        return len(self.tensors) - 1

    def _append(
        self,
        kind: OpKind,
        inputs: tuple[int, ...],
        shape: tuple[int, ...],
        quantization: Quantization | None = None,
        *,
        window: Window | None = None,
        groups: int = 1,
        activation: Activation = Activation.NONE,
        axes: tuple[int, ...] = (),
        pads: tuple[Pair, ...] = (),
        beta: float = 1.0,
    ) -> int:
        name = f"{kind.value.lower()}_{len(self.operators)}"
        output = self._tensor(name, shape, quantization or self.quantization())
        self.operators.append(Operator(kind, name, inputs, (output,), activation, window, groups, axes, pads, beta))
        return output

    def _window(self, value: int, kernel: Pair, stride: Pair, dilation: Pair, same: bool) -> tuple[Window, Pair]:
        sizes = self.shape(value)[1:3]
        axes = list(zip(sizes, kernel, stride, dilation, strict=True))
        if same:
            (rows, top), (columns, left) = (same_padding(*axis) for axis in axes)
            return Window(kernel, stride, dilation, (top, left)), (rows, columns)
        rows, columns = ((size - (side - 1) * gap - 1) // step + 1 for size, side, step, gap in axes)
        return Window(kernel, stride, dilation), (rows, columns)

    def _weights(self, value: int, shape: tuple[int, ...], axis: int) -> tuple[tuple[int, int], float]:
        """Weights and bias, and an output scale for which the outputs use most of the int8 range."""
        channels = shape[axis]
        count = channels if self.rng.random() < 0.7 else 1
        scales = tuple(float(np.float32(scale)) for scale in self.rng.uniform(0.002, 0.01, count))
        data = self.rng.integers(-127, 128, shape, dtype=np.int8)
        weights = self._tensor("weights", shape, Quantization(scales, (0,) * count, axis), DType.INT8, data)
        source = self.tensors[value].quantization
        assert source is not None
        spread = 60.0 * 70.0 * math.sqrt(data.size / channels)
        bias_scales = tuple(float(np.float32(source.scale * scale)) for scale in scales)
        bias = self._tensor(
            "bias",
            (channels,),
            Quantization(bias_scales, (0,) * count),
            DType.INT32,
            self.rng.normal(0, spread, channels).astype(np.int32),
        )
        return (weights, bias), spread * source.scale * float(np.mean(scales)) / 50.0


def every_kernel(name: str = "every kernel", seed: int = 0) -> Graph:
    """A graph in which every operator occurs but QUANTIZE from int8."""
    builder = GraphBuilder((1, 9, 8, 3), seed, name=name, from_float=True)
    value = builder.conv(builder.entry, 8, (3, 3), (2, 2))
    value = builder.pad(value, [(1, 1), (0, 1), (0, 0)])
    value = builder.depthwise(value)
    value = builder.add(value, builder.conv(value, 8))
    value = builder.elementwise(OpKind.RELU, value)
    pooled = builder.pool(value, (2, 2), (1, 1), maximum=True)
    averaged = builder.pool(value, (3, 3), (1, 1))
    value = builder.concatenate([value, pooled, averaged])
    value = builder.mean(builder.elementwise(OpKind.RELU6, value), keep=True)
    value = builder.fully_connected(builder.reshape(value, (1, 24)), 10)
    return builder.finish(builder.dequantize(builder.softmax(value)))
