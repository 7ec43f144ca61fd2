"""The Armv7E-M sums behind means and global pools on the emulated part, against LiteRT."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.devices.toy_models import need
from tests.export.graph_builder import GraphBuilder
from tests.firmware.emulated import outputs_like_litert_s
from tinynas.measuring import random_inputs


@pytest.mark.parametrize(("shape", "is_pool"), [((1, 19, 29, 7), False), ((1, 32, 16, 8), True), ((1, 3, 1, 5), True)])
def test_sums_are_bit_exact(
    shape: tuple[int, int, int, int], is_pool: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More pixels than 16 bits can sum, odd counts of them, and channels beyond a multiple of four."""
    need("arm-none-eabi-gcc", "make", "qemu-system-arm", "cc")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    builder = GraphBuilder(shape, seed=shape[1])
    size = (shape[1], shape[2])
    value = builder.pool(builder.input, size, size, same=False) if is_pool else builder.mean(builder.input)
    graph = builder.finish(value)
    inputs = random_inputs(graph, 4, seed=1)
    inputs += [bytes([byte]) * len(inputs[0]) for byte in (0x7F, 0x80)]
    outputs_like_litert_s(graph, inputs, tmp_path)
