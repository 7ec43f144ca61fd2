"""Networks of the kinds that tinynas exports, each taken through the whole chain once per session."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from export.agreement import Agreement, compare, run_stages
from export.onnx_export import export_onnx
from export.tflite_convert import convert

ROOT = Path(__file__).resolve().parents[2]


class SameUnit(nn.Module):
    """Convolution padded as TensorFlow's SAME (asymmetric at stride 2), batch normalization, ReLU6."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: tuple[int, int],
        stride: tuple[int, int] = (1, 1),
        groups: int = 1,
        activation: bool = True,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.activation = activation

    def forward(self, inputs: Tensor) -> Tensor:
        pads: list[int] = []
        for size, side, step in reversed(
            list(zip(inputs.shape[2:], self.conv.kernel_size, self.conv.stride, strict=True))
        ):
            total = max(0, (-(-size // step) - 1) * step + side - size)
            pads += [total // 2, total - total // 2]
        result = self.norm(self.conv(functional.pad(inputs, pads)))
        return functional.relu6(result) if self.activation else result


class Bottleneck(nn.Module):
    def __init__(self, channels: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int]) -> None:
        super().__init__()
        inputs, outputs = channels
        middle = 3 * inputs
        self.layers = nn.Sequential(
            SameUnit(inputs, middle, (1, 1)),
            SameUnit(middle, middle, kernel, stride, groups=middle),
            SameUnit(middle, outputs, (1, 1), activation=False),
        )
        self.residual = inputs == outputs and stride == (1, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.layers(inputs)
        return inputs + outputs if self.residual else outputs


class Classifier(nn.Module):
    """Layers, global mean, linear."""

    def __init__(self, features: int, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.linear = nn.Linear(features, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        result: Tensor = self.linear(self.layers(inputs).mean((2, 3)))
        return result


class ResidualBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            SameUnit(inputs, outputs, (3, 3), (stride, stride)),
            SameUnit(outputs, outputs, (3, 3), activation=False),
        )
        self.shortcut = SameUnit(inputs, outputs, (1, 1), (stride, stride), activation=False)

    def forward(self, inputs: Tensor) -> Tensor:
        return functional.relu(self.main(inputs) + self.shortcut(inputs))


def mobilenet() -> nn.Module:
    return Classifier(
        12,
        SameUnit(1, 8, (3, 3), (2, 2)),
        Bottleneck((8, 8), (3, 3), (1, 1)),
        Bottleneck((8, 12), (5, 5), (2, 2)),
        Bottleneck((12, 12), (7, 7), (1, 1)),
    )


def resnet() -> nn.Module:
    return Classifier(16, SameUnit(3, 8, (3, 3)), ResidualBlock(8, 16, 2), ResidualBlock(16, 16, 1))


def grouped() -> nn.Module:
    return Classifier(16, SameUnit(3, 8, (3, 3), (2, 2)), SameUnit(8, 16, (3, 3), (2, 2), groups=4))


def large_kernels() -> nn.Module:
    """Odd sizes, where SAME is symmetric even at stride 2."""
    return Classifier(
        8, SameUnit(2, 4, (7, 7), (2, 2)), SameUnit(4, 4, (5, 5), (2, 2), groups=4), SameUnit(4, 8, (1, 1))
    )


def window() -> nn.Module:
    """A sensor window: an image of width 1, with unequal strides."""
    return Classifier(
        8, SameUnit(6, 8, (5, 1), (2, 1)), Bottleneck((8, 8), (7, 1), (1, 1)), Bottleneck((8, 8), (3, 1), (2, 1))
    )


def torch_padding() -> nn.Module:
    """PyTorch's usual padding=1 at stride 2, which is not TensorFlow's SAME, for convolutions and for pooling."""
    return Classifier(
        8,
        nn.Conv2d(3, 8, 3, 2, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, padding=1),
        nn.Conv2d(8, 8, 3, 2, padding=1, groups=8),
    )


def flattened() -> nn.Module:
    return nn.Sequential(
        SameUnit(3, 4, (3, 3), (2, 2)), nn.AvgPool2d(2), nn.Flatten(), nn.Dropout(), nn.Linear(4 * 4 * 3, 10)
    )


def adaptive() -> nn.Module:
    """The head of torchvision's networks."""
    return nn.Sequential(SameUnit(3, 8, (3, 3)), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int]]] = {
    "mobilenet": (mobilenet, (28, 28, 1)),
    "resnet": (resnet, (16, 16, 3)),
    "grouped": (grouped, (16, 16, 3)),
    "large_kernels": (large_kernels, (15, 17, 2)),
    "window": (window, (50, 1, 6)),
    "torch_padding": (torch_padding, (32, 32, 3)),
    "flattened": (flattened, (16, 12, 3)),
    "adaptive": (adaptive, (8, 8, 3)),
}


@dataclass(frozen=True)
class Chain:
    """One network and every file that was made from it."""

    module: nn.Module
    inputs: npt.NDArray[np.float32]
    onnx: Path
    float_tflite: Path
    int8_tflite: Path

    def agreement(self) -> Agreement:
        labels = np.arange(len(self.inputs)) % 10
        outputs = run_stages(self.module, self.onnx, self.float_tflite, self.int8_tflite, self.inputs)
        return compare(outputs, labels)


def make_chain(name: str, folder: Path) -> Chain:
    """Build the network of this name, always with the same weights, and export it into ``folder``."""
    build, (height, width, channels) = NETWORKS[name]
    torch.manual_seed(1)
    module = build()
    inputs = np.random.default_rng(1).normal(size=(64, height, width, channels)).astype(np.float32)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 2.0)
            nn.init.normal_(layer.bias, std=0.5)
    # In training mode the running statistics become those of the inputs, so no layer saturates.
    with torch.no_grad():
        for _ in range(30):
            module(torch.from_numpy(inputs.transpose(0, 3, 1, 2).copy()))
    result = Chain(
        module, inputs, folder / f"{name}.onnx", folder / f"{name}.float.tflite", folder / f"{name}.int8.tflite"
    )
    export_onnx(module, (channels, height, width), result.onnx)
    convert(result.onnx, inputs, result.float_tflite, result.int8_tflite)
    return result


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Chain]:
    """The chain of a network by name, made when first asked for."""
    folder = tmp_path_factory.mktemp("chain")
    return cache(lambda name: make_chain(name, folder))
