"""The PyTorch network of an architecture, and the resizing that happens before it.

The topology is MobileNetV2's inverted bottleneck (Sandler et al., CVPR 2018) with TensorFlow's SAME padding, so that a
network, its ONNX export and the graph that a candidate is lowered to agree layer by layer:

1. a k×k stem convolution, batch normalization, ReLU6;
2. for each block a 1×1 expansion (left out when the ratio is 1) and a k×k depthwise convolution, both with batch
   normalization and ReLU6, then a 1×1 projection with batch normalization alone; the block's input is added to its
   output where the stride is 1 and the channel counts agree;
3. the mean over height and width, and a fully connected layer.

A sensor window is an image of width 1: its kernels are k×1 and its strides (s, 1).
"""

from __future__ import annotations

import copy
from typing import Protocol, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from export.graph import same_padding
from tinynas.architecture import Architecture
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


def same_conv2d(inputs: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, int], groups: int) -> Tensor:
    """A convolution with TensorFlow's SAME padding; at stride 2 the smaller half goes before the input."""
    kernel = weight.shape[2:]
    pads = []
    for size, side, step in zip(inputs.shape[2:], kernel, stride, strict=True):
        output, before = same_padding(int(size), int(side), step)
        total = max(0, (output - 1) * step + int(side) - int(size))
        pads.append((before, total - before))
    (top, bottom), (left, right) = pads
    if top == bottom and left == right:
        return functional.conv2d(inputs, weight, bias, stride, (top, left), groups=groups)
    padded = functional.pad(inputs, (left, right, top, bottom))
    return functional.conv2d(padded, weight, bias, stride, groups=groups)


class SameConv2d(nn.Conv2d):
    """`torch.nn.Conv2d` whose padding is TensorFlow's SAME, whatever the input's size."""

    def forward(self, input: Tensor) -> Tensor:
        return same_conv2d(input, self.weight, self.bias, cast(tuple[int, int], self.stride), self.groups)


class ConvUnit(nn.Module):
    """A convolution, its batch normalization, and ReLU6 where the layer has an activation."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: tuple[int, int] = (1, 1),
        stride: tuple[int, int] = (1, 1),
        *,
        groups: int = 1,
        activation: bool = True,
    ) -> None:
        super().__init__()
        self.conv = SameConv2d(inputs, outputs, kernel, stride, groups=groups, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(outputs)
        self.activation: nn.Module = nn.ReLU6(inplace=True) if activation else nn.Identity()

    def forward(self, inputs: Tensor) -> Tensor:
        return cast(Tensor, self.activation(self.norm(self.conv(inputs))))


class InvertedBottleneck(nn.Module):
    """Expansion, depthwise convolution, projection; with a residual where the shapes allow one."""

    def __init__(
        self, inputs: int, outputs: int, kernel: tuple[int, int], stride: tuple[int, int], expansion: int
    ) -> None:
        super().__init__()
        expanded = inputs * expansion
        self.expand: nn.Module = ConvUnit(inputs, expanded) if expansion != 1 else nn.Identity()
        self.depthwise = ConvUnit(expanded, expanded, kernel, stride, groups=expanded)
        self.project = ConvUnit(expanded, outputs, activation=False)
        self.residual = stride == (1, 1) and inputs == outputs

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = cast(Tensor, self.project(self.depthwise(self.expand(inputs))))
        return inputs + outputs if self.residual else outputs


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


class PlaneShape(Protocol):
    """Squares a kernel side or a stride for images, and leaves the width at 1 for sensor windows."""

    def __call__(self, side: int) -> tuple[int, int]: ...


def plane(input_shape: InputShape) -> PlaneShape:
    """How kernels and strides extend over an input: (side, side) on images, (side, 1) on sensor windows."""
    is_window = input_shape[1] == 1
    return lambda side: (side, 1 if is_window else side)


def build_network(architecture: Architecture, space: SearchSpace, input_shape: InputShape, classes: int) -> Network:
    """The network of ``architecture`` with freshly initialized weights.

    ``input_shape`` is the data set's (height, width, channels); the network itself takes inputs already resized to
    ``input_shape_at(architecture.resolution, input_shape)``. Raises SearchError when the architecture is not in the
    space.
    """
    space.check(architecture, input_shape)
    square = plane(input_shape)
    channels = space.channels(space.stem.channels, architecture.width)
    stem = ConvUnit(input_shape[2], channels, square(space.stem.kernel), square(space.stem.stride))
    blocks: list[nn.Module] = []
    for stage, stage_blocks in zip(space.stages, architecture.stages, strict=True):
        outputs = space.channels(stage.channels, architecture.width)
        for index, block in enumerate(stage_blocks):
            stride = square(stage.stride if index == 0 else 1)
            blocks.append(InvertedBottleneck(channels, outputs, square(block.kernel), stride, block.expansion))
            channels = outputs
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
