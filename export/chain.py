"""Cuts a chain of links into segments, and lays the tensors between them out.

In a stream the rings, the scratch memory and the sums are stacked, the tensor that enters it vanishes row by row, and
the one that leaves it grows. So a stream needs its inner bytes, and the extent of those two when the one is laid as
closely below the other as their rows allow. That is what the cuts are chosen by; and where the tensors between the
segments find places that suit the segments on both sides, the arena is no larger than the neediest segment.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from export.links import Cover, Link
from export.schedule import ALIGNMENT, align
from export.timetable import counter_bytes

_NEVER = 1 << 40
_SLACK = 0.005
"""What the arena is given beyond the need of its segments when their tensors find no places, as a fraction; then twice
as much, until they do."""


Stream = tuple[int, int, int, int, int]
"""(bytes that it needs, where it stops, inner bytes, rows, displacement)."""


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


def streams_from(links: Sequence[Link], start: int) -> Iterator[Stream]:
    """The streams that begin with link ``start``, from two links on, each one link longer than the last."""
    streamed = links[start].streamed
    if streamed is None:
        return
    entering = links[start].entering
    inner, scratch, units = streamed.rings + streamed.scratch, streamed.scratch, streamed.units
    first_step, _, _, kept, height_in, first_height, row_in, _ = streamed.rows
    # With y rows of the last link complete, counting from 1, min(cap, step · (y - 1) + base) of the first link are.
    cap, step, base = first_height, 1, 1
    for stop in range(start + 1, len(links)):
        link = links[stop]
        if link.streamed is None:
            return
        rings, its_scratch, input_ring, its_units, (row_step, row_start, row_cap, _, _, height, _, row_out) = (
            link.streamed
        )
        units += its_units
        inner += rings + input_ring
        if its_scratch > scratch:
            inner += its_scratch - scratch
            scratch = its_scratch
        its_cap = step * (row_cap - 1) + base
        if its_cap < cap:
            cap = its_cap
        base += step * (row_start - 1)
        step *= row_step
        # The most by which the output's written bytes exceed the input's freed ones: when the last row is written, or
        # the last one that the first link has work for, or the first, or where the input begins to be freed.
        freed = height_in if cap == first_height else max(0, first_step * cap - kept)
        most = height * row_out - freed * row_in
        climbing = min(height - 1, -(-(cap - base) // step))
        if climbing > 0:
            rate, freed = first_step * step, first_step * base - kept
            if freed >= 0:
                if row_out - freed * row_in > most:
                    most = row_out - freed * row_in
            else:
                turn = min(-freed // rate, climbing - 1)
                most = max(most, (turn + 1) * row_out)
                if turn + 1 < climbing:
                    most = max(most, (turn + 2) * row_out - (rate * (turn + 1) + freed) * row_in)
            freed += rate * (climbing - 1)
            if freed > 0 and climbing * row_out - freed * row_in > most:
                most = climbing * row_out - freed * row_in
        displacement = -(-most // ALIGNMENT) * ALIGNMENT
        extent = entering + displacement if displacement > 0 else entering
        leaving = link.leaving
        yield inner + (extent if extent > leaving else leaving), stop + 1, inner, units, displacement


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
    entering = links[0].entering
    for need, _, inner, _, _ in streams_from(links, 0):
        if need < floor:
            floor = need
        if inner + entering >= floor:
            break
    hot = len(links)
    while hot and alone[hot - 1] <= floor:
        hot -= 1
    least = [floor] * (len(links) + 1)
    for start in reversed(range(hot)):
        best = alone[start]
        if least[start + 1] > best:
            best = least[start + 1]
        if best > floor:
            entering = links[start].entering
            for need, stop, inner, _, _ in streams_from(links, start):
                if least[stop] > need:
                    need = least[stop]
                if need < best:
                    best = need
                if inner + entering >= best or best <= floor:
                    break
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
        entering = link.entering
        for need, stop, inner, units, displacement in streams_from(links, start):
            if inner + entering > limit or units >= best:
                break
            if need <= limit and stop > next_hot and units + rows[stop] < best:
                best = units + rows[stop]
                step = Step(start, stop, None, entering, links[stop - 1].leaving, inner, displacement, units)
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
    if not least and len(exits) == 1 and most == arena - leaving:  # in haste: a roomy arena
        extent = entering + inner + displacement if displacement > 0 else entering + inner
        if extent + (leaving if leaving > inner else inner) <= arena:
            return [(0, top)]
    # The output above the input and the inner bytes over both, or between them.
    under = arena - leaving - inner
    lowered = most if most <= under else next((min(high, under) for low, high in reversed(exits) if low <= under), -1)
    low_end = max(lowered, most - inner) - entering
    # The output below it and the inner bytes under both, or between them.
    raised = least if least >= inner else next((max(low, inner) for low, high in exits if high >= inner), arena)
    high_start = min(max(raised + displacement, inner), least + leaving + inner)
    if low_end >= -1 and high_start <= low_end + 1 and high_start <= top:
        return [(0, top)]
    found = []
    if low_end >= 0:
        found.append((0, low_end))
    if high_start <= top:
        found.append((high_start, top))
    # The output below and the inner bytes over both; the output above and the inner bytes under both.
    start = least + displacement if least + displacement > 0 else 0
    if least <= under and start <= top - inner:
        found.append((start, top - inner))
    if inner <= most - entering:
        found.append((inner, most - entering))
    if len(found) < 2:
        return found
    found.sort()
    merged = [found[0]]
    for low, high in found[1:]:
        if low > merged[-1][1] + 1:
            merged.append((low, high))
        elif high > merged[-1][1]:
            merged[-1] = merged[-1][0], high
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
