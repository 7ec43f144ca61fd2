"""Narrowing: which sub-space wins, by what rule, and that the same seed gives the same."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, cast

import pytest

from tests.tinynas.synthetic import SHAPE, SPACE, costs
from tinynas.architecture import Architecture
from tinynas.constraints import Limits
from tinynas.evaluation import Costs
from tinynas.narrowing import QUANTILES, Fitting, SubSpace, best_sub_space, ranking, sample_sub_spaces


class MadeUpCosts:
    """The synthetic costs; layer by layer everything takes twice the SRAM."""

    def __init__(self) -> None:
        self.seen: list[Architecture] = []

    def __call__(self, architecture: Architecture) -> Costs:
        self.seen.append(architecture)
        return costs(architecture)

    def many(self, architectures: Iterable[Architecture], processes: int) -> Iterator[Costs]:
        return map(self, architectures)

    def layer_by_layer_sram(self, architecture: Architecture) -> int:
        return 2 * costs(architecture).sram_bytes


def narrowed(limits: Limits, samples: int = 60, seed: int = 0) -> tuple[SubSpace, ...]:
    return sample_sub_spaces(SPACE, SHAPE, cast(Any, MadeUpCosts()), limits, samples=samples, seed=seed)


def sub_space(resolution: int, share: float, mean_macs: float, layer_by_layer_mean: float = 0.0) -> SubSpace:
    count = round(1000 * share)
    other = Fitting(count, layer_by_layer_mean, (1,)) if layer_by_layer_mean else Fitting.of([])
    return SubSpace(resolution, 0.5, 1000, Fitting(count, mean_macs, (1,)) if count else Fitting.of([]), other)


def test_every_sub_space_is_sampled_alike() -> None:
    made_up = MadeUpCosts()
    seen: list[tuple[int, int]] = []
    found = sample_sub_spaces(
        SPACE,
        SHAPE,
        cast(Any, made_up),
        Limits(max_sram_bytes=20_000),
        samples=50,
        on_progress=lambda *done: seen.append(done),
    )
    pairs = [(s.resolution, s.width) for s in found]
    assert pairs == [(r, w) for r in SPACE.resolutions(SHAPE) for w in sorted(SPACE.widths)]
    assert seen == [(done, len(pairs)) for done in range(1, len(pairs) + 1)]
    # The same networks but for resolution and width, so that sub-spaces differ and samples do not.
    by_pair = {pair: [a.stages for a in made_up.seen if (a.resolution, a.width) == pair] for pair in pairs}
    assert len({tuple(stages) for stages in by_pair.values()}) == 1
    assert len(set(next(iter(by_pair.values())))) > 40


def test_what_is_said_of_a_sub_space_is_what_was_seen() -> None:
    limits = Limits(max_sram_bytes=20_000, max_latency_ms=1.2)
    made_up = MadeUpCosts()
    found = sample_sub_spaces(SPACE, SHAPE, cast(Any, made_up), limits, samples=80)
    assert any(0 < s.fitting.count < 80 for s in found)
    for s in found:
        of_it = [costs(a) for a in made_up.seen if (a.resolution, a.width) == (s.resolution, s.width)]
        macs = sorted(c.macs for c in of_it if c.sram_bytes <= 20_000 and c.latency_ms <= 1.2)
        layer_by_layer = [c.macs for c in of_it if 2 * c.sram_bytes <= 20_000 and c.latency_ms <= 1.2]
        assert (s.sampled, s.fitting.count, s.layer_by_layer.count) == (80, len(macs), len(layer_by_layer))
        if macs:
            assert s.fitting.mean_macs == pytest.approx(sum(macs) / len(macs))
            assert (s.fitting.macs[0], s.fitting.macs[-1], len(s.fitting.macs)) == (macs[0], macs[-1], QUANTILES)
            assert list(s.fitting.macs) == sorted(s.fitting.macs)


def test_the_largest_mean_wins() -> None:
    sub_spaces = [sub_space(20, 1.0, 100), sub_space(24, 0.5, 300), sub_space(28, 0.2, 200)]
    assert [s.resolution for s in ranking(sub_spaces)] == [24, 28, 20]
    assert best_sub_space(sub_spaces) == sub_spaces[1]


def test_a_lucky_sample_does_not_win() -> None:
    lucky = sub_space(28, 0.001, 900)
    assert best_sub_space([sub_space(20, 1.0, 100), lucky, sub_space(24, 0.1, 300)]) == sub_space(24, 0.1, 300)
    # Where hardly anything fits, what fits most often does.
    assert best_sub_space([lucky, sub_space(24, 0.05, 300), sub_space(20, 0.0, 0)]) == sub_space(24, 0.05, 300)
    assert best_sub_space([sub_space(20, 0.0, 0), sub_space(24, 0.0, 0)]) is None


def test_equal_means_go_to_the_lower_resolution() -> None:
    assert best_sub_space([sub_space(28, 0.5, 300), sub_space(24, 0.5, 300)]) == sub_space(24, 0.5, 300)


def test_the_ranking_layer_by_layer_is_another_one() -> None:
    sub_spaces = [sub_space(20, 0.9, 100, 150), sub_space(24, 0.5, 300, 120), sub_space(28, 0.0, 0)]
    assert [s.resolution for s in ranking(sub_spaces, layer_by_layer=True)] == [20, 24, 28]
    # Found in a sampled space too: with twice the SRAM for everything, large feature maps do not fit.
    found = narrowed(Limits(max_sram_bytes=12_000))
    ours, theirs = ranking(found)[0], ranking(found, layer_by_layer=True)[0]
    assert theirs.layer_by_layer.mean_macs < ours.fitting.mean_macs


def test_the_same_seed_gives_the_same() -> None:
    limits = Limits(max_sram_bytes=20_000)
    assert narrowed(limits) == narrowed(limits)
    assert narrowed(limits, seed=1) != narrowed(limits)


def test_the_search_space_that_is_left_holds_the_winner_alone() -> None:
    best = best_sub_space(narrowed(Limits(max_sram_bytes=20_000)))
    assert best is not None
    left = SPACE.restricted(SHAPE, resolution=best.resolution, width=best.width)
    assert (left.resolutions(SHAPE), left.widths) == ((best.resolution,), (best.width,))
    assert replace(SPACE.extreme(SHAPE, largest=True), resolution=best.resolution, width=best.width) == left.extreme(
        SHAPE, largest=True
    )
