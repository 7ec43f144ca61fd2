"""The PyTorch part of each kind of block: the block alone, and the shared weights of all its sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from tinynas.architecture import Unit
from tinynas.modules import cell, conv1d, inverted, residual
from tinynas.modules.conv import PlaneShape


class ElasticBlock(Protocol):
    """Shared weights, from which every size of a unit takes its part."""

    def apply_part(self, values: Tensor, unit: Unit) -> Tensor:
        """What the module of ``unit`` computes in training mode, from (N, C, H, W) ``values``."""
        ...

    def copy_part_to(self, block: nn.Module, unit: Unit) -> None:
        """Give ``block``, which is the module of ``unit``, its part of the weights."""
        ...


@dataclass(frozen=True, slots=True)
class ModuleKind:
    """How a kind of unit is built."""

    build: Callable[[int, Unit, PlaneShape], nn.Module]
    """From the input's channels and the unit; freshly initialized."""
    elastic: Callable[[int, Unit, PlaneShape], ElasticBlock]
    """From the most channels that the input has and the largest unit; an ``nn.Module``."""


MODULES: dict[str, ModuleKind] = {
    "inverted": ModuleKind(inverted.build, inverted.ElasticInverted),
    "residual": ModuleKind(residual.Bottleneck, residual.ElasticBottleneck),
    "conv1d": ModuleKind(conv1d.Conv1d, conv1d.ElasticConv1d),
    "cell": ModuleKind(cell.Cell, cell.ElasticCell),
    "reduction": ModuleKind(cell.build_reduction, cell.ElasticReduction),
}
"""By kind of unit."""
