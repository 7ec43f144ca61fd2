"""Dead-channel elimination: channels that no output depends on are neither computed nor stored.

A channel dies in one of two ways. Its readers may multiply it by zeros only. Or it may have the same value whatever the
model's input (its weights are zero, or its sums always end at a clamp): then what its readers make of it is a constant
too, which is added to their biases, bit for bit.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from export.graph import DType, Graph, Operator, OpKind, Quantization, Tensor
from export.numerics import quantization_of
from export.optimize.intervals import BoolArray, IntArray, Interval, channel_intervals, reads_padding, weighted_rows

_MIXING = (OpKind.CONV_2D, OpKind.FULLY_CONNECTED)
_WEIGHTED = (*_MIXING, OpKind.DEPTHWISE_CONV_2D)
_KEEPING = (
    OpKind.ADD,
    OpKind.AVERAGE_POOL_2D,
    OpKind.MAX_POOL_2D,
    OpKind.MEAN,
    OpKind.QUANTIZE,
    OpKind.RELU,
    OpKind.RELU6,
)
"""Operators whose output channel c depends on channel c of each input, and nothing else."""


def drop_dead_channels(graph: Graph) -> Graph:
    """``graph`` without its dead channels; a candidate, which has no data, is returned as it is.

    A tensor keeps at least one channel. The model's input and output keep all of theirs.
    """
    if any(_is_blank(tensor) for tensor in graph.tensors):
        return graph
    intervals = channel_intervals(graph)
    needed = _Liveness(graph, intervals).needed()
    if all(channels.all() for channels in needed.values()):
        return graph
    return _Dropper(graph, needed, intervals).dropped()


def _is_blank(tensor: Tensor) -> bool:
    return tensor.data is None if tensor.is_constant else tensor.dtype is DType.INT8 and tensor.quantization is None


@dataclass(frozen=True, slots=True, eq=False)
class _Fold:
    """What a layer that mixes channels knows of its input: which channels it could do without."""

    used: BoolArray
    """[output channel, input channel]: whether some weight between the two is not zero."""
    foldable: BoolArray
    """[input channel]: whether all it contributes is a constant."""


class _Liveness:
    """Finds the channels that must stay: the least sets that contain what the model's ends need and are closed."""

    def __init__(self, graph: Graph, intervals: dict[int, Interval]) -> None:
        self._graph = graph
        self._needed = {
            index: np.zeros(graph.tensors[index].shape[-1:] or (1,), np.bool_)
            for operator in graph.operators
            for index in (*graph.activations_in(operator), *operator.outputs)
        }
        for index in (*graph.inputs, *graph.outputs):
            if index in self._needed:
                self._needed[index][:] = True
        self._folds: dict[int, _Fold] = {}
        self._links: dict[int, list[tuple[int, IntArray]]] = {}
        for position, operator in enumerate(graph.operators):
            if _mixes(graph, operator):
                self._folds[position] = _fold(graph, operator, intervals[operator.inputs[0]])
            else:
                self._links[position] = _links(graph, operator)

    def needed(self) -> dict[int, BoolArray]:
        """For each activation, which of its channels must stay."""
        self._close()
        for channels in self._needed.values():
            if not channels.any():
                channels[0] = True
                self._close()
        return self._needed

    def _close(self) -> None:
        changed = True
        while changed:
            changed = False
            for position in reversed(range(len(self._graph.operators))):
                changed |= self._propagate(position)

    def _propagate(self, position: int) -> bool:
        operator = self._graph.operators[position]
        if position in self._folds:
            fold = self._folds[position]
            outputs = self._needed[operator.outputs[0]]
            return self._need(operator.inputs[0], fold.used[outputs].any(axis=0) & ~fold.foldable)
        links = self._links[position]
        if not links:  # nothing is known of which output needs which input
            indices = (*self._graph.activations_in(operator), *operator.outputs)
            return sum(self._need(index, np.True_) for index in indices) > 0
        groups = np.zeros(max(int(group.max()) for _, group in links) + 1, np.bool_)
        for index, group in links:
            groups[group[self._needed[index]]] = True
        return sum(self._need(index, groups[group]) for index, group in links) > 0

    def _need(self, index: int, channels: BoolArray | np.bool_) -> bool:
        before = self._needed[index]
        after = before | channels
        self._needed[index] = after
        return bool(np.any(after != before))


def _mixes(graph: Graph, operator: Operator) -> bool:
    """Whether each output channel is a sum over input channels, any of which can be left out."""
    if operator.kind not in _MIXING or operator.groups > 1:
        return False
    source, weights = graph.input_tensors(operator)[:2]
    return operator.kind is OpKind.CONV_2D or weights.shape[1] % source.shape[-1] == 0


def _fold(graph: Graph, operator: Operator, interval: Interval) -> _Fold:
    source, weights = graph.input_tensors(operator)[:2]
    rows = weighted_rows(operator, weights, source.shape[-1])
    offsets = interval.low - quantization_of(source).zero_point
    foldable = interval.constant
    # Padding reads the zero point, and so is no exception for a channel that is the zero point everywhere.
    if reads_padding(graph, operator):
        foldable = foldable & (offsets == 0)
    added = np.abs(rows.astype(np.int64).sum(axis=(1, 2)) * np.where(foldable, offsets, 0)).sum(axis=1)
    if np.any(np.abs(_bias(graph, operator)) + added > np.iinfo(np.int32).max):
        foldable = foldable & (offsets == 0)
    return _Fold(np.asarray(rows.any(axis=(1, 2))), foldable)


def _bias(graph: Graph, operator: Operator) -> IntArray:
    tensors = graph.input_tensors(operator)
    if len(tensors) > 2:
        return np.asarray(tensors[2].data, np.int64).ravel()
    return np.zeros(tensors[1].shape[0], np.int64)


def _links(graph: Graph, operator: Operator) -> list[tuple[int, IntArray]]:
    """For the operator's inputs and output, a number per channel: channels with the same number stay or go together.

    Empty when nothing can go.
    """
    (target,) = operator.outputs
    sources = graph.activations_in(operator)
    shapes = [graph.tensors[index].shape for index in (*sources, target)]
    if min(map(len, shapes)) == 0 or any(graph.tensors[index].dtype is not DType.INT8 for index in (*sources, target)):
        return []
    channels = [shape[-1] for shape in shapes]
    first, last = np.arange(channels[0]), np.arange(channels[-1])
    match operator.kind:
        case OpKind.CONV_2D if operator.groups > 1:  # a group stays or goes as a whole
            sizes = channels[0] // operator.groups, channels[-1] // operator.groups
            return [(sources[0], first // sizes[0]), (target, last // sizes[1])]
        case OpKind.DEPTHWISE_CONV_2D:
            return [(sources[0], first), (target, last // (channels[-1] // channels[0]))]
        case OpKind.RESHAPE if channels[-1] % channels[0] == 0:
            return [(sources[0], first), (target, last % channels[0])]
        case OpKind.RESHAPE if channels[0] % channels[-1] == 0:
            return [(sources[0], first % channels[-1]), (target, last)]
        case OpKind.PAD:
            return [(sources[0], first + operator.pads[-1][0]), (target, last)]
        case OpKind.CONCATENATION if operator.axes[0] == len(shapes[-1]) - 1:
            starts = np.cumsum([0, *channels[:-2]])
            parts = [(index, np.arange(n) + start) for index, n, start in zip(sources, channels, starts, strict=False)]
            return [*parts, (target, last)]
        case OpKind.CONCATENATION:
            return [(index, last) for index in (*sources, target)]
        case kind if kind in _KEEPING and len(set(channels)) == 1:
            return [(index, last) for index in (*sources, target)]
        case _:
            return []


class _Dropper:
    """Rebuilds a graph with only the needed channels."""

    def __init__(self, graph: Graph, needed: dict[int, BoolArray], intervals: dict[int, Interval]) -> None:
        self._graph = graph
        self._needed = needed
        self._intervals = intervals
        self._tensors = list(graph.tensors)

    def dropped(self) -> Graph:
        for index, channels in self._needed.items():
            tensor = self._tensors[index]
            if not channels.all():
                shape = (*tensor.shape[:-1], int(channels.sum()))
                self._tensors[index] = dataclasses.replace(tensor, shape=shape)
        operators = tuple(self._operator(operator) for operator in self._graph.operators)
        return dataclasses.replace(self._graph, tensors=tuple(self._tensors), operators=operators)

    def _operator(self, operator: Operator) -> Operator:
        inputs, outputs = self._needed.get(operator.inputs[0]), self._needed[operator.outputs[0]]
        if inputs is None or (inputs.all() and outputs.all()):
            return operator
        if operator.kind in _WEIGHTED:
            return self._weighted(operator, inputs, outputs)
        if operator.kind is OpKind.PAD:
            before = operator.pads[-1][0]
            kept = int(outputs[:before].sum()), int(outputs[before + len(inputs) :].sum())
            return dataclasses.replace(operator, pads=(*operator.pads[:-1], kept))
        return operator

    def _weighted(self, operator: Operator, inputs: BoolArray, outputs: BoolArray) -> Operator:
        source, weights, *biases = self._graph.input_tensors(operator)
        values = np.asarray(weights.data, np.int8)
        groups = operator.groups
        added = np.zeros(len(outputs), np.int64)
        if operator.kind is OpKind.DEPTHWISE_CONV_2D:
            values = values[..., outputs]
        elif groups > 1:
            values = values[outputs]
            groups = int(inputs.reshape(groups, -1).any(axis=1).sum())
        else:
            rows = weighted_rows(operator, weights, len(inputs))
            offsets = self._intervals[operator.inputs[0]].low - quantization_of(source).zero_point
            # A channel that is dropped although it varies has zero weights in every row that stays.
            added = rows[..., ~inputs].astype(np.int64).sum(axis=(1, 2)) @ offsets[~inputs]
            values = rows[outputs][..., inputs]
            if operator.kind is OpKind.FULLY_CONNECTED:
                values = values.reshape(len(values), -1)
        new = [self._add(weights, np.ascontiguousarray(values), outputs)]
        if biases or added.any():
            bias = biases[0] if biases else self._no_bias(source, weights, operator)
            total = (_bias(self._graph, operator) if biases else np.zeros(len(outputs), np.int64)) + added
            new.append(self._add(bias, total[outputs].astype(np.int32), outputs))
        return dataclasses.replace(operator, inputs=(operator.inputs[0], *new), groups=groups)

    def _no_bias(self, source: Tensor, weights: Tensor, operator: Operator) -> Tensor:
        scales = tuple(quantization_of(source).scale * scale for scale in quantization_of(weights).scales)
        quantization = Quantization(scales, (0,) * len(scales))
        return Tensor(f"{operator.name}/bias", (), DType.INT32, quantization, is_constant=True)

    def _add(self, like: Tensor, data: npt.NDArray[np.generic], outputs: BoolArray) -> int:
        """The tensor with other data, its scales those of the output channels that stay."""
        quantization = like.quantization
        if quantization is not None and len(quantization.scales) == len(outputs):
            scales = tuple(np.asarray(quantization.scales)[outputs].tolist())
            zero_points = tuple(np.asarray(quantization.zero_points)[outputs].tolist())
            quantization = dataclasses.replace(quantization, scales=scales, zero_points=zero_points)
        self._tensors.append(dataclasses.replace(like, shape=data.shape, quantization=quantization, data=data))
        return len(self._tensors) - 1
