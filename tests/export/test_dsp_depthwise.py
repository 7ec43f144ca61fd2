"""The constants of the Armv7E-M depthwise kernels: one rounding for two, and how weights and columns are laid out."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from export.graph import Activation, Graph, Quantization
from export.kernels.dsp_depthwise import (
    DEPTHWISE_3X3_DSP,
    DEPTHWISE_3X3_NARROW_DSP,
    DEPTHWISE_3X3_STRIDE2_DSP,
    DEPTHWISE_DSP,
    columns_3x3,
    pack_3x3,
    rounding_3x3,
)
from export.kernels.kernel import Kernel
from export.kernels.single_rounding import SHIFT, single_roundings, two_roundings
from export.numerics import Requantization, quantization_of
from tests.export.graph_builder import GraphBuilder

KERNELS = (DEPTHWISE_3X3_NARROW_DSP, DEPTHWISE_3X3_DSP, DEPTHWISE_3X3_STRIDE2_DSP, DEPTHWISE_DSP)


def random_requantization(
    rng: np.random.Generator, exponents: tuple[int, int], zero_point: int, channels: int = 48, minimum: int = -128
) -> Requantization:
    return Requantization(
        multipliers=rng.integers(1 << 30, 1 << 31, channels).astype(np.int32),
        shifts=-rng.integers(*exponents, channels, endpoint=True).astype(np.int8),
        output_zero_point=zero_point,
        minimum=minimum,
        maximum=127,
    )


def random_range(rng: np.random.Generator, channels: int = 48) -> tuple[np.ndarray, np.ndarray]:
    middle = rng.integers(-100_000, 400_000, channels)
    width = rng.integers(1, 300_000, channels)
    return middle - width, middle + width


def layer(
    columns: int,
    kernel: tuple[int, int] = (3, 3),
    stride: tuple[int, int] = (1, 1),
    *,
    same: bool = True,
    zero: int = -128,
) -> Graph:
    builder = GraphBuilder((1, 9, columns, 6), seed=columns)
    value = builder.depthwise(builder.input, kernel, stride, same=same, activation=Activation.RELU)
    quantization = Quantization((quantization_of(builder.tensors[value]).scale,), (zero,))
    builder.tensors[value] = dataclasses.replace(builder.tensors[value], quantization=quantization)
    return builder.finish(value)


@pytest.mark.parametrize(("zero_point", "minimum"), [(-128, -128), (-90, -90), (-128, -100)])
def test_one_rounding_gives_what_two_give(zero_point: int, minimum: int) -> None:
    rng = np.random.default_rng(3)
    requantization = random_requantization(rng, (3, 20), zero_point, channels=24, minimum=minimum)
    least, most = random_range(rng, channels=24)
    rounding = rounding_3x3(requantization, least, most)
    assert rounding is not None
    assert 256 in rounding.units
    assert 1 in rounding.units or minimum > zero_point  # far above the zero point, small scales give one value
    for i in range(len(least)):
        sums = np.arange(least[i], most[i] + 1)
        multiplier = requantization.multipliers[i : i + 1].astype(np.int64)
        exponent = -requantization.shifts[i : i + 1].astype(np.int64)
        wanted = np.clip(two_roundings(sums, multiplier, exponent, zero_point), minimum, 127)
        scaled = rounding.units[i] * sums + rounding.offsets[i]
        assert np.abs(scaled).max() < 1 << 31
        given = np.clip((scaled * rounding.multipliers[i]) >> (32 + SHIFT), -128, 127)
        np.testing.assert_array_equal(np.clip(given, minimum, 127), wanted)


def test_one_rounding_cannot_round_both_signs_away_from_zero() -> None:
    rng = np.random.default_rng(4)
    requantization = random_requantization(rng, (6, 6), 0)
    _, found = single_roundings(requantization, np.full(48, -30_000), np.full(48, 30_000))
    assert not found.any()


def test_a_channel_of_one_value_needs_no_weights() -> None:
    requantization = random_requantization(np.random.default_rng(5), (30, 31), -128)
    rounding = rounding_3x3(requantization, np.full(48, -5), np.full(48, 5000))
    assert rounding is not None
    assert not rounding.units.any()
    weights = np.arange(9 * 48, dtype=np.int64).astype(np.int8).reshape(48, 9)
    packed = pack_3x3(weights, np.zeros(48, np.int32), rounding).reshape(48, 5)
    assert not packed[:, :3].any()
    outputs = (packed[:, 3].astype(np.int64) * packed[:, 4]) >> (32 + SHIFT)
    assert set(outputs.tolist()) == {-128}


def test_weights_lie_where_the_cores_expect_them() -> None:
    """Every halfword is a weight times 256, once the other byte of it is masked out."""
    rng = np.random.default_rng(6)
    weights = rng.integers(-128, 128, (48, 9)).astype(np.int8)
    rounding = rounding_3x3(random_requantization(rng, (3, 5), -128), np.full(48, -50_000), np.full(48, 50_000))
    assert rounding is not None
    words = pack_3x3(weights, np.zeros(48, np.int32), rounding).reshape(48, 5).astype(np.int64)

    def halves(word: np.ndarray) -> np.ndarray:
        masked = word & 0xFF00FF00
        return np.stack([masked & 0xFFFF, masked >> 16], axis=1).astype(np.uint16).view(np.int16)

    first, second, third = words[:, 0], words[:, 1], words[:, 2]
    taps = 256 * weights.astype(np.int16).reshape(48, 3, 3)
    np.testing.assert_array_equal(halves(first), taps[:, :2, 0])
    np.testing.assert_array_equal(halves(first << 8), taps[:, :2, 1])
    np.testing.assert_array_equal(halves(second), taps[:, :2, 2])
    np.testing.assert_array_equal(halves(second << 8), taps[:, 2, [1, 0]])
    np.testing.assert_array_equal(halves(third)[:, 1], taps[:, 2, 2])


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("same", [True, False])
def test_columns_are_neither_lost_nor_read_twice(stride: int, same: bool) -> None:
    for size in range(3, 40):
        graph = layer(size, stride=(1, stride), same=same)
        (operator,) = graph.operators
        assert operator.window is not None
        columns = columns_3x3(graph, operator)
        left = operator.window.padding[1]
        alone = min(columns.start, 1)
        inside = alone + 4 * columns.blocks + columns.tail
        needed = (graph.output_tensor(operator).shape[2] - 1) * stride + 3
        assert left + inside + columns.right == needed
        assert inside <= size
        assert columns.read < inside + 4
        assert columns.tail < 4
        assert columns.right <= 1


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        (layer(6), DEPTHWISE_3X3_NARROW_DSP),
        (layer(8), DEPTHWISE_3X3_DSP),
        (layer(6, same=False), DEPTHWISE_3X3_DSP),
        (layer(6, stride=(2, 2)), DEPTHWISE_3X3_STRIDE2_DSP),
        (layer(9, stride=(3, 3)), DEPTHWISE_DSP),
        (layer(9, (5, 5)), DEPTHWISE_DSP),
        (layer(9, (3, 1)), DEPTHWISE_DSP),
    ],
)
def test_who_runs_what(graph: Graph, expected: Kernel) -> None:
    (operator,) = graph.operators
    takers = [kernel for kernel in KERNELS if kernel.fits(graph, operator)]
    assert takers[0] is expected
    for kernel in takers:
        assert kernel.accepts(graph, operator)
        arrays = [value for value in flat(kernel.fields(graph, operator)) if isinstance(value, np.ndarray)]
        assert [array.nbytes for array in arrays] == list(kernel.array_bytes(graph, operator))
        assert kernel.scratch_bytes(graph, operator) % 4 == 0


def flat(fields: object) -> list[object]:
    if isinstance(fields, dict):
        return [leaf for value in fields.values() for leaf in flat(value)]
    return [fields]
