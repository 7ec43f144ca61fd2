"""Cuts a chain of links into segments, and lays the tensors between them out.

In a stream the rings, the scratch memory and the sums are stacked, the tensor that enters it vanishes row by row, and
the one that leaves it grows. So a stream needs its inner bytes, and the extent of those two when the one is laid as
closely below the other as their rows allow. That is what the cuts are chosen by; and where the tensors between the
segments find places that suit the segments on both sides, the arena is no larger than the neediest segment.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from export.links import Cover, Link
from export.schedule import align
from export.timetable import counter_bytes

_NEVER = 1 << 40
_SLACK = 0.005
"""What the arena is given beyond the need of its segments when their tensors find no places, as a fraction; then twice
as much, until they do."""


class Step(NamedTuple):
    """A part of the plan: links in one stream, or one link by itself."""

    start: int
    stop: int
    """Of the links."""
    cover: Cover | None
    """How the link is run; None for a stream."""
    entering: int
    leaving: int
    inner_bytes: int
    displacement: int
    units: int
    """Rows that it streams."""

    @property
    def need_bytes(self) -> int:
        return self.inner_bytes + max(self.entering + max(0, self.displacement), self.leaving)


class Layout(NamedTuple):
    """How a chain is run, and how large its arena is."""

    steps: list[Step]
    """Those of the links before ``cool``."""
    cool: int
    """From this link on, each runs by itself."""
    exceptions: dict[int, Cover]
    """Of those, the ones that do not run whole."""
    counter_bytes: int
    arena_bytes: int
    """Row counters included."""


def lay_out(links: Sequence[Link], *, streams: bool = True) -> Layout:
    """The best layout of the chain."""
    needs = [link.whole_need for link in links]
    whole = max(needs)
    if streams:
        steps, cool, exceptions, least = _choose(links, needs)
        layers = sum(cover.streamed for cover in exceptions.values())
        for step in steps:
            if step.cover is not None:
                layers += step.cover.streamed
            else:
                layers += sum([link.layers for link in links[step.start : step.stop]])
        counters = align(counter_bytes(layers))
        if counters and counters + least < whole:
            arena = counters + _arena(links, steps, cool, exceptions, least)
            if arena < whole:
                return Layout(steps, cool, exceptions, counters, arena)
    return Layout([], 0, {}, 0, _arena(links, [], 0, {}, whole))


def all_steps(links: Sequence[Link], layout: Layout) -> list[Step]:
    """The steps of all links."""
    return layout.steps + [
        _by_itself(links, at, layout.exceptions.get(at, links[at].whole)) for at in range(layout.cool, len(links))
    ]


def _by_itself(links: Sequence[Link], at: int, cover: Cover) -> Step:
    link = links[at]
    return Step(at, at + 1, cover, link.entering, link.leaving, cover.inner_bytes, cover.displacement, cover.units)


class _Stream:
    """A stream that grows link by link."""

    __slots__ = (
        "_base", "_cap", "_entering", "_leaving", "_links", "_rows", "_scratch", "_start", "_step",
        "displacement", "inner", "need", "stop", "units",
    )  # fmt: skip

    def __init__(self, links: Sequence[Link], start: int) -> None:
        first = links[start]
        self._links = links
        self._start = start
        self.stop = start + 1
        self._entering = first.entering
        self.inner = self.units = self.need = self.displacement = 0
        streamed = first.streamed
        if streamed is None:
            self.inner = _NEVER
            return
        self._rows = streamed.rows
        self._scratch = streamed.scratch
        self.inner = streamed.rings + streamed.scratch
        self.units = streamed.units
        # With y rows of its last link complete, min(cap, step · (y - 1) + base) of its first link are.
        self._cap, self._step, self._base = streamed.rows.height_out, 1, 1

    def grow(self) -> bool:
        """Take the next link in; False if there is none that can be streamed."""
        if self.stop == len(self._links):
            return False
        link = self._links[self.stop]
        streamed = link.streamed
        if streamed is None:
            return False
        rings, scratch, input_ring, units, rows = streamed
        self.stop += 1
        self.units += units
        self.inner += rings + input_ring
        if scratch > self._scratch:
            self.inner += scratch - self._scratch
            self._scratch = scratch
        row_step, row_start, row_cap, _, _, height_out, _, row_out = rows
        step = self._step
        self._cap = min(self._cap, step * (row_cap - 1) + self._base)
        self._base += step * (row_start - 1)
        self._step = step * row_step
        self._leaving = link.leaving
        self.displacement = self._displacement(height_out, row_out)
        extent = self._entering + self.displacement if self.displacement > 0 else self._entering
        self.need = self.inner + (extent if extent > link.leaving else link.leaving)
        return True

    def step(self) -> Step:
        """As part of a plan."""
        ends = self._entering, self._leaving
        return Step(self._start, self.stop, None, *ends, self.inner, self.displacement, self.units)

    def _displacement(self, height: int, row_bytes: int) -> int:
        """Most by which the output's written bytes exceed the input's freed ones, while one of its rows is written."""
        first, cap, step, base = self._rows, self._cap, self._step, self._base
        freed = first.height_in if cap == first.height_out else max(0, first.step * cap - first.kept)
        most = height * row_bytes - freed * first.row_in
        climbing = min(height - 1, -(-(cap - base) // step)) if step else (height - 1 if base < cap else 0)
        if climbing > 0:
            rate, begins = first.step * step, first.kept - first.step * base
            turn = begins // rate if rate else 0
            for y in {0, climbing - 1, min(max(turn, 0), climbing - 1), min(max(turn + 1, 0), climbing - 1)}:
                freed = max(0, rate * y - begins)
                most = max(most, (y + 1) * row_bytes - freed * first.row_in)
        return align(most)


def _choose(links: Sequence[Link], needs: list[int]) -> tuple[list[Step], int, dict[int, Cover], int]:
    """The steps with the least need, and of those the ones that stream the fewest rows; as in `Layout`, and that need.

    What only streams can bring below the limit are the first layers, with their large maps. So the search stops where
    all links that follow keep to it by themselves, and streams that keep none of the others from breaking it are not
    tried. ``needs`` are those of the links when they run whole.
    """
    alone = [link.alone_need for link in links]
    limit = _least_need(links, alone)
    cool = len(links)
    while cool and alone[cool - 1] <= limit:
        cool -= 1
    exceptions = {at: _cheapest(links[at], limit) for at in range(cool, len(links)) if needs[at] > limit}
    steps = _fewest_rows(links, needs, alone, cool, exceptions, limit)
    if steps and steps[-1].stop > cool:
        cool = steps[-1].stop
        exceptions = {at: cover for at, cover in exceptions.items() if at >= cool}
    return steps, cool, exceptions, limit


def _least_need(links: Sequence[Link], alone: list[int]) -> int:
    floor = alone[0]
    """No plan needs less: it starts with the first link alone, or with a stream."""
    stream = _Stream(links, 0)
    entering = links[0].entering
    while stream.inner + entering < floor and stream.grow():
        if stream.need < floor:
            floor = stream.need
    hot = len(links)
    while hot and alone[hot - 1] <= floor:
        hot -= 1
    least = [floor] * (len(links) + 1)
    for start in reversed(range(hot)):
        best = alone[start]
        if least[start + 1] > best:
            best = least[start + 1]
        if best > floor:
            stream = _Stream(links, start)
            entering = links[start].entering
            while stream.inner + entering < best and stream.grow():
                need = stream.need
                if least[stream.stop] > need:
                    need = least[stream.stop]
                if need < best:
                    best = need
            least[start] = best if best > floor else floor
    return least[0]


def _fewest_rows(
    links: Sequence[Link],
    needs: list[int],
    alone: list[int],
    cool: int,
    exceptions: dict[int, Cover],
    limit: int,
) -> list[Step]:
    """Steps from the first link on to ``cool``, or somewhat farther."""
    rows = [0] * (len(links) + 1)
    for at in reversed(range(cool, len(links)) if exceptions else ()):
        rows[at] = rows[at + 1] + (exceptions[at].units if at in exceptions else 0)
    chosen: list[Step | None] = [None] * cool
    next_hot = cool
    """The next link that does not keep to the limit by itself."""
    for start in reversed(range(cool)):
        link = links[start]
        if alone[start] <= limit:
            cover = link.whole if needs[start] <= limit else _cheapest(link, limit)
            best, step = rows[start + 1] + cover.units, _by_itself(links, start, cover)
        else:
            best, next_hot, step = _NEVER, start, None
        stream = _Stream(links, start)
        room = limit - link.entering
        while stream.inner <= room and stream.units < best and stream.grow():
            if next_hot < stream.stop and stream.need <= limit and stream.units + rows[stream.stop] < best:
                best = stream.units + rows[stream.stop]
                step = stream.step()
        rows[start], chosen[start] = best, step
    steps, at = [], 0
    while at < cool:
        step = chosen[at]
        assert step is not None
        steps.append(step)
        at = step.stop
    return steps


def _cheapest(link: Link, limit: int) -> Cover:
    return next(cover for cover in link.covers() if cover.need_bytes <= limit)


def _arena(links: Sequence[Link], steps: list[Step], cool: int, exceptions: dict[int, Cover], least: int) -> int:
    """The least of the arenas tried for which the tensors between all steps find places."""
    slack = 0.0
    while True:
        arena = align(int(least * (1 + slack)))
        if _first_offsets(links, steps, cool, exceptions, arena):
            return arena
        slack = max(_SLACK, 2 * slack)


_Intervals = list[tuple[int, int]]
"""Offsets, as ranges whose ends are inclusive."""


def _first_offsets(
    links: Sequence[Link], steps: list[Step], cool: int, exceptions: dict[int, Cover], arena: int
) -> _Intervals:
    """Offsets of the chain's input for which all that follows finds places."""
    at = len(links)
    while at > cool and links[at - 1].roomy_need <= arena and at - 1 not in exceptions:
        at -= 1
    possible = [(0, arena - (links[at].entering if at < len(links) else links[-1].leaving))]
    while at > cool and possible:
        at -= 1
        possible = _entries(_by_itself(links, at, exceptions.get(at, links[at].whole)), possible, arena)
    for step in reversed(steps):
        if not possible:
            break
        possible = _entries(step, possible, arena)
    return possible


def offsets_of(steps: Sequence[Step], arena: int) -> list[int]:
    """Offsets of the tensors between the steps, the first of what enters the first, in an arena that has room for them.

    Backward, step by step: the offsets of its input for which its output has one that suits the rest. Only the ends of
    those ranges matter to the step before. Then forward, from the lowest of the first.
    """
    possible: list[_Intervals] = [[(0, arena - steps[-1].leaving)]]
    for step in reversed(steps):
        possible.append(_entries(step, possible[-1], arena))
    possible.reverse()
    offset = possible[0][0][0]
    offsets = [offset]
    for step, exits in zip(steps, possible[1:], strict=True):
        offset = _exit(step, offset, exits, arena)
        offsets.append(offset)
    return offsets


def _entries(step: Step, exits: _Intervals, arena: int) -> _Intervals:
    """Offsets of the input for which the output has one in ``exits``, both leaving room for the inner bytes."""
    _, _, _, entering, leaving, inner, displacement, _ = step
    top = arena - entering
    least, most = exits[0][0], exits[-1][1]
    found = []
    # The output below: the inner bytes under both, over both, or between them.
    if inner:
        raised = next((max(low, inner) for low, high in exits if high >= inner), None)
        if raised is not None and raised + displacement <= top:
            found.append((max(raised + displacement, inner), top))
        if least <= arena - leaving - inner and least + displacement <= top - inner and inner <= top:
            found.append((max(least + displacement, 0), top - inner))
        if least + leaving + inner <= top:
            found.append((least + leaving + inner, top))
        # The output above.
        if inner <= most - entering:
            found.append((inner, most - entering))
        under = arena - leaving - inner
        lowered = next((min(high, under) for low, high in reversed(exits) if low <= under), -1)
        if lowered >= entering:
            found.append((0, lowered - entering))
        if most >= entering + inner:
            found.append((0, most - entering - inner))
    else:
        if least + displacement <= top:
            found.append((max(least + displacement, 0), top))
        if most >= entering:
            found.append((0, most - entering))
    if len(found) < 2:
        return found
    found.sort()
    merged = [found[0]]
    for low, high in found[1:]:
        if low <= merged[-1][1] + 1:
            if high > merged[-1][1]:
                merged[-1] = merged[-1][0], high
        else:
            merged.append((low, high))
    return merged


def _exit(step: Step, offset: int, exits: _Intervals, arena: int) -> int:
    """An offset of the output that suits the input at ``offset``."""
    wanted = [low for low, _ in exits] + [high for _, high in exits]
    wanted += [step.inner_bytes, arena - step.leaving - step.inner_bytes]
    return next(
        target
        for target in wanted
        if any(low <= target <= high for low, high in exits)
        and (target <= offset - step.displacement or target >= offset + step.entering)
        and _room(step, offset, target, arena) is not None
    )


def _room(step: Step, offset: int, target: int, arena: int) -> int | None:
    """Where the inner bytes fit, beside input and output."""
    if step.inner_bytes <= min(offset, target):
        return 0
    if step.inner_bytes <= arena - max(offset + step.entering, target + step.leaving):
        return arena - step.inner_bytes
    first = offset + step.entering if offset < target else target + step.leaving
    return first if first + step.inner_bytes <= max(offset, target) else None


def inner_offset(step: Step, offset: int, target: int, arena: int) -> int:
    """Where the inner bytes of a step begin whose input is at ``offset`` and whose output is at ``target``."""
    found = _room(step, offset, target, arena)
    assert found is not None
    return found
