"""Which kernel runs which layer: the one choice that the generator, the flash model and the cost model share."""

from __future__ import annotations

from export.graph import DType, Graph, Operator, OpKind
from export.numerics import is_pointwise
from export.schedule import is_reduction

POINTWISE = "tn_conv_1x1_s8"

VIEW = "view"
"""Stands in for the kernel of a RESHAPE, which moves nothing."""

_BY_KIND = {
    OpKind.DEPTHWISE_CONV_2D: "tn_depthwise_generic_s8",
    OpKind.FULLY_CONNECTED: "tn_fully_connected_generic_s8",
    OpKind.ADD: "tn_add_generic_s8",
    OpKind.AVERAGE_POOL_2D: "tn_pool_average_s8",
    OpKind.MAX_POOL_2D: "tn_pool_max_s8",
    OpKind.MEAN: "tn_mean_generic_s8",
    OpKind.PAD: "tn_pad_generic_s8",
    OpKind.RESHAPE: VIEW,
    OpKind.SOFTMAX: "tn_softmax_generic_s8",
    OpKind.CONCATENATION: "tn_concatenation_part_s8",
    OpKind.DEQUANTIZE: "tn_dequantize_float_s8",
    OpKind.RELU: "tn_requantize_generic_s8",
    OpKind.RELU6: "tn_requantize_generic_s8",
}


def kernel_of(graph: Graph, operator: Operator) -> str:
    """The name of the C function that runs ``operator``, or VIEW."""
    if operator.kind is OpKind.CONV_2D:
        return POINTWISE if is_pointwise(graph, operator) else "tn_conv_generic_s8"
    if operator.kind is OpKind.QUANTIZE:
        from_float = graph.input_tensors(operator)[0].dtype is DType.FLOAT32
        return "tn_quantize_float_s8" if from_float else "tn_requantize_generic_s8"
    if is_reduction(graph, operator):
        return "tn_mean_rows_s8" if operator.kind is OpKind.MEAN else "tn_pool_global_s8"
    return _BY_KIND[operator.kind]
