"""Gives every buffer its offset in the arena, so that no byte has two owners at any time.

A buffer's occupied bytes change with time: an output grows row by row as it is written, and an input that nobody needs
later shrinks row by row as it is consumed. So an output may lie on the rows of an input that have been consumed before
it reaches them (known as diagonal memory optimisation: P. Blacker et al., 2020), and a ring buffer that starts late may
lie there too.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from export.schedule import align

_GOOD, _IMPROVEMENTS = 1.005, 300
_FAIR, _MORE_IMPROVEMENTS = 1.05, 1500
"""Of the lower bound, and the trials that it is worth to come that close."""

Bytes = npt.NDArray[np.int64]

_Neighbour = tuple[int, int, int]
"""(other, above, below): this one starts at least ``above`` over the other's start, or ``below`` under it."""


@dataclass(frozen=True, slots=True, eq=False)
class Occupant:
    """A buffer without an offset. Ticks are the planner's finest steps of time; both ends are inclusive."""

    size_bytes: int
    first_tick: int
    last_tick: int
    low: Bytes | None = None
    """Per tick, the first byte that is still needed; None: all of them, always."""
    high: Bytes | None = None
    """Per tick, the end of what has been written; None: all of it, always."""
    freed: tuple[int, Bytes] | None = None
    """(occupant, low): towards the output of an element-wise layer, an element is free once it is read."""

    @property
    def is_fixed(self) -> bool:
        return self.low is None and self.high is None


def bytes_alive(occupants: list[Occupant], ticks: int) -> Bytes:
    """At each tick, the bytes that must coexist. ``ticks`` counts them from tick -1 to the one after the last."""
    steps = np.zeros(ticks + 1, np.int64)
    total = np.zeros(ticks, np.int64)
    for occupant in occupants:
        if occupant.low is None and occupant.high is None:
            steps[occupant.first_tick + 1] += occupant.size_bytes
            steps[occupant.last_tick + 2] -= occupant.size_bytes
        else:
            low, high = _span(occupant, occupant.first_tick, occupant.last_tick, None)
            total[occupant.first_tick + 1 : occupant.last_tick + 2] += high - low
    return np.asarray(total + np.cumsum(steps[:-1]), np.int64)


def place(occupants: list[Occupant], alive: Bytes) -> tuple[list[int], int]:
    """Offsets, and the bytes of the arena. ``alive`` is what `bytes_alive` returned.

    An order of placement is first-fit from the lowest address. Several are tried; then the best one is climbed from: a
    buffer that carries the highest one, directly or through others, changes its place in the order, and what is not
    worse is kept. The search stops close to the lower bound. Deterministic: the choices come from a seeded generator.
    """
    ends = [align(occupant.size_bytes) for occupant in occupants]
    neighbours = _neighbours(occupants)
    lower_bound = int(alive.max())
    good, fair = align(int(_GOOD * lower_bound)), align(int(_FAIR * lower_bound))
    arena, offsets, order = _best_order(occupants, ends, neighbours, alive, good)
    best = arena, offsets
    choice = random.Random(0)
    for trials in range(_MORE_IMPROVEMENTS):
        arena, offsets = best
        if arena <= (good if trials < _IMPROVEMENTS else fair):
            break
        trial = list(order)
        moved = choice.choice(_carriers(ends, neighbours, offsets, arena))
        if choice.random() < 0.5:
            other = choice.randrange(len(trial))
            at = trial.index(moved)
            trial[at], trial[other] = trial[other], trial[at]
        else:
            trial.remove(moved)
            trial.insert(choice.randrange(len(trial) + 1), moved)
        found = _first_fit(ends, neighbours, trial, arena)
        if found is not None:
            best, order = found, trial
    return best[1], best[0]


def first_fit(occupants: list[Occupant], alive: Bytes) -> tuple[list[int], int]:
    """What `place` starts from: the best of a few orders."""
    ends = [align(occupant.size_bytes) for occupant in occupants]
    arena, offsets, _ = _best_order(occupants, ends, _neighbours(occupants), alive, int(alive.max()))
    return offsets, arena


def _best_order(
    occupants: list[Occupant], ends: list[int], neighbours: list[list[_Neighbour]], alive: Bytes, good: int
) -> tuple[int, list[int], list[int]]:
    """(arena, offsets, order) of the best order of placement, or the first whose arena is at most ``good``."""
    best: tuple[int, list[int], list[int]] | None = None
    for order in _orders(occupants, alive):
        found = _first_fit(ends, neighbours, order, None if best is None else best[0] - 1)
        if found is not None:
            best = (*found, order)
            if best[0] <= good:
                break
    assert best is not None
    return best


def _carriers(ends: list[int], neighbours: list[list[_Neighbour]], offsets: list[int], arena: int) -> list[int]:
    """The buffers that end at the arena's end, and all those that they rest on."""
    carriers = [i for i, end in enumerate(ends) if offsets[i] + end == arena]
    for index in carriers:  # grows while it is gone through
        for other, above, _ in neighbours[index]:
            if offsets[index] == offsets[other] + above and other not in carriers:
                carriers.append(other)
    return sorted(carriers)


def _span(occupant: Occupant, first: int, last: int, towards: int | None) -> tuple[Bytes | int, Bytes | int]:
    """(low, high) of an occupant during [first, last]; ``towards`` is the occupant that is asking."""
    part = slice(first - occupant.first_tick, last + 1 - occupant.first_tick)
    low: Bytes | int = 0 if occupant.low is None else occupant.low[part]
    if occupant.freed is not None and (towards is None or occupant.freed[0] == towards):
        low = occupant.freed[1][part]
    return low, occupant.size_bytes if occupant.high is None else occupant.high[part]


def clearance(occupants: list[Occupant], index: int, other: int) -> tuple[int, int] | None:
    """(above, below): ``index`` starts at least ``above`` over the other's start, or ``below`` under it.

    None when they do not live at the same time.
    """
    a, b = occupants[index], occupants[other]
    first, last = max(a.first_tick, b.first_tick), min(a.last_tick, b.last_tick)
    if first > last:
        return None
    if a.is_fixed and b.is_fixed:
        return align(b.size_bytes), align(a.size_bytes)
    low_a, high_a = _span(a, first, last, other)
    low_b, high_b = _span(b, first, last, index)
    return align(int(np.max(high_b - low_a))), align(int(np.max(high_a - low_b)))


def _neighbours(occupants: list[Occupant]) -> list[list[_Neighbour]]:
    """For each occupant, those that live at the same time."""
    neighbours: list[list[_Neighbour]] = [[] for _ in occupants]
    for i in range(len(occupants)):
        for j in range(i):
            between = clearance(occupants, i, j)
            if between is not None:
                above, below = between
                neighbours[i].append((j, above, below))
                neighbours[j].append((i, below, above))
    return neighbours


def _orders(occupants: list[Occupant], alive: Bytes) -> Iterator[list[int]]:
    """Placement orders, the most promising first."""
    everything = range(len(occupants))
    peak = [int(alive[o.first_tick + 1 : o.last_tick + 2].max()) for o in occupants]
    size = [o.size_bytes for o in occupants]
    first = [o.first_tick for o in occupants]
    last = [o.last_tick for o in occupants]
    # What does not move with time, placed early, may lie where an input had to be for its output to overlay it.
    fixed = [o.is_fixed for o in occupants]
    yield sorted(everything, key=lambda i: (-peak[i], -size[i], i))
    yield sorted(everything, key=lambda i: (-last[i], -first[i], i))
    yield sorted(everything, key=lambda i: (fixed[i], -last[i], -first[i], i))
    yield sorted(everything, key=lambda i: (-size[i], i))
    yield sorted(everything, key=lambda i: (-peak[i], -last[i], i))
    yield sorted(everything, key=lambda i: (fixed[i], -peak[i], -last[i], -first[i], i))
    yield sorted(everything, key=lambda i: (-peak[i], fixed[i], -last[i], -size[i], i))
    yield sorted(everything, key=lambda i: (first[i], -size[i], i))


def _first_fit(
    ends: list[int], neighbours: list[list[_Neighbour]], order: list[int], limit: int | None
) -> tuple[int, list[int]] | None:
    """Place in ``order``, each at the lowest offset that the ones already placed allow.

    Returns (arena, offsets), or None as soon as the arena exceeds ``limit``.
    """
    offsets = [-1] * len(ends)
    arena = 0
    for index in order:
        forbidden = []
        for other, above, below in neighbours[index]:
            at = offsets[other]
            if at >= 0 and above + below > 0:
                forbidden.append((at - below, at + above))
        forbidden.sort()
        offset = 0
        for low, high in forbidden:  # each forbids what lies strictly between its ends
            if offset <= low:
                break
            if high > offset:
                offset = high
        offsets[index] = offset
        if offset + ends[index] > arena:
            arena = offset + ends[index]
            if limit is not None and arena > limit:
                return None
    return arena, offsets
