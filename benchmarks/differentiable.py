#!/usr/bin/env python3
"""Whether the differentiable search comes as close to its target as it is asked to, and what its latency weight does.

On Fashion-MNIST, mobilenet_small and stm32f405, with binarized paths and with mixtures:

- for targets of 5, 10, 20 and 40 ms, the first network that the strategy asks for: its latency over the target, and
  its accuracy with the shared weights;
- for a ladder of latency weights (what the latency of the mean architecture is worth, in nats of cross-entropy),
  without a target: what is expected of the latency once the distribution is learned, and the architecture that is then
  best for that weight among all that were sampled. Both have to become faster as the weight grows, and the
  architectures less accurate: a front.

Usage: python -m benchmarks.differentiable [--supernet FOLDER] [--paths binarized mixture] [--json] [--quick]
FOLDER keeps the shared weights; they are trained for three epochs when it has none.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from devices.profile import load_profile
from tinynas.architecture import Architecture
from tinynas.candidate import CandidateCosts
from tinynas.constraints import Admission, Limits
from tinynas.cost_model import current_cost_model
from tinynas.data import load_data
from tinynas.evaluation import CostFunction
from tinynas.space import load_space
from tinynas.strategies.additive_costs import Layout, tabulate
from tinynas.strategies.differentiable import Differentiable, samples_within
from tinynas.strategies.distribution import Distribution
from tinynas.strategies.hardening import Budget
from tinynas.strategies.learner import DifferentiableSettings, Learner
from tinynas.strategies.problem import Problem
from tinynas.supernet import Supernet
from tinynas.workers import on_one_core

DEVICE, DATA, SPACE = "stm32f405", "fashion-mnist", "mobilenet_small"
EPOCHS = 3
TARGETS_MS = (5.0, 10.0, 20.0, 40.0)
WEIGHTS = (0.004, 0.008, 0.016, 0.032, 0.064, 0.128)
SAMPLES = 16
"""Architectures that are drawn from the distribution of each weight."""
LATER_SHARE = 2
"""The second weight and those after it take this part of the steps."""
CLOSENESS = 0.95

Paths = Literal["binarized", "mixture"]


@dataclass(frozen=True, slots=True)
class Hit:
    """What the search returned for a target."""

    target_ms: float
    latency_ms: float
    of_target: float
    accuracy: float
    seconds: float
    architecture: str


@dataclass(frozen=True, slots=True)
class Rung:
    """What the search came to with one latency weight."""

    weight: float
    expected_ms: float
    latency_ms: float
    accuracy: float
    architecture: str


@dataclass(frozen=True, slots=True)
class ByPaths:
    """One way to the gradient."""

    paths: Paths
    steps: int
    targets: tuple[Hit, ...]
    ladder: tuple[Rung, ...]

    @property
    def close(self) -> bool:
        """Whether every target was kept, and missed by 5 % at most."""
        return all(CLOSENESS <= hit.of_target <= 1 for hit in self.targets)

    @property
    def monotone(self) -> bool:
        """Whether a larger weight always gave something faster and less accurate, or the same."""
        return all(
            after.expected_ms <= before.expected_ms
            and after.latency_ms <= before.latency_ms
            and after.accuracy <= before.accuracy
            for before, after in pairwise(self.ladder)
        )


class Bench:
    """Fashion-MNIST's shared weights on the device."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._space, data, self._profile = load_space(SPACE), load_data(DATA), load_profile(DEVICE)
        self._shape, self._seed = data.input_shape, seed
        self._supernet = Supernet(self._space, data)
        self._supernet.train(epochs=EPOCHS, checkpoint=folder / "supernet.safetensors")
        costs = CandidateCosts(
            self._space, self._shape, len(data.classes), self._profile, current_cost_model(self._profile)
        )
        self._costs: CostFunction = Admission(Limits(), costs).costs

    def run(self, paths: Paths, steps: int, targets: Sequence[float], weights: Sequence[float]) -> ByPaths:
        """Both parts, one way."""
        settings = DifferentiableSettings(paths=paths, steps=steps)
        return ByPaths(
            paths, steps, tuple(self._hit(settings, target) for target in targets), self._ladder(settings, weights)
        )

    def _hit(self, settings: DifferentiableSettings, target_ms: float) -> Hit:
        limits = Limits.for_device(self._profile, {"max_latency_ms": target_ms})
        admission = Admission(limits, self._costs)
        problem = Problem(
            self._space, self._shape, admission, ("accuracy",), 1, self._seed, supernet=lambda: self._supernet
        )
        started = time.perf_counter()
        found = Differentiable(problem, settings).ask()
        seconds = time.perf_counter() - started
        latency_ms = self._costs(found).latency_ms
        accuracy = self._supernet.evaluate(found)
        return Hit(target_ms, latency_ms, latency_ms / target_ms, accuracy, seconds, str(found))

    def _ladder(self, settings: DifferentiableSettings, weights: Sequence[float]) -> tuple[Rung, ...]:
        """Each weight's distribution starts as its predecessor's ended, as the weights grow, and takes fewer steps."""
        layout = Layout.of(self._space, self._shape)
        tables = [tabulate(layout, subspace, self._costs) for subspace in layout.subspaces]
        limits = {
            name.removeprefix("max_"): limit
            for name, limit in Limits.for_device(self._profile, {}).as_mapping().items()
        }
        slowest = self._costs(self._space.extreme(self._shape, largest=True)).latency_ms
        budget = Budget({**limits, "latency_ms": 2 * slowest}, "latency_ms", 0.0)
        learner = Learner(self._supernet, layout, tables, self._costs, settings, self._seed)
        distribution = Distribution(layout)
        mean_ms = learner.expected(distribution)["latency_ms"]
        random = np.random.default_rng(self._seed)
        sampled: dict[Architecture, float] = {}
        expected: list[float] = []
        for weight in weights:
            steps = settings.steps if not expected else math.ceil(settings.steps / LATER_SHARE)
            learner.learn(distribution, steps, limits=limits, prices={"latency_ms": weight / mean_ms})
            expected.append(learner.expected(distribution)["latency_ms"])
            new = list(samples_within(budget, distribution, tables, self._costs, random, SAMPLES))
            sampled.update(zip(new, self._supernet.evaluate_all(new), strict=True))

        def best(weight: float) -> Architecture:
            """Least in what the loss consists of, the log of the accuracy in place of the cross-entropy."""
            return min(
                sampled,
                key=lambda each: (weight * self._costs(each).latency_ms / mean_ms - math.log(sampled[each]), str(each)),
            )

        chosen = [best(weight) for weight in weights]
        return tuple(
            Rung(weight, expected_ms, self._costs(each).latency_ms, sampled[each], str(each))
            for weight, expected_ms, each in zip(weights, expected, chosen, strict=True)
        )


def main() -> None:
    """Search, print, and fail if a target is missed or a ladder is not monotone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--supernet", type=Path, metavar="FOLDER")
    parser.add_argument("--steps", type=int, default=DifferentiableSettings().steps)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--paths", nargs="+", choices=get_args(Paths), default=list(get_args(Paths)))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="two targets and three weights")
    options = parser.parse_args()
    targets, weights = (TARGETS_MS[1:3], WEIGHTS[::2]) if options.quick else (TARGETS_MS, WEIGHTS)
    with on_one_core(), tempfile.TemporaryDirectory() as folder:
        bench = Bench(options.supernet or Path(folder), options.seed)
        results = [bench.run(paths, options.steps, targets, weights) for paths in options.paths]
    if options.json:
        rows = [asdict(result) | {"close": result.close, "monotone": result.monotone} for result in results]
        print(json.dumps({"device": DEVICE, "data": DATA, "space": SPACE, "seed": options.seed, "paths": rows}))
    else:
        for result in results:
            print_table(result)
    raise SystemExit(0 if all(result.close and result.monotone for result in results) else 1)


def print_table(result: ByPaths) -> None:
    """Both parts."""
    print(f"{result.paths}, {result.steps} steps")
    for hit in result.targets:
        print(
            f"  target {hit.target_ms:5.1f} ms: {hit.latency_ms:6.2f} ms = {hit.of_target:.3f} of it, "
            f"accuracy {100 * hit.accuracy:.2f} %, {hit.seconds:.0f} s, {hit.architecture}"
        )
    for rung in result.ladder:
        print(
            f"  weight {rung.weight:5.3f}: expected {rung.expected_ms:6.2f} ms; {rung.latency_ms:6.2f} ms, "
            f"accuracy {100 * rung.accuracy:.2f} %, {rung.architecture}"
        )
    print(f"  all within 5 % below their targets: {result.close}; monotone: {result.monotone}")


if __name__ == "__main__":
    main()
