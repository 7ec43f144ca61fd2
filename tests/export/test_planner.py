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


def test_residual_addition_is_in_place() -> None:
    """The first value, the branch, and the row that its pointwise layer needs: never three whole tensors."""
    builder = GraphBuilder((1, 10, 8, 4))
    branch = builder.conv(builder.input, 4)
    output = builder.add(builder.input, branch)
    assert arena(builder.finish(output)) == 2 * 10 * 8 * 4


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


def test_concatenation_needs_its_inputs_and_its_output() -> None:
    builder = GraphBuilder((1, 4, 4, 4))
    pooled = builder.pool(builder.input, (3, 3), (1, 1), maximum=True)
    output = builder.concatenate([builder.input, pooled])
    assert arena(builder.finish(output)) == 64 + 64 + 128


def test_fully_connected_layers_alternate() -> None:
    builder = GraphBuilder((1, 640))
    value = builder.input
    for outputs in (128, 128, 8, 640):
        value = builder.fully_connected(value, outputs)
    assert arena(builder.finish(value)) == 640 + 128


def test_a_value_that_is_read_later_is_not_overwritten() -> None:
    """The input is added at the end, so the depthwise layer may not work in place."""
    builder = GraphBuilder((1, 10, 8, 4))
    output = builder.add(builder.input, builder.depthwise(builder.input))
    assert arena(builder.finish(output)) == 2 * 10 * 8 * 4


def test_an_output_is_not_overwritten_by_a_later_layer() -> None:
    """The second layer's output is read by nobody, yet it may not lie on the first's, which the caller reads."""
    builder = GraphBuilder((1, 4, 4, 4))
    first = builder.elementwise(OpKind.RELU, builder.input)
    builder.elementwise(OpKind.RELU, first)
    assert arena(builder.finish(first)) == 2 * 64


def test_float_input_is_counted_in_bytes() -> None:
    builder = GraphBuilder((1, 10), from_float=True)
    assert arena(builder.finish(builder.entry)) == 4 * 10 + 12


@pytest.mark.parametrize(("name", "limit"), [("vww", 40_000), ("ic", 36_000), ("kws", 12_500), ("ad", 900)])
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
    assert median(ratios) <= 1.1


def test_planning_is_deterministic() -> None:
    first, second = (plan(random_candidate("mobilenet", 3)) for _ in range(2))
    assert first.buffers == second.buffers


# --- the judge of plans ----------------------------------------------------------------------------------------------


def survives(planned: Plan) -> bool:
    """Whether every byte that a kernel reads is still the one that was written for it, and lies inside the arena.

    Goes through the kernels' loops: windowed layers row by row, element-wise ones byte by byte, the others at once.
    All but the element-wise ones may read again after they have written within one piece (pixels are computed in pairs
    and fours, some twice). A byte's content is a serial number that no other byte of any value has.
    """
    graph = planned.graph
    memory = np.full(planned.arena_bytes, -1, np.int64)  # for each byte, the serial number of the value that it holds
    base: dict[int, int] = {buffer.tensor: buffer.offset for buffer in planned.buffers if buffer.tensor is not None}
    serial: dict[int, int] = {}
    scratch = {buffer.first_step: buffer for buffer in planned.buffers if buffer.tensor is None}
    if any(b.offset < 0 or b.offset + b.size_bytes > planned.arena_bytes for b in planned.buffers):
        return False
    issued = 0

    def begin(tensor: int) -> None:
        nonlocal issued
        serial[tensor] = issued
        issued += graph.tensors[tensor].size_bytes

    def write(tensor: int, where: np.ndarray) -> None:
        memory[base[tensor] + where] = serial[tensor] + where

    def intact(tensor: int, where: np.ndarray) -> bool:
        return bool(np.all(memory[base[tensor] + where] == serial[tensor] + where))

    def everything(tensor: int) -> np.ndarray:
        return np.arange(graph.tensors[tensor].size_bytes)

    for tensor in graph.inputs:
        begin(tensor)
        write(tensor, everything(tensor))
    for step, operator in enumerate(graph.operators):
        sources, target = graph.activations_in(operator), operator.outputs[0]
        if operator.kind is OpKind.RESHAPE:
            base[target], serial[target] = base[sources[0]], serial[sources[0]]
            continue
        begin(target)
        for reads, writes in accesses(graph, operator):
            if step in scratch:  # what is gathered there lives until the pixels have been computed
                held = scratch[step]
                memory[held.offset : held.offset + held.size_bytes] = -2
            if not all(intact(source, where) for source, where in zip(sources, reads, strict=True)):
                return False
            write(target, writes)
            if step in scratch and np.any(memory[held.offset : held.offset + held.size_bytes] != -2):
                return False
            if operator.kind not in ELEMENTWISE and not all(
                intact(source, where) for source, where in zip(sources, reads, strict=True)
            ):
                return False
    return all(intact(tensor, everything(tensor)) for tensor in graph.outputs)


ELEMENTWISE = (OpKind.ADD, OpKind.RELU, OpKind.RELU6, OpKind.QUANTIZE)


def accesses(graph: Graph, operator: Operator) -> list[tuple[list[np.ndarray], np.ndarray]]:
    """The bytes read of each input and then written, piece by piece in the kernel's order."""
    sources = [graph.tensors[index] for index in graph.activations_in(operator)]
    target = graph.output_tensor(operator)
    if operator.kind in ELEMENTWISE:
        size = sources[0].dtype.size_bytes
        return [([np.arange(size * i, size * (i + 1)) for _ in sources], np.array([i])) for i in range(target.elements)]
    if operator.window is None and operator.kind is not OpKind.PAD:
        return [([np.arange(source.size_bytes) for source in sources], np.arange(target.size_bytes))]
    (source,) = sources
    pixels_in = np.arange(source.elements).reshape(source.shape[1:])
    pixels_out = np.arange(target.elements).reshape(target.shape[1:])
    pieces = []
    for y in range(target.shape[1]):
        rows = rows_of_window(operator, y, source.shape[1])
        # Within a row the order is the kernel's own (pairs, fours, some pixels twice): the row is one piece.
        pieces.append(([pixels_in[rows].ravel()], pixels_out[y].ravel()))
    return pieces


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


def test_plans_survive_the_kernels() -> None:
    for seed in range(60):
        planned = plan(random_graph(seed))
        verify_plan(planned)
        assert survives(planned), seed


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
