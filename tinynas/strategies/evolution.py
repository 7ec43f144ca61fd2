"""Evolution: mutation and crossover of the best, for a front (NSGA-II) or for accuracy alone."""

from __future__ import annotations

import math
import random

from tinynas.architecture import Architecture
from tinynas.evaluation import Evaluation
from tinynas.front import crowded_order
from tinynas.objectives import point_of
from tinynas.strategies.problem import Problem
from tinynas.strategies.sampler import Sampler
from tinynas.strategies.variation import cross, mutate

LARGEST_POPULATION = 100
SMALLEST_POPULATION = 8
PARENT_FRACTION = 0.25
MUTATION_PROBABILITY = 0.5
"""The share of the offspring that is mutated from one parent; the others are crossed from two."""
MUTATION_RATE = 0.1
"""The probability of each choice to change in a mutation."""


def default_population(trials: int) -> int:
    """A quarter of the trials, so that three quarters evolve, and from 8 to 100."""
    return min(LARGEST_POPULATION, max(SMALLEST_POPULATION, trials // 4))


class Evolution:
    """A population of random architectures, in which each new evaluation then takes the place of the worst.

    The best ``PARENT_FRACTION`` of the population has the offspring. Better is a lower non-dominated rank over the
    objectives, then a larger crowding distance (NSGA-II, Deb et al., 2002, in its steady-state form: it learns from
    every evaluation rather than once a generation). With ``aging`` the oldest makes place rather than the worst
    (regularized evolution, Real et al., AAAI 2019). The figures are those of Once-for-all's search (Cai et al., ICLR
    2020), except for the population of a study too short for 100.
    """

    def __init__(self, problem: Problem, *, aging: bool = False) -> None:
        self._rng = random.Random(problem.seed)
        self._sampler = Sampler(problem, self._rng)
        self._population_size = default_population(problem.trials)
        self._objectives = problem.objectives
        self._aging = aging
        self._population: list[Evaluation] = []
        """From the oldest to the newest."""
        self._parents: list[Architecture] = []

    def ask(self) -> Architecture:
        """See ``Strategy.ask``."""
        if len(self._population) < self._population_size:
            return self._sampler.find()
        return self._sampler.find(self._offspring)

    def tell(self, evaluation: Evaluation) -> None:
        """See ``Strategy.tell``."""
        self._sampler.mark_seen(evaluation.architecture)
        self._population.append(evaluation)
        if len(self._population) > self._population_size:
            del self._population[0 if self._aging else self._best_first()[-1]]
        parents = self._best_first()[: max(2, math.ceil(PARENT_FRACTION * len(self._population)))]
        self._parents = [self._population[index].architecture for index in parents]

    def _best_first(self) -> list[int]:
        return crowded_order([point_of(each, self._objectives) for each in self._population])

    def _offspring(self) -> Architecture:
        if self._rng.random() < MUTATION_PROBABILITY:
            parent = self._rng.choice(self._parents)
            return mutate(parent, self._sampler.space, self._sampler.input_shape, self._rng, MUTATION_RATE)
        one, other = self._rng.sample(self._parents, 2)
        return cross(one, other, self._sampler.space, self._sampler.input_shape, self._rng)
