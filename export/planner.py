"""Plans the one static buffer (the arena) that holds every activation, and the order in which it is filled.

A plan is a list of segments, each a run of layers executed as one stream or a single layer that runs whole, a static
schedule, and an offset for every buffer. The cuts between segments come from `export.segments`, the schedule of a
stream from `export.streams`, the offsets from `export.placement`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from devices.profile import InstructionSet
from export.chain import Layout, all_steps, inner_offset, lay_out, offsets_of
from export.errors import PlanError
from export.graph import Graph
from export.kernels import scratch_bytes
from export.links import Link, chain, inner_layout, part_of
from export.placement import Bytes, place
from export.schedule import is_streamable
from export.segments import Cuts, choose_cuts, layer_by_layer
from export.timetable import Segment, Timetable


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
    links = None if stream_input else chain(graph, instruction_set)
    if links is not None:
        return _plan_chain(graph, instruction_set, scratch, lay_out(links, streams=streams), links)
    best: Plan | None = None
    choices = [choose_cuts(graph, scratch, stream_input=stream_input)] if streams else []
    for cuts in (*choices, layer_by_layer(graph)):
        timetable = Timetable(graph, scratch, cuts, stream_input=stream_input)
        if best is None or timetable.lower_bound_bytes < best.arena_bytes:
            offsets, arena = place(timetable.occupants, timetable.alive)
            if best is None or arena < best.arena_bytes:
                best = _planned(graph, instruction_set, timetable, offsets, arena)
    assert best is not None
    return best


def _plan_chain(
    graph: Graph, instruction_set: InstructionSet, scratch: list[int], layout: Layout, links: Sequence[Link]
) -> Plan:
    """The plan of a chain whose steps have been laid out."""
    starts = [0, *accumulate(link.layers for link in links)]
    steps = all_steps(links, layout)
    runs = [range(starts[step.start], starts[step.stop]) for step in steps]
    inside: list[Cuts] = [
        (range(len(run)),) if step.cover is None else step.cover.cuts for step, run in zip(steps, runs, strict=True)
    ]
    cuts = tuple(
        range(run.start + cut.start, run.start + cut.stop) for run, own in zip(runs, inside, strict=True) for cut in own
    )
    timetable = Timetable(graph, scratch, cuts)
    place_of = {root: at for at, root in enumerate(timetable.roots)}
    offsets = [0] * len(timetable.occupants)
    base = layout.counter_bytes
    room = layout.arena_bytes - base
    ends = offsets_of(steps, room)
    for at, (run, own) in enumerate(zip(runs, inside, strict=True)):
        part = part_of(graph, run)
        offsets[place_of[timetable.storage[part.inputs[0]]]] = base + ends[at]
        offsets[place_of[timetable.storage[part.outputs[0]]]] = base + ends[at + 1]
        inner = inner_layout(part, scratch[run.start : run.stop], own)
        if not inner.offsets:
            continue
        assert inner.size_bytes == steps[at].inner_bytes
        start = base + inner_offset(steps[at], ends[at], ends[at + 1], room)
        for local, offset in inner.offsets.items():
            if local < len(inner.timetable.roots):
                index = place_of[inner.timetable.roots[local]]
            else:
                found = timetable.scratch_at[run.start + inner.timetable.scratch_at.index(local)]
                assert found is not None
                index = found
            offsets[index] = start + offset
    return _planned(graph, instruction_set, timetable, offsets, layout.arena_bytes)


def _planned(
    graph: Graph, instruction_set: InstructionSet, timetable: Timetable, offsets: Sequence[int], arena: int
) -> Plan:
    roots = timetable.roots
    buffers = tuple(
        Buffer(
            name,
            roots[at] if at < len(roots) else None,
            occupant.size_bytes,
            timetable.step(occupant.first_tick),
            timetable.step(occupant.last_tick),
            offsets[at],
            timetable.ring.get(roots[at]) if at < len(roots) else None,
        )
        for at, (name, occupant) in enumerate(zip(timetable.names, timetable.occupants, strict=True))
    )
    alive = timetable.alive[1:-1]
    peak = int(alive.argmax())
    return Plan(
        graph=graph,
        instruction_set=instruction_set,
        segments=tuple(timetable.segments),
        order=tuple(timetable.order),
        buffers=buffers,
        scratch_at=tuple(timetable.scratch_at),
        counters_at=timetable.counters_at,
        arena_bytes=arena,
        lower_bound_bytes=timetable.lower_bound_bytes,
        peak_step=timetable.position[peak],
        alive_at_peak=_alive_at(timetable, peak),
        alive_bytes=tuple(_alive_per_step(timetable, alive)),
        storage=tuple(timetable.storage.items()),
    )


def _alive_per_step(timetable: Timetable, alive: Bytes) -> Iterable[int]:
    most = np.zeros(len(timetable.order), np.int64)
    np.maximum.at(most, np.array(timetable.position), alive)
    return (int(bytes_) for bytes_ in most)


def _alive_at(timetable: Timetable, tick: int) -> tuple[tuple[str, int], ...]:
    alive = []
    for name, occupant in zip(timetable.names, timetable.occupants, strict=True):
        if occupant.first_tick <= tick <= occupant.last_tick:
            at = tick - occupant.first_tick
            low = 0 if occupant.low is None else int(occupant.low[at])
            high = occupant.size_bytes if occupant.high is None else int(occupant.high[at])
            alive.append((name, high - low))
    return tuple(sorted(alive, key=lambda pair: -pair[1]))
