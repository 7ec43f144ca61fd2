"""The Armv7E-M kernel of fully connected layers on the emulated part, against LiteRT."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from export.graph import Activation, Quantization
from export.kernels import kernels_of
from export.kernels.dsp_fully_connected import FULLY_CONNECTED_DSP
from export.numerics import quantization_of
from tests.devices.toy_models import need
from tests.export.graph_builder import GraphBuilder
from tests.firmware.emulated import BOARD, outputs_like_litert_s
from tinynas.measuring import random_inputs

# Inputs with every rest modulo 4, whole and broken rounds of every loop, groups of six, two and one.
WIDTHS = (70, 64, 33, 25, 128, 19, 18, 15, 32, 29)
ZERO_POINTS = (-3, 9, -40, 0)


@pytest.mark.parametrize("batches", [1, 3])
def test_a_chain_of_layers_is_bit_exact(batches: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need("arm-none-eabi-gcc", "make", "qemu-system-arm", "cc")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    builder = GraphBuilder((batches, 131), seed=batches)
    value = builder.input
    for index, width in enumerate(WIDTHS):
        value = builder.fully_connected(value, width, Activation.RELU if index % 4 == 2 else Activation.NONE)
        # Zero points in the middle, so that what goes wrong in one layer reaches the end.
        scale = quantization_of(builder.tensors[value]).scale
        quantization = Quantization((scale,), (ZERO_POINTS[index % len(ZERO_POINTS)],))
        builder.tensors[value] = dataclasses.replace(builder.tensors[value], quantization=quantization)
    graph = builder.finish(value)
    assert set(kernels_of(graph, BOARD.instruction_set)) == {FULLY_CONNECTED_DSP}
    inputs = random_inputs(graph, 30, seed=2)
    inputs += [bytes([byte]) * len(inputs[0]) for byte in (0, 0x7F, 0x80, 0xFF)]
    outputs = outputs_like_litert_s(graph, inputs, tmp_path)
    assert len(set(outputs)) == len(inputs)
