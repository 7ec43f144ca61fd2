"""Differentiable search: gradients through shared weights move a distribution, and what is probable and fits is asked.

What the distribution is and how it learns is in `tinynas.strategies.learner`; how an architecture that provably fits is
taken from it, in `tinynas.strategies.hardening`.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from tinynas.architecture import Architecture
from tinynas.errors import SearchError
from tinynas.evaluation import CostFunction, Evaluation
from tinynas.strategies.additive_costs import ADDITIVE, PEAK, Floats, Layout, SubspaceCosts, tabulate
from tinynas.strategies.distribution import SMALLEST_SHARE, Distribution, perturbed
from tinynas.strategies.hardening import Budget, harden
from tinynas.strategies.learner import DifferentiableSettings, Learner
from tinynas.strategies.problem import Problem
from tinynas.strategies.sampler import Sampler
from tinynas.supernet import Supernet

COST_OF_OBJECTIVE = {
    "latency": "latency_ms",
    "energy": "energy_mj",
    "sram": "sram_bytes",
    "flash": "flash_bytes",
    "macs": "macs",
}
"""The name in ``Costs`` of each objective that is a cost."""

TARGETS = ("latency_ms", "energy_mj")
"""Limits that the search comes close to; those on memory are only kept."""
LATER_CLOSENESS = 0.85
"""The share of its target that a sample for a front reaches, and one for accuracy alone after the first."""
GOLDEN = (5**0.5 - 1) / 2
"""Its multiples, modulo 1, cover an interval evenly however many there are."""
CORRECTION_RIDGE = 1.0
"""How many evaluations the belief weighs that the shared weights rank rightly."""
ATTEMPTS = 4
"""How many times more samples are drawn at most than are asked for: some do not fit, or were drawn before."""
UNLIMITED = 1.1
"""Times the highest cost of the space is no limit."""


@dataclass(slots=True)
class _Anchor:
    """A distribution, the budget that it was learned for, and the accuracies told of architectures near it."""

    distribution: Distribution
    budget: Budget
    told: list[float] = field(default_factory=list)


class Differentiable:
    """Learns a distribution before the first architecture is asked, then asks the most accurate of its samples.

    For accuracy alone there is one distribution, drawn to the tightest limit on latency or energy, and the first
    architecture comes close to that limit. For a front there are several, learned one after the other for targets from
    the smallest to the largest cost, and every ask has a target of its own; where several costs are objectives, it is
    the first that is swept. Samples, always within their budget by exact costs, are judged by the shared weights, and
    the best that is new is asked. What is told moves the distribution that is nearest, by a score function, and
    corrects what the shared weights say of each gene's values.

    ``problem.supernet`` is called once, at the first ask. Trained weights are used as they are; of untrained ones a
    copy is trained, see `DifferentiableSettings`.
    """

    def __init__(self, problem: Problem, settings: DifferentiableSettings | None = None) -> None:
        """Raises SearchError when the problem comes without shared weights."""
        if problem.supernet is None:
            raise SearchError(
                "the differentiable strategy takes gradients through a supernet, and this search has none; "
                "let a supernet estimate the accuracies, or choose another strategy"
            )
        self._problem, self._settings = problem, settings or DifferentiableSettings()
        self._make_supernet = problem.supernet
        self._layout = Layout.of(problem.space, problem.input_shape)
        self._sampler = Sampler(problem, random.Random(problem.seed))
        self._random = np.random.default_rng(problem.seed)
        self._limits = {
            name.removeprefix("max_"): limit for name, limit in problem.admission.limits.as_mapping().items()
        }
        costs = [COST_OF_OBJECTIVE[name] for name in problem.objectives if name in COST_OF_OBJECTIVE]
        self._swept = costs[0] if costs else None
        self._tables: list[SubspaceCosts] = []
        self._supernet: Supernet | None = None
        self._anchors: list[_Anchor] = []
        self._judged: dict[Architecture, float] = {}
        """Accuracies with the shared weights."""
        self._corrections = np.zeros(sum(len(gene.values) for gene in self._layout.genes))
        """What each value of each gene adds to the shared weights' accuracies, by what was told."""
        self._told: list[tuple[Floats, float]] = []
        """The values of the genes of each evaluation, and what it was above the shared weights' accuracy."""
        self._seen: set[Architecture] = set()
        self._asked = 0

    @property
    def distributions(self) -> tuple[Distribution, ...]:
        """What was learned: one distribution, or for a front several; none before the first ask."""
        return tuple(anchor.distribution for anchor in self._anchors)

    def ask(self) -> Architecture:
        """See ``Strategy.ask``; the first call learns the distributions, which takes minutes."""
        self._learn_once()
        anchor, budget = self._goal(self._asked)
        first = self._asked == 0
        self._asked += 1
        count = self._settings.first_shortlist if first else self._settings.shortlist
        self._judge(anchor, budget, count)
        anywhere = dataclasses.replace(budget, at_least=0.0)
        found = self._best(budget) if first or self._swept else self._best(anywhere)
        if found is None:  # the target is out of reach, or all that is close to it has been asked
            self._judge(anchor, anywhere, count)
            found = self._best(anywhere) or self._sampler.find()
        self._mark_seen(found)
        return found

    def tell(self, evaluation: Evaluation) -> None:
        """See ``Strategy.tell``."""
        self._mark_seen(evaluation.architecture)
        self._learn_once()
        self._correct(evaluation)
        anchor = self._anchors[0]
        if self._swept is not None:
            anchor = self._nearest(getattr(evaluation.costs, self._swept), self._swept)
        anchor.told.append(evaluation.accuracy)
        spread = float(np.std(anchor.told))
        if spread > 0:
            advantage = (evaluation.accuracy - float(np.mean(anchor.told))) / spread
            genotype = self._layout.encode(evaluation.architecture)
            anchor.distribution.reinforce(genotype, self._settings.evaluation_step * advantage)

    def _correct(self, evaluation: Evaluation) -> None:
        """Fit the corrections by ridge regression on all that was told; what all have in common changes no order."""
        assert self._supernet is not None
        (judged,) = self._supernet.evaluate_all([evaluation.architecture])
        self._told.append((self._values_of(evaluation.architecture), evaluation.accuracy - judged))
        values = np.stack([each for each, _ in self._told])
        above = np.array([each for _, each in self._told])
        gram = values.T @ values + CORRECTION_RIDGE * np.eye(values.shape[1])
        self._corrections = np.linalg.solve(gram, values.T @ (above - above.mean()))

    def _values_of(self, architecture: Architecture) -> Floats:
        """(values of all genes,) 1 for those that the architecture has."""
        genotype = self._layout.encode(architecture)
        return np.concatenate(
            [
                np.array([float(place == index) for place in range(len(gene.values))])
                for gene, index in zip(self._layout.genes, genotype, strict=True)
            ]
        )

    def _mark_seen(self, architecture: Architecture) -> None:
        self._seen.add(architecture)
        self._sampler.mark_seen(architecture)

    def _learn_once(self) -> None:
        """Learn the distributions. Raises InfeasibleBudgetError, before any learning, when nothing fits."""
        if self._anchors:
            return
        problem, settings = self._problem, self._settings
        if not problem.admission(problem.space.extreme(problem.input_shape, largest=False)):
            Sampler(problem, random.Random(problem.seed)).find()
        costs = problem.admission.costs
        self._tables = [tabulate(self._layout, subspace, costs) for subspace in self._layout.subspaces]
        learner = Learner(self._make_supernet(), self._layout, self._tables, costs, settings, problem.seed)
        distribution = Distribution(self._layout)
        budgets = self._budgets(learner.expected(distribution))
        for number, budget in enumerate(budgets):
            # The first of a front learns what is worth what; the others start from there and shift along the costs.
            share = 1 if len(budgets) == 1 else 2 if number == 0 else 2 * (len(budgets) - 1)
            distribution = distribution.copy()
            targets = (budget.target,) if budget.at_least else ()
            learner.learn(distribution, math.ceil(settings.steps / share), limits=budget.limits, targets=targets)
            self._anchors.append(_Anchor(distribution, budget))
        self._supernet = learner.supernet

    def _budgets(self, expected: dict[str, float]) -> list[Budget]:
        """The budgets to learn distributions for, given what to expect of uniform ones; from the largest."""
        if self._swept is not None:
            count = self._settings.anchors
            return [self._budget_at((count - number - 0.5) / count) for number in range(count)]
        limited = [name for name in TARGETS if name in self._limits]
        if not limited:
            return [self._without_target(self._limits)]
        tightest = max(limited, key=lambda name: expected[name] / self._limits[name])
        return [Budget(self._limits, tightest, self._settings.closeness)]

    def _budget_at(self, position: float) -> Budget:
        """For a front: the budget whose limit on the swept cost lies at ``position``, 0 to 1, between its extremes."""
        assert self._swept is not None
        lowest, highest = self._range(self._swept)
        limits = {**self._limits, self._swept: lowest * (highest / lowest) ** position}
        return self._without_target(limits) if self._swept == PEAK else Budget(limits, self._swept, LATER_CLOSENESS)

    def _without_target(self, limits: dict[str, float]) -> Budget:
        return Budget({"latency_ms": UNLIMITED * self._range("latency_ms")[1], **limits}, "latency_ms", 0.0)

    def _range(self, name: str) -> tuple[float, float]:
        """The lowest and the highest value of a cost, by the tables and the limits."""
        if name == PEAK:
            lowest = min(table.base_peak for table in self._tables)
            highest = max(float(peaks.max()) for table in self._tables for peaks in table.peaks)
        else:
            lowest = min(_reach(table, name)[0] for table in self._tables)
            highest = max(_reach(table, name)[1] for table in self._tables)
        return lowest, max(lowest, min(highest, self._limits.get(name, math.inf)))

    def _goal(self, number: int) -> tuple[_Anchor, Budget]:
        """The distribution to sample for an ask, and its budget."""
        if self._swept is None:
            anchor = self._anchors[0]
            later = anchor.budget.at_least and number
            return anchor, dataclasses.replace(anchor.budget, at_least=LATER_CLOSENESS) if later else anchor.budget
        budget = self._budget_at((0.5 + number * GOLDEN) % 1)
        return self._nearest(budget.limits[self._swept], self._swept), budget

    def _nearest(self, value: float, name: str) -> _Anchor:
        return min(self._anchors, key=lambda anchor: abs(math.log(max(1e-12, value) / anchor.budget.limits[name])))

    def _judge(self, anchor: _Anchor, budget: Budget, count: int) -> None:
        """Sample up to ``count`` new architectures within ``budget`` and ask the shared weights what they reach."""
        assert self._supernet is not None
        samples = samples_within(
            budget, anchor.distribution, self._tables, self._problem.admission.costs, self._random, ATTEMPTS * count
        )
        new = (each for each in dict.fromkeys(samples) if each not in self._judged and each not in self._seen)
        found = list(itertools.islice(new, count))
        self._judged.update(zip(found, self._supernet.evaluate_all(found), strict=True))

    def _best(self, budget: Budget) -> Architecture | None:
        """The new one within ``budget`` that should be most accurate; of equals, the cheapest."""
        costs = self._problem.admission.costs
        new = [
            architecture
            for architecture in self._judged
            if architecture not in self._seen
            and budget.distance_of(costs(architecture)) == 0
            and self._problem.admission(architecture)
        ]

        def rank(architecture: Architecture) -> tuple[float, float, str]:
            expected = self._judged[architecture] + float(self._corrections @ self._values_of(architecture))
            return -expected, getattr(costs(architecture), budget.target), str(architecture)

        return min(new, key=rank, default=None)


def samples_within(
    budget: Budget,
    distribution: Distribution,
    tables: Sequence[SubspaceCosts],
    costs: CostFunction,
    random: np.random.Generator,
    attempts: int,
) -> Iterator[Architecture]:
    """Architectures within ``budget`` by exact ``costs``: the most probable one, then samples of ``distribution``.

    ``tables`` are those of every sub-space. Up to ``attempts`` of them, some perhaps again and again.
    """
    layout = distribution.layout
    candidates = _subspaces_within(budget, tables)
    scores = distribution.scores()
    with torch.no_grad():
        subspaces = distribution.subspace_scores(distribution.log_probabilities()).double().numpy()
    for attempt in range(attempts if candidates else 0):
        noise = random.gumbel(size=len(subspaces)) if attempt else np.zeros(len(subspaces))
        place = max(candidates, key=lambda index: subspaces[index] + noise[index])
        noisy = perturbed(scores, random) if attempt else scores
        architecture = harden(layout, tables[place], layout.subspaces[place], noisy, budget, costs)
        if architecture is not None:
            yield architecture


def _subspaces_within(budget: Budget, tables: Sequence[SubspaceCosts]) -> list[int]:
    """Which of the sub-spaces can keep the budget; of them, those that reach its target, if any does."""
    limit, peak_limit = budget.limits[budget.target], budget.limits.get(PEAK, math.inf)
    reach = [_reach(table, budget.target) for table in tables]
    within = [index for index, table in enumerate(tables) if reach[index][0] <= limit and table.base_peak <= peak_limit]
    return [index for index in within if reach[index][1] >= budget.at_least * limit] or within


def _reach(table: SubspaceCosts, name: str) -> tuple[float, float]:
    """About the lowest and the highest value of an additive cost in a sub-space."""
    column = ADDITIVE.index(name)
    lowest = table.base[column] + sum(min(0.0, float(added[:, column].min())) for added in table.items)
    highest = table.base[column] + sum(float(added[:, column].max()) for added in table.items)
    return max(float(lowest), SMALLEST_SHARE * float(table.base[column])), float(highest)
