"""The order in which a stream computes its rows, and how many rows its ring buffers must hold.

A stream is driven by demand: its last layer asks for its rows one after another, and whatever a row needs and has not
been computed yet is computed just before. So rows wait as shortly as they can, and nothing is computed twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from export.graph import Graph
from export.schedule import RowAccess, row_access, rows

INPUT_ROW = -1
"""Stands in the schedule for the arrival of the next row of a streamed input."""


_ALL_ROWS = 1 << 30


@dataclass(frozen=True, slots=True)
class Tick:
    """One unit of one layer; or the arrival of an input row, where ``layer`` is INPUT_ROW."""

    layer: int
    unit: int


def stream_ticks(graph: Graph, layers: range, *, stream_input: bool = False) -> list[Tick]:
    """The schedule of the streamable ``layers``; tensors from elsewhere exist whole, save a streamed input."""
    return _Demand(graph, layers, stream_input=stream_input).run()


@dataclass(slots=True)
class _Demand:
    graph: Graph
    layers: range
    stream_input: bool
    _ticks: list[Tick] = field(default_factory=list)
    _done: dict[int, int] = field(default_factory=dict)
    _producer: dict[int, int] = field(default_factory=dict)
    _access: dict[int, RowAccess] = field(default_factory=dict)
    _sources: dict[int, list[int]] = field(default_factory=dict)
    """Of each layer, the producers of its inputs inside of the stream."""

    def run(self) -> list[Tick]:
        graph = self.graph
        if self.stream_input:
            self._done[INPUT_ROW] = 0
            self._producer[graph.inputs[0]] = INPUT_ROW
        for layer in self.layers:
            operator = graph.operators[layer]
            self._done[layer] = 0
            self._access[layer] = row_access(graph, operator)
            self._sources[layer] = [
                self._producer[index] for index in graph.activations_in(operator) if index in self._producer
            ]
            self._producer.update(dict.fromkeys(operator.outputs, layer))
        sinks = self._sinks()
        driver = sinks.pop()
        total = self._access[driver].units
        for unit in range(total):
            self._run_until(driver, unit + 1)
            for sink in sinks:  # what else is read outside keeps pace
                self._run_until(sink, -(-self._access[sink].units * (unit + 1) // total))
        if self.stream_input:  # rows that nobody needs arrive all the same
            self._run_until(INPUT_ROW, rows(graph.tensors[graph.inputs[0]]))
        return self._ticks

    def _sinks(self) -> list[int]:
        """Layers whose output is read outside of the stream or by nobody, in order; the last layer is one of them."""
        graph = self.graph
        read_inside = {index for layer in self.layers for index in graph.operators[layer].inputs}
        read_outside = set(graph.outputs)
        for layer, operator in enumerate(graph.operators):
            if layer not in self.layers:
                read_outside.update(operator.inputs)
        outputs = {layer: graph.operators[layer].outputs[0] for layer in self.layers}
        return [layer for layer, out in outputs.items() if out in read_outside or out not in read_inside]

    def _run_until(self, layer: int, count: int) -> None:
        """Run units of ``layer`` until ``count`` are done, and before each of them what it needs."""
        while self._done[layer] < count:
            unit = self._done[layer]
            if layer != INPUT_ROW:
                row = self._access[layer].last_needed(unit)
                for producer in self._sources[layer]:
                    self._run_until(producer, self._units_for(producer, row))
            self._ticks.append(Tick(layer, unit))
            self._done[layer] = unit + 1

    def _units_for(self, producer: int, row: int) -> int:
        """Units of ``producer`` after which its output has ``row``."""
        if producer != INPUT_ROW and self._access[producer].adds_up:
            return self._access[producer].units
        return row + 1


def ring_rows(graph: Graph, ticks: list[Tick], storage: Mapping[int, int]) -> dict[int, int]:
    """For every storage that the ticks write: the most rows of it that must exist at once while they run.

    A row is needed from the tick that writes it to the end of the last tick that reads it.
    """
    runs = Counter(tick.layer for tick in ticks)
    writes: dict[int, list[int]] = {}
    reads: dict[int, list[int]] = {}
    for layer in runs:
        outputs = graph.inputs[:1] if layer == INPUT_ROW else graph.operators[layer].outputs
        # A layer that works in place writes rows that have been counted already.
        writes[layer] = [index for index in outputs if storage[index] == index]
        reads[layer] = []
        if layer != INPUT_ROW:
            reads[layer] = list(dict.fromkeys(storage[i] for i in graph.activations_in(graph.operators[layer])))
    access = {layer: row_access(graph, graph.operators[layer]) for layer in runs if layer != INPUT_ROW}
    written = {root: 0 for roots in writes.values() for root in roots}
    needed: dict[int, dict[int, int]] = {root: {} for root in written}
    for layer, roots in reads.items():
        for root in roots:
            if root in needed:
                needed[root][layer] = access[layer].first_needed(0)
    most = dict.fromkeys(written, 1)
    for tick in ticks:
        for root in writes[tick.layer]:
            done = tick.unit + 1
            written[root] = done if tick.layer == INPUT_ROW else access[tick.layer].rows_done(done)
            if needed[root]:
                most[root] = max(most[root], written[root] - min(needed[root].values()))
        for root in reads[tick.layer]:
            if root in needed:
                finished = tick.unit + 1 == runs[tick.layer]
                needed[root][tick.layer] = _ALL_ROWS if finished else access[tick.layer].first_needed(tick.unit + 1)
    return most
