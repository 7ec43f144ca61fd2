"""The formulas against the lecture's, published networks, the graph's own count, and PyTorch."""

from __future__ import annotations

import random

import pytest
import torch

from export.graph import Graph, Operator, OpKind, macs, total_macs
from tinynas.lower import lower
from tinynas.network import build_network, count_macs, fold_batch_norm
from tinynas.primitives import DIMENSIONS, PRIMITIVES, primitive
from tinynas.space import InputShape, input_shape_at, load_space, space_names

SIZES = {"c_i": 12, "c_o": 20, "k_h": 3, "k_w": 5, "h_o": 7, "w_o": 11, "g": 4}
SHAPES: dict[str, InputShape] = {"sensor": (60, 1, 6), "mobilenet": (96, 64, 3)}


def test_the_formulas_are_those_of_the_lecture() -> None:
    """Written out with numbers."""
    counted = {each.name: (each.macs(SIZES), each.parameters(SIZES), each.additions(SIZES)) for each in PRIMITIVES}
    assert counted == {
        "fully connected": (20 * 12, 20 * 12 + 20, 0),
        "convolution 1-D": (20 * 12 * 5 * 11, 20 * 12 * 5 + 20, 0),
        "convolution 2-D": (20 * 12 * 3 * 5 * 7 * 11, 20 * 12 * 3 * 5 + 20, 0),
        "grouped convolution": (20 * 12 * 3 * 5 * 7 * 11 // 4, 20 * 12 * 3 * 5 // 4 + 20, 0),
        "depthwise convolution": (20 * 3 * 5 * 7 * 11, 20 * 3 * 5 + 20, 0),
        "pooling": (0, 0, 20 * 3 * 5 * 7 * 11),
        "skip": (0, 0, 20 * 7 * 11),
    }
    used = {
        name
        for each in PRIMITIVES
        for formula in (each.macs, each.parameters, each.additions)
        for name in f"{formula.product} {formula.divisor} {formula.added}".split()
    }
    assert used == set(DIMENSIONS)


def test_alexnet_has_its_724_million_multiply_accumulates_and_61_million_parameters() -> None:
    """Krizhevsky et al., 2012, as in the lecture: the second, fourth and fifth convolution have two groups."""
    convolutions = [(3, 96, 11, 55, 1), (96, 256, 5, 27, 2), (256, 384, 3, 13, 1), (384, 384, 3, 13, 2)]
    convolutions += [(384, 256, 3, 13, 2)]
    layers = [
        ("grouped convolution", {"c_i": c_i, "c_o": c_o, "k_h": k, "k_w": k, "h_o": side, "w_o": side, "g": groups})
        for c_i, c_o, k, side, groups in convolutions
    ]
    layers += [("fully connected", {"c_i": c_i, "c_o": c_o}) for c_i, c_o in ((9216, 4096), (4096, 4096), (4096, 1000))]
    assert sum(primitive(name).macs(sizes) for name, sizes in layers) == 724_406_816
    assert sum(primitive(name).parameters(sizes) for name, sizes in layers) == 60_965_224


def test_mobilenet_v2_has_its_published_300_million_multiply_accumulates_and_3_5_million_parameters() -> None:
    """Sandler et al., CVPR 2018, table 2 and 4, at 224 pixels; biases stand for the batch normalizations' shifts."""
    total, weights, channels, side = 0, 0, 3, 224

    def layer(name: str, c_o: int, kernel: int, stride: int = 1) -> None:
        nonlocal total, weights, channels, side
        side //= stride
        sizes = {"c_i": channels, "c_o": c_o, "k_h": kernel, "k_w": kernel, "h_o": side, "w_o": side}
        total, weights = total + primitive(name).macs(sizes), weights + primitive(name).parameters(sizes)
        channels = c_o

    layer("convolution 2-D", 32, 3, 2)
    for expansion, outputs, count, first_stride in (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ):
        for index in range(count):
            hidden = channels * expansion
            if expansion > 1:
                layer("convolution 2-D", hidden, 1)
            layer("depthwise convolution", hidden, 3, first_stride if index == 0 else 1)
            layer("convolution 2-D", outputs, 1)
    layer("convolution 2-D", 1280, 1)
    layer("fully connected", 1000, 1)
    assert total == pytest.approx(300e6, rel=0.005)
    assert weights == pytest.approx(3.5e6, rel=0.01)


def sizes_of(graph: Graph, operator: Operator) -> tuple[str, dict[str, int]]:
    """The primitive that a layer is, and its dimensions, from shapes alone."""
    c_o = graph.output_tensor(operator).shape[-1]
    c_i = graph.input_tensors(operator)[0].shape[-1]
    if operator.kind is OpKind.FULLY_CONNECTED:
        return "fully connected", {"c_i": c_i, "c_o": c_o}
    _, h_o, w_o, _ = graph.output_tensor(operator).shape
    sizes = {"c_i": c_i, "c_o": c_o, "h_o": h_o, "w_o": w_o, "g": operator.groups}
    if operator.kind is OpKind.ADD:
        return "skip", sizes
    assert operator.window is not None
    sizes["k_h"], sizes["k_w"] = operator.window.kernel
    if operator.kind is OpKind.AVERAGE_POOL_2D:
        return "pooling", sizes
    if operator.kind is OpKind.DEPTHWISE_CONV_2D:
        return "depthwise convolution", sizes
    if operator.groups > 1:
        return "grouped convolution", sizes
    if graph.input_tensors(operator)[0].shape[2] == 1 and operator.window.kernel[1] == 1:
        return "convolution 1-D", sizes | {"k_w": sizes["k_h"], "w_o": h_o}
    return "convolution 2-D", sizes


@pytest.mark.parametrize("name", space_names())
def test_the_formulas_agree_with_the_graph_and_with_pytorch(name: str) -> None:
    space, shape, rng = load_space(name), SHAPES.get(name, (28, 28, 3)), random.Random(0)
    seen = set()
    for _ in range(20):
        architecture = space.sample(rng, shape)
        graph = lower(architecture, space, shape, 10)
        weights = 0
        for operator in graph.operators:
            if operator.kind is not OpKind.MEAN:
                kind, sizes = sizes_of(graph, operator)
                seen.add(kind)
                assert primitive(kind).macs(sizes) == macs(graph, operator), operator.name
                weights += primitive(kind).parameters(sizes)
        assert weights == sum(tensor.elements for tensor in graph.tensors if tensor.is_constant)
    # The last one again in PyTorch, which counts on its own.
    network = build_network(architecture, space, shape, 10)
    folded = fold_batch_norm(network)
    assert sum(parameter.numel() for parameter in folded.parameters()) == weights
    with torch.no_grad():
        assert count_macs(network, input_shape_at(architecture.resolution, shape)) == total_macs(graph)
    expected = {
        "mobilenet": {"convolution 2-D", "depthwise convolution", "skip"},
        "mobilenet_small": {"convolution 2-D", "depthwise convolution", "skip"},
        "resnet": {"convolution 2-D", "grouped convolution", "skip"},
        "sensor": {"convolution 1-D", "depthwise convolution"},
        "nasbench201": {"convolution 2-D", "pooling", "skip"},
    }
    assert seen >= expected[name] | {"fully connected"}


def test_nas_bench_201s_largest_network_has_its_published_size() -> None:
    """All edges 3×3 convolutions, 5 cells a stage, CIFAR-10: 1.531546 M parameters and 220.11968 M operations.

    The benchmark counts a scale and a shift for every normalized channel, and one normalization more, before its
    pooling; our reductions have a normalization after the shortcut. Its convolutions have no biases, as ours before
    the normalizations are folded.
    """
    text = load_space("nasbench201").model_dump()
    text["stages"] = tuple(stage | {"depths": (5,)} for stage in text["stages"])
    space = type(load_space("nasbench201")).model_validate(text)
    shape = (32, 32, 3)
    network = build_network(space.extreme(shape, largest=True), space, shape, 10)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    shortcuts, last = 2 * (32 + 64), 2 * 64
    assert parameters - shortcuts + last == 1_531_546
    assert count_macs(network, shape) == pytest.approx(220.11968e6, rel=0.005)
