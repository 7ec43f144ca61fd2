"""Networks on the emulated Cortex-M4, judged by LiteRT: what the tests of the Armv7E-M kernels share."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Self

from devices.emulator import EmulatedBoard
from devices.profile import load_profile
from export.graph import Activation, Graph, Quantization
from export.numerics import quantization_of
from tests.export.graph_builder import GraphBuilder
from tests.oracles.tflite_writer import write_tflite
from tinynas.measuring import build_image, compare_with_reference

BOARD = load_profile("mps2-an386")


class Network:
    """A chain of layers with given zero points: -128 after a ReLU is what one rounding asks for."""

    def __init__(self, shape: tuple[int, int, int, int], seed: int) -> None:
        self.builder = GraphBuilder(shape, seed=seed)
        self.value = self.builder.input

    def conv(self, channels: int, kernel: tuple[int, int] = (1, 1)) -> Self:
        return self._set(self.builder.conv(self.value, channels, kernel, activation=Activation.RELU), -128)

    def depthwise(
        self,
        kernel: tuple[int, int] = (3, 3),
        stride: tuple[int, int] = (1, 1),
        *,
        same: bool = True,
        activation: Activation = Activation.RELU,
        zero_point: int = -128,
    ) -> Self:
        layer = self.builder.depthwise(self.value, kernel, stride, same=same, activation=activation)
        return self._set(layer, zero_point)

    def finish(self) -> Graph:
        return self.builder.finish(self.value)

    def _set(self, value: int, zero_point: int) -> Self:
        self.value = set_zero_point(self.builder, value, zero_point)
        return self


def set_zero_point(builder: GraphBuilder, value: int, zero_point: int) -> int:
    """Zero points in the middle let what goes wrong in one layer reach the end; -128 after a ReLU rounds once."""
    quantization = Quantization((quantization_of(builder.tensors[value]).scale,), (zero_point,))
    builder.tensors[value] = dataclasses.replace(builder.tensors[value], quantization=quantization)
    return value


def outputs_like_litert_s(graph: Graph, inputs: list[bytes], folder: Path) -> list[bytes]:
    """The board's outputs, which have to be the reference kernels' bit for bit."""
    with EmulatedBoard(BOARD) as board:
        board.flash(build_image(graph, BOARD, folder))
        outputs = board.outputs(inputs)
    compared = compare_with_reference(write_tflite(graph), inputs, outputs)
    assert (compared.identical, compared.max_abs_diff) == (len(inputs), 0)
    return outputs
