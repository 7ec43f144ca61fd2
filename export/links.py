"""A graph as a chain of links, and what each link needs of memory: facts that do not depend on the rest of the graph.

A link is the shortest run of layers at whose ends a single tensor is alive: one layer, or a residual block. In a stream
that is driven by demand, what happens inside of a link depends on the link alone; so its rings, and the rows by which
it goes through its input, can be worked out once for each kind of link and used for every graph that has it. The search
does so for thousands of candidates a second, with the same functions as the compiler.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import NamedTuple

from devices.profile import InstructionSet
from export.graph import Graph, OpKind
from export.kernels import scratch_bytes
from export.placement import bytes_alive, clearance, first_fit
from export.schedule import (
    RowAccess,
    align,
    elementwise,
    is_reduction,
    is_streamable,
    is_windowed,
    row_access,
    row_bytes,
    rows,
)
from export.segments import Cuts, shared_storage
from export.streams import Tick, stream_ticks
from export.timetable import Timetable

_LONGEST = 8
"""Layers of a link; a longer one, with its many branches, is planned with its whole graph."""


class Cover(NamedTuple):
    """A way to run one link by itself."""

    cuts: Cuts
    """Its segments, the first layer being 0."""
    inner_bytes: int
    """What it needs beside the tensors at its ends."""
    displacement: int
    """The output starts at least so many bytes below the input, or above the input's end. Negative: it may start that
    far inside of it."""
    need_bytes: int
    units: int
    """Rows that it streams."""
    streamed: int
    """Layers that it streams."""


class Rows(NamedTuple):
    """How a link in a stream goes through its input. With y rows of the output complete, counting from y = 1:

    at least min(``cap``, ``step`` · (y − 1) + ``start``) rows of the input have been asked for, and the first of them
    that is still needed is at least ``step`` · y − ``kept``, at least 0; after the last one none is.
    """

    step: int
    start: int
    cap: int
    kept: int
    height_in: int
    height_out: int
    row_in: int
    """Bytes."""
    row_out: int
    """Bytes."""


class Streamed(NamedTuple):
    """What a link adds to a stream."""

    rings: int
    """Bytes of its rings, and of the sums of reductions."""
    scratch: int
    """Bytes that its layers use by turns, with those of the other links of the stream."""
    input_ring: int
    """Bytes of its input when that is a ring too."""
    units: int
    rows: Rows


@dataclass(frozen=True, slots=True, eq=False)
class Link:
    """The facts of one link."""

    graph: Graph
    """Of the link alone."""
    scratch: tuple[int, ...]
    entering: int
    """Bytes of its input, aligned as all of these."""
    leaving: int
    whole: Cover
    """Layer by layer."""
    streamed: Streamed | None
    """None if a layer needs its input whole."""
    alone: Cover
    """The cover that needs least, of those that are whole or streamed from end to end."""
    alone_need: int
    whole_need: int
    roomy_need: int
    """An arena of so many bytes lets its input lie anywhere, if it runs whole and its output may lie anywhere."""
    partly: dict[str, tuple[Cover, ...]] = dataclasses.field(default_factory=dict)
    """Filled by `covers`."""

    @property
    def layers(self) -> int:
        return len(self.graph.operators)

    def covers(self) -> tuple[Cover, ...]:
        """The ways to run it by itself, those that stream the fewest rows first. Worked out when first asked for."""
        if "covers" not in self.partly:
            found = [self.whole, self.alone]
            if self.streamed is not None:
                for first in range(self.layers - 1):
                    for stop in range(first + 2, self.layers + 1):
                        cover = _cover(self.graph, self.scratch, range(first, stop))
                        assert cover is not None
                        found.append(cover)
            found.sort(key=lambda cover: (cover.units, cover.need_bytes))
            self.partly["covers"] = tuple(found)
        return self.partly["covers"]


def chain(graph: Graph, instruction_set: InstructionSet) -> tuple[Link, ...] | None:
    """The links of ``graph``; None if it is no chain of simple ones, so that only its whole can be planned."""
    runs = _runs(graph)
    if runs is None or max(map(len, runs)) > _LONGEST:
        return None
    links = []
    for run in runs:
        link = _link(part_of(graph, run), instruction_set)
        if link is None:
            return None
        links.append(link)
    return tuple(links)


def _runs(graph: Graph) -> list[range] | None:
    """The layers of each link; None unless one tensor enters the graph and one leaves it."""
    if len(graph.inputs) != 1 or len(graph.outputs) != 1 or any(len(op.outputs) != 1 for op in graph.operators):
        return None
    count = len(graph.operators)
    last = {graph.inputs[0]: -1}
    for layer, operator in enumerate(graph.operators):
        last.update(dict.fromkeys(operator.outputs, layer))
        last.update(dict.fromkeys(graph.activations_in(operator), layer))
    last[graph.outputs[0]] = count
    if any(last[operator.outputs[0]] == layer for layer, operator in enumerate(graph.operators)):
        return None  # in a stream, what nobody reads keeps pace with what comes last
    runs, start = [], 0
    alive: set[int] = set(graph.inputs)
    for layer, operator in enumerate(graph.operators):
        alive.update(operator.outputs)
        alive = {index for index in alive if last[index] > layer}
        if layer + 1 == count:
            runs.append(range(start, count))
        elif alive == set(operator.outputs) and not _in_place(graph, layer + 1) and operator.kind is not OpKind.RESHAPE:
            runs.append(range(start, layer + 1))
            start = layer + 1
    return runs if graph.operators[-1].outputs == graph.outputs else None


def _in_place(graph: Graph, layer: int) -> bool:
    """Whether the layer may work in place on what the one before it wrote, and so belongs to it."""
    operator = graph.operators[layer]
    if operator.kind is OpKind.RESHAPE:  # belongs to what comes after it, if there is anything
        return all(later.kind is OpKind.RESHAPE for later in graph.operators[layer:])
    return elementwise(graph, operator) and len(graph.activations_in(operator)) == 1


def part_of(graph: Graph, run: range) -> Graph:
    """The layers of ``run`` with their one input and their one output."""
    operators = graph.operators[run.start : run.stop]
    entering = graph.activations_in(operators[0])[:1]
    return Graph(graph.name, graph.tensors, operators, entering, operators[-1].outputs)


def _link(graph: Graph, instruction_set: InstructionSet) -> Link | None:
    operators = graph.operators
    scratch = tuple(scratch_bytes(graph, operator, instruction_set) for operator in operators)
    is_plain = len(operators) == 1 and is_windowed(graph, operators[0])
    whole = _windowed_cover(graph, scratch) if is_plain else _cover(graph, scratch, None)
    if whole is None:
        return None
    streamed, alone = None, whole
    if all(is_streamable(graph, operator) for operator in operators):
        through = _cover(graph, scratch, range(len(operators))) if len(operators) > 1 else whole
        assert through is not None
        streamed = _streamed(graph, scratch, through.inner_bytes)
        if through.need_bytes < whole.need_bytes:
            alone = through
    entering, leaving = (align(graph.tensors[index].size_bytes) for index in (*graph.inputs, *graph.outputs))
    extent = entering + max(0, whole.displacement) + whole.inner_bytes
    roomy_need = extent + max(leaving, whole.inner_bytes)
    return Link(
        graph, scratch, entering, leaving, whole, streamed, alone, alone.need_bytes, whole.need_bytes, roomy_need
    )


class Inner(NamedTuple):
    """How the occupants beside a part's input and output are laid out, wherever those lie."""

    timetable: Timetable
    """Of the part alone."""
    offsets: dict[int, int]
    """By their place among the timetable's occupants."""
    size_bytes: int


def inner_layout(part: Graph, scratch: Sequence[int], cuts: Cuts) -> Inner:
    """The inner bytes of ``part``, a piece of a chain."""
    timetable = Timetable(part, scratch, cuts)
    ends = {timetable.storage[part.inputs[0]], timetable.storage[part.outputs[0]]}
    inner = [
        at
        for at in range(len(timetable.occupants))
        if at != timetable.counters_at and not (at < len(timetable.roots) and timetable.roots[at] in ends)
    ]
    if len(cuts) == 1:  # a stream: nearly all of it is alive at one time
        sizes = [align(timetable.occupants[at].size_bytes) for at in inner]
        stacked = [0, *accumulate(sizes)]
        return Inner(timetable, dict(zip(inner, stacked, strict=False)), stacked[-1])
    place_of = {at: place for place, at in enumerate(inner)}
    occupants = []
    for at in inner:
        occupant = timetable.occupants[at]
        if occupant.freed is not None:
            target = place_of.get(occupant.freed[0])
            freed = None if target is None else (target, occupant.freed[1])
            occupant = dataclasses.replace(occupant, freed=freed)
        occupants.append(occupant)
    if not occupants:
        return Inner(timetable, {}, 0)
    found, total = first_fit(occupants, bytes_alive(occupants, timetable.ticks + 2))
    return Inner(timetable, dict(zip(inner, found, strict=True)), total)


def _cover(graph: Graph, scratch: Sequence[int], streamed: range | None) -> Cover | None:
    """The link with ``streamed`` layers in one stream, the others whole; None if that suits no chain."""
    cuts: list[range] = []
    for layer in range(len(graph.operators)):
        if streamed is None or layer not in streamed:
            cuts.append(range(layer, layer + 1))
        elif layer == streamed.start:
            cuts.append(streamed)
    timetable, offsets, inner = inner_layout(graph, scratch, tuple(cuts))
    source = timetable.roots.index(timetable.storage[graph.inputs[0]])
    target = timetable.roots.index(timetable.storage[graph.outputs[0]])
    if source == target:
        return None
    given = timetable.occupants[source]
    tensors = [timetable.occupants[at] for at in offsets if at < len(timetable.roots)]
    if streamed is None and any(occupant.last_tick > given.last_tick for occupant in tensors):
        return None  # room on an input that has died would be wasted
    between = clearance(timetable.occupants, source, target)
    displacement = 0 if between is None else between[0]
    entering, leaving = (align(graph.tensors[index].size_bytes) for index in (*graph.inputs, *graph.outputs))
    count = 0 if streamed is None else len(streamed)
    units = len(timetable.order) - (len(graph.operators) - count) if streamed is not None else 0
    return Cover(tuple(cuts), inner, displacement, inner + max(entering + max(0, displacement), leaving), units, count)


def _windowed_cover(graph: Graph, scratch: Sequence[int]) -> Cover:
    """What `_cover` says of a single windowed layer, without its timetable: it is the most frequent link by far."""
    source, target = graph.tensors[graph.inputs[0]], graph.tensors[graph.outputs[0]]
    access, row_in, row_out = row_access(graph, graph.operators[0]), row_bytes(source), row_bytes(target)
    inner = align(scratch[0])
    ahead = [(unit + 1) * row_out - access.first_needed(unit) * row_in for unit in range(access.units)]
    displacement = align(max(ahead))
    extent = max(align(source.size_bytes) + max(0, displacement), align(target.size_bytes))
    return Cover((range(1),), inner, displacement, inner + extent, 0, 0)


def _streamed(graph: Graph, scratch: Sequence[int], inner_bytes: int) -> Streamed:
    """``inner_bytes`` are those of the link when it is a stream by itself."""
    layers = range(len(graph.operators))
    written = shared_storage(graph, (layers,))[graph.outputs[0]]
    takes_turns = [layer for layer in layers if not is_reduction(graph, graph.operators[layer])]
    shared = max((align(scratch[layer]) for layer in takes_turns), default=0)
    walk = _Walk(graph, written)
    ticks = stream_ticks(graph, layers)
    for tick in ticks:
        walk.follow(tick)
    source = graph.tensors[graph.inputs[0]]
    return Streamed(inner_bytes - shared, shared, align(walk.most_held * row_bytes(source)), len(ticks), walk.rows())


class _Walk:
    """Follows a link's ticks, and notes what it asks of its input and what it still needs of it."""

    def __init__(self, graph: Graph, written: int) -> None:
        self._graph = graph
        source = graph.inputs[0]
        self._access: dict[int, RowAccess] = {
            layer: row_access(graph, operator) for layer, operator in enumerate(graph.operators)
        }
        self._readers = [layer for layer, operator in enumerate(graph.operators) if source in operator.inputs]
        self._writer = next(layer for layer, operator in enumerate(graph.operators) if written in operator.outputs)
        self._done = dict.fromkeys(self._access, 0)
        self._height = rows(graph.tensors[source])
        self._asked = 0
        self.most_held = 1
        self._asked_when_written: list[int] = []
        self._needed_when_complete: list[int] = []

    def follow(self, tick: Tick) -> None:
        layer, access = tick.layer, self._access[tick.layer]
        if layer in self._readers:
            self._asked = max(self._asked, access.last_needed(tick.unit) + 1)
            self.most_held = max(self.most_held, self._asked - self._needed())
        self._done[layer] += 1
        row_done = access.rows_done(self._done[layer]) > access.rows_done(self._done[layer] - 1)
        if row_done and layer == self._writer:
            self._asked_when_written.append(self._asked)
        if row_done and layer == len(self._access) - 1:
            self._needed_when_complete.append(self._needed())

    def _needed(self) -> int:
        """The first row of the input that is still needed."""
        return min(
            self._height
            if self._done[layer] == self._access[layer].units
            else self._access[layer].first_needed(self._done[layer])
            for layer in self._readers
        )

    def rows(self) -> Rows:
        """The lines that lie under what was noted."""
        asked, needed = self._asked_when_written, self._needed_when_complete
        cap = asked[-1]
        climbing = [rows for rows in asked if rows < cap]
        steps = Counter(b - a for a, b in pairwise(climbing))
        step = max(1, steps.most_common(1)[0][0]) if steps else -(-self._height // len(asked))
        start = min((rows - step * y for y, rows in enumerate(climbing)), default=cap)
        kept = max((step * (y + 1) - row for y, row in enumerate(needed[:-1])), default=0)
        source, target = (self._graph.tensors[index] for index in (*self._graph.inputs, *self._graph.outputs))
        return Rows(step, start, cap, kept, self._height, len(asked), row_bytes(source), row_bytes(target))
