"""What the rewrites share: who computes and who reads a tensor, and graphs with a few operators changed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from export.graph import Graph, Operator, OpKind, Tensor
from export.numerics import INT8_MAX, INT8_MIN, activation_range, requantize_parameters

CLAMPED = (
    OpKind.CONV_2D,
    OpKind.DEPTHWISE_CONV_2D,
    OpKind.FULLY_CONNECTED,
    OpKind.ADD,
    OpKind.AVERAGE_POOL_2D,
    OpKind.MAX_POOL_2D,
)
"""Operators with a fused activation."""


def producers(graph: Graph) -> dict[int, int]:
    """For each computed tensor, the position of its operator."""
    return {output: position for position, operator in enumerate(graph.operators) for output in operator.outputs}


def consumers(graph: Graph) -> dict[int, list[int]]:
    """For each tensor that is read, the positions of its readers, each once."""
    found: dict[int, list[int]] = {}
    for position, operator in enumerate(graph.operators):
        for index in dict.fromkeys(operator.inputs):
            found.setdefault(index, []).append(position)
    return found


def with_operators(
    graph: Graph, changed: Mapping[int, Operator | None], tensors: Iterable[Tensor] | None = None
) -> Graph:
    """``graph`` with the operators at these positions replaced, or left out where None."""
    operators = (changed.get(position, operator) for position, operator in enumerate(graph.operators))
    kept = tuple(operator for operator in operators if operator is not None)
    return dataclasses.replace(graph, operators=kept, tensors=graph.tensors if tensors is None else tuple(tensors))


def renamed(operator: Operator, tensors: Mapping[int, int]) -> Operator:
    """``operator`` with other tensors in the place of some."""
    return dataclasses.replace(
        operator,
        inputs=tuple(tensors.get(index, index) for index in operator.inputs),
        outputs=tuple(tensors.get(index, index) for index in operator.outputs),
    )


def same_values(first: Tensor, second: Tensor) -> bool:
    """Whether equal int8 elements of both stand for equal numbers; False where that is not known."""
    a, b = first.quantization, second.quantization
    return a is not None and b is not None and (a.scales, a.zero_points) == (b.scales, b.zero_points)


def clamps(graph: Graph, operator: Operator) -> tuple[int, int]:
    """The least and the largest int8 value that the operator can write, by its activation alone."""
    if operator.kind in (OpKind.RELU, OpKind.RELU6):
        parameters = requantize_parameters(graph, operator)
        return parameters.minimum, parameters.maximum
    quantization = graph.output_tensor(operator).quantization
    if operator.kind in CLAMPED and quantization is not None:
        return activation_range(operator.activation, quantization)
    return INT8_MIN, INT8_MAX
