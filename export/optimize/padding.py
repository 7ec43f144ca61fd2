"""PAD becomes part of the layers that read it, which skip the padded places instead of reading them."""

from __future__ import annotations

import dataclasses

from export.graph import Activation, Graph, Operator, OpKind, Window
from export.optimize.edit import consumers, producers, with_operators

_LARGEST_PADDING = 255
_NOT_NEGATIVE = (Activation.RELU, Activation.RELU6)


def absorb_pads(graph: Graph) -> Graph:
    """Without every PAD all of whose readers can take it over: convolutions, maximum pools, and other PADs.

    PAD writes the zero point, which is worth nothing to a convolution; and to a maximum, if nothing is below it.
    Average pools count the places that PAD adds, but not those that they skip.
    """
    for position, operator in enumerate(graph.operators):
        if operator.kind is not OpKind.PAD or operator.outputs[0] in graph.outputs:
            continue
        readers = consumers(graph).get(operator.outputs[0], [])
        merged = {reader: _merged(graph, operator, graph.operators[reader]) for reader in readers}
        if merged and None not in merged.values():
            return absorb_pads(with_operators(graph, {**merged, position: None}))
    return graph


def _merged(graph: Graph, pad: Operator, reader: Operator) -> Operator | None:
    """The reader of ``pad``, reading what ``pad`` reads; None when it cannot."""
    inputs = (pad.inputs[0], *reader.inputs[1:])
    if reader.kind is OpKind.PAD:
        pads = tuple((a + c, b + d) for (a, b), (c, d) in zip(pad.pads, reader.pads, strict=True))
        return dataclasses.replace(reader, inputs=inputs, pads=pads)
    if reader.kind is OpKind.MAX_POOL_2D:
        if not _never_negative(graph, pad.inputs[0]):
            return None
    elif reader.kind not in (OpKind.CONV_2D, OpKind.DEPTHWISE_CONV_2D):
        return None
    window = reader.window
    assert window is not None
    if any(pad.pads[-1]):
        return None
    padding = window.padding[0] + pad.pads[1][0], window.padding[1] + pad.pads[2][0]
    merged = dataclasses.replace(window, padding=padding)
    source, target = graph.tensors[pad.inputs[0]].shape, graph.output_tensor(reader).shape
    if not all(_meets_input(merged, axis, source[axis + 1], target[axis + 1]) for axis in (0, 1)):
        return None
    return dataclasses.replace(reader, inputs=inputs, window=merged)


def _meets_input(window: Window, axis: int, input_size: int, output_size: int) -> bool:
    """Whether no window lies wholly before or after the input, where a maximum would be taken of nothing."""
    padding = window.padding[axis]
    reach = (window.kernel[axis] - 1) * window.dilation[axis] + 1
    last = (output_size - 1) * window.stride[axis] - padding
    return padding < reach and last < input_size and padding <= _LARGEST_PADDING


def _never_negative(graph: Graph, index: int) -> bool:
    """Whether no element of the tensor is below its zero point."""
    quantization = graph.tensors[index].quantization
    if quantization is not None and quantization.zero_point == -128:
        return True
    made = producers(graph).get(index)
    if made is None:
        return False
    operator = graph.operators[made]
    if operator.activation in _NOT_NEGATIVE or operator.kind in (OpKind.RELU, OpKind.RELU6):
        return True
    if operator.kind in (OpKind.MAX_POOL_2D, OpKind.AVERAGE_POOL_2D, OpKind.PAD, OpKind.RESHAPE, OpKind.CONCATENATION):
        return all(_never_negative(graph, source) for source in operator.inputs)
    return False
