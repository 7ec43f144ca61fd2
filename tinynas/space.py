"""Search spaces as data: which architectures exist, and what each choice means in channels and strides."""

from __future__ import annotations

import itertools
import math
import random
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator

from tinynas.architecture import Architecture, Block, Unit
from tinynas.blocks import KINDS
from tinynas.blocks.kind import BlockKind
from tinynas.errors import SearchError
from tinynas.graph_builder import InputShape as InputShape

Choices = dict[str, tuple[int, ...]]
"""The values of each of a block's choices, by the choice's name."""


def input_shape_at(resolution: int, input_shape: InputShape) -> InputShape:
    """Height, width and channels of the network's input when its longest side is ``resolution``.

    The other side keeps the proportion, rounded, and is at least 1; a sensor window keeps its width of 1.
    """
    height, width, channels = input_shape
    longest = max(height, width)
    return max(1, round(height * resolution / longest)), max(1, round(width * resolution / longest)), channels


@dataclass(frozen=True, slots=True)
class Gene:
    """One choice of an architecture: ``resolution``, ``width``, ``stage0.depth`` or ``stage0.block1.kernel``."""

    name: str
    values: tuple[int | float, ...]


class Stem(BaseModel):
    """The first convolution."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    channels: PositiveInt
    kernel: PositiveInt
    stride: PositiveInt


class Stage(BaseModel):
    """A run of blocks of one width; the first block carries the stride."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    channels: PositiveInt
    stride: PositiveInt
    depths: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
    choices: Choices = {}
    """In place of the space's, where this stage's blocks have others."""


class SearchSpace(BaseModel):
    """Named choices with values, read from a file like those in ``tinynas/spaces/``."""

    model_config = ConfigDict(frozen=True, extra="forbid", ignored_types=(cached_property,))

    name: Annotated[str, Field(pattern="^[a-z][a-z0-9_]*$")]
    description: str
    typical_input: Annotated[tuple[PositiveInt, PositiveInt, PositiveInt] | None, Field(exclude=True)] = None
    """Height, width and channels that the documentation gives figures for; no part of what a space is."""
    largest_input_side: PositiveInt | None = None
    resolution_scales: Annotated[tuple[Annotated[float, Field(gt=0, le=1)], ...], Field(min_length=1)]
    widths: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)]
    block: str
    """The kind of block, one of `tinynas.blocks`."""
    choices: Choices
    channel_multiple: PositiveInt
    stem: Stem
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _has_the_choices_of_its_blocks(self) -> Self:
        if self.block not in KINDS:
            raise ValueError(f"there is no block '{self.block}'; choose from {', '.join(KINDS)}")
        names = [choice.name for choice in self.kind.choices]
        for index, stage in enumerate(self.stages):
            choices = self.choices | stage.choices
            if set(choices) != set(names) or not all(choices.values()):
                raise ValueError(f"stage {index} needs values for {', '.join(names)}, and for nothing else")
            for name, values in choices.items():
                allowed = next(choice.values for choice in self.kind.choices if choice.name == name)
                if len(set(values)) < len(values) or not all(value in allowed for value in values):
                    raise ValueError(f"{name} of stage {index} needs distinct values of {list(allowed)}, not {values}")
            if self.kind.is_cell and stage.choices:
                raise ValueError(f"stage {index} has choices of its own, but all cells of a network are the same")
        return self

    @property
    def kind(self) -> BlockKind:
        """The kind of the blocks."""
        return KINDS[self.block]

    @cached_property
    def block_choices(self) -> tuple[tuple[tuple[int, ...], ...], ...]:
        """For each stage, the values of each of its blocks' choices, in the order of the kind."""
        return tuple(
            tuple((self.choices | stage.choices)[choice.name] for choice in self.kind.choices) for stage in self.stages
        )

    @cached_property
    def _blocks(self) -> tuple[tuple[Block, ...], ...]:
        """Every block that each stage may have, in the order of the choices."""
        return tuple(_valid_blocks(self.block, choices) for choices in self.block_choices)

    @cached_property
    def _blocks_allowed(self) -> tuple[frozenset[Block], ...]:
        return tuple(frozenset(blocks) for blocks in self._blocks)

    @cached_property
    def _cached_genes(self) -> dict[InputShape, tuple[Gene, ...]]:
        return {}

    @cached_property
    def _cached_resolutions(self) -> dict[InputShape, tuple[int, ...]]:
        return {}

    def resolutions(self, input_shape: InputShape) -> tuple[int, ...]:
        """Every resolution of the space for a data set whose inputs are ``input_shape``, ascending."""
        if input_shape not in self._cached_resolutions:
            side = max(input_shape[0], input_shape[1])
            rounded = {min(side, max(4, 4 * round(side * scale / 4))) for scale in self.resolution_scales}
            self._cached_resolutions[input_shape] = tuple(sorted(rounded))
        return self._cached_resolutions[input_shape]

    def channels(self, base: int, width: float) -> int:
        """``base`` channels times ``width``, to the space's multiple, and never below nine tenths of the product.

        The rounding rule is MobileNetV2's (Sandler et al., CVPR 2018).
        """
        multiple = self.channel_multiple
        rounded: int = max(multiple, int(base * width + multiple / 2) // multiple * multiple)
        return rounded + multiple if rounded < 0.9 * base * width else rounded

    def units(self, architecture: Architecture, input_shape: InputShape, classes: int) -> tuple[Unit, ...]:
        """The chain that ``architecture`` is: stem, blocks and head. It is taken to be in the space.

        Where the blocks are cells, a stage that changes the shape begins with a reduction.
        """
        stem = self.stem
        first = Unit("stem", "stem", self.channels(stem.channels, architecture.width), stem.stride, None, stem.kernel)
        blocks = itertools.chain.from_iterable(self.stage_units(architecture))
        return (first, *blocks, Unit("head", "head", classes))

    def stage_units(self, architecture: Architecture) -> tuple[tuple[Unit, ...], ...]:
        """The units of each stage of ``architecture``, which is taken to be in the space."""
        stages = []
        before = self.channels(self.stem.channels, architecture.width)
        for index, (stage, blocks) in enumerate(zip(self.stages, architecture.stages, strict=True)):
            channels, name, stride = self.channels(stage.channels, architecture.width), f"stage{index}", stage.stride
            units = []
            if self.kind.is_cell and (stride, channels) != (1, before):
                units, stride = [Unit(f"{name}.reduction", "reduction", channels, stride)], 1
            for number, block in enumerate(blocks):
                units.append(Unit(f"{name}.block{number}", self.block, channels, 1 if number else stride, block))
            stages.append(tuple(units))
            before = channels
        return tuple(stages)

    def genes(self, input_shape: InputShape) -> tuple[Gene, ...]:
        """Every choice in a fixed order: resolution, width, and each stage's depth and blocks up to its largest depth.

        Where the blocks are cells, all of a network are the same, and their genes ``cell.<choice>`` come before the
        depths. Genes with a single value are among them.
        """
        if input_shape not in self._cached_genes:
            genes = [Gene("resolution", self.resolutions(input_shape)), Gene("width", self.widths)]
            if self.kind.is_cell:
                genes += self._block_genes("cell", self.block_choices[0])
            for index, (stage, choices) in enumerate(zip(self.stages, self.block_choices, strict=True)):
                genes.append(Gene(f"stage{index}.depth", stage.depths))
                if not self.kind.is_cell:
                    for number in range(max(stage.depths)):
                        genes += self._block_genes(f"stage{index}.block{number}", choices)
            self._cached_genes[input_shape] = tuple(genes)
        return self._cached_genes[input_shape]

    def encode(self, architecture: Architecture, input_shape: InputShape) -> tuple[int | None, ...]:
        """For each of the genes the index of its value in ``architecture``; None for a block beyond its stage's depth.

        Raises SearchError when the architecture is not in the space.
        """
        self.check(architecture, input_shape)
        genotype: list[int | None] = [
            self.resolutions(input_shape).index(architecture.resolution),
            self.widths.index(architecture.width),
        ]
        if self.kind.is_cell:
            genotype += _indices(architecture.stages[0][0], self.block_choices[0])
        for blocks, stage, choices in zip(architecture.stages, self.stages, self.block_choices, strict=True):
            genotype.append(stage.depths.index(len(blocks)))
            if self.kind.is_cell:
                continue
            for block in blocks:
                genotype += _indices(block, choices)
            genotype += [None] * (len(choices) * (max(stage.depths) - len(blocks)))
        return tuple(genotype)

    def decode(self, genotype: Sequence[int | None], input_shape: InputShape) -> Architecture:
        """The architecture whose genes have the values at these indices.

        What is said of blocks beyond their stage's depth is ignored, and a cell without a way from its input to its
        output is given one. Raises SearchError when a gene that counts has no value, or the genotype has another length
        than the genes.
        """
        genes = self.genes(input_shape)
        if len(genotype) != len(genes):
            raise SearchError(f"the space '{self.name}' has {len(genes)} genes and not {len(genotype)}; give each one")
        pairs = zip(genes, genotype, strict=True)
        values = [None if index is None else gene.values[index] for gene, index in pairs]

        def value(place: int) -> int | float:
            found = values[place]
            if found is None:
                raise SearchError(f"the gene {genes[place].name} of the space '{self.name}' has no value; give it one")
            return found

        choices, place, stages = len(self.kind.choices), 2, []

        def block(first: int) -> Block:
            return self.kind.repaired(self._block([int(value(place)) for place in range(first, first + choices)]))

        cell = None
        if self.kind.is_cell:
            cell, place = block(place), place + choices
        for stage in self.stages:
            depth, place = int(value(place)), place + 1
            if cell is not None:
                stages.append((cell,) * depth)
            else:
                stages.append(tuple(block(place + choices * number) for number in range(depth)))
                place += choices * max(stage.depths)
        return Architecture(self.name, int(value(0)), value(1), tuple(stages))

    def sample(self, rng: random.Random, input_shape: InputShape) -> Architecture:
        """One architecture, every choice uniform and independent; of cells, among those that compute anything."""
        if self.kind.is_cell:
            cell = rng.choice(self._blocks[0])
            stages = tuple((cell,) * rng.choice(stage.depths) for stage in self.stages)
        else:
            stages = tuple(
                tuple(self._block([rng.choice(values) for values in choices]) for _ in range(rng.choice(stage.depths)))
                for stage, choices in zip(self.stages, self.block_choices, strict=True)
            )
        return Architecture(self.name, rng.choice(self.resolutions(input_shape)), rng.choice(self.widths), stages)

    def extreme(self, input_shape: InputShape, *, largest: bool) -> Architecture:
        """The architecture with every choice at the value that makes the largest (or smallest) network."""
        pick, pick_other = (max, min) if largest else (min, max)
        picks = [pick_other if choice.is_larger_cheaper else pick for choice in self.kind.choices]
        stages = tuple(
            (self.kind.repaired(self._block([best(each) for best, each in zip(picks, choices, strict=True)])),)
            * pick(stage.depths)
            for stage, choices in zip(self.stages, self.block_choices, strict=True)
        )
        return Architecture(self.name, pick(self.resolutions(input_shape)), pick(self.widths), stages)

    def every(self, input_shape: InputShape) -> Iterator[Architecture]:
        """All architectures of the space, the last gene changing fastest."""
        outer = itertools.product(self.resolutions(input_shape), self.widths)
        if self.kind.is_cell:
            for (resolution, width), cell in itertools.product(outer, self._blocks[0]):
                for depths in itertools.product(*(stage.depths for stage in self.stages)):
                    yield Architecture(self.name, resolution, width, tuple((cell,) * depth for depth in depths))
            return
        stages = [
            [blocks for depth in stage.depths for blocks in itertools.product(allowed, repeat=depth)]
            for stage, allowed in zip(self.stages, self._blocks, strict=True)
        ]
        for resolution, width in outer:
            for chosen in itertools.product(*stages):
                yield Architecture(self.name, resolution, width, chosen)

    def restricted(
        self, input_shape: InputShape, *, resolution: int | None = None, width: float | None = None
    ) -> SearchSpace:
        """The part of the space at one ``resolution`` of ``input_shape``, at one ``width``, or both; its name stays.

        Raises SearchError when the space has no such resolution or width.
        """
        changes: dict[str, object] = {}
        if resolution is not None:
            if resolution not in self.resolutions(input_shape):
                raise SearchError(
                    f"resolution {resolution} is not in the space '{self.name}'; choose from "
                    f"{self.resolutions(input_shape)}"
                )
            changes["resolution_scales"] = (resolution / max(input_shape[0], input_shape[1]),)
        if width is not None:
            if width not in self.widths:
                raise SearchError(f"width {width:g} is not in the space '{self.name}'; choose from {self.widths}")
            changes["widths"] = (width,)
        fields = {name: getattr(self, name) for name in SearchSpace.model_fields}
        return SearchSpace.model_validate(fields | changes)

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
                if block in self._blocks_allowed[index]:
                    continue
                letters = [letter for letter, _ in block.choices]
                expected = [choice.letter for choice in self.kind.choices]
                require(letters == expected, f"block {block} of stage {index}", f"the letters {', '.join(expected)}")
                for choice, values in zip(self.kind.choices, self.block_choices[index], strict=True):
                    value = block[choice.letter]
                    require(value in values, f"{choice.name} {value} of stage {index}", values)
                require(False, f"block {block}, whose output does not depend on its input,", "others")
        if self.kind.is_cell:
            cells = sorted({block for blocks in architecture.stages for block in blocks})
            require(len(cells) == 1, f"a network of several cells, {', '.join(map(str, cells))},", "one cell for all")

    def size(self, input_shape: InputShape) -> int:
        """How many architectures the space holds."""
        outer = len(self.resolutions(input_shape)) * len(self.widths)
        if self.kind.is_cell:
            return outer * len(self._blocks[0]) * math.prod(len(stage.depths) for stage in self.stages)
        per_stage = (
            sum(len(allowed) ** depth for depth in stage.depths)
            for stage, allowed in zip(self.stages, self._blocks, strict=True)
        )
        return int(outer * math.prod(per_stage))

    def _block_genes(self, name: str, choices: tuple[tuple[int, ...], ...]) -> list[Gene]:
        return [Gene(f"{name}.{choice.name}", each) for choice, each in zip(self.kind.choices, choices, strict=True)]

    def _block(self, values: Iterable[int]) -> Block:
        return _block(self.block, tuple(values))


@cache
def _block(kind: str, values: tuple[int, ...]) -> Block:
    """Made once for all architectures: a search makes millions of them of a few dozen blocks."""
    return Block(tuple((choice.letter, value) for choice, value in zip(KINDS[kind].choices, values, strict=True)))


@cache
def _valid_blocks(kind: str, choices: tuple[tuple[int, ...], ...]) -> tuple[Block, ...]:
    blocks = (_block(kind, values) for values in itertools.product(*choices))
    return tuple(filter(KINDS[kind].is_valid, blocks))


def _indices(block: Block, choices: tuple[tuple[int, ...], ...]) -> list[int]:
    return [values.index(value) for (_, value), values in zip(block.choices, choices, strict=True)]


def space_names() -> tuple[str, ...]:
    """The search spaces that come with tinynas."""
    folder = resources.files("tinynas") / "spaces"
    return tuple(sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml")))


def load_space(name_or_path: str | Path) -> SearchSpace:
    """Read a space that comes with tinynas, by name, or one of your own, by the path of its ``.toml`` file.

    Raises SearchError listing the names when there is none like it, and when the file is not a search space.
    """
    name = str(name_or_path)
    if name in space_names():
        text = (resources.files("tinynas") / "spaces" / f"{name}.toml").read_text(encoding="utf-8")
    elif not name.endswith(".toml"):
        raise SearchError(
            f"there is no search space '{name}'; choose from {', '.join(space_names())}, or give a .toml file's path"
        )
    else:
        try:
            text = Path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeError) as error:
            raise SearchError(f"cannot read the search space {name}: {error}; give the path of its file") from error
    try:
        return SearchSpace.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise SearchError(f"the search space {name} is not TOML: {error}; mend the file") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "its choices"
        raise SearchError(f"the search space {name} is not valid at {where}: {first['msg']}; mend the file") from error


def default_space(input_shape: InputShape) -> SearchSpace:
    """The space made for inputs like these: sensor windows, small images, or images."""
    if input_shape[1] == 1:
        return load_space("sensor")
    small = load_space("mobilenet_small")
    assert small.largest_input_side is not None
    return small if max(input_shape) <= small.largest_input_side else load_space("mobilenet")
