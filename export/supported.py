"""What a model may contain: one table, used by the reader, its errors and the generated page ``docs/operators.md``.

Each constraint is a function whose docstring is the sentence that the documentation shows. It returns None when the
operator is fine, else what was found.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from export.errors import ExportError, UnsupportedOperatorError
from export.graph import Activation, DType, Graph, Operator, OpKind
from export.numerics import INT8_MAX, INT8_MIN

Constraint = Callable[[Graph, Operator], str | None]

_LARGEST_TENSOR_BYTES = 8 << 20
_LARGEST_SCALE = 2.0**100
_LARGEST_MULTIPLIER = 2.0**30
_LONGEST_SOFTMAX = 4095


def batch_of_one(graph: Graph, operator: Operator) -> str | None:
    """Activations have a batch of 1 and a shape that is known when the model is compiled."""
    for index in (*graph.activations_in(operator), *operator.outputs):
        tensor = graph.tensors[index]
        if not tensor.shape or tensor.shape[0] != 1 or min(tensor.shape) < 1:
            return f"'{tensor.name}' has the shape {list(tensor.shape)}"
    return None


def activation_input(graph: Graph, operator: Operator) -> str | None:
    """The (first) input is an activation, not a constant."""
    source = graph.input_tensors(operator)[0]
    return f"'{source.name}' is a constant" if source.is_constant else None


def small_enough(graph: Graph, operator: Operator) -> str | None:
    """No dimension is larger than 32767, no tensor than 8 MiB, and windows, strides and dilations are at most 255."""
    for index in (*operator.inputs, *operator.outputs):
        tensor = graph.tensors[index]
        if max(tensor.shape, default=0) > 32767 or tensor.size_bytes > _LARGEST_TENSOR_BYTES:
            return f"'{tensor.name}' has the shape {list(tensor.shape)}"
    window = operator.window
    if window and max(*window.kernel, *window.stride, *window.dilation, *window.padding) > 255:
        return f"the window is {window}"
    return None


def one_scale(graph: Graph, operator: Operator) -> str | None:
    """An int8 activation has one scale, between 2^-100 and 2^100, and one zero point, between -128 and 127."""
    for index in (*graph.activations_in(operator), *operator.outputs):
        tensor = graph.tensors[index]
        quantization = tensor.quantization
        if tensor.dtype is not DType.INT8 or quantization is None:
            continue
        if len(quantization.scales) != 1:
            return f"'{tensor.name}' has {len(quantization.scales)} scales"
        if not 1 / _LARGEST_SCALE <= quantization.scale <= _LARGEST_SCALE:
            return f"'{tensor.name}' has the scale {quantization.scale:g}"
        if not INT8_MIN <= quantization.zero_point <= INT8_MAX:
            return f"'{tensor.name}' has the zero point {quantization.zero_point}"
    return None


def int8_in_and_out(graph: Graph, operator: Operator) -> str | None:
    """Inputs and outputs are int8."""
    for index in (*graph.activations_in(operator), *operator.outputs):
        tensor = graph.tensors[index]
        if tensor.dtype is not DType.INT8:
            return f"'{tensor.name}' is {tensor.dtype.value}"
    return None


def scales_in_proportion(graph: Graph, operator: Operator) -> str | None:
    """The scales of inputs (and weights) exceed the output's less than 2^30 times."""
    source, target = graph.input_tensors(operator)[0].quantization, graph.output_tensor(operator).quantization
    if source is None or target is None:
        return None
    factor = 1.0
    if operator.kind in (OpKind.CONV_2D, OpKind.DEPTHWISE_CONV_2D, OpKind.FULLY_CONNECTED):
        weights = graph.input_tensors(operator)[1].quantization
        factor = max(weights.scales) if weights is not None else 1.0
    real = source.scale * factor / target.scale
    return None if real < _LARGEST_MULTIPLIER else f"the multiplier is {real:g}"


def same_types(graph: Graph, operator: Operator) -> str | None:
    """Input and output are both int8 or both float32."""
    source, target = graph.input_tensors(operator)[0], graph.output_tensor(operator)
    if source.dtype is target.dtype and source.dtype in (DType.INT8, DType.FLOAT32):
        return None
    return f"it turns {source.dtype.value} into {target.dtype.value}"


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
        axis = 3 if operator.kind is OpKind.DEPTHWISE_CONV_2D else 0
        if len(quantization.scales) > 1 and quantization.axis != axis:
            return f"the scales of '{weights.name}' are those of axis {quantization.axis}"
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
        fits = (
            len(weights.shape) == 4
            and weights.shape[0] == 1
            and weights.shape[3] == channels_out
            and channels_out % channels_in == 0
        )
    else:
        fits = (
            len(weights.shape) == 2
            and weights.shape[0] == channels_out
            and weights.shape[1] > 0
            and source.elements % weights.shape[1] == 0
            and source.elements * channels_out == target.elements * weights.shape[1]
        )
    return None if fits else f"weights {list(weights.shape)} between {list(source.shape)} and {list(target.shape)}"


def few_vectors(graph: Graph, operator: Operator) -> str | None:
    """The weights multiply at most 65535 vectors."""
    vectors = graph.input_tensors(operator)[0].elements // graph.input_tensors(operator)[1].shape[1]
    return None if vectors <= 65535 else f"they multiply {vectors}"


def same_channels(graph: Graph, operator: Operator) -> str | None:
    """Input and output have the same number of channels."""
    source, target = graph.input_tensors(operator)[0], graph.output_tensor(operator)
    return None if source.shape[-1] == target.shape[-1] else f"{list(source.shape)} becomes {list(target.shape)}"


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
    if rank > 2 and operator.axes == tuple(range(1, rank - 1)):
        return None
    return f"it reduces the axes {list(operator.axes)} of a tensor of rank {rank}"


def reduced_shape(graph: Graph, operator: Operator) -> str | None:
    """The output has the input's shape with the reduced axes left out or of size 1."""
    source, target = graph.input_tensors(operator)[0].shape, graph.output_tensor(operator).shape
    left = [(size, axis in operator.axes) for axis, size in enumerate(source)]
    kept = tuple(1 if reduced else size for size, reduced in left)
    if target in (kept, tuple(size for size, reduced in left if not reduced)):
        return None
    return f"{list(source)} becomes {list(target)}"


def padded_shape(graph: Graph, operator: Operator) -> str | None:
    """Heights, widths and channels are padded, by constant amounts that are not negative."""
    source, target = graph.input_tensors(operator)[0].shape, graph.output_tensor(operator).shape
    amounts = operator.pads
    if len(amounts) == len(source) and min(map(min, amounts)) >= 0 and amounts[0] == (0, 0):
        padded = tuple(size + before + after for size, (before, after) in zip(source, amounts, strict=True))
        if padded == target:
            return None
    return f"{list(source)} padded by {[list(pair) for pair in amounts]} becomes {list(target)}"


def joined_shape(graph: Graph, operator: Operator) -> str | None:
    """The inputs' sizes along the axis add up to the output's; all other sizes are the same."""
    (axis,) = operator.axes
    target = graph.output_tensor(operator).shape
    shapes = [tensor.shape for tensor in graph.input_tensors(operator)]
    others = {shape[:axis] + shape[axis + 1 :] for shape in shapes}
    same_elsewhere = others == {target[:axis] + target[axis + 1 :]} and {len(s) for s in shapes} == {len(target)}
    if same_elsewhere and sum(shape[axis] for shape in shapes) == target[axis]:
        return None
    return f"{[list(shape) for shape in shapes]} become {list(target)} along axis {axis}"


def no_activation(graph: Graph, operator: Operator) -> str | None:
    """It has no fused activation."""
    return None if operator.activation is Activation.NONE else f"it is fused with {operator.activation.value}"


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
    """The output's scale is 1/256 and its zero point -128."""
    quantization = graph.output_tensor(operator).quantization
    if quantization is None or (quantization.scale == 1 / 256 and quantization.zero_point == -128):
        return None
    return f"the output has scale {quantization.scale} and zero point {quantization.zero_point}"


def softmax_form(graph: Graph, operator: Operator) -> str | None:
    """It is over the last axis, of at most 4095 elements, with a finite and positive beta."""
    source, target = graph.input_tensors(operator)[0], graph.output_tensor(operator)
    if source.shape != target.shape or source.shape[-1] > _LONGEST_SOFTMAX:
        return f"{list(source.shape)} becomes {list(target.shape)}"
    return None if math.isfinite(operator.beta) and operator.beta > 0 else f"beta is {operator.beta}"


_COMMON: tuple[Constraint, ...] = (batch_of_one, activation_input, small_enough, one_scale)
_LAYER: tuple[Constraint, ...] = (*_COMMON, int8_in_and_out)
_WITH_WEIGHTS: tuple[Constraint, ...] = (
    *_LAYER,
    constant_weights,
    constant_bias,
    channels_match,
    scales_in_proportion,
)
_POOL: tuple[Constraint, ...] = (*_LAYER, images, same_quantization, same_channels)

SUPPORTED: dict[OpKind, tuple[Constraint, ...]] = {
    OpKind.CONV_2D: (*_WITH_WEIGHTS, images),
    OpKind.DEPTHWISE_CONV_2D: (*_WITH_WEIGHTS, images),
    OpKind.FULLY_CONNECTED: (*_WITH_WEIGHTS, few_vectors),
    OpKind.ADD: (*_LAYER, same_shapes),
    OpKind.AVERAGE_POOL_2D: _POOL,
    OpKind.MAX_POOL_2D: _POOL,
    OpKind.MEAN: (*_LAYER, leading_axes, reduced_shape, scales_in_proportion),
    OpKind.PAD: (*_LAYER, images, same_quantization, padded_shape),
    OpKind.RESHAPE: (*_COMMON, same_types, same_quantization),
    OpKind.SOFTMAX: (*_LAYER, softmax_scale, softmax_form),
    OpKind.CONCATENATION: (*_LAYER, constant_free, same_quantization, joined_shape, no_activation),
    OpKind.QUANTIZE: (*_COMMON, quantize_types, scales_in_proportion),
    OpKind.DEQUANTIZE: (*_COMMON, dequantize_types),
    OpKind.RELU: (*_LAYER, scales_in_proportion),
    OpKind.RELU6: (*_LAYER, scales_in_proportion),
}
"""Every operator with a kernel, and what must hold for it."""


def supported_names() -> str:
    """The supported operators in one line, for messages."""
    return ", ".join(kind.value for kind in SUPPORTED)


def check_supported(graph: Graph) -> None:
    """Raise UnsupportedOperatorError for the first operator that breaks a constraint of its kind.

    A graph with several inputs or outputs is an ExportError.
    """
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise ExportError(
            f"'{graph.name}' has {len(graph.inputs)} inputs and {len(graph.outputs)} outputs, but the generated C "
            "serves one of each; split the model, or join its inputs and outputs"
        )
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
        "The fused activations are NONE, RELU, RELU_N1_TO_1 and RELU6. A model has one input and one output.",
        "",
    ]
    for kind, constraints in SUPPORTED.items():
        lines += [f"## {kind.value}", ""]
        lines += [f"- {constraint.__doc__}" for constraint in constraints]
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    print(operators_page(), end="")
