"""Costs of a candidate before anything is trained: the compiler's own planner, the flash model and the cost model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice, pairwise
from multiprocessing import get_context
from typing import TypeVar

from devices.profile import DeviceProfile
from export.chain import Layout, lay_out
from export.flash import core_of, flash_bytes, schedule_bytes, symbols_bytes, walk_bytes
from export.graph import Graph, total_macs
from export.links import Cover, Link
from export.optimize import optimize
from export.planner import plan
from tinynas.architecture import Architecture, Block, Unit
from tinynas.cost_model import CostModel
from tinynas.evaluation import Costs
from tinynas.lower import lower
from tinynas.space import InputShape, SearchSpace, input_shape_at
from tinynas.unit_facts import LinkCosts, UnitFacts, parameters, unit_facts

_Value = TypeVar("_Value", int, float)

_CHUNK = 500
"""Architectures that a process is given at a time."""


@dataclass(slots=True)
class _Stage:
    """The facts of one stage's units at one resolution and width, as far as they have been met."""

    depths: frozenset[int]
    first: dict[Block, UnitFacts] = field(default_factory=dict)
    later: dict[Block, UnitFacts] = field(default_factory=dict)


@dataclass(slots=True)
class _SubSpace:
    """The units that are known of one resolution and width."""

    head: UnitFacts
    stages: tuple[_Stage, ...]
    stems: dict[Block, UnitFacts] = field(default_factory=dict)
    """By the first block, which may read what the stem writes channel by channel."""
    is_by_block: bool = True
    """Whether blocks cost the same behind all others: none but the first may read another's output by channels."""


@dataclass(frozen=True)
class CandidateCosts:
    """Computes the costs of architectures on one device; call it with an architecture.

    SRAM and flash are what the linker will report, not an estimate: the same planner compiles the exported model. It
    plans with the facts of an architecture's units, which are worked out when they are met for the first time.
    """

    space: SearchSpace
    input_shape: InputShape
    classes: int
    profile: DeviceProfile
    cost_model: CostModel

    def __getstate__(self) -> dict[str, object]:
        """Without what has been worked out, which another process works out for itself."""
        return {name: self.__dict__[name] for name in self.__dataclass_fields__}

    def graph(self, architecture: Architecture) -> Graph:
        """The graph that the exported int8 model will have once it is optimized.

        Less what the weights' values allow: channels that turn out to be constant are left out of the real one.
        """
        return optimize(lower(architecture, self.space, self.input_shape, self.classes))

    def __call__(self, architecture: Architecture) -> Costs:
        """The costs. Raises SearchError if the architecture is not in the space."""
        units = self._units(architecture)
        links: list[Link] = []
        costs: list[LinkCosts] = []
        macs = weights = 0
        flash = self.profile.reserved.flash_bytes
        for unit in units:
            if unit.links is None:
                return self.compiled(architecture)
            links += unit.links
            costs += unit.costs
            macs += unit.macs
            weights += unit.parameters
            flash += unit.flash_bytes
        layout = lay_out(links)
        cycles, growth, entries = _follow(costs, layout)
        flash += growth + self._symbols_bytes(frozenset([unit.symbols for unit in units]))
        if layout.counter_bytes:
            flash += self._walk_bytes + schedule_bytes(entries, len(cycles))
        latency_ms = self.profile.latency_ms(sum(cycles))
        return Costs(
            macs=macs,
            parameters=weights,
            sram_bytes=layout.arena_bytes,
            flash_bytes=flash,
            latency_ms=latency_ms,
            energy_mj=self.profile.energy_mj(latency_ms),
        )

    def compiled(self, architecture: Architecture) -> Costs:
        """The same costs by way of the whole graph, slowly, as the compiler does it."""
        graph = self.graph(architecture)
        planned = plan(graph, self.profile.instruction_set)
        latency_ms = self.cost_model.latency_ms(planned, self.profile)
        return Costs(
            macs=total_macs(graph),
            parameters=parameters(graph),
            sram_bytes=planned.arena_bytes,
            flash_bytes=flash_bytes(planned, self.profile),
            latency_ms=latency_ms,
            energy_mj=self.profile.energy_mj(latency_ms),
        )

    def many(self, architectures: Iterable[Architecture], processes: int = 1) -> Iterator[Costs]:
        """The costs of each, in order; by a pool of ``processes`` if that is more than one."""
        if processes == 1:
            yield from map(self, architectures)
            return
        rest = iter(architectures)
        chunks = iter(lambda: list(islice(rest, _CHUNK)), [])
        with ProcessPoolExecutor(processes, get_context("spawn"), _keep, (self,)) as pool:
            for costs in pool.map(_costs_of, chunks):
                yield from costs

    def layer_by_layer_sram(self, architecture: Architecture) -> int:
        """The SRAM of a planner that runs layer by layer and overlays nothing, in bytes.

        The most that the inputs and the output of one layer take, with a residual that is kept for later. Raises
        SearchError if the architecture is not in the space.
        """
        return max([unit.classical_bytes for unit in self._units(architecture)])

    # --- facts that are kept -----------------------------------------------------------------------------------------

    @cached_property
    def _known(self) -> dict[tuple[Unit, InputShape, bool, bool], UnitFacts]:
        return {}

    @cached_property
    def _sub_spaces(self) -> dict[tuple[int, float], _SubSpace]:
        return {}

    @cached_property
    def _sizes(self) -> dict[frozenset[frozenset[str]], int]:
        return {}

    @cached_property
    def _walk_bytes(self) -> int:
        return walk_bytes(core_of(self.profile))

    def _symbols_bytes(self, symbols: frozenset[frozenset[str]]) -> int:
        """The code of the functions that units need."""
        size = self._sizes.get(symbols)
        if size is None:
            size = self._sizes[symbols] = symbols_bytes(frozenset().union(*symbols), core_of(self.profile))
        return size

    def _units(self, architecture: Architecture) -> list[UnitFacts]:
        """The facts of its units. Those that are known are of the space."""
        sub_space = self._sub_spaces.get((architecture.resolution, architecture.width))
        if (
            sub_space is None
            or architecture.space != self.space.name
            or len(architecture.stages) != len(sub_space.stages)
            or not sub_space.is_by_block
        ):
            return self._new_units(architecture)
        try:
            units = [sub_space.stems[architecture.stages[0][0]]]
            for stage, blocks in zip(sub_space.stages, architecture.stages, strict=True):
                if len(blocks) not in stage.depths:
                    return self._new_units(architecture)
                units.append(stage.first[blocks[0]])
                later = stage.later
                for block in blocks[1:]:
                    units.append(later[block])
        except KeyError:
            return self._new_units(architecture)
        units.append(sub_space.head)
        return units

    def _new_units(self, architecture: Architecture) -> list[UnitFacts]:
        space = self.space
        space.check(architecture, self.input_shape)
        shape = input_shape_at(architecture.resolution, self.input_shape)
        units = space.units(architecture, self.input_shape, self.classes)
        shapes, apart = [shape], []
        for unit in units:
            apart.append(self._facts(unit, shapes[-1]))
            shapes.append(apart[-1].output)
        # What a unit writes for the next one to read may be stored channel by channel.
        agreed = [a.may_write_planes and b.may_read_planes for a, b in pairwise(apart)]
        facts = [
            self._facts(unit, shape, reads_planes=before, writes_planes=after)
            for unit, shape, before, after in zip(units, shapes[:-1], [False, *agreed], [*agreed, False], strict=True)
        ]
        if not space.kind.is_cell:
            self._remember(architecture, facts)
        return facts

    def _facts(
        self, unit: Unit, shape: InputShape, *, reads_planes: bool = False, writes_planes: bool = False
    ) -> UnitFacts:
        key = unit, shape, reads_planes, writes_planes
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = unit_facts(
                unit,
                shape,
                is_window=self.input_shape[1] == 1,
                profile=self.profile,
                cost_model=self.cost_model,
                reads_planes=reads_planes,
                writes_planes=writes_planes,
            )
        return known

    def _remember(self, architecture: Architecture, facts: list[UnitFacts]) -> None:
        """By their blocks. Blocks of one stage but the first have inputs of one shape."""
        key = architecture.resolution, architecture.width
        if key not in self._sub_spaces:
            stages = tuple(_Stage(frozenset(stage.depths)) for stage in self.space.stages)
            self._sub_spaces[key] = _SubSpace(facts[-1], stages)
        sub_space = self._sub_spaces[key]
        sub_space.stems[architecture.stages[0][0]] = facts[0]
        if any(unit.may_read_planes for unit in facts[2:]):
            sub_space.is_by_block = False
        units = iter(facts[1:-1])
        for stage, blocks in zip(sub_space.stages, architecture.stages, strict=True):
            for number, block in enumerate(blocks):
                (stage.later if number else stage.first)[block] = next(units)


def _follow(costs: Sequence[LinkCosts], layout: Layout) -> tuple[list[float], int, int]:
    """Cycles of each layer, bytes of flash that streamed layers take more than others, and entries of the schedule."""
    cycles: list[float] = []
    growth = entries = 0
    for start, stop, cover, _, _, _, _, units in layout.steps:
        if cover is None:
            for cost in costs[start:stop]:
                cycles += cost.streamed_cycles
                growth += cost.streamed_flash
            entries += units
        elif not cover.streamed:
            cycles += costs[start].cycles
            entries += len(costs[start].cycles)
        else:
            cycles += _partly(costs[start].cycles, costs[start].streamed_cycles, cover)
            growth += sum(_partly(costs[start].no_growth, costs[start].growth, cover))
            entries += units + len(costs[start].cycles) - cover.streamed
    exceptions = layout.exceptions
    for at in range(layout.cool, len(costs)):
        cost = costs[at]
        if at in exceptions:
            cover = exceptions[at]
            cycles += _partly(cost.cycles, cost.streamed_cycles, cover)
            growth += sum(_partly(cost.no_growth, cost.growth, cover))
            entries += cover.units + len(cost.cycles) - cover.streamed
        else:
            cycles += cost.cycles
            entries += len(cost.cycles)
    return cycles, growth, entries


def _partly(whole: tuple[_Value, ...], streamed: tuple[_Value, ...], cover: Cover) -> list[_Value]:
    """The values of each layer of a link: those of ``streamed`` where ``cover`` streams it."""
    return [value for cut in cover.cuts for value in (streamed if len(cut) > 1 else whole)[cut.start : cut.stop]]


_costs: CandidateCosts | None = None
"""In a process of a pool: what it works with."""


def _keep(costs: CandidateCosts) -> None:
    global _costs
    _costs = costs


def _costs_of(architectures: list[Architecture]) -> list[Costs]:
    assert _costs is not None
    return [_costs(architecture) for architecture in architectures]
