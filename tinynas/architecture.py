"""The genotype: a frozen, hashable value with a one-line text form that round-trips."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tinynas.errors import SearchError

_BLOCK = re.compile(r"k(\d+)e(\d+)")
_TEXT = re.compile(r"(?P<space>[a-z][a-z0-9_]*)-r(?P<resolution>\d+)-w(?P<width>\d+(?:\.\d+)?)-(?P<stages>[ke0-9_-]+)")


@dataclass(frozen=True, slots=True, order=True)
class Block:
    """One inverted bottleneck: the depthwise kernel's side and the expansion ratio."""

    kernel: int
    expansion: int

    def __str__(self) -> str:
        return f"k{self.kernel}e{self.expansion}"


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
        match = _TEXT.fullmatch(text)
        if match is None:
            raise SearchError(
                f"'{text}' is not an architecture: expected <space>-r<resolution>-w<width>-<stage>-…, "
                "as in mobilenet_small-r28-w0.5-k3e1-k5e3_k3e4-k7e2-k3e2"
            )
        stages = []
        for stage_text in match["stages"].split("-"):
            blocks = []
            for block_text in stage_text.split("_"):
                block = _BLOCK.fullmatch(block_text)
                if block is None:
                    raise SearchError(
                        f"'{text}': '{block_text}' is not a block; write k<kernel>e<expansion>, as in k3e6"
                    )
                blocks.append(Block(int(block[1]), int(block[2])))
            stages.append(tuple(blocks))
        return cls(match["space"], int(match["resolution"]), float(match["width"]), tuple(stages))
