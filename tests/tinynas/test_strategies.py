from __future__ import annotations

import random
from itertools import pairwise

import pytest

from tests.tinynas.synthetic import LIMITS, SHAPE, SPACE, accuracy, costs, tiny_space
from tinynas.constraints import Admission, InfeasibleBudgetError, Limits
from tinynas.errors import SearchError
from tinynas.evaluation import Costs, Evaluation
from tinynas.front import hypervolume
from tinynas.objectives import point_of
from tinynas.space import SearchSpace
from tinynas.strategies import STRATEGIES, make_strategy
from tinynas.strategies.evolution import default_population
from tinynas.strategies.problem import Problem
from tinynas.strategies.sampler import MAX_ATTEMPTS, SpaceExhaustedError
from tinynas.strategies.strategy import Strategy
from tinynas.strategies.variation import cross, mutate

every_strategy = pytest.mark.parametrize("name", STRATEGIES)


FRONT = ("accuracy", "latency")


def make(
    name: str,
    seed: int = 0,
    trials: int = 60,
    limits: Limits | None = None,
    objectives: tuple[str, ...] = FRONT,
) -> Strategy:
    admission = Admission(limits or Limits.from_mapping(LIMITS), costs)
    return make_strategy(name, Problem(SPACE, SHAPE, admission, objectives, trials=trials, seed=seed))


def evaluate(strategy: Strategy, trials: int) -> list[Evaluation]:
    evaluations = []
    for _ in range(trials):
        architecture = strategy.ask()
        evaluations.append(Evaluation(architecture, costs(architecture), accuracy(architecture)))
        strategy.tell(evaluations[-1])
    return evaluations


@every_strategy
def test_everything_asked_is_in_the_space_fits_and_is_new(name: str) -> None:
    limits = Limits.from_mapping(LIMITS)
    evaluations = evaluate(make(name), 150)
    assert len({each.architecture for each in evaluations}) == 150
    for each in evaluations:
        SPACE.check(each.architecture, SHAPE)
        assert not limits.violations(each.costs)


@every_strategy
def test_the_seed_decides(name: str) -> None:
    assert evaluate(make(name, seed=3), 50) == evaluate(make(name, seed=3), 50)
    assert evaluate(make(name, seed=3), 50) != evaluate(make(name, seed=4), 50)


@every_strategy
def test_a_fresh_strategy_that_is_told_the_same_continues_the_same(name: str) -> None:
    whole = evaluate(make(name), 60)
    for done in (1, 17, 40):
        resumed = make(name)
        for evaluation in whole[:done]:
            assert resumed.ask() == evaluation.architecture
            resumed.tell(evaluation)
        assert evaluate(resumed, 60 - done) == whole[done:]


@every_strategy
def test_what_was_told_unasked_is_never_asked(name: str) -> None:
    told = evaluate(make(name, seed=5), 30)
    strategy = make(name, seed=5)
    for evaluation in told:
        strategy.tell(evaluation)
    assert not {each.architecture for each in told} & {each.architecture for each in evaluate(strategy, 30)}


def test_evolution_beats_random_search() -> None:
    """At 300 evaluations each, for every one of ten seeds, by the area under the front."""

    def area(name: str, seed: int) -> float:
        points = [point_of(each, FRONT) for each in evaluate(make(name, seed, trials=300), 300)]
        return hypervolume(points, (-0.3, LIMITS["max_latency_ms"]))

    for seed in range(10):
        assert area("evolution", seed) > area("random", seed)


def test_evolution_for_accuracy_finds_more_of_it_than_for_a_front() -> None:
    best = {
        objectives: sum(
            max(each.accuracy for each in evaluate(make("evolution", seed, 150, objectives=objectives), 150))
            for seed in range(5)
        )
        for objectives in (("accuracy",), FRONT)
    }
    assert best["accuracy",] > best[FRONT]


def test_the_population_fits_the_trials() -> None:
    assert [default_population(trials) for trials in (1, 32, 100, 400, 10_000)] == [8, 8, 25, 100, 100]


@every_strategy
def test_an_infeasible_budget_names_the_closest_and_what_fails(name: str) -> None:
    with pytest.raises(InfeasibleBudgetError) as caught:
        make(name, limits=Limits(max_sram_bytes=100)).ask()
    smallest = SPACE.extreme(SHAPE, largest=False)
    closest = caught.value.closest
    assert costs(closest.architecture).sram_bytes <= costs(smallest).sram_bytes
    (violation,) = closest.violations
    assert str(violation) in str(caught.value)
    assert str(closest.architecture) in str(caught.value)
    assert "raise max_sram_bytes" in str(caught.value)


def test_an_infeasible_budget_ends_after_a_known_number_of_attempts() -> None:
    attempts = 0

    def too_large(architecture: object) -> Costs:
        nonlocal attempts
        attempts += 1
        return Costs(1, 1, 2, 1, 1, 1)

    admission = Admission(Limits(max_sram_bytes=1), too_large)
    with pytest.raises(InfeasibleBudgetError):
        make_strategy("random", Problem(SPACE, SHAPE, admission, FRONT, trials=10, seed=0)).ask()
    assert attempts <= 2 * MAX_ATTEMPTS + 1


@every_strategy
def test_a_budget_that_only_a_corner_of_the_space_fits_is_searched(name: str) -> None:
    smallest = costs(SPACE.extreme(SHAPE, largest=False))
    limits = Limits(max_sram_bytes=smallest.sram_bytes, max_latency_ms=1.3 * smallest.latency_ms)
    evaluations = evaluate(make(name, limits=limits), 5)
    assert not any(limits.violations(each.costs) for each in evaluations)


def test_a_tight_budget_does_not_cost_thousands_of_attempts_for_every_architecture() -> None:
    smallest = costs(SPACE.extreme(SHAPE, largest=False))
    admission = Admission(Limits(max_latency_ms=1.3 * smallest.latency_ms), costs)
    strategy = make_strategy("random", Problem(SPACE, SHAPE, admission, FRONT, trials=10, seed=0))
    for _ in range(10):
        strategy.ask()
    assert admission.rejections.count < 2 * MAX_ATTEMPTS


@every_strategy
def test_a_small_space_is_searched_whole_and_then_ends(name: str) -> None:
    space: SearchSpace = tiny_space()
    admission = Admission(Limits(max_latency_ms=1.0), lambda architecture: Costs(1, 1, 1, 1, architecture.width, 1))
    strategy = make_strategy(name, Problem(space, SHAPE, admission, FRONT, trials=100, seed=1))
    found = set()
    for _ in range(24):
        architecture = strategy.ask()
        found.add(architecture)
        strategy.tell(Evaluation(architecture, admission.costs(architecture), 0.5))
    assert len(found) == space.size(SHAPE) == 24
    for _ in range(2):
        with pytest.raises(SpaceExhaustedError, match="24 were found"):
            strategy.ask()


def test_an_unknown_strategy_is_an_error_with_the_known() -> None:
    with pytest.raises(SearchError, match="there is no strategy 'annealing'; choose from evolution"):
        make("annealing")


def test_variation_stays_in_the_space_and_moves_as_far_as_asked() -> None:
    rng = random.Random(0)
    parents = [SPACE.sample(rng, SHAPE) for _ in range(200)]
    for one, other in pairwise(parents):
        SPACE.check(mutate(one, SPACE, SHAPE, rng, 0.5), SHAPE)
        child = cross(one, other, SPACE, SHAPE, rng)
        SPACE.check(child, SHAPE)
        assert child.resolution in (one.resolution, other.resolution)
        for stage, first, second in zip(child.stages, one.stages, other.stages, strict=True):
            assert len(stage) in (len(first), len(second))
            for index, block in enumerate(stage):
                parents_blocks = (*first[index : index + 1], *second[index : index + 1])
                for letter in "ke":
                    assert block[letter] in [parent[letter] for parent in parents_blocks]
        assert mutate(one, SPACE, SHAPE, rng, 0) == cross(one, other, SPACE, SHAPE, rng, share=1.0) == one
