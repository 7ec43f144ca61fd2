"""The packing of dense convolutions for Armv7E-M: the core's arithmetic, done in numpy, against plain products."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from graph_builder import GraphBuilder

from export import numerics
from export.graph import Activation, Graph, Operator, Quantization
from export.kernels import kernel_of
from export.kernels.dsp_conv import (
    CONV_DSP,
    Runs,
    inner_columns,
    pack_stream,
    pack_weights,
    runs_of,
)
from export.kernels.dsp_rounding import SHIFT, Rounding, one_rounding, rounding_of, two_roundings_of
from export.kernels.generic import folded_weights
from export.numerics import Requantization
from export.synthetic import with_random_weights

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


def _core(accumulators: np.ndarray, rounding: Rounding, once: bool) -> np.ndarray:
    """What the core does with the sums of channel 0, in 32 bits: SMMUL and SSAT, or SMMLA, ASR and SSAT."""
    if once:
        assert not rounding.one.constant[0]
        sums = accumulators * 256 + rounding.one.offsets[0]
        assert np.all((sums >= -(1 << 31)) & (sums < 1 << 31))
        assert 0 < rounding.one.multipliers[0] < 1 << 31
        return np.asarray(np.clip((sums * rounding.one.multipliers[0] >> 32) >> SHIFT, -128, 127))
    sums = accumulators * 256
    assert np.all(np.abs(sums) < 1 << 31)
    total = (sums * rounding.two.multipliers[0] >> 32) + rounding.two.rounding[0] - 128 * (accumulators < 0)
    assert np.all(np.abs(total) < 1 << 31)
    return np.asarray(np.clip(total >> rounding.two.shifts[0], -128, 127))


def _requantization(multiplier: int, exponent: int, zero_point: int, minimum: int) -> Requantization:
    multipliers, shifts = np.full(2, multiplier, np.int32), np.full(2, -exponent, np.int8)
    return Requantization(multipliers, shifts, zero_point, minimum, 127)


def _some_accumulators(limit: int, multiplier: int, exponent: int, rng: np.random.Generator) -> np.ndarray:
    """All small ones, random ones, and those next to every change of the output."""
    edges = ((np.arange(-140, 140) * 2 + 1) << (30 + exponent)) // multiplier
    near = (edges[:, None] + np.arange(-3, 4)).ravel()
    some = np.concatenate([np.arange(-4096, 4096), rng.integers(-limit, limit + 1, 20000), near, [-limit, limit]])
    return np.asarray(some[np.abs(some) <= limit])


@pytest.mark.parametrize("exponent", range(25))
@pytest.mark.parametrize(("zero_point", "minimum"), [(-128, -128), (-128, -100), (0, -128), (17, 17), (127, -128)])
def test_requantization_rounds_like_litert(exponent: int, zero_point: int, minimum: int) -> None:
    rng = np.random.default_rng(exponent)
    tried, once, twice = 0, 0, 0
    for limit in (1 << 22, 1 << 17):
        for multiplier in (1 << 30, (1 << 30) + 1, (1 << 31) - 1, 0x55555555, *rng.integers(1 << 30, 1 << 31, 4)):
            r = _requantization(int(multiplier), exponent, zero_point, minimum)
            range_ = np.full(2, -limit), np.full(2, limit)
            rounding = Rounding(*one_rounding(r, *range_), two_roundings_of(r, *range_))
            accumulators = _some_accumulators(limit, int(multiplier), exponent, rng)
            expected = _litert(accumulators, int(multiplier), exponent, r)
            tried += 1
            if rounding.two.works[0]:
                twice += 1
                assert np.array_equal(np.clip(_core(accumulators, rounding, False), minimum, 127), expected)
            if rounding.one_works[0] and not rounding.one.constant[0]:
                once += 1
                assert np.array_equal(np.clip(_core(accumulators, rounding, True), minimum, 127), expected)
    # Two roundings take all exponents that trained layers have; one needs a clamp that hides what is negative.
    if 1 <= exponent <= 15:
        assert twice == tried
    if 5 <= exponent <= 8 and minimum >= zero_point:
        assert once == tried
    if minimum < zero_point or exponent < 4:
        assert once == 0


def test_a_channel_that_never_leaves_the_zero_point_may_have_any_scale() -> None:
    r = _requantization((1 << 31) - 1, 31, -3, -128)
    least, most = np.full(2, -(1 << 25)), np.full(2, 1 << 24)
    two = two_roundings_of(r, least, most)
    assert two.works.all()
    assert not two.multipliers.any()
    rounding, shift = int(two.rounding[0]), int(two.shifts[0])
    assert rounding >> shift == (rounding - 128) >> shift == -3
    silent = _requantization((1 << 31) - 1, 31, -128, -128)
    one, works = one_rounding(silent, least, most)
    assert works.all()
    assert one.constant.all()
    assert int(one.offsets[0] * one.multipliers[0]) >> (32 + SHIFT) == -128
    assert rounding_of(_requantization((1 << 31) - 1, 8, -3, -128), least, most) is None


def _layer(channels: int, **options: Any) -> tuple[Graph, Operator]:
    builder = GraphBuilder((1, 6, 7, 5), 3)
    graph = builder.finish(builder.conv(builder.input, channels, **options))
    return graph, graph.operators[0]


@pytest.mark.parametrize("channels", [2, 3, 4, 9])
@pytest.mark.parametrize("dilation", [(1, 1), (2, 2)])
@pytest.mark.parametrize("zero_point", [-128, 5])
def test_the_stream_holds_all_channels_in_pairs(channels: int, dilation: tuple[int, int], zero_point: int) -> None:
    graph, operator = _layer(channels, kernel=(3, 3), dilation=dilation)
    scale = graph.output_tensor(operator).quantization.scale  # type: ignore[union-attr]
    graph = _with(graph, operator.outputs[0], quantization=Quantization((scale,), (zero_point,)))
    weights, bias = folded_weights(graph, operator)
    runs = runs_of(graph, operator)
    rounding = rounding_of(numerics.conv_requantization(graph, operator), *numerics.accumulator_range(weights, bias))
    assert rounding is not None
    stream = pack_stream(weights, bias, runs, rounding)
    fields = CONV_DSP.fields(graph, operator)
    assert (4 * sum(map(len, stream)),) == CONV_DSP.array_bytes(graph, operator)
    assert fields["stream_words"] == sum(map(len, stream))
    assert fields["pairs_words"] == sum(map(len, stream[: channels // 2]))
    firsts = [*range(0, channels - 1, 2), *([channels - 2] if channels % 2 else [])]
    for words, first in zip(stream, firsts, strict=True):
        both = [first, first + 1]
        assert np.array_equal(words[2 : 2 + 2 * runs.steps].reshape(-1, 2).T, pack_weights(weights[both], runs))
        parameters = words[2 + 2 * runs.steps :].astype(np.int64)
        if zero_point == -128:
            assert np.array_equal(parameters, rounding.one.multipliers[both])
        else:
            assert parameters[0] >> 31 == 1
            assert np.array_equal(parameters[:2] & 0x7FFFFFFF, rounding.two.multipliers[both])
            assert np.array_equal(parameters[2:4].astype(np.int32), rounding.two.rounding[both])
            assert [parameters[4] & 0xFF, parameters[4] >> 8] == list(rounding.two.shifts[both])


def test_a_candidate_is_taken_to_be_rounded_once_after_a_relu() -> None:
    sizes = {}
    for activation in (Activation.NONE, Activation.RELU):
        graph, operator = _layer(4, activation=activation)
        candidate = _with(_with(graph, operator.inputs[1], data=None), operator.inputs[2], data=None)
        (sizes[activation],) = CONV_DSP.array_bytes(candidate, operator)
    assert sizes[Activation.NONE] - sizes[Activation.RELU] == 2 * 3 * 4


def test_accumulator_range_is_reached() -> None:
    weights = np.array([[3, -4, 0], [-1, -1, -1]], np.int8)
    least, most = numerics.accumulator_range(weights, np.array([10, -5], np.int32))
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
    wide = Quantization((graph.tensors[operator.outputs[0]].quantization.scale * 1e3,), (0,))  # type: ignore[union-attr]
    large = _with(graph, operator.outputs[0], quantization=wide)
    assert CONV_DSP.accepts(large, operator)
    assert not CONV_DSP.accepts(_with(large, bias, data=np.full(4, 1 << 23, np.int32)), operator)
    enlarging = Quantization((graph.tensors[operator.outputs[0]].quantization.scale / 1e5,), (0,))  # type: ignore[union-attr]
    assert not CONV_DSP.accepts(_with(graph, operator.outputs[0], quantization=enlarging), operator)


@pytest.mark.parametrize("input_channels", [200, 224])
def test_what_a_candidate_is_taken_to_run_on_is_what_normal_weights_run_on(input_channels: int) -> None:
    """1,800 and 2,016 taps: at the edge of what sums of 32 bits can take."""
    builder = GraphBuilder((1, 4, 4, 8))
    first = builder.conv(builder.input, input_channels, activation=Activation.RELU)
    graph = builder.finish(builder.conv(first, 64, kernel=(3, 3), activation=Activation.RELU))
    candidate = graph
    for operator in graph.operators:
        candidate = _with(_with(candidate, operator.inputs[1], data=None), operator.inputs[2], data=None)
    expected = kernel_of(candidate, operator, "dsp")
    assert expected.name == ("tn_conv_dsp_s8" if input_channels == 200 else "tn_conv_generic_s8")
    accepted = [
        kernel_of(with_random_weights(candidate, seed), operator, "dsp").name == expected.name for seed in range(10)
    ]
    assert sum(accepted) >= 8


@pytest.mark.parametrize(
    ("kernel", "stride", "columns"), [((3, 3), (1, 1), (1, 6)), ((3, 3), (2, 2), (1, 3)), ((1, 7), (1, 1), (3, 4))]
)
def test_inner_columns(kernel: tuple[int, int], stride: tuple[int, int], columns: tuple[int, int]) -> None:
    assert inner_columns(*_layer(4, kernel=kernel, stride=stride)) == columns
    assert inner_columns(*_layer(4, kernel=(1, 8), activation=Activation.RELU)) == (3, 3)
    assert inner_columns(*_layer(4, kernel=(3, 3), dilation=(2, 2))) == (0, 0)
