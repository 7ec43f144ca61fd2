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
_RINGED: Fields = [("input", _Shape), ("output", _Shape), ("input_ring", c.c_uint16), ("output_ring", c.c_uint16)]
_SPATIAL: Fields = [*_RINGED, ("window", _Window)]
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
_Pointwise = _struct(
    "Pointwise",
    [
        ("rows", c.c_uint32),
        ("columns", c.c_uint32),
        ("input_channels", c.c_uint16),
        ("output_channels", c.c_uint16),
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
_PoolGlobal = _struct("PoolGlobal", [("input", _Shape), ("input_ring", c.c_uint16), *_CLAMP])
_MeanRows = _struct(
    "MeanRows",
    [
        ("input", _Shape),
        ("input_ring", c.c_uint16),
        ("input_zero_point", c.c_int16),
        ("output_zero_point", c.c_int16),
        ("multiplier", c.c_int32),
        ("shift", c.c_int8),
    ],
)
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
        *_RINGED,
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


_WINDOWED = (OpKind.CONV_2D, OpKind.DEPTHWISE_CONV_2D, OpKind.AVERAGE_POOL_2D, OpKind.MAX_POOL_2D, OpKind.PAD)
_REDUCTIONS = ("tn_pool_global_s8", "tn_mean_rows_s8")
_BY_ROW = (
    "tn_conv_generic_s8",
    "tn_depthwise_generic_s8",
    "tn_pool_average_s8",
    "tn_pool_max_s8",
    "tn_pad_generic_s8",
)


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
        target = self._graph.output_tensor(self._operator)
        row_in, row_out = value[0, 0].size, int(np.prod(target.shape[2:]))
        # bytes by which the output starts below the input
        distance = max(0, *((y + 1) * row_out - self._window_rows(y)[0] * row_in for y in range(target.shape[1])))
        memory = np.zeros(max(distance + value.size, target.elements), np.int8)
        source = memory[distance : distance + value.size]
        source[:] = value.ravel()
        output = memory[: target.elements]
        self._call([source], output)
        return output.reshape(target.shape).copy()

    def run_through_rings(self, value: Array) -> Array:
        """A windowed layer row by row: its buffers hold no more input rows than they must, and few output rows."""
        target = self._graph.output_tensor(self._operator)
        height = target.shape[1]
        windows = [self._window_rows(y) for y in range(height)]
        arrived, input_ring = 0, 1
        for first, end in windows:
            arrived = max(arrived, end)
            input_ring = max(input_ring, arrived - first)
        output_ring = 1 + height % 3
        source = np.full((input_ring, *value.shape[2:]), 99, np.int8)
        ring = np.full((output_ring, *target.shape[2:]), 99, np.int8)
        result = np.empty(target.shape, np.int8)
        name, layer = self._layer(input_ring, output_ring, row=True)
        scratch, arrived = self._scratch(name), 0
        for y, (_, end) in enumerate(windows):
            for row in range(arrived, end):
                source[row % input_ring] = value[0, row]
            arrived = max(arrived, end)
            if name == "tn_conv_1x1_s8":
                self._invoke(name, layer, [source[y % input_ring]], ring[y % output_ring], scratch)
            else:
                self._invoke(name, layer, [source], ring, scratch, y, 1)
            result[0, y] = ring[y % output_ring]
        return result

    def run_reduction_by_rows(self, value: Array) -> Array:
        """A reduction whose input rows come one at a time, into a ring of one or two rows."""
        target, height = self._graph.output_tensor(self._operator), value.shape[1]
        input_ring = 1 + height % 2
        source = np.full((input_ring, *value.shape[2:]), 99, np.int8)
        output = np.full(target.shape, 99, np.int8)
        name, layer = self._layer(input_ring, row=True)
        scratch = self._scratch(name)
        for y in range(height):
            source[y % input_ring] = value[0, y]
            self._invoke(name, layer, [source], output, scratch, y, 1)
            source[y % input_ring] = 99
        return output

    def _window_rows(self, y: int) -> tuple[int, int]:
        """The input rows that output row ``y`` reads, as a range; an empty one where it reads padding only."""
        operator = self._operator
        height = self._graph.input_tensors(operator)[0].shape[1]
        first, reach = y, 1
        if operator.kind is OpKind.PAD:
            first = y - operator.pads[1][0]
        elif operator.window is not None:
            first = y * operator.window.stride[0] - operator.window.padding[0]
            reach = (operator.window.kernel[0] - 1) * operator.window.dilation[0] + 1
        return min(max(first, 0), height), min(max(first + reach, 0), height)

    def _scratch(self, name: str) -> Array:
        """Scratch memory of the size that the header asks for."""
        source, *others = self._graph.input_tensors(self._operator)
        size = 0
        if name == "tn_conv_generic_s8":
            size = 2 * int(np.prod(others[0].shape[1:]))
        elif name in _REDUCTIONS:
            size = 4 * source.shape[-1]
        return np.full(size, 99, np.int8)

    def _call(self, inputs: list[Array], output: Array) -> None:
        """The layer in one call."""
        operator = self._operator
        if operator.kind is OpKind.CONCATENATION:
            self._concatenate(inputs, output)
            return
        source, target = self._graph.input_tensors(operator)[0], self._graph.output_tensor(operator)
        heights = [tensor.shape[1] if len(tensor.shape) > 1 else 1 for tensor in (source, target)]
        name, layer = self._layer(*heights)
        if name in _REDUCTIONS:
            self._invoke(name, layer, inputs, output, self._scratch(name), 0, heights[0])
        elif name in _BY_ROW:
            self._invoke(name, layer, inputs, output, self._scratch(name), 0, heights[1])
        else:
            self._invoke(name, layer, inputs, output, self._scratch(name))

    def _invoke(self, name: str, layer: Any, inputs: list[Array], output: Array, scratch: Array, *rows: int) -> None:
        arguments = [
            c.byref(layer),
            *(c.c_void_p(value.ctypes.data) for value in inputs),
            c.c_void_p(output.ctypes.data),
        ]
        if scratch.size:
            arguments.append(c.c_void_p(scratch.ctypes.data))
        getattr(self._library, name)(*arguments, *map(c.c_uint32, rows))

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

    def _layer(self, input_ring: int, output_ring: int = 1, *, row: bool = False) -> tuple[str, Any]:
        """The kernel and its struct: for whole tensors, or with ``row`` for calls of one row each."""
        graph, operator = self._graph, self._operator
        kind = operator.kind
        source, target = graph.input_tensors(operator)[0], graph.output_tensor(operator)
        if kind in (OpKind.CONV_2D, OpKind.DEPTHWISE_CONV_2D):
            return self._conv(operator, source, target, (input_ring, output_ring), row)
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
            if is_global(graph):
                return "tn_pool_global_s8", _PoolGlobal(_shape(source), input_ring, *clamp)
            return name, _Pool(_shape(source), _shape(target), input_ring, output_ring, _window(operator), *clamp)
        if kind is OpKind.MEAN:
            mean = numerics.mean_parameters(graph, operator)
            if is_global(graph):
                scaling = (mean.input_zero_point, mean.output_zero_point, mean.multiplier, mean.shift)
                return "tn_mean_rows_s8", _MeanRows(_shape(source), input_ring, *scaling)
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
            shapes = (_shape(source), _shape(target), input_ring, output_ring)
            return "tn_pad_generic_s8", _Pad(*shapes, *before, _quantization(source).zero_point)
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

    def _conv(
        self, operator: Operator, source: Tensor, target: Tensor, rings: tuple[int, int], row: bool
    ) -> tuple[str, Any]:
        weights, bias = self._weights_and_bias(operator, source)
        r = numerics.conv_requantization(self._graph, operator)
        requantization = _Requantization(
            self._pointer(r.multipliers), self._pointer(r.shifts), r.output_zero_point, r.minimum, r.maximum
        )
        if operator.kind is OpKind.DEPTHWISE_CONV_2D:
            name, third = "tn_depthwise_generic_s8", target.shape[3] // source.shape[3]
        elif numerics.is_pointwise(self._graph, operator):
            _, height, width, channels = target.shape
            layer = _Pointwise(
                1 if row else height,
                width,
                source.shape[3],
                channels,
                self._pointer(weights),
                self._pointer(bias),
                requantization,
            )
            return "tn_conv_1x1_s8", layer
        else:
            name, third = "tn_conv_generic_s8", operator.groups
        layer = _Conv(
            _shape(source),
            _shape(target),
            *rings,
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


def is_global(graph: Graph) -> bool:
    """Whether the layer averages over all rows and columns."""
    (operator,) = graph.operators
    source, target = graph.input_tensors(operator)[0], graph.output_tensor(operator)
    if operator.kind is OpKind.MEAN:
        return len(source.shape) == 4 and operator.axes == (1, 2)
    window = operator.window
    if operator.kind is not OpKind.AVERAGE_POOL_2D or window is None:
        return False
    return window.kernel == source.shape[1:3] and window.padding == (0, 0) and target.shape[1:3] == (1, 1)


def run_cases(library: c.CDLL, cases: list[tuple[Graph, list[Array]]]) -> list[dict[str, Array]]:
    """For each case its output by the way in which memory was laid out.

    "apart"; "overlaid" where the planner may do that; and "by rows" for layers that can be streamed.
    """
    results = []
    for graph, inputs in cases:
        runner = LayerRunner(library, graph)
        (operator,) = graph.operators
        result = {"apart": runner.run(inputs)}
        if is_global(graph):
            result["by rows"] = runner.run_reduction_by_rows(inputs[0])
        elif operator.kind in _WINDOWED:
            result["overlaid"] = runner.run_overlaid(inputs[0])
            result["by rows"] = runner.run_through_rings(inputs[0])
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
