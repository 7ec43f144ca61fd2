"""Random int8 graphs through the whole compiler: what the C computes must be what LiteRT computes, bit for bit."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from devices.board import Board
from devices.boards import resolve_board
from devices.firmware import build_firmware
from devices.profile import load_profile
from export.atomic import write_bytes
from export.codegen import generate
from export.graph import Activation, DType, Graph, OpKind
from export.reader import parse_tflite
from export.schedule import is_streamable
from tests.devices.toy_models import need
from tests.export.graph_builder import GraphBuilder
from tests.export.host_build import SANITIZED, build_kernels, build_model, run_program
from tests.oracles.litert import run_reference
from tests.oracles.tflite_writer import write_tflite

EXAMPLES = 120
SLOW_EXAMPLES = int(os.environ.get("TINYNAS_RANDOM_GRAPHS", "500"))
EMULATED_EXAMPLES = 8
SLOW_EMULATED_EXAMPLES = int(os.environ.get("TINYNAS_RANDOM_EMULATED", "1000"))
DEVICE = os.environ.get("TINYNAS_RANDOM_DEVICE", "mps2-an386")

_activations = st.sampled_from(list(Activation))
_kernels = st.tuples(*[st.sampled_from([1, 2, 3, 5])] * 2)
_strides = st.tuples(*[st.sampled_from([1, 1, 2, 3])] * 2)
_dilations = st.tuples(*[st.integers(1, 3)] * 2)
_amounts = st.tuples(st.integers(0, 3), st.integers(0, 3))


@st.composite
def random_graphs(draw: st.DrawFn) -> tuple[Graph, list[np.ndarray]]:
    """A body of image layers with branches, perhaps a head, perhaps floats at either end; and two inputs."""
    size = (draw(st.integers(1, 12)), draw(st.integers(1, 12)), draw(st.integers(1, 8)))
    builder = GraphBuilder((1, *size), draw(st.integers(0, 2**31)), from_float=draw(st.booleans()))
    value = builder.entry
    for _ in range(draw(st.integers(0 if value != builder.input else 1, 6))):
        value = draw(_blocks(builder, value))
    if draw(st.booleans()):
        value = _head(draw, builder, value)
    if draw(st.integers(0, 3)) == 0:
        value = builder.dequantize(value)
    inputs = [builder.random_input() for _ in range(2)]
    return builder.finish(value), inputs


def _blocks(builder: GraphBuilder, value: int) -> st.SearchStrategy[int]:
    blocks = [_layer, _layer, _layer, _residual, _joined, _skip, _unused]
    return st.sampled_from(blocks).flatmap(lambda block: block(builder, value))


@st.composite
def _layer(draw: st.DrawFn, builder: GraphBuilder, value: int) -> int:
    rows, columns, channels = builder.shape(value)[1:]
    kind = draw(
        st.sampled_from(["conv", "pointwise", "depthwise", "average", "max", "pad", "relu", "quantize", "reshape"])
    )
    activation = draw(_activations)
    if kind in ("relu", "quantize"):
        operator = OpKind.QUANTIZE if kind == "quantize" else draw(st.sampled_from([OpKind.RELU, OpKind.RELU6]))
        return builder.elementwise(operator, value)
    if kind == "reshape":
        return builder.reshape(value, draw(st.permutations([rows, columns, channels]).map(lambda new: (1, *new))))
    if kind == "pad":
        return builder.pad(value, [draw(_amounts), draw(_amounts), draw(st.sampled_from([(0, 0), (0, 0), (1, 2)]))])
    if kind == "pointwise":
        return builder.conv(value, draw(st.integers(1, 12)), activation=activation)
    kernel, stride, dilation = draw(_kernels), draw(_strides), (1, 1)
    if kind in ("conv", "depthwise") and draw(st.integers(0, 3)) == 0:
        dilation, stride = draw(_dilations), (1, 1)
    reach = [(side - 1) * gap + 1 for side, gap in zip(kernel, dilation, strict=True)]
    same = reach[0] > rows or reach[1] > columns or draw(st.booleans())
    if kind in ("average", "max"):
        maximum = kind == "max"
        return builder.pool(value, kernel, stride, maximum=maximum, same=same, activation=activation)
    if kind == "depthwise":
        multiplier = draw(st.sampled_from([1, 1, 2, 3])) if channels < 12 else 1
        return builder.depthwise(
            value, kernel, stride, dilation=dilation, same=same, multiplier=multiplier, activation=activation
        )
    groups = draw(st.sampled_from([divisor for divisor in range(1, channels + 1) if channels % divisor == 0]))
    out = groups * draw(st.integers(1, max(1, 12 // groups)))
    return builder.conv(value, out, kernel, stride, dilation=dilation, same=same, groups=groups, activation=activation)


@st.composite
def _residual(draw: st.DrawFn, builder: GraphBuilder, value: int) -> int:
    """An inverted bottleneck, or the value added to itself."""
    branch, channels = value, builder.shape(value)[-1]
    if draw(st.integers(0, 5)):
        branch = builder.conv(branch, 2 * channels, activation=draw(_activations))
        branch = builder.depthwise(branch, draw(_kernels), activation=draw(_activations))
        branch = builder.conv(branch, channels)
    operands = draw(st.permutations([value, branch]))
    return builder.add(*operands, activation=draw(_activations))


@st.composite
def _skip(draw: st.DrawFn, builder: GraphBuilder, value: int) -> int:
    """A sum with any earlier value of the same shape, so that it lives through the layers between."""
    shape = builder.shape(value)
    earlier = [
        index
        for index, tensor in enumerate(builder.tensors)
        if tensor.shape == shape and tensor.dtype is DType.INT8 and not tensor.is_constant
    ]
    return builder.add(value, draw(st.sampled_from(earlier)), draw(_activations))


@st.composite
def _unused(draw: st.DrawFn, builder: GraphBuilder, value: int) -> int:
    """A layer whose output nobody reads."""
    draw(_layer(builder, value))
    return value


@st.composite
def _joined(draw: st.DrawFn, builder: GraphBuilder, value: int) -> int:
    """Branches that end in the value's own quantization, joined along any axis."""
    axis = draw(st.integers(1, 3))
    parts = [value]
    for _ in range(draw(st.integers(1, 2))):
        if draw(st.booleans()):
            parts.append(builder.pool(value, draw(_kernels), (1, 1), maximum=draw(st.booleans())))
        else:
            branch = builder.conv(value, builder.shape(value)[-1], draw(_kernels), activation=draw(_activations))
            parts.append(builder.requantize(branch, like=value))
    return builder.concatenate(draw(st.permutations(parts)), axis)


def _head(draw: st.DrawFn, builder: GraphBuilder, value: int) -> int:
    if draw(st.integers(0, 3)) == 0:  # a window of one dimension
        _, rows, columns, channels = builder.shape(value)
        value = builder.reshape(value, (1, rows * columns, channels))
    if draw(st.booleans()):
        value = builder.mean(value, keep=draw(st.booleans()))
    if len(builder.shape(value)) > 2 and draw(st.booleans()):
        value = builder.reshape(value, (1, int(np.prod(builder.shape(value)))))
    for _ in range(draw(st.integers(0, 2))):
        value = builder.fully_connected(value, draw(st.integers(1, 20)), draw(_activations))
    if builder.shape(value)[-1] >= 512 or draw(st.booleans()):  # LiteRT aborts when exponentials add up to 512
        return value
    return builder.softmax(value, draw(st.sampled_from([1.0, 0.5, 2.0])))


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_kernels(tmp_path_factory.mktemp("kernels"), "-O1", *SANITIZED)


def check(graph: Graph, inputs: list[np.ndarray], kernels: Path, folder: Path) -> None:
    content = write_tflite(graph)
    read = parse_tflite(content, graph.name)
    assert_same_graph(read, graph)
    for stream_input in ways_of_input(read):
        model = generate(read, stream_input=stream_input)
        program = build_model(model, kernels, folder, "-O0", *SANITIZED)
        found = run_program(program, inputs, graph.tensors[graph.outputs[0]])
        assert_outputs(graph, content, inputs, found)


def check_on_board(graph: Graph, inputs: list[np.ndarray], board: Board, folder: Path) -> None:
    """The same on the emulated board, with the kernels of its instruction set."""
    profile, output = load_profile(DEVICE), graph.tensors[graph.outputs[0]]
    for stream_input in ways_of_input(graph):
        model = generate(graph, profile.instruction_set, stream_input=stream_input)
        for name, text in model.files.items():
            write_bytes(folder / "model" / name, text.encode())
        board.flash(build_firmware(folder / "model", profile, folder))
        answers = board.outputs([value.tobytes() for value in inputs])
        found = [np.frombuffer(answer, output.dtype.value).reshape(output.shape) for answer in answers]
        assert_outputs(graph, write_tflite(graph), inputs, found)


def ways_of_input(graph: Graph) -> tuple[bool, ...]:
    """Whether the input is streamed: once not, once if that can be."""
    return (False, True) if is_streamable(graph, graph.operators[0]) else (False,)


def assert_outputs(graph: Graph, content: bytes, inputs: list[np.ndarray], found: list[np.ndarray]) -> None:
    for value, actual in zip(inputs, found, strict=True):
        (expected,) = run_reference(content, [value])
        different = int(np.sum(expected != actual))
        assert different == 0, f"{different} of {expected.size} outputs differ: {describe(graph)}"


def assert_same_graph(read: Graph, graph: Graph) -> None:
    """The reader finds the writer's graph; the file has more tensors, those that hold attributes."""
    assert read.operators == graph.operators
    assert (read.inputs, read.outputs) == (graph.inputs, graph.outputs)
    for found, expected in zip(read.tensors, graph.tensors, strict=False):
        assert (found.name, found.shape, found.dtype) == (expected.name, expected.shape, expected.dtype)
        assert found.quantization == expected.quantization
        assert found.is_constant == expected.is_constant
        if expected.data is not None:
            assert found.data is not None
            assert np.array_equal(found.data, expected.data)


def describe(graph: Graph) -> str:
    return "; ".join(
        f"{operator.kind.value} {[t.shape for t in graph.input_tensors(operator)]} {operator.window}"
        for operator in graph.operators
    )


_COMMON = {"suppress_health_check": list(HealthCheck), "deadline": None}


@settings(max_examples=EXAMPLES, **_COMMON)
@given(case=random_graphs())
def test_random_graphs_compute_what_litert_computes(
    case: tuple[Graph, list[np.ndarray]], kernels: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    check(*case, kernels, tmp_path_factory.mktemp("graph"))


@pytest.mark.slow
@pytest.mark.timeout(0)
@settings(max_examples=SLOW_EXAMPLES, **_COMMON)
@given(case=random_graphs())
def test_many_random_graphs_compute_what_litert_computes(
    case: tuple[Graph, list[np.ndarray]], kernels: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """As many as $TINYNAS_RANDOM_GRAPHS says."""
    check(*case, kernels, tmp_path_factory.mktemp("graph"))


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    """An emulated board, and a cache for this module in which the kernels are built once."""
    need("arm-none-eabi-gcc", "make", "qemu-system-arm", "cc")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        with resolve_board("emulator", DEVICE) as found:
            yield found


@settings(max_examples=EMULATED_EXAMPLES, **_COMMON)
@given(case=random_graphs())
def test_random_graphs_on_the_board(
    case: tuple[Graph, list[np.ndarray]], board: Board, tmp_path_factory: pytest.TempPathFactory
) -> None:
    check_on_board(*case, board, tmp_path_factory.mktemp("graph"))


@pytest.mark.slow
@pytest.mark.timeout(0)
@settings(max_examples=SLOW_EMULATED_EXAMPLES, **_COMMON)
@given(case=random_graphs())
def test_many_random_graphs_on_the_board(
    case: tuple[Graph, list[np.ndarray]], board: Board, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """As many as $TINYNAS_RANDOM_EMULATED says, on the device that $TINYNAS_RANDOM_DEVICE names."""
    check_on_board(*case, board, tmp_path_factory.mktemp("graph"))
