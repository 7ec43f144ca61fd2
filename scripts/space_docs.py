#!/usr/bin/env python3
"""Writes docs/spaces.md: the search spaces, their blocks and what primitive operations cost, from code and data.

Usage: python -m scripts.space_docs
"""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Sequence
from pathlib import Path

from export.atomic import write_bytes
from export.graph import total_macs
from tinynas.architecture import Block
from tinynas.blocks import KINDS
from tinynas.blocks.cell import to_nasbench
from tinynas.blocks.kind import BlockKind
from tinynas.lower import lower
from tinynas.primitives import DIMENSIONS, PRIMITIVES
from tinynas.space import InputShape, SearchSpace, load_space, space_names

PAGE = Path(__file__).resolve().parents[1] / "docs" / "spaces.md"
CLASSES = 10

EXAMPLE_CELL = "a4b0c1d2e0f3"

CELLS = """\
All cells of a network are the same. `tinynas.blocks.cell` reads and writes the benchmark's own text: `{example}` is
`{benchmark}`.
Only edges on a way from the input to the output are computed. A cell without one computes nothing: the search never
proposes it, and a change that leads to one puts a skip connection from node 0 to node 3. Unlike in the benchmark, the
activation follows the normalization, so that both become part of the convolution, and the shortcut of a reduction has
no average pool."""

INTRODUCTION = """\
# Search spaces

Generated from `tinynas/spaces/`, `tinynas/blocks/` and `tinynas/primitives.py` by `python -m scripts.space_docs`; a
test keeps them equal.

A search space is data: one file that says which networks exist. A network is a stem, stages of blocks, the mean over
height and width, and a fully connected layer. The search decides the resolution of the input, the width (which
multiplies every channel count), the depth of each stage, and a few choices for each block. Without `--space`, a search
takes `sensor` for windows of sensor data, `mobilenet_small` for images of up to 48 pixels, and `mobilenet` for larger
ones.

An architecture is one line of text: the space, resolution and width, then each stage's blocks, each the letters of its
choices with their values:

    mobilenet_small-r28-w0.5-k3e1-k5e3_k3e4-k7e2-k3e2

"""

OWN_SPACE = """\
## A space of your own

Write a file and give its path: `--space mine.toml`. This is all of one:

```toml
name = "mine"
description = "two stages of bottlenecks for small images"
resolution_scales = [0.75, 1.0]     # of the data set's side; rounded to multiples of 4
widths = [0.5, 1.0]                 # multiply all channels, which are rounded to the multiple below
block = "inverted"                  # one of the kinds of block above
choices = { kernel = [3, 5], expansion = [2, 4] }
channel_multiple = 4
stem = { channels = 8, kernel = 3, stride = 2 }

[[stages]]
channels = 16
stride = 1                          # of the stage's first block
depths = [1, 2]

[[stages]]
channels = 32
stride = 2
depths = [1, 2, 3]
choices = { kernel = [3] }          # in place of the space's, for this stage
```

Whatever the file leaves out or gets wrong is said in one sentence, with its place. A file in `tinynas/spaces/` is a
space that comes with tinynas: its name is known to `--space`, and with `typical_input = [height, width, channels]` it
has its section here. A new kind of block is a file in `tinynas/blocks/`, with its layers for the filter, and one in
`tinynas/modules/`, with its weights for PyTorch; the tests hold the two against the exported model, layer by layer.
"""


def page() -> str:
    """The whole page."""
    spaces = [load_space(name) for name in space_names()]
    parts = [INTRODUCTION, "## Kinds of block\n\n", *map(_kind, KINDS.values())]
    parts += ["## The spaces\n\n", *(_space(space, space.typical_input) for space in spaces if space.typical_input)]
    return "".join([*parts, OWN_SPACE, "\n", _primitives()])


def _kind(kind: BlockKind) -> str:
    lines = [f"### `{kind.name}`: {kind.title}", "", f"From {kind.source}.", "", "```text", kind.diagram, "```", ""]
    rows = [(f"`{choice.letter}`", choice.name, choice.meaning, _range(choice.values)) for choice in kind.choices]
    lines += _table(("letter", "choice", "meaning", "a space may choose from"), rows)
    if kind.is_cell:
        lines += ["", CELLS.format(example=EXAMPLE_CELL, benchmark=to_nasbench(Block.parse(EXAMPLE_CELL)))]
    return "\n".join([*lines, "", ""])


def _space(space: SearchSpace, shape: InputShape) -> str:
    height, width, channels = shape
    stem = space.stem
    rows = [
        ("resolution", _listed(space.resolutions(shape))),
        ("width", _listed(space.widths)),
        ("stem", f"{stem.channels} channels, kernel {stem.kernel}, stride {stem.stride}"),
    ]
    for index, (stage, choices) in enumerate(zip(space.stages, space.block_choices, strict=True)):
        blocks = "block" if stage.depths == (1,) else "blocks"
        chosen = "" if space.kind.is_cell else f"; {_choices(space, choices)}"
        text = f"{stage.channels} channels, stride {stage.stride}; {_listed(stage.depths)} {blocks}{chosen}"
        rows.append((f"stage {index}", text))
    if space.kind.is_cell:
        rows.append(("cell", _choices(space, space.block_choices[0])))
    rows.append(("architectures", _rounded(space.size(shape))))
    for name, largest in (("smallest", False), ("largest", True)):
        architecture = space.extreme(shape, largest=largest)
        graph = lower(architecture, space, shape, CLASSES)
        parameters = sum(tensor.elements for tensor in graph.tensors if tensor.is_constant)
        rows.append((name, f"{total_macs(graph):,} multiply-accumulates, {parameters:,} parameters"))
    description = f"{space.description[0].upper()}{space.description[1:]}. Blocks: `{space.block}`."
    figures = f"For inputs of {height}×{width}×{channels} and {CLASSES} classes:"
    return "\n".join([f"### `{space.name}`", "", description, "", figures, "", *_table(("", ""), rows), "", ""])


def _choices(space: SearchSpace, choices: tuple[tuple[int, ...], ...]) -> str:
    named = zip(space.kind.choices, choices, strict=True)
    return "; ".join(f"{choice.name} {_listed(values)}" for choice, values in named)


def _primitives() -> str:
    rows = [(each.name, str(each.macs), str(each.parameters), str(each.additions)) for each in PRIMITIVES]
    head = ("operation", "multiply-accumulates", "parameters, with biases", "other operations")
    letters = ", ".join(f"{letter}: {meaning}" for letter, meaning in DIMENSIONS.items())
    text = textwrap.fill(f"The formulas are those of MIT 6.5940. {letters}.", 120)
    return "\n".join(["## What an operation costs", "", text, "", *_table(head, rows), ""])


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *rows)]


def _range(values: Collection[int]) -> str:
    listed = [str(value) for value in values]
    return ", ".join(listed) if len(listed) <= 5 else f"{listed[0]}, {listed[1]} … {listed[-1]}"


def _listed(values: Sequence[int | float]) -> str:
    listed = [f"{value:g}" for value in values]
    return listed[0] if len(listed) == 1 else f"{', '.join(listed[:-1])} or {listed[-1]}"


def _rounded(count: int) -> str:
    return f"{count:,}" if count < 1_000_000 else f"{float(count):.1e}".replace("e+", " × 10^").replace("^0", "^")


if __name__ == "__main__":
    write_bytes(PAGE, page().encode())
