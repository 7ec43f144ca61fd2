"""Evolution: mutation and crossover of the best, for any number of objectives (NSGA-II)."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

from tinynas.architecture import Architecture
from tinynas.evaluation import Evaluation
from tinynas.front import crowded_order
from tinynas.objectives import Point, point_of
from tinynas.strategies.problem import Problem
from tinynas.strategies.sampler import Sampler
from tinynas.strategies.variation import Genotype, cross, mutate

LARGEST_POPULATION = 100
SMALLEST_POPULATION = 8
SMALLEST_FOR_A_FRONT = 12
"""A front has to be held in full by a population."""
TOURNAMENT = 3
"""How many of the population compete to become a parent."""
CROSSOVER_PROBABILITY = 0.5
"""The share of the offspring that is crossed from two parents; the others are mutated from one."""
CHANGES = 1.5
"""How many choices a mutation changes, on average."""
FIRST_CHOICE = 8
"""Of how many samples that fit each member of the first population is chosen, by what they cost."""
OFFSPRING_CHOICE = 2
"""Of how many offspring that fit each one to evaluate is chosen, likewise."""
MAX_PROPOSALS = 200
"""How many proposals are made at most to have that choice; after so many without one that is new and fits, the next
architecture is a sample."""


def default_population(trials: int, objectives: int) -> int:
    """An eighth of the trials, so that most evolve; from 8, or for a front from 12, to 100."""
    smallest = SMALLEST_POPULATION if objectives == 1 else SMALLEST_FOR_A_FRONT
    return min(LARGEST_POPULATION, max(smallest, trials // 8))


@dataclass(frozen=True, slots=True)
class _Member:
    """One of the population."""

    genotype: Genotype
    point: Point
    """In the space of the objectives."""
    place: Point
    """In that of the costs among them."""


class Evolution:
    """A population of samples, in which each new evaluation then takes the place of the worst.

    Better is a lower non-dominated rank over the objectives, then a larger crowding distance (NSGA-II, Deb et al.,
    IEEE TEVC 2002, in its steady-state form: it learns from every evaluation rather than once a generation); parents
    win a tournament. With ``aging`` the oldest makes place rather than the worst (regularized evolution, Real et al.,
    AAAI 2019).

    Costs are known before anything is evaluated, and so they choose among several proposals that fit. For a front that
    is the one whose costs are farthest from the population's, after the space's smallest architecture, which is one end
    of the front. For accuracy alone it is the one with the most multiply-accumulates: among the networks that fit,
    those that compute more tend to be more accurate (TinyNAS, Lin et al., NeurIPS 2020).
    """

    def __init__(self, problem: Problem, *, aging: bool = False) -> None:
        self._problem = problem
        self._rng = random.Random(problem.seed)
        self._sampler = Sampler(problem, self._rng)
        self._population_size = default_population(problem.trials, len(problem.objectives))
        self._cost_objectives = tuple(name for name in problem.objectives if name != "accuracy")
        self._aging = aging
        self._population: list[_Member] = []
        """From the oldest to the newest."""
        self._parents: list[Genotype] = []
        """The population, best first."""

    def ask(self) -> Architecture:
        """See ``Strategy.ask``."""
        if not self._population and self._cost_objectives:
            return self._sampler.find(iter([self._sampler.smallest]))
        if len(self._population) < self._population_size:
            return self._sampler.find(self._chosen(self._sampler.sample, FIRST_CHOICE))
        return self._sampler.find(self._chosen(self._offspring, OFFSPRING_CHOICE))

    def tell(self, evaluation: Evaluation) -> None:
        """See ``Strategy.tell``."""
        self._sampler.mark_seen(evaluation.architecture)
        genotype = self._sampler.encode(evaluation.architecture)
        point = point_of(evaluation, self._problem.objectives)
        self._population.append(_Member(genotype, point, self._place(evaluation)))
        if self._aging and len(self._population) > self._population_size:
            del self._population[0]
        order = crowded_order([member.point for member in self._population])[: self._population_size]
        self._parents = [self._population[index].genotype for index in order]
        self._population = [self._population[index] for index in sorted(order)]

    def _chosen(self, propose: Callable[[], Architecture], among: int) -> Iterator[Architecture]:
        """The one to evaluate of ``among`` proposals that are new and fit, or of those that there are; once."""
        proposals = (propose() for _ in range(MAX_PROPOSALS))
        fitting = list(islice(filter(self._sampler.is_new_and_fits, proposals), among))
        if fitting:
            yield self._most_promising(fitting)

    def _most_promising(self, architectures: list[Architecture]) -> Architecture:
        costs = self._problem.admission.costs
        if not self._cost_objectives:
            return max(architectures, key=lambda architecture: costs(architecture).macs)
        known = [member.place for member in self._population]
        places = [self._place(Evaluation(each, costs(each), 0)) for each in architectures]
        extents = [max(values) - min(values) or 1 for values in zip(*known, *places, strict=True)]

        def room(index: int) -> float:
            gaps = (zip(places[index], place, extents, strict=True) for place in known)
            return min((sum(abs(mine - its) / extent for mine, its, extent in gap) for gap in gaps), default=0.0)

        return architectures[max(range(len(architectures)), key=room)]

    def _place(self, evaluation: Evaluation) -> Point:
        """Among the objectives that are costs, on scales of ratios."""
        return tuple(math.log1p(cost) for cost in point_of(evaluation, self._cost_objectives))

    def _offspring(self) -> Architecture:
        genes, rng = self._sampler.genes, self._rng
        if rng.random() < CROSSOVER_PROBABILITY:
            return self._sampler.decode(cross(self._parent(), self._parent(), genes, rng))
        return self._sampler.decode(mutate(self._parent(), genes, rng, CHANGES))

    def _parent(self) -> Genotype:
        return self._parents[min(self._rng.randrange(len(self._parents)) for _ in range(TOURNAMENT))]
