#!/usr/bin/env python3
"""Fits the latency priors of the cores that can be emulated and writes tinynas/cost_priors.toml.

Networks of both MobileNet-like spaces and single layers of every kernel are measured on each core's emulated board;
plain C is measured too where a core has kernels of its own, because it runs the layers that they do not take. Cores
without an emulated board are another core times a factor, whose source stands in the file. Run it after changing a
kernel. Usage: python -m scripts.fit_priors
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

from devices.board import Board
from devices.boards import resolve_board
from devices.firmware import build_firmware
from devices.profile import DeviceProfile, InstructionSet, load_profile
from export.atomic import write_bytes
from export.codegen import generate
from export.graph import Graph
from export.kernels import VIEW
from export.planner import plan
from export.synthetic import with_random_weights
from scripts.single_layers import single_layer_graphs
from tinynas.cost_model import FEATURES, CostModel, MeasuredNetwork, layer_features
from tinynas.lower import lower
from tinynas.measuring import random_inputs
from tinynas.space import load_space

DEVICES = {
    "cortex-m0": "nrf51822",
    "cortex-m3": "mps2-an385",
    "cortex-m4": "mps2-an386",
    "cortex-m7": "mps2-an500",
    "cortex-m33": "mps2-an505",
    "cortex-m55": "mps3-an547",
}
NETWORKS_PER_SPACE = 8
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


def networks() -> list[Graph]:
    """What is measured: whole networks, then single layers of three sizes."""
    graphs = []
    for name, shape in (("mobilenet_small", (28, 28, 1)), ("mobilenet", (64, 64, 3))):
        space, rng = load_space(name), random.Random(SEED)
        architectures = [space.sample(rng, shape) for _ in range(NETWORKS_PER_SPACE)]
        graphs += [lower(architecture, space, shape, 10) for architecture in architectures]
    return graphs + single_layers()


def single_layers() -> list[Graph]:
    """Every kernel alone, in three sizes; the first graph moves nothing and takes no time."""
    return [
        graph for side, channels in ((4, 8), (8, 16), (12, 24)) for graph in single_layer_graphs(side, channels)[1:]
    ]


def measured(profile: DeviceProfile, instruction_set: InstructionSet, board: Board) -> Iterator[MeasuredNetwork]:
    """Run what fits on the board; of plain C beside other kernels only the single layers."""
    alone = instruction_set == profile.instruction_set
    for candidate in networks() if alone else single_layers():
        graph = with_random_weights(candidate)
        planned = plan(graph, instruction_set)
        constants = sum(tensor.size_bytes for tensor in graph.tensors if tensor.is_constant)
        # The harness needs room for a copy of the input; twice the constants is more than any image has.
        if planned.arena_bytes > profile.model_sram_bytes or 2 * constants > profile.flash_bytes:
            continue
        with tempfile.TemporaryDirectory(prefix="tinynas-") as folder:
            sources = Path(folder) / "model"
            for name, text in generate(graph, instruction_set).files.items():
                write_bytes(sources / name, text.encode())
            board.flash(build_firmware(sources, profile, Path(folder)))
            measurement = board.measure(random_inputs(graph, 1, seed=0), 1)
        yield MeasuredNetwork(layer_features(planned), tuple(map(float, measurement.layer_cycles)))


def fit_core(core: str, device: str) -> list[str]:
    """Measure on the core's board and fit; the lines of the file."""
    profile = load_profile(device)
    found: list[MeasuredNetwork] = []
    with resolve_board("emulator", device) as board:
        for instruction_set in dict.fromkeys((profile.instruction_set, "generic")):
            found += measured(profile, instruction_set, board)
    kernels = sorted({layer.kernel for network in found for layer in network.layers})
    blank = CostModel(core, {kernel: (0.0,) * len(FEATURES) for kernel in kernels}, "blank", 1.0)
    fitted = blank.refit(found)
    fit = fitted.fit_of(found)
    print(
        f"{core}: {fit.networks} networks and layers, {fit.mape:.1f} % mean error, tau {fit.kendall_tau:.3f}",
        flush=True,
    )
    coefficients = fitted.coefficients | {VIEW.name: (0.0,) * len(FEATURES)}
    return [
        "",
        f"[cores.{core}]",
        f'source = "prior fitted on {len(found)} networks and layers on the emulated {device}"',
        "",
        f"[cores.{core}.kernels]",
        *(f'"{kernel}" = {[round(value, 3) for value in values]}' for kernel, values in sorted(coefficients.items())),
    ]


def main() -> None:
    """Measure every core and write the file."""
    lines = [
        "# Latency priors: zero-wait cycles per unit of each feature, in this order:",
        f"#   {', '.join(FEATURES)}",
        "# Written by scripts/fit_priors.py.",
    ]
    for core, device in DEVICES.items():
        lines += fit_core(core, device)
    for core, (like, factor, source) in FACTORS.items():
        lines += ["", f"[cores.{core}]", f'like = "{like}"', f"factor = {factor}", f'source = "{source}"']
    write_bytes(OUT, ("\n".join(lines) + "\n").encode())


if __name__ == "__main__":
    main()
