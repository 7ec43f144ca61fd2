"""Random search: the baseline that every other strategy has to beat."""

from __future__ import annotations

import random

from tinynas.architecture import Architecture
from tinynas.evaluation import Evaluation
from tinynas.strategies.problem import Problem
from tinynas.strategies.sampler import Sampler


class RandomSearch:
    """Every choice uniform and independent, among the architectures that fit, without repetition."""

    def __init__(self, problem: Problem) -> None:
        self._sampler = Sampler(problem, random.Random(problem.seed))

    def ask(self) -> Architecture:
        """See ``Strategy.ask``."""
        return self._sampler.find()

    def tell(self, evaluation: Evaluation) -> None:
        """See ``Strategy.tell``; only keeps the architecture from being asked again."""
        self._sampler.mark_seen(evaluation.architecture)
