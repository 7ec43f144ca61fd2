"""The cells of NAS-Bench-201: four nodes, an operator on each of the six edges between them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from export.graph import Activation
from tinynas.architecture import Block, Unit
from tinynas.blocks.kind import BlockKind, Choice
from tinynas.errors import SearchError
from tinynas.graph_builder import GraphBuilder

OPERATORS = ("none", "skip_connect", "avg_pool_3x3", "nor_conv_1x1", "nor_conv_3x3")
"""NAS-Bench-201's names, from the cheapest to the most expensive; an edge's value is the index."""
NONE, SKIP, POOL, CONV_1X1, CONV_3X3 = range(len(OPERATORS))
ADD = len(OPERATORS)
"""Of two values, in the steps of a cell."""
KERNEL_SIDES = {CONV_1X1: 1, CONV_3X3: 3}

EDGES: tuple[tuple[str, int, int], ...] = (
    ("a", 0, 1),
    ("b", 0, 2),
    ("c", 1, 2),
    ("d", 0, 3),
    ("e", 1, 3),
    ("f", 2, 3),
)
"""Letter, first and second node, in the order of NAS-Bench-201's text; node 0 is the input and node 3 the output."""
OUTPUT = 3


def live_edges(block: Block) -> tuple[tuple[str, int, int], ...]:
    """The edges on a way from the input to the output.

    The others are not computed. An edge out of a node that nothing reaches could add a constant per channel at most,
    which the convolutions' biases hold already.
    """
    used = [edge for edge in EDGES if block[edge[0]] != NONE]
    reached, needed = {0}, {OUTPUT}
    for _, first, second in used:
        if first in reached:
            reached.add(second)
    for _, first, second in sorted(used, key=lambda edge: -edge[2]):
        if second in needed:
            needed.add(first)
    return tuple(edge for edge in used if edge[1] in reached and edge[2] in needed)


def repaired(block: Block) -> Block:
    """A cell without a way from input to output gets a skip connection from the one to the other."""
    if live_edges(block):
        return block
    return Block(tuple((letter, SKIP if letter == "d" else value) for letter, value in block.choices))


def to_nasbench(block: Block) -> str:
    """The cell in NAS-Bench-201's text form: ``|nor_conv_3x3~0|+|none~0|skip_connect~1|+|…|``."""
    nodes = (
        "".join(f"{OPERATORS[block[letter]]}~{first}|" for letter, first, second in EDGES if second == node)
        for node in range(1, OUTPUT + 1)
    )
    return "+".join(f"|{node}" for node in nodes)


def from_nasbench(text: str) -> Block:
    """Read NAS-Bench-201's text form. Raises SearchError when ``text`` is none."""
    found = [edge.split("~") for node in text.split("+") for edge in node.strip("|").split("|")]
    try:
        block = Block(tuple((edge[0], OPERATORS.index(name)) for edge, (name, _) in zip(EDGES, found, strict=True)))
    except ValueError:
        block = None
    if block is None or to_nasbench(block) != text:
        raise SearchError(
            f"'{text}' is not a cell of NAS-Bench-201; write it as in "
            "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|none~1|nor_conv_1x1~2|"
        )
    return block


@dataclass(frozen=True, slots=True)
class Step:
    """One layer of a cell, which makes the value ``result`` of the ``operands``; the cell's input is the value 0."""

    operator: int
    """An edge's, or ADD."""
    letter: str
    """The edge, or for a sum the edge that it adds."""
    operands: tuple[int, ...]
    result: int


@cache
def steps(block: Block) -> tuple[Step, ...]:
    """The layers of a cell, edge by edge, a pool or sum that occurs twice only once. The last is the output."""
    done: dict[tuple[int, str, tuple[int, ...]], Step] = {}

    def value_of(operator: int, letter: str, *operands: int) -> int:
        # Two convolutions differ in their weights, even with the same operands.
        key = (operator, letter if operator in KERNEL_SIDES else "", operands)
        return done.setdefault(key, Step(operator, letter, operands, len(done) + 1)).result

    nodes = {0: 0}
    for letter, first, second in live_edges(block):
        term = nodes[first]
        if block[letter] != SKIP:
            term = value_of(block[letter], letter, term)
        nodes[second] = value_of(ADD, letter, nodes[second], term) if second in nodes else term
    return tuple(done.values())


@cache
def converted_steps(block: Block) -> tuple[Step, ...]:
    """`steps` as TensorFlow's converter orders them: a sum or pool as soon as what has weights before it is computed.

    It sorts a graph depth first, beginning with the weights, so that layers with weights keep their order.
    """
    listed = steps(block)
    order: list[Step] = []
    visited: set[int] = set()

    def visit(value: int) -> None:
        visited.add(value)
        for step in reversed(listed):
            if value in step.operands and step.result not in visited:
                visit(step.result)
        if value:
            order.append(listed[value - 1])

    for step in reversed(listed):
        if step.operator in KERNEL_SIDES and step.result not in visited:
            visit(step.result)
    visit(0)
    return tuple(reversed(order))


def lower(builder: GraphBuilder, value: int, unit: Unit) -> int:
    """The layers of the live edges and the sums of the nodes."""
    assert unit.block is not None
    values = {0: value}
    for step in converted_steps(unit.block):
        operands, name = [values[operand] for operand in step.operands], f"{unit.name}.{step.letter}"
        if step.operator == ADD:
            values[step.result] = builder.add(operands[0], operands[1], f"{name}.add")
        elif step.operator == POOL:
            values[step.result] = builder.average_pool(operands[0], 3, 1, name)
        else:
            values[step.result] = builder.conv(operands[0], unit.channels, KERNEL_SIDES[step.operator], 1, name)
    return values[len(values) - 1]


def lower_reduction(builder: GraphBuilder, value: int, unit: Unit) -> int:
    """The residual block between two stages: two 3×3 convolutions, and a strided 1×1 convolution around them."""
    name = unit.name
    entry, value = value, builder.conv(value, unit.channels, 3, unit.stride, f"{name}.first")
    value = builder.conv(value, unit.channels, 3, 1, f"{name}.second", Activation.NONE)
    entry = builder.conv(entry, unit.channels, 1, unit.stride, f"{name}.shortcut", Activation.NONE)
    return builder.add(value, entry, f"{name}.add", Activation.RELU6)


CELL = BlockKind(
    name="cell",
    title="cell of NAS-Bench-201",
    source="NAS-Bench-201 (Dong and Yang, ICLR 2020)",
    choices=tuple(
        Choice(f"edge{first}{second}", letter, f"operator from node {first} to node {second}", range(len(OPERATORS)))
        for letter, first, second in EDGES
    ),
    diagram="""\
node 0, the input ─ a ─> node 1        a node is the sum of the edges into it
node 0 ─ b, node 1 ─ c ─> node 2       0: none, 1: skip_connect, 2: avg_pool_3x3,
node 0 ─ d, node 1 ─ e, node 2 ─ f     3: nor_conv_1x1, 4: nor_conv_3x3
       ─> node 3, the output           (nor_conv: convolution, batch normalization, ReLU6)

between two stages, a reduction:
input ─┬─ 3×3 convolution with the stride, ReLU6
       │  3×3 convolution
       └─ + ─ ReLU6 ─ output                 what is added goes through a 1×1 convolution with the stride""",
    lower=lower,
    is_cell=True,
    is_valid=lambda block: bool(live_edges(block)),
    repaired=repaired,
)
