from __future__ import annotations

import random
from collections.abc import Callable
from itertools import islice, pairwise
from statistics import mean

import numpy as np
import pytest

from tests.tinynas.synthetic import LIMITS, SHAPE, SPACE, accuracy, costs, tiny_space
from tinynas.architecture import Architecture
from tinynas.constraints import Admission, InfeasibleBudgetError, Limits
from tinynas.errors import SearchError
from tinynas.evaluation import Costs, Evaluation
from tinynas.front import hypervolume
from tinynas.objectives import point_of
from tinynas.space import Gene, SearchSpace
from tinynas.strategies import STRATEGIES, make_strategy
from tinynas.strategies.evolution import default_population
from tinynas.strategies.grid import compound_points, grid_points
from tinynas.strategies.problem import Problem
from tinynas.strategies.reinforce import Controller
from tinynas.strategies.sampler import MAX_ATTEMPTS, SpaceExhaustedError
from tinynas.strategies.strategy import Strategy
from tinynas.strategies.variation import cross, mutate, neighbours

SYNTHETIC = tuple(name for name in STRATEGIES if name != "differentiable")
"""Those that need no shared weights."""
every_strategy = pytest.mark.parametrize("name", SYNTHETIC)


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
    differs = evaluate(make(name, seed=3), 50) != evaluate(make(name, seed=4), 50)
    assert differs == (name != "grid")  # which has nothing to draw


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


def area(name: str, seed: int, trials: int) -> float:
    """Under the front, from the limit and an accuracy of 0.3."""
    points = [point_of(each, FRONT) for each in evaluate(make(name, seed, trials), trials)]
    return hypervolume(points, (-0.3, LIMITS["max_latency_ms"]))


def best(name: str, seed: int, trials: int) -> float:
    return max(each.accuracy for each in evaluate(make(name, seed, trials, objectives=("accuracy",)), trials))


@pytest.mark.parametrize("name", ["evolution", "aging-evolution"])
@pytest.mark.parametrize("score", [area, best])
def test_evolution_beats_random_search(name: str, score: Callable[[str, int, int], float]) -> None:
    """With 64 evaluations, for at least nine of ten pairs of seeds: a chance of about 1 % if they were alike."""
    better = sum(score(name, seed, 64) > score("random", 100 + seed, 64) for seed in range(10))
    assert better >= 9


def test_reinforcement_learns_what_is_rewarded() -> None:
    """The second hundred evaluations is on average better than the first, and than random search's."""
    for seed in range(3):
        accuracies = [each.accuracy for each in evaluate(make("reinforce", seed, 200, objectives=("accuracy",)), 200)]
        at_random = [each.accuracy for each in evaluate(make("random", seed, 200), 200)]
        assert mean(accuracies[100:]) > mean(accuracies[:100]) > mean(at_random)


def test_the_controller_of_reinforcement_finds_the_rewarded_pair_of_choices() -> None:
    """A choice that is right only after another one: what no product of independent choices holds."""
    genes = [Gene("a", (0, 1, 2)), Gene("b", (0, 1)), Gene("c", (0,))]
    controller, preference, rng = Controller(genes, 1), np.ones(1), random.Random(0)
    for _ in range(600):
        choices = controller.sample(preference, rng)
        rewarded = choices[1] == choices[0] % 2
        controller.learn(choices, [True] * 3, preference, 1.0 if rewarded else -1.0)
    probabilities = controller.probabilities(preference)
    assert np.allclose(probabilities[0, 0, :3].sum(), 1)
    likely = [probabilities[1, a, a % 2] for a in range(3) if probabilities[0, 0, a] > 0.05]
    assert min(likely) > 0.9
    before = probabilities.copy()
    controller.learn([0, 0, 0], [False] * 3, preference, 1.0)
    assert np.abs(controller.probabilities(preference) - before).max() < 0.2  # momentum alone, nothing counted


@every_strategy
@pytest.mark.parametrize("objectives", [("accuracy",), ("accuracy", "latency", "sram"), ("flash",)])
def test_any_objectives_will_do(name: str, objectives: tuple[str, ...]) -> None:
    limits = Limits.from_mapping(LIMITS)
    evaluations = evaluate(make(name, objectives=objectives), 40)
    assert len({each.architecture for each in evaluations}) == 40
    assert not any(limits.violations(each.costs) for each in evaluations)


def test_the_grid_is_compound_scaling_first_and_even_at_any_budget() -> None:
    genes = SPACE.genes(SHAPE)
    compound = compound_points(genes)
    points = list(islice(grid_points(genes), len(compound) + 400))
    assert sorted(points[: len(compound)]) == sorted(compound)
    for point in compound:
        kinds: dict[str, set[float]] = {}
        for gene, index in zip(genes, point, strict=True):
            kinds.setdefault(gene.name.rpartition(".")[2], set()).add(index / (len(gene.values) - 1))
        assert len(kinds["kernel"]) == 1  # every block has the same
    smallest, largest = (SPACE.encode(SPACE.extreme(SHAPE, largest=large), SHAPE) for large in (False, True))
    assert [index or 0 for index in smallest] == compound[0]
    assert list(largest) == compound[-1]
    for budget in (16, 64, 400):
        rest = points[len(compound) :][:budget]
        for place, gene in enumerate(genes):
            counts = [sum(point[place] == index for point in rest) for index in range(len(gene.values))]
            assert min(counts) >= 0.4 * budget / len(gene.values) - 1, gene.name


def test_the_grid_visits_every_point_once_after_the_compound_scalings() -> None:
    genes = tiny_space().genes(SHAPE)
    compound = len(compound_points(genes))
    points = [tuple(point) for point in grid_points(genes)][compound:]
    assert len(points) == len(set(points)) == 24


@every_strategy
def test_a_thousand_asks_need_no_more_than_a_few_thousand_costs(name: str) -> None:
    """Where half of the space fits; the costs are what takes the time."""
    asked = 0

    def counted(architecture: Architecture) -> Costs:
        nonlocal asked
        asked += 1
        return costs(architecture)

    admission = Admission(Limits.from_mapping(LIMITS), counted)
    strategy = make_strategy(name, Problem(SPACE, SHAPE, admission, FRONT, trials=1000, seed=0))
    for _ in range(1000):
        architecture = strategy.ask()
        strategy.tell(Evaluation(architecture, costs(architecture), accuracy(architecture)))
    assert asked < 10_000


def test_evolution_for_accuracy_finds_more_of_it_than_for_a_front() -> None:
    found = {
        objectives: sum(
            max(each.accuracy for each in evaluate(make("evolution", seed, 150, objectives=objectives), 150))
            for seed in range(5)
        )
        for objectives in (("accuracy",), FRONT)
    }
    assert found["accuracy",] > found[FRONT]


def test_the_population_fits_the_trials() -> None:
    assert [default_population(trials, objectives=1) for trials in (1, 32, 100, 400, 10_000)] == [8, 8, 12, 50, 100]
    assert [default_population(trials, objectives=2) for trials in (1, 64, 400)] == [12, 12, 50]


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
    assert attempts <= 3 * MAX_ATTEMPTS


def test_a_corner_that_no_sample_hits_is_reached_in_single_steps() -> None:
    """The one architecture that fits is neither the smallest nor near it."""
    hidden = SPACE.encode(SPACE.sample(random.Random(9), SHAPE), SHAPE)

    def distance(architecture: Architecture) -> Costs:
        steps = sum(mine != its for mine, its in zip(SPACE.encode(architecture, SHAPE), hidden, strict=True))
        return Costs(1, 1, 1, 1, 1 + steps, 1)

    for name in SYNTHETIC:
        admission = Admission(Limits(max_latency_ms=1), distance)
        strategy = make_strategy(name, Problem(SPACE, SHAPE, admission, FRONT, trials=10, seed=0))
        found = strategy.ask()
        assert SPACE.encode(found, SHAPE) == hidden
        strategy.tell(Evaluation(found, distance(found), 0.5))
        with pytest.raises(SpaceExhaustedError):
            strategy.ask()


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
    rng, genes = random.Random(0), SPACE.genes(SHAPE)
    parents = [SPACE.encode(SPACE.sample(rng, SHAPE), SHAPE) for _ in range(200)]
    changed = []
    for one, other in pairwise(parents):
        mutant, child = mutate(one, genes, rng, 2.0), cross(one, other, genes, rng)
        for genotype in (mutant, child):
            SPACE.check(SPACE.decode(genotype, SHAPE), SHAPE)
        changed.append(sum(mine is not None and mine != its for mine, its in zip(one, mutant, strict=True)))
        for index, mine, its in zip(child, one, other, strict=True):
            assert index in (mine, its) or mine is its is None
        assert SPACE.decode(cross(one, other, genes, rng, share=1.0), SHAPE) == SPACE.decode(one, SHAPE)
        assert SPACE.decode(mutate(one, genes, rng, 1.0), SHAPE) != SPACE.decode(one, SHAPE)
    assert min(changed) == 1
    assert 1.7 < mean(changed) < 2.3


def test_neighbours_differ_in_one_choice() -> None:
    genes = SPACE.genes(SHAPE)
    genotype = SPACE.encode(SPACE.extreme(SHAPE, largest=False), SHAPE)
    found = list(neighbours(genotype, genes))
    active = [gene for gene, index in zip(genes, genotype, strict=True) if index is not None]
    assert len(found) == sum(len(gene.values) - 1 for gene in active)
    for near in found:
        assert sum(mine != (its or 0) for mine, its in zip(near, genotype, strict=True)) == 1
