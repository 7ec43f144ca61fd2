"""Which input rows a layer needs for which of its units of work: the facts that streaming and memory planning rest on.

A *unit* is the least that a streamed layer computes at a time: one output row, or for a *reduction* (a mean or an
average over the whole map) the sums of one more input row.
"""

from __future__ import annotations

from dataclasses import dataclass

from export.graph import DType, Graph, Operator, OpKind, Tensor

ALIGNMENT = 4
"""Every buffer starts at a multiple of this, so that kernels may load words."""

_ELEMENTWISE = (OpKind.ADD, OpKind.RELU, OpKind.RELU6)
_WINDOWED = (OpKind.CONV_2D, OpKind.DEPTHWISE_CONV_2D, OpKind.AVERAGE_POOL_2D, OpKind.MAX_POOL_2D, OpKind.PAD)
_ROW_FOR_ROW = (*_ELEMENTWISE, OpKind.QUANTIZE, OpKind.DEQUANTIZE)


def align(size_bytes: int) -> int:
    """Round up to the alignment."""
    return -(-size_bytes // ALIGNMENT) * ALIGNMENT


def elementwise(graph: Graph, operator: Operator) -> bool:
    """Whether element i of the output needs only element i of an input of the same size, read before it is written."""
    if operator.kind is OpKind.QUANTIZE:
        return graph.input_tensors(operator)[0].dtype is graph.output_tensor(operator).dtype
    return operator.kind in _ELEMENTWISE


def is_reduction(graph: Graph, operator: Operator) -> bool:
    """Whether the layer averages each channel over all rows and columns, so that it can add up rows as they come."""
    source = graph.tensors[operator.inputs[0]]
    if len(source.shape) != 4 or source.dtype is not DType.INT8:
        return False
    if operator.kind is OpKind.MEAN:
        return sorted(operator.axes) == [1, 2]
    if operator.kind is not OpKind.AVERAGE_POOL_2D:
        return False
    assert operator.window is not None
    whole = operator.window.kernel == source.shape[1:3] and operator.window.padding == (0, 0)
    return whole and graph.output_tensor(operator).shape[1:3] == (1, 1)


def is_windowed(graph: Graph, operator: Operator) -> bool:
    """Whether the layer computes its output row by row from a window of input rows that moves down."""
    return operator.kind in _WINDOWED and not is_reduction(graph, operator)


def is_streamable(graph: Graph, operator: Operator) -> bool:
    """Whether the layer can run row by row."""
    if is_reduction(graph, operator):
        return True
    tensors = [graph.tensors[index] for index in (*graph.activations_in(operator), *operator.outputs)]
    if any(len(tensor.shape) != 4 for tensor in tensors):
        return False
    if operator.kind is OpKind.CONCATENATION:
        return operator.axes[0] in (2, 3)
    return operator.kind in _WINDOWED or operator.kind in _ROW_FOR_ROW


def rows(tensor: Tensor) -> int:
    """Height of a [1, height, width, channels] tensor; anything else is one row."""
    return tensor.shape[1] if len(tensor.shape) == 4 else 1


def row_bytes(tensor: Tensor) -> int:
    """Bytes of one row."""
    return tensor.size_bytes // rows(tensor)


def units(graph: Graph, operator: Operator) -> int:
    """How many units a streamable layer consists of."""
    return rows(graph.tensors[operator.inputs[0]] if is_reduction(graph, operator) else graph.output_tensor(operator))


@dataclass(frozen=True, slots=True)
class RowAccess:
    """Which rows of its inputs a streamable layer reads, unit by unit."""

    units: int
    height: int
    """Rows of an input."""
    stride: int
    before: int
    """Rows by which the first unit's window reaches over the top."""
    reach: int
    """From a window's first row to its last."""
    adds_up: bool
    """A reduction: its one output row is complete after the last unit."""

    def first_needed(self, unit: int) -> int:
        """The topmost input row that the units from ``unit`` on still read; the input's height when they read none."""
        return min(max(unit * self.stride - self.before, 0), self.height)

    def last_needed(self, unit: int) -> int:
        """The bottommost input row that ``unit`` or one before it reads; -1 when they read none."""
        return min(max(unit * self.stride - self.before + self.reach, -1), self.height - 1)

    def rows_done(self, units_done: int) -> int:
        """How many output rows are complete after so many units."""
        return int(units_done == self.units) if self.adds_up else units_done


def row_access(graph: Graph, operator: Operator) -> RowAccess:
    """How a streamable layer goes through its inputs."""
    height = rows(graph.tensors[operator.inputs[0]])
    if is_reduction(graph, operator):
        return RowAccess(height, height, 1, 0, 0, adds_up=True)
    count = rows(graph.output_tensor(operator))
    if operator.kind is OpKind.PAD:
        return RowAccess(count, height, 1, operator.pads[1][0], 0, adds_up=False)
    if operator.kind in _WINDOWED:
        window = operator.window
        assert window is not None
        reach = (window.kernel[0] - 1) * window.dilation[0]
        return RowAccess(count, height, window.stride[0], window.padding[0], reach, adds_up=False)
    return RowAccess(count, height, 1, 0, 0, adds_up=False)
