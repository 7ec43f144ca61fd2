"""The kernels in plain C, one or more for every operator: what each can run, its scratch memory and its constants."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from export import numerics
from export.errors import ExportError
from export.graph import DType, Graph, Operator, OpKind, Tensor
from export.kernels.kernel import Fields, Kernel
from export.numerics import quantization_of
from export.schedule import is_reduction


def _always(graph: Graph, operator: Operator) -> bool:
    return True


def _nothing(graph: Graph, operator: Operator) -> int:
    return 0


def _no_arrays(graph: Graph, operator: Operator) -> tuple[int, ...]:
    return ()


def constant_data(tensor: Tensor) -> npt.NDArray[np.generic]:
    """The values of a constant. Raises ExportError when it has none."""
    if tensor.data is None:
        raise ExportError(
            f"the constant '{tensor.name}' has no data: a candidate must be trained, or given random weights"
        )
    return tensor.data


def geometry(graph: Graph, operator: Operator) -> dict[str, object]:
    """Input and output shapes and the window, as the structs of windowed kernels begin."""
    window = operator.window
    assert window is not None
    flat = (*window.kernel, *window.stride, *window.dilation, *window.padding)
    source, target = graph.input_tensors(operator)[0], graph.output_tensor(operator)
    return {"input": source.shape[1:], "output": target.shape[1:], "window": flat}


def folded_weights(graph: Graph, operator: Operator) -> tuple[numerics.Int8Array, numerics.Int32Array]:
    """The weights, one row per output channel, and the bias with the input's zero point folded in."""
    source, weights = graph.input_tensors(operator)[:2]
    rows = numerics.kernel_weights(operator, constant_data(weights).astype(np.int8))
    bias = None
    if len(operator.inputs) > 2:
        bias = constant_data(graph.tensors[operator.inputs[2]]).astype(np.int32)
    return rows, numerics.fold_input_offset(bias, rows, quantization_of(source).zero_point)


def _weights_and_bias(graph: Graph, operator: Operator) -> dict[str, object]:
    rows, bias = folded_weights(graph, operator)
    return {"weights": rows.ravel(), "bias": bias}


def _fields_of(parameters: object) -> dict[str, object]:
    assert dataclasses.is_dataclass(parameters)
    return {field.name: getattr(parameters, field.name) for field in dataclasses.fields(parameters)}


# --- convolutions and fully connected layers --------------------------------------------------------------------------


def _conv_fields(graph: Graph, operator: Operator) -> Fields:
    return {
        **geometry(graph, operator),
        "groups": operator.groups,
        "input_zero_point": quantization_of(graph.input_tensors(operator)[0]).zero_point,
        **_weights_and_bias(graph, operator),
        "requantization": _fields_of(numerics.conv_requantization(graph, operator)),
    }


def _conv_1x1_fields(graph: Graph, operator: Operator) -> Fields:
    _, rows, columns, channels = graph.output_tensor(operator).shape
    return {
        "rows": rows,
        "columns": columns,
        "input_channels": graph.input_tensors(operator)[0].shape[-1],
        "output_channels": channels,
        **_weights_and_bias(graph, operator),
        "requantization": _fields_of(numerics.conv_requantization(graph, operator)),
    }


def _conv_scratch(graph: Graph, operator: Operator) -> int:
    """Two gathered input windows."""
    return 2 * math.prod(graph.input_tensors(operator)[1].shape[1:])


def _conv_arrays(graph: Graph, operator: Operator) -> tuple[int, ...]:
    channels = graph.output_tensor(operator).shape[-1]
    return graph.input_tensors(operator)[1].elements, 4 * channels, 4 * channels, channels


def _depthwise_fields(graph: Graph, operator: Operator) -> Fields:
    source, target = graph.input_tensors(operator)[0], graph.output_tensor(operator)
    return {
        **geometry(graph, operator),
        "multiplier": target.shape[-1] // source.shape[-1],
        "input_zero_point": quantization_of(source).zero_point,
        **_weights_and_bias(graph, operator),
        "requantization": _fields_of(numerics.conv_requantization(graph, operator)),
    }


def _fully_connected_fields(graph: Graph, operator: Operator) -> Fields:
    source, weights = graph.input_tensors(operator)[:2]
    outputs, inputs = weights.shape
    wide = _fields_of(numerics.fully_connected_requantization(graph, operator))
    return {
        "batches": source.elements // inputs,
        "inputs": inputs,
        "outputs": outputs,
        **_weights_and_bias(graph, operator),
        "requantization": wide | {"per_channel": int(bool(wide["per_channel"]))},
    }


def _fully_connected_arrays(graph: Graph, operator: Operator) -> tuple[int, ...]:
    weights = graph.input_tensors(operator)[1]
    outputs = weights.shape[0]
    # Today's converter quantizes fully connected layers per channel, so a candidate will be as well.
    scales = outputs if weights.quantization is None else len(weights.quantization.scales)
    return weights.elements, 4 * outputs, 4 * scales, 4 * scales, scales


CONV_1X1 = Kernel(
    "tn_conv_1x1_s8",
    "tn_conv_1x1_layer",
    numerics.is_pointwise,
    _nothing,
    _conv_1x1_fields,
    _conv_arrays,
    row_pointers=True,
)
CONV = Kernel("tn_conv_generic_s8", "tn_conv_layer", _always, _conv_scratch, _conv_fields, _conv_arrays)
DEPTHWISE = Kernel("tn_depthwise_generic_s8", "tn_depthwise_layer", _always, _nothing, _depthwise_fields, _conv_arrays)
FULLY_CONNECTED = Kernel(
    "tn_fully_connected_generic_s8",
    "tn_fully_connected_layer",
    _always,
    _nothing,
    _fully_connected_fields,
    _fully_connected_arrays,
)


# --- pools, means and padding -----------------------------------------------------------------------------------------


def _keeps_rows(graph: Graph, operator: Operator) -> bool:
    return not is_reduction(graph, operator)


def _pool_fields(graph: Graph, operator: Operator) -> Fields:
    minimum, maximum = numerics.activation_range(operator.activation, quantization_of(graph.output_tensor(operator)))
    return geometry(graph, operator) | {"minimum": minimum, "maximum": maximum}


def _pool_global_fields(graph: Graph, operator: Operator) -> Fields:
    minimum, maximum = numerics.activation_range(operator.activation, quantization_of(graph.output_tensor(operator)))
    return {"input": graph.input_tensors(operator)[0].shape[1:], "minimum": minimum, "maximum": maximum}


def _mean_fields(graph: Graph, operator: Operator) -> Fields:
    return _fields_of(numerics.mean_parameters(graph, operator))


def _mean_rows_fields(graph: Graph, operator: Operator) -> Fields:
    mean = _fields_of(numerics.mean_parameters(graph, operator))
    shared = ("input_zero_point", "output_zero_point", "multiplier", "shift")
    return {"input": graph.input_tensors(operator)[0].shape[1:]} | {name: mean[name] for name in shared}


def _sums(graph: Graph, operator: Operator) -> int:
    """One 32-bit sum for each channel."""
    return 4 * graph.input_tensors(operator)[0].shape[-1]


def _pad_fields(graph: Graph, operator: Operator) -> Fields:
    source, target = graph.input_tensors(operator)[0], graph.output_tensor(operator)
    (_, _), (top, _), (left, _), (front, _) = operator.pads
    return {
        "input": source.shape[1:],
        "output": target.shape[1:],
        "top": top,
        "left": left,
        "front": front,
        "value": quantization_of(source).zero_point,
    }


AVERAGE_POOL = Kernel("tn_pool_average_s8", "tn_pool_layer", _keeps_rows, _nothing, _pool_fields, _no_arrays)
MAX_POOL = Kernel("tn_pool_max_s8", "tn_pool_layer", _always, _nothing, _pool_fields, _no_arrays)
POOL_GLOBAL = Kernel("tn_pool_global_s8", "tn_pool_global_layer", is_reduction, _sums, _pool_global_fields, _no_arrays)
MEAN_ROWS = Kernel("tn_mean_rows_s8", "tn_mean_rows_layer", is_reduction, _sums, _mean_rows_fields, _no_arrays)
MEAN = Kernel("tn_mean_generic_s8", "tn_mean_layer", _keeps_rows, _nothing, _mean_fields, _no_arrays)
PAD = Kernel("tn_pad_generic_s8", "tn_pad_layer", _always, _nothing, _pad_fields, _no_arrays)


# --- element-wise layers, softmax and concatenation -------------------------------------------------------------------


def _add_fields(graph: Graph, operator: Operator) -> Fields:
    elements = graph.output_tensor(operator).elements
    return {"elements": elements} | _fields_of(numerics.add_parameters(graph, operator))


def _requantize_fields(graph: Graph, operator: Operator) -> Fields:
    elements = graph.output_tensor(operator).elements
    return {"elements": elements} | _fields_of(numerics.requantize_parameters(graph, operator))


def _affine(tensor_of: Callable[[Graph, Operator], Tensor]) -> Callable[[Graph, Operator], Fields]:
    def fields(graph: Graph, operator: Operator) -> Fields:
        quantization = quantization_of(tensor_of(graph, operator))
        elements = graph.output_tensor(operator).elements
        return {"elements": elements, "scale": quantization.scale, "zero_point": quantization.zero_point}

    return fields


def _from_float(graph: Graph, operator: Operator) -> bool:
    return graph.input_tensors(operator)[0].dtype is DType.FLOAT32


def _softmax_exps(graph: Graph, operator: Operator) -> numerics.Int32Array:
    return numerics.softmax_exps(quantization_of(graph.input_tensors(operator)[0]).scale, operator.beta)


def _softmax_fields(graph: Graph, operator: Operator) -> Fields:
    source = graph.input_tensors(operator)[0]
    columns = source.shape[-1]
    exps = _softmax_exps(graph, operator)
    return {"rows": source.elements // columns, "columns": columns, "exps": exps, "exps_count": len(exps)}


def _softmax_arrays(graph: Graph, operator: Operator) -> tuple[int, ...]:
    return (_softmax_exps(graph, operator).nbytes,)


def _concatenation_fields(graph: Graph, operator: Operator) -> Fields:
    """The struct for the first input; `concatenation_parts` gives one operator for each."""
    (axis,) = operator.axes
    target = graph.output_tensor(operator)
    outer = math.prod(target.shape[:axis])
    inner = graph.input_tensors(operator)[0].size_bytes // outer
    return {"outer": outer, "inner_bytes": inner, "output_stride_bytes": target.size_bytes // outer}


def concatenation_parts(graph: Graph, operator: Operator) -> list[tuple[Operator, int]]:
    """The copies that make up a CONCATENATION: an operator of one input, and its offset into the output in bytes."""
    (axis,) = operator.axes
    outer = math.prod(graph.output_tensor(operator).shape[:axis])
    parts, start = [], 0
    for index in operator.inputs:
        parts.append((dataclasses.replace(operator, inputs=(index,)), start))
        start += graph.tensors[index].size_bytes // outer
    return parts


ADD = Kernel("tn_add_generic_s8", "tn_add_layer", _always, _nothing, _add_fields, _no_arrays)
REQUANTIZE = Kernel(
    "tn_requantize_generic_s8", "tn_requantize_layer", _always, _nothing, _requantize_fields, _no_arrays
)
QUANTIZE_FLOAT = Kernel(
    "tn_quantize_float_s8", "tn_affine_layer", _from_float, _nothing, _affine(Graph.output_tensor), _no_arrays
)
DEQUANTIZE = Kernel(
    "tn_dequantize_float_s8",
    "tn_affine_layer",
    _always,
    _nothing,
    _affine(lambda graph, operator: graph.input_tensors(operator)[0]),
    _no_arrays,
)
SOFTMAX = Kernel("tn_softmax_generic_s8", "tn_softmax_layer", _always, _nothing, _softmax_fields, _softmax_arrays)
CONCATENATION = Kernel(
    "tn_concatenation_part_s8", "tn_concatenation_layer", _always, _nothing, _concatenation_fields, _no_arrays
)

GENERIC: dict[OpKind, tuple[Kernel, ...]] = {
    OpKind.CONV_2D: (CONV_1X1, CONV),
    OpKind.DEPTHWISE_CONV_2D: (DEPTHWISE,),
    OpKind.FULLY_CONNECTED: (FULLY_CONNECTED,),
    OpKind.ADD: (ADD,),
    OpKind.AVERAGE_POOL_2D: (POOL_GLOBAL, AVERAGE_POOL),
    OpKind.MAX_POOL_2D: (MAX_POOL,),
    OpKind.MEAN: (MEAN_ROWS, MEAN),
    OpKind.PAD: (PAD,),
    OpKind.SOFTMAX: (SOFTMAX,),
    OpKind.CONCATENATION: (CONCATENATION,),
    OpKind.QUANTIZE: (QUANTIZE_FLOAT, REQUANTIZE),
    OpKind.DEQUANTIZE: (DEQUANTIZE,),
    OpKind.RELU: (REQUANTIZE,),
    OpKind.RELU6: (REQUANTIZE,),
}
"""The kernels of every operator, the one to prefer first. They run every layer of its kind."""
