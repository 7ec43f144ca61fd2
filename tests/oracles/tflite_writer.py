"""Writes an int8 ``.tflite`` from a graph, so that LiteRT can be asked what a graph should compute.

Shares nothing with the reader that it serves to test.
"""

from __future__ import annotations

from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from export.graph import Activation, DType, Graph, Operator, OpKind, Tensor, same_padding

_TYPES = {
    DType.INT8: schema.TensorType.INT8,
    DType.INT32: schema.TensorType.INT32,
    DType.FLOAT32: schema.TensorType.FLOAT32,
}
_FUSED = {
    Activation.NONE: schema.ActivationFunctionType.NONE,
    Activation.RELU: schema.ActivationFunctionType.RELU,
    Activation.RELU_N1_TO_1: schema.ActivationFunctionType.RELU_N1_TO_1,
    Activation.RELU6: schema.ActivationFunctionType.RELU6,
}


def write_tflite(graph: Graph) -> bytes:
    """The model, with every constant's data. Raises ValueError for padding that is neither SAME nor VALID."""
    return _Writer(graph).write()


class _Writer:
    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._buffers = [schema.BufferT()]  # buffer 0 is empty by convention
        self._tensors: list[Any] = []
        self._codes: list[str] = []

    def write(self) -> bytes:
        for tensor in self._graph.tensors:
            self._add_tensor(tensor)
        subgraph = schema.SubGraphT()
        subgraph.operators = [self._operator(operator) for operator in self._graph.operators]
        subgraph.tensors = self._tensors
        subgraph.inputs = list(self._graph.inputs)
        subgraph.outputs = list(self._graph.outputs)
        subgraph.name = "main"
        model = schema.ModelT()
        model.version = 3
        model.subgraphs = [subgraph]
        model.buffers = self._buffers
        model.operatorCodes = [_operator_code(name) for name in self._codes]
        builder = flatbuffers.Builder(1 << 16)
        builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())

    def _add_tensor(self, tensor: Tensor) -> int:
        record = schema.TensorT()
        record.name = tensor.name
        record.shape = list(tensor.shape)
        record.type = _TYPES[tensor.dtype]
        if tensor.data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(tensor.data, tensor.dtype.value).tobytes(), np.uint8)
            record.buffer = len(self._buffers)
            self._buffers.append(buffer)
        if tensor.quantization is not None:
            quantization = schema.QuantizationParametersT()
            quantization.scale = list(tensor.quantization.scales)
            quantization.zeroPoint = list(tensor.quantization.zero_points)
            quantization.quantizedDimension = tensor.quantization.axis
            record.quantization = quantization
        self._tensors.append(record)
        return len(self._tensors) - 1

    def _constant(self, name: str, values: object) -> int:
        data = np.asarray(values, np.int32)
        return self._add_tensor(Tensor(name, data.shape, DType.INT32, is_constant=True, data=data))

    def _operator(self, operator: Operator) -> Any:
        name = operator.kind.value
        if name not in self._codes:
            self._codes.append(name)
        record = schema.OperatorT()
        record.opcodeIndex = self._codes.index(name)
        record.inputs = [*operator.inputs, *self._attribute_tensors(operator)]
        record.outputs = list(operator.outputs)
        options = self._options(operator)
        if options is not None:
            record.builtinOptions = options
            record.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
        return record

    def _attribute_tensors(self, operator: Operator) -> list[int]:
        if operator.kind is OpKind.PAD:
            return [self._constant(f"{operator.name}/paddings", operator.pads)]
        if operator.kind is OpKind.MEAN:
            return [self._constant(f"{operator.name}/axes", operator.axes)]
        if operator.kind is OpKind.RESHAPE:
            return [self._constant(f"{operator.name}/shape", self._graph.output_tensor(operator).shape)]
        return []

    def _options(self, operator: Operator) -> Any:
        graph, kind = self._graph, operator.kind
        source, target = graph.input_tensors(operator)[0], graph.output_tensor(operator)
        if kind is OpKind.CONV_2D:
            return self._windowed(operator, schema.Conv2DOptionsT())
        if kind is OpKind.DEPTHWISE_CONV_2D:
            options = self._windowed(operator, schema.DepthwiseConv2DOptionsT())
            options.depthMultiplier = target.shape[-1] // source.shape[-1]
            return options
        if kind in (OpKind.AVERAGE_POOL_2D, OpKind.MAX_POOL_2D):
            options = self._windowed(operator, schema.Pool2DOptionsT())
            assert operator.window is not None
            options.filterHeight, options.filterWidth = operator.window.kernel
            return options
        if kind is OpKind.FULLY_CONNECTED:
            options = schema.FullyConnectedOptionsT()
            options.fusedActivationFunction = _FUSED[operator.activation]
            options.keepNumDims = len(target.shape) > 2
            return options
        if kind is OpKind.ADD:
            options = schema.AddOptionsT()
            options.fusedActivationFunction = _FUSED[operator.activation]
            return options
        if kind is OpKind.MEAN:
            options = schema.ReducerOptionsT()
            options.keepDims = len(source.shape) == len(target.shape)
            return options
        if kind is OpKind.SOFTMAX:
            options = schema.SoftmaxOptionsT()
            options.beta = operator.beta
            return options
        if kind is OpKind.CONCATENATION:
            options = schema.ConcatenationOptionsT()
            (options.axis,) = operator.axes
            return options
        if kind is OpKind.RESHAPE:
            options = schema.ReshapeOptionsT()
            options.newShape = list(target.shape)
            return options
        return None

    def _windowed(self, operator: Operator, options: Any) -> Any:
        window = operator.window
        assert window is not None
        options.padding = self._padding(operator)
        options.strideH, options.strideW = window.stride
        if operator.kind in (OpKind.CONV_2D, OpKind.DEPTHWISE_CONV_2D):
            options.dilationHFactor, options.dilationWFactor = window.dilation
        options.fusedActivationFunction = _FUSED[operator.activation]
        return options

    def _padding(self, operator: Operator) -> int:
        window = operator.window
        assert window is not None
        sizes = self._graph.input_tensors(operator)[0].shape[1:3]
        outputs = self._graph.output_tensor(operator).shape[1:3]
        axes = list(zip(sizes, window.kernel, window.stride, window.dilation, strict=True))
        if list(zip(outputs, window.padding, strict=True)) == [same_padding(*axis) for axis in axes]:
            return int(schema.Padding.SAME)
        valid = [(size - (kernel - 1) * dilation - 1) // stride + 1 for size, kernel, stride, dilation in axes]
        if list(outputs) == valid and window.padding == (0, 0):
            return int(schema.Padding.VALID)
        raise ValueError(f"the padding {window.padding} of '{operator.name}' is neither SAME nor VALID")


def _operator_code(name: str) -> Any:
    code = schema.OperatorCodeT()
    code.builtinCode = getattr(schema.BuiltinOperator, name)
    code.deprecatedBuiltinCode = min(code.builtinCode, 127)
    versions = {"CONV_2D": 5, "DEPTHWISE_CONV_2D": 5, "FULLY_CONNECTED": 5, "RESHAPE": 1}
    code.version = versions.get(name, 2)
    return code
