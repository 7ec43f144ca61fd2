"""The PyTorch network of an architecture, and the resizing that happens before it.

Every convolution has TensorFlow's SAME padding, so that a network, its ONNX export and the graph that a candidate is
lowered to agree layer by layer: a k×k stem convolution, batch normalization, ReLU6; the blocks (`tinynas.modules`); the
mean over height and width, and a fully connected layer.
"""

from __future__ import annotations

import copy
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from tinynas.architecture import Architecture
from tinynas.modules import MODULES
from tinynas.modules.conv import ConvUnit, plane
from tinynas.space import InputShape, SearchSpace


def resize(images: npt.NDArray[np.generic], shape: InputShape) -> npt.NDArray[np.generic]:
    """Scale a batch of ``images`` (N, H, W, C; uint8 or float32) to the height and width of ``shape``.

    Bilinear with an anti-aliasing filter as wide as the scale, the half-pixel convention, and for uint8 a final
    rounding to the nearest value: a function of the pixels alone, so a device that does the same sees the same input.
    The dtype is kept. Returns ``images`` itself when the size already agrees.
    """
    if images.shape[1:3] == shape[:2]:
        return images
    resized = [
        _resize_batch(torch.tensor(part), shape).numpy() for part in np.array_split(images, max(1, len(images) // 4096))
    ]
    return np.concatenate(resized)


def _resize_batch(images: Tensor, shape: InputShape) -> Tensor:
    scaled = scale_to(images.permute(0, 3, 1, 2).float(), shape[:2]).permute(0, 2, 3, 1)
    return scaled.round().clamp(0, 255).to(torch.uint8) if images.dtype == torch.uint8 else scaled


def scale_to(images: Tensor, size: tuple[int, int]) -> Tensor:
    """``images`` (N, C, H, W; float32) scaled to (height, width) as `resize` does, without its rounding."""
    if tuple(images.shape[2:]) == size:
        return images
    return functional.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=True)


class Network(nn.Module):
    """Features, global average pooling and a classifier: (N, C, H, W) normalized floats to (N, classes) logits."""

    def __init__(self, stem: nn.Module, blocks: list[nn.Module], features: int, classes: int) -> None:
        super().__init__()
        self.stem = stem
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Linear(features, classes)

    def forward(self, inputs: Tensor) -> Tensor:
        features = self.blocks(self.stem(inputs))
        return cast(Tensor, self.classifier(features.mean(dim=(2, 3))))


def build_network(architecture: Architecture, space: SearchSpace, input_shape: InputShape, classes: int) -> Network:
    """The network of ``architecture`` with freshly initialized weights.

    ``input_shape`` is the data set's (height, width, channels); the network itself takes inputs already resized to
    ``input_shape_at(architecture.resolution, input_shape)``. Raises SearchError when the architecture is not in the
    space.
    """
    space.check(architecture, input_shape)
    square = plane(input_shape)
    units = space.units(architecture, input_shape, classes)
    stem_unit, channels = units[0], units[0].channels
    stem = ConvUnit(input_shape[2], channels, square(stem_unit.kernel), square(stem_unit.stride))
    blocks: list[nn.Module] = []
    for unit in units[1:-1]:
        blocks.append(MODULES[unit.kind].build(channels, unit, square))
        channels = unit.channels
    return Network(stem, blocks, channels, classes)


def fold_batch_norm(network: nn.Module) -> nn.Module:
    """A copy of ``network`` in evaluation mode, each batch normalization folded into its convolution's weights."""
    folded = copy.deepcopy(network).eval()
    for unit in folded.modules():
        if isinstance(unit, ConvUnit) and isinstance(unit.norm, nn.BatchNorm2d):
            unit.conv = fuse_conv_bn_eval(unit.conv, unit.norm)
            unit.norm = nn.Identity()
    return folded


def count_macs(network: nn.Module, input_shape: InputShape) -> int:
    """Multiply-accumulates of one inference of (height, width, channels), padding taps included."""
    total = 0

    def add(module: nn.Module, _: object, output: Tensor) -> None:
        nonlocal total
        weight = cast(Tensor, module.weight)
        total += output[0].numel() * weight[0].numel()

    layers = [module for module in network.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    hooks = [layer.register_forward_hook(add) for layer in layers]
    was_training = network.training
    try:
        with torch.no_grad():
            height, width, channels = input_shape
            network.eval()(torch.zeros(1, channels, height, width))
    finally:
        network.train(was_training)
        for hook in hooks:
            hook.remove()
    return total
