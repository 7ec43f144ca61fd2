"""When each buffer of a cut graph is in use, and which of its bytes: the schedule's side of memory planning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from export.graph import Graph
from export.placement import Bytes, Occupant, bytes_alive
from export.schedule import (
    elementwise,
    is_reduction,
    is_windowed,
    row_access,
    row_bytes,
    rows,
)
from export.segments import Cuts, shared_storage
from export.streams import INPUT_ROW, Tick, ring_rows, stream_ticks

_Side = Literal["left", "right"]
"""Whether a row counts as free only after the tick that reads it, or already in it."""

_COUNTER_BYTES = 2
_INPUT_COUNTERS = 2
"""A streamed input needs to know the next entry of the order, and the input's next row."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive layers, as indices into ``Graph.operators``: one that runs whole, or a stream, row by row."""

    operators: tuple[int, ...]
    streamed: bool = False


def counter_bytes(streamed_layers: int, *, stream_input: bool = False) -> int:
    """Bytes of the row counters that so many streamed layers need."""
    return (streamed_layers + (_INPUT_COUNTERS if stream_input else 0)) * _COUNTER_BYTES


class Timetable:
    """The schedule of given cuts, and the occupants of the arena over its ticks: tensors, scratch memory, counters."""

    def __init__(self, graph: Graph, scratch: Sequence[int], cuts: Cuts, *, stream_input: bool = False) -> None:
        self._graph = graph
        self._scratch = scratch
        self.storage = shared_storage(graph, cuts)
        self.segments: list[Segment] = []
        self.order: list[int] = []
        self._ticks: list[Tick] = []
        self.position: list[int] = []
        """Of each tick, its place in the order."""
        self.ring: dict[int, int] = {}
        """Rows of the tensors that are rings."""
        for cut in cuts:
            self._add_segment(cut, stream_input and cut.start == 0)
        by_layer: dict[int, list[int]] = {}
        for index, tick in enumerate(self._ticks):
            by_layer.setdefault(tick.layer, []).append(index)
        self._ticks_of = {layer: np.array(ticks, np.int64) for layer, ticks in by_layer.items()}
        """Of each layer, its ticks."""
        self.roots, self.occupants = self._tensors()
        self.names = [graph.tensors[root].name for root in self.roots]
        self.scratch_at, names, occupants = self._scratch_memory(len(self.occupants))
        self.names += names
        self.occupants += occupants
        self.ticks = len(self._ticks)
        streamed = sum(len(segment.operators) for segment in self.segments if segment.streamed)
        self.counters_at = len(self.occupants) if streamed else None
        if streamed:
            self.names.append("row counters")
            self.occupants.append(Occupant(counter_bytes(streamed, stream_input=stream_input), -1, self.ticks))
        self.alive = bytes_alive(self.occupants, self.ticks + 2)
        self.lower_bound_bytes = int(self.alive.max())

    def _add_segment(self, cut: range, stream_input: bool) -> None:
        graph = self._graph
        streamed = len(cut) > 1 or stream_input
        self.segments.append(Segment(tuple(cut), streamed))
        if not streamed:
            (layer,) = cut
            self.order.append(layer)
            for unit in range(_ticks_when_whole(graph, layer)):
                self._ticks.append(Tick(layer, unit))
                self.position.append(len(self.order) - 1)
            return
        ticks = stream_ticks(graph, cut, stream_input=stream_input)
        for tick in ticks:
            self.order.append(tick.layer)
            self._ticks.append(tick)
            self.position.append(len(self.order) - 1)
        inside = {index for layer in cut for index in graph.operators[layer].outputs}
        if stream_input:
            inside.add(graph.inputs[0])
        read_outside = set(graph.outputs)
        for layer, operator in enumerate(graph.operators):
            if layer not in cut:
                read_outside.update(operator.inputs)
        whole = {self.storage[index] for index in self.storage if index in read_outside or index not in inside}
        for root, held in ring_rows(graph, ticks, self.storage).items():
            if root not in whole and held < rows(graph.tensors[root]):
                self.ring[root] = held

    def step(self, tick: int) -> int:
        """The place in the order of a tick: -1 before the first, and after the last the order's length."""
        if tick < 0:
            return -1
        return self.position[tick] if tick < len(self.position) else len(self.order)

    def _scratch_memory(self, start: int) -> tuple[list[int | None], list[str], list[Occupant]]:
        """For each layer the index of its scratch memory among all occupants, the first of which is ``start``.

        In a stream the layers take turns with one piece; but the sums of a reduction last from row to row.
        """
        graph = self._graph
        index_of: list[int | None] = [None] * len(graph.operators)
        names: list[str] = []
        occupants: list[Occupant] = []
        for segment in self.segments:
            shared = [
                layer
                for layer in segment.operators
                if self._scratch[layer] and not is_reduction(graph, graph.operators[layer])
            ]
            own = [[layer] for layer in segment.operators if self._scratch[layer] and layer not in shared]
            for group in ([shared] if shared else []) + own:
                ticks = np.concatenate([self._ticks_of[layer] for layer in group])
                for layer in group:
                    index_of[layer] = start + len(occupants)
                first, last = graph.operators[group[0]].name, graph.operators[group[-1]].name
                names.append(f"scratch of {first}" if first == last else f"scratch of {first} ... {last}")
                occupants.append(
                    Occupant(max(self._scratch[layer] for layer in group), int(ticks.min()), int(ticks.max()))
                )
        return index_of, names, occupants

    def _tensors(self) -> tuple[list[int], list[Occupant]]:
        """The tensors that have a buffer, and their occupants."""
        graph, storage = self._graph, self.storage
        writer: dict[int, tuple[int, int]] = {}
        readers: dict[int, list[tuple[int, int]]] = {}
        for index in graph.inputs:
            readers.setdefault(storage[index], [])
        for layer, operator in enumerate(graph.operators):
            for index in operator.outputs:
                if storage[index] == index:
                    writer[index] = layer, index
                readers.setdefault(storage[index], [])
            if storage[operator.outputs[0]] != storage[operator.inputs[0]] or len(operator.inputs) > 1:
                for index in dict.fromkeys(graph.activations_in(operator)):
                    readers[storage[index]].append((layer, index))
        outputs = {storage[index] for index in graph.outputs}
        roots = list(readers)
        place_of = {root: i for i, root in enumerate(roots)}
        return roots, [
            self._occupant(root, writer.get(root), readers[root], root in outputs, place_of) for root in roots
        ]

    def _occupant(
        self,
        root: int,
        writer: tuple[int, int] | None,
        readers: list[tuple[int, int]],
        is_output: bool,
        place_of: dict[int, int],
    ) -> Occupant:
        graph = self._graph
        written = self._ticks_of.get(INPUT_ROW) if writer is None else self._ticks_of[writer[0]]
        if writer is not None and is_reduction(graph, graph.operators[writer[0]]):
            written = self._ticks_of[writer[0]][-1:]  # it adds up elsewhere before it writes
        first = -1 if written is None else int(written[0])
        last = max([first if written is None else int(written[-1])] + [int(self._ticks_of[r][-1]) for r, _ in readers])
        # What works in place goes on living where its first name was written.
        last = max([last] + [self._last_use(index) for index, at in self.storage.items() if at == root])
        if is_output:
            last = len(self._ticks)
        tensor = graph.tensors[root]
        if root in self.ring:
            return Occupant(self.ring[root] * row_bytes(tensor), first, last)
        time = np.arange(first, last + 1)
        high = low = freed = None
        if written is not None and len(written) > 1:
            high = np.searchsorted(written, time, side="right") * row_bytes(tensor)
        if not is_output and readers:
            low = np.minimum.reduce([self._needed_from(layer, index, time, "left") for layer, index in readers])
            layer, index = max(readers, key=lambda reader: int(self._ticks_of[reader[0]][-1]))
            output = self.storage[graph.operators[layer].outputs[0]]
            if elementwise(graph, graph.operators[layer]) and output not in self.ring and output != root:
                sides: list[_Side] = ["right" if reader == (layer, index) else "left" for reader in readers]
                freed_low = np.minimum.reduce(
                    [self._needed_from(*reader, time, side) for reader, side in zip(readers, sides, strict=True)]
                )
                freed = (place_of[output], freed_low)
        return Occupant(tensor.size_bytes, first, last, low, high, freed)

    def _last_use(self, index: int) -> int:
        ticks = [self._ticks_of[layer][-1] for layer, op in enumerate(self._graph.operators) if index in op.inputs]
        return max((int(tick) for tick in ticks), default=-1)

    def _needed_from(self, layer: int, index: int, time: npt.NDArray[np.int64], side: _Side) -> Bytes:
        """Per tick, the first byte of the tensor that ``layer`` still reads, in that tick or later."""
        operator, tensor = self._graph.operators[layer], self._graph.tensors[index]
        ticks = self._ticks_of[layer]
        access = row_access(self._graph, operator)
        units = np.arange(len(ticks) if len(ticks) > 1 else 1)
        first = np.clip(units * access.stride - access.before, 0, access.height)
        first_row = np.append(first, rows(tensor))
        done = np.searchsorted(ticks, time, side=side)
        return np.asarray(first_row[done] * row_bytes(tensor), np.int64)


def _ticks_when_whole(graph: Graph, layer: int) -> int:
    """A layer whose kernel goes row by row also when it runs whole has a tick for each."""
    operator = graph.operators[layer]
    row_by_row = is_windowed(graph, operator) or elementwise(graph, operator) or is_reduction(graph, operator)
    return row_access(graph, operator).units if row_by_row else 1
