"""Every rewrite of the optimizer, and all together: what is left must compute what LiteRT computes of the original."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from export.codegen import generate
from export.graph import Activation, Graph, Operator, OpKind, Quantization, Tensor, macs, total_macs
from export.optimize import layers_left, optimize
from export.optimize.intervals import channel_intervals
from export.planner import plan
from export.reader import read_tflite
from export.supported import check_supported
from export.verify_plan import verify_plan
from tests.export.graph_builder import GraphBuilder
from tests.export.host_build import SANITIZED, build_kernels, build_model, run_program
from tests.export.test_random_graphs import random_graphs
from tests.oracles.litert import run_reference, run_reference_tensors
from tests.oracles.tflite_writer import write_tflite

EXAMPLES = 100
SLOW_EXAMPLES = int(os.environ.get("TINYNAS_RANDOM_GRAPHS", "500"))
COMPILED_EXAMPLES = 12
_COMMON = {"suppress_health_check": list(HealthCheck), "deadline": None}


# What the oracle sees of an optimized graph


def with_explicit_padding(graph: Graph) -> Graph:
    """The same graph for a file format that knows SAME and VALID only: PAD stands before windows padded otherwise."""
    tensors, operators = list(graph.tensors), []
    for operator in graph.operators:
        window = operator.window
        if window is None or _padding_can_be_written(graph, operator):
            operators.append(operator)
            continue
        source, target = graph.input_tensors(operator)[0], graph.output_tensor(operator)
        pads = [(0, 0)]
        for axis in (0, 1):
            reach = (window.kernel[axis] - 1) * window.dilation[axis] + 1
            needed = (target.shape[axis + 1] - 1) * window.stride[axis] + reach
            before = window.padding[axis]
            pads.append((before, max(0, needed - before - source.shape[axis + 1])))
        pads.append((0, 0))
        shape = tuple(size + sum(pair) for size, pair in zip(source.shape, pads, strict=True))
        tensors.append(dataclasses.replace(source, name=f"{operator.name}/padded", shape=shape))
        padded = len(tensors) - 1
        operators.append(Operator(OpKind.PAD, "pad", operator.inputs[:1], (padded,), pads=tuple(pads)))
        inputs = (padded, *operator.inputs[1:])
        window = dataclasses.replace(window, padding=(0, 0))
        operators.append(dataclasses.replace(operator, inputs=inputs, window=window))
    return dataclasses.replace(graph, tensors=tuple(tensors), operators=tuple(operators))


def _padding_can_be_written(graph: Graph, operator: Operator) -> bool:
    only = dataclasses.replace(graph, operators=(operator,), inputs=operator.inputs[:1], outputs=operator.outputs)
    try:
        write_tflite(only)
    except ValueError:
        return False
    return True


def assert_same(graph: Graph, inputs: list[np.ndarray]) -> Graph:
    """Optimize, and compare what LiteRT computes before and after. Returns the optimized graph."""
    optimized = optimize(graph)
    check_supported(optimized)
    assert optimize(optimized) is optimized, "a second pass finds more to do"
    for before, after in zip((*graph.inputs, *graph.outputs), (*optimized.inputs, *optimized.outputs), strict=True):
        assert_same_end(graph.tensors[before], optimized.tensors[after])
    before, after = write_tflite(graph), write_tflite(with_explicit_padding(optimized))
    for value in inputs:
        (expected,), (found,) = run_reference(before, [value]), run_reference(after, [value])
        assert np.array_equal(expected, found), f"{int(np.sum(expected != found))} of {expected.size} outputs differ"
    assert total_macs(optimize(graph)) <= total_macs(graph)
    return optimized


def assert_same_end(before: Tensor, after: Tensor) -> None:
    assert (before.name, before.shape, before.dtype) == (after.name, after.shape, after.dtype)
    assert before.quantization == after.quantization


def finished(builder: GraphBuilder, output: int) -> tuple[Graph, list[np.ndarray]]:
    return builder.finish(output), [builder.random_input() for _ in range(3)]


def kinds(graph: Graph) -> list[OpKind]:
    return [operator.kind for operator in graph.operators]


def quantize(builder: GraphBuilder, value: int, scale: float, zero_point: int) -> None:
    """Replace the random quantization of ``value``, which may make all of its channels constant."""
    quantization = Quantization((float(np.float32(scale)),), (zero_point,))
    builder.tensors[value] = dataclasses.replace(builder.tensors[value], quantization=quantization)


def constants(builder: GraphBuilder, value: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights and bias of the layer that computes ``value``, to be changed in place."""
    (operator,) = [operator for operator in builder.operators if operator.outputs == (value,)]
    weights, bias = (builder.tensors[index].data for index in operator.inputs[1:])
    assert weights is not None
    assert bias is not None
    return weights, bias


def channels(graph: Graph) -> list[int]:
    return [graph.output_tensor(operator).shape[-1] for operator in graph.operators]


# Dead channels


def test_channels_that_are_the_zero_point_everywhere_go_through_padded_layers() -> None:
    builder = GraphBuilder((1, 6, 5, 3), 1)
    first = builder.conv(builder.input, 8, (3, 3), activation=Activation.RELU)
    weights, bias = constants(builder, first)
    weights[[1, 4]] = 0
    bias[[1, 4]] = -5
    middle = builder.depthwise(first, activation=Activation.RELU)
    _, bias = constants(builder, middle)
    bias[:] = -abs(bias)
    optimized = assert_same(*finished(builder, builder.conv(middle, 4, (3, 3))))
    assert channels(optimized) == [6, 6, 4]


def test_constant_channels_fold_into_the_next_bias() -> None:
    builder = GraphBuilder((1, 6, 5, 3), 2)
    first = builder.conv(builder.input, 8)
    weights, bias = constants(builder, first)
    weights[[0, 7]] = 0
    bias[[0, 7]] = 3000, -2000
    optimized = assert_same(*finished(builder, builder.conv(first, 4)))
    assert channels(optimized) == [6, 4]


def test_constant_channels_that_padding_makes_vary_stay() -> None:
    builder = GraphBuilder((1, 6, 5, 3), 2)
    first = builder.conv(builder.input, 8)
    weights, bias = constants(builder, first)
    quantize(builder, first, 0.1, 0)
    weights[0] = 0
    bias[0] = 30000
    optimized = assert_same(*finished(builder, builder.conv(first, 4, (3, 3))))
    assert channels(optimized) == [8, 4]


def test_channels_whose_sums_always_end_at_a_clamp_are_constant() -> None:
    builder = GraphBuilder((1, 6, 5, 3), 3)
    first = builder.conv(builder.input, 8, (3, 3), activation=Activation.RELU6)
    quantize(builder, first, 0.1, -128)
    _, bias = constants(builder, first)
    bias[2], bias[5] = 1 << 24, -1 << 24
    optimized = assert_same(*finished(builder, builder.conv(first, 4)))
    assert channels(optimized) == [6, 4]


def test_a_bias_is_made_where_there_was_none() -> None:
    builder = GraphBuilder((1, 4, 4, 3), 4)
    first = builder.fully_connected(builder.input, 4)
    quantize(builder, first, 0.1, 5)
    weights, bias = constants(builder, first)
    weights[3] = 0
    bias[3] = 1 << 14
    second = builder.fully_connected(first, 4)
    last = builder.operators[-1]
    builder.operators[-1] = dataclasses.replace(last, inputs=last.inputs[:2])
    optimized = assert_same(*finished(builder, second))
    assert channels(optimized) == [3, 4]
    assert len(optimized.operators[-1].inputs) == 3


def test_a_bias_that_would_leave_32_bits_is_not_folded_into() -> None:
    builder = GraphBuilder((1, 4, 4, 3), 5)
    first = builder.conv(builder.input, 4)
    quantize(builder, first, 0.1, -128)
    weights, bias = constants(builder, first)
    weights[3] = 0
    bias[3] = 1 << 28
    second = builder.conv(first, 4)
    weights, bias = constants(builder, second)
    weights[:, :, :, 3] = 127
    bias[0] = 2**31 - 200
    graph = builder.finish(second)
    assert channels(optimize(graph)) == [4, 4]


def test_channels_that_nobody_uses_go() -> None:
    builder = GraphBuilder((1, 6, 5, 3), 6)
    first = builder.conv(builder.input, 8, (3, 3))
    middle = builder.depthwise(first, (5, 5))
    last = builder.conv(middle, 4)
    weights, _ = constants(builder, last)
    weights[:, :, :, [0, 3, 4]] = 0
    optimized = assert_same(*finished(builder, last))
    assert channels(optimized) == [5, 5, 4]
    assert [operator.name for operator in optimized.operators] == [operator.name for operator in builder.operators]


def test_dead_channels_go_through_pools_means_and_flattening() -> None:
    builder = GraphBuilder((1, 8, 8, 2), 7)
    value = builder.conv(builder.input, 6, (3, 3))
    quantize(builder, value, 0.1, 5)
    value = builder.pool(value, (2, 2), (2, 2), maximum=True)
    value = builder.pool(value, (2, 2), (2, 2))
    value = builder.elementwise(OpKind.RELU, value, Quantization((0.125,), (-128,)))
    value = builder.elementwise(OpKind.QUANTIZE, value, Quantization((0.25,), (0,)))
    flat = builder.reshape(value, (1, 24))
    last = builder.fully_connected(flat, 5)
    weights, _ = constants(builder, last)
    weights.reshape(5, 4, 6)[:, :, [1, 5]] = 0
    weights[:, 0] = 0  # one position of a channel that others need
    optimized = assert_same(*finished(builder, last))
    assert channels(optimized) == [4, 4, 4, 4, 4, 5]
    assert optimized.tensors[optimized.operators[-1].inputs[1]].shape == (5, 16)


def test_dead_channels_go_from_both_sides_of_a_sum_or_from_neither() -> None:
    for dead_in_both in (True, False):
        builder = GraphBuilder((1, 5, 5, 3), 8)
        first, second = builder.conv(builder.input, 6), builder.conv(builder.input, 6, (3, 3))
        last = builder.conv(builder.add(first, second), 3)
        constants(builder, last)[0][:, :, :, 2] = 0
        if not dead_in_both:
            last = builder.add(last, builder.conv(first, 3))
        optimized = assert_same(*finished(builder, last))
        assert channels(optimized)[:3] == ([5, 5, 5] if dead_in_both else [6, 6, 6])


def test_dead_channels_go_through_concatenations() -> None:
    builder = GraphBuilder((1, 5, 5, 3), 9)
    first = builder.conv(builder.input, 6)
    second = builder.requantize(builder.conv(builder.input, 4), like=first)
    last = builder.conv(builder.concatenate([first, second]), 3)
    constants(builder, last)[0][:, :, :, [1, 6, 8]] = 0
    optimized = assert_same(*finished(builder, last))
    assert channels(optimized) == [5, 2, 2, 7, 3]


def test_whole_groups_go() -> None:
    builder = GraphBuilder((1, 5, 5, 3), 10)
    first = builder.conv(builder.input, 6)
    middle = builder.conv(first, 9, (3, 3), groups=3)
    last = builder.conv(middle, 3)
    constants(builder, last)[0][:, :, :, [0, 3, 4, 5]] = 0  # all of the second group, one of the first
    optimized = assert_same(*finished(builder, last))
    assert channels(optimized) == [4, 6, 3]
    assert optimized.operators[1].groups == 2


def test_channels_go_with_all_that_a_depthwise_layer_makes_of_them() -> None:
    builder = GraphBuilder((1, 5, 5, 3), 10)
    first = builder.conv(builder.input, 4)
    middle = builder.depthwise(first, multiplier=2)
    quantize(builder, first, 0.1, 3)
    quantize(builder, middle, 0.1, 3)
    last = builder.conv(middle, 3)
    constants(builder, last)[0][:, :, :, [1, 2, 3, 6, 7]] = 0  # what becomes of the second and the fourth, and more
    optimized = assert_same(*finished(builder, last))
    assert channels(optimized) == [2, 4, 3]


def test_padded_channels_go() -> None:
    builder = GraphBuilder((1, 5, 5, 3), 11)
    value = builder.pad(builder.conv(builder.input, 4), [(0, 0), (0, 0), (2, 3)])
    optimized = assert_same(*finished(builder, builder.conv(value, 3)))
    assert kinds(optimized) == [OpKind.CONV_2D, OpKind.CONV_2D]


def test_a_layer_keeps_one_channel() -> None:
    builder = GraphBuilder((1, 5, 5, 3), 12)
    first = builder.conv(builder.input, 6, (3, 3))
    weights, _ = constants(builder, first)
    weights[:] = 0
    optimized = assert_same(*finished(builder, builder.conv(builder.depthwise(first, same=False), 4)))
    assert channels(optimized) == [1, 1, 4]


# Layers that change nothing


def test_layers_that_nobody_reads_go() -> None:
    builder = GraphBuilder((1, 5, 5, 3), 13)
    value = builder.conv(builder.input, 4)
    builder.depthwise(builder.conv(value, 7))
    assert kinds(assert_same(*finished(builder, value))) == [OpKind.CONV_2D]


@pytest.mark.parametrize("at_the_end", [True, False])
def test_identities_go(at_the_end: bool) -> None:
    builder = GraphBuilder((1, 5, 5, 3), 14)
    value = builder.requantize(builder.input, like=builder.input)
    value = builder.conv(value, 4, activation=Activation.RELU)
    value = builder.reshape(value, builder.shape(value))
    value = builder.requantize(builder.dequantize(value), like=value)
    value = builder.pool(value, (1, 1), (1, 1), activation=Activation.RELU)
    value = builder.pad(value, [(0, 0)] * 3)
    value = builder.concatenate([value])
    value = builder.elementwise(OpKind.RELU, value, builder.tensors[value].quantization)
    if not at_the_end:
        value = builder.conv(value, 4)
    optimized = assert_same(*finished(builder, value))
    assert set(kinds(optimized)) == {OpKind.CONV_2D}


def test_a_model_that_only_copies_its_input_still_copies_it() -> None:
    builder = GraphBuilder((1, 5, 5, 3), 15)
    value = builder.requantize(builder.requantize(builder.input, like=builder.input), like=builder.input)
    assert len(assert_same(*finished(builder, value)).operators) == 1


def test_a_model_whose_output_is_its_input_keeps_a_layer() -> None:
    builder = GraphBuilder((1, 5, 5, 3), 15)
    builder.requantize(builder.pool(builder.input, (1, 1), (1, 1)), like=builder.input)
    assert len(optimize(builder.finish(builder.input)).operators) == 1


def test_reshapes_merge_and_leave_fully_connected_layers() -> None:
    builder = GraphBuilder((1, 4, 3, 2), 16)
    value = builder.reshape(builder.conv(builder.input, 4), (1, 3, 16))
    value = builder.reshape(value, (1, 48))
    value = builder.fully_connected(value, 12)
    value = builder.reshape(builder.reshape(value, (1, 3, 4)), (1, 2, 6))
    optimized = assert_same(*finished(builder, value))
    assert kinds(optimized) == [OpKind.CONV_2D, OpKind.FULLY_CONNECTED, OpKind.RESHAPE]


@pytest.mark.parametrize("keep", [True, False])
def test_means_write_the_shape_that_is_wanted(keep: bool) -> None:
    builder = GraphBuilder((1, 4, 3, 2), 16)
    value = builder.mean(builder.conv(builder.input, 4), keep=keep)
    value = builder.softmax(builder.reshape(value, (1, 4) if keep else (1, 1, 1, 4)))
    assert kinds(assert_same(*finished(builder, value))) == [OpKind.CONV_2D, OpKind.MEAN, OpKind.SOFTMAX]
    builder = GraphBuilder((1, 4, 3, 2), 16)
    value = builder.reshape(builder.mean(builder.conv(builder.input, 4), keep=keep), (1, 2, 2))
    assert kinds(assert_same(*finished(builder, value))) == [OpKind.CONV_2D, OpKind.MEAN, OpKind.RESHAPE]


def test_convolutions_change_kind() -> None:
    builder = GraphBuilder((1, 6, 5, 1), 16)
    value = builder.depthwise(builder.input, (3, 2), (2, 1), multiplier=4)
    value = builder.conv(value, 4, (3, 3), dilation=(1, 2), groups=4, activation=Activation.RELU)
    value = builder.conv(value, 4, (3, 3), groups=2)
    optimized = assert_same(*finished(builder, builder.depthwise(value, multiplier=2)))
    dense, depthwise = OpKind.CONV_2D, OpKind.DEPTHWISE_CONV_2D
    assert kinds(optimized) == [dense, depthwise, dense, depthwise]


# Padding and activations


@pytest.mark.parametrize("same", [True, False])
def test_pads_are_absorbed(same: bool) -> None:
    builder = GraphBuilder((1, 7, 6, 3), 17)
    value = builder.pad(builder.pad(builder.input, [(0, 1), (1, 0), (0, 0)]), [(1, 0), (0, 1), (0, 0)])
    first = builder.conv(value, 4, (3, 3), (2, 2), same=same)
    second = builder.depthwise(value, (3, 3), (2, 2), same=same)
    third = builder.pad(builder.add(first, builder.conv(second, 4)), [(0, 1), (1, 0), (0, 0)])
    optimized = assert_same(*finished(builder, builder.conv(third, 2, (3, 3))))
    assert OpKind.PAD not in kinds(optimized)


def test_pads_are_absorbed_into_a_maximum_of_what_is_not_negative() -> None:
    for activation, absorbed in ((Activation.RELU, True), (Activation.NONE, False)):
        builder = GraphBuilder((1, 7, 6, 3), 18)
        value = builder.conv(builder.input, 4, activation=activation)
        quantize(builder, value, 0.1, 3)
        value = builder.pad(value, [(1, 1), (1, 1), (0, 0)])
        value = builder.pool(value, (3, 3), (2, 2), maximum=True, same=False)
        optimized = assert_same(*finished(builder, value))
        assert (OpKind.PAD not in kinds(optimized)) is absorbed


def test_pads_that_are_not_exact_to_absorb_stay() -> None:
    builder = GraphBuilder((1, 7, 6, 3), 19)
    averaged = builder.pool(builder.pad(builder.input, [(1, 1), (1, 1), (0, 0)]), (3, 3), (2, 2), same=False)
    value = builder.pad(averaged, [(3, 0), (0, 0), (0, 0)])  # a window of nothing but padding
    optimized = assert_same(*finished(builder, builder.conv(value, 2, (3, 1), same=False)))
    assert kinds(optimized).count(OpKind.PAD) == 2


@pytest.mark.parametrize("kind", [OpKind.RELU, OpKind.RELU6])
@pytest.mark.parametrize("layer", ["conv", "depthwise", "fully_connected", "add", "average", "max", "relu"])
def test_activations_are_fused(layer: str, kind: OpKind) -> None:
    builder = GraphBuilder((1, 5, 5, 3), 20)
    build: dict[str, Callable[[int], int]] = {
        "conv": lambda value: builder.conv(value, 4),
        "depthwise": lambda value: builder.depthwise(value, activation=Activation.RELU6),
        "fully_connected": lambda value: builder.fully_connected(value, 4),
        "add": lambda value: builder.add(value, value),
        "average": lambda value: builder.pool(value, (2, 2), (1, 1)),
        "max": lambda value: builder.pool(value, (2, 2), (1, 1), maximum=True),
        "relu": lambda value: builder.elementwise(OpKind.RELU, value),
    }
    quantize(builder, builder.input, 0.05, -20)
    value = build[layer](builder.input)
    value = builder.elementwise(kind, value, builder.tensors[value].quantization)
    optimized = assert_same(*finished(builder, value))
    assert len(optimized.operators) == 1
    assert optimized.operators[0].name == builder.operators[0].name


def test_an_activation_that_changes_the_scale_or_shares_its_input_stays() -> None:
    builder = GraphBuilder((1, 5, 5, 3), 21)
    first = builder.conv(builder.input, 4)
    quantize(builder, first, 0.1, 3)
    shared = builder.elementwise(OpKind.RELU, first, builder.tensors[first].quantization)
    other = builder.elementwise(OpKind.RELU, builder.add(first, shared), Quantization((0.07,), (3,)))
    assert len(assert_same(*finished(builder, other)).operators) == 4


# One-dimensional layers


def one_dimensional(builder: GraphBuilder) -> int:
    value = builder.conv(builder.input, 8, (1, 5), (1, 2), activation=Activation.RELU)
    value = builder.pad(value, [(0, 0), (2, 1), (0, 0)])
    value = builder.depthwise(value, (1, 3))
    branch = builder.requantize(builder.conv(value, 8, (1, 3), dilation=(1, 2)), like=value)
    value = builder.concatenate([value, branch], axis=2)
    return builder.pool(builder.add(value, value), (1, 2), (1, 2), maximum=True)


def test_lying_layers_stand_up() -> None:
    builder = GraphBuilder((1, 1, 40, 3), 22)
    value = one_dimensional(builder)
    optimized = assert_same(*finished(builder, builder.fully_connected(builder.mean(value), 4)))
    assert kinds(optimized)[0] is OpKind.RESHAPE
    assert kinds(optimized).count(OpKind.RESHAPE) == 1
    images = [tensor.shape for tensor in optimized.tensors if len(tensor.shape) == 4 and not tensor.is_constant]
    assert [shape for shape in images if shape[1] == 1] == [(1, 1, 40, 3)]
    assert all(shape[2] == 1 for shape in images[1:])


def test_the_reshape_before_a_run_is_enough_for_it_to_stand_up() -> None:
    builder = GraphBuilder((1, 40, 3), 23)
    builder.input = builder.reshape(builder.input, (1, 1, 40, 3))
    value = one_dimensional(builder)
    builder.input = 0
    value = builder.reshape(value, (1, builder.shape(value)[2], 8))
    optimized = assert_same(*finished(builder, builder.mean(value)))
    assert kinds(optimized).count(OpKind.RESHAPE) == 2


def test_a_run_ends_where_the_height_matters() -> None:
    builder = GraphBuilder((1, 1, 20, 3), 24)
    value = one_dimensional(builder)
    taller = builder.pad(value, [(1, 1), (0, 0), (0, 0)])
    taller = builder.conv(taller, 4, (3, 3), same=False)
    first, second = builder.conv(value, 4, (1, 3), same=False), builder.conv(taller, 4)
    optimized = assert_same(*finished(builder, builder.add(first, second)))
    assert optimized.tensors[optimized.outputs[0]].shape == builder.shape(first)


def test_a_tensor_read_in_both_positions_can_be_planned() -> None:
    builder = GraphBuilder((1, 1, 6, 2), 25)
    value = builder.requantize(builder.conv(builder.input, 2, (1, 3)), like=builder.input)
    optimized = assert_same(*finished(builder, builder.concatenate([builder.input, value], axis=1)))
    assert kinds(optimized).count(OpKind.RESHAPE) == 2
    verify_plan(plan(optimized))


def test_upright_layers_and_images_stay_as_they_are() -> None:
    for shape in ((1, 40, 1, 3), (1, 8, 8, 3), (1, 1, 1, 3)):
        builder = GraphBuilder(shape, 25)
        graph = builder.finish(builder.conv(builder.conv(builder.input, 4, (3, 3)), 4))
        assert optimize(graph) is graph


# Candidates and measures


def without_data(graph: Graph) -> Graph:
    """What a candidate's graph looks like."""
    tensors = (dataclasses.replace(tensor, data=None, quantization=None) for tensor in graph.tensors)
    return dataclasses.replace(graph, tensors=tuple(tensors))


@settings(max_examples=EXAMPLES, **_COMMON)
@given(case=random_graphs())
def test_candidates_get_the_rewrites_of_shapes(case: tuple[Graph, list[np.ndarray]]) -> None:
    optimized = optimize(without_data(case[0]))
    assert all(tensor.data is None for tensor in optimized.tensors)
    # Layers that are turned upright may get a view before and one after.
    assert len(optimized.operators) <= 2 * len(case[0].operators) + 4
    check_supported(optimized)


def test_layers_are_matched_by_name() -> None:
    builder = GraphBuilder((1, 5, 5, 3), 26)
    first = builder.conv(builder.input, 4)
    builder.depthwise(first)
    last = builder.conv(builder.elementwise(OpKind.RELU, first, builder.tensors[first].quantization), 2)
    constants(builder, last)[0][:, :, :, 1] = 0
    graph = builder.finish(last)
    builder.operators[1] = dataclasses.replace(builder.operators[1], name="gone")
    optimized = optimize(graph)
    left = layers_left(graph, optimized)
    live = [0 if layer is None else macs(optimized, optimized.operators[layer]) for layer in left]
    assert [macs(graph, operator) for operator in graph.operators] == [300, 900, 0, 200]
    assert live == [225, 0, 0, 150]
    assert total_macs(optimized) == 375


# Random graphs


def plant(builder: GraphBuilder, draw: st.DrawFn) -> None:
    """Kill channels of some layers: zero rows with any bias, zero columns, biases beyond every clamp."""
    rng = builder.rng
    for operator in builder.operators:
        if len(operator.inputs) < 3 or operator.kind in (OpKind.ADD, OpKind.CONCATENATION):
            continue
        weights, bias = (builder.tensors[index].data for index in operator.inputs[1:])
        assert weights is not None
        assert bias is not None
        rows = weights.T if operator.kind is OpKind.DEPTHWISE_CONV_2D else weights
        means = draw(st.sets(st.sampled_from(["rows", "columns", "clamps"])))
        if "rows" in means:
            dead = rng.random(len(rows)) < rng.choice([0.3, 0.6, 1.0])
            rows[dead] = 0
            kept = rng.random(len(rows)) < 0.3
            bias[dead & ~kept] = rng.choice([0, -1, 1, 1000, -1000, 1 << 20, -1 << 20], int((dead & ~kept).sum()))
        if "columns" in means and operator.kind is not OpKind.DEPTHWISE_CONV_2D:
            weights[..., rng.random(weights.shape[-1]) < 0.4] = 0
        if "clamps" in means:
            clamped = rng.random(len(rows)) < 0.3
            bias[clamped] = rng.choice([1 << 22, -1 << 22, 1 << 26, -1 << 26], int(clamped.sum()))


@st.composite
def planted_graphs(draw: st.DrawFn) -> tuple[Graph, list[np.ndarray]]:
    """Graphs in which every rewrite has something to do."""
    flat = draw(st.integers(0, 3)) == 0
    size = (1 if flat else draw(st.integers(1, 9)), draw(st.integers(1, 12)), draw(st.integers(1, 6)))
    builder = GraphBuilder((1, *size), draw(st.integers(0, 2**31)), from_float=draw(st.booleans()))
    value = builder.entry
    for _ in range(draw(st.integers(1, 7))):
        value = _step(draw, builder, value)
        if draw(st.integers(0, 3)) == 0:  # a copy, a clamp, or a way there and back
            value = _copy(draw, builder, value)
    if draw(st.booleans()):
        pooled = draw(st.sampled_from(["mean", "pool", "flatten", "none"]))
        if pooled == "mean":
            value = builder.mean(value, keep=draw(st.booleans()))
        elif pooled == "pool":
            rows, columns = builder.shape(value)[1:3]
            value = builder.pool(value, (rows, columns), (rows, columns), same=False)
        if pooled != "none":
            value = builder.reshape(value, (1, int(np.prod(builder.shape(value)))))
        for _ in range(draw(st.integers(0, 2))):
            value = builder.fully_connected(value, draw(st.integers(1, 12)), draw(st.sampled_from(list(Activation))))
    if draw(st.integers(0, 4)) == 0:
        value = builder.dequantize(value)
    if value == builder.input:
        value = builder.conv(value, 3)
    plant(builder, draw)
    return builder.finish(value), [builder.random_input() for _ in range(2)]


def _step(draw: st.DrawFn, builder: GraphBuilder, value: int) -> int:
    rows, columns, depth = builder.shape(value)[1:]
    activation = draw(st.sampled_from(list(Activation)))
    kernel = draw(st.tuples(st.integers(1, 3 if rows > 1 else 1), st.integers(1, 4)))
    stride = draw(st.sampled_from([(1, 1), (1, 1), (2, 2), (1, 2)]))
    same = kernel[0] > rows or kernel[1] > columns or draw(st.booleans())
    match draw(st.sampled_from(["conv", "pointwise", "depthwise", "pad", "pool", "add", "join", "unused", "groups"])):
        case "conv":
            return builder.conv(value, draw(st.integers(1, 9)), kernel, stride, same=same, activation=activation)
        case "pointwise":
            return builder.conv(value, draw(st.integers(1, 9)), activation=activation)
        case "depthwise":
            multiplier = draw(st.sampled_from([1, 1, 1, 2])) if depth < 9 else 1
            return builder.depthwise(value, kernel, stride, same=same, multiplier=multiplier, activation=activation)
        case "groups":
            groups = draw(st.sampled_from([n for n in range(1, depth + 1) if depth % n == 0]))
            out = groups * draw(st.integers(1, 2))
            return builder.conv(value, out, kernel, stride, same=same, groups=groups, activation=activation)
        case "pad":
            amounts = st.sampled_from([(0, 0), (0, 1), (1, 1), (2, 1)])
            height = draw(amounts) if rows > 1 else (0, 0)
            return builder.pad(value, [height, draw(amounts), draw(st.sampled_from([(0, 0), (0, 0), (0, 0), (1, 2)]))])
        case "pool":
            return builder.pool(value, kernel, stride, maximum=draw(st.booleans()), same=same, activation=activation)
        case "add":
            other = draw(st.sampled_from([builder.conv(value, depth, kernel), value]))
            return builder.add(builder.depthwise(value), other, activation)
        case "join":
            other = builder.requantize(builder.conv(value, draw(st.just(depth)), kernel), like=value)
            return builder.concatenate([value, other], draw(st.integers(1, 3)))
        case _:
            builder.conv(builder.depthwise(value), 2)
            return value


def _copy(draw: st.DrawFn, builder: GraphBuilder, value: int) -> int:
    quantization, shape = builder.tensors[value].quantization, builder.shape(value)
    match draw(st.sampled_from(["quantize", "relu", "relu6", "reshape", "view", "float", "pool", "pad", "join"])):
        case "quantize":
            return builder.elementwise(OpKind.QUANTIZE, value, quantization)
        case "relu":
            return builder.elementwise(OpKind.RELU, value, quantization)
        case "relu6":
            return builder.elementwise(OpKind.RELU6, value, quantization)
        case "reshape":
            return builder.reshape(value, shape)
        case "view":
            return builder.reshape(builder.reshape(value, (1, int(np.prod(shape)))), shape)
        case "float":
            return builder.requantize(builder.dequantize(value), like=value)
        case "pool":
            return builder.pool(value, (1, 1), (1, 1), maximum=draw(st.booleans()))
        case "pad":
            return builder.pad(value, [(0, 0)] * 3)
        case _:
            return builder.concatenate([value])


Case = tuple[Graph, list[np.ndarray]]


any_graphs = st.one_of(planted_graphs(), random_graphs())


@settings(max_examples=EXAMPLES, **_COMMON)
@given(case=any_graphs)
def test_optimized_graphs_compute_what_the_originals_compute(case: Case) -> None:
    assert_same(*case)


@pytest.mark.slow
@pytest.mark.timeout(0)
@settings(max_examples=SLOW_EXAMPLES, **_COMMON)
@given(case=any_graphs)
def test_many_optimized_graphs_compute_what_the_originals_compute(case: Case) -> None:
    """As many as $TINYNAS_RANDOM_GRAPHS says."""
    assert_same(*case)


@settings(max_examples=EXAMPLES, **_COMMON)
@given(case=planted_graphs())
def test_every_value_lies_in_its_channel_interval(case: Case) -> None:
    graph, inputs = case
    intervals = channel_intervals(graph)
    for value in inputs:
        tensors = run_reference_tensors(write_tflite(graph), [value])
        for index, interval in intervals.items():
            if index in tensors:
                found = tensors[index].reshape(graph.tensors[index].shape)
                assert np.all((interval.low <= found) & (found <= interval.high)), graph.tensors[index].name


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_kernels(tmp_path_factory.mktemp("kernels"), "-O1", *SANITIZED)


def assert_c_computes_the_same(case: Case, kernels: Path, folder: Path) -> None:
    """The C of the optimized graph against LiteRT on the original, without the help of explicit padding."""
    graph, inputs = case
    optimized = optimize(graph)
    program = build_model(generate(optimized), kernels, folder, "-O0", *SANITIZED)
    found = run_program(program, inputs, optimized.tensors[optimized.outputs[0]])
    content = write_tflite(graph)
    for value, actual in zip(inputs, found, strict=True):
        assert np.array_equal(run_reference(content, [value])[0], actual)


@settings(max_examples=COMPILED_EXAMPLES, **_COMMON)
@given(case=planted_graphs())
def test_the_c_of_optimized_graphs_computes_what_the_originals_compute(
    case: Case, kernels: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    assert_c_computes_the_same(case, kernels, tmp_path_factory.mktemp("graph"))


@pytest.mark.parametrize("height", [9, 1])
def test_the_c_skips_padding_that_is_neither_same_nor_valid(height: int, kernels: Path, tmp_path: Path) -> None:
    builder = GraphBuilder((1, height, 14, 3), 27)
    tall = height > 1
    around = [(0, 2) if tall else (0, 0), (2, 0), (0, 0)]
    value = builder.conv(builder.pad(builder.input, around), 6, (3 if tall else 1, 3), (1, 2), same=False)
    value = builder.depthwise(builder.pad(value, around), (3 if tall else 1, 3), same=False)
    value = builder.conv(builder.pad(value, around), 5, (3 if tall else 1, 3), same=False, activation=Activation.RELU)
    value = builder.pool(builder.pad(value, around), (3 if tall else 1, 3), (1, 2), maximum=True, same=False)
    case = finished(builder, builder.conv(value, 4, (1, 2)))
    optimized = optimize(case[0])
    assert OpKind.PAD not in kinds(optimized)
    assert sum(not _padding_can_be_written(optimized, operator) for operator in optimized.operators) == 4
    assert_c_computes_the_same(case, kernels, tmp_path)


# The reference models


@pytest.mark.parametrize(
    ("name", "live"), [("vww", 3_727_313), ("ic", 12_501_632), ("kws", 2_656_768), ("ad", 264_192)]
)
def test_reference_models_stay_the_same(name: str, live: int, references: Path) -> None:
    graph = read_tflite(references / "models" / f"{name}.tflite")
    rng = np.random.default_rng(1)
    inputs = [rng.integers(-128, 128, graph.tensors[graph.inputs[0]].shape, dtype=np.int8) for _ in range(3)]
    optimized = assert_same(graph, inputs)
    assert OpKind.RESHAPE not in kinds(optimized)
    left = [optimized.operators[layer] for layer in layers_left(graph, optimized) if layer is not None]
    assert total_macs(optimized) == sum(macs(optimized, operator) for operator in left) == live
