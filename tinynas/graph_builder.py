"""Builds the graph of a candidate, layer by layer, constants without data."""

from __future__ import annotations

from export.graph import Activation, DType, Graph, Operator, OpKind, Tensor, Window, same_padding

InputShape = tuple[int, int, int]
"""Height, width and channels of one input; a sensor window is (samples, 1, axes)."""


class GraphBuilder:
    """Builds a chain of layers; every method takes and returns tensor indices.

    Where the input is a sensor window, one column wide, k×k kernels and strides become k×1.
    """

    def __init__(self, name: str, input_shape: InputShape, *, is_window: bool) -> None:
        self._name = name
        self._is_window = is_window
        self._tensors: list[Tensor] = [Tensor("input", (1, *input_shape))]
        self._operators: list[Operator] = []
        self.input = 0

    def channels(self, value: int) -> int:
        return self._tensors[value].shape[-1]

    def conv(
        self,
        value: int,
        channels: int,
        kernel: int,
        stride: int,
        name: str,
        activation: Activation = Activation.RELU6,
        groups: int = 1,
    ) -> int:
        """CONV_2D with SAME padding and a bias; DEPTHWISE_CONV_2D, as the converter has it, with a group a channel."""
        inputs = self.channels(value)
        if groups == inputs == channels != 1:
            return self.depthwise(value, kernel, stride, name, activation)
        shape, window = self._window(value, kernel, stride)
        weights = self._constant(f"{name}/weights", (channels, *window.kernel, inputs // groups))
        return self._layer(OpKind.CONV_2D, (value, weights), (*shape, channels), name, activation, window, groups)

    def depthwise(
        self, value: int, kernel: int, stride: int, name: str, activation: Activation = Activation.RELU6
    ) -> int:
        """DEPTHWISE_CONV_2D with SAME padding and a bias."""
        shape, window = self._window(value, kernel, stride)
        channels = self.channels(value)
        weights = self._constant(f"{name}/weights", (1, *window.kernel, channels))
        return self._layer(OpKind.DEPTHWISE_CONV_2D, (value, weights), (*shape, channels), name, activation, window)

    def average_pool(self, value: int, kernel: int, stride: int, name: str) -> int:
        """AVERAGE_POOL_2D with SAME padding, which does not count."""
        shape, window = self._window(value, kernel, stride)
        pooled = (*shape, self.channels(value))
        return self._append(OpKind.AVERAGE_POOL_2D, (value,), pooled, name, Activation.NONE, window)

    def add(self, first: int, second: int, name: str, activation: Activation = Activation.NONE) -> int:
        return self._append(OpKind.ADD, (first, second), self._tensors[first].shape, name, activation, None)

    def mean(self, value: int, name: str) -> int:
        """MEAN over height and width."""
        index = self._tensor(name, (1, self.channels(value)))
        self._operators.append(Operator(OpKind.MEAN, name, (value,), (index,), axes=(1, 2)))
        return index

    def linear(self, value: int, outputs: int, name: str) -> int:
        weights = self._constant(f"{name}/weights", (outputs, self.channels(value)))
        return self._layer(OpKind.FULLY_CONNECTED, (value, weights), (1, outputs), name, Activation.NONE, None)

    def finish(self, output: int) -> Graph:
        return Graph(self._name, tuple(self._tensors), tuple(self._operators), (self.input,), (output,))

    def _window(self, value: int, kernel: int, stride: int) -> tuple[tuple[int, int, int], Window]:
        _, height, width, _ = self._tensors[value].shape
        kernels, strides = (kernel, 1 if self._is_window else kernel), (stride, 1 if self._is_window else stride)
        rows, top = same_padding(height, kernels[0], strides[0])
        columns, left = same_padding(width, kernels[1], strides[1])
        return (1, rows, columns), Window(kernels, strides, (1, 1), (top, left))

    def _tensor(self, name: str, shape: tuple[int, ...]) -> int:
        self._tensors.append(Tensor(name, shape))
        return len(self._tensors) - 1

    def _constant(self, name: str, shape: tuple[int, ...], dtype: DType = DType.INT8) -> int:
        self._tensors.append(Tensor(name, shape, dtype, is_constant=True))
        return len(self._tensors) - 1

    def _layer(
        self,
        kind: OpKind,
        inputs: tuple[int, int],
        shape: tuple[int, ...],
        name: str,
        activation: Activation,
        window: Window | None,
        groups: int = 1,
    ) -> int:
        bias = self._constant(f"{name}/bias", (shape[-1],), DType.INT32)
        return self._append(kind, (*inputs, bias), shape, name, activation, window, groups)

    def _append(
        self,
        kind: OpKind,
        inputs: tuple[int, ...],
        shape: tuple[int, ...],
        name: str,
        activation: Activation,
        window: Window | None,
        groups: int = 1,
    ) -> int:
        index = self._tensor(name, shape)
        self._operators.append(Operator(kind, name, inputs, (index,), activation, window, groups))
        return index
