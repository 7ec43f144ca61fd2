#!/usr/bin/env python3
"""What narrowing a search space to one resolution and width chooses, and what it gains.

Part one: the 108 sub-spaces of `mobilenet` on three devices and two input sizes, ranked by what fits with our planner
and by what would fit layer by layer. Part two: on Fashion-MNIST, the same number of evaluations in the whole of
`mobilenet_small` and in the sub-space that narrowing chooses, each by a supernet that was trained for the same epochs.
The hypervolume of a front is told for several accuracies of the reference point, since a sub-space has no very fast
networks: the lower that accuracy, the more these count. A supernet's accuracies are its own, and a narrow one's may be
higher for the same network, so with ``--trained N`` the N most accurate networks of every front are also trained from
scratch, all the same, and fronts compared by that.

Intervals are 95 % of bootstrap means over the seeds; p is the probability of so large a gain if there were none
(Mann-Whitney, one-sided).

Usage: python -m benchmarks.narrowing [--parts rankings fronts] [--samples N] [--whole CHECKPOINT]
       [--narrowed CHECKPOINT] [--seeds N] [--trained N] [--quick] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from scipy.stats import mannwhitneyu

from benchmarks.bootstrap import interval
from devices.profile import load_profile
from tinynas.architecture import Architecture
from tinynas.candidate import CandidateCosts
from tinynas.constraints import Admission, Limits
from tinynas.cost_model import current_cost_model, kendall_tau
from tinynas.data import DataSet, load_data
from tinynas.evaluation import Evaluation
from tinynas.front import hypervolume, pareto_front
from tinynas.narrowing import SAMPLES, SubSpace, best_sub_space, ranking, sample_sub_spaces
from tinynas.network import build_network
from tinynas.objectives import point_of
from tinynas.space import SearchSpace, load_space
from tinynas.strategies import make_strategy
from tinynas.strategies.problem import Problem
from tinynas.supernet import Supernet
from tinynas.training import train
from tinynas.workers import single_core_workers

DEVICES = ("nrf51822", "stm32f405", "stm32f746")
SIDES = (144, 224)
CLASSES = 1000
LISTED = 5
"""Of each ranking."""

FRONT_DEVICE, FRONT_SPACE, DATA = "stm32f405", "mobilenet_small", "fashion-mnist"
OBJECTIVES = ("accuracy", "latency")
MAX_LATENCY_MS = 20.0
EVALUATIONS = 40
FLOORS = (0.6, 0.8, 0.88)
"""Accuracies of the hypervolume's reference point."""
EPOCHS = 6
"""Of a network that is trained from scratch."""


def rankings(device: str, side: int, samples: int) -> dict[str, Any]:
    """Both rankings of one device and input size."""
    profile, space, shape = load_profile(device), load_space("mobilenet"), (side, side, 3)
    costs = CandidateCosts(space, shape, CLASSES, profile, current_cost_model(profile))
    started = time.perf_counter()
    limits = Limits.for_device(profile, {})
    sub_spaces = sample_sub_spaces(space, shape, costs, limits, samples=samples, processes=os.cpu_count() or 1)
    seconds = time.perf_counter() - started
    ours, theirs = ranking(sub_spaces), ranking(sub_spaces, layer_by_layer=True)
    return {
        "device": device,
        "input": side,
        "sub_spaces": len(sub_spaces),
        "samples": samples,
        "seconds": seconds,
        "candidates_per_s": len(sub_spaces) * samples / seconds,
        "ours": [_entry(sub_space) for sub_space in ours[:LISTED]],
        "layer_by_layer": [_entry(sub_space) for sub_space in theirs[:LISTED]],
        "place_of_layer_by_layer_best_in_ours": 1 + ours.index(theirs[0]) if theirs[0].layer_by_layer.count else None,
        "kendall_tau": kendall_tau(
            [ours.index(sub_space) for sub_space in sub_spaces], [theirs.index(sub_space) for sub_space in sub_spaces]
        ),
    }


def _entry(sub_space: SubSpace) -> dict[str, float]:
    return {
        "resolution": sub_space.resolution,
        "width": sub_space.width,
        "mean_macs": sub_space.fitting.mean_macs,
        "share": sub_space.fitting.count / sub_space.sampled,
        "layer_by_layer_mean_macs": sub_space.layer_by_layer.mean_macs,
        "layer_by_layer_share": sub_space.layer_by_layer.count / sub_space.sampled,
    }


def search(
    space: SearchSpace, data: DataSet, costs: CandidateCosts, supernet: Supernet, seed: int, evaluations: int
) -> list[Evaluation]:
    """What evolution evaluates with one seed."""
    admission = Admission(Limits.for_device(costs.profile, {"max_latency_ms": MAX_LATENCY_MS}), costs)
    problem = Problem(space, data.input_shape, admission, OBJECTIVES, trials=evaluations, seed=seed)
    strategy = make_strategy("evolution", problem)
    found = []
    for _ in range(evaluations):
        architecture = strategy.ask()
        found.append(Evaluation(architecture, admission.costs(architecture), supernet.evaluate(architecture)))
        strategy.tell(found[-1])
    return found


def fronts(
    whole_checkpoint: Path,
    narrowed_checkpoint: Path,
    *,
    epochs: int,
    samples: int,
    seeds: int,
    evaluations: int,
    trained: int,
    limit: int | None = None,
) -> dict[str, Any]:
    """Search with and without narrowing; ``limit`` takes so many images of each split alone."""
    data, space, profile = load_data(DATA, limit=limit), load_space(FRONT_SPACE), load_profile(FRONT_DEVICE)
    costs = CandidateCosts(space, data.input_shape, len(data.classes), profile, current_cost_model(profile))
    limits = Limits.for_device(profile, {"max_latency_ms": MAX_LATENCY_MS})
    best = best_sub_space(sample_sub_spaces(space, data.input_shape, costs, limits, samples=samples))
    assert best is not None
    left = space.restricted(data.input_shape, resolution=best.resolution, width=best.width)
    whole, narrowed = Supernet(space, data), Supernet(left, data)
    whole.train(epochs=epochs, checkpoint=whole_checkpoint)
    narrowed.train(epochs=epochs, checkpoint=narrowed_checkpoint)
    runs = {
        name: [search(part, data, costs, supernet, seed, evaluations) for seed in range(seeds)]
        for name, part, supernet in (("whole", space, whole), ("narrowed", left, narrowed))
    }
    result: dict[str, Any] = {
        "resolution": best.resolution,
        "width": best.width,
        "supernet_epochs": epochs,
        "seeds": seeds,
        "evaluations": evaluations,
        "by_supernet": _figures(runs),
    }
    if trained:
        result["trained"] = trained
        result["from_scratch"] = _figures(_trained(runs, trained, space, data))
    return result


def _figures(runs: dict[str, list[list[Evaluation]]]) -> list[dict[str, Any]]:
    """Best accuracy, and the hypervolume for each floor, with and without narrowing."""
    measures: dict[str, Callable[[list[Evaluation]], float]] = {
        "best accuracy": lambda run: max(e.accuracy for e in run)
    }
    for floor in FLOORS:
        reference = (-floor, MAX_LATENCY_MS)
        measures[f"hypervolume above {floor:.0%}"] = lambda run, reference=reference: hypervolume(  # type: ignore[misc]
            [point_of(e, OBJECTIVES) for e in run], reference
        )
    rows = []
    for name, measure in measures.items():
        whole, narrowed = ([measure(run) for run in runs[kind]] for kind in ("whole", "narrowed"))
        row: dict[str, Any] = {"figure": name, "p": float(mannwhitneyu(narrowed, whole, alternative="greater").pvalue)}
        for kind, sample in (("whole", whole), ("narrowed", narrowed)):
            row[kind] = mean(sample)
            row[f"{kind}_interval"] = interval(sample)
        rows.append(row)
    return rows


def _trained(
    runs: dict[str, list[list[Evaluation]]], count: int, space: SearchSpace, data: DataSet
) -> dict[str, list[list[Evaluation]]]:
    """The most accurate ``count`` of every front, with their accuracies from scratch; each network trains once."""
    chosen = {
        kind: [sorted(pareto_front(run, OBJECTIVES), key=lambda e: -e.accuracy)[:count] for run in each]
        for kind, each in runs.items()
    }
    every = list(dict.fromkeys(e.architecture for each in chosen.values() for front in each for e in front))
    networks = []
    for architecture in every:  # here and not in the workers: they would share the generator of the first weights
        torch.manual_seed(0)
        networks.append(build_network(architecture, space, data.input_shape, len(data.classes)))

    def train_one(index: int) -> float:
        result = train(networks[index], data, every[index].resolution, epochs=EPOCHS, seed=0)
        print(f"{index + 1} of {len(every)}, {every[index]}: {result.validation_accuracy:.2%}", file=sys.stderr)
        return result.validation_accuracy

    with single_core_workers() as workers:
        found: dict[Architecture, float] = dict(zip(every, workers.map(train_one, range(len(every))), strict=True))
    return {
        kind: [[Evaluation(e.architecture, e.costs, found[e.architecture]) for e in front] for front in each]
        for kind, each in chosen.items()
    }


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=("rankings", "fronts"), default=["rankings", "fronts"])
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--whole", type=Path, default=Path("studies") / "supernet.safetensors")
    parser.add_argument("--narrowed", type=Path, default=Path("studies") / "supernet_narrowed.safetensors")
    parser.add_argument("--supernet-epochs", type=int, default=5, help="of both; they are trained if missing")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--trained", type=int, default=0, help="of each front, to train from scratch")
    parser.add_argument("--quick", action="store_true", help="a minute's version, to see that it works")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    samples, seeds, evaluations, limit = options.samples, options.seeds, EVALUATIONS, None
    if options.quick:
        samples, seeds, evaluations, limit = min(samples, 20), min(seeds, 3), 8, 600
        options.whole, options.narrowed = (
            path.with_stem(path.stem + "_quick") for path in (options.whole, options.narrowed)
        )
    result: dict[str, Any] = {}
    if "rankings" in options.parts:
        result["rankings"] = [rankings(device, side, samples) for device in DEVICES for side in SIDES]
    if "fronts" in options.parts:
        for path in (options.whole, options.narrowed):
            path.parent.mkdir(parents=True, exist_ok=True)
        result["fronts"] = fronts(
            options.whole,
            options.narrowed,
            epochs=options.supernet_epochs,
            samples=samples,
            seeds=seeds,
            evaluations=evaluations,
            trained=options.trained,
            limit=limit,
        )
    if options.json:
        print(json.dumps(result))
        return
    for each in result.get("rankings", ()):
        _print_rankings(each)
    if "fronts" in result:
        _print_fronts(result["fronts"])


def _print_rankings(result: dict[str, Any]) -> None:
    print(
        f"\n{result['device']}, inputs of {result['input']} pixels: {result['sub_spaces']} sub-spaces of "
        f"{result['samples']} samples in {result['seconds']:.1f} s ({result['candidates_per_s']:,.0f} a second); "
        f"{_place(result['place_of_layer_by_layer_best_in_ours'])}; Kendall tau of the rankings "
        f"{result['kendall_tau']:.2f}\n"
    )
    print("| | ours | mean MACs | fit | layer by layer | mean MACs | fit |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for place, (one, other) in enumerate(zip(result["ours"], result["layer_by_layer"], strict=True), start=1):
        print(
            f"| {place} | r{one['resolution']}-w{one['width']:g} | {one['mean_macs'] / 1e6:.1f}M | "
            f"{one['share']:.0%} | r{other['resolution']}-w{other['width']:g} | "
            f"{other['layer_by_layer_mean_macs'] / 1e6:.1f}M | {other['layer_by_layer_share']:.0%} |"
        )


def _place(place: int | None) -> str:
    if place is None:
        return "layer by layer nothing fits"
    return f"the layer-by-layer winner is number {place} of ours"


def _print_fronts(result: dict[str, Any]) -> None:
    print(
        f"\n{FRONT_SPACE} on {DATA}, at most {MAX_LATENCY_MS:g} ms on {FRONT_DEVICE}: narrowed to "
        f"r{result['resolution']}-w{result['width']:g}; both supernets trained for "
        f"{result['supernet_epochs']} epochs, {result['evaluations']} evaluations, {result['seeds']} seeds\n"
    )
    print("| accuracies | figure | whole space | narrowed | p |")
    print("| --- | --- | --- | --- | --- |")
    for kind in ("by_supernet", "from_scratch"):
        for row in result.get(kind, ()):
            shown = (
                f"{row[k]:.4g} ({row[f'{k}_interval'][0]:.4g} to {row[f'{k}_interval'][1]:.4g})"
                for k in ("whole", "narrowed")
            )
            print(f"| {kind.replace('_', ' ')} | {row['figure']} | {' | '.join(shown)} | {row['p']:.2g} |")


if __name__ == "__main__":
    main()
