"""Reads an int8 ``.tflite`` file into the graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from export.errors import ModelFormatError, UnsupportedOperatorError
from export.graph import Activation, DType, Graph, Operator, OpKind, Quantization, Tensor, Window, same_padding
from export.supported import check_supported, supported_names

_IDENTIFIER = b"TFL3"
_MOST_OPERATORS = 2_000
_MOST_RECORDS = 10_000
_DTYPES = {
    schema.TensorType.INT8: DType.INT8,
    schema.TensorType.INT32: DType.INT32,
    schema.TensorType.FLOAT32: DType.FLOAT32,
}
_OPERATOR_NAMES = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
_TYPE_NAMES = {code: name for name, code in vars(schema.TensorType).items() if isinstance(code, int)}
_ACTIVATION_NAMES = {code: name for name, code in vars(schema.ActivationFunctionType).items() if isinstance(code, int)}
_PADDINGS = (schema.Padding.SAME, schema.Padding.VALID)
_SIZE_KEEPING = (OpKind.RESHAPE, OpKind.QUANTIZE, OpKind.DEQUANTIZE, OpKind.RELU, OpKind.RELU6, OpKind.SOFTMAX)


def read_tflite(path: Path) -> Graph:
    """Read the model's only subgraph; the graph is named after the file.

    Raises ModelFormatError when the file is missing, damaged or not a TensorFlow Lite model, UnsupportedOperatorError
    when an operator, or the form of one, has no kernel, and ExportError when the model has several inputs or outputs.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelFormatError(f"cannot read the model {path}: {error.strerror}") from error
    return parse_tflite(content, path.stem)


def parse_tflite(content: bytes, name: str) -> Graph:
    """The same as `read_tflite` for a model in memory."""
    if content[4:8] != _IDENTIFIER:
        raise ModelFormatError(
            f"'{name}' is not a TensorFlow Lite model: bytes 4 to 7 should read TFL3; give an int8 .tflite file"
        )
    try:
        model = schema.Model.GetRootAs(content, 0)
        if model.SubgraphsLength() != 1:
            raise ModelFormatError(
                f"'{name}' has {model.SubgraphsLength()} subgraphs; only models with one are supported"
            )
        _check_size(model, len(content), name)
        graph = _read_subgraph(model, name)
    except (ModelFormatError, UnsupportedOperatorError):
        raise
    except Exception as error:  # the flatbuffers reader raises whatever the damaged bytes lead it to
        raise ModelFormatError(
            f"'{name}' is damaged or truncated and cannot be read ({type(error).__name__}: {error}); convert it again"
        ) from error
    check_supported(graph)
    return graph


def _check_size(model: Any, content_bytes: int, name: str) -> None:
    """Refuse a file whose lists are so many or overlap so much that reading it would take hours and all memory."""
    subgraph = model.Subgraphs(0)
    records = subgraph.TensorsLength(), model.BuffersLength(), model.OperatorCodesLength()
    if max(records) > _MOST_RECORDS or subgraph.OperatorsLength() > _MOST_OPERATORS:
        raise ModelFormatError(f"'{name}' has more than {_MOST_OPERATORS} operators or {_MOST_RECORDS} tensors")
    elements = 0
    for index in range(subgraph.TensorsLength()):
        tensor = subgraph.Tensors(index)
        label = tensor.Name() or b""
        if tensor.Sparsity() is not None or tensor.VariantTensorsLength():
            text = label.decode("utf-8", errors="replace")
            raise UnsupportedOperatorError(f"the tensor '{text}' is sparse or a variant; convert the model without")
        elements += len(label) + tensor.ShapeLength() + tensor.ShapeSignatureLength()
        quantization = tensor.Quantization()
        if quantization is not None:
            elements += quantization.ScaleLength() + quantization.ZeroPointLength()
    for index in range(subgraph.OperatorsLength()):
        elements += subgraph.Operators(index).InputsLength() + subgraph.Operators(index).OutputsLength()
    if elements > content_bytes:
        raise ModelFormatError(f"'{name}' is damaged: its lists overlap; convert it again")


def _read_subgraph(model: Any, name: str) -> Graph:
    subgraph = schema.SubGraphT.InitFromObj(model.Subgraphs(0))
    reader = _SubgraphReader(model, subgraph)
    operators = tuple(reader.operator(index, record) for index, record in enumerate(subgraph.operators))
    if not operators:
        raise ModelFormatError(f"'{name}' has no operators")
    graph = Graph(
        name=name,
        tensors=tuple(reader.tensors),
        operators=operators,
        inputs=tuple(int(index) for index in subgraph.inputs),
        outputs=tuple(int(index) for index in subgraph.outputs),
    )
    _check_order(graph)
    return graph


def _check_order(graph: Graph) -> None:
    """Every activation must be computed before it is read, once."""
    if not {*graph.inputs, *graph.outputs} <= set(range(len(graph.tensors))):
        raise ModelFormatError(f"'{graph.name}' has inputs or outputs that are not among its tensors")
    if any(graph.tensors[index].is_constant for index in graph.inputs):
        raise ModelFormatError(f"'{graph.name}' has an input that is a constant")
    known = set(graph.inputs)
    for operator in graph.operators:
        for index in graph.activations_in(operator):
            if index not in known:
                raise ModelFormatError(
                    f"'{graph.name}': the layer '{operator.name}' reads '{graph.tensors[index].name}' "
                    "before any layer has computed it"
                )
        for index in operator.outputs:
            if index in known or graph.tensors[index].is_constant:
                raise ModelFormatError(f"'{graph.name}': '{graph.tensors[index].name}' is computed twice")
            known.add(index)
    if not graph.inputs or not graph.outputs or not known.issuperset(graph.outputs):
        raise ModelFormatError(f"'{graph.name}' has no input, or an output that no layer computes")


class _SubgraphReader:
    """Turns the records of one subgraph into tensors and operators."""

    def __init__(self, model: Any, subgraph: Any) -> None:
        self._codes = [
            schema.OperatorCodeT.InitFromObj(model.OperatorCodes(index)) for index in range(model.OperatorCodesLength())
        ]
        self._buffers = [schema.BufferT.InitFromObj(model.Buffers(index)) for index in range(model.BuffersLength())]
        self.tensors = [self._tensor(record) for record in subgraph.tensors]
        self._raw_types = [record.type for record in subgraph.tensors]

    def _tensor(self, record: Any) -> Tensor:
        name = (record.name or b"").decode("utf-8", errors="replace")
        shape = tuple(int(size) for size in record.shape) if record.shape is not None else ()
        # Keras marks the batch alone as free (-1), which a batch of 1 satisfies.
        free = record.shapeSignature is not None and min(record.shapeSignature[1:], default=1) < 0
        if free or min(shape, default=1) < 0:
            raise ModelFormatError(f"the tensor '{name}' has no fixed shape; convert the model with a fixed input size")
        dtype = _DTYPES.get(record.type)
        buffer = self._buffers[record.buffer].data
        data = None
        if buffer is not None and len(buffer):
            if dtype is not None:
                values = np.frombuffer(buffer, dtype=np.dtype(dtype.value).newbyteorder("<"))
                data = values.astype(dtype.value, copy=False).reshape(shape)
            else:
                data = np.frombuffer(buffer, dtype=np.uint8)
        return Tensor(
            name=name,
            shape=shape,
            dtype=dtype
            or DType.FLOAT32,  # only a stand-in: an operator that uses the tensor is refused by its raw type
            quantization=self._quantization(record.quantization, name),
            is_constant=data is not None,
            data=data,
        )

    @staticmethod
    def _quantization(record: Any, name: str) -> Quantization | None:
        if record is None or record.scale is None or len(record.scale) == 0:
            return None
        scales = tuple(float(scale) for scale in record.scale)
        if not all(np.isfinite(scales)) or min(scales) <= 0:
            raise ModelFormatError(f"the tensor '{name}' has a scale that is not a positive number")
        zero_points = tuple(int(point) for point in record.zeroPoint) if record.zeroPoint is not None else ()
        zero_points = zero_points or (0,) * len(scales)
        if len(zero_points) != len(scales):
            raise ModelFormatError(f"the tensor '{name}' has {len(scales)} scales and {len(zero_points)} zero points")
        return Quantization(scales, zero_points, int(record.quantizedDimension))

    def operator(self, index: int, record: Any) -> Operator:
        code = self._codes[record.opcodeIndex]
        builtin = max(code.builtinCode, code.deprecatedBuiltinCode)
        outputs = tuple(int(output) for output in record.outputs)
        inputs = [int(value) for value in record.inputs]
        count = len(self.tensors)
        # -1 stands for an optional input that is not there: the bias, the third.
        present = [value for position, value in enumerate(inputs) if position != 2 or value != -1]
        if not all(0 <= value < count for value in (*present, *outputs)):
            raise ModelFormatError(f"operator {index} uses tensors that the model does not have")
        layer = self.tensors[outputs[0]].name or f"layer {index}"
        kind_name = _OPERATOR_NAMES.get(builtin, f"operator {builtin}")
        if kind_name == "CUSTOM" and code.customCode:
            kind_name = f"CUSTOM '{code.customCode.decode('utf-8', errors='replace')}'"
        try:
            kind = OpKind(kind_name)
        except ValueError:
            raise UnsupportedOperatorError(
                f"the operator {kind_name} of the layer '{layer}' has no kernel; supported are {supported_names()}"
            ) from None
        if kind in (OpKind.CONV_2D, OpKind.DEPTHWISE_CONV_2D, OpKind.FULLY_CONNECTED):
            inputs = present
        attributes = self._attributes(kind, layer, inputs, outputs, record.builtinOptions)
        if kind in (OpKind.PAD, OpKind.MEAN, OpKind.RESHAPE):
            inputs = inputs[:1]
        self._check_types(kind, layer, inputs, outputs)
        return Operator(kind, layer, tuple(inputs), outputs, **attributes)

    def _check_types(self, kind: OpKind, layer: str, inputs: list[int], outputs: tuple[int, ...]) -> None:
        if min(inputs, default=-1) < 0 or len(outputs) != 1:
            raise ModelFormatError(
                f"{kind.value} of the layer '{layer}' has {len(inputs)} inputs, {len(outputs)} outputs"
            )
        expected = {OpKind.ADD: (2,), OpKind.CONCATENATION: range(1, 256), OpKind.FULLY_CONNECTED: (2, 3)}
        expected |= {OpKind.CONV_2D: (2, 3), OpKind.DEPTHWISE_CONV_2D: (2, 3)}
        if len(inputs) not in expected.get(kind, (1,)):
            raise ModelFormatError(f"{kind.value} of the layer '{layer}' has {len(inputs)} inputs")
        for index in (*inputs, *outputs):
            raw = self._raw_types[index]
            if raw not in _DTYPES:
                raise UnsupportedOperatorError(
                    f"{kind.value} of the layer '{layer}' uses '{self.tensors[index].name}' of type "
                    f"{_TYPE_NAMES.get(raw, raw)}; the kernels know int8 (convert with full-integer quantization)"
                )
            tensor = self.tensors[index]
            if tensor.dtype is DType.INT8 and tensor.quantization is None:
                raise ModelFormatError(f"the int8 tensor '{tensor.name}' has no scale; quantize the model again")
        source, target = self.tensors[inputs[0]], self.tensors[outputs[0]]
        if kind in _SIZE_KEEPING and source.elements != target.elements:
            raise ModelFormatError(
                f"{kind.value} of the layer '{layer}' turns {list(source.shape)} into {list(target.shape)}"
            )

    def _attributes(
        self, kind: OpKind, layer: str, inputs: list[int], outputs: tuple[int, ...], options: Any
    ) -> dict[str, Any]:
        match kind:
            case OpKind.CONV_2D:
                groups = self.tensors[inputs[0]].shape[-1] // max(1, self.tensors[inputs[1]].shape[-1])
                return self._window(layer, inputs, outputs, options) | {"groups": groups}
            case OpKind.DEPTHWISE_CONV_2D | OpKind.AVERAGE_POOL_2D | OpKind.MAX_POOL_2D:
                return self._window(layer, inputs, outputs, options)
            case OpKind.FULLY_CONNECTED:
                if options.weightsFormat:
                    raise UnsupportedOperatorError(f"FULLY_CONNECTED of the layer '{layer}' has shuffled weights")
                return {"activation": self._activation(layer, options)}
            case OpKind.ADD:
                return {"activation": self._activation(layer, options)}
            case OpKind.CONCATENATION:
                axis = self._axis(layer, options.axis, outputs[0])
                return {"activation": self._activation(layer, options), "axes": (axis,)}
            case OpKind.MEAN:
                axes = {self._axis(layer, axis, inputs[0]) for axis in self._constant(layer, inputs, 1).ravel()}
                return {"axes": tuple(sorted(axes))}
            case OpKind.PAD:
                pads = self._constant(layer, inputs, 1).reshape(-1, 2)
                return {"pads": tuple((int(before), int(after)) for before, after in pads)}
            case OpKind.SOFTMAX:
                return {"beta": float(options.beta)}
            case _:
                return {}

    def _axis(self, layer: str, axis: Any, tensor: int) -> int:
        """The axis counted from the front."""
        rank = len(self.tensors[tensor].shape)
        if not -rank <= axis < rank:
            raise ModelFormatError(f"the layer '{layer}' has the axis {axis} for a tensor of rank {rank}")
        return int(axis) % rank

    def _constant(self, layer: str, inputs: list[int], position: int) -> Any:
        data = self.tensors[inputs[position]].data if len(inputs) > position else None
        if data is None or self._raw_types[inputs[position]] != schema.TensorType.INT32:
            raise UnsupportedOperatorError(f"the layer '{layer}' needs an int32 constant as input {position}")
        return data

    @staticmethod
    def _activation(layer: str, options: Any) -> Activation:
        name = _ACTIVATION_NAMES.get(options.fusedActivationFunction, str(options.fusedActivationFunction))
        try:
            return Activation(name)
        except ValueError:
            raise UnsupportedOperatorError(
                f"the layer '{layer}' has the fused activation {name}; supported are "
                f"{', '.join(activation.value for activation in Activation)}"
            ) from None

    def _window(self, layer: str, inputs: list[int], outputs: tuple[int, ...], options: Any) -> dict[str, Any]:
        source, target = self.tensors[inputs[0]].shape, self.tensors[outputs[0]].shape
        kernel: tuple[int, ...] = self.tensors[inputs[1]].shape[1:3] if len(inputs) > 1 else ()
        if hasattr(options, "filterHeight"):
            kernel = (options.filterHeight, options.filterWidth)
        stride = (options.strideH, options.strideW)
        dilation = (getattr(options, "dilationHFactor", 1), getattr(options, "dilationWFactor", 1))
        if len(source) != 4 or len(target) != 4 or len(kernel) != 2 or min(*kernel, *stride, *dilation) < 1:
            raise ModelFormatError(f"the layer '{layer}' has a window {kernel} over {list(source)}")
        if options.padding not in _PADDINGS:
            raise ModelFormatError(f"the layer '{layer}' has padding that is neither SAME nor VALID")
        padding = []
        for axis in (0, 1):
            reach = (kernel[axis] - 1) * dilation[axis] + 1
            if options.padding == schema.Padding.SAME:
                size, before = same_padding(source[axis + 1], kernel[axis], stride[axis], dilation[axis])
            else:
                size, before = (source[axis + 1] - reach) // stride[axis] + 1, 0
            if size != target[axis + 1]:
                raise ModelFormatError(
                    f"the layer '{layer}' should have the output size {size} on axis {axis + 1}, "
                    f"but the file says {target[axis + 1]}"
                )
            padding.append(before)
        window = Window((kernel[0], kernel[1]), stride, dilation, (padding[0], padding[1]))
        return {"activation": self._activation(layer, options), "window": window}
