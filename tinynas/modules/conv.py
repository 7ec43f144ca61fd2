"""A convolution with TensorFlow's SAME padding, its batch normalization and activation: alone, and with shared weights.

A sensor window is an image of width 1: its kernels are k×1 and its strides (s, 1).
"""

from __future__ import annotations

from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from export.graph import same_padding
from tinynas.space import InputShape


class PlaneShape(Protocol):
    """Squares a kernel side or a stride for images, and leaves the width at 1 for sensor windows."""

    def __call__(self, side: int) -> tuple[int, int]: ...


def plane(input_shape: InputShape) -> PlaneShape:
    """How kernels and strides extend over an input: (side, side) on images, (side, 1) on sensor windows."""
    is_window = input_shape[1] == 1
    return lambda side: (side, 1 if is_window else side)


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


class ElasticConv(nn.Module):
    """The weights of a convolution and its batch normalization, the largest of the space; smaller ones use a part."""

    def __init__(self, inputs: int, outputs: int, kernel: tuple[int, int], *, activation: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, *kernel))
        nn.init.kaiming_normal_(self.weight, mode="fan_out" if inputs > 1 else "fan_in", nonlinearity="relu")
        self.scale = nn.Parameter(torch.ones(outputs))
        self.shift = nn.Parameter(torch.zeros(outputs))
        self.activation = activation

    def part(self, inputs: int, outputs: int, kernel: tuple[int, int], groups: int = 1) -> Tensor:
        """The first channels of each side and the centre of the kernel; of several groups, ``inputs`` is one's.

        Groups of a dense convolution's weights are the squares along their diagonal. A depthwise convolution's weights
        have one input, whatever the groups.
        """
        top, left = ((full - side) // 2 for full, side in zip(self.weight.shape[2:], kernel, strict=True))
        centre = self.weight[:outputs, :, top : top + kernel[0], left : left + kernel[1]]
        if groups == 1 or self.weight.shape[1] == 1:
            return centre[:, :inputs]
        each = outputs // groups
        return torch.cat(
            [
                centre[each * group : each * (group + 1), inputs * group : inputs * (group + 1)]
                for group in range(groups)
            ]
        )

    def apply_part(
        self,
        values: Tensor,
        outputs: int,
        kernel: tuple[int, int] = (1, 1),
        stride: tuple[int, int] = (1, 1),
        groups: int = 1,
    ) -> Tensor:
        """What the part's `ConvUnit` computes in training mode: normalized by the batch's own statistics."""
        weight = self.part(values.shape[1] // groups, outputs, kernel, groups)
        convolved = same_conv2d(values, weight, None, stride, groups)
        normalized = functional.batch_norm(
            convolved, None, None, self.scale[:outputs], self.shift[:outputs], training=True
        )
        return functional.relu6(normalized, inplace=True) if self.activation else normalized

    def copy_part_to(self, unit: ConvUnit) -> None:
        """Give ``unit`` its part of the weights."""
        outputs, inputs, height, width = unit.conv.weight.shape
        unit.conv.weight.copy_(self.part(inputs, outputs, (height, width), unit.conv.groups))
        norm = cast(nn.BatchNorm2d, unit.norm)
        norm.weight.copy_(self.scale[:outputs])
        norm.bias.copy_(self.shift[:outputs])
