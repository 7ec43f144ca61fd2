"""The inverted bottleneck in PyTorch: alone, and as the shared weights of every one of its sizes."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from tinynas.architecture import Unit
from tinynas.modules.conv import ConvUnit, ElasticConv, PlaneShape


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


def build(inputs: int, unit: Unit, square: PlaneShape) -> InvertedBottleneck:
    """The block of ``unit`` for ``inputs`` channels, freshly initialized."""
    return InvertedBottleneck(inputs, unit.channels, square(unit["k"]), square(unit.stride), unit["e"])


class ElasticInverted(nn.Module):
    """The weights of one inverted bottleneck, those of ``largest``; smaller ones use a part."""

    def __init__(self, inputs: int, largest: Unit, square: PlaneShape) -> None:
        super().__init__()
        self._square = square
        expanded = inputs * largest["e"]
        self.expand = ElasticConv(inputs, expanded, (1, 1), activation=True)
        self.depthwise = ElasticConv(1, expanded, square(largest["k"]), activation=True)
        self.project = ElasticConv(expanded, largest.channels, (1, 1), activation=False)

    def apply_part(self, values: Tensor, unit: Unit) -> Tensor:
        """What the block of ``unit`` computes in training mode."""
        inputs, stride = int(values.shape[1]), self._square(unit.stride)
        expanded = inputs * unit["e"]
        hidden = values if unit["e"] == 1 else self.expand.apply_part(values, expanded)
        hidden = self.depthwise.apply_part(hidden, expanded, self._square(unit["k"]), stride, expanded)
        projected = self.project.apply_part(hidden, unit.channels)
        return values + projected if unit.stride == 1 and inputs == unit.channels else projected

    def copy_part_to(self, block: nn.Module, unit: Unit) -> None:
        """Give ``block``, which is that of ``unit``, its part of the weights."""
        assert isinstance(block, InvertedBottleneck)
        if isinstance(block.expand, ConvUnit):
            self.expand.copy_part_to(block.expand)
        self.depthwise.copy_part_to(block.depthwise)
        self.project.copy_part_to(block.project)
