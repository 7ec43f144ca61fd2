"""Mutation and crossover on genes: indices into each choice's values, ``None`` where a choice has no effect."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from tinynas.space import Gene

Genotype = Sequence[int | None]
"""As ``SearchSpace.encode`` gives it."""

NEIGHBOUR_PROBABILITY = 0.5
"""The share of changes that go to a value next to the old one; the others go to any."""


def mutate(genotype: Genotype, genes: Sequence[Gene], rng: random.Random, changes: float) -> list[int]:
    """``genotype`` with at least one of its choices changed, and ``changes`` of them on average.

    Choices that had no effect are drawn, for where a change brings them in.
    """
    free = [at for at, index in enumerate(genotype) if index is not None and len(genes[at].values) > 1]
    child = filled(genotype, genes, rng)
    if not free:
        return child
    chosen = {rng.choice(free)}
    rate = max(0.0, changes - 1) / len(free)
    chosen.update(at for at in free if rng.random() < rate)
    for at in sorted(chosen):
        child[at] = _another(child[at], len(genes[at].values), rng)
    return child


def cross(one: Genotype, other: Genotype, genes: Sequence[Gene], rng: random.Random, share: float = 0.5) -> list[int]:
    """Each choice from ``one`` with probability ``share``, else from ``other``; one that has no effect is not taken."""
    taken = [
        (mine if its is None or (mine is not None and rng.random() < share) else its)
        for mine, its in zip(one, other, strict=True)
    ]
    return filled(taken, genes, rng)


def filled(genotype: Genotype, genes: Sequence[Gene], rng: random.Random) -> list[int]:
    """``genotype`` with the choices that have no effect drawn at random."""
    return [
        rng.randrange(len(gene.values)) if index is None else index for gene, index in zip(genes, genotype, strict=True)
    ]


def neighbours(genotype: Genotype, genes: Sequence[Gene]) -> Iterator[list[int]]:
    """Every genotype that has another value in one choice; what has no effect counts as the first value."""
    for at, (gene, index) in enumerate(zip(genes, genotype, strict=True)):
        if index is not None:
            for value in range(len(gene.values)):
                if value != index:
                    yield [(value if place == at else it or 0) for place, it in enumerate(genotype)]


def _another(index: int, count: int, rng: random.Random) -> int:
    if rng.random() < NEIGHBOUR_PROBABILITY:
        return rng.choice([near for near in (index - 1, index + 1) if 0 <= near < count])
    drawn = rng.randrange(count - 1)
    return drawn + (drawn >= index)
