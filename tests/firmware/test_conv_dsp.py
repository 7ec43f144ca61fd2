"""The Armv7E-M kernel of dense convolutions on the emulated part, against LiteRT."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from export.graph import Activation, Graph
from export.kernels import kernels_of, tensors_in_planes
from export.kernels.dsp_conv import CONV_DSP
from export.planner import plan
from tests.devices.toy_models import need
from tests.export.graph_builder import GraphBuilder
from tests.firmware.emulated import BOARD, outputs_like_litert_s, set_zero_point
from tinynas.measuring import random_inputs


def pixels_of_every_kind() -> Graph:
    """Colour, borders on both sides, rows left over by threes, odd channels, every rest of channels modulo 4."""
    builder = GraphBuilder((1, 23, 31, 3), seed=1)
    value = set_zero_point(builder, builder.conv(builder.input, 9, (3, 3), (1, 1)), -7)
    value = set_zero_point(builder, builder.conv(value, 8, (3, 3), (1, 1), activation=Activation.RELU), -128)
    value = set_zero_point(builder, builder.conv(value, 14, (3, 3), (2, 2)), 11)
    value = set_zero_point(builder, builder.conv(value, 6, (1, 1)), 0)
    value = set_zero_point(
        builder, builder.conv(value, 7, (4, 5), (2, 1), same=False, activation=Activation.RELU6), -100
    )
    value = set_zero_point(builder, builder.conv(value, 5, (3, 2), dilation=(1, 2)), 3)
    return builder.finish(value)


def deep_and_narrow() -> Graph:
    """Whole and broken rounds of every loop; rows of five, two and one pixels; a single pixel; a taller kernel."""
    builder = GraphBuilder((1, 24, 10, 1), seed=2)
    value = set_zero_point(builder, builder.conv(builder.input, 40, (10, 4), (2, 2), activation=Activation.RELU), -128)
    value = set_zero_point(builder, builder.conv(value, 72, activation=Activation.RELU), -128)
    value = set_zero_point(builder, builder.conv(value, 33, (3, 3), (2, 2)), -20)
    value = set_zero_point(builder, builder.conv(value, 36, (1, 1), (2, 2)), 5)
    value = set_zero_point(builder, builder.conv(value, 20, (3, 2), same=False), 9)
    value = set_zero_point(builder, builder.conv(value, 11), 1)
    return builder.finish(value)


def into_planes() -> Graph:
    """Rows stored channel by channel, of an odd number of channels and a pair of pixels left over."""
    builder = GraphBuilder((1, 15, 17, 3), seed=3)
    value = set_zero_point(builder, builder.conv(builder.input, 9, (3, 3), (1, 1), activation=Activation.RELU), -128)
    value = set_zero_point(builder, builder.depthwise(value, activation=Activation.RELU), -128)
    value = set_zero_point(builder, builder.conv(value, 12, activation=Activation.RELU), -128)
    return builder.finish(set_zero_point(builder, builder.depthwise(value), 4))


def one_layer() -> Graph:
    """A layer that runs whole: groups of pixels that reach over the ends of rows."""
    builder = GraphBuilder((1, 11, 8, 4), seed=4)
    return builder.finish(set_zero_point(builder, builder.conv(builder.input, 19, (3, 3)), 2))


def one_pointwise_layer() -> Graph:
    builder = GraphBuilder((1, 10, 7, 18), seed=5)
    return builder.finish(set_zero_point(builder, builder.conv(builder.input, 12, activation=Activation.RELU), -128))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize(
    "network", [pixels_of_every_kind, deep_and_narrow, into_planes, one_layer, one_pointwise_layer]
)
def test_convolutions_are_bit_exact(
    network: Callable[[], Graph], cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("arm-none-eabi-gcc", "make", "qemu-system-arm", "cc")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    graph = network()
    kernels = kernels_of(graph, BOARD.instruction_set)
    assert {kernel for kernel in kernels if "depthwise" not in kernel.name} == {CONV_DSP}
    assert bool(tensors_in_planes(graph, kernels)) == (network is into_planes)
    streamed = plan(graph, BOARD.instruction_set).streamed_layers
    assert bool(streamed) == (network in (pixels_of_every_kind, deep_and_narrow))
    inputs = random_inputs(graph, 8, seed=2)
    inputs += [bytes([byte]) * len(inputs[0]) for byte in (0, 0x7F, 0x80, 0xFF)]
    outputs = outputs_like_litert_s(graph, inputs, tmp_path)
    assert len(set(outputs)) >= 8
