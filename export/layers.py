"""Turns each layer of a planned graph into a call of its kernel: constant structs, their arrays, and the call."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from export import numerics
from export.errors import ExportError
from export.graph import DType, Graph, Operator, OpKind, Tensor
from export.kernels import POINTWISE, VIEW, kernel_of
from export.numerics import quantization_of
from export.planner import Plan
from export.schedule import is_reduction, is_windowed, rows

_C_TYPES = {"int8": "int8_t", "uint8": "uint8_t", "int32": "int32_t", "uint32": "uint32_t"}

Fields: TypeAlias = Mapping[str, object]
"""A struct's fields: C expressions, or nested structs as mappings or tuples."""


@dataclass(frozen=True, slots=True, eq=False)
class ConstantArray:
    """A ``static const`` array of the generated code."""

    name: str
    values: npt.NDArray[np.generic]

    @property
    def c_type(self) -> str:
        return _C_TYPES[self.values.dtype.name]


@dataclass(frozen=True, slots=True)
class Struct:
    """A constant struct of the generated code."""

    c_type: str
    name: str
    fields: Fields


@dataclass(frozen=True, slots=True, eq=False)
class LayerCode:
    """What one layer contributes to the generated file."""

    function: str
    title: str
    arrays: tuple[ConstantArray, ...]
    structs: tuple[Struct, ...]
    calls: tuple[str, ...]


def layer_code(plan: Plan, step: int) -> LayerCode:
    """The code of layer ``step``. Every constant of the graph must have data, every int8 tensor a quantization."""
    return _LayerWriter(plan, step).write()


class _LayerWriter:
    def __init__(self, plan: Plan, step: int) -> None:
        self._plan = plan
        self._graph: Graph = plan.graph
        self._step = step
        self._operator: Operator = plan.graph.operators[step]
        self._prefix = f"tn_layer_{step:03d}"
        self._kernel = kernel_of(self._graph, self._operator)
        self._arrays: list[ConstantArray] = []
        self._structs: list[Struct] = []
        self._calls: list[str] = []

    def write(self) -> LayerCode:
        if self._operator.kind is OpKind.CONCATENATION:
            self._concatenation()
        elif self._kernel != VIEW:
            arguments = [self._pointer(index) for index in self._graph.activations_in(self._operator)]
            arguments.append(self._pointer(self._operator.outputs[0]))
            scratch = self._plan.scratch[self._step]
            if scratch is not None:
                arguments.append(f"tn_arena + {scratch.offset}")
            if is_reduction(self._graph, self._operator):
                arguments += ["0", str(rows(self._input))]
            elif self._kernel != POINTWISE and is_windowed(self._graph, self._operator):
                arguments += ["0", str(rows(self._output))]
            self._call("parameters", *self._parameters(), arguments)
        title = re.sub(r"[^ -~]|\*/|/\*|\\", "?", f"{self._operator.kind.value}, {self._operator.name}")
        return LayerCode(self._prefix, title, tuple(self._arrays), tuple(self._structs), tuple(self._calls))

    @property
    def _input(self) -> Tensor:
        return self._graph.tensors[self._operator.inputs[0]]

    @property
    def _output(self) -> Tensor:
        return self._graph.output_tensor(self._operator)

    def _call(self, struct: str, c_type: str, fields: Fields, arguments: list[str]) -> None:
        self._structs.append(Struct(c_type, f"{self._prefix}_{struct}", fields))
        self._calls.append(f"{self._kernel}({', '.join([f'&{self._prefix}_{struct}', *arguments])})")

    def _pointer(self, tensor: int, extra_bytes: int = 0) -> str:
        address = f"tn_arena + {self._plan.buffer_of(tensor).offset + extra_bytes}"
        is_float = self._graph.tensors[tensor].dtype is DType.FLOAT32
        return f"(float *)(void *)({address})" if is_float else address

    def _array(self, name: str, values: npt.NDArray[np.generic]) -> str:
        array = ConstantArray(f"{self._prefix}_{name}", values)
        self._arrays.append(array)
        return array.name

    def _parameters(self) -> tuple[str, Fields]:
        """The C type and the fields of the layer's struct."""
        match self._operator.kind:
            case OpKind.CONV_2D if self._kernel == POINTWISE:
                return "tn_conv_1x1_layer", self._conv_1x1()
            case OpKind.CONV_2D:
                return "tn_conv_layer", self._conv()
            case OpKind.DEPTHWISE_CONV_2D:
                return "tn_depthwise_layer", self._depthwise()
            case OpKind.FULLY_CONNECTED:
                return "tn_fully_connected_layer", self._fully_connected()
            case OpKind.ADD:
                add = numerics.add_parameters(self._graph, self._operator)
                return "tn_add_layer", {"elements": self._output.elements} | _fields(add)
            case OpKind.AVERAGE_POOL_2D | OpKind.MAX_POOL_2D:
                minimum, maximum = numerics.activation_range(self._operator.activation, quantization_of(self._output))
                clamp = {"minimum": minimum, "maximum": maximum}
                if is_reduction(self._graph, self._operator):
                    return "tn_pool_global_layer", self._whole_input() | clamp
                return "tn_pool_layer", self._geometry() | clamp
            case OpKind.MEAN if is_reduction(self._graph, self._operator):
                mean = _fields(numerics.mean_parameters(self._graph, self._operator))
                scaling = {name: mean[name] for name in mean if name not in ("outer", "reduced", "inner")}
                return "tn_mean_rows_layer", self._whole_input() | scaling
            case OpKind.MEAN:
                return "tn_mean_layer", _fields(numerics.mean_parameters(self._graph, self._operator))
            case OpKind.PAD:
                return "tn_pad_layer", self._pad()
            case OpKind.SOFTMAX:
                return "tn_softmax_layer", self._softmax()
            case OpKind.QUANTIZE if self._input.dtype is DType.FLOAT32:
                return "tn_affine_layer", self._affine(self._output)
            case OpKind.DEQUANTIZE:
                return "tn_affine_layer", self._affine(self._input)
            case OpKind.QUANTIZE | OpKind.RELU | OpKind.RELU6:
                requantize = numerics.requantize_parameters(self._graph, self._operator)
                return "tn_requantize_layer", {"elements": self._output.elements} | _fields(requantize)
            case kind:
                raise ExportError(f"the layer '{self._operator.name}' ({kind.value}) has no generator")

    def _geometry(self) -> dict[str, object]:
        window = self._operator.window
        assert window is not None
        flat = (*window.kernel, *window.stride, *window.dilation, *window.padding)
        return self._shapes() | {"window": flat}

    def _shapes(self) -> dict[str, object]:
        """Both shapes, and the rings of tensors that exist whole."""
        source, target = self._input, self._output
        return {
            "input": source.shape[1:],
            "output": target.shape[1:],
            "input_ring": rows(source),
            "output_ring": rows(target),
        }

    def _whole_input(self) -> dict[str, object]:
        return {"input": self._input.shape[1:], "input_ring": rows(self._input)}

    def _weights_and_bias(self) -> dict[str, object]:
        """The weights, one row per output channel, and the bias with the input's zero point folded in."""
        weights = _data(self._graph.tensors[self._operator.inputs[1]]).astype(np.int8)
        channel_rows = numerics.kernel_weights(self._operator, weights)
        bias = None
        if len(self._operator.inputs) > 2:
            bias = _data(self._graph.tensors[self._operator.inputs[2]]).astype(np.int32)
        folded = numerics.fold_input_offset(bias, channel_rows, quantization_of(self._input).zero_point)
        return {"weights": self._array("weights", channel_rows.ravel()), "bias": self._array("bias", folded)}

    def _requantization(self) -> Fields:
        requantization = numerics.conv_requantization(self._graph, self._operator)
        return {
            "multipliers": self._array("multipliers", requantization.multipliers),
            "shifts": self._array("shifts", requantization.shifts),
            "output_zero_point": requantization.output_zero_point,
            "minimum": requantization.minimum,
            "maximum": requantization.maximum,
        }

    def _conv(self) -> Fields:
        return {
            **self._geometry(),
            "groups": self._operator.groups,
            "input_zero_point": quantization_of(self._input).zero_point,
            **self._weights_and_bias(),
            "requantization": self._requantization(),
        }

    def _conv_1x1(self) -> Fields:
        _, height, width, channels = self._output.shape
        return {
            "rows": height,
            "columns": width,
            "input_channels": self._input.shape[-1],
            "output_channels": channels,
            **self._weights_and_bias(),
            "requantization": self._requantization(),
        }

    def _depthwise(self) -> Fields:
        return {
            **self._geometry(),
            "multiplier": self._output.shape[-1] // self._input.shape[-1],
            "input_zero_point": quantization_of(self._input).zero_point,
            **self._weights_and_bias(),
            "requantization": self._requantization(),
        }

    def _fully_connected(self) -> Fields:
        outputs, inputs = self._graph.tensors[self._operator.inputs[1]].shape
        wide = numerics.fully_connected_requantization(self._graph, self._operator)
        return {
            "batches": self._input.elements // inputs,
            "inputs": inputs,
            "outputs": outputs,
            **self._weights_and_bias(),
            "requantization": {
                "high": self._array("high", wide.high),
                "low": self._array("low", wide.low),
                "shifts": self._array("shifts", wide.shifts),
                "per_channel": int(wide.per_channel),
                "minimum": wide.minimum,
                "maximum": wide.maximum,
                "output_zero_point": wide.output_zero_point,
            },
        }

    def _pad(self) -> Fields:
        (_, _), (top, _), (left, _), (front, _) = self._operator.pads
        return {
            **self._shapes(),
            "top": top,
            "left": left,
            "front": front,
            "value": quantization_of(self._input).zero_point,
        }

    def _softmax(self) -> Fields:
        exps = numerics.softmax_exps(quantization_of(self._input).scale, self._operator.beta)
        columns = self._input.shape[-1]
        return {
            "rows": self._input.elements // columns,
            "columns": columns,
            "exps": self._array("exps", exps),
            "exps_count": len(exps),
        }

    def _affine(self, quantized: Tensor) -> Fields:
        quantization = quantization_of(quantized)
        scale = c_float(quantization.scale)
        return {"elements": self._output.elements, "scale": scale, "zero_point": quantization.zero_point}

    def _concatenation(self) -> None:
        (axis,) = self._operator.axes
        outer = int(np.prod(self._output.shape[:axis]))
        stride = self._output.size_bytes // outer
        start = 0
        for position, index in enumerate(self._operator.inputs):
            inner = self._graph.tensors[index].size_bytes // outer
            fields = {"outer": outer, "inner_bytes": inner, "output_stride_bytes": stride}
            arguments = [self._pointer(index), self._pointer(self._operator.outputs[0], start)]
            self._call(f"part_{position}", "tn_concatenation_layer", fields, arguments)
            start += inner


def c_float(value: float) -> str:
    """``value`` as a C float literal that reads back to the same float32."""
    return f"{float(np.float32(value))!r}f"


def _fields(parameters: object) -> dict[str, object]:
    assert dataclasses.is_dataclass(parameters)
    return {field.name: getattr(parameters, field.name) for field in dataclasses.fields(parameters)}


def _data(tensor: Tensor) -> npt.NDArray[np.generic]:
    if tensor.data is None:
        raise ExportError(
            f"the constant '{tensor.name}' has no data: a candidate must be trained, or given random weights"
        )
    return tensor.data
