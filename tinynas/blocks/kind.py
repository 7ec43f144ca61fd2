"""What a kind of block has to say about itself."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from tinynas.architecture import Block, Unit
from tinynas.graph_builder import GraphBuilder

KERNELS = range(1, 64, 2)
"""Sides that a kernel may have: odd, so that smaller ones are the centres of larger ones."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One thing that a search decides for each block."""

    name: str
    """In the space's file."""
    letter: str
    """In an architecture's text form."""
    meaning: str
    values: Collection[int]
    """Those that a space may choose from."""
    is_larger_cheaper: bool = False
    """Whether the network gets smaller as the value grows."""


@dataclass(frozen=True, slots=True)
class BlockKind:
    """A kind of block: its choices, its layers, and its description for the docs."""

    name: str
    title: str
    source: str
    choices: tuple[Choice, ...]
    """In the order of the text form."""
    diagram: str
    """The layers, drawn in text."""
    lower: Callable[[GraphBuilder, int, Unit], int]
    """Appends a unit's layers after a tensor and returns the index of the output."""
    is_cell: bool = False
    """All blocks of a network are the same, keep their input's shape, and have reductions between the stages."""
    is_valid: Callable[[Block], bool] = lambda block: True
    """Whether a block of these choices computes anything from its input."""
    repaired: Callable[[Block], Block] = lambda block: block
    """A block that is not valid, changed as little as makes it so; others as they are."""
