"""The constants of the Armv7E-M depthwise kernel for narrow maps, and which layers it runs."""

from __future__ import annotations

import numpy as np
import pytest

from export.graph import Activation, Graph, Window
from export.kernels import candidate_kernels, kernel_of
from export.kernels.dsp_depthwise import (
    DEPTHWISE_3X3_DSP,
    DEPTHWISE_3X3_NARROW_DSP,
    DEPTHWISE_3X3_STRIDE2_DSP,
    DEPTHWISE_DSP,
)
from export.kernels.dsp_depthwise_channels import (
    DEPTHWISE_3X3_CHANNELS_DSP,
    DEPTHWISE_CHANNELS_DSP,
    GROUP,
    first_channels,
    pack_groups,
    pack_weights,
)
from export.kernels.kernel import Kernel
from export.kernels.single_rounding import SHIFT, two_roundings
from export.numerics import Requantization
from tests.export.graph_builder import GraphBuilder


def layer(
    columns: int,
    kernel: tuple[int, int] = (3, 3),
    stride: tuple[int, int] = (1, 1),
    *,
    channels: int = 6,
    after_conv: bool = False,
) -> Graph:
    """A depthwise layer that can be rounded twice only, unless its zero point happens to be the lower clamp."""
    builder = GraphBuilder((1, 9, columns, channels), seed=columns)
    value = builder.conv(builder.input, channels) if after_conv else builder.input
    return builder.finish(builder.depthwise(value, kernel, stride, activation=Activation.NONE))


def sums_of(group: np.ndarray, taps: int, pixels: np.ndarray) -> np.ndarray:
    """What the kernel makes of a group's packed weights, of its four channels by tap."""
    weights = group[:taps].view(np.int8).astype(np.int64)
    sums: np.ndarray = weights[:4] * pixels[:, 0]
    for pair in range(taps // 2):
        for half in range(2):
            word = weights[4 + 8 * pair + 4 * half :][:4]
            for tap in range(2):
                sums[2 * half : 2 * half + 2] += (
                    word[2 * tap : 2 * tap + 2] * pixels[2 * half : 2 * half + 2, 1 + 2 * pair + tap]
                )
    return sums


@pytest.mark.parametrize("channels", range(4, 14))
def test_groups_cover_all_channels_and_no_others(channels: int) -> None:
    firsts = first_channels(channels)
    assert firsts[0] == channels - GROUP
    assert firsts[-1] == 0
    assert len(firsts) == -(-channels // GROUP)
    assert {first + i for first in firsts for i in range(GROUP)} == set(range(channels))


@pytest.mark.parametrize(("count", "taps"), [(1, 3), (2, 3), (3, 3), (8, 9), (25, 25)])
def test_weights_lie_where_the_kernel_expects_them(count: int, taps: int) -> None:
    rng = np.random.default_rng(count)
    weights = rng.integers(-128, 128, (GROUP, count)).astype(np.int8)
    pixels = rng.integers(-128, 128, (GROUP, taps))
    words = pack_weights(weights, taps)
    assert words.shape == (taps,)
    expected = (weights.astype(np.int64) * pixels[:, :count]).sum(axis=1)
    np.testing.assert_array_equal(sums_of(words, taps, pixels), expected)


@pytest.mark.parametrize(("zero_point", "once"), [(-128, True), (17, False)])
def test_packed_groups_give_what_two_roundings_give(zero_point: int, once: bool) -> None:
    """All groups of a layer, one of them with a channel without weights, by the kernel's arithmetic."""
    rng = np.random.default_rng(8)
    channels, taps = 10, 5
    weights = rng.integers(-127, 128, (channels, taps)).astype(np.int8)
    weights[3] = 0
    bias = rng.integers(-20_000, 20_000, channels).astype(np.int32)
    multipliers = rng.integers(1 << 30, 1 << 31, channels).astype(np.int32)
    shifts = rng.integers(-9, -5, channels).astype(np.int8)
    words = pack_groups(weights, bias, taps, Requantization(multipliers, shifts, zero_point, -128, 127))
    assert words is not None
    groups = words.reshape(-1, taps + 1 + 2 * GROUP)
    for first, group in zip(first_channels(channels), groups, strict=True):
        finish, exponents = group[taps + 1 :].astype(np.int64).reshape(4, 2), group[taps : taps + 1].view(np.int8)
        assert bool(np.all(exponents == 0)) == once
        for _ in range(500):
            pixels = rng.integers(-128, 128, (GROUP, taps))
            sums = sums_of(group, taps, pixels)
            if once:
                outputs = ((256 * sums + finish[:, 0]) * finish[:, 1]) >> (32 + SHIFT)
            else:
                sums = sums + finish[:, 0]
                rounding = ((2 * zero_point + 1) << exponents.astype(np.int64)) + np.where(sums < 0, -64, 64)
                outputs = (((256 * sums * finish[:, 1]) >> 32) + rounding) >> (exponents + 1)
            channel = np.arange(first, first + GROUP)
            accumulators = (weights[channel].astype(np.int64) * pixels).sum(axis=1) + bias[channel]
            exact = two_roundings(
                accumulators, multipliers[channel].astype(np.int64), -shifts[channel].astype(np.int64), zero_point
            )
            np.testing.assert_array_equal(np.clip(outputs, -128, 127), np.clip(exact, -128, 127))


def test_a_channel_that_neither_rounding_serves_is_refused() -> None:
    weights = np.full((4, 3), 100, np.int8)
    requantization = Requantization(np.full(4, 3 << 29, np.int32), np.array([-8, -8, 0, -8], np.int8), 0, -128, 127)
    assert pack_groups(weights, np.zeros(4, np.int32), 3, requantization) is None


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        (layer(1, (7, 1)), DEPTHWISE_CHANNELS_DSP),
        (layer(40, (7, 1)), DEPTHWISE_CHANNELS_DSP),
        (layer(40, (2, 3)), DEPTHWISE_CHANNELS_DSP),
        (layer(6, (5, 5)), DEPTHWISE_CHANNELS_DSP),
        (layer(7, (5, 5)), DEPTHWISE_DSP),
        (layer(1, (7, 1), channels=3), DEPTHWISE_DSP),
        (layer(4), DEPTHWISE_3X3_CHANNELS_DSP),
        (layer(5), DEPTHWISE_3X3_NARROW_DSP),
        (layer(8), DEPTHWISE_3X3_DSP),
        (layer(2, after_conv=True), DEPTHWISE_3X3_CHANNELS_DSP),
        (layer(3, after_conv=True), DEPTHWISE_3X3_DSP),
        (layer(6, stride=(2, 2), after_conv=True), DEPTHWISE_3X3_STRIDE2_DSP),
    ],
)
def test_who_runs_what(graph: Graph, expected: Kernel) -> None:
    operator = graph.operators[-1]
    assert next(k for k in candidate_kernels(operator.kind, "dsp") if k.fits(graph, operator)) is expected
    kernel = kernel_of(graph, operator, "dsp")
    assert kernel.scratch_bytes(graph, operator) % 4 == 0
    arrays = [value for value in kernel.fields(graph, operator).values() if isinstance(value, np.ndarray)]
    if kernel in (DEPTHWISE_CHANNELS_DSP, DEPTHWISE_3X3_CHANNELS_DSP):
        assert [array.nbytes for array in arrays] == list(kernel.array_bytes(graph, operator))


def test_windows_that_lie_below_the_input_are_left_to_others() -> None:
    graph = layer(1, (3, 1))
    (operator,) = graph.operators
    assert DEPTHWISE_CHANNELS_DSP.fits(graph, operator)
    beyond = Window((3, 1), padding=(3, 0))
    moved = Graph(
        graph.name,
        graph.tensors,
        (type(operator)(operator.kind, operator.name, operator.inputs, operator.outputs, window=beyond),),
        graph.inputs,
        graph.outputs,
    )
    assert not DEPTHWISE_CHANNELS_DSP.fits(moved, moved.operators[0])
