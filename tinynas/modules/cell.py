"""NAS-Bench-201's cell and the reduction between stages, in PyTorch: alone, and as the shared weights of every cell."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from torch import Tensor, nn
from torch.nn import functional

from tinynas.architecture import Block, Unit
from tinynas.blocks.cell import ADD, EDGES, KERNEL_SIDES, POOL, live_edges, steps
from tinynas.modules.conv import ConvUnit, ElasticConv, PlaneShape


def _apply_cell(inputs: Tensor, block: Block, square: PlaneShape, convolve: Callable[[str, Tensor], Tensor]) -> Tensor:
    """The steps of the cell; ``convolve`` is the convolution of the edge of this letter."""
    values = [inputs]
    for step in steps(block):
        operand = values[step.operands[0]]
        if step.operator == ADD:
            values.append(operand + values[step.operands[1]])
        elif step.operator == POOL:
            height, width = square(3)
            padding = (height // 2, width // 2)
            values.append(functional.avg_pool2d(operand, (height, width), 1, padding, count_include_pad=False))
        else:
            values.append(convolve(step.letter, operand))
    return values[-1]


class Cell(nn.Module):
    """The convolutions of a cell, by the letters of their edges."""

    def __init__(self, inputs: int, unit: Unit, square: PlaneShape) -> None:
        super().__init__()
        assert unit.block is not None
        self.block, self._square = unit.block, square
        self.convolutions = nn.ModuleDict()
        for letter, _, _ in live_edges(unit.block):
            if unit[letter] in KERNEL_SIDES:
                self.convolutions[letter] = ConvUnit(inputs, unit.channels, square(KERNEL_SIDES[unit[letter]]))

    def forward(self, inputs: Tensor) -> Tensor:
        return _apply_cell(inputs, self.block, self._square, lambda letter, node: self.convolutions[letter](node))


class ElasticCell(nn.Module):
    """A convolution of each size for every edge."""

    def __init__(self, inputs: int, largest: Unit, square: PlaneShape) -> None:
        super().__init__()
        self._square = square
        self.convolutions = nn.ModuleDict(
            {
                f"{letter}{operator}": ElasticConv(inputs, largest.channels, square(side), activation=True)
                for letter, _, _ in EDGES
                for operator, side in KERNEL_SIDES.items()
            }
        )

    def _of(self, letter: str, unit: Unit) -> ElasticConv:
        return cast(ElasticConv, self.convolutions[f"{letter}{unit[letter]}"])

    def apply_part(self, values: Tensor, unit: Unit) -> Tensor:
        """What the cell of ``unit`` computes in training mode."""
        assert unit.block is not None

        def convolve(letter: str, node: Tensor) -> Tensor:
            kernel = self._square(KERNEL_SIDES[unit[letter]])
            return self._of(letter, unit).apply_part(node, unit.channels, kernel)

        return _apply_cell(values, unit.block, self._square, convolve)

    def copy_part_to(self, block: nn.Module, unit: Unit) -> None:
        """Give ``block``, which is the cell of ``unit``, its part of the weights."""
        assert isinstance(block, Cell)
        for letter, convolution in block.convolutions.items():
            self._of(letter, unit).copy_part_to(cast(ConvUnit, convolution))


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut, a 1×1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, kernel: tuple[int, int], stride: tuple[int, int]) -> None:
        super().__init__()
        self.first = ConvUnit(inputs, outputs, kernel, stride)
        self.second = ConvUnit(outputs, outputs, kernel, activation=False)
        keeps_shape = stride == (1, 1) and inputs == outputs
        self.shortcut: nn.Module = (
            nn.Identity() if keeps_shape else ConvUnit(inputs, outputs, stride=stride, activation=False)
        )
        self.activation = nn.ReLU6()

    def forward(self, inputs: Tensor) -> Tensor:
        return cast(Tensor, self.activation(self.second(self.first(inputs)) + self.shortcut(inputs)))


def build_reduction(inputs: int, unit: Unit, square: PlaneShape) -> ResidualBlock:
    """The reduction of ``unit`` for ``inputs`` channels, freshly initialized."""
    return ResidualBlock(inputs, unit.channels, square(3), square(unit.stride))


class ElasticReduction(nn.Module):
    """The weights of one reduction, those of ``largest``; narrower ones use a part."""

    def __init__(self, inputs: int, largest: Unit, square: PlaneShape) -> None:
        super().__init__()
        self._kernel, self._stride = square(3), square(largest.stride)
        self.first = ElasticConv(inputs, largest.channels, self._kernel, activation=True)
        self.second = ElasticConv(largest.channels, largest.channels, self._kernel, activation=False)
        self.shortcut = ElasticConv(inputs, largest.channels, (1, 1), activation=False)

    def apply_part(self, values: Tensor, unit: Unit) -> Tensor:
        """What the reduction of ``unit`` computes in training mode."""
        outputs = self.first.apply_part(values, unit.channels, self._kernel, self._stride)
        outputs = self.second.apply_part(outputs, unit.channels, self._kernel)
        return functional.relu6(outputs + self.shortcut.apply_part(values, unit.channels, stride=self._stride))

    def copy_part_to(self, block: nn.Module, unit: Unit) -> None:
        """Give ``block``, which is the reduction of ``unit``, its part of the weights."""
        assert isinstance(block, ResidualBlock)
        self.first.copy_part_to(block.first)
        self.second.copy_part_to(block.second)
        self.shortcut.copy_part_to(cast(ConvUnit, block.shortcut))
