"""Hand-made networks to compare with: what an engineer would try first, scaled by a width multiplier to fit a budget.

Each is the published topology with its strides adapted to small inputs, as its description says, and the same
convolution units as the search space, so that training and export treat all of them alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from tinynas.errors import SearchError
from tinynas.modules.cell import ResidualBlock
from tinynas.modules.conv import ConvUnit, plane
from tinynas.modules.inverted import InvertedBottleneck
from tinynas.network import Network
from tinynas.space import InputShape

CHANNEL_MULTIPLE = 4
"""Channels are rounded to this, as in the search space: the kernels work on four at a time."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """One family of hand-made networks."""

    name: str
    description: str
    default_width: float
    """The width multiplier that the name stands for."""
    build: Callable[[float, InputShape, int], Network]
    """From the width multiplier, the input's (height, width, channels) and the number of classes."""


def mobilenet_v2(width: float, input_shape: InputShape, classes: int) -> Network:
    """MobileNetV2 (Sandler et al., CVPR 2018), 17 bottlenecks of expansion 6, without the last 1×1 convolution."""
    square = plane(input_shape)
    channels = _scaled(32, width)
    stem = ConvUnit(input_shape[2], channels, square(3), square(2))
    blocks: list[nn.Module] = []
    for expansion, base, count, first_stride in (
        (1, 16, 1, 1),
        (6, 24, 2, 1),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ):
        outputs = _scaled(base, width)
        for index in range(count):
            stride = square(first_stride if index == 0 else 1)
            blocks.append(InvertedBottleneck(channels, outputs, square(3), stride, expansion))
            channels = outputs
    return Network(stem, blocks, channels, classes)


def mobilenet_v1(width: float, input_shape: InputShape, classes: int) -> Network:
    """MobileNetV1 (Howard et al., 2017): 13 depthwise separable convolutions."""
    square = plane(input_shape)
    channels = _scaled(32, width)
    stem = ConvUnit(input_shape[2], channels, square(3), square(2))
    blocks: list[nn.Module] = []
    for base, stride in (
        (64, 1),
        (128, 1),
        (128, 1),
        (256, 2),
        (256, 1),
        (512, 2),
        *[(512, 1)] * 5,
        (1024, 2),
        (1024, 1),
    ):
        outputs = _scaled(base, width)
        blocks.append(ConvUnit(channels, channels, square(3), square(stride), groups=channels))
        blocks.append(ConvUnit(channels, outputs))
        channels = outputs
    return Network(stem, blocks, channels, classes)


def resnet8(width: float, input_shape: InputShape, classes: int) -> Network:
    """The ResNet8 of MLPerf Tiny's image classification (Banbury et al., 2021): three residual blocks of 3×3."""
    square = plane(input_shape)
    channels = _scaled(16, width)
    stem = ConvUnit(input_shape[2], channels, square(3))
    blocks: list[nn.Module] = []
    for base, stride in ((16, 1), (32, 2), (64, 2)):
        outputs = _scaled(base, width)
        blocks.append(ResidualBlock(channels, outputs, square(3), square(stride)))
        channels = outputs
    return Network(stem, blocks, channels, classes)


def ds_cnn(width: float, input_shape: InputShape, classes: int) -> Network:
    """The DS-CNN of MLPerf Tiny's keyword spotting (Zhang et al., "Hello Edge", 2017): four separable convolutions.

    Its 10×4 first convolution is made for spectrograms; here it is 3×3, with the same stride of 2.
    """
    square = plane(input_shape)
    channels = _scaled(64, width)
    blocks: list[nn.Module] = []
    for _ in range(4):
        blocks.append(ConvUnit(channels, channels, square(3), groups=channels))
        blocks.append(ConvUnit(channels, channels))
    return Network(ConvUnit(input_shape[2], channels, square(3), square(2)), blocks, channels, classes)


BASELINES = (
    Baseline(
        "mobilenet-v2-0.35",
        "MobileNetV2 at width 0.35; the second stage keeps its resolution and the last 1×1 convolution is left out",
        0.35,
        mobilenet_v2,
    ),
    Baseline(
        "mobilenet-v1-0.25",
        "MobileNetV1 at width 0.25; the first strided separable convolution keeps its resolution",
        0.25,
        mobilenet_v1,
    ),
    Baseline("resnet8", "MLPerf Tiny's ResNet8; ReLU6 in place of ReLU", 1.0, resnet8),
    Baseline("ds-cnn", "MLPerf Tiny's DS-CNN; its first convolution 3×3, ReLU6 in place of ReLU", 1.0, ds_cnn),
)


def width_to_fit(
    baseline: Baseline,
    input_shape: InputShape,
    classes: int,
    fits: Callable[[Network], bool],
    *,
    step: float = 0.025,
    largest: float = 2.0,
) -> float:
    """The largest width multiplier, a multiple of ``step`` and at most ``largest``, whose network ``fits``.

    Found by bisection: what fits at one width is taken to fit at every smaller one. Raises SearchError when not even
    the smallest does.
    """
    fitting, beyond = 0, math.floor(largest / step) + 1
    while beyond - fitting > 1:
        middle = (fitting + beyond) // 2
        if fits(baseline.build(round(middle * step, 6), input_shape, classes)):
            fitting = middle
        else:
            beyond = middle
    if not fitting:
        raise SearchError(f"no width of {baseline.name} fits; raise the limits")
    return round(fitting * step, 6)


def _scaled(base: int, width: float) -> int:
    return max(CHANNEL_MULTIPLE, round(base * width / CHANNEL_MULTIPLE) * CHANNEL_MULTIPLE)
