"""Sampling that ends: new architectures that fit, or a statement that there are none."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from itertools import islice

from tinynas.architecture import Architecture
from tinynas.constraints import InfeasibleBudgetError, Rejection
from tinynas.errors import SearchError
from tinynas.strategies.problem import Problem
from tinynas.strategies.variation import Genotype, cross, neighbours

MAX_ATTEMPTS = 2_000
"""How often a way of proposing architectures is tried in a row before the next way is."""


class SpaceExhaustedError(SearchError):
    """Every architecture that was found to fit has been evaluated."""


class Sampler:
    """Finds architectures that fit and were not seen before.

    It samples the space. When a tight budget leaves only a corner that samples do not hit, it tries blends of a sample
    and the space's smallest architecture; when nothing has fitted so far, a descent in single choices from the one that
    came closest; and then whatever differs in a single choice from an architecture that fits. A way that has failed
    once is not tried again, or every architecture of such a corner would cost thousands of attempts.
    """

    def __init__(self, problem: Problem, rng: random.Random) -> None:
        self.genes = problem.space.genes(problem.input_shape)
        self._problem = problem
        self._rng = rng
        self.smallest = problem.space.extreme(problem.input_shape, largest=False)
        self._seen: dict[Architecture, None] = {}
        self._ways: list[Iterator[Architecture]] = [
            self._samples(),
            self._blends(),
            self._towards_the_limits(),
            self._around_what_fits(),
        ]

    def find(self, proposals: Iterator[Architecture] | None = None) -> Architecture:
        """A new architecture that fits: from ``proposals``, if ``MAX_ATTEMPTS`` of them have one, else by itself.

        Raises InfeasibleBudgetError when nothing was ever seen to fit, and SpaceExhaustedError when no more are found.
        """
        found = proposals and self._first_that_fits(proposals)
        while not found and self._ways:
            found = self._first_that_fits(self._ways[0])
            if not found:
                del self._ways[0]
        if found:
            return found
        rejections = self._problem.admission.rejections
        if rejections.nearest is not None and not self._seen:
            raise InfeasibleBudgetError(self._problem.space.name, rejections.count, rejections.nearest)
        raise SpaceExhaustedError(
            f"the space '{self._problem.space.name}' has no more architectures that fit: {len(self._seen):,} were "
            f"found, and no other in {MAX_ATTEMPTS:,} attempts"
        )

    def mark_seen(self, architecture: Architecture) -> None:
        """Never find ``architecture`` again."""
        self._seen[architecture] = None

    def encode(self, architecture: Architecture) -> Genotype:
        """The indices of its choices."""
        return self._problem.space.encode(architecture, self._problem.input_shape)

    def decode(self, genotype: Genotype) -> Architecture:
        """The architecture of these choices."""
        return self._problem.space.decode(genotype, self._problem.input_shape)

    def sample(self) -> Architecture:
        """One architecture, whether or not it fits."""
        return self._problem.space.sample(self._rng, self._problem.input_shape)

    def is_new_and_fits(self, architecture: Architecture) -> bool:
        """Whether it may be asked."""
        return architecture not in self._seen and self._problem.admission(architecture)

    def _first_that_fits(self, proposals: Iterable[Architecture]) -> Architecture | None:
        found = next(filter(self.is_new_and_fits, islice(proposals, MAX_ATTEMPTS)), None)
        if found:
            self.mark_seen(found)
        return found

    def _samples(self) -> Iterator[Architecture]:
        while True:
            yield self.sample()

    def _blends(self) -> Iterator[Architecture]:
        smallest = self.encode(self.smallest)
        while True:
            blend = cross(self.encode(self.sample()), smallest, self.genes, self._rng, share=self._rng.random())
            yield self.decode(blend)

    def _towards_the_limits(self) -> Iterator[Architecture]:
        """The smallest, and if nothing ever fitted, steepest descent from the nearest of what was turned away."""
        yield self.smallest
        start: Rejection | None = None
        while not self._seen and (nearest := self._problem.admission.rejections.nearest) not in (None, start):
            start = nearest
            yield from map(self.decode, neighbours(self.encode(nearest.architecture), self.genes))

    def _around_what_fits(self) -> Iterator[Architecture]:
        """Grows while it is walked: what it finds is seen, and its neighbours come in turn."""
        done = 0
        while done < len(self._seen):
            genotype = self.encode(next(islice(self._seen, done, None)))
            done += 1
            yield from map(self.decode, neighbours(genotype, self.genes))
