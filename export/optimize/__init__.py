"""Bit-exact rewrites: the optimized graph computes what the graph computes, with less work and memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from export.graph import Graph, OpKind
from export.optimize.activations import fuse_activations
from export.optimize.channels import drop_dead_channels
from export.optimize.convolutions import choose_convolutions
from export.optimize.identities import drop_dead_layers, drop_identities, merge_reshapes
from export.optimize.padding import absorb_pads
from export.optimize.upright import stand_up

Rewrite = Callable[[Graph], Graph]
"""Returns the graph it is given when there is nothing to do."""

_EVERY_KIND = frozenset(OpKind)

REWRITES: tuple[tuple[Rewrite, frozenset[OpKind]], ...] = (
    (drop_dead_layers, _EVERY_KIND),
    (
        drop_identities,
        frozenset(
            {
                OpKind.AVERAGE_POOL_2D,
                OpKind.CONCATENATION,
                OpKind.MAX_POOL_2D,
                OpKind.MEAN,
                OpKind.PAD,
                OpKind.QUANTIZE,
                OpKind.RELU,
                OpKind.RELU6,
                OpKind.RESHAPE,
            }
        ),
    ),
    (merge_reshapes, frozenset({OpKind.RESHAPE})),
    (absorb_pads, frozenset({OpKind.PAD})),
    (fuse_activations, frozenset({OpKind.RELU, OpKind.RELU6})),
    (stand_up, _EVERY_KIND),
    (drop_dead_channels, _EVERY_KIND),
    (choose_convolutions, frozenset({OpKind.CONV_2D, OpKind.DEPTHWISE_CONV_2D})),
)
"""Every rewrite, and the operators without which it has nothing to do."""


def optimize(graph: Graph) -> Graph:
    """Apply every rewrite until none changes anything.

    Each layer that stays keeps its name, its relative order, and the quantization of its output. The model's input and
    output keep their shapes. A candidate, whose constants have no data, gets the rewrites that look at shapes only.
    """
    current = graph
    while True:
        before = current
        for rewrite, kinds in REWRITES:
            if not kinds.isdisjoint(operator.kind for operator in current.operators):
                current = rewrite(current)
        if current is before:
            return graph if current is graph else _compacted(current)


def layers_left(graph: Graph, optimized: Graph) -> tuple[int | None, ...]:
    """For each layer of ``graph`` its index in the optimized one, or None: by name, and among equal names by order."""
    left: dict[str, list[int]] = {}
    for layer, operator in enumerate(optimized.operators):
        left.setdefault(operator.name, []).append(layer)
    return tuple(left[operator.name].pop(0) if left.get(operator.name) else None for operator in graph.operators)


def _compacted(graph: Graph) -> Graph:
    """Without the tensors that no operator uses."""
    used = {*graph.inputs, *graph.outputs}
    for operator in graph.operators:
        used.update(operator.inputs, operator.outputs)
    kept = sorted(used)
    position = {index: new for new, index in enumerate(kept)}
    return dataclasses.replace(
        graph,
        tensors=tuple(graph.tensors[index] for index in kept),
        operators=tuple(
            dataclasses.replace(
                operator,
                inputs=tuple(position[index] for index in operator.inputs),
                outputs=tuple(position[index] for index in operator.outputs),
            )
            for operator in graph.operators
        ),
        inputs=tuple(position[index] for index in graph.inputs),
        outputs=tuple(position[index] for index in graph.outputs),
    )
