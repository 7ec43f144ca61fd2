"""The planner against arenas worked out by hand, the verifier against an independent replay of the kernels' bytes."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from statistics import median

import numpy as np
import pytest

from export.errors import PlanError
from export.graph import Activation, Graph, Operator, OpKind
from export.planner import Buffer, Plan, plan
from export.reader import read_tflite
from export.schedule import is_streamable
from export.verify_plan import verify_plan
from tests.export.graph_builder import GraphBuilder
from tinynas.lower import lower
from tinynas.space import load_space

# --- arenas by hand --------------------------------------------------------------------------------------------------


def arena(graph: Graph) -> int:
    planned = plan(graph)
    verify_plan(planned)
    assert planned.arena_bytes >= planned.lower_bound_bytes
    return planned.arena_bytes


def test_depthwise_needs_its_input_and_two_rows() -> None:
    """Row y writes below input row y - 1: SAME 3×3 looks one row up, and its own row is the second."""
    builder = GraphBuilder((1, 10, 8, 4))
    assert arena(builder.finish(builder.depthwise(builder.input))) == 10 * 8 * 4 + 2 * 8 * 4


def test_depthwise_without_padding_needs_its_input_and_one_row() -> None:
    builder = GraphBuilder((1, 10, 8, 4))
    output = builder.depthwise(builder.input, same=False)
    assert builder.shape(output) == (1, 8, 6, 4)
    assert arena(builder.finish(output)) == 10 * 8 * 4 + 6 * 4


def test_pointwise_in_place_needs_its_input_and_one_row() -> None:
    builder = GraphBuilder((1, 10, 8, 4))
    assert arena(builder.finish(builder.conv(builder.input, 4))) == 10 * 8 * 4 + 8 * 4


def test_widening_pointwise_needs_its_output_and_one_input_row() -> None:
    """Output row y ends where input row y starts at the latest, so only the last input row sticks out."""
    builder = GraphBuilder((1, 10, 8, 4))
    assert arena(builder.finish(builder.conv(builder.input, 32))) == 10 * 8 * 32 + 8 * 4


def test_convolution_has_scratch_for_two_windows() -> None:
    builder = GraphBuilder((1, 10, 8, 4))
    output = builder.conv(builder.input, 4, (3, 3))
    assert arena(builder.finish(output)) == 10 * 8 * 4 + 2 * 8 * 4 + 2 * 3 * 3 * 4


def test_residual_branch_is_one_row() -> None:
    """Streamed: the first value, over which the sum goes as it comes, one row of the branch, and two counters."""
    builder = GraphBuilder((1, 10, 8, 4))
    branch = builder.conv(builder.input, 4)
    output = builder.add(builder.input, branch)
    assert arena(builder.finish(output)) == 10 * 8 * 4 + 8 * 4 + 4


def test_relu_and_requantization_are_in_place() -> None:
    builder = GraphBuilder((1, 10, 8, 4))
    output = builder.elementwise(OpKind.QUANTIZE, builder.elementwise(OpKind.RELU, builder.input))
    assert arena(builder.finish(output)) == 10 * 8 * 4


def test_reshape_is_a_view() -> None:
    builder = GraphBuilder((1, 5, 5, 4))
    output = builder.fully_connected(builder.reshape(builder.input, (1, 100)), 8)
    graph = builder.finish(output)
    assert arena(graph) == 100 + 8
    planned = plan(graph)
    assert planned.buffer_of(graph.operators[0].outputs[0]) == planned.buffer_of(graph.inputs[0])


def test_concatenation_over_rows_needs_its_inputs_and_its_output() -> None:
    builder = GraphBuilder((1, 4, 4, 4))
    pooled = builder.pool(builder.input, (3, 3), (1, 1), maximum=True)
    output = builder.concatenate([builder.input, pooled], 1)
    assert arena(builder.finish(output)) == 64 + 64 + 128


def test_concatenation_of_channels_is_streamed() -> None:
    """The output, a row of the branch and the counters; the input goes as the output comes, two rows at a time."""
    builder = GraphBuilder((1, 8, 4, 4))
    branch = builder.conv(builder.input, 4)
    output = builder.concatenate([builder.input, branch])
    assert arena(builder.finish(output)) == 8 * 4 * 8 + 4 * 4 + 4 * 4 + 4


def test_a_stream_of_bottlenecks_needs_rows_instead_of_maps() -> None:
    """Two inverted bottlenecks on 32 × 32: the wide tensors are three rows and one row each."""
    builder = GraphBuilder((1, 32, 32, 8))
    value = builder.input
    for _ in range(2):
        value = builder.add(value, builder.conv(builder.depthwise(builder.conv(value, 48)), 8))
    planned = plan(builder.finish(value))
    verify_plan(planned)
    wide_rows = 32 * 48 * (3 + 1)
    assert planned.arena_bytes < 32 * 32 * 8 + 2 * wide_rows + 8 * 32 * 8
    assert {b.ring_rows for b in planned.buffers if b.name.startswith("depthwise")} == {1}


def test_streamed_input_is_a_ring() -> None:
    builder = GraphBuilder((1, 64, 16, 3))
    output = builder.conv(builder.conv(builder.input, 8, (3, 3), (2, 2)), 8)
    planned = plan(builder.finish(output), stream_input=True)
    verify_plan(planned)
    assert planned.buffer_of(builder.input).ring_rows == 3
    assert planned.order.count(-1) == 64
    assert planned.arena_bytes < 64 * 16 * 3


def test_input_of_a_layer_that_needs_it_whole_is_not_streamed() -> None:
    builder = GraphBuilder((1, 10))
    graph = builder.finish(builder.fully_connected(builder.input, 4))
    with pytest.raises(PlanError, match="fully_connected_0' needs it whole"):
        plan(graph, stream_input=True)


def test_no_plan_is_larger_than_layer_by_layer() -> None:
    graphs = [random_candidate("mobilenet", seed) for seed in range(20)]
    streamed = [plan(graph).arena_bytes for graph in graphs]
    whole = [plan(graph, streams=False).arena_bytes for graph in graphs]
    assert all(a <= b for a, b in zip(streamed, whole, strict=True))
    assert sum(streamed) < 0.7 * sum(whole)


def test_fully_connected_layers_alternate() -> None:
    builder = GraphBuilder((1, 640))
    value = builder.input
    for outputs in (128, 128, 8, 640):
        value = builder.fully_connected(value, outputs)
    assert arena(builder.finish(value)) == 640 + 128


def test_a_value_that_is_read_later_is_not_overwritten() -> None:
    """The input is added over rows, so the depthwise layer may not work in place."""
    builder = GraphBuilder((1, 10, 8, 4))
    output = builder.concatenate([builder.input, builder.depthwise(builder.input)], 1)
    assert arena(builder.finish(output)) == 4 * 10 * 8 * 4


def test_an_output_is_not_overwritten_by_a_later_layer() -> None:
    """The second layer's output is read by nobody, yet it may not lie on the first's, which the caller reads."""
    builder = GraphBuilder((1, 4, 4, 4))
    first = builder.reshape(builder.input, (1, 64))
    builder.elementwise(OpKind.RELU, first)
    assert arena(builder.finish(first)) == 2 * 64


def test_float_input_is_counted_in_bytes() -> None:
    builder = GraphBuilder((1, 10), from_float=True)
    assert arena(builder.finish(builder.entry)) == 4 * 10 + 12


@pytest.mark.parametrize(("name", "limit"), [("vww", 30_000), ("ic", 16_000), ("kws", 8_500), ("ad", 900)])
def test_reference_models(references: Path, name: str, limit: int) -> None:
    """TensorFlow Lite Micro needs 100,708, 54,996, 22,820 and 2,580 bytes."""
    assert arena(read_tflite(references / "models" / f"{name}.tflite")) <= limit


# --- many graphs -----------------------------------------------------------------------------------------------------

SPACES = {"mobilenet": (96, 96, 3), "mobilenet_small": (28, 28, 1)}


def random_candidate(space_name: str, seed: int) -> Graph:
    space, shape = load_space(space_name), SPACES[space_name]
    return lower(space.sample(random.Random(seed), shape), space, shape, 10)


@pytest.mark.parametrize("space_name", SPACES)
def test_candidates_are_planned_well(space_name: str) -> None:
    ratios = []
    for seed in range(100):
        planned = plan(random_candidate(space_name, seed))
        verify_plan(planned)
        assert planned.arena_bytes >= planned.lower_bound_bytes
        ratios.append(planned.arena_bytes / planned.lower_bound_bytes)
    assert median(ratios) <= 1.05
    assert max(ratios) <= 1.25


def test_planning_is_deterministic() -> None:
    first, second = (plan(random_candidate("mobilenet", 3)) for _ in range(2))
    assert first.buffers == second.buffers


# --- the judge of plans ----------------------------------------------------------------------------------------------


def survives(planned: Plan) -> bool:
    """Whether every byte that a kernel reads is still the one that was written for it, and lies inside the arena.

    Follows the schedule through the kernels' loops: windowed layers and reductions row by row, element-wise ones
    element by element, the others at once. All but the element-wise ones may read again after they have written within
    one piece (pixels are computed in blocks). A byte's content is a serial number that no other byte of any value has.
    """
    if any(b.offset < 0 or b.offset + b.size_bytes > planned.arena_bytes for b in planned.buffers):
        return False
    return _Memory(planned).survives()


class _Memory:
    SCRATCH, COUNTERS = -2, -3

    def __init__(self, planned: Plan) -> None:
        self.planned, self.graph = planned, planned.graph
        self.memory = np.full(planned.arena_bytes, -1, np.int64)  # for each byte, the serial number of what it holds
        self.serial: dict[int, int] = {}
        self.issued = 0

    def begin(self, tensor: int) -> None:
        if tensor not in self.serial:
            self.serial[tensor] = self.issued
            self.issued += self.graph.tensors[tensor].size_bytes

    def place(self, tensor: int, where: np.ndarray) -> np.ndarray:
        buffer = self.planned.buffer_of(tensor)
        if buffer.ring_rows is None:
            return buffer.offset + where
        shape = self.graph.tensors[tensor]
        row_bytes = shape.size_bytes // shape.shape[1]
        return buffer.offset + where // row_bytes % buffer.ring_rows * row_bytes + where % row_bytes

    def write(self, tensor: int, where: np.ndarray) -> None:
        self.memory[self.place(tensor, where)] = self.serial[tensor] + where

    def intact(self, tensor: int, where: np.ndarray) -> bool:
        if tensor not in self.serial:
            return not where.size  # a row of padding needs nothing
        return bool(np.all(self.memory[self.place(tensor, where)] == self.serial[tensor] + where))

    def everything(self, tensor: int) -> np.ndarray:
        return np.arange(self.graph.tensors[tensor].size_bytes)

    def survives(self) -> bool:
        graph, planned = self.graph, self.planned
        streamed_input = -1 in planned.order
        for tensor in graph.inputs:
            self.begin(tensor)
            if not streamed_input:
                self.write(tensor, self.everything(tensor))
        if planned.counters is not None:
            self.fill(planned.counters, self.COUNTERS)
        units = {layer: iter(accesses(graph, operator)) for layer, operator in enumerate(graph.operators)}
        arrivals = iter(np.split(self.everything(graph.inputs[0]), graph.tensors[graph.inputs[0]].shape[1]))
        for layer in planned.order:
            if layer == -1:
                self.write(graph.inputs[0], next(arrivals))
                continue
            streamed = layer in planned.streamed_layers
            if streamed and not self.holds(planned.counters, self.COUNTERS):
                return False
            for pieces in [next(units[layer])] if streamed else units[layer]:
                if not self.run(layer, pieces):
                    return False
        return all(self.intact(tensor, self.everything(tensor)) for tensor in graph.outputs)

    def fill(self, buffer: Buffer, value: int) -> None:
        self.memory[buffer.offset : buffer.offset + buffer.size_bytes] = value

    def holds(self, buffer: Buffer, value: int) -> bool:
        return bool(np.all(self.memory[buffer.offset : buffer.offset + buffer.size_bytes] == value))

    def run(self, layer: int, pieces: list[Piece]) -> bool:
        """One unit of a layer."""
        operator = self.graph.operators[layer]
        sources, target = self.graph.activations_in(operator), operator.outputs[0]
        if operator.kind is OpKind.RESHAPE:
            self.serial[target] = self.serial[sources[0]]
            return True
        scratch = self.planned.scratch[layer]
        sums = self.SCRATCH - 2 - layer if is_mean(self.graph, operator) else None
        self.begin(target)
        for reads, writes, is_first in pieces:
            if scratch is not None and (sums is None or is_first):
                self.fill(scratch, sums or self.SCRATCH)
            if not all(self.intact(source, where) for source, where in zip(sources, reads, strict=True)):
                return False
            if scratch is not None and not self.holds(scratch, sums or self.SCRATCH):
                return False
            self.write(target, writes)
            if operator.kind in ELEMENTWISE or sums is not None:
                continue
            if scratch is not None and not self.holds(scratch, self.SCRATCH):
                return False
            if not all(self.intact(source, where) for source, where in zip(sources, reads, strict=True)):
                return False
        return True


ELEMENTWISE = (OpKind.ADD, OpKind.RELU, OpKind.RELU6, OpKind.QUANTIZE)

Piece = tuple[list[np.ndarray], np.ndarray, bool]
"""The bytes read of each input, the bytes then written, and whether it is the layer's first piece."""


def is_mean(graph: Graph, operator: Operator) -> bool:
    """Whether the layer adds up rows: a mean over the map, or a pool with one output that covers it."""
    source, target = graph.input_tensors(operator)[0], graph.output_tensor(operator)
    if operator.kind is OpKind.MEAN:
        return len(source.shape) == 4 and set(operator.axes) == {1, 2}
    window = operator.window
    return (
        operator.kind is OpKind.AVERAGE_POOL_2D and window.kernel == source.shape[1:3] and target.shape[1:3] == (1, 1)
    )


def accesses(graph: Graph, operator: Operator) -> list[list[Piece]]:
    """Unit by unit, the bytes read of each input and then written, piece by piece in the kernel's order."""
    sources = [graph.tensors[index] for index in graph.activations_in(operator)]
    target = graph.output_tensor(operator)
    nothing = np.arange(0)
    if operator.kind in ELEMENTWISE:
        size, rows = sources[0].dtype.size_bytes, target.shape[1] if len(target.shape) == 4 else 1
        elements = [
            ([np.arange(size * i, size * (i + 1)) for _ in sources], np.array([i]), i == 0)
            for i in range(target.elements)
        ]
        width = len(elements) // rows
        return [elements[width * row : width * (row + 1)] for row in range(rows)]
    if is_mean(graph, operator):
        rows = np.split(np.arange(sources[0].elements), sources[0].shape[1])
        last = len(rows) - 1
        return [[([row], np.arange(target.elements) if y == last else nothing, y == 0)] for y, row in enumerate(rows)]
    if operator.kind is OpKind.CONCATENATION and operator.axes[0] > 1:
        rows_in = [np.split(np.arange(source.elements), source.shape[1]) for source in sources]
        rows_out = np.split(np.arange(target.elements), target.shape[1])
        return [[([rows[y] for rows in rows_in], row, y == 0)] for y, row in enumerate(rows_out)]
    if operator.window is None and operator.kind is not OpKind.PAD:
        return [[([np.arange(source.size_bytes) for source in sources], np.arange(target.size_bytes), True)]]
    (source,) = sources
    pixels_in = np.arange(source.elements).reshape(source.shape[1:])
    pixels_out = np.arange(target.elements).reshape(target.shape[1:])
    # Within a row the order is the kernel's own (blocks of pixels, some of them twice): the row is one piece.
    return [
        [([pixels_in[rows_of_window(operator, y, source.shape[1])].ravel()], pixels_out[y].ravel(), y == 0)]
        for y in range(target.shape[1])
    ]


def rows_of_window(operator: Operator, y: int, height: int) -> list[int]:
    if operator.kind is OpKind.PAD:
        rows = [y - operator.pads[1][0]]
    else:
        window = operator.window
        assert window is not None
        rows = [y * window.stride[0] - window.padding[0] + tap * window.dilation[0] for tap in range(window.kernel[0])]
    return [row for row in rows if 0 <= row < height]


def random_graph(seed: int) -> Graph:
    """Small, with every way in which buffers may overlay."""
    rng = random.Random(seed)
    builder = GraphBuilder((1, rng.randint(2, 7), rng.randint(2, 7), rng.choice([1, 3, 4])), seed)
    value = builder.input
    for _ in range(rng.randint(2, 6)):
        shape = builder.shape(value)
        match rng.randrange(8):
            case 0:
                value = builder.conv(value, rng.randint(1, 9), (rng.choice([1, 3]), 3), (rng.choice([1, 2]), 1))
            case 1:
                value = builder.conv(value, rng.randint(1, 12))
            case 2:
                value = builder.depthwise(value, (3, 3), (rng.choice([1, 1, 2]), 1), multiplier=rng.choice([1, 2]))
            case 3:
                value = builder.add(value, builder.conv(value, shape[3]))
            case 4:
                value = builder.pad(value, [(rng.randint(0, 2), 1), (0, 1), (0, 0)])
            case 5:
                pooled = builder.pool(value, (2, 2), (1, 1))
                value = builder.concatenate([value, pooled], rng.randint(1, 3))
            case 6:
                value = builder.elementwise(OpKind.QUANTIZE, value)
            case 7:
                value = builder.reshape(value, (1, shape[2], shape[1], shape[3]))
    if rng.random() < 0.5:
        value = builder.fully_connected(builder.mean(value), 5, Activation.RELU)
    return builder.finish(value)


def verified(planned: Plan) -> bool:
    try:
        verify_plan(planned)
    except PlanError:
        return False
    return True


def moved(planned: Plan, position: int, offset: int) -> Plan:
    buffers = list(planned.buffers)
    buffers[position] = dataclasses.replace(buffers[position], offset=offset)
    end = max(buffer.offset + buffer.size_bytes for buffer in buffers)
    return dataclasses.replace(planned, buffers=tuple(buffers), arena_bytes=max(planned.arena_bytes, end))


@pytest.mark.parametrize("stream_input", [False, True])
def test_plans_survive_the_kernels(stream_input: bool) -> None:
    streamed = 0
    for seed in range(80):
        graph = random_graph(seed)
        if stream_input and not is_streamable(graph, graph.operators[0]):
            continue
        planned = plan(graph, stream_input=stream_input)
        verify_plan(planned)
        assert survives(planned), seed
        streamed += bool(planned.streamed_layers)
    assert streamed > 30


def test_verifier_accepts_no_harmful_plan() -> None:
    """Buffers moved by a few bytes, or onto others: whatever breaks a value must be refused."""
    harmful = accepted = 0
    for seed in range(60):
        rng = random.Random(seed)
        planned = plan(random_graph(seed))
        for _ in range(12):
            position = rng.randrange(len(planned.buffers))
            buffer: Buffer = planned.buffers[position]
            shift = rng.choice([-64, -16, -8, -4, -2, -1, 1, 2, 4, 8, 16, 64])
            offset = buffer.offset + shift if rng.random() < 0.7 else rng.choice(planned.buffers).offset
            mutant = moved(planned, position, max(0, offset))
            ok = survives(mutant)
            harmful += not ok
            accepted += ok and verified(mutant)
            if not ok:
                assert not verified(mutant), f"seed {seed}: '{buffer.name}' moved to {offset}"
    assert harmful > 150, "the mutations test too little"
    assert accepted > 50, "the verifier refuses harmless plans as well"


def test_verifier_refuses_a_buffer_outside_the_arena() -> None:
    builder = GraphBuilder((1, 4, 4, 4))
    planned = plan(builder.finish(builder.conv(builder.input, 4)))
    with pytest.raises(PlanError, match="leaves the arena"):
        verify_plan(dataclasses.replace(planned, arena_bytes=planned.arena_bytes - 4))


def test_verifier_refuses_missing_layers() -> None:
    builder = GraphBuilder((1, 4, 4, 4))
    planned = plan(builder.finish(builder.conv(builder.conv(builder.input, 4), 4)))
    with pytest.raises(PlanError, match="segments"):
        verify_plan(dataclasses.replace(planned, segments=planned.segments[:1]))


def test_verifier_refuses_a_missing_buffer() -> None:
    builder = GraphBuilder((1, 4, 4, 4))
    planned = plan(builder.finish(builder.conv(builder.input, 4)))
    with pytest.raises(PlanError, match="no buffer"):
        verify_plan(dataclasses.replace(planned, buffers=planned.buffers[:1]))
