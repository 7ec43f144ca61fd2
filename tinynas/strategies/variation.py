"""Mutation and crossover of architectures, gene by gene."""

from __future__ import annotations

import random

from tinynas.architecture import Architecture
from tinynas.space import InputShape, SearchSpace


def mutate(
    architecture: Architecture, space: SearchSpace, input_shape: InputShape, rng: random.Random, rate: float
) -> Architecture:
    """``architecture`` with each gene drawn anew with probability ``rate``.

    A stage that becomes deeper gets new blocks at its end; one that becomes shallower loses its last.
    """
    genotype = [
        rng.randrange(len(gene.values)) if index is None or rng.random() < rate else index
        for gene, index in zip(space.genes(input_shape), space.encode(architecture, input_shape), strict=True)
    ]
    return space.decode(genotype, input_shape)


def cross(
    one: Architecture,
    other: Architecture,
    space: SearchSpace,
    input_shape: InputShape,
    rng: random.Random,
    share: float = 0.5,
) -> Architecture:
    """Each gene from ``one`` with probability ``share``, else from ``other``; what only one of them has, from that."""
    pairs = zip(space.encode(one, input_shape), space.encode(other, input_shape), strict=True)
    genotype = []
    for first, second in pairs:
        chosen = first if rng.random() < share else second
        genotype.append(chosen if chosen is not None else first if first is not None else second)
    return space.decode(genotype, input_shape)
