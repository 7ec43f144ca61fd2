"""The Armv7E-M depthwise kernels on the emulated part, against LiteRT."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from export.graph import Activation, Graph, OpKind
from export.kernels import _FAMILIES, kernels_of, tensors_in_planes
from export.kernels.dsp_depthwise import (
    DEPTHWISE_3X3_DSP,
    DEPTHWISE_3X3_NARROW_DSP,
    DEPTHWISE_3X3_STRIDE2_DSP,
    DEPTHWISE_DSP,
)
from export.kernels.kernel import Kernel
from tests.devices.toy_models import need
from tests.firmware.emulated import BOARD, Network, outputs_like_litert_s
from tinynas.measuring import random_inputs


def planes() -> Graph:
    """Rows of channels, with and without padding, of widths with different rests modulo 4."""
    network = Network((1, 25, 30, 3), seed=1)
    return network.conv(9).depthwise().conv(6).depthwise(same=False).conv(7).depthwise().finish()


def planes_by_twos() -> Graph:
    network = Network((1, 25, 30, 3), seed=6)
    return network.conv(7).depthwise(stride=(2, 2)).conv(8).depthwise(stride=(1, 2), same=False).finish()


def pixels() -> Graph:
    """What is not stored as planes: channels that are gathered four at a time, and one by one."""
    network = Network((1, 21, 19, 8), seed=2)
    return network.depthwise().depthwise(same=False).depthwise(stride=(2, 2)).depthwise(stride=(2, 1)).finish()


def odd_pixels() -> Graph:
    network = Network((1, 12, 27, 5), seed=3)
    return network.depthwise().depthwise(stride=(1, 2)).depthwise(stride=(2, 2)).depthwise().finish()


def narrow() -> Graph:
    """Rows of seven, six and five columns, and of fewer than four."""
    network = Network((1, 17, 7, 6), seed=4)
    network.conv(9).depthwise().conv(4).depthwise((3, 2), same=False).conv(7).depthwise()
    return network.conv(6).depthwise((2, 2), same=False).depthwise().depthwise(stride=(1, 2)).depthwise().finish()


def large_windows() -> Graph:
    network = Network((1, 26, 22, 3), seed=5)
    network.depthwise((5, 5), zero_point=4, activation=Activation.NONE).conv(6)
    return network.depthwise((7, 7), (2, 2), zero_point=-60, activation=Activation.NONE).finish()


def other_windows() -> Graph:
    """Zero points in the middle, and windows of one row or column."""
    network = Network((1, 13, 17, 5), seed=7)
    network.depthwise((3, 2), zero_point=11, activation=Activation.NONE)
    network.depthwise((4, 2), (1, 3), zero_point=-5, activation=Activation.NONE)
    network.depthwise((3, 1), same=False, zero_point=0, activation=Activation.NONE)
    return network.depthwise((1, 3), zero_point=1, activation=Activation.NONE).finish()


def clamped() -> Graph:
    """Clamps within the range of int8, for one rounding and for two."""
    network = Network((1, 9, 11, 6), seed=8)
    network.depthwise((3, 3), zero_point=-128, activation=Activation.RELU6)
    return network.depthwise((3, 3), zero_point=9, activation=Activation.RELU_N1_TO_1).finish()


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize(
    ("network", "used"),
    [
        (planes, {DEPTHWISE_3X3_DSP}),
        (planes_by_twos, {DEPTHWISE_3X3_STRIDE2_DSP}),
        (pixels, {DEPTHWISE_3X3_DSP, DEPTHWISE_3X3_STRIDE2_DSP}),
        (odd_pixels, {DEPTHWISE_3X3_DSP, DEPTHWISE_3X3_STRIDE2_DSP, DEPTHWISE_3X3_NARROW_DSP}),
        (narrow, {DEPTHWISE_3X3_DSP, DEPTHWISE_3X3_STRIDE2_DSP, DEPTHWISE_3X3_NARROW_DSP, DEPTHWISE_DSP}),
        (large_windows, {DEPTHWISE_DSP}),
        (other_windows, {DEPTHWISE_DSP}),
        (clamped, {DEPTHWISE_3X3_DSP, DEPTHWISE_DSP}),
    ],
)
def test_depthwise_layers_are_bit_exact(
    network: Callable[[], Graph], used: set[Kernel], cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("arm-none-eabi-gcc", "make", "qemu-system-arm", "cc")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    # The kernel for narrow maps would take some of these layers.
    families = _FAMILIES[BOARD.instruction_set]
    others = tuple(k for k in families[OpKind.DEPTHWISE_CONV_2D] if "channels" not in k.name)
    monkeypatch.setitem(families, OpKind.DEPTHWISE_CONV_2D, others)
    graph = network()
    kernels = kernels_of(graph, BOARD.instruction_set)
    assert {kernel for kernel in kernels if "depthwise" in kernel.name} == used
    assert bool(tensors_in_planes(graph, kernels)) == (network in (planes, planes_by_twos, narrow, large_windows))
    inputs = random_inputs(graph, 8, seed=2)
    inputs += [bytes([byte]) * len(inputs[0]) for byte in (0, 0x7F, 0x80, 0xFF)]
    outputs = outputs_like_litert_s(graph, inputs, tmp_path)
    assert len(set(outputs)) >= 8
