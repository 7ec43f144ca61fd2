"""Generates a model's C: constants, one function per layer, the static arena. The same graph gives the same bytes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jinja2
import numpy as np

from devices.profile import InstructionSet
from export.errors import ExportError
from export.graph import DType, Graph, Tensor, total_macs
from export.kernels import BUILD_REQUIREMENTS, all_kernels, kernels_of
from export.kernels.kernel import Fields, Kernel
from export.layers import ConstantArray, LayerCode, layers_code, order_entry_bytes
from export.planner import Plan, plan
from export.schedule import ALIGNMENT, row_bytes, rows
from export.streams import INPUT_ROW
from export.verify_plan import verify_plan

_VALUES_PER_LINE = 24
_LONGEST_NAME = 31
_LONGEST_STREAM = 65535


@dataclass(frozen=True, slots=True, eq=False)
class GeneratedModel:
    """The generated files, and the plan behind them."""

    name: str
    model_id: str
    """First 16 hex digits of the SHA-256 of everything that decides the outputs."""
    plan: Plan
    files: Mapping[str, str]
    """Texts by file name: model.c and model.h."""

    @property
    def identifier(self) -> str:
        """The name as a C identifier."""
        return _identifier(self.name)


def generate(
    graph: Graph, instruction_set: InstructionSet = "generic", *, stream_input: bool = False
) -> GeneratedModel:
    """Plan ``graph``, check the plan with the independent verifier, and write the C.

    With ``stream_input`` the model takes its input row by row. Raises ExportError when a constant has no data or a
    tensor no quantization, and PlanError when the input cannot be streamed.
    """
    planned = plan(graph, instruction_set, stream_input=stream_input)
    verify_plan(planned)
    return write_model(planned)


def write_model(planned: Plan, kernels: Sequence[Kernel] | None = None) -> GeneratedModel:
    """Write the C of a plan that was checked; with ``kernels``, one for each layer, in place of the preferred ones."""
    graph = planned.graph
    if kernels is None:
        kernels = kernels_of(graph, planned.instruction_set)
    layers = layers_code(planned, kernels)
    model_id = _model_id(layers, planned)
    context = {
        "name": re.sub(r"[^ -~]|\*/|/\*|\\|\"", "?", graph.name),
        "short_name": _identifier(graph.name)[:_LONGEST_NAME],
        "model_id": model_id,
        "arena_bytes": planned.arena_bytes,
        "lower_bound_bytes": planned.lower_bound_bytes,
        "macs": total_macs(graph),
        "constant_bytes": sum(array.values.nbytes for layer in layers for array in layer.arrays),
        "input": _end(planned, graph.inputs[0]),
        "output": _end(planned, graph.outputs[0]),
        "headers": sorted({kernel.header for kernel in kernels}),
        "requirement": _requirement(planned, kernels),
        "layers": [_layer_context(layer) for layer in layers],
        "alignment": ALIGNMENT,
        "stream": _stream_context(planned),
    }
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("export"), undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True, autoescape=False,
    )  # fmt: skip
    files = {name: environment.get_template(f"{name}.j2").render(model=context) for name in ("model.c", "model.h")}
    return GeneratedModel(graph.name, model_id, planned, files)


def _stream_context(planned: Plan) -> dict[str, object] | None:
    """The schedule and where its counters are; None when every layer runs whole, one after the other."""
    if not planned.streamed_layers:
        return None
    counters = planned.counters
    assert counters is not None
    order_bits = 8 * order_entry_bytes(len(planned.graph.operators))
    input_row = (1 << order_bits) - 1
    return {
        "order_type": f"uint{order_bits}_t",
        "order": _lines([str(input_row if layer == INPUT_ROW else layer) for layer in planned.order]),
        "steps": len(planned.order),
        "counters": len(planned.streamed_layers),
        "counters_offset": counters.offset,
        "input": _streamed_input(planned) | {"entry": input_row} if INPUT_ROW in planned.order else None,
    }


def _streamed_input(planned: Plan) -> dict[str, object]:
    graph = planned.graph
    tensor = graph.tensors[graph.inputs[0]]
    if len(planned.order) > _LONGEST_STREAM:
        raise ExportError(
            f"'{graph.name}' computes {len(planned.order)} rows, and with a streamed input {_LONGEST_STREAM} at most "
            "are counted; compile without --stream-input"
        )
    ring = planned.buffer_of(graph.inputs[0]).ring_rows
    return {"rows": rows(tensor), "row_bytes": row_bytes(tensor), "ring": ring or rows(tensor)}


def _requirement(planned: Plan, kernels: Sequence[Kernel]) -> tuple[str, str] | None:
    """What to build with, for a model with kernels that are not for every core."""
    portable = {kernel.name for kernel in all_kernels("generic")}
    if all(kernel.name in portable for kernel in kernels):
        return None
    return BUILD_REQUIREMENTS.get(planned.instruction_set)


def _model_id(layers: list[LayerCode], planned: Plan) -> str:
    placed = [(buffer.offset, buffer.size_bytes) for buffer in planned.buffers]
    digest = hashlib.sha256(repr((placed, planned.order)).encode())
    for index in (*planned.graph.inputs, *planned.graph.outputs):
        digest.update(repr({key: value for key, value in _end(planned, index).items() if key != "name"}).encode())
    for layer in layers:
        digest.update(repr((layer.calls, layer.counter, [(s.c_type, s.fields) for s in layer.structs])).encode())
        for array in layer.arrays:
            digest.update(array.values.tobytes())
    return digest.hexdigest()[:16]


def _identifier(name: str) -> str:
    words = re.sub(r"\W", "_", name, flags=re.ASCII).lower()
    return words if words[:1].isalpha() else f"model_{words}"


def _end(planned: Plan, index: int) -> dict[str, object]:
    """What the header says of an input or output."""
    tensor: Tensor = planned.graph.tensors[index]
    quantization = tensor.quantization
    is_float = tensor.dtype is DType.FLOAT32 or quantization is None
    return {
        "name": re.sub(r"[^ -~]|\*/|/\*|\\", "?", tensor.name),
        "dtype": tensor.dtype.value,
        "shape": tensor.shape,
        "size_bytes": tensor.size_bytes,
        "element_bytes": tensor.dtype.size_bytes,
        "scale": "1.0f" if is_float or quantization is None else _float(quantization.scale),
        "zero_point": 0 if is_float or quantization is None else quantization.zero_point,
        "offset": planned.buffer_of(index).offset,
    }


def _layer_context(layer: LayerCode) -> dict[str, object]:
    return {
        "function": layer.function,
        "title": layer.title,
        "arrays": [_array_context(array) for array in layer.arrays],
        "structs": [{"type": s.c_type, "name": s.name, "body": _initializer(s.fields)} for s in layer.structs],
        "calls": layer.calls,
        "counter": layer.counter,
    }


def _array_context(array: ConstantArray) -> dict[str, object]:
    suffix = "u" if array.values.dtype.kind == "u" else ""
    # -2147483648 is a negated constant that does not fit in C; no multiplier or bias that was checked can be it.
    values = [f"{value}{suffix}" for value in array.values.tolist()]
    return {"type": array.c_type, "name": array.name, "elements": len(values), "body": _lines(values)}


def _lines(values: list[str]) -> str:
    """The elements of a C array, some to a line."""
    return "\n".join(
        "    " + ", ".join(values[start : start + _VALUES_PER_LINE]) + ","
        for start in range(0, len(values), _VALUES_PER_LINE)
    )


def _initializer(fields: Fields) -> str:
    return "\n".join(f"    .{name} = {_expression(value)}," for name, value in fields.items())


def _expression(value: object) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f".{name} = {_expression(item)}" for name, item in value.items()) + "}"
    if isinstance(value, tuple):
        return "{" + ", ".join(_expression(item) for item in value) + "}"
    if isinstance(value, float):
        return _float(value)
    return str(value)


def _float(value: float) -> str:
    """``value`` as a C float literal that reads back to the same float32."""
    return f"{float(np.float32(value))!r}f"
