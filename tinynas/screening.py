"""A strategy whose proposals are screened by a predictor: of several, the most promising one is evaluated.

The predictor only chooses. Whatever is evaluated is measured by the study's accuracy function, so a study holds no
predicted accuracy; what it gains is that fewer measurements go to architectures that could have been told to be poor.
"""

from __future__ import annotations

import math

from tinynas.architecture import Architecture
from tinynas.evaluation import Evaluation
from tinynas.front import front_indices, hypervolume
from tinynas.objectives import Point, point_of
from tinynas.predictor import FEWEST_ACCURACIES, AccuracyPredictor, Features
from tinynas.strategies.problem import Problem
from tinynas.strategies.sampler import SpaceExhaustedError
from tinynas.strategies.strategy import Strategy

FIRST_SHARE = 0.25
"""Of the trials: evaluated as the strategy proposes them, before there is a predictor."""
PROPOSALS = 10
"""How many the strategy proposes for each that is then evaluated."""
RECENT = 200
"""The last so many proposals are compared; older ones wait until the strategy has no more."""
REFIT_GROWTH = 1.2
"""The predictor is fitted anew when there are so many times the evaluations that it last knew."""


class Screened:
    """Asks ``strategy`` for ``PROPOSALS`` architectures at a time and passes the most promising one on.

    Promising is what adds most to the hypervolume of the front, at its predicted accuracy plus one standard deviation:
    what is uncertain is worth a look. Proposals that were not taken stay in reserve and may be taken later.
    """

    def __init__(self, strategy: Strategy, problem: Problem) -> None:
        self._strategy, self._problem = strategy, problem
        self._features = Features(problem.space, problem.input_shape, problem.admission.costs)
        self._first = max(FEWEST_ACCURACIES, math.ceil(FIRST_SHARE * problem.trials))
        self._evaluated: dict[Architecture, Evaluation] = {}
        self._reserve: dict[Architecture, None] = {}
        self._predictor: AccuracyPredictor | None = None

    def ask(self) -> Architecture:
        """See ``Strategy.ask``."""
        if len(self._evaluated) < self._first:
            return self._strategy.ask()
        try:
            for _ in range(PROPOSALS):
                self._reserve[self._strategy.ask()] = None
        except SpaceExhaustedError:
            if not self._reserve:
                raise
        chosen = self._most_promising()
        del self._reserve[chosen]
        return chosen

    def tell(self, evaluation: Evaluation) -> None:
        """See ``Strategy.tell``."""
        self._evaluated[evaluation.architecture] = evaluation
        self._reserve.pop(evaluation.architecture, None)
        self._strategy.tell(evaluation)

    def _most_promising(self) -> Architecture:
        proposals = list(self._reserve)[-RECENT:]
        expected, deviations = self._fitted().predict(proposals)
        points = [point_of(evaluation, self._problem.objectives) for evaluation in self._evaluated.values()]
        reference = tuple(max(values) for values in zip(*points, strict=True))
        front = [points[index] for index in front_indices(points)]
        known = hypervolume(front, reference)

        def promise(index: int) -> tuple[float, float]:
            accuracy = float(expected[index])
            hoped = min(1.0, max(0.0, accuracy + float(deviations[index])))
            costs = self._problem.admission.costs(proposals[index])
            point: Point = point_of(Evaluation(proposals[index], costs, hoped), self._problem.objectives)
            return hypervolume([*front, point], reference) - known, accuracy

        return proposals[max(range(len(proposals)), key=promise)]

    def _fitted(self) -> AccuracyPredictor:
        """The predictor; fitted anew where it knows too little of what was evaluated."""
        known = len(self._predictor.measured) if self._predictor is not None else 0
        if self._predictor is None or len(self._evaluated) >= REFIT_GROWTH * known:
            measured = {architecture: evaluation.accuracy for architecture, evaluation in self._evaluated.items()}
            self._predictor = AccuracyPredictor(self._features, measured)
        return self._predictor
