"""A lowered candidate against the int8 file that its network is exported to."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from devices.profile import load_profile
from export.flash import flash_bytes
from export.graph import Graph, Operator, OpKind, macs
from export.optimize import optimize
from export.planner import plan
from export.reader import read_tflite
from export.supported import check_supported
from tinynas.architecture import Architecture
from tinynas.errors import SearchError
from tinynas.lower import lower
from tinynas.space import InputShape, SearchSpace, Stage, Stem, load_space, space_names

# A space of these tests' own: those that come with tinynas may change.
SPACE = SearchSpace(
    name="tiny",
    description="for tests",
    resolution_scales=(0.57, 0.72, 1.0),
    widths=(0.5, 0.75, 1.0),
    block="inverted",
    choices={"kernel": (3, 5, 7), "expansion": (1, 2, 3, 4)},
    channel_multiple=4,
    stem=Stem(channels=16, kernel=3, stride=2),
    stages=(
        Stage(channels=16, stride=1, depths=(1, 2)),
        Stage(channels=24, stride=2, depths=(1, 2, 3)),
        Stage(channels=40, stride=1, depths=(1, 2, 3)),
        Stage(channels=64, stride=2, depths=(1, 2)),
    ),
)

# Sizes that are odd on the way, so that SAME padding is symmetric in some layers and asymmetric in others; blocks with
# and without expansion and residual addition; every kernel.
CASES: dict[str, tuple[str, InputShape, int]] = {
    "image": ("tiny-r20-w0.75-k5e1_k5e2-k7e3_k3e2-k7e2_k3e2-k3e2_k7e3", (28, 28, 1), 10),
    # Its feature maps end one column wide, where kernels stay square all the same.
    "narrow": ("tiny-r12-w0.5-k5e1_k5e2-k5e3_k5e4-k7e2-k3e2_k7e3", (16, 4, 1), 5),
    "window": ("tiny-r72-w0.5-k3e1-k5e3-k3e2_k7e2-k5e2", (100, 1, 6), 7),
    # Groups of a channel each, which make a depthwise convolution; shortcuts with and without a convolution.
    "resnet": ("resnet-r16-w0.25-k3b2g4_k3b2g2-k5b1g4-k3b4g2_k5b2g1", (32, 24, 3), 10),
    "wide resnet": ("resnet-r12-w0.5-k5b1g2-k3b4g4_k3b1g2-k5b2g4", (12, 12, 1), 10),
    "sensor": ("sensor-r76-w0.5-k9s1_k3s0-k5s0_k3s1-k9s1", (100, 1, 6), 6),
    "short sensor": ("sensor-r12-w1-k3s0-k9s1_k5s1-k3s0_k9s0", (24, 1, 3), 2),
    "cell": (f"nasbench201-r12-w0.5-{'-'.join(['a4b2c1d1e3f2'] * 3)}", (24, 24, 3), 10),
    # A pool and a sum that occur twice, which the converter computes once, and no convolution at all.
    "cell without weights": (f"nasbench201-r12-w0.25-{'-'.join(['a2b1c1d2e1f2'] * 3)}", (12, 8, 1), 4),
    "cell with dead edges": (f"nasbench201-r16-w0.25-{'-'.join(['a3b4c0d4e2f0_a3b4c0d4e2f0'] * 3)}", (16, 16, 1), 4),
    # An image of odd sizes, and a window.
    "odd cell": (f"nasbench201-r15-w0.25-{'-'.join(['a1b3c4d2e0f4'] * 3)}", (15, 11, 3), 3),
    "cell of a window": (f"nasbench201-r24-w0.25-{'-'.join(['a4b3c2d1e2f3'] * 3)}", (24, 1, 3), 3),
}


def space_of(architecture: Architecture) -> SearchSpace:
    return SPACE if architecture.space == SPACE.name else load_space(architecture.space)


@pytest.fixture(scope="module", params=CASES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Graph, Graph]:
    """The lowered graph, and that of the exported int8 file."""
    text, input_shape, classes = CASES[request.param]
    architecture = Architecture.parse(text)
    lowered = lower(architecture, space_of(architecture), input_shape, classes)
    return lowered, exported(architecture, input_shape, classes, tmp_path_factory.mktemp("export"))


def exported(architecture: Architecture, input_shape: InputShape, classes: int, folder: Path) -> Graph:
    import torch

    from export.onnx_export import export_onnx
    from export.tflite_convert import convert_int8
    from tinynas.network import build_network, fold_batch_norm
    from tinynas.space import input_shape_at

    height, width, channels = input_shape_at(architecture.resolution, input_shape)
    torch.manual_seed(0)
    network = build_network(architecture, space_of(architecture), input_shape, classes)
    inputs = np.random.default_rng(0).normal(size=(16, height, width, channels)).astype(np.float32)
    export_onnx(fold_batch_norm(network), (channels, height, width), folder / "network.onnx")
    convert_int8(folder / "network.onnx", inputs, folder / "network.tflite")
    return read_tflite(folder / "network.tflite")


def form(graph: Graph, operator: Operator) -> dict[str, object]:
    """Everything that decides a layer's cost, names and values left out."""
    shapes = [tensor.shape for tensor in graph.input_tensors(operator)]
    types = [tensor.dtype for tensor in graph.input_tensors(operator)]
    return {
        "kind": operator.kind,
        "inputs": shapes,
        "types": types,
        "output": graph.output_tensor(operator).shape,
        "activation": operator.activation,
        "window": operator.window,
        "groups": operator.groups,
        "axes": operator.axes,
        "macs": macs(graph, operator),
    }


def test_layers_are_those_of_the_exported_file(pair: tuple[Graph, Graph]) -> None:
    lowered, read = pair
    assert [form(lowered, o) for o in lowered.operators] == [form(read, o) for o in read.operators]


def test_costs_are_those_of_the_exported_file(pair: tuple[Graph, Graph]) -> None:
    """Without the values: an untrained network's biases are out of all proportion, which its kernels do not take."""
    lowered, read = pair
    profile = load_profile("stm32f405")
    read = dataclasses.replace(read, tensors=tuple(dataclasses.replace(tensor, data=None) for tensor in read.tensors))
    lowered, read = optimize(lowered), optimize(read)
    assert [form(lowered, o) for o in lowered.operators] == [form(read, o) for o in read.operators]
    first, second = plan(lowered, profile.instruction_set), plan(read, profile.instruction_set)
    assert first.arena_bytes == second.arena_bytes
    assert first.lower_bound_bytes == second.lower_bound_bytes
    assert flash_bytes(first, profile) == flash_bytes(second, profile)


@pytest.mark.parametrize("name", space_names())
@pytest.mark.parametrize("shape", [(28, 28, 1), (96, 96, 3), (100, 1, 6)])
def test_candidates_use_supported_layers_only(name: str, shape: InputShape) -> None:
    space = load_space(name)
    for largest in (False, True):
        check_supported(lower(space.extreme(shape, largest=largest), space, shape, 10))


def test_inverted_bottleneck_by_hand() -> None:
    architecture = Architecture.parse("tiny-r28-w1-k3e1-k3e2_k5e3-k3e2-k3e2")
    graph = lower(architecture, SPACE, (28, 28, 1), 10)
    summary = [(o.name, o.kind, graph.output_tensor(o).shape) for o in graph.operators]
    assert summary[:10] == [
        ("stem", OpKind.CONV_2D, (1, 14, 14, 16)),
        ("stage0.block0.depthwise", OpKind.DEPTHWISE_CONV_2D, (1, 14, 14, 16)),  # expansion 1: no expansion layer
        ("stage0.block0.project", OpKind.CONV_2D, (1, 14, 14, 16)),
        ("stage0.block0.add", OpKind.ADD, (1, 14, 14, 16)),
        ("stage1.block0.expand", OpKind.CONV_2D, (1, 14, 14, 32)),
        ("stage1.block0.depthwise", OpKind.DEPTHWISE_CONV_2D, (1, 7, 7, 32)),
        ("stage1.block0.project", OpKind.CONV_2D, (1, 7, 7, 24)),  # strided and widened: nothing is added
        ("stage1.block1.expand", OpKind.CONV_2D, (1, 7, 7, 72)),
        ("stage1.block1.depthwise", OpKind.DEPTHWISE_CONV_2D, (1, 7, 7, 72)),
        ("stage1.block1.project", OpKind.CONV_2D, (1, 7, 7, 24)),
    ]
    assert [kind for _, kind, _ in summary[-2:]] == [OpKind.MEAN, OpKind.FULLY_CONNECTED]
    assert graph.operators[0].window is not None
    assert graph.operators[0].window.padding == (0, 0)  # stride 2 over 28 with a 3×3 kernel: the one zero comes last


def test_windows_stay_one_column_wide() -> None:
    graph = lower(SPACE.extreme((100, 1, 6), largest=True), SPACE, (100, 1, 6), 7)
    for operator in graph.operators:
        if operator.window is not None:
            assert operator.window.kernel[1] == operator.window.stride[1] == 1
            assert graph.output_tensor(operator).shape[2] == 1


def test_architecture_of_another_space_is_refused() -> None:
    architecture = Architecture.parse("tiny-r17-w1-k3e1-k3e2-k3e2-k3e2")
    with pytest.raises(SearchError, match="resolution 17 is not in the space"):
        lower(architecture, SPACE, (28, 28, 1), 10)
