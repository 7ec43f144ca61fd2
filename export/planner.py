"""Plans the one static buffer (the arena) that holds every activation, and the order in which it is filled.

A plan is a list of segments, each a run of layers executed as one stream or a single layer that runs whole, a static
schedule, and an offset for every buffer. The cuts between segments come from `export.segments`, the schedule of a
stream from `export.streams`, the offsets from `export.placement`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from devices.profile import InstructionSet
from export.errors import PlanError
from export.graph import Graph
from export.kernels import scratch_bytes
from export.placement import Bytes, Occupant, bytes_alive, place
from export.schedule import (
    elementwise,
    is_reduction,
    is_streamable,
    is_windowed,
    row_access,
    row_bytes,
    rows,
)
from export.segments import Cuts, choose_cuts, layer_by_layer, shared_storage
from export.streams import INPUT_ROW, Tick, ring_rows, stream_ticks

_Side = Literal["left", "right"]
"""Whether a row counts as free only after the tick that reads it, or already in it."""

_COUNTER_BYTES = 2
_INPUT_COUNTERS = 2
"""A streamed input needs to know the next entry of the order, and the input's next row."""


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
    """The schedule: layer indices. Each entry runs one unit of the layer: all of it, or a streamed layer's next row.
    INPUT_ROW stands for the arrival of a streamed input's next row."""
    buffers: tuple[Buffer, ...]
    scratch_at: tuple[int | None, ...]
    """Of each layer, which of the buffers is its scratch memory; the layers of one segment may share it."""
    counters_at: int | None
    """Which of the buffers holds one uint16 for each of `streamed_layers`: the next row that it computes. Those of a
    streamed input follow: its place in the order, and its next row."""
    arena_bytes: int
    lower_bound_bytes: int
    """The most bytes that must coexist at one time: no placement of this schedule can need less."""
    peak_step: int
    """The position in ``order`` at which that is."""
    alive_at_peak: tuple[tuple[str, int], ...]
    """Each buffer that has content then, and the bytes of it that are still or already needed; largest first."""
    alive_bytes: tuple[int, ...]
    """The most bytes that must coexist during each entry of ``order``."""
    storage: tuple[tuple[int, int], ...]
    """For each activation, the tensor whose buffer holds it."""

    def buffer_of(self, tensor: int) -> Buffer:
        """The buffer that holds ``tensor``."""
        root = dict(self.storage)[tensor]
        return next(buffer for buffer in self.buffers if buffer.tensor == root)

    @property
    def scratch(self) -> tuple[Buffer | None, ...]:
        """The scratch memory of each layer."""
        return tuple(None if at is None else self.buffers[at] for at in self.scratch_at)

    @property
    def counters(self) -> Buffer | None:
        """The streamed layers' row counters."""
        return None if self.counters_at is None else self.buffers[self.counters_at]

    @property
    def streamed_layers(self) -> tuple[int, ...]:
        """The layers that run row by row."""
        return tuple(layer for segment in self.segments if segment.streamed for layer in segment.operators)


def plan(
    graph: Graph, instruction_set: InstructionSet = "generic", *, stream_input: bool = False, streams: bool = True
) -> Plan:
    """Cut ``graph`` into segments and assign an offset to every buffer. Deterministic.

    The plan with the best cuts is never larger than the one that runs layer by layer, because both are tried. With
    ``stream_input`` the input arrives row by row while the network runs, and need not exist whole. Raises PlanError
    when its first layer cannot work that way. Without ``streams`` every layer runs whole, for comparison.
    """
    scratch = [scratch_bytes(graph, operator, instruction_set) for operator in graph.operators]
    if stream_input and not is_streamable(graph, graph.operators[0]):
        raise PlanError(
            f"the input of '{graph.name}' cannot be streamed: its first layer '{graph.operators[0].name}' "
            "needs it whole; compile without --stream-input"
        )
    best: Plan | None = None
    choices = [choose_cuts(graph, scratch, stream_input=stream_input)] if streams else []
    for cuts in (*choices, layer_by_layer(graph)):
        planning = _Planning(graph, instruction_set, scratch, cuts, stream_input)
        if best is None or planning.lower_bound_bytes < best.arena_bytes:
            planned = planning.run()
            best = planned if best is None or planned.arena_bytes < best.arena_bytes else best
    assert best is not None
    return best


class _Planning:
    """One plan in the making, for given cuts."""

    def __init__(
        self, graph: Graph, instruction_set: InstructionSet, scratch: list[int], cuts: Cuts, stream_input: bool
    ) -> None:
        self._graph = graph
        self._instruction_set = instruction_set
        self._scratch = scratch
        self._storage = shared_storage(graph, cuts)
        self._segments: list[Segment] = []
        self._order: list[int] = []
        self._ticks: list[Tick] = []
        self._position: list[int] = []
        """Of each tick, its place in the order."""
        self._ring: dict[int, int] = {}
        """Rows of the tensors that are rings."""
        for cut in cuts:
            self._add_segment(cut, stream_input and cut.start == 0)
        by_layer: dict[int, list[int]] = {}
        for index, tick in enumerate(self._ticks):
            by_layer.setdefault(tick.layer, []).append(index)
        self._ticks_of = {layer: np.array(ticks, np.int64) for layer, ticks in by_layer.items()}
        """Of each layer, its ticks."""
        self._roots, self._occupants = self._tensors()
        self._names = [graph.tensors[root].name for root in self._roots]
        self._scratch_at, names, occupants = self._scratch_memory(len(self._occupants))
        self._names += names
        self._occupants += occupants
        end = len(self._ticks)
        streamed = sum(len(segment.operators) for segment in self._segments if segment.streamed)
        self._counters_at = len(self._occupants) if streamed else None
        if streamed:
            self._names.append("row counters")
            counters = streamed + (_INPUT_COUNTERS if stream_input else 0)
            self._occupants.append(Occupant(counters * _COUNTER_BYTES, -1, end))
        self._alive = bytes_alive(self._occupants, end + 2)
        self.lower_bound_bytes = int(self._alive.max())

    def _add_segment(self, cut: range, stream_input: bool) -> None:
        graph = self._graph
        streamed = len(cut) > 1 or stream_input
        self._segments.append(Segment(tuple(cut), streamed))
        if not streamed:
            (layer,) = cut
            self._order.append(layer)
            for unit in range(_ticks_when_whole(graph, layer)):
                self._ticks.append(Tick(layer, unit))
                self._position.append(len(self._order) - 1)
            return
        ticks = stream_ticks(graph, cut, stream_input=stream_input)
        for tick in ticks:
            self._order.append(tick.layer)
            self._ticks.append(tick)
            self._position.append(len(self._order) - 1)
        inside = {index for layer in cut for index in graph.operators[layer].outputs}
        if stream_input:
            inside.add(graph.inputs[0])
        read_outside = set(graph.outputs)
        for layer, operator in enumerate(graph.operators):
            if layer not in cut:
                read_outside.update(operator.inputs)
        whole = {self._storage[index] for index in self._storage if index in read_outside or index not in inside}
        for root, held in ring_rows(graph, ticks, self._storage).items():
            if root not in whole and held < rows(graph.tensors[root]):
                self._ring[root] = held

    def run(self) -> Plan:
        graph, roots, names, occupants = self._graph, self._roots, self._names, self._occupants
        offsets, arena = place(occupants, self._alive)
        buffers = tuple(
            Buffer(
                name,
                roots[i] if i < len(roots) else None,
                occupant.size_bytes,
                self._step(occupant.first_tick),
                self._step(occupant.last_tick),
                offsets[i],
                self._ring.get(roots[i]) if i < len(roots) else None,
            )
            for i, (name, occupant) in enumerate(zip(names, occupants, strict=True))
        )
        alive = self._alive[1:-1]
        peak = int(alive.argmax())
        return Plan(
            graph=graph,
            instruction_set=self._instruction_set,
            segments=tuple(self._segments),
            order=tuple(self._order),
            buffers=buffers,
            scratch_at=tuple(self._scratch_at),
            counters_at=self._counters_at,
            arena_bytes=arena,
            lower_bound_bytes=self.lower_bound_bytes,
            peak_step=self._position[peak],
            alive_at_peak=self._alive_at(peak, names, occupants),
            alive_bytes=tuple(self._alive_per_step(alive)),
            storage=tuple(self._storage.items()),
        )

    def _step(self, tick: int) -> int:
        if tick < 0:
            return -1
        return self._position[tick] if tick < len(self._position) else len(self._order)

    def _alive_per_step(self, alive: Bytes) -> Iterable[int]:
        most = np.zeros(len(self._order), np.int64)
        np.maximum.at(most, np.array(self._position), alive)
        return (int(bytes_) for bytes_ in most)

    @staticmethod
    def _alive_at(tick: int, names: list[str], occupants: list[Occupant]) -> tuple[tuple[str, int], ...]:
        alive = []
        for name, occupant in zip(names, occupants, strict=True):
            if occupant.first_tick <= tick <= occupant.last_tick:
                at = tick - occupant.first_tick
                low = 0 if occupant.low is None else int(occupant.low[at])
                high = occupant.size_bytes if occupant.high is None else int(occupant.high[at])
                alive.append((name, high - low))
        return tuple(sorted(alive, key=lambda pair: -pair[1]))

    def _scratch_memory(self, start: int) -> tuple[list[int | None], list[str], list[Occupant]]:
        """For each layer the index of its scratch memory among all occupants, the first of which is ``start``.

        In a stream the layers take turns with one piece; but the sums of a reduction last from row to row.
        """
        graph = self._graph
        index_of: list[int | None] = [None] * len(graph.operators)
        names: list[str] = []
        occupants: list[Occupant] = []
        for segment in self._segments:
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
        graph, storage = self._graph, self._storage
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
        last = max([last] + [self._last_use(index) for index, at in self._storage.items() if at == root])
        if is_output:
            last = len(self._ticks)
        tensor = graph.tensors[root]
        if root in self._ring:
            return Occupant(self._ring[root] * row_bytes(tensor), first, last)
        time = np.arange(first, last + 1)
        high = low = freed = None
        if written is not None and len(written) > 1:
            high = np.searchsorted(written, time, side="right") * row_bytes(tensor)
        if not is_output and readers:
            low = np.minimum.reduce([self._needed_from(layer, index, time, "left") for layer, index in readers])
            layer, index = max(readers, key=lambda reader: int(self._ticks_of[reader[0]][-1]))
            output = self._storage[graph.operators[layer].outputs[0]]
            if elementwise(graph, graph.operators[layer]) and output not in self._ring and output != root:
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
