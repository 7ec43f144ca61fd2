"""Networks of Helium kernels on the emulated Cortex-M55, against LiteRT's reference kernels, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from devices.emulator import EmulatedBoard
from devices.firmware import build_firmware
from devices.profile import load_profile
from export.codegen import generate
from export.graph import Activation, Graph, Quantization
from export.kernels import kernels_of
from tests.devices.toy_models import need
from tests.export.graph_builder import GraphBuilder
from tests.oracles.litert import run_reference
from tests.oracles.tflite_writer import write_tflite

RELU, RELU6 = Activation.RELU, Activation.RELU6


def windows() -> Graph:
    """Dense windows gathered row by row and column by column, odd channels, strides, more channels than one chunk."""
    b = GraphBuilder((1, 13, 11, 3), seed=1, name="windows")
    x = b.conv(b.entry, 13, (3, 3), (2, 2), activation=RELU)
    x = b.conv(x, 20, (3, 3))
    x = b.conv(x, 65, activation=RELU6)
    x = b.conv(x, 2, (2, 5), (1, 2), dilation=(2, 1))
    x = b.conv(x, 9, stride=(2, 1))
    x = b.conv(x, 17, (2, 3), dilation=(1, 3))
    return b.finish(b.conv(x, 66, (5, 1), activation=RELU))


class RectifiedBuilder(GraphBuilder):
    """All zero points are the lower clamp, as in networks whose activations are ReLUs."""

    def quantization(self, scale: float | None = None) -> Quantization:
        return Quantization(super().quantization(scale).scales, (-128,))


def shallow() -> Graph:
    """Windows of 16 inputs or fewer, whose weights stay in registers, and channels that are no multiple of four."""
    b = RectifiedBuilder((1, 9, 11, 1), seed=5, name="shallow")
    x = b.conv(b.entry, 16, (3, 3), (2, 2), activation=RELU)
    x = b.conv(x, 14, activation=RELU)
    x = b.conv(x, 5, stride=(1, 2), activation=RELU)
    x = b.conv(x, 3, (1, 2), activation=RELU)
    return b.finish(b.conv(x, 23, (1, 4), activation=RELU))


def depthwise(b: GraphBuilder | None = None) -> Graph:
    """Vectors within a pixel, across pixels, with a last block that overlaps, and of fewer channels than lanes."""
    b = b or GraphBuilder((1, 14, 12, 8), seed=2, name="depthwise")
    x = b.depthwise(b.entry, activation=RELU)
    x = b.depthwise(x, (3, 3), (2, 2), activation=RELU)
    x = b.conv(x, 37, activation=RELU)
    x = b.depthwise(x, activation=RELU)
    x = b.depthwise(x, (5, 4), activation=RELU)
    x = b.conv(x, 16)
    x = b.depthwise(x, dilation=(2, 2), activation=RELU6)
    x = b.conv(x, 32)
    x = b.depthwise(x, (3, 3), (1, 2), same=False, activation=RELU)
    x = b.conv(x, 11)
    return b.finish(b.depthwise(x, (2, 2), activation=RELU))


def rectified_depthwise() -> Graph:
    """The same where saturation is the clamp."""
    return depthwise(RectifiedBuilder((1, 14, 12, 8), seed=6, name="rectified depthwise"))


def residuals() -> Graph:
    """Additions of tensors with scales and zero points of their own, some into one of their inputs."""
    b = GraphBuilder((1, 5, 5, 7), seed=3, name="residuals")
    x = b.entry
    for activation in (Activation.NONE, RELU, RELU6, Activation.NONE):
        x = b.add(x, b.conv(x, 7, (3, 3)), activation)
        x = b.add(b.conv(x, 7), x)
    return b.finish(x)


def dense() -> Graph:
    """Fully connected layers whose outputs are a multiple neither of six nor of two, and depths of 16."""
    b = GraphBuilder((1, 40), seed=4, name="dense")
    return b.finish(b.fully_connected(b.fully_connected(b.fully_connected(b.entry, 103, RELU), 2), 19, RELU6))


@pytest.mark.parametrize(
    "network",
    [windows, shallow, depthwise, rectified_depthwise, residuals, dense],
    ids=lambda network: network.__name__,
)
def test_outputs_are_those_of_litert(network: Callable[[], Graph], tmp_path: Path) -> None:
    need("arm-none-eabi-gcc", "make", "qemu-system-arm", "cc")
    graph = network()
    profile = load_profile("mps3-an547")
    used = [kernel.name for kernel in kernels_of(graph, profile.instruction_set)]
    assert all(name.endswith("_mve_s8") for name in used), used
    for name, text in generate(graph, profile.instruction_set).files.items():
        (tmp_path / name).write_text(text)
    rng = np.random.default_rng(0)
    shape = graph.tensors[graph.inputs[0]].shape
    inputs = [rng.integers(-128, 128, shape, dtype=np.int8) for _ in range(3)] + [np.full(shape, -128, np.int8)]
    with EmulatedBoard(profile) as board:
        board.flash(build_firmware(tmp_path, profile, tmp_path / "out"))
        outputs = board.outputs([data.tobytes() for data in inputs])
    model = write_tflite(graph)
    for data, output in zip(inputs, outputs, strict=True):
        (expected,) = run_reference(model, [data])
        assert output == expected.tobytes()
