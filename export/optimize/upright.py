"""One-dimensional layers that lie along the width are stood up along the height, so that they can stream along time.

A tensor [1, 1, W, C] has the bytes of [1, W, 1, C], and a layer whose tensors all have height 1 computes the same with
height and width swapped. The planner streams along the height only.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from export.graph import Graph, Operator, OpKind, Tensor, Window
from export.optimize.edit import consumers, producers, renamed

_WINDOWED = (OpKind.CONV_2D, OpKind.DEPTHWISE_CONV_2D, OpKind.AVERAGE_POOL_2D, OpKind.MAX_POOL_2D)
_POINTWISE = (OpKind.ADD, OpKind.RELU, OpKind.RELU6, OpKind.QUANTIZE, OpKind.DEQUANTIZE, OpKind.SOFTMAX)
_WITH_ROWS_AND_COLUMNS = (*_WINDOWED, *_POINTWISE, OpKind.PAD, OpKind.CONCATENATION)


def stand_up(graph: Graph) -> Graph:
    """``graph`` with its runs of windowed layers of height 1 turned; a RESHAPE stands wherever such a run ends.

    The model's input and output keep their shapes.
    """
    lying = {
        index
        for operator in graph.operators
        for index in (*graph.activations_in(operator), *operator.outputs)
        if _lies(graph.tensors[index])
    }
    turned = _run(graph, lying) if lying else set()
    return _Turner(graph, lying, turned).result() if turned else graph


def _lies(tensor: Tensor) -> bool:
    return len(tensor.shape) == 4 and tensor.shape[1] == 1 and tensor.shape[2] > 1


def _run(graph: Graph, lying: set[int]) -> set[int]:
    """The layers to turn: windowed ones, and all that can be reached from them through lying tensors."""
    read_by, made_by = consumers(graph), producers(graph)
    pending = [
        position
        for position, operator in enumerate(graph.operators)
        if operator.kind in _WINDOWED and operator.inputs[0] in lying and _can_turn(graph, operator)
    ]
    run: set[int] = set()
    while pending:
        position = pending.pop()
        if position in run or not _can_turn(graph, graph.operators[position]):
            continue
        run.add(position)
        for index in {*graph.operators[position].inputs, *graph.operators[position].outputs} & lying:
            pending += read_by.get(index, [])
            pending += [made_by[index]] if index in made_by else []
    return run


def _can_turn(graph: Graph, operator: Operator) -> bool:
    """Whether all that the layer reads and writes has height 1, so that it does the same along the other axis."""
    indices = (*graph.activations_in(operator), *operator.outputs)
    if any(len(graph.tensors[index].shape) != 4 or graph.tensors[index].shape[1] != 1 for index in indices):
        return False
    if operator.kind is OpKind.FULLY_CONNECTED:
        source, weights = graph.input_tensors(operator)[:2]
        return source.shape[-1] == weights.shape[1]
    return operator.kind in _WITH_ROWS_AND_COLUMNS


def _indifferent(graph: Graph, operator: Operator) -> bool:
    """Whether the layer, though not turned, reads and writes the same bytes in either position."""
    if operator.kind is OpKind.FULLY_CONNECTED:
        return len(graph.output_tensor(operator).shape) == 2
    return operator.kind is OpKind.RESHAPE or (operator.kind is OpKind.MEAN and operator.axes == (1, 2))


class _Turner:
    """Rebuilds a graph with some of its layers turned."""

    def __init__(self, graph: Graph, lying: set[int], turned: set[int]) -> None:
        self._graph = graph
        self._turned = turned
        self._tensors = list(graph.tensors)
        touched = {
            index for position in turned for index in (*graph.operators[position].inputs, *_outputs(graph, position))
        }
        self._upright: dict[int, int] = {}
        """For each tensor that exists in both positions, the standing one."""
        made_by, read_by = producers(graph), consumers(graph)
        for index in sorted(touched & lying):
            around = [made_by[index]] if index in made_by else []
            around += read_by.get(index, [])
            at_an_end = index in graph.inputs or index in graph.outputs
            stays = at_an_end or any(self._stays_lying(position) for position in around)
            standing = _swapped(graph.tensors[index])
            if stays:
                self._upright[index] = self._add(dataclasses.replace(standing, name=f"{standing.name}/upright"))
            else:
                self._tensors[index] = standing

    def result(self) -> Graph:
        graph, operators = self._graph, list[Operator]()
        operators += [self._view(index, self._upright[index]) for index in graph.inputs if index in self._upright]
        for position, operator in enumerate(graph.operators):
            (target,) = operator.outputs
            if position in self._turned:
                operators.append(renamed(self._turn(operator), self._upright))
            elif self._stays_lying(position):
                operators.append(operator)
            else:
                operators.append(self._read_upright(operator))
            if target in self._upright:
                pair = self._upright[target], target
                operators.append(self._view(*(pair if position in self._turned else reversed(pair))))
        return dataclasses.replace(graph, tensors=tuple(self._tensors), operators=tuple(operators))

    def _stays_lying(self, position: int) -> bool:
        return position not in self._turned and not _indifferent(self._graph, self._graph.operators[position])

    def _read_upright(self, operator: Operator) -> Operator:
        """An indifferent layer spares its input the way back."""
        inputs = tuple(self._upright.get(index, index) for index in operator.inputs)
        return dataclasses.replace(operator, inputs=inputs)

    def _turn(self, operator: Operator) -> Operator:
        inputs = list(operator.inputs)
        window, axes, pads = operator.window, operator.axes, operator.pads
        if window is not None:
            window = Window(*(_reversed(pair) for pair in dataclasses.astuple(window)))
            if operator.kind in (OpKind.CONV_2D, OpKind.DEPTHWISE_CONV_2D):
                inputs[1] = self._add(_swapped(self._tensors[inputs[1]]))
        if operator.kind is OpKind.CONCATENATION:
            axes = ({1: 2, 2: 1}.get(axes[0], axes[0]),)
        if pads:
            pads = pads[0], pads[2], pads[1], pads[3]
        return dataclasses.replace(operator, inputs=tuple(inputs), window=window, axes=axes, pads=pads)

    def _view(self, source: int, target: int) -> Operator:
        return Operator(OpKind.RESHAPE, f"{self._tensors[target].name}/view", (source,), (target,))

    def _add(self, tensor: Tensor) -> int:
        self._tensors.append(tensor)
        return len(self._tensors) - 1


def _outputs(graph: Graph, position: int) -> tuple[int, ...]:
    return graph.operators[position].outputs


def _reversed(pair: tuple[int, int]) -> tuple[int, int]:
    return pair[1], pair[0]


def _swapped(tensor: Tensor) -> Tensor:
    """The tensor with its second and third axes swapped."""
    first, height, width, *last = tensor.shape
    data = None if tensor.data is None else np.ascontiguousarray(tensor.data.swapaxes(1, 2))
    return dataclasses.replace(tensor, shape=(first, width, height, *last), data=data)
