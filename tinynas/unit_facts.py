"""Facts of one unit of an architecture for one shape of its input: what the filter adds up and plans with.

They are the compiler's, worked out once for each unit and shape and then kept: thousands of candidates a second consist
of a few thousand different units.
"""

from __future__ import annotations

from dataclasses import dataclass

from devices.profile import DeviceProfile
from export.flash import LayerFlash, core_of, layer_flash
from export.graph import Graph, total_macs
from export.kernels import can_read_planes, can_write_planes, kernels_of, tensors_in_planes
from export.kernels.kernel import Kernel
from export.links import Link, chain
from export.optimize import optimize
from tinynas.architecture import Unit
from tinynas.cost_model import CostModel, features_of
from tinynas.graph_builder import GraphBuilder, InputShape
from tinynas.lower import lower_unit


@dataclass(frozen=True, slots=True, eq=False)
class LinkCosts:
    """Costs of the layers of one link, in order."""

    cycles: tuple[float, ...]
    """Zero-wait cycles of each layer that runs whole."""
    streamed_cycles: tuple[float, ...]
    """The same of each layer when it is streamed."""
    growth: tuple[int, ...]
    """Bytes that each layer's function takes more when it is streamed."""
    no_growth: tuple[int, ...]
    """A zero for each layer."""
    streamed_flash: int
    """The sum of ``growth``."""


@dataclass(frozen=True, slots=True, eq=False)
class UnitFacts:
    """Everything about one unit that its costs rest on."""

    output: InputShape
    links: tuple[Link, ...] | None
    """None if only the whole network can be planned."""
    costs: tuple[LinkCosts, ...]
    """Of each link; empty where only the whole network can be planned."""
    macs: int
    parameters: int
    flash_bytes: int
    """Calls, parameters and constants when it runs whole."""
    symbols: frozenset[str]
    """Functions that it needs, see `export.flash`."""
    classical_bytes: int
    """The most that one of its layers needs for inputs, outputs and whatever is alive beside them."""
    may_read_planes: bool
    """Whether all who read its input could read it channel by channel."""
    may_write_planes: bool
    """Whether its output could be stored channel by channel."""


def unit_facts(
    unit: Unit,
    shape: InputShape,
    *,
    is_window: bool,
    profile: DeviceProfile,
    cost_model: CostModel,
    reads_planes: bool = False,
    writes_planes: bool = False,
) -> UnitFacts:
    """The facts of ``unit`` for an input of ``shape``, where it and its neighbours may agree on planes."""
    builder = GraphBuilder(unit.name, shape, is_window=is_window)
    graph = builder.finish(lower_unit(builder, builder.input, unit))
    output = graph.tensors[graph.outputs[0]].shape
    flash = [layer_flash(graph, op, profile.instruction_set, core_of(profile)) for op in graph.operators]
    links = _links(graph, profile)
    kernels = kernels_of(graph, profile.instruction_set)
    planes = tensors_in_planes(graph, kernels)
    if reads_planes:
        planes |= {graph.inputs[0]}
    if writes_planes:
        planes |= {graph.outputs[0]}
    costs = _costs(graph, kernels, planes, links or (), flash, cost_model)
    return UnitFacts(
        output=output[1:] if len(output) == 4 else (1, 1, output[1]),
        links=links,
        costs=costs,
        macs=total_macs(graph),
        parameters=parameters(graph),
        flash_bytes=sum(layer.call + layer.constants for layer in flash),
        symbols=frozenset(symbol for layer in flash for symbol in layer.symbols),
        classical_bytes=_classical_bytes(graph),
        may_read_planes=_may_read_planes(graph, kernels),
        may_write_planes=_may_write_planes(graph, kernels),
    )


def parameters(graph: Graph) -> int:
    """Weights and biases."""
    return sum(tensor.elements for tensor in graph.tensors if tensor.is_constant)


def _links(graph: Graph, profile: DeviceProfile) -> tuple[Link, ...] | None:
    if not graph.operators:
        return ()
    if _shapes(optimize(graph)) != _shapes(graph):
        return None
    return chain(graph, profile.instruction_set)


def _shapes(graph: Graph) -> list[object]:
    return [
        (op.kind, op.window, op.groups, [graph.tensors[index].shape for index in (*op.inputs, *op.outputs)])
        for op in graph.operators
    ]


def _may_read_planes(graph: Graph, kernels: tuple[Kernel, ...]) -> bool:
    """As `export.kernels.tensors_in_planes` decides for the whole network's."""
    readers = [
        can_read_planes(operator, kernel)
        for operator, kernel in zip(graph.operators, kernels, strict=True)
        if graph.inputs[0] in operator.inputs
    ]
    return bool(readers) and all(readers) and graph.inputs[0] not in graph.outputs


def _may_write_planes(graph: Graph, kernels: tuple[Kernel, ...]) -> bool:
    output = graph.outputs[0]
    if any(output in operator.inputs for operator in graph.operators):
        return False
    return any(
        operator.outputs[0] == output and can_write_planes(graph, operator, kernel)
        for operator, kernel in zip(graph.operators, kernels, strict=True)
    )


def _costs(
    graph: Graph,
    kernels: tuple[Kernel, ...],
    planes: frozenset[int],
    links: tuple[Link, ...],
    flash: list[LayerFlash],
    cost_model: CostModel,
) -> tuple[LinkCosts, ...]:
    whole, streamed = (
        [
            cost_model.layer_cycles(features_of(graph, operator, kernel.name, is_streamed=is_streamed, planes=planes))
            for operator, kernel in zip(graph.operators, kernels, strict=True)
        ]
        for is_streamed in (False, True)
    )
    growth = [layer.streamed_call - layer.call for layer in flash]
    costs, start = [], 0
    for link in links:
        layers = link.layers
        part = slice(start, start + layers)
        costs.append(
            LinkCosts(tuple(whole[part]), tuple(streamed[part]), tuple(growth[part]), (0,) * layers, sum(growth[part]))
        )
        start += layers
    return tuple(costs)


def _classical_bytes(graph: Graph) -> int:
    last = dict.fromkeys(graph.outputs, len(graph.operators))
    for layer, operator in enumerate(graph.operators):
        for index in graph.activations_in(operator):
            last[index] = max(last.get(index, layer), layer)
    alive, most = set(graph.inputs), 0
    for layer, operator in enumerate(graph.operators):
        alive.update(operator.outputs)
        most = max(most, sum(graph.tensors[index].size_bytes for index in alive))
        alive = {index for index in alive if last.get(index, layer) > layer}
    return most
