#!/usr/bin/env python3
"""Many models on many emulated boards at once, and on one of them one after another: the same figures to the cycle.

The boards are those of a boards.toml made for this, as many of each device. Models are random
architectures of the search space of small images, with random weights.
Usage: python -m benchmarks.parallel_boards [--boards 10] [--models 20] [--devices stm32f405 mps2-an386] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from devices.board import Measurement
from devices.boards import open_boards
from devices.lab import MeasureJob, measure_many
from devices.profile import DeviceProfile, load_profile
from export.graph import Graph
from export.synthetic import with_random_weights
from tinynas.candidate import CandidateCosts
from tinynas.constraints import Limits
from tinynas.cost_model import prior
from tinynas.measuring import build_image, random_inputs
from tinynas.space import load_space

SPACE, SHAPE, CLASSES = "mobilenet_small", (28, 28, 1), 10
INPUTS = 2
"""For each model."""


def main() -> None:
    """Measure both ways, compare, print; fail if a figure differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--boards", type=int, default=10)
    parser.add_argument("--models", type=int, default=20)
    parser.add_argument("--devices", nargs="+", default=["stm32f405", "mps2-an386"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    each = options.boards // len(options.devices)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["TINYNAS_BOARDS"] = str(write_boards(folder, options.devices, each))
        rows = [compare(load_profile(d), folder / d, options.models, options.seed) for d in options.devices]
    if options.json:
        print(json.dumps({"devices": rows}))
    else:
        for row in rows:
            print(
                f"{row['device']:12} {row['models']} models on {row['boards']} boards: {row['identical']} identical, "
                f"{row['failures']} failures; {row['in_turn_s']:.1f} s one after another, {row['at_once_s']:.1f} s at "
                f"once, ratio {row['in_turn_s'] / row['at_once_s']:.2f} on {os.cpu_count()} cores"
            )
    raise SystemExit(0 if all(row["identical"] == row["models"] for row in rows) else 1)


def write_boards(folder: Path, devices: list[str], each: int) -> Path:
    """A boards.toml of emulated boards."""
    path = folder / "boards.toml"
    entry = '[[board]]\nid = "{0}-{1}"\nplatform = "{0}"\nemulator = true\n'
    path.write_text("".join(entry.format(device, number) for device in devices for number in range(each)))
    return path


def compare(profile: DeviceProfile, folder: Path, count: int, seed: int) -> dict[str, Any]:
    """One device's models, on all of its boards at once and on the first alone."""
    jobs = []
    for number, graph in enumerate(models(profile, count, seed)):
        image = build_image(graph, profile, folder / str(number))
        jobs.append(MeasureJob(image, tuple(random_inputs(graph, INPUTS, seed))))
    with open_boards([f"platform:{profile.name}"]) as opened:
        begun = time.perf_counter()
        at_once = measure_many(jobs, opened.boards)
        at_once_s = time.perf_counter() - begun
        boards = len(opened.boards)
    with open_boards([f"{profile.name}-0"]) as opened:
        begun = time.perf_counter()
        in_turn = measure_many(jobs, opened.boards)
        in_turn_s = time.perf_counter() - begun
    pairs = [(one.result(), other.result()) for one, other in zip(at_once, in_turn, strict=True)]
    return {
        "device": profile.name,
        "boards": boards,
        "used": len({one.board for one, _ in pairs}),
        "models": count,
        "identical": sum(same(one, other) for one, other in pairs),
        "failures": sum(len(outcome.failures) for outcome in (*at_once, *in_turn)),
        "in_turn_s": in_turn_s,
        "at_once_s": at_once_s,
        "cycles": [other.cycles for _, other in pairs],
    }


def same(one: Measurement, other: Measurement) -> bool:
    """Whether two measurements are the same but for the board's name: latencies, cycles, instructions, every layer."""
    return replace(one, board="") == replace(other, board="")


def models(profile: DeviceProfile, count: int, seed: int) -> list[Graph]:
    """Different networks that fit the device."""
    space, rng = load_space(SPACE), random.Random(seed)
    costs = CandidateCosts(space, SHAPE, CLASSES, profile, prior(profile.core))
    limits = Limits.for_device(profile, {})
    found: dict[str, Graph] = {}
    while len(found) < count:
        architecture = space.sample(rng, SHAPE)
        if not limits.violations(costs(architecture)):
            found[str(architecture)] = with_random_weights(costs.graph(architecture))
    return list(found.values())


if __name__ == "__main__":
    main()
