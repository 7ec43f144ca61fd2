"""ResNet's bottleneck with groups in PyTorch: alone, and as the shared weights of every one of its sizes."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn
from torch.nn import functional

from tinynas.architecture import Unit
from tinynas.blocks.residual import hidden_channels
from tinynas.modules.conv import ConvUnit, ElasticConv, PlaneShape


class Bottleneck(nn.Module):
    """1×1, grouped k×k and 1×1 convolutions, and a shortcut."""

    def __init__(self, inputs: int, unit: Unit, square: PlaneShape) -> None:
        super().__init__()
        hidden, stride = hidden_channels(unit), square(unit.stride)
        self.reduce = ConvUnit(inputs, hidden)
        self.spatial = ConvUnit(hidden, hidden, square(unit["k"]), stride, groups=unit["g"])
        self.expand = ConvUnit(hidden, unit.channels, activation=False)
        keeps_shape = unit.stride == 1 and inputs == unit.channels
        self.shortcut: nn.Module = (
            nn.Identity() if keeps_shape else ConvUnit(inputs, unit.channels, stride=stride, activation=False)
        )
        self.activation = nn.ReLU6()

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = self.expand(self.spatial(self.reduce(inputs)))
        return cast(Tensor, self.activation(outputs + self.shortcut(inputs)))


class ElasticBottleneck(nn.Module):
    """The weights of one bottleneck, those of ``largest`` in one group; several groups are squares on its diagonal."""

    def __init__(self, inputs: int, largest: Unit, square: PlaneShape) -> None:
        super().__init__()
        self._square = square
        hidden = hidden_channels(largest)
        self.reduce = ElasticConv(inputs, hidden, (1, 1), activation=True)
        self.spatial = ElasticConv(hidden, hidden, square(largest["k"]), activation=True)
        self.expand = ElasticConv(hidden, largest.channels, (1, 1), activation=False)
        self.shortcut = ElasticConv(inputs, largest.channels, (1, 1), activation=False)

    def apply_part(self, values: Tensor, unit: Unit) -> Tensor:
        """What the block of ``unit`` computes in training mode."""
        hidden, square = hidden_channels(unit), self._square
        outputs = self.reduce.apply_part(values, hidden)
        outputs = self.spatial.apply_part(outputs, hidden, square(unit["k"]), square(unit.stride), unit["g"])
        outputs = self.expand.apply_part(outputs, unit.channels)
        if unit.stride != 1 or values.shape[1] != unit.channels:
            values = self.shortcut.apply_part(values, unit.channels, stride=square(unit.stride))
        return functional.relu6(outputs + values)

    def copy_part_to(self, block: nn.Module, unit: Unit) -> None:
        """Give ``block``, which is that of ``unit``, its part of the weights."""
        assert isinstance(block, Bottleneck)
        self.reduce.copy_part_to(block.reduce)
        self.spatial.copy_part_to(block.spatial)
        self.expand.copy_part_to(block.expand)
        if isinstance(block.shortcut, ConvUnit):
            self.shortcut.copy_part_to(block.shortcut)
