"""The order in which a stream computes its rows, and how many rows its ring buffers must hold.

A stream is driven by demand: its last layer asks for its rows one after another, and whatever a row needs and has not
been computed yet is computed just before. So rows wait as shortly as they can, and nothing is computed twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from export.graph import Graph
from export.schedule import first_needed_row, is_reduction, last_needed_row, rows, rows_done, units

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

    def run(self) -> list[Tick]:
        graph = self.graph
        for layer in self.layers:
            self._done[layer] = 0
            for tensor in graph.operators[layer].outputs:
                self._producer[tensor] = layer
        if self.stream_input:
            self._done[INPUT_ROW] = 0
            self._producer[graph.inputs[0]] = INPUT_ROW
        sinks = self._sinks()
        driver = sinks.pop()
        total = units(graph, graph.operators[driver])
        for unit in range(total):
            self._run_until(driver, unit + 1)
            for sink in sinks:  # what else is read outside keeps pace
                self._run_until(sink, -(-units(graph, graph.operators[sink]) * (unit + 1) // total))
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
                operator = self.graph.operators[layer]
                for index in self.graph.activations_in(operator):
                    producer = self._producer.get(index)
                    if producer is not None:
                        self._run_until(
                            producer, self._units_for(producer, last_needed_row(self.graph, operator, unit))
                        )
            self._ticks.append(Tick(layer, unit))
            self._done[layer] = unit + 1

    def _units_for(self, producer: int, row: int) -> int:
        """Units of ``producer`` after which its output has ``row``."""
        if producer == INPUT_ROW:
            return row + 1
        operator = self.graph.operators[producer]
        return units(self.graph, operator) if is_reduction(self.graph, operator) else row + 1


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
    written = {root: 0 for roots in writes.values() for root in roots}
    needed: dict[int, dict[int, int]] = {root: {} for root in written}
    for layer, roots in reads.items():
        for root in roots:
            if root in needed:
                needed[root][layer] = first_needed_row(graph, graph.operators[layer], 0)
    most = dict.fromkeys(written, 1)
    for tick in ticks:
        for root in writes[tick.layer]:
            done = tick.unit + 1
            written[root] = done if tick.layer == INPUT_ROW else rows_done(graph, graph.operators[tick.layer], done)
            if needed[root]:
                most[root] = max(most[root], written[root] - min(needed[root].values()))
        for root in reads[tick.layer]:
            if root in needed:
                finished = tick.unit + 1 == runs[tick.layer]
                needed[root][tick.layer] = (
                    _ALL_ROWS if finished else first_needed_row(graph, graph.operators[tick.layer], tick.unit + 1)
                )
    return most
