"""Pareto fronts over accuracy (more is better) and latency (less is better)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from tinynas.evaluation import Evaluation

Point = tuple[float, float]
"""Accuracy and latency in milliseconds."""


def pareto_front(evaluations: Iterable[Evaluation]) -> tuple[Evaluation, ...]:
    """The evaluations that no other dominates, by ascending latency."""
    evaluations = tuple(evaluations)
    return tuple(evaluations[index] for index in front_indices([point_of(each) for each in evaluations]))


def point_of(evaluation: Evaluation) -> Point:
    """Where an evaluation lies in the plane of the front."""
    return evaluation.accuracy, evaluation.costs.latency_ms


def front_indices(points: Sequence[Point]) -> list[int]:
    """The indices of the points that no other dominates, by ascending latency; equal points are all kept."""
    ranks = non_dominated_ranks(points)
    return [index for index in _by_latency(points) if ranks[index] == 0]


def dominates(one: Point, other: Point) -> bool:
    """Whether ``one`` is at least as good in both objectives and better in one."""
    return one != other and one[0] >= other[0] and one[1] <= other[1]


def non_dominated_ranks(points: Sequence[Point]) -> list[int]:
    """The rank of each point: 0 on the front, 1 on the front of what is left without it, and so on.

    In two dimensions one sweep is enough: by ascending latency, the last point of a rank is its most accurate so far,
    so it dominates the next point if any of that rank does.
    """
    ranks = [0] * len(points)
    last_of_rank: list[Point] = []
    for index in _by_latency(points):
        point = points[index]
        free = (rank for rank, last in enumerate(last_of_rank) if not dominates(last, point))
        rank = next(free, len(last_of_rank))
        last_of_rank[rank : rank + 1] = [point]
        ranks[index] = rank
    return ranks


def crowding_distances(points: Sequence[Point]) -> list[float]:
    """How far the neighbours of each point of one front are apart; infinite at its ends.

    The sum over both objectives of the gap between the two neighbours, as a fraction of the front's extent
    (Deb et al., NSGA-II, 2002).
    """
    distances = [0.0] * len(points)
    for objective in (0, 1):
        order = sorted(range(len(points)), key=lambda index: points[index][objective])
        extent = points[order[-1]][objective] - points[order[0]][objective] if order else 0.0
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
    """The area that ``points`` dominate, down to the accuracy and up to the latency of ``reference``, in ms."""
    inside = [point for point in points if dominates(point, reference)]
    area = 0.0
    best_accuracy = reference[0]
    for index in front_indices(inside):
        accuracy, latency_ms = inside[index]
        area += (accuracy - best_accuracy) * (reference[1] - latency_ms)
        best_accuracy = accuracy
    return area


def _by_latency(points: Sequence[Point]) -> list[int]:
    return sorted(range(len(points)), key=lambda index: (points[index][1], -points[index][0]))
