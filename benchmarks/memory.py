#!/usr/bin/env python3
"""How little SRAM the streaming planner needs, on published networks and on random candidates.

Part one: a MobileNetV2-0.35 at 144 × 144 and a network in the manner of MCUNet at 176 × 176, with random weights, are
planned, compiled, run on the emulated board and compared with the reference kernels. Part two: random candidates of
the MCUNet-like search space, each planned both ways; the plan against its own lower bound and against layer by layer.
Usage: python -m benchmarks.memory [--candidates N] [--inputs N] [--json]
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from devices.boards import resolve_board
from devices.profile import load_profile
from export.graph import Activation, Graph
from export.planner import Plan, plan
from export.reader import parse_tflite
from export.synthetic import with_random_weights
from export.verify_plan import verify_plan
from tests.oracles.tflite_writer import write_tflite
from tinynas.graph_builder import GraphBuilder
from tinynas.lower import lower
from tinynas.measuring import build_image, compare_with_reference, random_inputs
from tinynas.space import load_space

DEVICE = "mps2-an386"
SPACE, INPUT_SHAPE = "mobilenet", (96, 96, 3)

Block = tuple[int, int, int, int]
"""Kernel, expansion, output channels, stride."""

TFLM_SRAM_BYTES = {"mobilenetv2-0.35-144": 646_000, "mcunet-like-176": 560_000}
"""What TensorFlow Lite Micro needs for MobileNetV2-0.35-144 and MCUNet in3 (mit-han-lab/tinyml README, STM32F746)."""


def main() -> None:
    """Measure both parts, print, and fail if a figure misses what it is held to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--candidates", type=int, default=1000)
    parser.add_argument("--inputs", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    networks = [measure(graph, options.inputs) for graph in (mobilenet_v2(), mcunet_like())]
    candidates = compare_candidates(options.candidates)
    if options.json:
        print(json.dumps({"networks": networks, "candidates": candidates}))
    else:
        for row in networks:
            print(
                f"{row['network']}: input {row['input_bytes']:,} B, arena {row['sram_bytes']:,} B"
                f" = {row['of_input']:.3f} of the input, {row['of_tflm']:.1%} of TFLM's; lower bound"
                f" {row['sram_lower_bound']:,} B; {row['identical']} of {row['inputs']} outputs identical"
            )
        print(
            f"{candidates['count']} candidates: arena over lower bound {candidates['median_over_bound']:.4f} in the"
            f" median, {candidates['worst_over_bound']:.3f} at worst; {candidates['median_over_layer_by_layer']:.2f}"
            f" of the layer-by-layer arena in the median, {candidates['worst_over_layer_by_layer']:.2f} at worst"
        )
    good = all(r["of_input"] <= 1.1 and r["of_tflm"] <= 0.25 and r["identical"] == r["inputs"] for r in networks)
    good = good and candidates["median_over_bound"] <= 1.1 and candidates["worst_over_layer_by_layer"] <= 1
    raise SystemExit(0 if good else 1)


def measure(shapes: Graph, inputs: int) -> dict[str, Any]:
    """Plan, build, run and compare one network with random weights."""
    profile = load_profile(DEVICE)
    content = write_tflite(with_random_weights(shapes))
    graph = parse_tflite(content, shapes.name)
    planned = plan(graph, profile.instruction_set)
    board = resolve_board("emulator", DEVICE)
    try:
        with tempfile.TemporaryDirectory() as folder:
            image = build_image(graph, profile, Path(folder))
            board.flash(image)
            given = random_inputs(graph, inputs, seed=0)
            comparison = compare_with_reference(content, given, board.outputs(given))
    finally:
        board.close()
    input_bytes = graph.tensors[graph.inputs[0]].size_bytes
    return {
        "network": graph.name,
        "input_bytes": input_bytes,
        "sram_bytes": image.arena_bytes,
        "sram_lower_bound": planned.lower_bound_bytes,
        "of_input": image.arena_bytes / input_bytes,
        "of_tflm": image.arena_bytes / max(TFLM_SRAM_BYTES.values()),
        "inputs": inputs,
        "identical": comparison.identical,
    }


def compare_candidates(count: int) -> dict[str, float]:
    """Plan ``count`` random candidates streamed and layer by layer; every plan is replayed by the verifier."""
    over_bound, over_layers = [], []
    for graph in random_candidates(count):
        planned = plan(graph, "dsp")
        verify_plan(planned)
        over_bound.append(planned.arena_bytes / planned.lower_bound_bytes)
        over_layers.append(planned.arena_bytes / layer_by_layer_plan(graph).arena_bytes)
    return {
        "count": count,
        "median_over_bound": median(over_bound),
        "worst_over_bound": max(over_bound),
        "median_over_layer_by_layer": median(over_layers),
        "worst_over_layer_by_layer": max(over_layers),
    }


def layer_by_layer_plan(graph: Graph) -> Plan:
    """The plan without streams."""
    return plan(graph, "dsp", streams=False)


def random_candidates(count: int, seed: int = 0) -> Iterator[Graph]:
    """Random architectures of the MCUNet-like space, lowered."""
    space, rng = load_space(SPACE), random.Random(seed)
    for _ in range(count):
        yield lower(space.sample(rng, INPUT_SHAPE), space, INPUT_SHAPE, 10)


def mobilenet_v2() -> Graph:
    """MobileNetV2 at width 0.35 (Sandler et al., 2018; channels as the released models round them), 144 × 144."""
    blocks: list[Block] = [(3, 1, 8, 1)]
    for channels, count, stride in ((8, 2, 2), (16, 3, 2), (24, 4, 2), (32, 3, 1), (56, 3, 2), (112, 1, 1)):
        blocks += [(3, 6, channels, stride if index == 0 else 1) for index in range(count)]
    return bottlenecks("mobilenetv2-0.35-144", 144, 16, blocks, 1280, 1000)


def mcunet_like() -> Graph:
    """A network of MCUNet's kind (kernels 3 to 7, expansions 3 to 6, 18 bottlenecks), 176 × 176."""
    blocks: list[Block] = [
        (3, 1, 8, 1), (7, 3, 16, 2), (3, 4, 16, 1), (5, 5, 16, 1), (5, 5, 16, 1), (7, 4, 24, 2), (5, 5, 24, 1),
        (5, 4, 24, 1), (5, 5, 40, 2), (7, 5, 40, 1), (3, 4, 40, 1), (5, 6, 48, 1), (3, 5, 48, 1), (5, 4, 48, 1),
        (7, 5, 96, 2), (3, 6, 96, 1), (3, 5, 96, 1), (5, 6, 160, 1),
    ]  # fmt: skip
    return bottlenecks("mcunet-like-176", 176, 16, blocks, None, 1000)


def bottlenecks(
    name: str, resolution: int, stem: int, blocks: list[Block], last_channels: int | None, classes: int
) -> Graph:
    """A stem of stride 2, inverted bottlenecks, and a classifier."""
    builder = GraphBuilder(name, (resolution, resolution, 3), is_window=False)
    value = builder.conv(builder.input, stem, 3, 2, "stem")
    for index, (kernel, expansion, channels, stride) in enumerate(blocks):
        entry, entry_channels = value, builder.channels(value)
        if expansion != 1:
            value = builder.conv(value, entry_channels * expansion, 1, 1, f"block{index}.expand")
        value = builder.depthwise(value, kernel, stride, f"block{index}.depthwise")
        value = builder.conv(value, channels, 1, 1, f"block{index}.project", Activation.NONE)
        if stride == 1 and channels == entry_channels:
            value = builder.add(entry, value, f"block{index}.add")
    if last_channels is not None:
        value = builder.conv(value, last_channels, 1, 1, "last")
    return builder.finish(builder.linear(builder.mean(value, "pool"), classes, "classifier"))


if __name__ == "__main__":
    main()
