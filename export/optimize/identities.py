"""Layers that change nothing, or whose work nobody needs, are left out."""

from __future__ import annotations

import dataclasses

from export.graph import Activation, DType, Graph, Operator, OpKind, Window
from export.numerics import INT8_MAX, INT8_MIN
from export.optimize.edit import clamps, consumers, producers, renamed, same_values, with_operators
from export.supported import reduced_shape


def drop_dead_layers(graph: Graph) -> Graph:
    """Without the layers whose output nobody reads, unless that is all of them."""
    read = set(graph.outputs)
    dead: dict[int, Operator | None] = {}
    for position in reversed(range(len(graph.operators))):
        operator = graph.operators[position]
        if read.isdisjoint(operator.outputs):
            dead[position] = None
        else:
            read.update(operator.inputs)
    if not dead or len(dead) == len(graph.operators):
        return graph
    return with_operators(graph, dead)


def drop_identities(graph: Graph) -> Graph:
    """Without the layers whose output is an earlier tensor, byte for byte and of the same shape.

    One layer is left even where the model's output is its input, because a graph has layers.
    """
    if len(graph.operators) == 1:
        return graph
    made_by = producers(graph)
    for position, operator in enumerate(graph.operators):
        same = _same_tensor(graph, operator, made_by)
        if same is None:
            continue
        (target,) = operator.outputs
        if target in graph.outputs:
            if same in graph.inputs or same in graph.outputs:
                continue  # the model's output needs memory of its own
            names = {same: target}
        else:
            names = {target: same}
        changed = {
            other: None if other == position else renamed(layer, names) for other, layer in enumerate(graph.operators)
        }
        return drop_identities(with_operators(graph, changed))
    return graph


def _same_tensor(graph: Graph, operator: Operator, made_by: dict[int, int]) -> int | None:
    """The tensor that the operator only copies."""
    source, target = graph.input_tensors(operator)[0], graph.output_tensor(operator)
    first = operator.inputs[0]
    if operator.kind is OpKind.QUANTIZE and source.dtype is DType.FLOAT32:  # what DEQUANTIZE has just taken apart
        if first not in made_by or graph.operators[made_by[first]].kind is not OpKind.DEQUANTIZE:
            return None
        (first,) = graph.operators[made_by[first]].inputs
        source = graph.tensors[first]
    if source.shape != target.shape or source.dtype is not target.dtype:
        return None
    match operator.kind:
        case OpKind.RESHAPE:
            copies = True
        case OpKind.PAD:
            copies = not any(map(any, operator.pads))
        case OpKind.CONCATENATION:
            copies = len(operator.inputs) == 1
        case OpKind.QUANTIZE:
            copies = same_values(source, target)
        case OpKind.MEAN:
            copies = same_values(source, target) and all(source.shape[axis] == 1 for axis in operator.axes)
        case OpKind.AVERAGE_POOL_2D | OpKind.MAX_POOL_2D:
            copies = operator.window == Window() and _lets_pass(graph, operator, made_by)
        case OpKind.RELU | OpKind.RELU6:
            copies = same_values(source, target) and _lets_pass(graph, operator, made_by)
        case _:
            copies = False
    return first if copies else None


def _lets_pass(graph: Graph, operator: Operator, made_by: dict[int, int]) -> bool:
    """Whether the operator's activation clamps no value that its input can have."""
    if operator.activation is Activation.NONE and operator.kind in (OpKind.AVERAGE_POOL_2D, OpKind.MAX_POOL_2D):
        return True
    if graph.output_tensor(operator).quantization is None:
        return False
    made = made_by.get(operator.inputs[0])
    lowest, highest = (INT8_MIN, INT8_MAX) if made is None else clamps(graph, graph.operators[made])
    minimum, maximum = clamps(graph, operator)
    return minimum <= lowest and highest <= maximum


def merge_reshapes(graph: Graph) -> Graph:
    """Without RESHAPEs of RESHAPEs, after means, and before fully connected layers, where the shape is free.

    A fully connected layer sees vectors whatever its input's shape. It keeps its RESHAPE when its output has more than
    two axes: a file's ``keep_num_dims`` ties these to its input's.
    """
    made_by, read_by = producers(graph), consumers(graph)
    changed: dict[int, Operator | None] = {}
    for position, operator in enumerate(graph.operators):
        made = made_by.get(operator.inputs[0])
        if made is None or position in changed or made in changed:
            continue
        first = graph.operators[made]
        free = operator.kind is OpKind.FULLY_CONNECTED and len(graph.output_tensor(operator).shape) == 2
        if first.kind is OpKind.RESHAPE and (free or operator.kind is OpKind.RESHAPE):
            changed[position] = dataclasses.replace(operator, inputs=(first.inputs[0], *operator.inputs[1:]))
        elif first.kind is OpKind.MEAN and operator.kind is OpKind.RESHAPE:
            shapeless = dataclasses.replace(first, outputs=operator.outputs)
            (between,) = operator.inputs
            alone = between not in graph.outputs and read_by[between] == [position]
            if alone and reduced_shape(graph, shapeless) is None:
                changed[made], changed[position] = shapeless, None
    return with_operators(graph, changed) if changed else graph
