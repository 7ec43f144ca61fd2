"""The shared weights of a supernet, from which every architecture of a search space takes its part."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tinynas.architecture import Architecture, Block, Unit
from tinynas.modules import MODULES, ElasticBlock
from tinynas.modules.conv import ConvUnit, ElasticConv, plane
from tinynas.network import Network, build_network, scale_to
from tinynas.space import InputShape, SearchSpace, input_shape_at


@dataclass(frozen=True, slots=True)
class StageMixture:
    """What is mixed in one stage: several blocks at each place, and several places where it ends.

    Weights are tensors of one value; those of one place are meant to add up to 1, and so are those of the depths.
    """

    depths: Sequence[tuple[int, Tensor]]
    blocks: Sequence[Sequence[tuple[Block, Tensor]]]
    """For each place up to the largest of the depths."""


class SupernetWeights(nn.Module):
    """The shared weights, and the forward pass of any architecture of the space through them."""

    def __init__(self, space: SearchSpace, input_shape: InputShape, classes: int) -> None:
        super().__init__()
        self.space, self.input_shape, self.classes = space, input_shape, classes
        square = plane(input_shape)
        largest = space.extreme(input_shape, largest=True)
        stem = space.units(largest, input_shape, classes)[0]
        self.stem = ElasticConv(input_shape[2], stem.channels, square(stem.kernel), activation=True)
        self._stem_shape = square(stem.kernel), square(stem.stride)
        self.stages = nn.ModuleList()
        channels = stem.channels
        for units in space.stage_units(largest):
            blocks = nn.ModuleList()
            for unit in units:
                blocks.append(cast(nn.Module, MODULES[unit.kind].elastic(channels, unit, square)))
                channels = unit.channels
            self.stages.append(blocks)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, images: Tensor, architecture: Architecture) -> Tensor:
        """(N, classes) logits of ``architecture`` in training mode, for normalized (N, C, H, W) ``images``."""
        values = self._apply_stem(images, architecture.resolution, architecture.width)
        for unit, weights in self._parts(architecture):
            values = weights.apply_part(values, unit)
        return self._apply_head(values)

    def forward_mixture(self, images: Tensor, resolution: int, width: float, stages: Sequence[StageMixture]) -> Tensor:
        """(N, classes) logits of weighted sums of blocks and depths, in training mode, for ``images`` as in `forward`.

        At each place of a stage the output is the sum of its blocks' outputs times their weights, and the stage's is
        that of the outputs after each of its depths: gradients reach every weight.
        """
        values = self._apply_stem(images, resolution, width)
        for mixture, stage, parts in zip(stages, self.space.stages, self.stages, strict=True):
            channels = self.space.channels(stage.channels, width)
            weights_after = dict(mixture.depths)
            ends = []
            for place, (blocks, elastic) in enumerate(
                zip(mixture.blocks, cast(Iterable[ElasticBlock], parts), strict=False)
            ):
                name, stride = f"block{place}", 1 if place else stage.stride
                outputs = [
                    weight * elastic.apply_part(values, Unit(name, self.space.block, channels, stride, block))
                    for block, weight in blocks
                ]
                values = torch.stack(outputs).sum(dim=0) if len(outputs) > 1 else outputs[0]
                if place + 1 in weights_after:
                    ends.append(weights_after[place + 1] * values)
            values = torch.stack(ends).sum(dim=0)
        return self._apply_head(values)

    def extract(self, architecture: Architecture) -> Network:
        """The standalone network with this architecture's part of the weights, its statistics not yet calibrated."""
        network = build_network(architecture, self.space, self.input_shape, self.classes)
        with torch.no_grad():
            self.stem.copy_part_to(cast(ConvUnit, network.stem))
            for block, (unit, weights) in zip(network.blocks, self._parts(architecture), strict=True):
                weights.copy_part_to(block, unit)
            network.classifier.weight.copy_(self.classifier.weight[:, : network.classifier.in_features])
            network.classifier.bias.copy_(self.classifier.bias)
        return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]

    def _apply_stem(self, images: Tensor, resolution: int, width: float) -> Tensor:
        size = input_shape_at(resolution, self.input_shape)[:2]
        return self.stem.apply_part(
            scale_to(images, size), self.space.channels(self.space.stem.channels, width), *self._stem_shape
        )

    def _apply_head(self, values: Tensor) -> Tensor:
        features = values.mean(dim=(2, 3))
        return F.linear(features, self.classifier.weight[:, : features.shape[1]], self.classifier.bias)

    def _parts(self, architecture: Architecture) -> Iterator[tuple[Unit, ElasticBlock]]:
        """The units between stem and head, each with the shared weights that it takes its part of."""
        for units, weights in zip(self.space.stage_units(architecture), self.stages, strict=True):
            yield from zip(units, cast(Iterable[ElasticBlock], weights), strict=False)
