"""The flash that a model's image takes: exact constants, and code from a table that was measured with the compiler."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources

from devices.profile import DeviceProfile
from export.graph import OpKind
from export.kernels import kernels_of
from export.layers import order_entry_bytes
from export.planner import Plan
from export.schedule import align
from export.streams import INPUT_ROW

_POINTER_BYTES = 4
_CORE = "cortex-m4"
_SIMILAR_CORES = {"cortex-m0": "cortex-m0", "cortex-m0plus": "cortex-m0", "cortex-m55": "cortex-m55"}
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


def flash_bytes(planned: Plan, profile: DeviceProfile) -> int:
    """Flash of the whole image: start-up code, harness, kernels, layer calls, schedule and constants.

    Within a per cent of what the linker reports for every emulated board.
    """
    core = _SIMILAR_CORES.get(profile.core, _CORE)
    return profile.reserved.flash_bytes + code_bytes(planned, core) + constant_bytes(planned, core)


def code_bytes(planned: Plan, core: str = _CORE) -> int:
    """The kernels that the model uses, each once, and its layer functions with their pointers.

    ``core`` is one for which the code was measured.
    """
    sizes = _code_sizes(core)
    layers = [sizes.kernels[kernel.name] for kernel in kernels_of(planned.graph, planned.instruction_set)]
    used = {symbol for layer in layers for symbol in layer.symbols}
    streamed = frozenset(planned.streamed_layers)
    calls = sum(
        (layer.streamed_call if index in streamed else layer.call) + _POINTER_BYTES
        for index, layer in enumerate(layers)
    )
    walk = (sizes.stream if streamed else 0) + (sizes.stream_input if INPUT_ROW in planned.order else 0)
    return sum(sizes.symbols[symbol] for symbol in used) + calls + walk


def constant_bytes(planned: Plan, core: str = _CORE) -> int:
    """Weights, biases, multipliers, the layers' parameters, and the schedule if layers are streamed."""
    graph = planned.graph
    sizes = _code_sizes(core)
    total = align(len(planned.order) * order_entry_bytes(planned)) if planned.streamed_layers else 0
    for operator, kernel in zip(graph.operators, kernels_of(graph, planned.instruction_set), strict=True):
        structs = len(operator.inputs) if operator.kind is OpKind.CONCATENATION else 1
        total += structs * sizes.kernels[kernel.name].struct
        total += sum(align(size) for size in kernel.array_bytes(graph, operator))
    return total


@cache
def _code_sizes(core: str) -> _CodeSizes:
    text = (resources.files("export") / "code_sizes.json").read_text(encoding="utf-8")
    entry = json.loads(text)["cores"][core]
    kernels = {
        name: _KernelSizes(tuple(kernel["symbols"]), kernel["call"], kernel["streamed_call"], kernel["struct"])
        for name, kernel in entry["kernels"].items()
    }
    return _CodeSizes(entry["stream_bytes"], entry["stream_input_bytes"], entry["symbols"], kernels)
