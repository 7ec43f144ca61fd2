from collections.abc import Callable

import pytest

from tests.tinynas import synthetic
from tests.tinynas.synthetic import LIMITS, SHAPE, SPACE
from tinynas.architecture import Architecture
from tinynas.constraints import Admission, Limits
from tinynas.evaluation import Costs, Evaluation
from tinynas.front import hypervolume
from tinynas.objectives import point_of
from tinynas.screening import Screened
from tinynas.strategies import make_strategy
from tinynas.strategies.problem import Problem
from tinynas.strategies.sampler import SpaceExhaustedError
from tinynas.strategies.strategy import Strategy

OBJECTIVES = ("accuracy", "latency")


def problem(seed: int, trials: int) -> Problem:
    admission = Admission(Limits.from_mapping(LIMITS), synthetic.costs)
    return Problem(SPACE, SHAPE, admission, OBJECTIVES, trials=trials, seed=seed)


def run(strategy: Strategy, trials: int, told: Callable[[Evaluation], None] = lambda each: None) -> list[Evaluation]:
    evaluations = []
    for _ in range(trials):
        architecture = strategy.ask()
        evaluations.append(Evaluation(architecture, synthetic.costs(architecture), synthetic.accuracy(architecture)))
        strategy.tell(evaluations[-1])
    return evaluations


def volume(evaluations: list[Evaluation]) -> float:
    return hypervolume([point_of(each, OBJECTIVES) for each in evaluations], (0.0, 1.3))


def test_it_finds_more_than_the_strategy_alone():
    plain, screened = [], []
    for seed in range(4):
        plain.append(volume(run(make_strategy("random", problem(seed, 40)), 40)))
        screened.append(volume(run(Screened(make_strategy("random", problem(seed, 40)), problem(seed, 40)), 40)))
    assert min(screened) > max(plain)


def test_everything_it_asks_for_fits_and_is_new():
    one = problem(0, 30)
    asked = [each.architecture for each in run(Screened(make_strategy("evolution", one), one), 30)]
    assert len(set(asked)) == 30
    assert all(one.admission(architecture) for architecture in asked)


def test_a_replayed_one_goes_on_like_the_first():
    first, again = (Screened(make_strategy("evolution", each), each) for each in (problem(3, 30), problem(3, 30)))
    evaluations = run(first, 25)
    for evaluation in evaluations:
        assert again.ask() == evaluation.architecture
        again.tell(evaluation)
    assert [each.architecture for each in run(first, 5)] == [each.architecture for each in run(again, 5)]


def test_the_reserve_is_used_before_the_space_is_said_to_be_exhausted():
    space = synthetic.tiny_space()

    def costs(architecture: Architecture) -> Costs:
        macs = architecture.resolution**2 * sum(block["k"] for block in architecture.stages[0])
        return Costs(macs, 100, 1, 1, macs / 1000, macs / 1e5)

    one = Problem(space, SHAPE, Admission(Limits(), costs), OBJECTIVES, trials=20, seed=0)

    seen: set[Architecture] = set()
    strategy = Screened(make_strategy("random", one), one)

    def exhaust() -> None:
        while True:
            architecture = strategy.ask()
            assert architecture not in seen
            seen.add(architecture)
            accuracy = 0.5 + architecture.resolution / 100
            strategy.tell(Evaluation(architecture, costs(architecture), accuracy))

    with pytest.raises(SpaceExhaustedError):
        exhaust()
    assert seen == set(space.every(SHAPE))
