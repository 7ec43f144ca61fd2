"""Convolutions along time in PyTorch: alone, and as the shared weights of every one of their sizes."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from tinynas.architecture import Unit
from tinynas.modules.conv import ConvUnit, ElasticConv, PlaneShape


class Conv1d(nn.Module):
    """A convolution; or a depthwise and a 1×1 one."""

    def __init__(self, inputs: int, unit: Unit, square: PlaneShape) -> None:
        super().__init__()
        kernel, stride = square(unit["k"]), square(unit.stride)
        if unit["s"]:
            self.depthwise: nn.Module = ConvUnit(inputs, inputs, kernel, stride, groups=inputs)
            self.conv = ConvUnit(inputs, unit.channels)
        else:
            self.depthwise = nn.Identity()
            self.conv = ConvUnit(inputs, unit.channels, kernel, stride)

    def forward(self, inputs: Tensor) -> Tensor:
        return cast(Tensor, self.conv(self.depthwise(inputs)))


class ElasticConv1d(nn.Module):
    """The weights of both forms of one block, those of ``largest``; smaller ones use a part."""

    def __init__(self, inputs: int, largest: Unit, square: PlaneShape) -> None:
        super().__init__()
        self._square = square
        kernel = square(largest["k"])
        self.plain = ElasticConv(inputs, largest.channels, kernel, activation=True)
        self.depthwise = ElasticConv(1, inputs, kernel, activation=True)
        self.pointwise = ElasticConv(inputs, largest.channels, (1, 1), activation=True)

    def apply_part(self, values: Tensor, unit: Unit) -> Tensor:
        """What the block of ``unit`` computes in training mode."""
        kernel, stride, inputs = self._square(unit["k"]), self._square(unit.stride), int(values.shape[1])
        if not unit["s"]:
            return self.plain.apply_part(values, unit.channels, kernel, stride)
        return self.pointwise.apply_part(
            self.depthwise.apply_part(values, inputs, kernel, stride, inputs), unit.channels
        )

    def copy_part_to(self, block: nn.Module, unit: Unit) -> None:
        """Give ``block``, which is that of ``unit``, its part of the weights."""
        assert isinstance(block, Conv1d)
        if isinstance(block.depthwise, ConvUnit):
            self.depthwise.copy_part_to(block.depthwise)
            self.pointwise.copy_part_to(block.conv)
        else:
            self.plain.copy_part_to(block.conv)
