"""Narrows a search space to one resolution and one width before anything is trained, as TinyNAS does.

Every pair of a resolution and a width is a sub-space. A number of architectures of each is sampled; those that keep the
limits tell what the device has room for. Among networks that fit, more multiply-accumulates tend to mean more accuracy
(Lin et al., MCUNet, NeurIPS 2020, section 3.1), so the sub-space whose fitting samples have the most in the mean wins.
"""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the journal knows sub-spaces too, and has no need of the compiler
    from tinynas.candidate import CandidateCosts
    from tinynas.constraints import Limits
    from tinynas.space import InputShape, SearchSpace

SAMPLES = 1_000
"""Architectures of each sub-space, as in MCUNet."""
LEAST_SHARE = 0.1
"""Of a sub-space's samples that have to fit for it to win: a lucky one says nothing of what a search would find."""
QUANTILES = 21
"""Of the multiply-accumulates that are kept of each sub-space: every twentieth, from the least to the most."""


@dataclass(frozen=True, slots=True)
class Fitting:
    """The multiply-accumulates of a sub-space's samples that fit."""

    count: int
    mean_macs: float
    """0 where none fits."""
    macs: tuple[int, ...]
    """The least, the most, and evenly spaced quantiles between; empty where none fits."""

    @classmethod
    def of(cls, macs: Sequence[int]) -> Fitting:
        """Sum up what was seen."""
        if not macs:
            return cls(0, 0.0, ())
        ascending, last = sorted(macs), len(macs) - 1
        return cls(
            count=len(macs),
            mean_macs=sum(macs) / len(macs),
            macs=tuple(ascending[round(last * step / (QUANTILES - 1))] for step in range(QUANTILES)),
        )


@dataclass(frozen=True, slots=True)
class SubSpace:
    """What was seen of one resolution and width."""

    resolution: int
    width: float
    sampled: int
    fitting: Fitting
    layer_by_layer: Fitting
    """Of the samples that would fit if the tensors of every layer had to exist whole."""


def sample_sub_spaces(
    space: SearchSpace,
    input_shape: InputShape,
    costs: CandidateCosts,
    limits: Limits,
    *,
    samples: int = SAMPLES,
    seed: int = 0,
    processes: int = 1,
    on_progress: Callable[[int, int], None] = lambda done, of: None,
) -> tuple[SubSpace, ...]:
    """Sample every sub-space of ``space``, by ascending resolution and width; the same seed gives the same samples.

    The samples are the same networks in every sub-space but for its resolution and width, so that their differences are
    the sub-spaces' and not the samples'. Their costs are found by so many ``processes``.
    """
    rng = random.Random(seed)
    sampled = [space.sample(rng, input_shape) for _ in range(samples)]
    pairs = [(resolution, width) for resolution in space.resolutions(input_shape) for width in sorted(space.widths)]
    of_pair = [
        [dataclasses.replace(sample, resolution=resolution, width=width) for sample in sampled]
        for resolution, width in pairs
    ]
    all_costs = costs.many(itertools.chain.from_iterable(of_pair), processes)
    found = []
    for done, ((resolution, width), architectures) in enumerate(zip(pairs, of_pair, strict=True), start=1):
        fitting, layer_by_layer = [], []
        for architecture in architectures:
            its_costs = next(all_costs)
            if not limits.violations(its_costs):
                fitting.append(its_costs.macs)
            whole = dataclasses.replace(its_costs, sram_bytes=costs.layer_by_layer_sram(architecture))
            if not limits.violations(whole):
                layer_by_layer.append(its_costs.macs)
        found.append(SubSpace(resolution, width, samples, Fitting.of(fitting), Fitting.of(layer_by_layer)))
        on_progress(done, len(pairs))
    return tuple(found)


def ranking(sub_spaces: Sequence[SubSpace], *, layer_by_layer: bool = False) -> tuple[SubSpace, ...]:
    """The sub-spaces, best first: by mean multiply-accumulates, those where too few samples fit behind all others.

    Too few are less than ``LEAST_SHARE`` of the samples, or, where no sub-space has so many, less than the most that
    any has: a tight budget still has a winner, the sub-space where most fits. ``layer_by_layer`` ranks by what would
    fit without our planner.
    """

    def fitting(sub_space: SubSpace) -> Fitting:
        return sub_space.layer_by_layer if layer_by_layer else sub_space.fitting

    shares = {sub_space: fitting(sub_space).count / sub_space.sampled for sub_space in sub_spaces}
    enough = min(LEAST_SHARE, max(shares.values()))
    # Of equal means the lower resolution: it costs less of everything but multiply-accumulates.
    return tuple(sorted(sub_spaces, key=lambda s: (shares[s] < enough, -fitting(s).mean_macs, s.resolution, s.width)))


def best_sub_space(sub_spaces: Sequence[SubSpace]) -> SubSpace | None:
    """The one to search; None where not one sample fits."""
    best = ranking(sub_spaces)[0]
    return best if best.fitting.count else None
