"""RELU and RELU6 layers become clamps of the layers before them."""

from __future__ import annotations

import dataclasses

from export.graph import Activation, Graph, Operator, OpKind
from export.numerics import activation_range, quantization_of
from export.optimize.edit import CLAMPED, clamps, consumers, producers, same_values, with_operators


def fuse_activations(graph: Graph) -> Graph:
    """Without every RELU or RELU6 that keeps its input's quantization and can be a clamp of the layer before it.

    That layer's output must have no other reader. With another quantization a value would be rounded twice.
    """
    made_by = producers(graph)
    for position, operator in enumerate(graph.operators):
        if operator.kind not in (OpKind.RELU, OpKind.RELU6):
            continue
        (source,) = operator.inputs
        if source not in made_by or source in graph.outputs or consumers(graph)[source] != [position]:
            continue
        fused = _fused(graph, graph.operators[made_by[source]], operator)
        if fused is not None:
            return fuse_activations(with_operators(graph, {made_by[source]: fused, position: None}))
    return graph


def _fused(graph: Graph, first: Operator, then: Operator) -> Operator | None:
    """``first``, with the clamps of both and the output of ``then``."""
    source, target = graph.input_tensors(then)[0], graph.output_tensor(then)
    if source.shape != target.shape or not same_values(source, target):
        return None
    (low, high), (lower, upper) = clamps(graph, first), clamps(graph, then)
    wanted = max(low, lower), min(high, upper)
    for activation in Activation:
        if activation_range(activation, quantization_of(target)) != wanted:
            continue
        if first.kind in CLAMPED:
            return dataclasses.replace(first, activation=activation, outputs=then.outputs)
        if first.kind in (OpKind.RELU, OpKind.RELU6) and activation.value in (OpKind.RELU.value, OpKind.RELU6.value):
            return dataclasses.replace(first, kind=OpKind(activation.value), outputs=then.outputs)
    return None
