"""The packing of dense convolutions for Armv7E-M: the core's arithmetic, done in numpy, against plain products."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from graph_builder import GraphBuilder

from export import numerics
from export.dsp_conv import (
    CONV_DSP,
    Runs,
    accumulator_range,
    inner_columns,
    pack_stream,
    pack_weights,
    runs_of,
    scaling_of,
)
from export.generic_kernels import folded_weights
from export.graph import Activation, Graph, Operator, Quantization
from export.numerics import Requantization

RUNS = [Runs(1, 16), Runs(3, 9), Runs(10, 4), Runs(9, 3), Runs(4, 7), Runs(1, 1), Runs(5, 2)]


def _halves(words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return (words & 0xFFFF).astype(np.uint16).astype(np.int16), (words >> 16).astype(np.uint16).astype(np.int16)


def _products(inputs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """What the core adds for each word: SMLSD(UXTB16(inputs), weights) + SMLSDX(SXTB16(weights, ROR #16), inputs)."""
    (x_low, x_high), (w_low, w_high) = _halves(inputs), _halves(weights)
    even_low, even_high = inputs & 0xFF, inputs >> 16 & 0xFF
    odd_low, odd_high = w_high.astype(np.int8).astype(np.int64), w_low.astype(np.int8).astype(np.int64)
    smlsd = even_low * w_low.astype(np.int64) - even_high * w_high.astype(np.int64)
    smlsdx = odd_low * x_high.astype(np.int64) - odd_high * x_low.astype(np.int64)
    return np.asarray(smlsd + smlsdx, np.int64)


def _gather(window: np.ndarray, runs: Runs, rng: np.random.Generator) -> np.ndarray:
    """The window as the kernel packs it: flipped in its even bytes, with anything where there is no tap."""
    packed = rng.integers(-128, 128, 4 * runs.steps, dtype=np.int8)
    packed[runs.positions()] = window
    return (packed.view("<u4") ^ np.uint32(0x00800080)).astype(np.int64)


@pytest.mark.parametrize("runs", RUNS)
def test_the_core_adds_256_times_the_products(runs: Runs) -> None:
    rng = np.random.default_rng(runs.bytes)
    depth = runs.count * runs.bytes
    weights = rng.integers(-127, 128, (5, depth), dtype=np.int8)
    weights[0], weights[1], weights[2] = 127, -127, np.where(np.arange(depth) % 2, 127, -127)
    words = pack_weights(weights, runs).astype(np.int64)
    for window in (rng.integers(-128, 128, depth), np.full(depth, -128), np.full(depth, 127)):
        expected = weights.astype(np.int64) @ window
        packed = _gather(window.astype(np.int8), runs, rng)
        even = np.zeros(4 * runs.steps, np.int64)
        even[::2] = 128
        flipped = weights.astype(np.int64) @ even[runs.positions()]
        assert np.array_equal(_products(packed, words).sum(axis=1), 256 * (expected + flipped))


@pytest.mark.parametrize("runs", RUNS)
def test_every_tap_has_its_own_byte(runs: Runs) -> None:
    positions = runs.positions()
    assert len(set(positions)) == runs.count * runs.bytes
    assert positions.max() < 4 * runs.steps
    whole = np.arange(runs.count * runs.bytes).reshape(runs.count, runs.bytes)[:, : runs.bytes // 4 * 4]
    # Whole words stay whole, so that a run can be copied by words.
    assert np.all(positions[whole[:, ::4]] % 4 == 0)
    for byte in range(4):
        assert np.array_equal(positions[whole[:, byte::4]], positions[whole[:, ::4]] + byte)


def _litert(accumulators: np.ndarray, multiplier: int, exponent: int, r: Requantization) -> np.ndarray:
    """Two roundings, as ``tn_high_multiply`` and ``tn_round_shift`` do them."""
    value = (accumulators * multiplier + (1 << 30)) >> 31
    if exponent:
        value = (((value + (value >> 63)) >> (exponent - 1)) + 1) >> 1
    return np.asarray(np.clip(value + r.output_zero_point, r.minimum, r.maximum))


def _core(accumulators: np.ndarray, multiplier: int, rounding: int, shift: int, correct: bool) -> np.ndarray:
    """SMMLA, ASR and SSAT, all in 32 bits."""
    scaled = accumulators * 256
    assert np.all(np.abs(scaled) < 1 << 31)
    addend = rounding - (128 * (accumulators < 0) if correct else 0)
    total = (scaled * multiplier >> 32) + addend
    assert np.all(np.abs(total) < 1 << 31)
    return np.asarray(np.clip(total >> shift, -128, 127))


def _requantization(multiplier: int, exponent: int, zero_point: int, minimum: int) -> Requantization:
    return Requantization(np.array([multiplier], np.int32), np.array([-exponent], np.int8), zero_point, minimum, 127)


@pytest.mark.parametrize("exponent", range(25))
@pytest.mark.parametrize(("zero_point", "minimum"), [(-128, -128), (-128, -100), (0, -128), (17, 17), (127, -128)])
def test_requantization_rounds_like_litert(exponent: int, zero_point: int, minimum: int) -> None:
    rng = np.random.default_rng(exponent)
    limit = (1 << 23) - 1
    accepted = 0
    for multiplier in (1 << 30, (1 << 30) + 1, (1 << 31) - 1, 0x55555555, *rng.integers(1 << 30, 1 << 31, 4)):
        r = _requantization(int(multiplier), exponent, zero_point, minimum)
        scaling = scaling_of(r, np.array([-limit]), np.array([limit]))
        if scaling is None:
            continue
        accepted += 1
        # All small ones, random ones, and those next to every change of the output.
        levels = np.arange(-140, 140) * 2 + 1
        edges = (levels << (30 + exponent)) // int(multiplier)
        near = (edges[:, None] + np.arange(-3, 4)).ravel()
        some = np.concatenate([np.arange(-4096, 4096), rng.integers(-limit, limit + 1, 20000), near])
        accumulators = some[np.abs(some) <= limit]
        got = _core(
            accumulators,
            int(scaling.multipliers[0]),
            int(scaling.rounding[0]),
            int(scaling.shifts[0]),
            not scaling.negatives_may_vary,
        )
        expected = _litert(accumulators, int(multiplier), exponent, r)
        assert np.array_equal(np.clip(got, r.minimum, r.maximum), expected)
    # The exponents that trained layers have are all taken; 0 needs a clamp that hides negative halves.
    if exponent <= 15:
        assert accepted == (8 if exponent > 0 or minimum >= zero_point else 0)


def test_a_channel_that_never_leaves_the_zero_point_may_have_any_scale() -> None:
    r = _requantization((1 << 31) - 1, 31, -3, -128)
    least, most = np.array([-(1 << 25)]), np.array([1 << 24])
    scaling = scaling_of(r, least, most)
    assert scaling is not None
    assert scaling.multipliers[0] == 0
    rounding, shift = int(scaling.rounding[0]), int(scaling.shifts[0])
    assert rounding >> shift == (rounding - 128) >> shift == -3
    assert scaling_of(_requantization((1 << 31) - 1, 8, -3, -128), least, most) is None


def _layer(channels: int, **options: Any) -> tuple[Graph, Operator]:
    builder = GraphBuilder((1, 6, 7, 5), 3)
    graph = builder.finish(builder.conv(builder.input, channels, **options))
    return graph, graph.operators[0]


@pytest.mark.parametrize("channels", [2, 3, 4, 9])
@pytest.mark.parametrize("dilation", [(1, 1), (2, 2)])
def test_the_stream_holds_all_channels_in_pairs(channels: int, dilation: tuple[int, int]) -> None:
    graph, operator = _layer(channels, kernel=(3, 3), dilation=dilation)
    weights, bias = folded_weights(graph, operator)
    runs = runs_of(graph, operator)
    scaling = scaling_of(numerics.conv_requantization(graph, operator), *accumulator_range(weights, bias))
    assert scaling is not None
    pairs = pack_stream(weights, bias, runs, scaling).reshape(-1, 7 + 2 * runs.steps)
    assert (pairs.nbytes,) == CONV_DSP.array_bytes(graph, operator)
    seen = []
    for pair, first in zip(pairs, [*range(0, channels - 1, 2), *([channels - 2] if channels % 2 else [])], strict=True):
        both = [first, first + 1]
        assert np.array_equal(pair[2:-5].reshape(-1, 2).T, pack_weights(weights[both], runs))
        assert np.array_equal(pair[-5:-3], scaling.multipliers[both])
        assert np.array_equal(pair[-3:-1].astype(np.int32), scaling.rounding[both])
        assert [pair[-1] & 0xFF, pair[-1] >> 8 & 0xFF] == list(scaling.shifts[both])
        seen.append(int(pair[-1] >> 31))
    # The last even channel ends the main run, and an odd one's pair is a run of its own.
    assert seen == [1] * (channels // 2 - 1) + [0] * (1 + channels % 2)


def test_accumulator_range_is_reached() -> None:
    weights = np.array([[3, -4, 0], [-1, -1, -1]], np.int8)
    least, most = accumulator_range(weights, np.array([10, -5], np.int32))
    assert least.tolist() == [10 - 3 * 128 - 4 * 127, -5 - 3 * 127]
    assert most.tolist() == [10 + 3 * 127 + 4 * 128, -5 + 3 * 128]


def test_shapes_that_the_kernel_leaves_to_others() -> None:
    assert CONV_DSP.fits(*_layer(2))
    assert not CONV_DSP.fits(*_layer(1))
    builder = GraphBuilder((1, 4, 4, 4))
    graph = builder.finish(builder.conv(builder.input, 4, groups=2))
    assert not CONV_DSP.fits(graph, graph.operators[0])
    builder = GraphBuilder((1, 9, 1, 3))
    graph = builder.finish(builder.conv(builder.input, 4, kernel=(3, 3)))
    assert not CONV_DSP.fits(graph, graph.operators[0])


def _with(graph: Graph, tensor: int, **changes: object) -> Graph:
    tensors = list(graph.tensors)
    tensors[tensor] = dataclasses.replace(tensors[tensor], **changes)  # type: ignore[arg-type]
    return dataclasses.replace(graph, tensors=tuple(tensors))


def test_values_that_the_kernel_leaves_to_others() -> None:
    graph, operator = _layer(4)
    assert CONV_DSP.accepts(graph, operator)
    _, weights, bias = operator.inputs
    data = graph.tensors[weights].data
    assert data is not None
    smallest = data.copy()
    smallest.flat[0] = -128
    assert not CONV_DSP.accepts(_with(graph, weights, data=smallest), operator)
    assert not CONV_DSP.accepts(_with(graph, bias, data=np.full(4, 1 << 23, np.int32)), operator)
    enlarging = Quantization((graph.tensors[operator.outputs[0]].quantization.scale / 1e5,), (0,))  # type: ignore[union-attr]
    assert not CONV_DSP.accepts(_with(graph, operator.outputs[0], quantization=enlarging), operator)


@pytest.mark.parametrize(
    ("kernel", "stride", "columns"), [((3, 3), (1, 1), (1, 6)), ((3, 3), (2, 2), (1, 3)), ((1, 7), (1, 1), (3, 4))]
)
def test_inner_columns(kernel: tuple[int, int], stride: tuple[int, int], columns: tuple[int, int]) -> None:
    assert inner_columns(*_layer(4, kernel=kernel, stride=stride)) == columns
    assert inner_columns(*_layer(4, kernel=(1, 8), activation=Activation.RELU)) == (3, 3)
    assert inner_columns(*_layer(4, kernel=(3, 3), dilation=(2, 2))) == (0, 0)
