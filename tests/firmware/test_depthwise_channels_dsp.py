"""The Armv7E-M depthwise kernel for narrow maps on the emulated part, against LiteRT."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from export.graph import Activation, Graph
from export.kernels import kernels_of, tensors_in_planes
from export.kernels.dsp_depthwise_channels import DEPTHWISE_3X3_CHANNELS_DSP, DEPTHWISE_CHANNELS_DSP
from export.kernels.kernel import Kernel
from export.planner import plan
from tests.devices.toy_models import need
from tests.firmware.emulated import BOARD, Network, outputs_like_litert_s
from tinynas.measuring import random_inputs

NARROW = {DEPTHWISE_CHANNELS_DSP}


def signal() -> Graph:
    """A network of one dimension, which runs as a stream; channels that are no multiple of four."""
    network = Network((1, 64, 1, 3), seed=1).conv(10, (5, 1)).depthwise((7, 1), (2, 1)).conv(13)
    network.depthwise((4, 1), zero_point=9, activation=Activation.NONE).conv(8)
    network.depthwise((3, 1), same=False, zero_point=-7, activation=Activation.NONE).depthwise((1, 1))
    return network.depthwise((9, 1), (3, 1), zero_point=-1, activation=Activation.NONE).finish()


def squares() -> Graph:
    """3×3 windows on a few columns, padded on every side or none."""
    network = Network((1, 9, 4, 7), seed=2).depthwise().depthwise(stride=(2, 1)).depthwise(same=False)
    return network.conv(31).depthwise().depthwise(stride=(1, 2)).finish()


def windows() -> Graph:
    """Even and odd counts of taps, steps of three."""
    network = Network((1, 17, 6, 5), seed=3).depthwise((5, 5))
    network.depthwise((4, 2), zero_point=-5, activation=Activation.NONE).depthwise((2, 2), same=False)
    return network.depthwise((1, 5), (1, 3), zero_point=0, activation=Activation.NONE).finish()


def large_windows() -> Graph:
    """Windows larger than the map."""
    network = Network((1, 9, 5, 9), seed=5).depthwise((7, 7), zero_point=0, activation=Activation.NONE)
    return network.depthwise((5, 4), (3, 1), zero_point=127, activation=Activation.NONE).finish()


def clamped() -> Graph:
    """Clamps within the range of int8, for one rounding and for two; a wide map."""
    network = Network((1, 11, 21, 6), seed=4).depthwise((3, 1), activation=Activation.RELU6)
    return network.depthwise((2, 3), zero_point=9, activation=Activation.RELU_N1_TO_1).finish()


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize(
    ("network", "used"),
    [
        (signal, NARROW),
        (squares, {DEPTHWISE_3X3_CHANNELS_DSP}),
        (windows, NARROW),
        (large_windows, NARROW),
        (clamped, NARROW),
    ],
)
def test_depthwise_layers_are_bit_exact(
    network: Callable[[], Graph], used: set[Kernel], cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("arm-none-eabi-gcc", "make", "qemu-system-arm", "cc")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    graph = network()
    kernels = kernels_of(graph, BOARD.instruction_set)
    assert {kernel for kernel in kernels if "depthwise" in kernel.name} == used
    assert not tensors_in_planes(graph, kernels)
    if network is signal:
        assert plan(graph, BOARD.instruction_set).streamed_layers
    inputs = random_inputs(graph, 8, seed=2)
    inputs += [bytes([byte]) * len(inputs[0]) for byte in (0, 0x7F, 0x80, 0xFF)]
    outputs = outputs_like_litert_s(graph, inputs, tmp_path)
    assert len(set(outputs)) >= 8
