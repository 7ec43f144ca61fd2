"""The Armv7E-M kernel of additions on the emulated part, against LiteRT."""

from __future__ import annotations

from pathlib import Path

import pytest

from devices.emulator import EmulatedBoard
from devices.profile import load_profile
from export.dsp_add import ADD_DSP
from export.graph import Activation, OpKind
from export.kernels import kernel_of
from tests.devices.toy_models import need
from tests.export.graph_builder import GraphBuilder
from tests.oracles.tflite_writer import write_tflite
from tinynas.measuring import build_image, compare_with_reference, random_inputs

BOARD = load_profile("mps2-an386")


@pytest.mark.parametrize("columns", [2, 37])
def test_additions_are_bit_exact(columns: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every activation, outputs that replace either input, and what is left over after whole words."""
    need("arm-none-eabi-gcc", "make", "qemu-system-arm", "cc")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    builder = GraphBuilder((1, 3, columns, 5), seed=columns)
    value = builder.input
    for index, activation in enumerate(Activation):
        other = builder.elementwise(OpKind.QUANTIZE, value, builder.quantization())
        value = builder.add(other, value, activation) if index % 2 else builder.add(value, other, activation)
    graph = builder.finish(value)
    additions = [operator for operator in graph.operators if operator.kind is OpKind.ADD]
    assert all(kernel_of(graph, operator, BOARD.instruction_set) is ADD_DSP for operator in additions)
    inputs = random_inputs(graph, 20, seed=3)
    with EmulatedBoard(BOARD) as board:
        board.flash(build_image(graph, BOARD, tmp_path))
        compared = compare_with_reference(write_tflite(graph), inputs, board.outputs(inputs))
    assert (compared.identical, compared.max_abs_diff) == (len(inputs), 0)
