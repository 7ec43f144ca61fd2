"""Pareto fronts over any number of objectives, less of each being better (see ``tinynas.objectives.point_of``)."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence

from tinynas.evaluation import Evaluation
from tinynas.objectives import Point, point_of


def pareto_front(evaluations: Iterable[Evaluation], objectives: Sequence[str]) -> tuple[Evaluation, ...]:
    """The evaluations that no other dominates, the best in the last objective first; equal ones are all kept."""
    evaluations = tuple(evaluations)
    points = [point_of(each, objectives) for each in evaluations]
    order = sorted(front_indices(points), key=lambda index: points[index][::-1])
    return tuple(evaluations[index] for index in order)


def front_indices(points: Sequence[Point]) -> list[int]:
    """The indices of the points that no other dominates, in lexicographic order; equal points are all kept."""
    front: list[int] = []
    for index in _lexicographic(points):
        # What dominates a point comes before it in this order, and what dominates that one does so too.
        if not any(dominates(points[other], points[index]) for other in front):
            front.append(index)
    return front


def dominates(one: Point, other: Point) -> bool:
    """Whether ``one`` is at least as good in every objective and better in one."""
    return one != other and all(map(operator.le, one, other))


def non_dominated_ranks(points: Sequence[Point]) -> list[int]:
    """The rank of each point: 0 on the front, 1 on the front of what is left without it, and so on.

    A point is dominated only by points before it in lexicographic order, and by one of a rank only if by one of every
    lower rank: so the ranks are settled in one pass, each by bisection (Zhang et al., IEEE TEVC 2015).
    """
    ranks = [0] * len(points)
    fronts: list[list[Point]] = []
    for index in _lexicographic(points):
        point = points[index]
        low, high = 0, len(fronts)
        while low < high:
            middle = (low + high) // 2
            others = fronts[middle]
            # Of two objectives, the last of a rank has the least second: it dominates the point if any of them does.
            if any(dominates(other, point) for other in (others[-1:] if len(point) <= 2 else reversed(others))):
                low = middle + 1
            else:
                high = middle
        if low == len(fronts):
            fronts.append([])
        fronts[low].append(point)
        ranks[index] = low
    return ranks


def crowding_distances(points: Sequence[Point]) -> list[float]:
    """How far the neighbours of each point of one front are apart; infinite at its ends.

    The sum over the objectives of the gap between the two neighbours, as a fraction of the front's extent (Deb et al.,
    NSGA-II, 2002).
    """
    distances = [0.0] * len(points)
    for objective in range(len(points[0]) if points else 0):
        order = sorted(range(len(points)), key=lambda index: points[index][objective])
        extent = points[order[-1]][objective] - points[order[0]][objective]
        for end in order[:1] + order[-1:]:
            distances[end] = math.inf
        if extent > 0:
            for before, here, after in zip(order, order[1:], order[2:], strict=False):
                distances[here] += (points[after][objective] - points[before][objective]) / extent
    return distances


def crowded_order(points: Sequence[Point]) -> list[int]:
    """Every index, best first: by rank, and within a rank those with the most room around them first."""
    ranks = non_dominated_ranks(points)
    distances = [0.0] * len(points)
    for rank in set(ranks):
        members = [index for index, its_rank in enumerate(ranks) if its_rank == rank]
        for index, distance in zip(members, crowding_distances([points[index] for index in members]), strict=True):
            distances[index] = distance
    return sorted(range(len(points)), key=lambda index: (ranks[index], -distances[index]))


def hypervolume(points: Iterable[Point], reference: Point) -> float:
    """The volume that ``points`` dominate and that dominates ``reference``, in the product of the objectives' units.

    Exact, by slices along the last objective (Knowles, 2002): for fronts of a few hundred points in two or three
    objectives, and of a few dozen in five.
    """
    return _volume(
        [point for point in points if all(mine < its for mine, its in zip(point, reference, strict=True))], reference
    )


def _volume(points: list[Point], reference: Point) -> float:
    """``hypervolume`` of points that are all inside of ``reference``."""
    if not points:
        return 0.0
    if len(reference) == 1:
        return reference[0] - min(points)[0]
    front = sorted((points[index] for index in front_indices(points)), key=lambda point: point[-1])
    ends = [point[-1] for point in front[1:]] + [reference[-1]]
    return sum(
        (end - point[-1]) * _volume([each[:-1] for each in front[: count + 1]], reference[:-1])
        for count, (point, end) in enumerate(zip(front, ends, strict=True))
        if end > point[-1]
    )


def _lexicographic(points: Sequence[Point]) -> list[int]:
    return sorted(range(len(points)), key=lambda index: points[index])
