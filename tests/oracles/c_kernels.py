"""Runs single layers on the C kernels of a host library through ctypes, its structs filled in apart from the generator.

``python -m tests.oracles.c_kernels LIBRARY CASES RESULTS`` runs a pickled list of (graph, inputs), so that the kernels
can run in a process of their own, under the address sanitizer.
"""

from __future__ import annotations

import ctypes as c
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from export import numerics
from export.graph import DType, Graph, Operator, OpKind, Quantization, Tensor

Array = npt.NDArray[Any]
Fields = list[tuple[str, Any]]


def _struct(name: str, fields: Fields) -> Any:
    return type(name, (c.Structure,), {"_fields_": fields})


_Shape = _struct("Shape", [(n, c.c_uint16) for n in ("rows", "columns", "channels")])
_Window = _struct(
    "Window",
    [
        (n, c.c_uint8)
        for n in (
            "kernel_rows",
            "kernel_columns",
            "stride_rows",
            "stride_columns",
            "dilation_rows",
            "dilation_columns",
            "padding_top",
            "padding_left",
        )
    ],
)
_CLAMP: Fields = [("minimum", c.c_int8), ("maximum", c.c_int8)]
_Requantization = _struct(
    "Requantization",
    [("multipliers", c.c_void_p), ("shifts", c.c_void_p), ("output_zero_point", c.c_int16), *_CLAMP],
)
_WideRequantization = _struct(
    "WideRequantization",
    [
        ("high", c.c_void_p),
        ("low", c.c_void_p),
        ("shifts", c.c_void_p),
        ("per_channel", c.c_uint8),
        *_CLAMP,
        ("output_zero_point", c.c_int16),
    ],
)
_SPATIAL: Fields = [("input", _Shape), ("output", _Shape), ("window", _Window)]
_Conv = _struct(
    "Conv",  # the depthwise struct has the same layout, its third field being the multiplier
    [
        *_SPATIAL,
        ("groups", c.c_uint16),
        ("input_zero_point", c.c_int16),
        ("weights", c.c_void_p),
        ("bias", c.c_void_p),
        ("requantization", _Requantization),
    ],
)
_FullyConnected = _struct(
    "FullyConnected",
    [
        ("batches", c.c_uint16),
        ("inputs", c.c_uint16),
        ("outputs", c.c_uint16),
        ("weights", c.c_void_p),
        ("bias", c.c_void_p),
        ("requantization", _WideRequantization),
    ],
)
_Add = _struct(
    "Add",
    [
        ("elements", c.c_uint32),
        ("zero_points", c.c_int16 * 2),
        ("multipliers", c.c_int32 * 2),
        ("shifts", c.c_int8 * 2),
        ("output_multiplier", c.c_int32),
        ("output_shift", c.c_int8),
        ("output_zero_point", c.c_int16),
        *_CLAMP,
    ],
)
_Pool = _struct("Pool", [*_SPATIAL, *_CLAMP])
_Mean = _struct(
    "Mean",
    [
        *((n, c.c_uint32) for n in ("outer", "reduced", "inner")),
        ("input_zero_point", c.c_int16),
        ("output_zero_point", c.c_int16),
        ("multiplier", c.c_int32),
        ("shift", c.c_int8),
    ],
)
_Pad = _struct(
    "Pad",
    [
        ("input", _Shape),
        ("output", _Shape),
        *((n, c.c_uint16) for n in ("top", "left", "front")),
        ("value", c.c_int8),
    ],
)
_Softmax = _struct(
    "Softmax", [("rows", c.c_uint32), ("columns", c.c_uint32), ("exps", c.c_void_p), ("exps_count", c.c_uint16)]
)
_Concatenation = _struct("Concatenation", [(n, c.c_uint32) for n in ("outer", "inner_bytes", "output_stride_bytes")])
_Requantize = _struct(
    "Requantize",
    [
        ("elements", c.c_uint32),
        ("input_zero_point", c.c_int16),
        ("output_zero_point", c.c_int16),
        ("multiplier", c.c_int32),
        ("shift", c.c_int8),
        *_CLAMP,
    ],
)
_Affine = _struct("Affine", [("elements", c.c_uint32), ("scale", c.c_float), ("zero_point", c.c_int16)])


class LayerRunner:
    """One single-operator graph, ready to run any number of times in any memory."""

    def __init__(self, library: c.CDLL, graph: Graph) -> None:
        self._library = library
        self._graph = graph
        (self._operator,) = graph.operators
        self._keep: list[Array] = []

    def run(self, inputs: list[Array]) -> Array:
        """Inputs, output and scratch in memory of their own, each with nothing behind it."""
        target = self._graph.output_tensor(self._operator)
        output = np.full(target.shape, 99, target.dtype.value)
        self._call([np.ascontiguousarray(value) for value in inputs], output)
        return output

    def run_in_place(self, value: Array, other: Array | None = None) -> Array:
        """An element-wise layer whose output is its first input."""
        buffer = np.ascontiguousarray(value).copy()
        self._call([buffer] if other is None else [buffer, np.ascontiguousarray(other)], buffer)
        return buffer

    def run_overlaid(self, value: Array) -> Array:
        """A windowed layer whose output lies as far up on its input as the header allows."""
        operator, target = self._operator, self._graph.output_tensor(self._operator)
        row_in, row_out = value[0, 0].size, int(np.prod(target.shape[2:]))
        distance = 0  # bytes by which the output starts below the input
        for y in range(target.shape[1]):
            first = y - operator.pads[1][0] if operator.kind is OpKind.PAD else 0
            if operator.window is not None:
                first = y * operator.window.stride[0] - operator.window.padding[0]
            first = min(max(first, 0), value.shape[1])
            distance = max(distance, (y + 1) * row_out - first * row_in)
        memory = np.zeros(max(distance + value.size, target.elements), np.int8)
        source = memory[distance : distance + value.size]
        source[:] = value.ravel()
        output = memory[: target.elements]
        self._call([source], output)
        return output.reshape(target.shape).copy()

    def _call(self, inputs: list[Array], output: Array) -> None:
        operator = self._operator
        if operator.kind is OpKind.CONCATENATION:
            self._concatenate(inputs, output)
            return
        name, layer = self._layer()
        arguments = [
            c.byref(layer),
            *(c.c_void_p(value.ctypes.data) for value in inputs),
            c.c_void_p(output.ctypes.data),
        ]
        scratch = np.empty(numerics.scratch_bytes(self._graph, operator), np.int8)
        if scratch.size:
            arguments.append(c.c_void_p(scratch.ctypes.data))
        getattr(self._library, name)(*arguments)

    def _concatenate(self, inputs: list[Array], output: Array) -> None:
        (axis,) = self._operator.axes
        offset = 0
        for value in inputs:
            inner = int(np.prod(value.shape[axis:]))
            stride = int(np.prod(output.shape[axis:]))
            layer = _Concatenation(value.size // inner, inner, stride)
            self._library.tn_concatenation_part_s8(
                c.byref(layer), c.c_void_p(value.ctypes.data), c.c_void_p(output.ctypes.data + offset)
            )
            offset += inner

    def _pointer(self, values: Array) -> int:
        self._keep.append(np.ascontiguousarray(values))
        return int(self._keep[-1].ctypes.data)

    def _layer(self) -> tuple[str, Any]:
        graph, operator = self._graph, self._operator
        kind = operator.kind
        source, target = graph.input_tensors(operator)[0], graph.output_tensor(operator)
        if kind in (OpKind.CONV_2D, OpKind.DEPTHWISE_CONV_2D):
            return self._conv(operator, source, target)
        if kind is OpKind.FULLY_CONNECTED:
            weights, bias = self._weights_and_bias(operator, source)
            wide = numerics.fully_connected_requantization(graph, operator)
            requantization = _WideRequantization(
                self._pointer(wide.high),
                self._pointer(wide.low),
                self._pointer(wide.shifts),
                int(wide.per_channel),
                wide.minimum,
                wide.maximum,
                wide.output_zero_point,
            )
            outputs, depth = weights.shape
            layer = _FullyConnected(
                source.elements // depth, depth, outputs, self._pointer(weights), self._pointer(bias), requantization
            )
            return "tn_fully_connected_generic_s8", layer
        if kind is OpKind.ADD:
            add = numerics.add_parameters(graph, operator)
            layer = _Add(
                target.elements,
                add.zero_points,
                add.multipliers,
                add.shifts,
                add.output_multiplier,
                add.output_shift,
                add.output_zero_point,
                add.minimum,
                add.maximum,
            )
            return "tn_add_generic_s8", layer
        if kind in (OpKind.AVERAGE_POOL_2D, OpKind.MAX_POOL_2D):
            name = "tn_pool_average_s8" if kind is OpKind.AVERAGE_POOL_2D else "tn_pool_max_s8"
            clamp = numerics.activation_range(operator.activation, _quantization(target))
            return name, _Pool(_shape(source), _shape(target), _window(operator), *clamp)
        if kind is OpKind.MEAN:
            mean = numerics.mean_parameters(graph, operator)
            layer = _Mean(
                mean.outer,
                mean.reduced,
                mean.inner,
                mean.input_zero_point,
                mean.output_zero_point,
                mean.multiplier,
                mean.shift,
            )
            return "tn_mean_generic_s8", layer
        if kind is OpKind.PAD:
            before = [amount for amount, _ in operator.pads[1:]]
            return "tn_pad_generic_s8", _Pad(_shape(source), _shape(target), *before, _quantization(source).zero_point)
        if kind is OpKind.SOFTMAX:
            exps = numerics.softmax_exps(_quantization(source).scale, operator.beta)
            columns = source.shape[-1]
            return "tn_softmax_generic_s8", _Softmax(
                source.elements // columns, columns, self._pointer(exps), len(exps)
            )
        if source.dtype is DType.FLOAT32 or target.dtype is DType.FLOAT32:
            name, affine = (
                ("tn_quantize_float_s8", target) if kind is OpKind.QUANTIZE else ("tn_dequantize_float_s8", source)
            )
            quantization = _quantization(affine)
            return name, _Affine(target.elements, quantization.scale, quantization.zero_point)
        rescale = numerics.requantize_parameters(graph, operator)
        layer = _Requantize(
            target.elements,
            rescale.input_zero_point,
            rescale.output_zero_point,
            rescale.multiplier,
            rescale.shift,
            rescale.minimum,
            rescale.maximum,
        )
        return "tn_requantize_generic_s8", layer

    def _conv(self, operator: Operator, source: Tensor, target: Tensor) -> tuple[str, Any]:
        weights, bias = self._weights_and_bias(operator, source)
        r = numerics.conv_requantization(self._graph, operator)
        requantization = _Requantization(
            self._pointer(r.multipliers), self._pointer(r.shifts), r.output_zero_point, r.minimum, r.maximum
        )
        if operator.kind is OpKind.DEPTHWISE_CONV_2D:
            name, third = "tn_depthwise_generic_s8", target.shape[3] // source.shape[3]
        else:
            pointwise = numerics.is_pointwise(self._graph, operator)
            name, third = "tn_conv_1x1_s8" if pointwise else "tn_conv_generic_s8", operator.groups
        layer = _Conv(
            _shape(source),
            _shape(target),
            _window(operator),
            third,
            _quantization(source).zero_point,
            self._pointer(weights),
            self._pointer(bias),
            requantization,
        )
        return name, layer

    def _weights_and_bias(self, operator: Operator, source: Tensor) -> tuple[Array, Array]:
        tensors = self._graph.input_tensors(operator)
        weights = numerics.kernel_weights(operator, _data(tensors[1]))
        bias = _data(tensors[2]) if len(tensors) > 2 else None
        return weights, numerics.fold_input_offset(bias, weights, _quantization(source).zero_point)


def _data(tensor: Tensor) -> Array:
    assert tensor.data is not None
    return tensor.data


def _quantization(tensor: Tensor) -> Quantization:
    assert tensor.quantization is not None
    return tensor.quantization


def _shape(tensor: Tensor) -> Any:
    return _Shape(*tensor.shape[1:])


def _window(operator: Operator) -> Any:
    window = operator.window
    assert window is not None
    return _Window(*window.kernel, *window.stride, *window.dilation, *window.padding)


_WINDOWED = (OpKind.CONV_2D, OpKind.DEPTHWISE_CONV_2D, OpKind.AVERAGE_POOL_2D, OpKind.MAX_POOL_2D, OpKind.PAD)


def run_cases(library: c.CDLL, cases: list[tuple[Graph, list[Array]]]) -> list[dict[str, Array]]:
    """For each case its output by the way in which memory was laid out: "apart", and "overlaid" where allowed."""
    results = []
    for graph, inputs in cases:
        runner = LayerRunner(library, graph)
        (operator,) = graph.operators
        result = {"apart": runner.run(inputs)}
        if operator.kind in _WINDOWED:
            result["overlaid"] = runner.run_overlaid(inputs[0])
        elif operator.kind is OpKind.ADD:
            result["overlaid"] = runner.run_in_place(inputs[0], inputs[1])
        elif operator.kind in (OpKind.RELU, OpKind.RELU6) or (
            operator.kind is OpKind.QUANTIZE and inputs[0].dtype == np.int8
        ):
            result["overlaid"] = runner.run_in_place(inputs[0])
        results.append(result)
    return results


if __name__ == "__main__":
    library_path, cases_path, results_path = sys.argv[1:]
    found = run_cases(c.CDLL(library_path), pickle.loads(Path(cases_path).read_bytes()))
    Path(results_path).write_bytes(pickle.dumps(found))
