"""The Armv7E-M kernel of additions on the emulated part, against LiteRT."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from export.graph import Activation, OpKind, Quantization
from export.kernels import kernel_of
from export.kernels.dsp_add import ADD_DSP
from tests.devices.toy_models import need
from tests.export.graph_builder import GraphBuilder
from tests.firmware.emulated import BOARD, outputs_like_litert_s
from tinynas.measuring import random_inputs


@pytest.mark.parametrize("columns", [2, 37])
def test_additions_are_bit_exact(columns: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs that replace either input, a clamp narrower than int8, and what is left over after whole words."""
    need("arm-none-eabi-gcc", "make", "qemu-system-arm", "cc")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    builder = GraphBuilder((1, 3, columns, 5), seed=columns)
    value, scale = builder.input, 0.02
    builder.tensors[value] = dataclasses.replace(builder.tensors[value], quantization=Quantization((scale,), (3,)))
    for index in range(6):
        other = builder.elementwise(OpKind.QUANTIZE, value, Quantization((0.9 * scale,), (-20 + 8 * index,)))
        pair = (other, value) if index % 2 else (value, other)
        value = builder.add(*pair, Activation.RELU if index == 5 else Activation.NONE)
        scale *= 1.9
        quantization = Quantization((scale,), (9 - 5 * index,))
        builder.tensors[value] = dataclasses.replace(builder.tensors[value], quantization=quantization)
    graph = builder.finish(value)
    additions = [operator for operator in graph.operators if operator.kind is OpKind.ADD]
    assert all(kernel_of(graph, operator, BOARD.instruction_set) is ADD_DSP for operator in additions)
    inputs = random_inputs(graph, 20, seed=3)
    outputs = outputs_like_litert_s(graph, inputs, tmp_path)
    assert len(set(b"".join(outputs))) > 64
