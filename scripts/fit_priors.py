#!/usr/bin/env python3
"""Fits the latency prior of the Cortex-M4 on the emulated board and writes tinynas/cost_priors.toml.

Networks of both MobileNet-like spaces and single layers of every kernel are measured; the other cores are the M4 times
a factor, whose source stands in the file. Run it after changing a kernel. Usage: python -m scripts.fit_priors
"""

from __future__ import annotations

import random
from pathlib import Path

from devices.boards import resolve_board
from devices.profile import load_profile
from export.atomic import write_bytes
from export.graph import Graph
from export.kernels import VIEW
from export.synthetic import with_random_weights
from scripts.single_layers import single_layer_graphs
from tinynas.cost_model import FEATURES, CostModel, MeasuredNetwork
from tinynas.lower import lower
from tinynas.measuring import measure_graph, measured_network
from tinynas.space import load_space

DEVICE = "mps2-an386"
NETWORKS_PER_SPACE = 8
SEED = 20_000
OUT = Path(__file__).resolve().parent.parent / "tinynas" / "cost_priors.toml"

FACTORS = {
    "cortex-m0": (2.4, "estimate: as the Cortex-M0+, with a taken branch that takes three cycles where its takes two"),
    "cortex-m0plus": (2.2, "estimate: no SMULL, so each requantization is a library call, and no MLA"),
    "cortex-m3": (1.1, "estimate: MLA takes two cycles where the Cortex-M4's takes one"),
    "cortex-m7": (
        0.62,
        "published MLPerf Tiny v1.1 person detection of one runtime: 34.1 ms at 216 MHz (STM32F746) against "
        "98.8 ms at 120 MHz (STM32L4R5)",
    ),
    "cortex-m33": (
        0.8,
        "published MLPerf Tiny v1.1 person detection of one runtime: 59.5 ms at 160 MHz (STM32U575) against "
        "98.8 ms at 120 MHz (STM32L4R5)",
    ),
    "cortex-m55": (0.7, "estimate: dual-issue of some pairs, no vector kernels yet"),
    "xtensa-lx7": (1.2, "estimate: windowed calls, two-stage loads"),
    "armv8-a": (0.06, "estimate: TensorFlow Lite's vectorized kernels, which phones run in place of our C"),
}


def networks() -> list[Graph]:
    """What is measured: whole networks, then single layers of three sizes."""
    graphs = []
    for name, shape in (("mobilenet_small", (28, 28, 1)), ("mobilenet", (64, 64, 3))):
        space, rng = load_space(name), random.Random(SEED)
        architectures = [space.sample(rng, shape) for _ in range(NETWORKS_PER_SPACE)]
        graphs += [lower(architecture, space, shape, 10) for architecture in architectures]
    for side, channels in ((4, 8), (8, 16), (12, 24)):
        graphs += single_layer_graphs(side, channels)[1:]  # the first moves nothing and takes no time
    return graphs


def main() -> None:
    """Measure, fit, write."""
    profile = load_profile(DEVICE)
    measured: list[MeasuredNetwork] = []
    with resolve_board("emulator", DEVICE) as board:
        for candidate in networks():
            graph = with_random_weights(candidate)
            measured.append(measured_network(graph, profile, measure_graph(graph, profile, board)))
    kernels = sorted({layer.kernel for network in measured for layer in network.layers})
    blank = CostModel(profile.core, {kernel: (0.0,) * len(FEATURES) for kernel in kernels}, "blank", 1.0)
    fitted = blank.refit(measured)
    fit = fitted.fit_of(measured)
    print(f"{fit.networks} networks and layers: {fit.mape:.1f} % mean error, tau {fit.kendall_tau:.3f}")
    lines = [
        "# Latency priors: zero-wait cycles per unit of each feature, in this order:",
        f"#   {', '.join(FEATURES)}",
        "# Written by scripts/fit_priors.py.",
        "",
        "[cores.cortex-m4]",
        f'source = "prior fitted on {len(measured)} networks and layers on the emulated {DEVICE}"',
        "",
        "[cores.cortex-m4.kernels]",
    ]
    coefficients = fitted.coefficients | {VIEW.name: (0.0,) * len(FEATURES)}
    lines += [f"{kernel} = {[round(value, 3) for value in values]}" for kernel, values in sorted(coefficients.items())]
    for core, (factor, source) in FACTORS.items():
        lines += ["", f"[cores.{core}]", 'like = "cortex-m4"', f"factor = {factor}", f'source = "{source}"']
    write_bytes(OUT, ("\n".join(lines) + "\n").encode())


if __name__ == "__main__":
    main()
