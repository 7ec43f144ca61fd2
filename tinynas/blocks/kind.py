"""What a kind of block has to say about itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tinynas.architecture import Unit
from tinynas.graph_builder import GraphBuilder


@dataclass(frozen=True, slots=True)
class Choice:
    """One thing that a search decides for each block."""

    name: str
    """In the space's file."""
    letter: str
    """In an architecture's text form."""
    meaning: str


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
