"""Mutation and crossover of architectures, choice by choice."""

from __future__ import annotations

import random
from typing import TypeVar

from tinynas.architecture import Architecture, Block
from tinynas.space import InputShape, SearchSpace, Stage

T = TypeVar("T")


def mutate(
    architecture: Architecture, space: SearchSpace, input_shape: InputShape, rng: random.Random, rate: float
) -> Architecture:
    """``architecture`` with each choice drawn anew with probability ``rate``.

    The choices are the resolution, the width, each stage's depth, and each block's kernel and expansion. A stage that
    becomes deeper gets new blocks at its end; one that becomes shallower loses its last.
    """

    def vary(value: T, choices: tuple[T, ...]) -> T:
        return rng.choice(choices) if rng.random() < rate else value

    def vary_stage(blocks: tuple[Block, ...], stage: Stage) -> tuple[Block, ...]:
        depth = vary(len(blocks), stage.depths)
        kept = tuple(
            Block(vary(block.kernel, space.kernels), vary(block.expansion, space.expansions_of(stage)))
            for block in blocks[:depth]
        )
        return kept + tuple(space.sample_block(rng, stage) for _ in range(depth - len(kept)))

    return Architecture(
        space.name,
        vary(architecture.resolution, space.resolutions(input_shape)),
        vary(architecture.width, space.widths),
        tuple(vary_stage(*pair) for pair in zip(architecture.stages, space.stages, strict=True)),
    )


def cross(one: Architecture, other: Architecture, rng: random.Random, share: float = 0.5) -> Architecture:
    """Each choice from ``one`` with probability ``share``, else from ``other``.

    The choices are the resolution, the width, each stage's depth, and each block; a block that only one of them has is
    taken from that one.
    """

    def pick(first: T, second: T) -> T:
        return first if rng.random() < share else second

    def pick_stage(first: tuple[Block, ...], second: tuple[Block, ...]) -> tuple[Block, ...]:
        longer = max(first, second, key=len)
        both = tuple(pick(*pair) for pair in zip(first, second, strict=False))
        return (both + longer[len(both) :])[: pick(len(first), len(second))]

    return Architecture(
        one.space,
        pick(one.resolution, other.resolution),
        pick(one.width, other.width),
        tuple(pick_stage(*pair) for pair in zip(one.stages, other.stages, strict=True)),
    )
