"""The constants of the Helium kernels, and the conditions under which they may run a layer."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from export import numerics
from export.graph import Activation, Graph, Operator, Quantization
from export.kernels import helium
from export.kernels.dsp_add import litert_outputs
from export.kernels.kernel import Kernel
from export.numerics import add_parameters, kernel_weights
from tests.export.graph_builder import GraphBuilder

INT8 = np.arange(-128, 128, dtype=np.int64)


def last_layer(builder: GraphBuilder) -> tuple[Graph, Operator]:
    graph = builder.finish(builder.operators[-1].outputs[0])
    return graph, graph.operators[-1]


def depthwise_layer(channels: int, *, columns: int = 9, stride: int = 1) -> tuple[Graph, Operator]:
    b = GraphBuilder((1, 5, columns, channels), seed=channels)
    b.depthwise(b.entry, (3, 2), (1, stride), activation=Activation.RELU)
    return last_layer(b)


def array_sizes(kernel: Kernel, graph: Graph, operator: Operator) -> tuple[int, ...]:
    return tuple(value.nbytes for value in kernel.fields(graph, operator).values() if isinstance(value, np.ndarray))


@pytest.mark.parametrize("channels", [5, 8, 16, 21, 48])
def test_depthwise_blocks_hold_every_channel_where_the_kernel_looks(channels: int) -> None:
    graph, operator = depthwise_layer(channels)
    fields = helium.DEPTHWISE_MVE.fields(graph, operator)
    blocks = np.asarray(fields["blocks"]).reshape(-1, 16 + 6 * 4 + 16 + 4)
    rows = kernel_weights(operator, np.asarray(graph.tensors[operator.inputs[1]].data, np.int8))
    for index, block in enumerate(blocks):
        weights = block[16:40].astype("<i4").view(np.int8).reshape(6, 16)
        first = min(16 * index, max(0, channels - 16))
        for lane in range(16):
            channel = lane % channels if fields["flat"] else first + lane
            expected = rows[channel] if channel < channels else np.zeros(6, np.int8)
            assert np.array_equal(weights[:, lane], expected)
        # Even and odd elements, twice: word j of vector v is channel 4 j + (0, 2, 1, 3)[v].
        order = [4 * word + vector for vector in (0, 2, 1, 3) for word in range(4)]
        shifts = block[56:].astype("<i4").view(np.int8).reshape(4, 4)
        for place, lane in enumerate(order):
            channel = lane % channels if fields["flat"] else first + lane
            multiplier = numerics.conv_requantization(graph, operator)
            inside = channel < channels
            assert block[40 + place] == (multiplier.multipliers[channel] if inside else 0)
            assert shifts[place % 4, place // 4] == (multiplier.shifts[channel] if inside else 0)


@pytest.mark.parametrize(
    ("channels", "columns", "stride", "flat"), [(8, 9, 1, 1), (8, 9, 2, 0), (16, 1, 1, 1), (4, 3, 1, 0), (5, 9, 1, 0)]
)
def test_vectors_run_across_pixels_where_their_weights_repeat(
    channels: int, columns: int, stride: int, flat: int
) -> None:
    fields = helium.DEPTHWISE_MVE.fields(*depthwise_layer(channels, columns=columns, stride=stride))
    assert fields["flat"] == flat


def test_array_bytes_are_those_of_the_fields() -> None:
    for channels in (3, 16, 37):
        b = GraphBuilder((1, 6, 6, channels), seed=channels)
        b.conv(b.entry, 5, (3, 2))
        layers = [(helium.CONV_MVE, *last_layer(b)), (helium.DEPTHWISE_MVE, *depthwise_layer(channels))]
        b = GraphBuilder((1, channels), seed=channels)
        b.fully_connected(b.entry, 9)
        layers.append((helium.FULLY_CONNECTED_MVE, *last_layer(b)))
        for kernel, graph, operator in layers:
            assert array_sizes(kernel, graph, operator) == kernel.array_bytes(graph, operator), kernel.name


def test_wide_windows_are_stored_column_by_column() -> None:
    b = GraphBuilder((1, 6, 6, 9), seed=1)
    b.conv(b.entry, 4, (3, 2))
    graph, operator = last_layer(b)
    fields = helium.CONV_MVE.fields(graph, operator)
    assert fields["columns_first"] == 1
    data = np.asarray(graph.tensors[operator.inputs[1]].data)
    assert np.array_equal(np.asarray(fields["weights"]), data.swapaxes(1, 2).ravel())


def test_a_weight_of_minus_128_is_too_much_for_16_bits() -> None:
    graph, operator = depthwise_layer(8)
    assert helium.DEPTHWISE_MVE.accepts(graph, operator)
    weights = graph.tensors[operator.inputs[1]]
    assert weights.data is not None
    data = weights.data.copy()
    data[0, 0, 0, 3] = -128
    tensors = list(graph.tensors)
    tensors[operator.inputs[1]] = dataclasses.replace(weights, data=data)
    assert not helium.DEPTHWISE_MVE.accepts(dataclasses.replace(graph, tensors=tuple(tensors)), operator)


def with_output(graph: Graph, operator: Operator, scale: float, zero_point: int) -> Graph:
    tensors = list(graph.tensors)
    target = tensors[operator.outputs[0]]
    tensors[operator.outputs[0]] = dataclasses.replace(target, quantization=Quantization((scale,), (zero_point,)))
    return dataclasses.replace(graph, tensors=tuple(tensors))


def test_shifts_to_the_left_and_halves_that_cannot_be_rounded_are_left_to_plain_c() -> None:
    b = GraphBuilder((1, 4, 4, 8), seed=2)
    b.conv(b.entry, 4, (3, 3))
    graph, operator = last_layer(b)
    scales = numerics.effective_scales(graph, operator)
    output = graph.output_tensor(operator).quantization
    assert output is not None

    def accepted(largest: float, zero_point: int) -> bool:
        scale = output.scale * max(scales) / largest
        return helium.CONV_MVE.accepts(with_output(graph, operator, scale, zero_point), operator)

    assert accepted(0.4, 3)
    assert not accepted(0.6, 3)  # a shift of 0, for some channel
    assert accepted(0.6, -128)  # where negative values end at the clamp
    assert not accepted(1.2, -128)


@pytest.mark.parametrize("activation", [Activation.NONE, Activation.RELU, Activation.RELU6])
def test_additions_agree_with_litert_for_all_pairs(activation: Activation) -> None:
    accepted = 0
    for seed in range(6):
        b = GraphBuilder((1, 1, 1, 4), seed=seed)
        b.add(b.entry, b.conv(b.entry, 4), activation)
        graph, operator = last_layer(b)
        expected = litert_outputs(add_parameters(graph, operator))
        if not helium.ADD_MVE.accepts(graph, operator):
            continue
        accepted += 1
        fields = helium.ADD_MVE.fields(graph, operator)
        (factor_a, factor_b), offset, shift = fields["factors"], fields["offset"], fields["shift"]  # type: ignore[misc]
        sums = (INT8 * factor_a)[:, np.newaxis] + INT8 * factor_b + offset  # type: ignore[has-type]
        assert np.abs(sums).max() < 1 << 31
        outputs = np.clip(sums >> -shift, fields["minimum"], fields["maximum"])  # type: ignore[call-overload,operator]
        assert np.array_equal(outputs, expected)
    assert accepted > 3
