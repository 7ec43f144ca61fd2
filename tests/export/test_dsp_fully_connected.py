"""Fully connected layers for Armv7E-M: the stream of weights taken apart again, and the requantization proved exact."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from export import numerics
from export.graph import Activation, Graph, Operator, Quantization
from export.kernels.dsp_fully_connected import FULLY_CONNECTED_DSP
from export.kernels.generic import folded_weights
from export.numerics import effective_scales, quantization_of, round_half_away
from tests.export.graph_builder import GraphBuilder
from tests.oracles.litert import run_reference
from tests.oracles.tflite_writer import write_tflite

SHAPES = [(4, 1), (5, 2), (6, 3), (7, 6), (8, 7), (33, 9), (64, 12), (130, 17)]


def layer(
    inputs: int, outputs: int, seed: int, activation: Activation = Activation.NONE, batches: int = 1
) -> tuple[Graph, Operator]:
    builder = GraphBuilder((batches, inputs), seed)
    graph = builder.finish(builder.fully_connected(builder.input, outputs, activation))
    return graph, graph.operators[0]


def with_data(graph: Graph, tensor: int, **changes: Any) -> Graph:
    tensors = list(graph.tensors)
    tensors[tensor] = dataclasses.replace(tensors[tensor], **changes)
    return dataclasses.replace(graph, tensors=tuple(tensors))


def unpacked(word: int) -> tuple[int, int, int, int]:
    """The four weights of a word of halves 256 w0 - w1 and -(256 w2 - w3)."""
    low, high = (half - 65536 * (half > 32767) for half in (word & 0xFFFF, word >> 16))
    w1, w3 = -((low + 128) % 256 - 128), (high + 128) % 256 - 128
    return (low + w1) // 256, w1, (w3 - high) // 256, w3


def read_stream(fields: Any) -> tuple[list[list[int]], list[int], list[int]]:
    """Weights, 256-fold biases and multipliers of every channel, read as the kernel reads them."""
    words = [int(word) for word in fields["stream"]]
    steps, rest = math.ceil(fields["inputs"] / 4), fields["inputs"] % 4
    order = [steps - 1, *range(steps - 1)] if rest else list(range(steps))
    weights, biases, multipliers = [], [], []
    for size, count in zip((6, 2, 1), fields["groups"], strict=True):
        for _ in range(count):
            biases += [words.pop(0) for _ in range(size)]
            rows = [[0] * 4 * steps for _ in range(size)]
            for step in order:
                for row in rows:
                    row[4 * step : 4 * step + 4] = unpacked(words.pop(0))
            weights += rows
            multipliers += [fields["multiplier"] or words.pop(0) for _ in range(size)]
    assert words == []
    return weights, biases, multipliers


def kernel_outputs(fields: Any, sums: np.ndarray, multipliers: np.ndarray) -> np.ndarray:
    """From 256-fold sums [..., channels]. A channel's own shift, less 1, is in the lowest byte of its sum."""
    if fields["multiplier"]:
        outputs = ((sums * multipliers >> 32) + fields["rounding"]) >> fields["shift"]
    else:
        outputs = (((sums & ~255) * multipliers >> 32 >> (sums & 255)) + fields["rounding"]) >> 1
    return np.asarray(np.clip(outputs, fields["minimum"], fields["maximum"]))


@pytest.mark.parametrize(("inputs", "outputs"), SHAPES)
@pytest.mark.parametrize("seed", range(3))
def test_the_stream_holds_the_layer(inputs: int, outputs: int, seed: int) -> None:
    graph, operator = layer(inputs, outputs, seed)
    assert FULLY_CONNECTED_DSP.fits(graph, operator)
    assert FULLY_CONNECTED_DSP.accepts(graph, operator)
    fields: Any = FULLY_CONNECTED_DSP.fields(graph, operator)
    assert [fields["stream"].nbytes] == list(FULLY_CONNECTED_DSP.array_bytes(graph, operator))
    weights, biases, _ = read_stream(fields)
    expected, folded = folded_weights(graph, operator)
    padded = np.pad(expected, ((0, 0), (0, -inputs % 4)))
    assert np.array_equal(np.array(weights), padded)
    offsets = 128 * padded[:, ::2].astype(np.int64).sum(axis=1)
    assert [int(bias) for bias in (folded - offsets) % 2**24] == [bias >> 8 for bias in biases]


@pytest.mark.parametrize(("inputs", "outputs"), SHAPES)
@pytest.mark.parametrize("activation", list(Activation))
def test_outputs_are_litert_s(inputs: int, outputs: int, activation: Activation) -> None:
    graph, operator = layer(inputs, outputs, inputs + outputs, activation, batches=16)
    fields: Any = FULLY_CONNECTED_DSP.fields(graph, operator)
    weights, biases, multipliers = (np.array(part, np.int64) for part in read_stream(fields))
    rng = np.random.default_rng(1)
    data = rng.integers(-128, 128, (16, inputs), dtype=np.int8)
    data[0], data[1] = 127, -128
    flipped = np.pad(data.astype(np.int64), ((0, 0), (0, -inputs % 4)))
    flipped[:, ::2] += 128
    sums = (256 * (flipped @ weights.T) + biases + 2**31) % 2**32 - 2**31
    (expected,) = run_reference(write_tflite(graph), [data])
    assert np.array_equal(kernel_outputs(fields, sums, multipliers), expected)


def scaled_layer(scale: float, zero_point: int, seed: int) -> tuple[Graph, Operator]:
    """A layer whose sums are multiplied by exactly ``scale``."""
    graph, operator = layer(24, 2, seed)
    source, weights, target = operator.inputs[0], operator.inputs[1], operator.outputs[0]
    graph = with_data(graph, source, quantization=Quantization((1.0,), (3,)))
    graph = with_data(graph, weights, quantization=Quantization((scale,), (0,)))
    return with_data(graph, target, quantization=Quantization((1.0,), (zero_point,))), operator


@pytest.mark.parametrize("zero_point", [-128, 0, 7])
@pytest.mark.parametrize("scale", [2.0**-9, 2.0**-4, 0.75, 1.0, 3.0 / 64, 1 / 337, 0.0021371, 5.1234, 1e-5])
def test_every_accumulator_is_rounded_as_a_double_is(scale: float, zero_point: int) -> None:
    """The proof at a few hundred accumulators, against all of them; ties on both sides of zero among them."""
    graph, operator = scaled_layer(scale, zero_point, seed=4)
    assert FULLY_CONNECTED_DSP.accepts(graph, operator)
    fields: Any = FULLY_CONNECTED_DSP.fields(graph, operator)
    lowest, highest = numerics.accumulator_range(*folded_weights(graph, operator))
    accumulators = np.arange(lowest.min(), highest.max() + 1)
    found = kernel_outputs(fields, accumulators * 256, np.array(fields["multiplier"]))
    (exact,) = effective_scales(graph, operator)
    products = accumulators * exact
    rounded = np.trunc(products) + np.where(np.abs(products - np.trunc(products)) >= 0.5, np.sign(products), 0)
    assert round_half_away(float(products[1])) == rounded[1]
    zero_point = quantization_of(graph.output_tensor(operator)).zero_point
    assert np.array_equal(found, np.clip(rounded + zero_point, -128, 127))


def test_channels_of_very_different_scales_are_accepted() -> None:
    """One shift for all would leave too few bits to the multipliers of small scales."""
    graph, operator = layer(640, 100, 5)
    scales = tuple(float(np.float32(scale)) for scale in np.geomspace(1e-4, 5e-3, 100))
    graph = with_data(graph, operator.inputs[1], quantization=Quantization(scales, (0,) * 100))
    assert FULLY_CONNECTED_DSP.accepts(graph, operator)
    fields: Any = FULLY_CONNECTED_DSP.fields(graph, operator)
    weights, bias = (part.astype(np.int64) for part in folded_weights(graph, operator))
    _, starts, multipliers = (np.array(part, np.int64) for part in read_stream(fields))
    data = np.random.default_rng(6).integers(-128, 128, (500, 640))
    accumulators = data @ weights.T + bias
    rounded = np.trunc(np.abs(accumulators * effective_scales(graph, operator)) + 0.5) * np.sign(accumulators)
    expected = np.clip(rounded + quantization_of(graph.output_tensor(operator)).zero_point, -128, 127)
    assert np.array_equal(kernel_outputs(fields, accumulators * 256 + starts % 256, multipliers), expected)


def test_what_the_kernel_cannot_do_is_refused() -> None:
    graph, operator = layer(3, 4, 0)
    assert not FULLY_CONNECTED_DSP.fits(graph, operator)
    graph, operator = layer(40, 4, 0)
    weights = np.array(graph.tensors[operator.inputs[1]].data)
    weights[1, 2] = -128
    assert not FULLY_CONNECTED_DSP.accepts(with_data(graph, operator.inputs[1], data=weights), operator)
    bias = np.full(4, 1 << 23, np.int32)
    assert not FULLY_CONNECTED_DSP.accepts(with_data(graph, operator.inputs[2], data=bias), operator)
    steep, operator = scaled_layer(64.0, 0, seed=0)
    assert not FULLY_CONNECTED_DSP.accepts(steep, operator)
    # 15 * 5.1 is 76.5 as a double, but 25 * 5.1 is less than 127.5: no one multiplier does both.
    tied, operator = scaled_layer(5.1, 0, seed=0)
    assert not FULLY_CONNECTED_DSP.accepts(tied, operator)
