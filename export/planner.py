"""Plans the one static buffer (the arena) that holds every activation.

A plan is a list of segments, each a run of layers executed as one stream, and an offset for every buffer. Two buffers
that live at the same step share no byte, with one exception: an output may **overlay** the input that its layer
consumes. Windowed layers work row by row from top to bottom, so an output placed a certain distance below its input
only ever overwrites input rows that no later row needs; for a stride-1 depthwise convolution of 3×3 that distance is
two rows, and the layer needs its input plus two rows instead of twice its input. Element-wise layers, residual
additions among them, need no distance at all. (Known as diagonal memory optimisation: P. Blacker et al., 2020.)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from devices.profile import InstructionSet
from export.graph import Graph, Operator, OpKind
from export.numerics import scratch_bytes
from export.schedule import align, elementwise, first_needed_row, is_windowed, row_bytes, rows


@dataclass(frozen=True, slots=True)
class Buffer:
    """A piece of the arena and the steps (positions in ``Plan.order``, inclusive) between which it keeps its content.

    ``tensor`` indexes the graph's tensors; it is None for scratch memory and row counters. The model's inputs are
    written before step 0 and so live from step -1; its outputs are read after the last step and so live through one
    more.
    """

    name: str
    tensor: int | None
    size_bytes: int
    first_step: int
    last_step: int
    offset: int
    ring_rows: int | None = None
    """Rows that a ring buffer holds: row r lies at r modulo this; None when the tensor exists whole."""

    def lives_at(self, step: int) -> bool:
        return self.first_step <= step <= self.last_step


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive layers, as indices into ``Graph.operators``: one that runs whole, or a stream, row by row."""

    operators: tuple[int, ...]
    streamed: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """Where everything lies, in which order it is computed, and why the arena is as large as it is."""

    graph: Graph
    instruction_set: InstructionSet
    segments: tuple[Segment, ...]
    order: tuple[int, ...]
    """The schedule: layer indices. Each entry runs one unit of the layer: all of it, or a streamed layer's next row."""
    buffers: tuple[Buffer, ...]
    scratch: tuple[Buffer | None, ...]
    """The scratch memory of each layer; the layers of one segment may share it."""
    counters: Buffer | None
    """One uint16 for each streamed layer, in the order of `streamed_layers`: the next row that it computes."""
    arena_bytes: int
    lower_bound_bytes: int
    peak_step: int
    """The position in ``order`` at which the bytes that must coexist are the most."""

    def buffer_of(self, tensor: int) -> Buffer:
        """The buffer that holds ``tensor``; a RESHAPE's output is in its input's."""
        root = _storage(self.graph)[tensor]
        return next(buffer for buffer in self.buffers if buffer.tensor == root)

    @property
    def streamed_layers(self) -> tuple[int, ...]:
        """The layers that run row by row."""
        return tuple(layer for segment in self.segments if segment.streamed for layer in segment.operators)

    def alive_at(self, step: int) -> tuple[Buffer, ...]:
        """Every buffer that must keep its content during ``step``, largest first."""
        return tuple(sorted((b for b in self.buffers if b.lives_at(step)), key=lambda b: -b.size_bytes))


@dataclass(frozen=True, slots=True)
class _Request:
    """A buffer that has no offset yet."""

    name: str
    tensor: int | None
    size_bytes: int
    first_step: int
    last_step: int


def plan(graph: Graph, instruction_set: InstructionSet = "generic") -> Plan:
    """Assign an offset to every activation and scratch buffer of ``graph``.

    Several placement orders are tried, each first-fit from the lowest address; the smallest arena wins, and the search
    stops at the lower bound. Deterministic.
    """
    requests = _requests(graph)
    distances = _overlay_distances(graph, requests)
    need = [_bytes_needed(step, requests, distances) for step in range(len(graph.operators))]
    lower_bound = max(need)
    peak_step = need.index(lower_bound)
    best: list[int] | None = None
    best_bytes = 0
    for order in _orders(requests, need):
        offsets = _first_fit(requests, distances, order)
        arena = max(offset + align(request.size_bytes) for offset, request in zip(offsets, requests, strict=True))
        if best is None or arena < best_bytes:
            best, best_bytes = offsets, arena
        if best_bytes == lower_bound:
            break
    assert best is not None
    buffers = tuple(
        Buffer(r.name, r.tensor, r.size_bytes, r.first_step, r.last_step, offset)
        for r, offset in zip(requests, best, strict=True)
    )
    layers = range(len(graph.operators))
    segments = tuple(Segment((index,)) for index in layers)
    scratch = tuple(next((b for b in buffers if b.tensor is None and b.first_step == i), None) for i in layers)
    return Plan(
        graph, instruction_set, segments, tuple(layers), buffers, scratch, None, best_bytes, lower_bound, peak_step
    )


def _storage(graph: Graph) -> dict[int, int]:
    """For each activation, the tensor whose memory it is: a RESHAPE moves nothing."""
    storage = {index: index for index in graph.inputs}
    for operator in graph.operators:
        for output in operator.outputs:
            is_view = operator.kind is OpKind.RESHAPE
            storage[output] = storage[operator.inputs[0]] if is_view else output
    return storage


def _requests(graph: Graph) -> list[_Request]:
    storage = _storage(graph)
    first = dict.fromkeys(graph.inputs, -1)
    last = dict.fromkeys(graph.inputs, 0)
    scratch = []
    for step, operator in enumerate(graph.operators):
        for index in graph.activations_in(operator):
            last[storage[index]] = step
        for index in operator.outputs:
            first.setdefault(storage[index], step)
            last[storage[index]] = step
        size = scratch_bytes(graph, operator)
        if size:
            scratch.append(_Request(f"scratch of {operator.name}", None, size, step, step))
    for index in graph.outputs:
        last[storage[index]] = len(graph.operators)
    tensors = [
        _Request(graph.tensors[index].name, index, graph.tensors[index].size_bytes, first[index], last[index])
        for index in first
    ]
    return tensors + scratch


def _overlay_distances(graph: Graph, requests: list[_Request]) -> dict[tuple[int, int], int]:
    """For each (input, output) pair of requests that may overlay: how many bytes the output starts below the input."""
    storage = _storage(graph)
    position = {request.tensor: i for i, request in enumerate(requests) if request.tensor is not None}
    distances = {}
    for step, operator in enumerate(graph.operators):
        if operator.kind is OpKind.RESHAPE:
            continue
        output = position[operator.outputs[0]]
        for index in set(graph.activations_in(operator)):
            source = position[storage[index]]
            if requests[source].last_step != step:
                continue
            distance = overlay_distance(graph, operator, index)
            if distance is not None and distance < align(requests[output].size_bytes):
                distances[source, output] = distance
    return distances


def overlay_distance(graph: Graph, operator: Operator, source: int) -> int | None:
    """Bytes by which the output must start below the dying input ``source``; None when they must not overlap.

    Before the last byte of output row y is written, every input row above the first one that row y needs is free:
    (y + 1) × output row ≤ distance + first row needed × input row.
    """
    if elementwise(graph, operator):
        return 0
    if not is_windowed(graph, operator):
        return None
    input_row = row_bytes(graph.tensors[source])
    target = graph.output_tensor(operator)
    output_row = row_bytes(target)
    return align(
        max((y + 1) * output_row - first_needed_row(graph, operator, y) * input_row for y in range(rows(target)))
    )


def _bytes_needed(step: int, requests: list[_Request], distances: dict[tuple[int, int], int]) -> int:
    """The fewest bytes in which everything that is alive at ``step`` can coexist."""
    alive = [i for i, request in enumerate(requests) if request.first_step <= step <= request.last_step]
    total = sum(align(requests[i].size_bytes) for i in alive)
    saved = 0
    for (source, output), distance in distances.items():
        if source in alive and output in alive and requests[output].first_step == step:
            sizes = align(requests[source].size_bytes), align(requests[output].size_bytes)
            saved = max(saved, sum(sizes) - max(sizes[1], sizes[0] + distance))
    return total - saved


def _orders(requests: list[_Request], need: list[int]) -> Iterator[list[int]]:
    """Placement orders, the most promising first."""
    everything = range(len(requests))
    peak = [max(need[max(0, r.first_step) : r.last_step + 1]) for r in requests]
    yield sorted(everything, key=lambda i: (-peak[i], -requests[i].size_bytes, i))
    yield sorted(everything, key=lambda i: (-requests[i].size_bytes, i))
    yield sorted(everything, key=lambda i: (-requests[i].last_step, -requests[i].first_step, i))
    yield sorted(everything, key=lambda i: (-peak[i], -requests[i].last_step, i))
    yield sorted(everything, key=lambda i: (requests[i].first_step, -requests[i].size_bytes, i))
    # Scratch memory that was placed early may lie where an input had to be for its output to overlay it.
    is_scratch = [request.tensor is None for request in requests]
    yield sorted(everything, key=lambda i: (is_scratch[i], -requests[i].last_step, -requests[i].first_step, i))
    yield sorted(
        everything, key=lambda i: (is_scratch[i], -peak[i], -requests[i].last_step, -requests[i].first_step, i)
    )


def _first_fit(requests: list[_Request], distances: dict[tuple[int, int], int], order: list[int]) -> list[int]:
    """Place the requests in ``order``, each at the lowest offset that the ones already placed allow."""
    offsets = [-1] * len(requests)
    placed: list[int] = []
    for index in order:
        request = requests[index]
        size = align(request.size_bytes)
        forbidden = []
        for other in placed:
            neighbour = requests[other]
            if neighbour.last_step < request.first_step or request.last_step < neighbour.first_step:
                continue
            low, high = offsets[other] - size, offsets[other] + align(neighbour.size_bytes)
            if (index, other) in distances:  # this one is the input: it may start a distance above the output
                high = min(high, offsets[other] + distances[index, other])
            elif (other, index) in distances:
                low = max(low, offsets[other] - distances[other, index])
            forbidden.append((low, high))
        forbidden.sort()
        offset = 0
        for low, high in forbidden:  # each forbids what lies strictly between its ends
            if offset <= low:
                break
            offset = max(offset, high)
        offsets[index] = offset
        placed.append(index)
    return offsets
