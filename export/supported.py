"""What a model may contain: one table, used by the reader, its errors and the generated page ``docs/operators.md``.

Each constraint is a function whose docstring is the sentence that the documentation shows. It returns None when the
operator is fine, else what was found.
"""

from __future__ import annotations

from collections.abc import Callable

from export.errors import UnsupportedOperatorError
from export.graph import DType, Graph, Operator, OpKind

Constraint = Callable[[Graph, Operator], str | None]

_WEIGHTED = (OpKind.CONV_2D, OpKind.DEPTHWISE_CONV_2D, OpKind.FULLY_CONNECTED)


def batch_of_one(graph: Graph, operator: Operator) -> str | None:
    """Activations have a batch of 1 and a shape that is known when the model is compiled."""
    for index in (*graph.activations_in(operator), *operator.outputs):
        tensor = graph.tensors[index]
        if not tensor.shape or tensor.shape[0] != 1 or min(tensor.shape) < 1:
            return f"'{tensor.name}' has the shape {list(tensor.shape)}"
    return None


def small_enough(graph: Graph, operator: Operator) -> str | None:
    """No dimension is larger than 32767, and windows, strides and dilations are at most 255."""
    for index in (*operator.inputs, *operator.outputs):
        tensor = graph.tensors[index]
        if any(size > 32767 for size in tensor.shape):
            return f"'{tensor.name}' has the shape {list(tensor.shape)}"
    window = operator.window
    if window and max(*window.kernel, *window.stride, *window.dilation, *window.padding) > 255:
        return f"the window is {window}"
    return None


def int8_in_and_out(graph: Graph, operator: Operator) -> str | None:
    """Inputs and outputs are int8 with one scale and one zero point."""
    for index in (*graph.activations_in(operator), *operator.outputs):
        tensor = graph.tensors[index]
        if tensor.dtype is not DType.INT8:
            return f"'{tensor.name}' is {tensor.dtype.value}"
        if tensor.quantization is not None and len(tensor.quantization.scales) != 1:
            return f"'{tensor.name}' has {len(tensor.quantization.scales)} scales"
    return None


def quantize_types(graph: Graph, operator: Operator) -> str | None:
    """It turns int8 or float32 into int8."""
    (source,), target = graph.input_tensors(operator), graph.output_tensor(operator)
    if source.dtype in (DType.INT8, DType.FLOAT32) and target.dtype is DType.INT8:
        return None
    return f"it turns {source.dtype.value} into {target.dtype.value}"


def dequantize_types(graph: Graph, operator: Operator) -> str | None:
    """It turns int8 into float32."""
    (source,), target = graph.input_tensors(operator), graph.output_tensor(operator)
    if source.dtype is DType.INT8 and target.dtype is DType.FLOAT32:
        return None
    return f"it turns {source.dtype.value} into {target.dtype.value}"


def constant_weights(graph: Graph, operator: Operator) -> str | None:
    """Weights are constant, symmetric int8 (zero point 0), with one scale or one per output channel."""
    weights = graph.tensors[operator.inputs[1]]
    if not weights.is_constant:
        return f"the weights '{weights.name}' are computed by the model"
    if weights.dtype is not DType.INT8:
        return f"the weights '{weights.name}' are {weights.dtype.value}"
    channels = graph.output_tensor(operator).shape[-1]
    quantization = weights.quantization
    if quantization is not None:
        if len(quantization.scales) not in (1, channels):
            return f"'{weights.name}' has {len(quantization.scales)} scales for {channels} channels"
        if any(quantization.zero_points):
            return f"the weights '{weights.name}' have a zero point other than 0"
    return None


def constant_bias(graph: Graph, operator: Operator) -> str | None:
    """The bias, if there is one, is constant int32 with one element per output channel."""
    if len(operator.inputs) < 3:
        return None
    bias = graph.tensors[operator.inputs[2]]
    channels = graph.output_tensor(operator).shape[-1]
    if bias.is_constant and bias.dtype is DType.INT32 and bias.elements == channels:
        return None
    return f"the bias '{bias.name}' is {bias.dtype.value} of shape {list(bias.shape)}"


def images(graph: Graph, operator: Operator) -> str | None:
    """Input and output have the shape [1, height, width, channels]."""
    for index in (*graph.activations_in(operator), *operator.outputs):
        if len(graph.tensors[index].shape) != 4:
            return f"'{graph.tensors[index].name}' has the shape {list(graph.tensors[index].shape)}"
    return None


def channels_match(graph: Graph, operator: Operator) -> str | None:
    """The weights' shape agrees with the input and output channels (and with the groups)."""
    source, weights, target = *graph.input_tensors(operator)[:2], graph.output_tensor(operator)
    channels_in, channels_out = source.shape[-1], target.shape[-1]
    if operator.kind is OpKind.CONV_2D:
        fits = (
            len(weights.shape) == 4
            and weights.shape[0] == channels_out
            and weights.shape[3] * operator.groups == channels_in
            and channels_out % operator.groups == 0
        )
    elif operator.kind is OpKind.DEPTHWISE_CONV_2D:
        fits = len(weights.shape) == 4 and weights.shape[3] == channels_out and channels_out % channels_in == 0
    else:
        fits = (
            len(weights.shape) == 2
            and weights.shape[0] == channels_out
            and source.elements * channels_out == target.elements * weights.shape[1]
        )
    return None if fits else f"weights {list(weights.shape)} between {list(source.shape)} and {list(target.shape)}"


def same_shapes(graph: Graph, operator: Operator) -> str | None:
    """Both inputs are activations of the output's shape (no broadcasting)."""
    target = graph.output_tensor(operator)
    for tensor in graph.input_tensors(operator):
        if tensor.is_constant:
            return f"'{tensor.name}' is a constant"
        if tensor.shape != target.shape:
            return f"'{tensor.name}' has the shape {list(tensor.shape)}, the output {list(target.shape)}"
    return None


def leading_axes(graph: Graph, operator: Operator) -> str | None:
    """The reduced axes lie between the batch and the channels: height and width of an image, or time of a window."""
    rank = len(graph.input_tensors(operator)[0].shape)
    if operator.axes == tuple(range(1, rank - 1)):
        return None
    return f"it reduces the axes {list(operator.axes)} of a tensor of rank {rank}"


def same_quantization(graph: Graph, operator: Operator) -> str | None:
    """Inputs and output share one scale and zero point."""
    target = graph.output_tensor(operator)
    for tensor in graph.input_tensors(operator):
        if not tensor.is_constant and tensor.quantization != target.quantization:
            return f"'{tensor.name}' and '{target.name}' differ"
    return None


def constant_free(graph: Graph, operator: Operator) -> str | None:
    """Every input is an activation."""
    for tensor in graph.input_tensors(operator):
        if tensor.is_constant:
            return f"'{tensor.name}' is a constant"
    return None


def softmax_scale(graph: Graph, operator: Operator) -> str | None:
    """The output's scale is 1/256 and its zero point -128, and it reduces the last axis."""
    quantization = graph.output_tensor(operator).quantization
    if quantization is None or (quantization.scale == 1 / 256 and quantization.zero_point == -128):
        return None
    return f"the output has scale {quantization.scale} and zero point {quantization.zero_point}"


_COMMON: tuple[Constraint, ...] = (batch_of_one, small_enough)
_LAYER: tuple[Constraint, ...] = (*_COMMON, int8_in_and_out)
_WITH_WEIGHTS: tuple[Constraint, ...] = (*_LAYER, constant_weights, constant_bias, channels_match)

SUPPORTED: dict[OpKind, tuple[Constraint, ...]] = {
    OpKind.CONV_2D: (*_WITH_WEIGHTS, images),
    OpKind.DEPTHWISE_CONV_2D: (*_WITH_WEIGHTS, images),
    OpKind.FULLY_CONNECTED: _WITH_WEIGHTS,
    OpKind.ADD: (*_LAYER, same_shapes),
    OpKind.AVERAGE_POOL_2D: (*_LAYER, images, same_quantization),
    OpKind.MAX_POOL_2D: (*_LAYER, images, same_quantization),
    OpKind.MEAN: (*_LAYER, leading_axes),
    OpKind.PAD: (*_LAYER, images, same_quantization),
    OpKind.RESHAPE: (*_COMMON, same_quantization),
    OpKind.SOFTMAX: (*_LAYER, softmax_scale),
    OpKind.CONCATENATION: (*_LAYER, constant_free, same_quantization),
    OpKind.QUANTIZE: (*_COMMON, quantize_types),
    OpKind.DEQUANTIZE: (*_COMMON, dequantize_types),
    OpKind.RELU: _LAYER,
    OpKind.RELU6: _LAYER,
}
"""Every operator with a kernel, and what must hold for it."""


def supported_names() -> str:
    """The supported operators in one line, for messages."""
    return ", ".join(kind.value for kind in SUPPORTED)


def check_supported(graph: Graph) -> None:
    """Raise UnsupportedOperatorError for the first operator that breaks a constraint of its kind."""
    for operator in graph.operators:
        for constraint in SUPPORTED[operator.kind]:
            found = constraint(graph, operator)
            if found is not None:
                raise UnsupportedOperatorError(
                    f"{operator.kind.value} of the layer '{operator.name}' is used in a form that has no kernel: "
                    f"{found}. Required: {constraint.__doc__}"
                )


def operators_page() -> str:
    """The Markdown page ``docs/operators.md``."""
    lines = [
        "# Supported operators",
        "",
        "Generated from `export/supported.py` by `python -m export.supported`; a test keeps the two equal.",
        "The fused activations are NONE, RELU, RELU_N1_TO_1 and RELU6.",
        "",
    ]
    for kind, constraints in SUPPORTED.items():
        lines += [f"## {kind.value}", ""]
        lines += [f"- {constraint.__doc__}" for constraint in constraints]
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    print(operators_page(), end="")
