"""The plain C forms of the Armv7E-M depthwise kernels: models for such a device, built and run on the host."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from export.codegen import GeneratedModel, generate
from export.graph import Activation, Graph, Quantization
from export.kernels import kernels_of, tensors_in_planes
from export.kernels.dsp_depthwise import (
    DEPTHWISE_3X3_DSP,
    DEPTHWISE_3X3_NARROW_DSP,
    DEPTHWISE_3X3_STRIDE2_DSP,
    DEPTHWISE_DSP,
)
from export.kernels.kernel import Kernel
from export.numerics import quantization_of
from tests.export.graph_builder import GraphBuilder
from tests.export.host_build import SANITIZED, build_kernels, build_model, run_program
from tests.oracles.litert import run_reference
from tests.oracles.tflite_writer import write_tflite

CASES = (
    # columns, channels, kernel, stride, same, activation, who runs it
    (5, 3, (3, 3), (1, 1), True, Activation.RELU6, DEPTHWISE_3X3_NARROW_DSP),
    (6, 5, (3, 3), (1, 1), True, Activation.RELU6, DEPTHWISE_3X3_NARROW_DSP),
    (12, 6, (3, 3), (1, 1), True, Activation.RELU6, DEPTHWISE_3X3_DSP),
    (12, 6, (3, 3), (2, 1), False, Activation.RELU6, DEPTHWISE_3X3_DSP),
    (6, 3, (3, 3), (1, 1), False, Activation.RELU6, DEPTHWISE_3X3_DSP),
    (6, 3, (3, 3), (2, 2), True, Activation.RELU6, DEPTHWISE_3X3_STRIDE2_DSP),
    (12, 5, (3, 3), (2, 2), True, Activation.RELU6, DEPTHWISE_3X3_STRIDE2_DSP),
    (12, 5, (3, 3), (1, 2), False, Activation.RELU6, DEPTHWISE_3X3_STRIDE2_DSP),
    (15, 5, (3, 3), (1, 1), True, Activation.NONE, DEPTHWISE_DSP),
    (12, 5, (5, 5), (1, 1), False, Activation.RELU6, DEPTHWISE_DSP),
    (6, 3, (5, 5), (2, 2), True, Activation.NONE, DEPTHWISE_DSP),
    (5, 3, (7, 7), (1, 1), True, Activation.NONE, DEPTHWISE_DSP),
    (12, 3, (7, 7), (2, 1), False, Activation.RELU6, DEPTHWISE_DSP),
    (12, 5, (3, 5), (1, 1), True, Activation.NONE, DEPTHWISE_DSP),
)
PAIR = tuple[int, int]


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_kernels(tmp_path_factory.mktemp("kernels"), "-O1", *SANITIZED)


@pytest.mark.parametrize("stream_input", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("planes", [False, True], ids=["nhwc", "planes"])
@pytest.mark.parametrize(("columns", "channels", "kernel", "stride", "same", "activation", "expected"), CASES)
def test_plain_form_gives_what_litert_gives(
    columns: int,
    channels: int,
    kernel: PAIR,
    stride: PAIR,
    same: bool,
    activation: Activation,
    expected: Kernel,
    planes: bool,
    stream_input: bool,
    kernels: Path,
    tmp_path: Path,
) -> None:
    """The layer reads the graph's input, or channel by channel what a convolution writes."""
    builder, graph = built(columns, channels, kernel, stride, same, activation, planes)
    chosen = kernels_of(graph, "dsp")
    assert chosen[-1] is expected
    assert len(tensors_in_planes(graph, chosen)) == planes
    model = generate(graph, "dsp", stream_input=stream_input)
    check(graph, [builder.random_input() for _ in range(3)], model, kernels, tmp_path)


def test_small_scales_come_with_weights_as_they_are(kernels: Path, tmp_path: Path) -> None:
    builder = GraphBuilder((1, 9, 12, 8), seed=5)
    layer = builder.depthwise(builder.input, activation=Activation.RELU)
    requantize(builder, layer, zero_point=-128, coarser=200)
    graph = builder.finish(layer)
    (kernel,) = kernels_of(graph, "dsp")
    assert kernel is DEPTHWISE_3X3_DSP
    packed = kernel.fields(graph, graph.operators[0])["channels"]
    assert isinstance(packed, np.ndarray)
    assert (packed.reshape(-1, 5)[:, 4] < 0).any()
    # Only large sums make outputs differ.
    inputs = [np.where(builder.random_input() < 0, -128, 127).astype(np.int8)]
    check(graph, inputs, generate(graph, "dsp"), kernels, tmp_path)


def built(
    columns: int, channels: int, kernel: PAIR, stride: PAIR, same: bool, activation: Activation, planes: bool
) -> tuple[GraphBuilder, Graph]:
    builder = GraphBuilder((1, 11, columns, channels), seed=columns)
    value = builder.conv(builder.input, channels) if planes else builder.input
    layer = builder.depthwise(value, kernel, stride, same=same, activation=activation)
    # The 3x3 kernels need the zero point to be the lower clamp.
    requantize(builder, layer, zero_point=5 if activation is Activation.NONE else -100)
    return builder, builder.finish(layer)


def requantize(builder: GraphBuilder, layer: int, *, zero_point: int, coarser: int = 1) -> None:
    tensor = builder.tensors[layer]
    quantization = Quantization((quantization_of(tensor).scale * coarser,), (zero_point,))
    builder.tensors[layer] = dataclasses.replace(tensor, quantization=quantization)


def check(graph: Graph, inputs: list[np.ndarray], model: GeneratedModel, kernels: Path, folder: Path) -> None:
    program = build_model(model, kernels, folder / "model", "-O1", *SANITIZED)
    outputs = run_program(program, inputs, graph.tensors[graph.outputs[0]])
    for value, output in zip(inputs, outputs, strict=True):
        (reference,) = run_reference(write_tflite(graph), [value])
        assert len(np.unique(reference)) > 1
        assert output.tobytes() == reference.tobytes()
