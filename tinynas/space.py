"""Search spaces as data: which architectures exist, and what each choice means in channels and strides."""

from __future__ import annotations

import math
import random
import tomllib
from importlib import resources
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from tinynas.architecture import Architecture, Block
from tinynas.errors import SearchError

InputShape = tuple[int, int, int]
"""Height, width and channels of one input; a sensor window is (samples, 1, axes)."""


def input_shape_at(resolution: int, input_shape: InputShape) -> InputShape:
    """Height, width and channels of the network's input when its longest side is ``resolution``.

    The other side keeps the proportion, rounded, and is at least 1; a sensor window keeps its width of 1.
    """
    height, width, channels = input_shape
    longest = max(height, width)
    return max(1, round(height * resolution / longest)), max(1, round(width * resolution / longest)), channels


class Stem(BaseModel):
    """The first convolution."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    channels: PositiveInt
    kernel: PositiveInt
    stride: PositiveInt


class Stage(BaseModel):
    """A run of inverted bottlenecks of one width; the first block carries the stride."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    channels: PositiveInt
    stride: PositiveInt
    depths: tuple[PositiveInt, ...]
    expansions: tuple[PositiveInt, ...] | None = None


class SearchSpace(BaseModel):
    """Named choices with values, read from ``tinynas/spaces/<name>.toml``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    description: str
    largest_input_side: PositiveInt | None = None
    resolution_scales: tuple[Annotated[float, Field(gt=0, le=1)], ...]
    widths: tuple[Annotated[float, Field(gt=0)], ...]
    kernels: tuple[PositiveInt, ...]
    expansions: tuple[PositiveInt, ...]
    channel_multiple: PositiveInt
    stem: Stem
    stages: tuple[Stage, ...]

    def resolutions(self, input_shape: InputShape) -> tuple[int, ...]:
        """Every resolution of the space for a data set whose inputs are ``input_shape``, ascending."""
        side = max(input_shape[0], input_shape[1])
        return tuple(sorted({min(side, max(4, 4 * round(side * scale / 4))) for scale in self.resolution_scales}))

    def expansions_of(self, stage: Stage) -> tuple[int, ...]:
        """The expansion ratios that a block of ``stage`` may have."""
        return stage.expansions if stage.expansions is not None else self.expansions

    def channels(self, base: int, width: float) -> int:
        """``base`` channels times ``width``, to the space's multiple, and never below nine tenths of the product.

        The rounding rule is MobileNetV2's (Sandler et al., CVPR 2018).
        """
        multiple = self.channel_multiple
        rounded: int = max(multiple, int(base * width + multiple / 2) // multiple * multiple)
        return rounded + multiple if rounded < 0.9 * base * width else rounded

    def sample(self, rng: random.Random, input_shape: InputShape) -> Architecture:
        """One architecture, every choice uniform and independent."""
        stages = tuple(
            tuple(self.sample_block(rng, stage) for _ in range(rng.choice(stage.depths))) for stage in self.stages
        )
        return Architecture(self.name, rng.choice(self.resolutions(input_shape)), rng.choice(self.widths), stages)

    def sample_block(self, rng: random.Random, stage: Stage) -> Block:
        """One block of ``stage``, its kernel and expansion uniform."""
        return Block(rng.choice(self.kernels), rng.choice(self.expansions_of(stage)))

    def extreme(self, input_shape: InputShape, *, largest: bool) -> Architecture:
        """The architecture with every choice at its largest (or smallest) value."""
        pick = max if largest else min
        stages = tuple(
            (Block(pick(self.kernels), pick(self.expansions_of(stage))),) * pick(stage.depths) for stage in self.stages
        )
        return Architecture(self.name, pick(self.resolutions(input_shape)), pick(self.widths), stages)

    def check(self, architecture: Architecture, input_shape: InputShape) -> None:
        """Raise SearchError naming the first choice of ``architecture`` that is not in this space."""

        def require(ok: bool, what: str, allowed: object) -> None:
            if not ok:
                raise SearchError(f"{architecture}: {what} is not in the space '{self.name}'; choose from {allowed}")

        require(architecture.space == self.name, f"space '{architecture.space}'", self.name)
        resolutions = self.resolutions(input_shape)
        require(architecture.resolution in resolutions, f"resolution {architecture.resolution}", resolutions)
        require(architecture.width in self.widths, f"width {architecture.width:g}", self.widths)
        require(len(architecture.stages) == len(self.stages), f"{len(architecture.stages)} stages", len(self.stages))
        for index, (blocks, stage) in enumerate(zip(architecture.stages, self.stages, strict=True)):
            require(len(blocks) in stage.depths, f"depth {len(blocks)} of stage {index}", stage.depths)
            for block in blocks:
                expansions = self.expansions_of(stage)
                require(block.kernel in self.kernels, f"kernel {block.kernel} of stage {index}", self.kernels)
                require(block.expansion in expansions, f"expansion {block.expansion} of stage {index}", expansions)

    def size(self, input_shape: InputShape) -> int:
        """How many architectures the space holds."""
        per_stage = (
            sum((len(self.kernels) * len(self.expansions_of(stage))) ** depth for depth in stage.depths)
            for stage in self.stages
        )
        return int(len(self.resolutions(input_shape)) * len(self.widths) * math.prod(per_stage))


def space_names() -> tuple[str, ...]:
    """The search spaces that come with tinynas."""
    folder = resources.files("tinynas") / "spaces"
    return tuple(sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml")))


def load_space(name: str) -> SearchSpace:
    """Read a space by name. Raises SearchError listing the names when there is none like it."""
    if name not in space_names():
        raise SearchError(f"there is no search space '{name}'; choose from {', '.join(space_names())}")
    text = (resources.files("tinynas") / "spaces" / f"{name}.toml").read_text(encoding="utf-8")
    return SearchSpace.model_validate(tomllib.loads(text))


def default_space(input_shape: InputShape) -> SearchSpace:
    """The space whose inputs are the size of these: small images and sensor windows have one of their own."""
    small = load_space("mobilenet_small")
    assert small.largest_input_side is not None
    is_window = input_shape[1] == 1
    return small if is_window or max(input_shape) <= small.largest_input_side else load_space("mobilenet")
