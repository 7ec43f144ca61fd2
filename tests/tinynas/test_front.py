from __future__ import annotations

import itertools
import math
import random

from hypothesis import given
from hypothesis import strategies as st

from tests.tinynas.synthetic import SHAPE, SPACE
from tinynas.evaluation import Costs, Evaluation
from tinynas.front import (
    crowded_order,
    crowding_distances,
    dominates,
    front_indices,
    hypervolume,
    non_dominated_ranks,
    pareto_front,
)
from tinynas.objectives import Point


def points_of(objectives: int, count: int) -> st.SearchStrategy[list[Point]]:
    """Few values, so that ties and equal points are common."""
    coordinate = st.integers(0, 6).map(float)
    return st.lists(st.tuples(*[coordinate] * objectives), max_size=count)


POINTS = st.integers(1, 4).flatmap(lambda objectives: points_of(objectives, 25))


@given(POINTS)
def test_ranks_are_those_of_the_definition(points: list[Point]) -> None:
    ranks = [-1] * len(points)
    rank = 0
    while -1 in ranks:
        left = [index for index in range(len(points)) if ranks[index] == -1]
        for index in left:
            if not any(dominates(points[other], points[index]) for other in left):
                ranks[index] = rank
        # A front is settled before the next begins: what was just ranked no longer dominates.
        rank += 1
    assert non_dominated_ranks(points) == ranks
    assert sorted(front_indices(points)) == [index for index in range(len(points)) if ranks[index] == 0]


def test_domination() -> None:
    assert dominates((1.0, 2.0, 3.0), (1.0, 2.0, 4.0))
    assert not dominates((1.0, 2.0, 3.0), (1.0, 2.0, 3.0))
    assert not dominates((1.0, 2.0, 5.0), (1.0, 3.0, 4.0))
    assert dominates((0.0,), (1.0,))


@given(POINTS)
def test_hypervolume_counts_the_unit_cubes_that_are_dominated(points: list[Point]) -> None:
    objectives = len(points[0]) if points else 2
    reference = (5.0,) * objectives  # less than the largest coordinate, so that some points lie outside
    cubes = sum(
        any(all(mine <= its for mine, its in zip(point, corner, strict=True)) for point in points)
        for corner in itertools.product(range(5), repeat=objectives)
    )
    assert math.isclose(hypervolume(points, reference), cubes, abs_tol=1e-9)


@given(st.integers(2, 5).flatmap(lambda objectives: points_of(objectives, 7)), st.randoms(use_true_random=False))
def test_hypervolume_is_that_of_inclusion_and_exclusion(points: list[Point], rng: random.Random) -> None:
    """Of boxes with sides of any length: the sum over the subsets of the volumes that their members share."""
    points = [tuple(value + rng.random() for value in point) for point in points]
    objectives = len(points[0]) if points else 2
    reference = tuple(3 + 4 * rng.random() for _ in range(objectives))
    expected = 0.0
    for size in range(1, len(points) + 1):
        for subset in itertools.combinations(points, size):
            corner = map(max, zip(*subset, strict=True))
            shared = math.prod(max(0.0, end - start) for start, end in zip(corner, reference, strict=True))
            expected -= (-1) ** size * shared
    assert math.isclose(hypervolume(points, reference), expected, rel_tol=1e-9, abs_tol=1e-9)


def test_hypervolume_of_accuracy_and_latency() -> None:
    points = [(-0.5, 1.0), (-0.7, 2.0), (-0.6, 3.0), (-0.9, 9.0)]
    assert math.isclose(hypervolume(points, (-0.4, 4.0)), 0.1 * 3 + 0.2 * 2)
    assert hypervolume([], (0.0, 1.0)) == 0


@given(POINTS)
def test_the_order_is_by_rank_and_then_by_room(points: list[Point]) -> None:
    order = crowded_order(points)
    assert sorted(order) == list(range(len(points)))
    ranks = non_dominated_ranks(points)
    assert [ranks[index] for index in order] == sorted(ranks)


def test_crowding() -> None:
    distances = crowding_distances([(0.0, 10.0), (0.5, 8.0), (0.6, 4.0), (1.0, 0.0)])
    assert distances[0] == distances[3] == math.inf
    assert math.isclose(distances[1], 0.6 + 0.6)
    assert math.isclose(distances[2], 0.5 + 0.8)
    assert crowding_distances([]) == []
    assert crowding_distances([(0.5, 1.0)] * 3).count(math.inf) >= 1


def test_the_front_is_sorted_by_its_last_objective() -> None:
    architecture = SPACE.extreme(SHAPE, largest=True)
    points = [(0.9, 3.0), (0.5, 1.0), (0.8, 4.0), (0.7, 2.0)]
    evaluations = [Evaluation(architecture, Costs(1, 1, 1, 1, latency, 1), accuracy) for accuracy, latency in points]
    assert [each.accuracy for each in pareto_front(evaluations, ("accuracy", "latency"))] == [0.5, 0.7, 0.9]
    assert [each.accuracy for each in pareto_front(evaluations, ("latency", "accuracy"))] == [0.9, 0.7, 0.5]
    assert [each.accuracy for each in pareto_front(evaluations, ("accuracy",))] == [0.9]
    assert pareto_front([], ("accuracy",)) == ()
