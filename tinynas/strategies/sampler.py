"""Rejection sampling that ends: new architectures that fit, or a statement that there are none."""

from __future__ import annotations

import random
from collections.abc import Callable

from tinynas.architecture import Architecture
from tinynas.constraints import Admission, InfeasibleBudgetError
from tinynas.errors import SearchError
from tinynas.space import InputShape, SearchSpace
from tinynas.strategies.variation import cross

MAX_ATTEMPTS = 2_000
"""How often each way of proposing an architecture is tried in a row before the next way."""


class SpaceExhaustedError(SearchError):
    """Every architecture that was found to fit has been evaluated."""


class Sampler:
    """Finds architectures that fit and were not seen before.

    After the caller's own ways of proposing it tries blends of a random architecture and the space's smallest, which
    reach the corner that a tight budget leaves, and at last the smallest itself.
    """

    def __init__(self, space: SearchSpace, input_shape: InputShape, admission: Admission, rng: random.Random) -> None:
        self.space = space
        self.input_shape = input_shape
        self.rng = rng
        self._admission = admission
        self._smallest = space.extreme(input_shape, largest=False)
        self._seen: set[Architecture] = set()

    def find(self, *proposals: Callable[[], Architecture]) -> Architecture:
        """A new architecture that fits, from the first of ``proposals`` that yields one in ``MAX_ATTEMPTS``.

        Raises InfeasibleBudgetError when nothing was ever seen to fit, and SpaceExhaustedError when no more are found.
        """
        for propose in (*proposals, self._blend):
            for _ in range(MAX_ATTEMPTS):
                architecture = propose()
                if self._is_new_and_fits(architecture):
                    return architecture
        if self._is_new_and_fits(self._smallest):
            return self._smallest
        attempts = (len(proposals) + 1) * MAX_ATTEMPTS + 1
        closest = self._admission.rejections.nearest
        if closest is not None and not self._seen:
            raise InfeasibleBudgetError(self.space.name, attempts, closest)
        raise SpaceExhaustedError(
            f"the space '{self.space.name}' has no more architectures that fit: {len(self._seen):,} were found, "
            f"and no other in {attempts:,} attempts"
        )

    def sample(self) -> Architecture:
        """One of the space, every choice uniform, whether or not it fits."""
        return self.space.sample(self.rng, self.input_shape)

    def mark_seen(self, architecture: Architecture) -> None:
        """Never find ``architecture`` again."""
        self._seen.add(architecture)

    def _blend(self) -> Architecture:
        return cross(self.sample(), self._smallest, self.rng, share=self.rng.random())

    def _is_new_and_fits(self, architecture: Architecture) -> bool:
        if architecture in self._seen or not self._admission(architecture):
            return False
        self.mark_seen(architecture)
        return True
