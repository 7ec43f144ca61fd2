"""Convolutions that can be said in two ways are said in the one whose kernels are faster."""

from __future__ import annotations

import dataclasses

import numpy as np

from export.graph import Graph, Operator, OpKind, Tensor

_AXIS = {OpKind.CONV_2D: 0, OpKind.DEPTHWISE_CONV_2D: 3}
"""The output channels' axis in the weights: OHWI and 1HWO."""


def choose_convolutions(graph: Graph) -> Graph:
    """Depthwise for one group per channel; dense where a depthwise layer makes many channels of one."""
    tensors, operators = list(graph.tensors), list(graph.operators)
    for position, operator in enumerate(operators):
        kind = _better_kind(graph, operator)
        if kind is not None:
            tensors.append(_reordered(graph.tensors[operator.inputs[1]], kind))
            inputs = (operator.inputs[0], len(tensors) - 1, *operator.inputs[2:])
            operators[position] = dataclasses.replace(operator, kind=kind, inputs=inputs, groups=1)
    if len(tensors) == len(graph.tensors):
        return graph
    return dataclasses.replace(graph, tensors=tuple(tensors), operators=tuple(operators))


def _better_kind(graph: Graph, operator: Operator) -> OpKind | None:
    channels_in = graph.tensors[operator.inputs[0]].shape[-1]
    channels_out = graph.output_tensor(operator).shape[-1]
    if operator.kind is OpKind.CONV_2D and 1 < operator.groups == channels_in == channels_out:
        return OpKind.DEPTHWISE_CONV_2D
    if operator.kind is OpKind.DEPTHWISE_CONV_2D and channels_in == 1 < channels_out:
        return OpKind.CONV_2D
    return None


def _reordered(weights: Tensor, kind: OpKind) -> Tensor:
    """OHWI with one input channel as 1HWO, or 1HWO as that: the first and last axes change places in both cases."""
    out, height, width, last = weights.shape
    data = None if weights.data is None else np.ascontiguousarray(weights.data.swapaxes(0, 3))
    quantization = weights.quantization
    if quantization is not None:
        quantization = dataclasses.replace(quantization, axis=_AXIS[kind])
    return dataclasses.replace(weights, shape=(last, height, width, out), quantization=quantization, data=data)
