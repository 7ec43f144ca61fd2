"""The portable form of Armv7E-M's dense convolutions, built for the host, must compute what LiteRT computes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from export.codegen import GeneratedModel, generate
from export.graph import Activation, Graph, OpKind
from export.kernels import kernels_of
from export.kernels.dsp_conv import CONV_DSP
from tests.export.graph_builder import GraphBuilder, Pair
from tests.export.host_build import SANITIZED, build_kernels, build_model, run_program
from tests.oracles.litert import run_reference
from tests.oracles.tflite_writer import write_tflite

ONE, TWO = Activation.RELU6, Activation.NONE
"""What leaves most channels to one rounding, and what rounds all of them twice."""

Case = tuple[tuple[int, int, int], int, Pair, Pair, Pair, Activation]
CASES: dict[str, Case] = {
    "color": ((9, 8, 3), 8, (3, 3), (2, 2), (1, 1), ONE),
    "color, two roundings": ((9, 8, 3), 5, (3, 3), (2, 2), (1, 1), TWO),
    "pointwise, odd channels": ((3, 5, 7), 3, (1, 1), (1, 1), (1, 1), TWO),
    "pointwise, one byte": ((2, 3, 1), 2, (1, 1), (1, 1), (1, 1), ONE),
    "pointwise, strides": ((5, 7, 8), 9, (1, 1), (2, 3), (1, 1), ONE),
    "long window": ((14, 6, 1), 6, (10, 4), (2, 1), (1, 1), ONE),
    "dilated columns": ((8, 9, 3), 5, (3, 3), (1, 1), (2, 2), ONE),
    "dilated columns, whole words": ((8, 9, 4), 4, (2, 3), (1, 1), (3, 2), TWO),
    "dilated rows": ((9, 4, 3), 3, (3, 1), (1, 1), (2, 3), TWO),
    "window larger than the input": ((2, 3, 5), 4, (5, 5), (1, 1), (1, 1), TWO),
    "one pixel": ((1, 1, 9), 7, (1, 1), (1, 1), (1, 1), Activation.RELU),
}


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_kernels(tmp_path_factory.mktemp("kernels"), "-O1", *SANITIZED)


def outputs(model: GeneratedModel, inputs: list[np.ndarray], kernels: Path, folder: Path) -> list[np.ndarray]:
    graph = model.plan.graph
    program = build_model(model, kernels, folder, "-O0", *SANITIZED)
    return run_program(program, inputs, graph.tensors[graph.outputs[0]])


def layer(case: Case, seed: int, same: bool) -> tuple[Graph, list[np.ndarray]]:
    """A convolution and inputs at random and at the extremes."""
    shape, channels, kernel, stride, dilation, activation = case
    builder = GraphBuilder((1, *shape), seed)
    value = builder.conv(builder.input, channels, kernel, stride, dilation=dilation, same=same, activation=activation)
    inputs = [builder.random_input(), builder.random_input()]
    inputs += [np.full_like(inputs[0], extreme) for extreme in (-128, 127)]
    return builder.finish(value), inputs


def assert_litert(graph: Graph, inputs: list[np.ndarray], found: list[np.ndarray]) -> None:
    content = write_tflite(graph)
    for value, actual in zip(inputs, found, strict=True):
        (expected,) = run_reference(content, [value])
        assert np.array_equal(actual, expected)


@pytest.mark.parametrize("name", CASES)
def test_one_layer(name: str, kernels: Path, tmp_path: Path) -> None:
    (rows, columns, _), _, (kernel_rows, kernel_columns), _, (down, across), _ = CASES[name]
    fits = (kernel_rows - 1) * down < rows and (kernel_columns - 1) * across < columns
    for seed in range(3):
        graph, inputs = layer(CASES[name], seed, same=seed > 0 or not fits)
        assert kernels_of(graph, "dsp") == (CONV_DSP,)
        assert_litert(graph, inputs, outputs(generate(graph, "dsp"), inputs, kernels, tmp_path / str(seed)))


def test_planes(kernels: Path, tmp_path: Path) -> None:
    """Rows that are stored channel by channel, which otherwise only depthwise layers read."""
    graph, inputs = layer(CASES["color"], 0, same=True)
    model = generate(graph, "dsp")
    code = model.files["model.c"]
    assert code.count(".output_planes = 0") == 1
    planes = {**model.files, "model.c": code.replace(".output_planes = 0", ".output_planes = 1")}
    found = outputs(dataclasses.replace(model, files=planes), inputs, kernels, tmp_path)
    _, rows, columns, channels = found[0].shape
    assert_litert(graph, inputs, [value.reshape(1, rows, channels, columns).swapaxes(2, 3) for value in found])


def test_both_ways_to_round_occur() -> None:
    ways: set[int] = set()
    for case in CASES.values():
        graph, _ = layer(case, 1, same=True)
        fields = CONV_DSP.fields(graph, graph.operators[0])
        stream, steps = np.asarray(fields["stream"]), fields["steps"]
        assert isinstance(steps, int)
        ways.add(int(stream[2 + 2 * steps]) >> 31)
    assert ways == {0, 1}


@pytest.mark.parametrize("stream_input", [False, True], ids=["input", "rows"])
def test_streamed_layers(stream_input: bool, kernels: Path, tmp_path: Path) -> None:
    builder = GraphBuilder((1, 26, 14, 3), seed=4)
    value = builder.conv(builder.input, 6, (3, 3), (2, 2), activation=ONE)
    value = builder.conv(value, 48, activation=ONE)
    value = builder.conv(value, 9, (3, 3), dilation=(2, 2))
    value = builder.pool(value, (2, 2), (1, 1), maximum=True)
    value = builder.elementwise(OpKind.RELU6, builder.conv(value, 5, (5, 3), activation=Activation.RELU))
    graph = builder.finish(builder.mean(value))
    inputs = [builder.random_input() for _ in range(3)]
    model = generate(graph, "dsp", stream_input=stream_input)
    assert any(buffer.ring_rows for buffer in model.plan.buffers)
    assert kernels_of(graph, "dsp").count(CONV_DSP) == 4
    assert_litert(graph, inputs, outputs(model, inputs, kernels, tmp_path))
