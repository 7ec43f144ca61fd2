"""Turns each layer of a planned graph into a call of its kernel: constant structs, their arrays, and the call."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from export.graph import DType, Graph, Operator, OpKind
from export.kernels import VIEW, tensors_in_planes
from export.kernels.generic import concatenation_parts
from export.kernels.kernel import Fields, Kernel
from export.planner import Plan
from export.schedule import is_reduction, is_windowed, row_access, row_bytes, rows

ROW = "row"
"""In a streamed layer's call: the C variable with the unit that it computes."""


@dataclass(frozen=True, slots=True, eq=False)
class ConstantArray:
    """A ``static const`` array of the generated code."""

    name: str
    values: npt.NDArray[np.generic]

    @property
    def c_type(self) -> str:
        return f"{self.values.dtype.name}_t"


@dataclass(frozen=True, slots=True)
class Struct:
    """A constant struct of the generated code; its arrays have become their names."""

    c_type: str
    name: str
    fields: Fields


@dataclass(frozen=True, slots=True)
class RowCounter:
    """Which uint16 of the plan's counters says what a streamed layer computes next, and how many units it has."""

    index: int
    units: int


@dataclass(frozen=True, slots=True, eq=False)
class LayerCode:
    """What one layer contributes to the generated file."""

    function: str
    title: str
    arrays: tuple[ConstantArray, ...]
    structs: tuple[Struct, ...]
    calls: tuple[str, ...]
    counter: RowCounter | None
    """None when the calls do not use the variable `ROW`: every unit is the same, or the layer runs whole."""


def layers_code(plan: Plan, kernels: Sequence[Kernel]) -> list[LayerCode]:
    """The code of every layer, run by the kernel of its index.

    Every constant of the graph must have data, every int8 tensor a quantization.
    """
    planes = tensors_in_planes(plan.graph, kernels)
    return [_LayerWriter(plan, layer, kernel, planes).write() for layer, kernel in enumerate(kernels)]


def takes_rows(graph: Graph, operator: Operator, kernel: Kernel) -> bool:
    """Whether the kernel is called with whole buffers and the rows to compute, not with pointers to rows."""
    return not kernel.row_pointers and (is_windowed(graph, operator) or is_reduction(graph, operator))


def order_entry_bytes(layers: int) -> int:
    """Bytes of one entry of the schedule: a layer's index, or the largest value for the arrival of an input row."""
    return 1 if layers <= 255 else 2


class _LayerWriter:
    def __init__(self, plan: Plan, layer: int, kernel: Kernel, planes: frozenset[int]) -> None:
        self._plan = plan
        self._graph: Graph = plan.graph
        self._layer = layer
        self._operator: Operator = plan.graph.operators[layer]
        self._kernel = kernel
        self._planes = planes
        self._prefix = f"tn_layer_{layer:03d}"
        self._streamed = layer in plan.streamed_layers
        self._arrays: list[ConstantArray] = []
        self._structs: list[Struct] = []
        self._calls: list[str] = []

    def write(self) -> LayerCode:
        if self._operator.kind is OpKind.CONCATENATION:
            for position, (part, start) in enumerate(concatenation_parts(self._graph, self._operator)):
                self._call(f"part_{position}", part, [self._row(part.inputs[0]), self._row(part.outputs[0], start)])
        elif self._kernel is not VIEW:
            by_rows = takes_rows(self._graph, self._operator, self._kernel)
            pointer = self._base if by_rows else self._row
            arguments = [pointer(index) for index in self._graph.activations_in(self._operator)]
            arguments.append(pointer(self._operator.outputs[0]))
            if self._kernel.scratch_bytes(self._graph, self._operator):
                scratch = self._plan.scratch[self._layer]
                assert scratch is not None
                arguments.append(f"tn_arena + {scratch.offset}")
            if by_rows:
                arguments += [ROW, "1"] if self._streamed else ["0", str(row_access(self._graph, self._operator).units)]
            self._call("parameters", self._operator, arguments)
        title = re.sub(r"[^ -~]|\*/|/\*|\\", "?", f"{self._operator.kind.value}, {self._operator.name}")
        counter = None
        if any(re.search(rf"\b{ROW}\b", call) for call in self._calls):
            index = self._plan.streamed_layers.index(self._layer)
            counter = RowCounter(index, row_access(self._graph, self._operator).units)
        return LayerCode(self._prefix, title, tuple(self._arrays), tuple(self._structs), tuple(self._calls), counter)

    def _call(self, name: str, operator: Operator, arguments: list[str]) -> None:
        fields = self._named(self._fields(operator))
        self._structs.append(Struct(self._kernel.struct, f"{self._prefix}_{name}", fields))
        self._calls.append(f"{self._kernel.name}({', '.join([f'&{self._prefix}_{name}', *arguments])})")

    def _fields(self, operator: Operator) -> Fields:
        """The kernel's fields, and those that the plan adds."""
        source, target = operator.inputs[0], operator.outputs[0]
        if not takes_rows(self._graph, operator, self._kernel):
            graph = _of_one_row(self._graph, operator) if self._streamed else self._graph
            return self._kernel.fields(graph, operator)
        fields = {**self._kernel.fields(self._graph, operator), "input_ring": self._ring(source)}
        if not is_reduction(self._graph, operator):
            fields["output_ring"] = self._ring(target)
        if self._kernel.planes:
            of_output = operator.kind is OpKind.CONV_2D
            name, tensor = ("output_planes", target) if of_output else ("input_planes", source)
            fields[name] = int(tensor in self._planes)
        return fields

    def _named(self, fields: Fields, path: str = "") -> dict[str, object]:
        """The fields with every array replaced by the name under which it is kept."""
        return {name: self._value(value, f"{path}_{name}") for name, value in fields.items()}

    def _value(self, value: object, path: str) -> object:
        if isinstance(value, np.ndarray):
            if not value.size:
                return 0
            self._arrays.append(ConstantArray(f"{self._prefix}{path}", value.ravel()))
            return self._arrays[-1].name
        if isinstance(value, Mapping):
            return self._named(value, path)
        if isinstance(value, tuple):
            return tuple(self._value(item, f"{path}_{position}") for position, item in enumerate(value))
        return value

    def _ring(self, tensor: int) -> int:
        """Rows that the tensor's buffer holds."""
        return self._plan.buffer_of(tensor).ring_rows or rows(self._graph.tensors[tensor])

    def _base(self, tensor: int) -> str:
        return self._cast(tensor, f"tn_arena + {self._plan.buffer_of(tensor).offset}")

    def _row(self, tensor: int, extra_bytes: int = 0) -> str:
        """Where the unit's row of an input or output begins; the tensor itself when the layer runs whole."""
        address = f"tn_arena + {self._plan.buffer_of(tensor).offset + extra_bytes}"
        if self._streamed:
            ring, window, value = self._ring(tensor), self._operator.window, self._graph.tensors[tensor]
            row = ROW
            if tensor == self._operator.inputs[0] and window is not None and window.stride[0] > 1:
                row = f"{ROW} * {window.stride[0]}u"
            if ring > 1:
                slot = row if ring == rows(value) else f"{row} % {ring}u"
                address += f" + {slot} * {row_bytes(value)}u"
        return self._cast(tensor, address)

    def _cast(self, tensor: int, address: str) -> str:
        is_float = self._graph.tensors[tensor].dtype is DType.FLOAT32
        return f"(float *)(void *)({address})" if is_float else address


def _of_one_row(graph: Graph, operator: Operator) -> Graph:
    """The graph with the operator's activations cut to one row: what one call for a row sees."""
    tensors = list(graph.tensors)
    for index in (*graph.activations_in(operator), *operator.outputs):
        _, _, columns, channels = tensors[index].shape
        tensors[index] = dataclasses.replace(tensors[index], shape=(1, 1, columns, channels))
    return dataclasses.replace(graph, tensors=tuple(tensors))
