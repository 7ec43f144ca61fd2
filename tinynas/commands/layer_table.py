"""What `check` and `measure` say of every layer of a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from export.graph import Graph, macs
from export.kernels import kernels_of
from export.optimize import layers_left
from export.planner import Plan


def layer_table(
    source: Graph, planned: Plan, cycles: Sequence[float], cycles_key: str, energy_mj: float
) -> list[dict[str, Any]]:
    """One entry for each layer of the model as its file has it.

    ``cycles`` are those of each layer of the plan, whose graph was optimized: a layer that it has no longer runs no
    kernel. Live MACs are those that are left. ``energy_mj`` of the whole inference is shared out by cycles: the power
    is that of the part while it infers, whatever the layer.
    """
    total_cycles = sum(cycles)
    graph = planned.graph
    kernels = kernels_of(graph, planned.instruction_set)
    table = []
    for operator, layer in zip(source.operators, layers_left(source, graph), strict=True):
        entry: dict[str, Any] = {
            "name": operator.name,
            "kind": operator.kind.value,
            "kernel": None,
            "output_shape": list(source.output_tensor(operator).shape),
            "macs": macs(source, operator),
            "live_macs": 0,
            cycles_key: 0,
            "cycles_per_mac": None,
            "energy_mj": 0.0,
            "alive_bytes": 0,
            "segment": None,
            "streamed": False,
        }
        if layer is not None:
            live_macs = macs(graph, graph.operators[layer])
            segment = next(i for i, segment in enumerate(planned.segments) if layer in segment.operators)
            entry |= {
                "kernel": kernels[layer].name,
                "live_macs": live_macs,
                cycles_key: round(cycles[layer]),
                "cycles_per_mac": cycles[layer] / live_macs if live_macs else None,
                "energy_mj": energy_mj * cycles[layer] / total_cycles if total_cycles else 0.0,
                "alive_bytes": _alive_bytes(planned, layer),
                "segment": segment,
                "streamed": planned.segments[segment].streamed,
            }
        table.append(entry)
    return table


def _alive_bytes(planned: Plan, layer: int) -> int:
    """The most bytes of the arena that must coexist while a layer runs."""
    return max(alive for step, alive in zip(planned.order, planned.alive_bytes, strict=True) if step == layer)
