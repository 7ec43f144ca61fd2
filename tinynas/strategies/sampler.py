"""Rejection sampling that ends: new architectures that fit, or a statement that there are none."""

from __future__ import annotations

import random
from collections.abc import Callable

from tinynas.architecture import Architecture
from tinynas.constraints import InfeasibleBudgetError
from tinynas.errors import SearchError
from tinynas.strategies.problem import Problem
from tinynas.strategies.variation import cross

MAX_ATTEMPTS = 2_000
"""How often a way of proposing architectures is tried in a row before the next way is."""


class SpaceExhaustedError(SearchError):
    """Every architecture that was found to fit has been evaluated."""


class Sampler:
    """Finds architectures that fit and were not seen before.

    It samples the space; when a tight budget leaves only a corner that samples do not hit, it tries blends of a sample
    and the space's smallest architecture, and at last the smallest itself. Sampling that has failed once is not tried
    again, or every architecture of such a corner would cost thousands of attempts.
    """

    def __init__(self, problem: Problem, rng: random.Random) -> None:
        self.space = problem.space
        self.input_shape = problem.input_shape
        self._rng = rng
        self._admission = problem.admission
        self._smallest = problem.space.extreme(problem.input_shape, largest=False)
        self._seen: set[Architecture] = set()
        self._ways = [self._sample, self._blend]

    def find(self, propose: Callable[[], Architecture] | None = None) -> Architecture:
        """A new architecture that fits: from ``propose``, if that yields one in ``MAX_ATTEMPTS``, else a sample.

        Raises InfeasibleBudgetError when nothing was ever seen to fit, and SpaceExhaustedError when no more are found.
        """
        found = propose and self._attempt(propose)
        while not found and self._ways:
            found = self._attempt(self._ways[0])
            if not found:
                del self._ways[0]
        if found:
            return found
        if self._is_new_and_fits(self._smallest):
            return self._smallest
        closest = self._admission.rejections.nearest
        if closest is not None and not self._seen:
            raise InfeasibleBudgetError(self.space.name, self._admission.rejections.count, closest)
        raise SpaceExhaustedError(
            f"the space '{self.space.name}' has no more architectures that fit: {len(self._seen):,} were found, "
            f"and no other in {MAX_ATTEMPTS:,} attempts"
        )

    def mark_seen(self, architecture: Architecture) -> None:
        """Never find ``architecture`` again."""
        self._seen.add(architecture)

    def _attempt(self, propose: Callable[[], Architecture]) -> Architecture | None:
        proposals = (propose() for _ in range(MAX_ATTEMPTS))
        return next(filter(self._is_new_and_fits, proposals), None)

    def _sample(self) -> Architecture:
        return self.space.sample(self._rng, self.input_shape)

    def _blend(self) -> Architecture:
        share = self._rng.random()
        return cross(self._sample(), self._smallest, self.space, self.input_shape, self._rng, share)

    def _is_new_and_fits(self, architecture: Architecture) -> bool:
        if architecture in self._seen or not self._admission(architecture):
            return False
        self.mark_seen(architecture)
        return True
