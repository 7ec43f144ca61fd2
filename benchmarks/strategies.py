#!/usr/bin/env python3
"""Compares the search strategies at equal budgets of evaluations, and of time.

Two problems: the table of data/fashion_tiny.csv, where every architecture's accuracy from scratch is known, and the
weight-sharing supernet of mobilenet_small on Fashion-MNIST. Each strategy runs with every seed twice: for accuracy
alone (its regret is what the best it found is short of the best there is, in points of accuracy) and for a front of
accuracy and latency (the hypervolume of what it found, as a share of the true front's). Both problems have a latency
limit that about half of the space breaks. What there is to be found in the supernet's space is what all runs together
found.

An evaluation of the table takes the seconds that the training took; of the supernet, the processor time of the
evaluation; a strategy's own computing is added, as processor time too, so that other work on the machine changes
nothing. Intervals are 95 % of bootstrap means over the seeds; p is the probability of a difference to random search as
large as seen if there were none (Mann-Whitney, one-sided); the grid has no seed, so its runs are one and have no p.

Usage: python -m benchmarks.strategies [--problems table supernet] [--supernet CHECKPOINT] [--seeds N] [--json]
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import mean
from typing import Protocol

from scipy.stats import mannwhitneyu

from benchmarks.bootstrap import interval
from benchmarks.table import CLASSES, INPUT_SHAPE, Table
from devices.profile import load_profile
from tinynas.architecture import Architecture
from tinynas.candidate import CandidateCosts
from tinynas.constraints import Admission, Limits
from tinynas.cost_model import current_cost_model
from tinynas.data import load_data
from tinynas.evaluation import Evaluation
from tinynas.files import write_atomically
from tinynas.front import hypervolume
from tinynas.space import SearchSpace, load_space
from tinynas.strategies import STRATEGIES, make_strategy
from tinynas.strategies.problem import Problem
from tinynas.strategies.sampler import SpaceExhaustedError
from tinynas.supernet import Supernet

DEVICE = "stm32f405"
FRONT = ("accuracy", "latency")
ACCURACY = ("accuracy",)
IMAGES = 1000
"""Validation images that the supernet is asked on."""


class Landscape(Protocol):
    """A space and what evaluating its architectures gives."""

    name: str
    space: SearchSpace
    max_latency_ms: float
    worst_accuracy: float
    """The accuracy at the reference point of the hypervolume."""
    evaluations: int
    """The budget."""
    seconds: float
    """The other budget."""

    def evaluate(self, architecture: Architecture) -> tuple[float, float]:
        """Accuracy, and the seconds that it costs."""
        ...

    def supernet(self) -> Supernet:
        """Shared weights for the differentiable strategy."""
        ...


class TableLandscape:
    """The trained table."""

    name = "table"
    evaluations = 32
    seconds = 150.0
    worst_accuracy = 0.7
    max_latency_ms = 2.0

    def __init__(self) -> None:
        self._table = Table()
        self.space = self._table.space

    def evaluate(self, architecture: Architecture) -> tuple[float, float]:
        entry = self._table.entries[architecture]
        return entry.validation_accuracy, entry.seconds

    def supernet(self) -> Supernet:
        return Supernet(self.space, load_data("fashion-mnist"))


class SupernetLandscape:
    """A trained supernet."""

    name = "supernet"
    evaluations = 32
    seconds = 6.0
    worst_accuracy = 0.6
    max_latency_ms = 20.0

    def __init__(self, checkpoint: Path, epochs: int) -> None:
        self.space = load_space("mobilenet_small")
        self._checkpoint, self._epochs = checkpoint, epochs
        self._known: dict[Architecture, tuple[float, float]] = {}

    @functools.cached_property
    def _supernet(self) -> Supernet:
        supernet = Supernet(self.space, load_data("fashion-mnist"))
        supernet.train(epochs=self._epochs, checkpoint=self._checkpoint)
        return supernet

    def evaluate(self, architecture: Architecture) -> tuple[float, float]:
        if architecture not in self._known:
            supernet = self._supernet  # loading it is nobody's time
            started = time.process_time()
            accuracy = supernet.evaluate(architecture, images=IMAGES)
            self._known[architecture] = accuracy, time.process_time() - started
        return self._known[architecture]

    def supernet(self) -> Supernet:
        return self._supernet


@dataclass(frozen=True, slots=True)
class Step:
    """One evaluation of a run."""

    seconds: float
    """Since the run began."""
    architecture: str
    accuracy: float
    latency_ms: float


@dataclass(frozen=True, slots=True)
class Run:
    """One strategy with one seed."""

    problem: str
    strategy: str
    objectives: tuple[str, ...]
    seed: int
    steps: tuple[Step, ...]


def costs_in(space: SearchSpace) -> CandidateCosts:
    """The costs of the architectures of ``space`` on the device."""
    profile = load_profile(DEVICE)
    return CandidateCosts(space, INPUT_SHAPE, CLASSES, profile, current_cost_model(profile))


def run(landscape: Landscape, strategy_name: str, objectives: tuple[str, ...], seed: int) -> Run:
    """Ask and tell until both budgets are used up."""
    costs = costs_in(landscape.space)
    admission = Admission(Limits.for_device(costs.profile, {"max_latency_ms": landscape.max_latency_ms}), costs)
    problem = Problem(
        landscape.space,
        INPUT_SHAPE,
        admission,
        objectives,
        trials=landscape.evaluations,
        seed=seed,
        supernet=landscape.supernet,
    )
    strategy = make_strategy(strategy_name, problem)
    steps: list[Step] = []
    clock = 0.0
    while len(steps) < landscape.evaluations or clock < landscape.seconds:
        started = time.process_time()
        try:
            architecture = strategy.ask()
        except SpaceExhaustedError:
            break
        clock += time.process_time() - started
        accuracy, seconds = landscape.evaluate(architecture)
        evaluation = Evaluation(architecture, admission.costs(architecture), accuracy)
        started = time.process_time()
        strategy.tell(evaluation)
        clock += seconds + time.process_time() - started
        steps.append(Step(clock, str(architecture), accuracy, evaluation.costs.latency_ms))
    return Run(landscape.name, strategy_name, objectives, seed, tuple(steps))


def landscape_of(name: str, checkpoint: Path, epochs: int) -> Landscape:
    """The problem called ``name``."""
    return TableLandscape() if name == "table" else SupernetLandscape(checkpoint, epochs)


@functools.cache
def _landscape(name: str, checkpoint: Path, epochs: int) -> Landscape:
    """One per process, so that a supernet is loaded once and its evaluations are shared by the runs."""
    import torch

    torch.set_num_threads(1)
    return landscape_of(name, checkpoint, epochs)


@dataclass(frozen=True, slots=True)
class Job:
    """One run to do."""

    problem: str
    strategy: str
    objectives: tuple[str, ...]
    seed: int
    checkpoint: Path
    epochs: int

    def __call__(self) -> Run:
        return run(_landscape(self.problem, self.checkpoint, self.epochs), self.strategy, self.objectives, self.seed)


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of one strategy over the seeds."""

    problem: str
    budget: str
    figure: str
    """"regret", in points of accuracy, or "hypervolume", a share of the best."""
    strategy: str
    mean: float
    low: float
    high: float
    p_against_random: float | None


def best_of(landscape: Landscape, runs: Iterable[Run]) -> tuple[float, float]:
    """The highest accuracy within the latency limit, and the hypervolume of the front, that there are to be found."""
    if isinstance(landscape, TableLandscape):
        costs = costs_in(landscape.space)
        points = [
            (landscape.evaluate(architecture)[0], costs(architecture).latency_ms)
            for architecture in landscape.space.every(INPUT_SHAPE)
        ]
    else:
        points = [(step.accuracy, step.latency_ms) for each in runs for step in each.steps]
    points = [point for point in points if point[1] <= landscape.max_latency_ms]
    return max(accuracy for accuracy, _ in points), _hypervolume(landscape, points)


def _hypervolume(landscape: Landscape, points: Iterable[tuple[float, float]]) -> float:
    reference = (-landscape.worst_accuracy, landscape.max_latency_ms)
    return hypervolume([(-accuracy, latency_ms) for accuracy, latency_ms in points], reference)


def figures(landscape: Landscape, runs: Sequence[Run]) -> list[Figure]:
    """Regret and hypervolume of every strategy at both budgets."""
    best_accuracy, best_volume = best_of(landscape, runs)

    def regret(steps: Sequence[Step]) -> float:
        return 100 * (best_accuracy - max((step.accuracy for step in steps), default=landscape.worst_accuracy))

    def volume(steps: Sequence[Step]) -> float:
        return _hypervolume(landscape, [(step.accuracy, step.latency_ms) for step in steps]) / best_volume

    budgets: dict[str, Callable[[Run], Sequence[Step]]] = {
        f"{landscape.evaluations} evaluations": lambda each: each.steps[: landscape.evaluations],
        f"{landscape.seconds:g} s": lambda each: [step for step in each.steps if step.seconds <= landscape.seconds],
    }
    found = []
    for budget, within in budgets.items():
        for name, objectives, of in (("regret", ACCURACY, regret), ("hypervolume", FRONT, volume)):
            values = {
                strategy: [
                    of(within(each)) for each in runs if (each.strategy, each.objectives) == (strategy, objectives)
                ]
                for strategy in dict.fromkeys(each.strategy for each in runs)
            }
            for strategy, sample in values.items():
                low, high = interval(sample)
                better = "less" if name == "regret" else "greater"
                p = (
                    float(mannwhitneyu(sample, values["random"], alternative=better).pvalue)
                    if strategy not in ("random", "grid") and "random" in values
                    else None
                )
                found.append(Figure(landscape.name, budget, name, strategy, mean(sample), low, high, p))
    return found


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", nargs="+", choices=("table", "supernet"), default=["table", "supernet"])
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=list(STRATEGIES))
    parser.add_argument("--supernet", type=Path, default=Path("studies") / "supernet.safetensors")
    parser.add_argument("--supernet-epochs", type=int, default=5, help="of the checkpoint; it is trained if missing")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--runs", type=Path, help="keep the finished runs in this file, and go on from it")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    options.supernet.parent.mkdir(parents=True, exist_ok=True)
    if "supernet" in options.problems:  # before the processes, which would each train it
        landscape_of("supernet", options.supernet, options.supernet_epochs).supernet()
    jobs = [
        Job(problem, strategy, objectives, seed, options.supernet, options.supernet_epochs)
        for problem in options.problems
        for seed in range(options.seeds)
        for strategy in options.strategies
        for objectives in (ACCURACY, FRONT)
    ]
    runs = finish(jobs, options.processes, options.runs)
    found = [
        figure
        for problem in options.problems
        for figure in figures(
            landscape_of(problem, options.supernet, options.supernet_epochs),
            [each for each in runs if each.problem == problem],
        )
    ]
    if options.json:
        print(json.dumps({"seeds": options.seeds, "figures": [asdict(figure) for figure in found]}))
        return
    print("| problem | budget | figure | strategy | mean | 95 % interval | p against random |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for figure in found:
        p = "" if figure.p_against_random is None else f"{figure.p_against_random:.2g}"
        print(
            f"| {figure.problem} | {figure.budget} | {figure.figure} | {figure.strategy} | {figure.mean:.3f} | "
            f"{figure.low:.3f} to {figure.high:.3f} | {p} |"
        )


def finish(jobs: Sequence[Job], processes: int, path: Path | None) -> list[Run]:
    """Do the jobs that ``path`` does not hold yet, several at a time, and add each to it."""
    done: dict[tuple[object, ...], Run] = {}
    if path is not None and path.exists():
        for entry in json.loads(path.read_text()):
            steps = tuple(Step(**step) for step in entry["steps"])
            each = Run(entry["problem"], entry["strategy"], tuple(entry["objectives"]), entry["seed"], steps)
            done[_key(each)] = each
    missing = [job for job in jobs if _key(job) not in done]
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for position, each in enumerate(pool.map(Job.__call__, missing), start=1):
            done[_key(each)] = each
            if path is not None:
                write_atomically(path, json.dumps([asdict(each) for each in done.values()]) + "\n")
            print(f"{position} of {len(missing)} runs", file=sys.stderr)
    return [done[_key(job)] for job in jobs]


def _key(of: Job | Run) -> tuple[object, ...]:
    return of.problem, of.strategy, of.objectives, of.seed


if __name__ == "__main__":
    main()
