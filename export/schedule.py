"""Which input rows a layer needs for which of its units of work: the facts that streaming and memory planning rest on.

A *unit* is the least that a streamed layer computes at a time: one output row, or for a *reduction* (a mean or an
average over the whole map) the sums of one more input row.
"""

from __future__ import annotations

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


def rows_done(graph: Graph, operator: Operator, units_done: int) -> int:
    """How many output rows are complete after so many units."""
    if is_reduction(graph, operator):
        return int(units_done == units(graph, operator))
    return units_done


def first_needed_row(graph: Graph, operator: Operator, unit: int) -> int:
    """The topmost input row that the units from ``unit`` on still read; the input's height when they read none."""
    height = rows(graph.tensors[operator.inputs[0]])
    if operator.kind is OpKind.PAD:
        first = unit - operator.pads[1][0]
    elif is_windowed(graph, operator):
        assert operator.window is not None
        first = unit * operator.window.stride[0] - operator.window.padding[0]
    else:
        first = unit
    return min(max(first, 0), height)


def last_needed_row(graph: Graph, operator: Operator, unit: int) -> int:
    """The bottommost input row that ``unit`` or one before it reads; -1 when they read none."""
    height = rows(graph.tensors[operator.inputs[0]])
    if operator.kind is OpKind.PAD:
        last = unit - operator.pads[1][0]
    elif is_windowed(graph, operator):
        window = operator.window
        assert window is not None
        last = unit * window.stride[0] - window.padding[0] + (window.kernel[0] - 1) * window.dilation[0]
    else:
        last = unit
    return min(max(last, -1), height - 1)
