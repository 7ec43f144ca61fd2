"""A search space's genes as a distribution sees them, and what each of their values adds to an architecture's costs.

At one resolution and width a unit's cost hardly depends on the other units, so that a table of differences between
whole candidates predicts any architecture: latency, energy, flash and multiply-accumulates add up, and the peak of the
SRAM is the highest of the units' peaks. Where it matters, the exact costs correct and confirm the table.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tinynas.architecture import Architecture
from tinynas.evaluation import CostFunction, Costs
from tinynas.space import Gene, InputShape, SearchSpace

Floats = npt.NDArray[np.float64]
Genotype = tuple[int, ...]
"""One index into the values of every gene; those of blocks beyond a stage's depth stand for nothing."""

ADDITIVE = ("latency_ms", "energy_mj", "flash_bytes", "macs")
"""The costs, by their names in ``Costs``, that units add to."""
PEAK = "sram_bytes"
"""The cost that is the highest of the units'."""

MAX_JOINT_OPTIONS = 64
"""Genes of a block with no more combinations than this are tabulated together, others one by one."""


def additive_values(costs: Costs) -> Floats:
    """The ADDITIVE costs, in that order."""
    return np.array([getattr(costs, name) for name in ADDITIVE], dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Item:
    """Genes of one block whose values are chosen together."""

    genes: tuple[int, ...]
    options: tuple[tuple[int, ...], ...]
    """Every combination: an index into the values of each of the genes. The first is all zeros."""


@dataclass(frozen=True, slots=True)
class StageLayout:
    """Where the genes of one stage are."""

    depth_gene: int
    depths: tuple[int, ...]
    blocks: tuple[tuple[Item, ...], ...]
    """The items of each block, up to the largest depth."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The genes of a search space by what they choose."""

    space: SearchSpace
    input_shape: InputShape
    genes: tuple[Gene, ...]
    resolution_gene: int
    width_gene: int
    stages: tuple[StageLayout, ...]
    subspaces: tuple[tuple[int, int], ...]
    """Every (resolution, width), as indices into their genes' values."""
    shared: bool
    """Whether all blocks have the same genes, as cells do, rather than each its own."""

    @classmethod
    def of(cls, space: SearchSpace, input_shape: InputShape) -> Layout:
        """The layout of ``space`` for a data set whose inputs are ``input_shape``."""
        genes = space.genes(input_shape)
        places = {gene.name: index for index, gene in enumerate(genes)}
        common = tuple(
            place for name, place in places.items() if name not in ("resolution", "width") and name[:5] != "stage"
        )
        stages = []
        for number in range(len(space.stages)):
            depth_gene = places[f"stage{number}.depth"]
            depths = tuple(int(depth) for depth in genes[depth_gene].values)
            blocks = []
            for index in range(max(depths)):
                prefix = f"stage{number}.block{index}."
                own = common or tuple(place for name, place in places.items() if name.startswith(prefix))
                joint = math.prod(len(genes[gene].values) for gene in own) <= MAX_JOINT_OPTIONS
                groups = [own] if joint else [(gene,) for gene in own]
                blocks.append(
                    tuple(
                        Item(group, tuple(itertools.product(*(range(len(genes[gene].values)) for gene in group))))
                        for group in groups
                    )
                )
            stages.append(StageLayout(depth_gene, depths, tuple(blocks)))
        resolution, width = places["resolution"], places["width"]
        pairs = itertools.product(range(len(genes[resolution].values)), range(len(genes[width].values)))
        return cls(space, input_shape, genes, resolution, width, tuple(stages), tuple(pairs), bool(common))

    def decode(self, genotype: Sequence[int]) -> Architecture:
        """The architecture that ``genotype`` stands for."""
        return self.space.decode(tuple(genotype), self.input_shape)

    def encode(self, architecture: Architecture) -> tuple[int | None, ...]:
        """The genotype of ``architecture``, None where a gene stands for nothing."""
        return self.space.encode(architecture, self.input_shape)

    def items(self) -> Iterator[tuple[int, int, Item]]:
        """Stage, block and item, in order."""
        for number, stage in enumerate(self.stages):
            for index, block in enumerate(stage.blocks):
                for item in block:
                    yield number, index, item

    def active_items(self, genotype: Sequence[int]) -> Iterator[tuple[int, Item, int]]:
        """The place in ``items()``, the item, and the place of its option, for each block that is there."""
        for place, (number, index, item) in enumerate(self.items()):
            stage = self.stages[number]
            if index < stage.depths[genotype[stage.depth_gene]]:
                yield place, item, item.options.index(tuple(genotype[gene] for gene in item.genes))


@dataclass(frozen=True, slots=True)
class SubspaceCosts:
    """What the options of each item add at one resolution and width."""

    base: Floats
    """(costs,) of the architecture that the options are measured against, in the order of ADDITIVE."""
    base_peak: float
    """Of the smallest architecture."""
    items: tuple[Floats, ...]
    """(options, costs) for each of ``Layout.items()``."""
    peaks: tuple[Floats, ...]
    """(options,) the peak of the SRAM when everything else is that of the base."""

    def predict(self, layout: Layout, genotype: Sequence[int]) -> tuple[Floats, float]:
        """The ADDITIVE costs and the peak of ``genotype``, which is of this sub-space."""
        total, peak = self.base.copy(), self.base_peak
        for place, _, option in layout.active_items(genotype):
            total += self.items[place][option]
            peak = max(peak, float(self.peaks[place][option]))
        return total, peak


def tabulate(layout: Layout, subspace: tuple[int, int], costs: CostFunction) -> SubspaceCosts:
    """Measure every option of every item against the smallest architecture of ``subspace``.

    A block that is not always there also carries what the deeper stage costs more.
    """
    smallest = _shallow(layout, subspace, [0] * len(layout.genes))
    base = costs(layout.decode(smallest))
    if layout.shared:
        return _tabulate_shared(layout, subspace, costs, float(base.sram_bytes))
    rows: list[Floats] = []
    peaks: list[Floats] = []
    for stage in layout.stages:
        ordered = sorted(stage.depths)
        for index, block in enumerate(stage.blocks):
            depth = next(value for value in ordered if value > index)
            deep = list(smallest)
            deep[stage.depth_gene] = stage.depths.index(depth)
            reference = additive_values(costs(layout.decode(deep)))
            existence = np.zeros(len(ADDITIVE))
            if depth > ordered[0]:
                shallower = ordered[ordered.index(depth) - 1]
                shallow = list(smallest)
                shallow[stage.depth_gene] = stage.depths.index(shallower)
                # Blocks that come and go together share what they cost together.
                existence = (reference - additive_values(costs(layout.decode(shallow)))) / (depth - shallower)
            for number, item in enumerate(block):
                measured = []
                for option in item.options:
                    changed = list(deep)
                    for gene, value in zip(item.genes, option, strict=True):
                        changed[gene] = value
                    measured.append(costs(layout.decode(changed)))
                added = np.stack([additive_values(each) for each in measured]) - reference
                rows.append(added + existence if number == 0 else added)
                peaks.append(np.array([each.sram_bytes for each in measured], dtype=np.float64))
    return SubspaceCosts(additive_values(base), float(base.sram_bytes), tuple(rows), tuple(peaks))


def _shallow(layout: Layout, subspace: tuple[int, int], genotype: Sequence[int]) -> list[int]:
    """``genotype`` at the resolution and width of ``subspace``, every stage at its smallest depth."""
    shallow = list(genotype)
    shallow[layout.resolution_gene], shallow[layout.width_gene] = subspace
    for stage in layout.stages:
        shallow[stage.depth_gene] = stage.depths.index(min(stage.depths))
    return shallow


def _tabulate_shared(
    layout: Layout, subspace: tuple[int, int], costs: CostFunction, smallest_peak: float
) -> SubspaceCosts:
    """`tabulate` where blocks share their genes: a block's options cost what the stage costs more when it is there.

    The options of blocks that are always there cannot be told apart and are put down to the first. The base has the
    middle value of every gene, since a cell whose other edges carry nothing would do without the one that is measured.
    """
    middle = _shallow(layout, subspace, [len(gene.values) // 2 for gene in layout.genes])

    def measured(item: Item, option: Sequence[int], depth_gene: int | None = None, depth: int = 0) -> Costs:
        changed = list(middle)
        for gene, value in zip(item.genes, option, strict=True):
            changed[gene] = value
        if depth_gene is not None:
            changed[depth_gene] = depth
        return costs(layout.decode(changed))

    base = additive_values(costs(layout.decode(middle)))
    rows: list[Floats] = []
    peaks: list[Floats] = []
    for number, index, item in layout.items():
        stage, ordered = layout.stages[number], sorted(layout.stages[number].depths)
        depth = next(value for value in ordered if value > index)
        if depth == ordered[0]:
            found = [measured(item, option) for option in item.options]
            added = np.stack([additive_values(each) for each in found]) - base
            rows.append(added if (number, index) == (0, 0) else np.zeros_like(added))
        else:
            shallower = ordered[ordered.index(depth) - 1]
            ends = stage.depths.index(shallower), stage.depths.index(depth)
            found = [measured(item, option, stage.depth_gene, ends[1]) for option in item.options]
            before = [measured(item, option, stage.depth_gene, ends[0]) for option in item.options]
            added = np.stack(
                [additive_values(more) - additive_values(less) for more, less in zip(found, before, strict=True)]
            ) / (depth - shallower)
            own = item.options.index(tuple(middle[gene] for gene in item.genes))
            first_of_block = item is stage.blocks[index][0]
            rows.append(added if first_of_block else added - added[own])
        peaks.append(np.array([each.sram_bytes for each in found], dtype=np.float64))
    return SubspaceCosts(base, smallest_peak, tuple(rows), tuple(peaks))
