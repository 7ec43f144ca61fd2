import random

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from tinynas.architecture import Architecture
from tinynas.baselines import BASELINES, width_to_fit
from tinynas.errors import SearchError
from tinynas.modules.conv import same_conv2d
from tinynas.network import build_network, count_macs, fold_batch_norm, resize
from tinynas.space import default_space, input_shape_at, load_space

IMAGE, WINDOW = (28, 28, 1), (100, 1, 6)
TEXT = "mobilenet_small-r20-w0.5-k3e1-k5e3_k3e2-k7e4-k3e2"


def randomize_norms(network: torch.nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean, 0, 0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 2)
            torch.nn.init.normal_(module.bias)


@pytest.mark.parametrize("input_shape", [IMAGE, WINDOW, (96, 96, 3)])
def test_every_architecture_gives_logits_and_its_layers_follow_the_space(input_shape):
    space = default_space(input_shape)
    rng = random.Random(0)
    for _ in range(5):
        architecture = space.sample(rng, input_shape)
        network = build_network(architecture, space, input_shape, 7).eval()
        height, width, channels = input_shape_at(architecture.resolution, input_shape)
        assert max(height, width) == architecture.resolution
        with torch.inference_mode():
            assert network(torch.zeros(2, channels, height, width)).shape == (2, 7)
        assert len(network.blocks) == sum(len(stage) for stage in architecture.stages)
        last = space.channels(space.stages[-1].channels, architecture.width)
        assert network.classifier.in_features == last
        if input_shape == WINDOW:
            block, chosen = network.blocks[0], architecture.stages[0][0]
            first = block.depthwise if chosen["s"] else block.conv
            assert first.conv.kernel_size == (chosen["k"], 1)


def test_macs_of_a_small_network_by_hand():
    space = load_space("mobilenet_small")
    network = build_network(Architecture.parse(TEXT), space, IMAGE, 10)
    stem = 20 * 20 * 8 * 9
    first = 100 * 8 * 9 + 100 * 8 * 8
    second = 100 * 8 * 24 + 25 * 24 * 25 + 25 * 24 * 12
    third = 25 * 12 * 24 + 25 * 24 * 9 + 25 * 24 * 12
    fourth = 25 * 12 * 48 + 25 * 48 * 49 + 25 * 48 * 20
    fifth = 25 * 20 * 40 + 9 * 40 * 9 + 9 * 40 * 32
    assert count_macs(network, (20, 20, 1)) == stem + first + second + third + fourth + fifth + 320
    assert network.training


def test_an_architecture_of_another_space_is_refused():
    with pytest.raises(SearchError, match="resolution 27"):
        build_network(Architecture.parse(TEXT.replace("r20", "r27")), load_space("mobilenet_small"), IMAGE, 10)


@pytest.mark.parametrize(("size", "kernel", "stride"), [(7, 3, 2), (8, 3, 2), (8, 5, 2), (9, 7, 2), (8, 5, 1)])
def test_padding_is_tensorflows_same(size, kernel, stride):
    output = -(-size // stride)
    total = max(0, (output - 1) * stride + kernel - size)
    values = torch.randn(1, 1, size, size)
    weight = torch.randn(1, 1, kernel, kernel)
    expected = np.zeros((output, output))
    padded = np.pad(values[0, 0].numpy(), (total // 2, total - total // 2))
    for row in range(output):
        for column in range(output):
            patch = padded[row * stride : row * stride + kernel, column * stride : column * stride + kernel]
            expected[row, column] = (patch * weight[0, 0].numpy()).sum()
    actual = same_conv2d(values, weight, None, (stride, stride), 1)[0, 0].numpy()
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_folding_batch_normalizations_changes_nothing_but_the_layers():
    torch.manual_seed(0)
    network = build_network(Architecture.parse(TEXT), load_space("mobilenet_small"), IMAGE, 10)
    randomize_norms(network)
    images = torch.randn(4, 1, 20, 20)
    folded = fold_batch_norm(network)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    with torch.inference_mode():
        torch.testing.assert_close(folded(images), network.eval()(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(28, 28, 1), (14, 14, 1), (20, 20, 1)])
def test_resizing_a_flat_image_keeps_it_flat(shape):
    images = np.full((3, 28, 28, 1), 77, np.uint8)
    resized = resize(images, shape)
    assert resized.shape == (3, *shape)
    assert resized.dtype == np.uint8
    assert (resized == 77).all()


def test_resizing_averages_what_it_merges_and_keeps_windows_one_wide():
    images = np.zeros((1, 8, 8, 1), np.uint8)
    images[:, :, 4:] = 200
    halved = resize(images, (4, 4, 1))
    assert halved[0, :, 0, 0].tolist() == [0] * 4
    assert halved[0, :, 3, 0].tolist() == [200] * 4
    assert halved.mean() == pytest.approx(100, abs=1)
    windows = np.random.default_rng(0).random((2, 100, 1, 6), np.float32)
    assert resize(windows, (56, 1, 6)).shape == (2, 56, 1, 6)
    assert resize(windows, (100, 1, 6)) is windows


@pytest.mark.parametrize("name", [TEXT, *(baseline.name for baseline in BASELINES)])
def test_export_to_onnx_agrees(name, tmp_path):
    torch.manual_seed(0)
    if name == TEXT:
        network, side = build_network(Architecture.parse(TEXT), load_space("mobilenet_small"), IMAGE, 10), 20
    else:
        baseline = next(baseline for baseline in BASELINES if baseline.name == name)
        network, side = baseline.build(0.15, IMAGE, 10), 28
    randomize_norms(network)
    folded = fold_batch_norm(network)
    images = torch.randn(1, 1, side, side)
    torch.onnx.export(folded, (images,), tmp_path / "net.onnx", dynamo=True, verbose=False)
    (exported,) = ReferenceEvaluator(onnx.load(tmp_path / "net.onnx")).run(None, {"inputs": images.numpy()})
    with torch.inference_mode():
        np.testing.assert_allclose(exported, folded(images).numpy(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("baseline", BASELINES, ids=lambda baseline: baseline.name)
def test_baselines_are_scaled_to_fit(baseline):
    def fits(network: torch.nn.Module) -> bool:
        return count_macs(network, IMAGE) <= 1_500_000

    width = width_to_fit(baseline, IMAGE, 10, fits, largest=1.0, step=0.05)
    assert fits(baseline.build(width, IMAGE, 10))
    assert not fits(baseline.build(width + 0.1, IMAGE, 10))
    with pytest.raises(SearchError, match="no width"):
        width_to_fit(baseline, IMAGE, 10, lambda network: False, step=0.5)


def test_mlperf_tiny_resnet8_has_its_published_size():
    network = next(baseline for baseline in BASELINES if baseline.name == "resnet8").build(1.0, (32, 32, 3), 10)
    assert count_macs(network, (32, 32, 3)) == 12_501_632
