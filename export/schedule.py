"""Which input rows a layer needs for which output rows: the facts that memory planning rests on."""

from __future__ import annotations

import math

from export.graph import Graph, Operator, OpKind, Tensor

ALIGNMENT = 4
"""Every buffer starts at a multiple of this, so that kernels may load words."""

_ELEMENTWISE = (OpKind.ADD, OpKind.RELU, OpKind.RELU6)
_WINDOWED = (OpKind.CONV_2D, OpKind.DEPTHWISE_CONV_2D, OpKind.AVERAGE_POOL_2D, OpKind.MAX_POOL_2D, OpKind.PAD)


def align(size_bytes: int) -> int:
    """Round up to the alignment."""
    return -(-size_bytes // ALIGNMENT) * ALIGNMENT


def elementwise(graph: Graph, operator: Operator) -> bool:
    """Whether element i of the output needs only element i of an input of the same size, read before it is written."""
    if operator.kind is OpKind.QUANTIZE:
        return graph.input_tensors(operator)[0].dtype is graph.output_tensor(operator).dtype
    return operator.kind in _ELEMENTWISE


def is_windowed(operator: Operator) -> bool:
    """Whether the layer computes its output row by row from a window of input rows that moves down."""
    return operator.kind in _WINDOWED


def rows(tensor: Tensor) -> int:
    """Height of a [1, height, width, channels] tensor."""
    return tensor.shape[1]


def row_bytes(tensor: Tensor) -> int:
    """Bytes of one row of a [1, height, width, channels] tensor."""
    return math.prod(tensor.shape[2:]) * tensor.dtype.size_bytes


def first_needed_row(operator: Operator, output_row: int, input_rows: int) -> int:
    """The topmost input row that output rows from ``output_row`` on still read; ``input_rows`` when they read none."""
    if operator.kind is OpKind.PAD:
        first = output_row - operator.pads[1][0]
    else:
        assert operator.window is not None
        first = output_row * operator.window.stride[0] - operator.window.padding[0]
    return min(max(first, 0), input_rows)
