#!/usr/bin/env python3
"""How well latencies are predicted on emulated boards: by the prior, and after `tinynas calibrate` on 20 networks.

Each device is calibrated as a user would do it, and then judged by networks that the calibration has not measured, 100
of each of two search spaces; between them the devices meet all five spaces. Every judge is given random weights and
written as an int8 .tflite file by the test oracle's writer; it is predicted and measured from that file. Beside that it
is predicted from its architecture alone, as a search does it.

Usage: python -m benchmarks.cost_model [--json] [--quick] [--device D ...] [--spaces SPACE:H,W,C ...] [--seed N]
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devices.board import Board
from devices.boards import resolve_board
from devices.profile import DeviceProfile, load_profile
from devices.store import MeasurementStore
from export.planner import plan
from export.synthetic import with_random_weights
from tests.oracles.tflite_writer import write_tflite
from tinynas.calibration import CLASSES, calibrate
from tinynas.candidate import CandidateCosts
from tinynas.constraints import Limits
from tinynas.cost_model import CostModel, compare, layer_features, prior
from tinynas.measuring import measure_graph
from tinynas.models import load_model
from tinynas.output import print_json, print_table, progress
from tinynas.space import InputShape, load_space

Kind = tuple[str, InputShape]

KINDS: dict[str, tuple[Kind, Kind]] = {
    "stm32f405": (("mobilenet_small", (28, 28, 1)), ("sensor", (100, 1, 6))),
    "mps2-an386": (("resnet", (32, 32, 3)), ("nasbench201", (32, 32, 3))),
    "mps2-an500": (("mobilenet", (64, 64, 3)), ("mobilenet_small", (49, 10, 1))),
}
"""What each device is judged by: a search space and the shape of its inputs."""
SAMPLES = 20
JUDGES = 100
"""Of each kind."""
TARGETS = {"within_5_percent": 0.95, "within_10_percent": 0.99, "kendall_tau": 0.98}
PRIOR_WITHIN_25_PERCENT = 0.9
FIRST_JUDGE = 1_000_000
"""Seeds of the judges begin here, far from those that the calibration may be given."""


@dataclass(frozen=True)
class Judge:
    """One network that no calibration has measured."""

    kind: str
    measured_ms: float
    prior_ms: float
    predicted_ms: float
    interval_percent: float
    from_architecture_ms: float
    """The search's prediction with the calibrated model."""


def main() -> None:
    """Calibrate, judge, print, and fail if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="10 networks of each kind")
    parser.add_argument("--device", action="append", choices=KINDS, help="only this one; may be repeated")
    parser.add_argument("--spaces", nargs="+", type=_kind, help="judge by these, as in sensor:100,1,6")
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    results = [
        judged(
            load_profile(device),
            options.spaces or KINDS[device],
            options.samples,
            10 if options.quick else JUDGES,
            options.seed,
        )
        for device in options.device or KINDS
    ]
    if options.json:
        print_json({"devices": results})
    else:
        _print(results)
    raise SystemExit(0 if all(result["meets_targets"] for result in results) else 1)


def _kind(text: str) -> Kind:
    name, _, sizes = text.partition(":")
    height, width, channels = map(int, sizes.split(","))
    return name, (height, width, channels)


def judged(profile: DeviceProfile, kinds: Sequence[Kind], samples: int, each: int, seed: int) -> dict[str, Any]:
    """One device's figures."""
    with tempfile.TemporaryDirectory() as folder, resolve_board("emulator", profile.name) as board:
        store = MeasurementStore(Path(folder) / "measurements.sqlite")
        calibration = calibrate(profile, [board], store, samples, seed)
        seen = {network.layers for network in calibration.networks}
        judges: list[Judge] = []
        for number, kind in enumerate(kinds):
            judges += judges_of(profile, board, kind, calibration.model, seen, each, FIRST_JUDGE + 10 * seed + number)
    before, after, searched = (
        _figures([getattr(judge, field) for judge in judges], judges)
        for field in ("prior_ms", "predicted_ms", "from_architecture_ms")
    )
    covered = [abs(j.measured_ms / j.predicted_ms - 1) <= j.interval_percent / 100 for j in judges]
    missed = [name for name, least in TARGETS.items() if after[name] < least]
    if before["within_25_percent"] < PRIOR_WITHIN_25_PERCENT:
        missed.append("within_25_percent of the prior")
    return {
        "device": profile.name,
        "measured": calibration.measured,
        "spaces": calibration.spaces,
        "judges": len(judges),
        "prior": before,
        "calibrated": after,
        "from_architecture": searched,
        "interval_percent": sum(judge.interval_percent for judge in judges) / len(judges),
        "interval_coverage": sum(covered) / len(covered),
        "by_kind": {
            name: _figures([j.predicted_ms for j in judges if j.kind == name], [j for j in judges if j.kind == name])
            for name in dict.fromkeys(judge.kind for judge in judges)
        },
        "missed": missed,
        "meets_targets": not missed,
    }


def judges_of(
    profile: DeviceProfile, board: Board, kind: Kind, model: CostModel, seen: set[Any], count: int, seed: int
) -> Iterator[Judge]:
    """``count`` networks of one kind that fit the device and have other layers than those ``seen``, which they join."""
    name, shape = kind
    space, rng = load_space(name), random.Random(seed)
    costs = CandidateCosts(space, shape, CLASSES, profile, model)
    limits, first = Limits.for_device(profile, {}), prior(profile.core)
    label = f"{name} {'x'.join(map(str, shape))}"
    found = 0
    with tempfile.TemporaryDirectory() as folder, progress(f"judging by {label}") as update:
        while found < count:
            architecture = space.sample(rng, shape)
            searched = costs(architecture)
            if limits.violations(searched):
                continue
            path = Path(folder) / f"{found}.tflite"
            path.write_bytes(write_tflite(with_random_weights(costs.graph(architecture))))
            graph = load_model(path).graph
            layers = layer_features(plan(graph, profile.instruction_set))
            if layers in seen:
                continue
            seen.add(layers)
            yield Judge(
                label,
                measure_graph(graph, profile, board).latency_ms,
                profile.latency_ms(first.cycles(layers)),
                profile.latency_ms(model.cycles(layers)),
                100 * model.error_of(layers),
                searched.latency_ms,
            )
            found += 1
            update(found, count, "networks")


def _figures(predicted: list[float], judges: list[Judge]) -> dict[str, float]:
    measured = [judge.measured_ms for judge in judges]
    fit = compare(predicted, measured)
    errors = [abs(p / m - 1) for p, m in zip(predicted, measured, strict=True)]
    return {
        "mape": fit.mape,
        "worst_percent": 100 * max(errors),
        "within_5_percent": fit.within_5_percent,
        "within_10_percent": fit.within_10_percent,
        "within_25_percent": sum(error <= 0.25 for error in errors) / len(errors),
        "kendall_tau": fit.kendall_tau,
    }


def _print(results: list[dict[str, Any]]) -> None:
    names = {"prior": "prior", "calibrated": "calibrated", "from_architecture": "from the architecture"}
    rows = [
        (
            result["device"],
            text,
            result[name]["mape"],
            result[name]["worst_percent"],
            *(100 * result[name][f"within_{share}_percent"] for share in (5, 10, 25)),
            round(result[name]["kendall_tau"], 4),
        )
        for result in results
        for name, text in names.items()
    ]
    columns = ("device", "prediction", "mean error %", "worst %", "in ±5 %", "in ±10 %", "in ±25 %", "Kendall tau")
    print_table(columns, rows)
    for result in results:
        print(
            f"{result['device']}: {result['measured']} measured, of {', '.join(result['spaces'])}; judged by "
            f"{result['judges']} of {', '.join(result['by_kind'])}; intervals of ±{result['interval_percent']:.1f} % "
            f"hold {100 * result['interval_coverage']:.1f} %; "
            + (f"missed: {', '.join(result['missed'])}" if result["missed"] else "meets the targets")
        )


if __name__ == "__main__":
    main()
