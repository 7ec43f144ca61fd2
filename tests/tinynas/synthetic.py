"""A search with nothing to train: costs and accuracy are formulas of the architecture."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from tinynas.architecture import Architecture
from tinynas.constraints import Admission, Limits
from tinynas.evaluation import AccuracyFunction, Costs
from tinynas.space import InputShape, SearchSpace
from tinynas.strategies import make_strategy
from tinynas.strategies.problem import Problem
from tinynas.study import Progress, SearchOutcome, Study, StudySettings, search

SHAPE: InputShape = (28, 28, 1)
# The formulas below were made for these choices, and the limits for the formulas; the real space is still being tuned.
SPACE = SearchSpace.model_validate(
    {
        "name": "mobilenet_small",
        "description": "A small space of inverted bottlenecks",
        "resolution_scales": [0.57, 0.72, 0.86, 1.0],
        "widths": [0.25, 0.5, 0.75, 1.0],
        "block": "inverted",
        "choices": {"kernel": [3, 5, 7], "expansion": [2, 3, 4, 6]},
        "channel_multiple": 4,
        "stem": {"channels": 16, "kernel": 3, "stride": 2},
        "stages": [
            {"channels": 16, "stride": 1, "depths": [1, 2], "choices": {"expansion": [1, 2, 3]}},
            {"channels": 24, "stride": 2, "depths": [1, 2, 3]},
            {"channels": 40, "stride": 1, "depths": [1, 2, 3]},
            {"channels": 64, "stride": 2, "depths": [1, 2]},
        ],
    }
)
LIMITS = {"max_sram_bytes": 20_000.0, "max_latency_ms": 1.2}


def costs(architecture: Architecture) -> Costs:
    """In the shape of the real ones: multiplications, the widest hidden tensor, two bytes of flash for a weight."""
    channels = 16 * architecture.width
    side = architecture.resolution / 2
    macs = parameters = peak = 0.0
    for blocks, stage in zip(architecture.stages, SPACE.stages, strict=True):
        for index, block in enumerate(blocks):
            hidden = channels * block["e"]
            peak = max(peak, 1.5 * hidden * side**2)
            side /= stage.stride if index == 0 else 1
            weights = hidden * (channels + block["k"] ** 2 + stage.channels * architecture.width)
            channels = stage.channels * architecture.width
            macs += side**2 * weights
            parameters += weights
    return Costs(int(macs), int(parameters), int(peak), int(2 * parameters), macs / 2e6, macs / 2e7)


def accuracy(architecture: Architecture) -> float:
    """Grows with every choice, less and less; what a kernel is worth depends on where it stands."""
    worth = sum(
        0.5 * math.log(block["e"]) + 0.1 * (block["k"] - 3) * (2 - stage)
        for stage, blocks in enumerate(architecture.stages)
        for block in blocks
    )
    return 1 - 1 / (1.5 + max(0.0, worth) + architecture.resolution / 20 + 0.5 * math.log(costs(architecture).macs))


def tiny_space() -> SearchSpace:
    """A space of 4 resolutions × 2 widths × 3 kernels."""
    stage = {"channels": 16, "stride": 1, "depths": [1]}
    choices = {"kernel": [3, 5, 7], "expansion": [1]}
    scales = {"widths": [0.5, 1.0], "resolution_scales": [0.25, 0.5, 0.75, 1], "block": "inverted", "choices": choices}
    stem = {"channels": 16, "kernel": 3, "stride": 2}
    fixed = {"name": "tiny", "description": "few", "channel_multiple": 4, "stem": stem, "stages": [stage]}
    return SearchSpace.model_validate(fixed | scales)


def settings(trials: int = 20, **changes: object) -> StudySettings:
    """A study's settings, some of them changed."""
    plain = {
        "device": "stm32f405",
        "data": "synthetic",
        "space": SPACE.name,
        "strategy": "evolution",
        "trials": trials,
        "seed": 7,
        "limits": LIMITS,
    }
    return StudySettings.model_validate(plain | changes)


def run(
    folder: Path,
    chosen: StudySettings,
    accuracy_function: AccuracyFunction = accuracy,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> SearchOutcome:
    """Start or resume the study of ``folder`` and search to its end."""
    admission = Admission(Limits.from_mapping(chosen.limits), costs)
    problem = Problem(SPACE, SHAPE, admission, chosen.objectives, trials=chosen.trials, seed=chosen.seed)
    strategy = make_strategy(chosen.strategy, problem)
    with Study.open(folder, chosen) as study:
        return search(study, strategy, admission, accuracy_function, on_progress=on_progress)
