from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from tests.tinynas.synthetic import SHAPE, SPACE
from tinynas.evaluation import Costs, Evaluation
from tinynas.front import (
    Point,
    crowded_order,
    crowding_distances,
    dominates,
    front_indices,
    hypervolume,
    non_dominated_ranks,
    pareto_front,
)

# Few values, so that ties and equal points are common.
POINTS = st.lists(st.tuples(st.integers(0, 6).map(lambda n: n / 6), st.integers(0, 6).map(float)), max_size=25)


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


@given(POINTS)
def test_hypervolume_counts_the_unit_squares_that_are_dominated(points: list[Point]) -> None:
    squares = sum(
        any(accuracy * 6 > row + 0.5 and latency <= column for accuracy, latency in points)
        for row in range(6)
        for column in range(6)
    )
    assert math.isclose(hypervolume(points, (0.0, 6.0)), squares / 6, abs_tol=1e-9)


@given(POINTS)
def test_the_order_is_by_rank_and_then_by_room(points: list[Point]) -> None:
    order = crowded_order(points)
    assert sorted(order) == list(range(len(points)))
    ranks = non_dominated_ranks(points)
    assert [ranks[index] for index in order] == sorted(ranks)


def test_crowding() -> None:
    distances = crowding_distances([(0.0, 0.0), (0.5, 1.0), (0.6, 2.0), (1.0, 10.0)])
    assert distances[0] == distances[3] == math.inf
    assert math.isclose(distances[1], 0.6 + 0.2)
    assert math.isclose(distances[2], 0.5 + 0.9)
    assert crowding_distances([]) == []
    assert crowding_distances([(0.5, 1.0)] * 3).count(math.inf) >= 1


def test_the_front_is_sorted_by_latency() -> None:
    architecture = SPACE.extreme(SHAPE, largest=True)
    points = [(0.9, 3.0), (0.5, 1.0), (0.8, 4.0), (0.7, 2.0)]
    evaluations = [Evaluation(architecture, Costs(1, 1, 1, 1, latency, 1), accuracy) for accuracy, latency in points]
    assert [each.accuracy for each in pareto_front(evaluations)] == [0.5, 0.7, 0.9]
    assert pareto_front([]) == ()
