"""The flash that a model's image takes: exact constants, and code from a table that was measured with the compiler."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources

from devices.profile import DeviceProfile
from export import numerics
from export.graph import Graph, Operator, OpKind
from export.kernels import kernel_of
from export.schedule import align

_POINTER_BYTES = 4
_MEASURED_CORE = "cortex-m4"


@dataclass(frozen=True, slots=True)
class _CodeSizes:
    """What one core's compiler makes of the kernels, in bytes (scripts/measure_code_sizes.py)."""

    symbols: dict[str, int]
    kernel_symbols: dict[str, tuple[str, ...]]
    call: dict[str, int]
    struct: dict[str, int]


def flash_bytes(graph: Graph, profile: DeviceProfile) -> int:
    """Flash of the whole image: start-up code, harness, kernels, layer calls and constants.

    Within a per cent of what the linker reports for a Cortex-M4, for which the code was measured; other cores are taken
    to need the same code.
    """
    return profile.reserved.flash_bytes + code_bytes(graph) + constant_bytes(graph)


def code_bytes(graph: Graph) -> int:
    """The kernels that the model uses, each once, and its layer functions with their pointers."""
    sizes = _code_sizes()
    kernels = [kernel_of(graph, operator) for operator in graph.operators]
    used = {symbol for kernel in set(kernels) for symbol in sizes.kernel_symbols[kernel]}
    calls = sum(sizes.call[kernel] + _POINTER_BYTES for kernel in kernels)
    return sum(sizes.symbols[symbol] for symbol in used) + calls


def constant_bytes(graph: Graph) -> int:
    """Weights, biases, multipliers and the layers' parameters."""
    sizes = _code_sizes()
    return sum(
        sizes.struct[kernel_of(graph, operator)] + sum(align(size) for size in _arrays(graph, operator))
        for operator in graph.operators
    )


def _arrays(graph: Graph, operator: Operator) -> tuple[int, ...]:
    """Bytes of each constant array of the layer, as `export.layers` writes them."""
    match operator.kind:
        case OpKind.CONV_2D | OpKind.DEPTHWISE_CONV_2D:
            channels = graph.output_tensor(operator).shape[-1]
            return graph.input_tensors(operator)[1].elements, 4 * channels, 4 * channels, channels
        case OpKind.FULLY_CONNECTED:
            weights = graph.input_tensors(operator)[1]
            outputs = weights.shape[0]
            # Today's converter quantizes fully connected layers per channel, so a candidate will be as well.
            scales = outputs if weights.quantization is None else len(weights.quantization.scales)
            return weights.elements, 4 * outputs, 4 * scales, 4 * scales, scales
        case OpKind.SOFTMAX:
            quantization = graph.input_tensors(operator)[0].quantization
            assert quantization is not None
            return (4 * len(numerics.softmax_exps(quantization.scale, operator.beta)),)
        case _:
            return ()


@cache
def _code_sizes() -> _CodeSizes:
    text = (resources.files("export") / "code_sizes.json").read_text(encoding="utf-8")
    entry = json.loads(text)["cores"][_MEASURED_CORE]
    kernels = entry["kernels"]
    return _CodeSizes(
        symbols=entry["symbols"],
        kernel_symbols={name: tuple(kernel["symbols"]) for name, kernel in kernels.items()},
        call={name: int(kernel["call"]) for name, kernel in kernels.items()},
        struct={name: int(kernel["struct"]) for name, kernel in kernels.items()},
    )


@cache
def empty_model_bytes() -> int:
    """Flash of start-up code and harness without a model, as measured; the emulated profiles reserve it."""
    text = (resources.files("export") / "code_sizes.json").read_text(encoding="utf-8")
    return int(json.loads(text)["cores"][_MEASURED_CORE]["empty_model_bytes"])
