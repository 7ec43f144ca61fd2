"""The flash that a model's image takes: exact constants, and code from a table that was measured with the compiler."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import resources

from devices.profile import DeviceProfile, InstructionSet
from export.graph import Graph, Operator, OpKind
from export.kernels import kernel_of
from export.layers import order_entry_bytes
from export.planner import Plan
from export.schedule import align
from export.streams import INPUT_ROW

_POINTER_BYTES = 4
_CORE = "cortex-m4"
_SIMILAR_CORES = {
    "cortex-m0": "cortex-m0",
    "cortex-m0plus": "cortex-m0",
    "cortex-m3": "cortex-m3",
    "cortex-m55": "cortex-m55",
}
"""The core for which the code of another was measured; all that are not here are taken for Cortex-M4."""


@dataclass(frozen=True, slots=True)
class _KernelSizes:
    """What one kernel and its layers take, in bytes but for the symbols' names."""

    symbols: tuple[str, ...]
    call: int
    streamed_call: int
    """The function of a layer that is streamed."""
    struct: int


@dataclass(frozen=True, slots=True)
class _CodeSizes:
    """What one core's compiler makes of the kernels, in bytes (scripts/measure_code_sizes.py)."""

    stream: int
    """What the first streamed layer adds to tn_model_invoke."""
    stream_input: int
    """What a streamed input adds to that."""
    symbols: dict[str, int]
    kernels: dict[str, _KernelSizes]


@dataclass(frozen=True, slots=True)
class LayerFlash:
    """What one layer takes of the flash, whatever the rest of the model."""

    symbols: tuple[str, ...]
    """The functions that its kernel needs; they are in the image once."""
    call: int
    """Bytes of its function if it runs whole."""
    streamed_call: int
    """The same if it is streamed."""
    constants: int
    """Bytes of its weights, biases, multipliers and parameters."""


def core_of(profile: DeviceProfile) -> str:
    """The core whose code was measured that stands for the profile's."""
    return _SIMILAR_CORES.get(profile.core, _CORE)


def layer_flash(graph: Graph, operator: Operator, instruction_set: InstructionSet, core: str) -> LayerFlash:
    """The flash of one layer of ``graph``."""
    kernel = kernel_of(graph, operator, instruction_set)
    sizes = _code_sizes(core).kernels[kernel.name]
    structs = len(operator.inputs) if operator.kind is OpKind.CONCATENATION else 1
    constants = structs * sizes.struct + sum(align(size) for size in kernel.array_bytes(graph, operator))
    return LayerFlash(sizes.symbols, sizes.call + _POINTER_BYTES, sizes.streamed_call + _POINTER_BYTES, constants)


def symbols_bytes(symbols: Iterable[str], core: str) -> int:
    """The code of different functions."""
    sizes = _code_sizes(core).symbols
    return sum(sizes[symbol] for symbol in symbols)


def walk_bytes(core: str) -> int:
    """The code that walks the schedule of a model with streamed layers."""
    return _code_sizes(core).stream


def schedule_bytes(entries: int, layers: int) -> int:
    """The schedule of a model with streamed layers: so many entries, each a layer's number."""
    return align(entries * order_entry_bytes(layers))


def flash_bytes(planned: Plan, profile: DeviceProfile) -> int:
    """Flash of the whole image: start-up code, harness, kernels, layer calls, schedule and constants.

    Within a per cent of what the linker reports for every emulated board.
    """
    core = core_of(profile)
    return profile.reserved.flash_bytes + code_bytes(planned, core) + constant_bytes(planned, core)


def code_bytes(planned: Plan, core: str = _CORE) -> int:
    """The kernels that the model uses, each once, and its layer functions with their pointers.

    ``core`` is one for which the code was measured.
    """
    layers = _layers(planned, core)
    streamed = frozenset(planned.streamed_layers)
    calls = sum(layer.streamed_call if index in streamed else layer.call for index, layer in enumerate(layers))
    walk = walk_bytes(core) if streamed else 0
    walk += _code_sizes(core).stream_input if INPUT_ROW in planned.order else 0
    return symbols_bytes({symbol for layer in layers for symbol in layer.symbols}, core) + calls + walk


def constant_bytes(planned: Plan, core: str = _CORE) -> int:
    """Weights, biases, multipliers, the layers' parameters, and the schedule if layers are streamed."""
    schedule = schedule_bytes(len(planned.order), len(planned.graph.operators)) if planned.streamed_layers else 0
    return schedule + sum(layer.constants for layer in _layers(planned, core))


def _layers(planned: Plan, core: str) -> list[LayerFlash]:
    graph = planned.graph
    return [layer_flash(graph, operator, planned.instruction_set, core) for operator in graph.operators]


@cache
def _code_sizes(core: str) -> _CodeSizes:
    text = (resources.files("export") / "code_sizes.json").read_text(encoding="utf-8")
    entry = json.loads(text)["cores"][core]
    kernels = {
        name: _KernelSizes(tuple(kernel["symbols"]), kernel["call"], kernel["streamed_call"], kernel["struct"])
        for name, kernel in entry["kernels"].items()
    }
    return _CodeSizes(entry["stream_bytes"], entry["stream_input_bytes"], entry["symbols"], kernels)
