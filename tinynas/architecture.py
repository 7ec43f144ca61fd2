"""The genotype: a frozen, hashable value with a one-line text form that round-trips; and the units it consists of."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from tinynas.errors import SearchError

EXAMPLE = "mobilenet_small-r28-w0.5-k3e1-k5e3_k3e4-k7e2-k3e2"
_CHOICE = re.compile(r"([a-z])(\d+)")
_BLOCK = re.compile(r"([a-z]\d+)+")
_HEAD = (
    ("the name of a space", re.compile(r"[a-z][a-z0-9_]*")),
    ("a resolution, r and a whole number", re.compile(r"r\d+")),
    ("a width, w and a number", re.compile(r"w\d+(\.\d+)?")),
)


@dataclass(frozen=True, slots=True, order=True)
class Block:
    """The choices of one block, each a letter and a value, in the order of the space's kind of block.

    What the letters mean is the kind's (`tinynas.blocks`). The text form is the letters with their values: ``k3e4``.
    """

    choices: tuple[tuple[str, int], ...]

    def __getitem__(self, letter: str) -> int:
        for name, value in self.choices:
            if name == letter:
                return value
        raise KeyError(letter)

    def __str__(self) -> str:
        return "".join(f"{letter}{value}" for letter, value in self.choices)

    @classmethod
    def parse(cls, text: str) -> Block:
        """Read the text form back. Raises SearchError when ``text`` is no letters with values, or repeats a letter."""
        if _BLOCK.fullmatch(text) is None:
            raise SearchError(f"'{text}' is not a block; write letters, each with a whole number, as in k3e6")
        choices = tuple((letter, int(value)) for letter, value in _CHOICE.findall(text))
        if len({letter for letter, _ in choices}) < len(choices):
            raise SearchError(f"'{text}' is not a block: it gives a letter twice; write each once, as in k3e6")
        return cls(choices)


@dataclass(frozen=True, slots=True, order=True)
class Architecture:
    """One point of a search space.

    ``resolution`` is the longest side of the input (pixels, or samples of a sensor window), ``width`` multiplies every
    channel count of the space, and ``stages`` lists the blocks of each stage in order; a stage's length is its depth.

    The text form is ``<space>-r<resolution>-w<width>-<stage>-<stage>…`` with a stage written as its blocks joined by
    underscores, for example ``mobilenet_small-r28-w0.5-k3e1-k5e3_k3e4-k7e2-k3e2``.
    """

    space: str
    resolution: int
    width: float
    stages: tuple[tuple[Block, ...], ...]

    def __str__(self) -> str:
        stages = "-".join("_".join(str(block) for block in stage) for stage in self.stages)
        return f"{self.space}-r{self.resolution}-w{self.width:g}-{stages}"

    @classmethod
    def parse(cls, text: str) -> Architecture:
        """Read the text form back. Raises SearchError with the part that cannot be read."""
        parts = text.split("-")
        if len(parts) < 4:
            raise SearchError(
                f"'{text}' is not an architecture: expected <space>-r<resolution>-w<width>-<stage>-…, as in {EXAMPLE}"
            )
        for part, (what, pattern) in zip(parts, _HEAD, strict=False):
            if pattern.fullmatch(part) is None:
                raise SearchError(f"'{text}' is not an architecture: '{part}' is not {what}; write it as in {EXAMPLE}")
        try:
            stages = tuple(tuple(Block.parse(block) for block in stage.split("_")) for stage in parts[3:])
        except SearchError as error:
            raise SearchError(f"'{text}' is not an architecture: {error}") from error
        return cls(parts[0], int(parts[1][1:]), float(parts[2][1:]), stages)


@dataclass(frozen=True, slots=True)
class Unit:
    """One link of the chain that an architecture is: the stem, a block, a reduction between stages, or the head.

    What a unit computes, and its layers, depend on these values and on the shape of its one input alone; the name does
    neither and is left out of comparisons.
    """

    name: str = field(compare=False)
    """``stem``, ``stage1.block0``, ``stage1.reduction`` or ``head``."""
    kind: str
    """``stem``, ``head``, ``reduction``, or a kind of block."""
    channels: int
    """Of the output; a head's are the classes."""
    stride: int = 1
    block: Block | None = None
    kernel: int = 1
    """The stem's; a block's is among its choices."""

    def __getitem__(self, letter: str) -> int:
        """The value of one of the block's choices."""
        assert self.block is not None
        return self.block[letter]
