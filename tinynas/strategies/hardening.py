"""From log-probabilities of choices to an architecture that fits: the most probable within a budget, proven exactly.

At one resolution and width costs add up, so the most probable architecture whose cost lies in an interval is found by
dynamic programming over the cost, as in a knapsack. Where the table of additive costs and the compiler disagree, the
budget is corrected, and at last a local repair swaps what loses the least probability for what it gains.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tinynas.architecture import Architecture
from tinynas.evaluation import CostFunction, Costs
from tinynas.strategies.additive_costs import ADDITIVE, PEAK, Floats, Item, Layout, SubspaceCosts

Integers = npt.NDArray[np.int64]

BINS = 512
"""Steps into which a budget is divided."""
TRIES = 4
"""How often the budget of the dynamic programming is corrected by exact costs before the repair takes over."""
MAX_SWAPS = 24
"""The most choices that a repair changes."""
MARGIN = 0.01
"""Of its limit, how far inside the target of a corrected budget is put."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Log-probabilities of what can be chosen at one resolution and width."""

    depths: tuple[Floats, ...]
    """(depths,) for each stage."""
    items: tuple[Floats, ...]
    """(options,) for each of ``Layout.items()``."""

    def total(self, layout: Layout, genotype: list[int]) -> float:
        """Of everything that ``genotype`` has."""
        depths = sum(
            float(scores[genotype[stage.depth_gene]]) for stage, scores in zip(layout.stages, self.depths, strict=True)
        )
        return depths + sum(float(self.items[place][option]) for place, _, option in _distinct(layout, genotype))


@dataclass(frozen=True, slots=True)
class Budget:
    """Upper limits on costs by their names in ``Costs``, and one of them, an additive one, to come close to."""

    limits: Mapping[str, float]
    target: str
    at_least: float
    """The share of its limit that the target has to reach, 0 for none."""

    def distance(self, values: Mapping[str, float]) -> float:
        """The sum of the relative excesses and of the target's shortfall: 0 is within the budget."""
        excess = sum(max(0.0, values[name] / limit - 1) for name, limit in self.limits.items())
        return excess + max(0.0, self.at_least - values[self.target] / self.limits[self.target])

    def distance_of(self, costs: Costs) -> float:
        """`distance` of exact costs."""
        return self.distance({name: getattr(costs, name) for name in self.limits})


def harden(
    layout: Layout,
    table: SubspaceCosts,
    subspace: tuple[int, int],
    scores: Scores,
    budget: Budget,
    costs: CostFunction,
) -> Architecture | None:
    """The most probable architecture of ``subspace`` (indices of the resolution and the width) within ``budget``.

    Its exact ``costs`` are within the budget. None when the attempts, which are capped, do not lead to one. Where
    blocks share their genes, a choice's cost is not its own, and the repair starts from the most probable of all.
    """
    if layout.shared:
        return _repair(layout, table, scores, budget, costs, _likeliest(layout, subspace, scores))
    stretch, genotype = 1.0, None
    for _ in range(TRIES):
        found = most_probable(layout, table, subspace, scores, budget, stretch)
        if found is None:
            break
        genotype = found
        architecture = layout.decode(genotype)
        exact = costs(architecture)
        if budget.distance_of(exact) == 0:
            return architecture
        predicted, _ = table.predict(layout, genotype)
        stretch = (1 - MARGIN) * predicted[ADDITIVE.index(budget.target)] / getattr(exact, budget.target)
    return None if genotype is None else _repair(layout, table, scores, budget, costs, genotype)


def most_probable(
    layout: Layout, table: SubspaceCosts, subspace: tuple[int, int], scores: Scores, budget: Budget, stretch: float
) -> list[int] | None:
    """The genotype of the highest score whose tabulated target lies within the budget's, both ends times ``stretch``.

    Options whose own peak breaks an SRAM limit are left out; other limits are not looked at. When nothing reaches the
    lower end, the closest to it. None when nothing stays below the upper end.
    """
    column = ADDITIVE.index(budget.target)
    unit = stretch * budget.limits[budget.target] / BINS
    peak_limit = budget.limits.get(PEAK, math.inf)
    start = float(table.base[column])
    added: list[Integers] = []
    allowed: list[Floats] = []
    for place, (number, index, _) in enumerate(layout.items()):
        costs = table.items[place][:, column]
        if index < min(layout.stages[number].depths):  # always there: what its cheapest option costs is beyond choice
            start += float(costs.min())
            costs = costs - costs.min()
        added.append(np.maximum(0, np.rint(costs / unit)).astype(np.int64))
        allowed.append(np.where(table.peaks[place] <= peak_limit, scores.items[place], -np.inf))
    first = round(start / unit)
    if first > BINS:
        return None
    best = np.full(BINS + 1, -np.inf)
    best[first] = 0.0
    options: list[Integers] = []
    depths: list[Integers] = []
    for stage, depth_scores in zip(layout.stages, scores.depths, strict=True):
        after, depth_at = np.full(BINS + 1, -np.inf), np.zeros(BINS + 1, dtype=np.int64)
        for index, block in enumerate(stage.blocks):
            for _ in block:
                best, option_at = _choose(best, added[len(options)], allowed[len(options)])
                options.append(option_at)
            if index + 1 in stage.depths:
                depth = stage.depths.index(index + 1)
                better = best + depth_scores[depth] > after
                after, depth_at = np.where(better, best + depth_scores[depth], after), np.where(better, depth, depth_at)
        best = after
        depths.append(depth_at)
    lowest = math.ceil(budget.at_least * BINS)
    in_band = best[lowest:]
    if np.isfinite(in_band).any():
        end = lowest + int(in_band.argmax())
    elif np.isfinite(best).any():
        end = int(np.flatnonzero(np.isfinite(best))[-1])
    else:
        return None
    return _trace_back(layout, subspace, added, options, depths, end)


def _choose(best: Floats, added: Integers, scores: Floats) -> tuple[Floats, Integers]:
    """The best score at every cost once an option has been added, and that option."""
    after, option_at = np.full(len(best), -np.inf), np.zeros(len(best), dtype=np.int64)
    for option, (cost, score) in enumerate(zip(added.tolist(), scores.tolist(), strict=True)):
        if cost >= len(best) or score == -math.inf:
            continue
        reached = best[: len(best) - cost] + score
        better = reached > after[cost:]
        after[cost:][better] = reached[better]
        option_at[cost:][better] = option
    return after, option_at


def _trace_back(
    layout: Layout,
    subspace: tuple[int, int],
    added: list[Integers],
    options: list[Integers],
    depths: list[Integers],
    end: int,
) -> list[int]:
    genotype = [0] * len(layout.genes)
    genotype[layout.resolution_gene], genotype[layout.width_gene] = subspace
    places = list(enumerate(layout.items()))
    for number in reversed(range(len(layout.stages))):
        stage = layout.stages[number]
        genotype[stage.depth_gene] = int(depths[number][end])
        depth = stage.depths[genotype[stage.depth_gene]]
        for place, (_, _, item) in reversed([each for each in places if each[1][0] == number and each[1][1] < depth]):
            option = int(options[place][end])
            for gene, value in zip(item.genes, item.options[option], strict=True):
                genotype[gene] = value
            end -= int(added[place][option])
    return genotype


def _repair(
    layout: Layout, table: SubspaceCosts, scores: Scores, budget: Budget, costs: CostFunction, genotype: list[int]
) -> Architecture | None:
    """Swap one choice after another, each time what loses the least score for the distance to the budget it gains.

    Distances are predicted by the table, scaled to the exact costs of where the repair stands.
    """
    exact = costs(layout.decode(genotype))
    distance = budget.distance_of(exact)
    if distance == 0:
        return layout.decode(genotype)
    for _ in range(MAX_SWAPS):
        here, here_peak = table.predict(layout, genotype)
        score = scores.total(layout, genotype)
        ranked = []
        for neighbour in _neighbours(layout, genotype):
            there, peak = table.predict(layout, neighbour)
            values = {
                name: getattr(exact, name) * there[column] / max(1e-12, here[column])
                for column, name in enumerate(ADDITIVE)
            }
            values[PEAK] = exact.sram_bytes * peak / max(1e-12, here_peak)
            gain = distance - budget.distance(values)
            loss = score - scores.total(layout, neighbour)
            if gain > 1e-9 and loss < math.inf:
                ranked.append(((loss + 1e-3) / gain if loss > 0 else loss - 1 / gain, neighbour))
        improved = False
        for _, neighbour in sorted(ranked)[:TRIES]:
            found = costs(layout.decode(neighbour))
            if budget.distance_of(found) < distance:
                genotype, exact, distance, improved = neighbour, found, budget.distance_of(found), True
                break
        if distance == 0:
            return layout.decode(genotype)
        if not improved:
            return None
    return None


def _neighbours(layout: Layout, genotype: list[int]) -> Iterator[list[int]]:
    """Every genotype that differs in one option of a block that is there, or in one stage's depth."""
    for _, item, option in _distinct(layout, genotype):
        for other, values in enumerate(item.options):
            if other != option:
                changed = list(genotype)
                for gene, value in zip(item.genes, values, strict=True):
                    changed[gene] = value
                yield changed
    for stage in layout.stages:
        for depth in range(len(stage.depths)):
            if depth != genotype[stage.depth_gene]:
                changed = list(genotype)
                changed[stage.depth_gene] = depth
                yield changed


def _distinct(layout: Layout, genotype: list[int]) -> Iterator[tuple[int, Item, int]]:
    """`Layout.active_items`, of those that share genes the first alone."""
    seen: set[tuple[int, ...]] = set()
    for place, item, option in layout.active_items(genotype):
        if item.genes not in seen:
            seen.add(item.genes)
            yield place, item, option


def _likeliest(layout: Layout, subspace: tuple[int, int], scores: Scores) -> list[int]:
    genotype = [0] * len(layout.genes)
    genotype[layout.resolution_gene], genotype[layout.width_gene] = subspace
    for stage, depths in zip(layout.stages, scores.depths, strict=True):
        genotype[stage.depth_gene] = int(depths.argmax())
    for place, item, _ in _distinct(layout, genotype):
        option = item.options[int(scores.items[place].argmax())]
        for gene, value in zip(item.genes, option, strict=True):
            genotype[gene] = value
    return genotype
