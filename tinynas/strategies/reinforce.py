"""Reinforcement learning: a controller that learns which choices are rewarded (REINFORCE)."""

from __future__ import annotations

import random
from bisect import bisect
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from tinynas.architecture import Architecture
from tinynas.evaluation import Evaluation
from tinynas.objectives import Point, point_of
from tinynas.space import Gene
from tinynas.strategies.problem import Problem
from tinynas.strategies.sampler import Sampler

Floats = npt.NDArray[np.float64]

LEARNING_RATE = 0.15
ENTROPY_WEIGHT = 0.02
"""What a nat of a choice's entropy is worth, in standard deviations of the reward."""
BASELINE = 32
"""The reward is compared with those of the last so many evaluations."""
DECAY = 0.98
"""Of the moving average of what share of the samples fits."""
MAX_PENALTIES = 64
"""How many samples that do not fit teach the controller at each ask."""
SHRINKAGE = 0.98
"""What is left of the controller's logits after a repetition."""
BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8
"""Of Adam (Kingma and Ba, ICLR 2015)."""


class Reinforce:
    """Samples a controller, and makes the choices of what was better than the recent average more probable.

    The policy gradient is REINFORCE's (Williams, 1992; Zoph and Le, ICLR 2017), with the mean of the last evaluations
    as its baseline and their deviation as its unit, an entropy bonus, and Adam. What does not fit is never evaluated:
    it teaches the controller that it does not fit, against the share of samples that do.

    For several objectives every ask has a preference of its own: weights drawn uniformly among those that sum to 1, by
    which the controller mixes a table of each objective. The reward is then minus the largest weighted distance from
    the best known value of an objective (Chebyshev), which reaches all of a front, also where it is not convex.
    """

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._rng = random.Random(problem.seed)
        self._sampler = Sampler(problem, self._rng)
        self._controller = Controller(self._sampler.genes, len(problem.objectives))
        self._asked: dict[Architecture, tuple[list[int], Floats]] = {}
        """The controller's choices, and the preference, behind each architecture that was asked and not yet told."""
        self._told: list[Point] = []
        self._share_that_fits = 1.0

    def ask(self) -> Architecture:
        """See ``Strategy.ask``."""
        weights = np.array([self._rng.expovariate(1) for _ in self._problem.objectives])
        preference = weights / weights.sum()
        drawn: dict[Architecture, list[int]] = {}
        found = self._sampler.find(self._samples(preference, drawn))
        self._asked[found] = drawn.get(found, self._choices(found)), preference
        return found

    def tell(self, evaluation: Evaluation) -> None:
        """See ``Strategy.tell``."""
        architecture = evaluation.architecture
        self._sampler.mark_seen(architecture)
        self._told.append(point_of(evaluation, self._problem.objectives))
        even = np.full(len(self._problem.objectives), 1 / len(self._problem.objectives))
        choices, preference = self._asked.pop(architecture, (self._choices(architecture), even))
        advantage = self._advantage(preference) + (1 - self._share_that_fits)
        self._controller.learn(choices, self._counts(architecture), preference, advantage)

    def _samples(self, preference: Floats, drawn: dict[Architecture, list[int]]) -> Iterator[Architecture]:
        """Architectures by the controller, which learns on the way from those that do not fit.

        A controller that has settled repeats itself; with each repetition all its logits shrink until the next ask.
        """
        admission, penalties = self._problem.admission, 0
        shrunk = preference
        while True:
            choices = self._controller.sample(shrunk, self._rng)
            architecture = self._sampler.decode(choices)
            fits = not admission.limits.violations(admission.costs(architecture))
            self._share_that_fits += (1 - DECAY) * (fits - self._share_that_fits)
            if not fits and penalties < MAX_PENALTIES:
                penalties += 1
                self._controller.learn(choices, self._counts(architecture), preference, -self._share_that_fits)
            if architecture in drawn:
                shrunk = SHRINKAGE * shrunk
            drawn[architecture] = choices
            yield architecture

    def _advantage(self, preference: Floats) -> float:
        """How far the last evaluation is better than the recent average, in standard deviations."""
        points = np.array(self._told)
        best = points.min(axis=0)
        extents = np.maximum(points.max(axis=0) - best, 1e-12)
        rewards = -(preference * (points[-BASELINE:] - best) / extents).max(axis=1)
        deviation = float(rewards.std())
        return float(rewards[-1] - rewards.mean()) / deviation if deviation > 0 else 0.0

    def _choices(self, architecture: Architecture) -> list[int]:
        return [index or 0 for index in self._sampler.encode(architecture)]

    def _counts(self, architecture: Architecture) -> list[bool]:
        """Which of the choices have an effect; the others had no part in the reward."""
        return [index is not None for index in self._sampler.encode(architecture)]


class Controller:
    """A probability of each choice's values given the choice before it, mixed from one table for each objective."""

    def __init__(self, genes: Sequence[Gene], objectives: int) -> None:
        self._sizes = [len(gene.values) for gene in genes]
        widest = max(self._sizes)
        self._exists = np.arange(widest) < np.array(self._sizes)[:, None, None]
        """(genes, 1, values)"""
        self._tables = np.zeros((objectives, len(genes), widest, widest))
        """(objectives, genes, values of the gene before, values) logits"""
        self._mean, self._square = np.zeros_like(self._tables), np.zeros_like(self._tables)
        self._steps = 0
        self._cumulative: tuple[Floats, list[list[list[float]]]] | None = None
        """For sampling: of which preference, and the sums of the probabilities of a value and of those before it."""

    def sample(self, preference: Floats, rng: random.Random) -> list[int]:
        """The index of one value for each gene."""
        if self._cumulative is None or self._cumulative[0] is not preference:
            self._cumulative = preference, self.probabilities(preference).cumsum(axis=-1).tolist()
        choices, before = [], 0
        for rows, size in zip(self._cumulative[1], self._sizes, strict=True):
            before = min(bisect(rows[before], rng.random()), size - 1)
            choices.append(before)
        return choices

    def learn(self, choices: Sequence[int], counts: Sequence[bool], preference: Floats, advantage: float) -> None:
        """One step up the gradient of ``advantage`` times the log-probability of the ``choices`` that count."""
        genes = np.flatnonzero(counts)
        before = np.array([0, *choices[:-1]])[genes]
        probabilities = self.probabilities(preference)[genes, before]
        chosen = np.arange(probabilities.shape[1]) == np.array(choices)[genes, None]
        logs = np.log(np.maximum(probabilities, 1e-300))
        entropies = -(probabilities * logs).sum(axis=1, keepdims=True)
        rows = advantage * (chosen - probabilities) - ENTROPY_WEIGHT * probabilities * (logs + entropies)
        gradient = np.zeros(self._tables.shape[1:])
        gradient[genes, before] = rows
        self._ascend(preference[:, None, None, None] * gradient)
        self._cumulative = None

    def probabilities(self, preference: Floats) -> Floats:
        """(genes, values of the gene before, values); those that a gene does not have are 0."""
        logits = np.where(self._exists, np.tensordot(preference, self._tables, axes=1), -np.inf)
        odds = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return np.asarray(odds / odds.sum(axis=-1, keepdims=True))

    def _ascend(self, gradient: Floats) -> None:
        self._steps += 1
        self._mean += (1 - BETA_1) * (gradient - self._mean)
        self._square += (1 - BETA_2) * (gradient**2 - self._square)
        mean = self._mean / (1 - BETA_1**self._steps)
        square = self._square / (1 - BETA_2**self._steps)
        self._tables += LEARNING_RATE * mean / (np.sqrt(square) + EPSILON)
