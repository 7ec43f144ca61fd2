"""Where to cut a graph into segments: dynamic programming on the peak of memory, then on the rows that are streamed.

A segment of several layers runs row by row, and what it keeps to itself is a ring of a few rows; what crosses a cut
exists whole. The bytes that a segment needs are estimated from its buffers alone, so that all cuts can be compared; the
planner then lays out the chosen ones exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

from export.graph import Graph, Operator, OpKind
from export.schedule import align, elementwise, is_streamable, row_access, row_bytes, rows
from export.streams import ring_rows, stream_ticks

Cuts = tuple[range, ...]
"""Consecutive ranges of layers that cover the graph; one of several layers is a stream."""

_NEVER = 1 << 30


def layer_by_layer(graph: Graph) -> Cuts:
    """Every layer for itself."""
    return tuple(range(layer, layer + 1) for layer in range(len(graph.operators)))


def longest_streams(graph: Graph) -> Cuts:
    """The fewest segments."""
    cuts: list[range] = []
    joins = False
    for layer, operator in enumerate(graph.operators):
        streamable = is_streamable(graph, operator)
        if streamable and joins:
            cuts[-1] = range(cuts[-1].start, layer + 1)
        else:
            cuts.append(range(layer, layer + 1))
        joins = streamable
    return tuple(cuts)


def shared_storage(graph: Graph, segments: Cuts) -> dict[int, int]:
    """For each activation, the tensor in whose memory it lies.

    A RESHAPE moves nothing. In a stream, an element-wise layer works in place on an input that only it reads.
    """
    storage = {index: index for index in graph.inputs}
    readers: dict[int, int] = dict.fromkeys(graph.outputs, 2)
    for operator in graph.operators:
        for index in operator.inputs:
            readers[index] = readers.get(index, 0) + 1
    for segment in segments:
        inside: set[int] = set()
        for layer in segment:
            operator = graph.operators[layer]
            for output in operator.outputs:
                storage[output] = output
                if operator.kind is OpKind.RESHAPE:
                    storage[output] = storage[operator.inputs[0]]
                elif len(segment) > 1 and elementwise(graph, operator):
                    taken = next((i for i in operator.inputs if i in inside and readers[i] == 1), None)
                    if taken is not None:
                        storage[output] = storage[taken]
                inside.add(output)
    return storage


@dataclass(frozen=True, slots=True)
class _Facts:
    """What the estimate needs to know of each tensor, by index; where several share storage, of the first."""

    size: dict[int, int]
    ring: dict[int, int]
    """Bytes that must exist at once while its rows are written and read in one stream."""
    first: dict[int, int]
    """The layer that writes it; -1 for an input."""
    last: dict[int, int]
    """The last layer that reads it."""


def choose_cuts(graph: Graph, scratch: list[int], *, stream_input: bool = False) -> Cuts:
    """The cuts with the least estimated peak, and among them the fewest streamed rows. ``scratch`` is per layer.

    A streamed input counts as written by the first layer; that layer is streamed even if nothing else is.
    """
    facts = _gather(graph, stream_input)
    count = len(graph.operators)
    alone = [_bytes_alone(graph, facts, layer, scratch[layer]) for layer in range(count)]
    if stream_input:
        alone[0] = _NEVER
    streams = _streams(graph, facts, scratch, _NEVER if stream_input else max(alone), stream_input)
    # The least peak that any cuts can have, from each layer on to the end.
    least = [0] * (count + 1)
    for start in reversed(range(count)):
        choices = [max(alone[start], least[start + 1])]
        choices += [max(need, least[stop]) for stop, need in streams[start]]
        least[start] = min(choices)
    limit = least[0]
    per_layer = (
        row_access(graph, operator).units if is_streamable(graph, operator) else 0 for operator in graph.operators
    )
    rows_before = [0, *accumulate(per_layer)]
    # Among the cuts that keep to it, the fewest rows that are streamed.
    work = [0] * (count + 1)
    following = list(range(1, count + 2))
    for start in reversed(range(count)):
        best, next_cut = _NEVER, start + 1
        if alone[start] <= limit:
            best = work[start + 1]
        for stop, need in streams[start]:
            if need <= limit and work[stop] < _NEVER:
                rows_streamed = rows_before[stop] - rows_before[start]
                if work[stop] + rows_streamed < best:
                    best, next_cut = work[stop] + rows_streamed, stop
        work[start], following[start] = best, next_cut
    cuts, start = [], 0
    while start < count:
        cuts.append(range(start, following[start]))
        start = following[start]
    return tuple(cuts)


def _gather(graph: Graph, stream_input: bool) -> _Facts:
    streams = longest_streams(graph)
    storage = shared_storage(graph, streams)
    ring: dict[int, int] = {}
    for run in streams:
        if not is_streamable(graph, graph.operators[run.start]):
            continue
        for root, held in ring_rows(
            graph, stream_ticks(graph, run, stream_input=stream_input and run.start == 0), storage
        ).items():
            ring[root] = align(min(held, rows(graph.tensors[root])) * row_bytes(graph.tensors[root]))
    facts = _Facts({}, ring, {}, {})
    for index in graph.inputs:
        _see(graph, facts, index, index, 0 if stream_input else -1)
    for layer, operator in enumerate(graph.operators):
        for index in graph.activations_in(operator):
            facts.last[storage[index]] = layer
        for index in operator.outputs:
            _see(graph, facts, index, storage[index], layer)
    for index in graph.outputs:
        facts.last[storage[index]] = _NEVER
    return facts


def _see(graph: Graph, facts: _Facts, index: int, root: int, layer: int) -> None:
    size = align(graph.tensors[index].size_bytes)
    facts.size[root] = max(size, facts.size.get(root, 0))
    facts.first.setdefault(root, layer)
    facts.last[root] = max(layer, facts.last.get(root, layer))
    facts.ring.setdefault(root, align(row_bytes(graph.tensors[index])))


def _bytes_alone(graph: Graph, facts: _Facts, layer: int, scratch: int) -> int:
    """What a layer needs that runs whole, its output laid over what it has consumed of its input."""
    operator = graph.operators[layer]
    alive = {root: facts.size[root] for root in facts.size if facts.first[root] <= layer <= facts.last[root]}
    total = sum(alive.values()) + align(scratch)
    written = [root for root in alive if facts.first[root] == layer]
    dying = [root for root in alive if facts.first[root] < layer and facts.last[root] == layer]
    if not written or not dying or not is_streamable(graph, operator):
        return total
    largest = max(dying, key=lambda root: facts.size[root])
    output = sum(facts.size[root] for root in written)
    return total - min(facts.size[largest], output) + _sticking_out(graph, operator)


def _sticking_out(graph: Graph, operator: Operator) -> int:
    """Roughly the bytes by which an output and the input that it overlays exceed the larger of them."""
    if elementwise(graph, operator):
        return 0
    source = graph.tensors[operator.inputs[0]]
    reach = 1 if operator.window is None else operator.window.kernel[0] - operator.window.padding[0]
    return min(reach * row_bytes(source), source.size_bytes)


def _streams(
    graph: Graph, facts: _Facts, scratch: list[int], bound: int, stream_input: bool
) -> list[list[tuple[int, int]]]:
    """For each layer, the (stop, bytes) of the streams that start with it and need no more than ``bound``."""
    streams: list[list[tuple[int, int]]] = [[] for _ in graph.operators]
    written: dict[int, list[int]] = {}
    dies: dict[int, list[int]] = {}
    for root in facts.size:
        written.setdefault(facts.first[root], []).append(root)
        dies.setdefault(facts.last[root], []).append(root)
    for run in longest_streams(graph):
        for start in run:
            through = sum(facts.size[root] for root in facts.size if facts.first[root] < start <= facts.last[root])
            entering = leaving = entering_rows = leaving_rows = rings = room = 0
            for layer in range(start, run.stop):
                room = max(room, align(scratch[layer]))
                for root in written.get(layer, ()):
                    leaving += facts.size[root]
                    leaving_rows += facts.ring[root]
                for root in dies.get(layer, ()):
                    if facts.first[root] < start:
                        through -= facts.size[root]
                        entering += facts.size[root]
                        entering_rows += facts.ring[root]
                    else:
                        leaving -= facts.size[root]
                        leaving_rows -= facts.ring[root]
                        rings += facts.ring[root]
                if through + rings > bound:
                    break
                if layer > start or (stream_input and start == 0):
                    # What enters vanishes as what leaves grows, row by row: the peak is at one of the ends.
                    ends = max(entering + leaving_rows, entering_rows + leaving)
                    need = through + rings + room + ends
                    if need <= bound:
                        streams[start].append((layer + 1, need))
    return streams
