"""The published search spaces whose networks have been timed on phones, and the work that each network is.

- **nasbench201** (Dong and Yang, ICLR 2020): a cell of six edges, each with one of five operators, repeated five times
  in each of three stages.
- **fbnet** (Wu et al., CVPR 2019): 22 blocks, each an inverted bottleneck or a skip, in the form for 32×32 images of Li
  et al. (HW-NAS-Bench, ICLR 2021), which keeps the resolution in the stem and in the second stage.

Work is counted in the terms of which a latency is a weighted sum. A space may allow several readings of what a runtime
does with a network; which one is right is for the measurements to say.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

from tinynas.errors import SearchError


class PublishedSpace(enum.StrEnum):
    """The spaces, by their names on the command line."""

    NASBENCH201 = "nasbench201"
    FBNET = "fbnet"


def amounts_of(space: PublishedSpace, architecture: str) -> tuple[tuple[float, ...], ...]:
    """How much of each of the space's terms a network is, for each of the space's readings; none is negative.

    Raises SearchError for a text that is none of the space's.
    """
    return _cell_amounts(architecture) if space is PublishedSpace.NASBENCH201 else (_blocks_amounts(architecture),)


FIXED = "fixed"
"""The term of what a network does once: its dispatch, its classifier."""

# NAS-Bench-201

OPERATORS = ("none", "skip_connect", "avg_pool_3x3", "nor_conv_1x1", "nor_conv_3x3")
CELL_TERMS = (FIXED, *OPERATORS)
"""After the fixed costs, operators: one of a kind, in all fifteen cells, is 1."""

_EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
"""From which node to which, in the order of the text."""
_CELLS_PER_STAGE = 5
_STAGES = ((16, 32), (32, 16), (64, 8))
"""Channels and side in pixels."""
_CELL_TEXT = re.compile(r"\|([^|~+]+)~0\|\+\|([^|~+]+)~0\|([^|~+]+)~1\|\+\|([^|~+]+)~0\|([^|~+]+)~1\|([^|~+]+)~2\|")


def _cell_amounts(text: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    found = _CELL_TEXT.fullmatch(text)
    if not found:
        raise SearchError("it is not of the form '|op~0|+|op~0|op~1|+|op~0|op~1|op~2|'")
    edges = found.groups()
    for name in edges:
        if name not in OPERATORS:
            raise SearchError(f"'{name}' is no operator of nasbench201; they are {', '.join(OPERATORS)}")
    return _terms(edges), _terms([name for name, alive in zip(edges, _alive(edges), strict=True) if alive])


def _terms(operators: Sequence[str]) -> tuple[float, ...]:
    around = _around_the_cells()
    return (1.0, *(operators.count(name) + around.get(name, 0.0) for name in OPERATORS))


def _alive(edges: Sequence[str]) -> list[bool]:
    """Whether each edge lies on a path from the cell's input to its output."""
    there = [pair for pair, name in zip(_EDGES, edges, strict=True) if name != "none"]
    reached, useful = {0}, {3}
    for start, end in there:  # in topological order
        if start in reached:
            reached.add(end)
    for start, end in reversed(there):
        if end in useful:
            useful.add(start)
    return [pair in there and pair[0] in reached and pair[1] in useful for pair in _EDGES]


@cache
def _around_the_cells() -> dict[str, float]:
    """The stem and the two residual blocks between the stages, in operators with as many multiply-accumulates."""
    (first, side), *_ = _STAGES
    conv_3x3, conv_1x1 = 9 * 3 * first * side**2, 0
    for (before, _), (after, size) in pairwise(_STAGES):
        conv_3x3 += 9 * (before + after) * after * size**2
        conv_1x1 += before * after * size**2
    pointwise = _CELLS_PER_STAGE * sum((channels * size) ** 2 for channels, size in _STAGES)
    return {"nor_conv_1x1": conv_1x1 / pointwise, "nor_conv_3x3": conv_3x3 / (9 * pointwise)}


# FBNet

BLOCKS = ("k3_e1", "k3_e1_g2", "k3_e3", "k3_e6", "k5_e1", "k5_e1_g2", "k5_e3", "k5_e6", "skip")
BLOCK_TERMS = (
    FIXED,
    "pointwise_mmacs",
    "depthwise_mmacs",
    "expanded_melements",
    "convolutions",
    "grouped_blocks",
    "depthwise_kchannels",
)
"""After the fixed costs: multiply-accumulates by kind, in millions; elements of the expanded tensors that are written,
in millions; convolutions; blocks whose channels are shuffled; channels of depthwise convolutions, in thousands."""

_POSITIONS = 22
_IMAGE_SIDE, _IMAGE_CHANNELS = 32, 3
_STEM_CHANNELS, _HEAD_CHANNELS, _CLASSES = 16, 1504, 100
_BLOCK_STAGES = ((16, 1, 1), (24, 4, 1), (32, 4, 2), (64, 4, 2), (112, 4, 1), (184, 4, 2), (352, 1, 1))
"""Channels, blocks, and the stride of the first of them."""


@dataclass(frozen=True, slots=True)
class _Position:
    channels_in: int
    channels_out: int
    stride: int
    side: int
    """Of the input, in pixels."""


def _blocks_amounts(text: str) -> tuple[float, ...]:
    names = text.split()
    if len(names) != _POSITIONS:
        raise SearchError(f"it has {len(names)} blocks, and fbnet has {_POSITIONS}")
    for name in names:
        if name not in BLOCKS:
            raise SearchError(f"'{name}' is no block of fbnet; they are {', '.join(BLOCKS)}")
    table = _block_table()
    return tuple(map(sum, zip(_ends_amounts(), *(table[place, name] for place, name in enumerate(names)), strict=True)))


@cache
def _block_table() -> dict[tuple[int, str], tuple[float, ...]]:
    return {(place, name): _block_amounts(name, at) for place, at in enumerate(_positions()) for name in BLOCKS}


@cache
def _positions() -> tuple[_Position, ...]:
    channels, side, found = _STEM_CHANNELS, _IMAGE_SIDE, []
    for width, depth, first_stride in _BLOCK_STAGES:
        for stride in (first_stride, *(1,) * (depth - 1)):
            found.append(_Position(channels, width, stride, side))
            channels, side = width, side // stride
    return tuple(found)


def _block_amounts(name: str, at: _Position) -> tuple[float, ...]:
    """The terms of one block. A skip is nothing where it changes no shape, else a pointwise convolution."""
    pixels_in, pixels_out = at.side**2, (at.side // at.stride) ** 2
    if name == "skip":
        if at.channels_in == at.channels_out and at.stride == 1:
            return (0.0,) * len(BLOCK_TERMS)
        return (0.0, at.channels_in * at.channels_out * pixels_out / 1e6, 0.0, 0.0, 1.0, 0.0, 0.0)
    kernel, expansion, *grouped = (int(part[1:]) for part in name.split("_"))
    groups = grouped[0] if grouped else 1
    expanded = at.channels_in * expansion
    pointwise = expanded * (at.channels_in * pixels_in + at.channels_out * pixels_out) / groups
    depthwise = expanded * kernel**2 * pixels_out
    written = expanded * (pixels_in + pixels_out)
    return (0.0, pointwise / 1e6, depthwise / 1e6, written / 1e6, 3.0, float(groups > 1), expanded / 1e3)


@cache
def _ends_amounts() -> tuple[float, ...]:
    """The terms of what no choice changes: the stem, the last convolution and the classifier."""
    width = _BLOCK_STAGES[-1][0]
    side = _positions()[-1].side
    stem = 9 * _IMAGE_CHANNELS * _STEM_CHANNELS * _IMAGE_SIDE**2
    head = width * _HEAD_CHANNELS * side**2 + _HEAD_CHANNELS * _CLASSES
    return (1.0, (stem + head) / 1e6, 0.0, 0.0, 2.0, 0.0, 0.0)


TERMS = {PublishedSpace.NASBENCH201: CELL_TERMS, PublishedSpace.FBNET: BLOCK_TERMS}
"""What a latency is a weighted sum of."""

READINGS = {
    PublishedSpace.NASBENCH201: ("every branch runs", "branches that lead nowhere are left out"),
    PublishedSpace.FBNET: ("every block runs",),
}
"""What a runtime may make of an architecture."""
