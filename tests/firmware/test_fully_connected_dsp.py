"""The Armv7E-M kernel of fully connected layers on the emulated part, against LiteRT."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from devices.emulator import EmulatedBoard
from devices.profile import load_profile
from export.graph import Activation, Quantization
from export.kernels import kernels_of
from export.kernels.dsp_fully_connected import FULLY_CONNECTED_DSP
from export.numerics import quantization_of
from tests.devices.toy_models import need
from tests.export.graph_builder import GraphBuilder
from tests.oracles.tflite_writer import write_tflite
from tinynas.measuring import build_image, compare_with_reference, random_inputs

BOARD = load_profile("mps2-an386")
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
    with EmulatedBoard(BOARD) as board:
        board.flash(build_image(graph, BOARD, tmp_path))
        outputs = board.outputs(inputs)
    compared = compare_with_reference(write_tflite(graph), inputs, outputs)
    assert (compared.identical, compared.max_abs_diff) == (len(inputs), 0)
    assert len(set(outputs)) == len(inputs)
