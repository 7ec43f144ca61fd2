#!/usr/bin/env python3
"""How many candidates a second the filter takes on one core, and whether its costs are the compiler's.

Random architectures of the MCUNet-like space, for inputs of 96 and 144 pixels. Nothing is known at first (cold); then
the facts of the units of many other architectures are (warm), as in a search after its first minute. Times are those
of the processor. Then candidates are compiled, and their costs compared: all of them must be equal.
Usage: python -m benchmarks.filter [--json] [--quick]
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable
from statistics import harmonic_mean
from typing import Any

from devices.profile import load_profile
from tinynas.architecture import Architecture
from tinynas.candidate import CandidateCosts
from tinynas.cost_model import prior
from tinynas.space import load_space

DEVICE, SPACE, CLASSES = "stm32f405", "mobilenet", 10
SIDES = (96, 144)
FIELDS = ("sram_bytes", "flash_bytes", "latency_ms", "macs", "parameters")


def main() -> None:
    """Measure, compare, print, and fail if a candidate costs what the compiler does not say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="fewer candidates")
    options = parser.parse_args()
    cold, warming, timed, compared = (50, 300, 200, 20) if options.quick else (200, 12_000, 3_000, 1_000)
    sides = [measure(side, cold, warming, timed, compared // len(SIDES)) for side in SIDES]
    result: dict[str, Any] = {
        "candidates_per_s": harmonic_mean([side["candidates_per_s"] for side in sides]),
        "layer_by_layer_per_s": harmonic_mean([side["layer_by_layer_per_s"] for side in sides]),
        "cold_per_s": harmonic_mean([side["cold_per_s"] for side in sides]),
        "warmed_by": warming,
        "compared": sum(side["compared"] for side in sides),
        **{key: sum(side[key] for side in sides) for key in (f"{_short(field)}_equal" for field in FIELDS)},
        "sides": sides,
    }
    if options.json:
        print(json.dumps(result))
    else:
        for side in sides:
            print(
                f"{side['side']} px: {side['candidates_per_s']:,.0f} candidates a second after {warming:,} others,"
                f" {side['cold_per_s']:,.0f} at first; {side['layer_by_layer_per_s']:,.0f} layer by layer"
            )
        equal = ", ".join(f"{_short(field)} {result[f'{_short(field)}_equal']}" for field in FIELDS)
        print(
            f"{result['candidates_per_s']:,.0f} candidates a second; of {result['compared']} compared, equal: {equal}"
        )
    good = all(result[f"{_short(field)}_equal"] == result["compared"] for field in FIELDS)
    raise SystemExit(0 if good else 1)


def measure(side: int, cold: int, warming: int, timed: int, compared: int) -> dict[str, Any]:
    """The figures of one size of input; no architecture is used twice but for comparing."""
    profile, space, shape = load_profile(DEVICE), load_space(SPACE), (side, side, 3)
    costs = CandidateCosts(space, shape, CLASSES, profile, prior(profile.core))
    rng = random.Random(side)
    architectures = [space.sample(rng, shape) for _ in range(warming + timed)]
    first, others, unseen = architectures[:cold], architectures[cold:warming], architectures[warming:]
    cold_per_s = _per_second(costs, first)
    _per_second(costs, others)
    result = {
        "side": side,
        "candidates_per_s": _per_second(costs, unseen),
        "layer_by_layer_per_s": _per_second(costs.layer_by_layer_sram, unseen),
        "cold_per_s": cold_per_s,
        "compared": compared,
    }
    both = [(costs(architecture), costs.compiled(architecture)) for architecture in unseen[:compared]]
    for field in FIELDS:
        result[f"{_short(field)}_equal"] = sum(getattr(a, field) == getattr(b, field) for a, b in both)
    return result


def _per_second(function: Callable[[Architecture], object], architectures: list[Architecture]) -> float:
    start = time.process_time()
    for architecture in architectures:
        function(architecture)
    return len(architectures) / (time.process_time() - start)


def _short(field: str) -> str:
    return field.removesuffix("_bytes").removesuffix("_ms")


if __name__ == "__main__":
    main()
