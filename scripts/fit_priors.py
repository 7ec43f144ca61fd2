#!/usr/bin/env python3
"""Fits the latency priors of the cores that can be emulated and writes tinynas/cost_priors.toml.

Networks of all search spaces and single layers of random sizes are measured on each core's emulated board; plain C is
measured too where a core has kernels of its own, because it runs the layers that they do not take. Cores without an
emulated board are another core times a factor, whose source stands in the file. Run it after changing a kernel.

What was measured is kept in --cache, so that a fit with other features need not measure again; it has to be deleted
when a kernel changes. Usage: python -m scripts.fit_priors [--cache FOLDER] [--core CORE ...]
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import random
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from devices.board import Board
from devices.boards import resolve_board
from devices.firmware import build_firmware
from devices.profile import DeviceProfile, InstructionSet, load_profile
from export.atomic import write_bytes
from export.codegen import generate
from export.graph import Graph
from export.kernels import VIEW, all_kernels
from export.planner import plan
from export.synthetic import with_random_weights
from scripts.single_layers import fallback_layers, random_layers, scarce_layers, single_layer_graphs
from tinynas.calibration import make_pool
from tinynas.cost_model import (
    CostModel,
    MeasuredNetwork,
    by_feature,
    layer_errors,
    layer_features,
    non_negative_least_squares,
)
from tinynas.layer_features import FEATURES
from tinynas.measuring import random_inputs

DEVICES = {
    "cortex-m0": "nrf51822",
    "cortex-m3": "mps2-an385",
    "cortex-m4": "mps2-an386",
    "cortex-m7": "mps2-an500",
    "cortex-m33": "mps2-an505",
    "cortex-m55": "mps3-an547",
}
NETWORKS = 52
ROUNDS, OTHER_ROUNDS = 5, 2
"""Of layers of every kind: on a core's own kernels, and on plain C beside these."""
FALLBACK_ROUNDS = 10
"""Of layers that plain C runs beside a core's own kernels, and of scarce ones."""
SEED = 20_000
OUT = Path(__file__).resolve().parent.parent / "tinynas" / "cost_priors.toml"

FACTORS = {
    "cortex-m0plus": ("cortex-m0", 0.9, "estimate: the Cortex-M0 with a pipeline of two stages instead of three"),
    "xtensa-lx7": ("cortex-m3", 1.1, "estimate: windowed calls, two-stage loads"),
    "armv8-a": (
        "cortex-m3",
        0.055,
        "estimate: TensorFlow Lite's vectorized kernels, which phones run in place of ours",
    ),
}


def networks(profile: DeviceProfile) -> list[Graph]:
    """Random networks of all spaces that fit the device; a model that knows nothing finds none too slow."""
    kernels = {kernel.name: (0.0,) * len(FEATURES) for kernel in all_kernels(profile.instruction_set)}
    pool = make_pool(profile, CostModel(profile.core, kernels, "blank", 1.0), NETWORKS, SEED)
    return [member.costs.graph(member.architecture) for member in pool]


def single_layers(rounds: int) -> list[Graph]:
    """Every kernel alone, in sizes of all kinds; the first graph moves nothing and takes no time."""
    rng = random.Random(SEED)
    graphs = [
        graph for side, channels in ((4, 8), (8, 16), (12, 24)) for graph in single_layer_graphs(side, channels)[1:]
    ]
    graphs += [graph for _ in range(rounds) for graph in random_layers(rng)]
    rng = random.Random(SEED + 1)
    graphs += [graph for _ in range(FALLBACK_ROUNDS) for graph in fallback_layers(rng)]
    rng = random.Random(SEED + 2)
    return graphs + [graph for _ in range(FALLBACK_ROUNDS) for graph in scarce_layers(rng)]


def with_clamped_outputs(graph: Graph) -> Graph:
    """A single layer whose outputs' range is wider than its activation leaves it, so that they have to be clamped."""
    tensors = list(graph.tensors)
    output = graph.operators[0].outputs[0]
    quantization = tensors[output].quantization
    if quantization is not None:
        wider = dataclasses.replace(quantization, scales=tuple(2.5 * scale for scale in quantization.scales))
        tensors[output] = dataclasses.replace(tensors[output], quantization=wider)
    return dataclasses.replace(graph, tensors=tuple(tensors))


def measured(
    profile: DeviceProfile, instruction_set: InstructionSet, board: Board, cache: Path | None
) -> Iterator[MeasuredNetwork]:
    """Run what fits on the board; of plain C beside other kernels only the single layers."""
    alone = instruction_set == profile.instruction_set
    candidates = [*networks(profile), *single_layers(ROUNDS)] if alone else single_layers(OTHER_ROUNDS)
    for number, candidate in enumerate(candidates):
        graph = with_random_weights(candidate)
        if len(graph.operators) == 1 and number % 2:
            graph = with_clamped_outputs(graph)
        planned = plan(graph, instruction_set)
        constants = sum(tensor.size_bytes for tensor in graph.tensors if tensor.is_constant)
        # The harness needs room for a copy of the input; twice the constants is more than any image has.
        if planned.arena_bytes > profile.model_sram_bytes or 2 * constants > profile.flash_bytes:
            continue
        with tempfile.TemporaryDirectory(prefix="tinynas-") as folder:
            sources = Path(folder) / "model"
            files = generate(graph, instruction_set).files
            code = hashlib.sha256(f"{profile.name} {sorted(files.items())}".encode()).hexdigest()
            kept = cache / f"{code[:32]}.json" if cache else None
            if kept and kept.exists():
                cycles = json.loads(kept.read_text())
            else:
                for name, text in files.items():
                    write_bytes(sources / name, text.encode())
                board.flash(build_firmware(sources, profile, Path(folder)))
                cycles = board.measure(random_inputs(graph, 1, seed=0), 1).layer_cycles
                if kept:
                    write_bytes(kept, json.dumps(cycles).encode())
        yield MeasuredNetwork(layer_features(planned), tuple(map(float, cycles)))


def fit_core(core: str, device: str, cache: Path | None) -> dict[str, dict[str, float]]:
    """Measure on the core's board and fit: by kernel, the cycles of each feature."""
    profile = load_profile(device)
    found: list[MeasuredNetwork] = []
    with resolve_board("emulator", device) as board:
        for instruction_set in dict.fromkeys((profile.instruction_set, "generic")):
            found += measured(profile, instruction_set, board, cache)
    kernels = sorted({layer.kernel for network in found for layer in network.layers} - {VIEW.name})
    coefficients = {kernel: fit_kernel(core, kernel, found) for kernel in kernels}
    coefficients[VIEW.name] = {}
    fitted = CostModel(core, {kernel: by_feature(weights) for kernel, weights in coefficients.items()}, "", 1.0)
    fit = fitted.fit_of([network for network in found if len(network.layers) > 1])
    print(f"{core}: {fit.networks} networks, {fit.mape:.2f} % mean error, tau {fit.kendall_tau:.3f}", flush=True)
    print(f"{core}: {len(found)} networks and layers", flush=True)
    return coefficients


def fit_kernel(core: str, kernel: str, found: list[MeasuredNetwork]) -> dict[str, float]:
    """Least squares of relative errors; what no layer has is left out."""
    rows, cycles, errors = [], [], []
    for network in found:
        for layer, count, error in zip(network.layers, network.cycles, layer_errors(network), strict=True):
            if layer.kernel == kernel:
                rows.append(layer.values)
                cycles.append(count)
                errors.append(error)
    layers, target, scale = np.array(rows), np.array(cycles), np.array(errors)
    answer = np.round(non_negative_least_squares(layers / scale[:, np.newaxis], target / scale), 3)
    off = layers @ answer / target - 1
    print(
        f"  {core} {kernel}: {len(target)} layers, off by {100 * np.sqrt(np.mean(off**2)):.2f} % (rms), "
        f"{100 * np.abs(off).max():.1f} % at most",
        flush=True,
    )
    return {name: float(value) for name, value in zip(FEATURES, answer, strict=True) if value}


def main() -> None:
    """Measure the cores, and write the file; cores that were not asked for stay as they are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--core", action="append", choices=DEVICES)
    options = parser.parse_args()
    cores = tomllib.loads(OUT.read_text(encoding="utf-8"))["cores"] if options.core else {}
    lines = [
        "# Latency priors: by core and kernel, zero-wait cycles of a round of each loop of tinynas/layer_features.py.",
        "# Written by scripts/fit_priors.py.",
    ]
    for core, device in DEVICES.items():
        kernels = cores[core]["kernels"] if options.core and core not in options.core else None
        if kernels is None:
            kernels = fit_core(core, device, options.cache)
        lines += ["", f"[cores.{core}]", f'source = "prior fitted on networks and layers on the emulated {device}"']
        lines += ["", f"[cores.{core}.kernels]"]
        for kernel, weights in sorted(kernels.items()):
            inner = ", ".join(f"{name} = {value}" for name, value in weights.items())
            lines.append(f'"{kernel}" = {{ {inner} }}' if inner else f'"{kernel}" = {{}}')
    for core, (like, factor, source) in FACTORS.items():
        lines += ["", f"[cores.{core}]", f'like = "{like}"', f"factor = {factor}", f'source = "{source}"']
    write_bytes(OUT, ("\n".join(lines) + "\n").encode())


if __name__ == "__main__":
    main()
