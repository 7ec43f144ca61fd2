#!/usr/bin/env python3
"""Instructions and cycles per multiply-accumulate of every kernel, shape by shape, beside the estimated floor.

Graphs of one layer with random weights go through the real compiler and run on the emulated mps2-an386, whose memory
has no wait states: plain layers alone, depthwise ones also behind the pointwise layer that feeds them in a network,
which may store its output for them. The layers of the four MLPerf Tiny reference networks are among the shapes.

Usage: python -m benchmarks.kernels [--json] [--device D] [--only WORD]
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from devices.emulator import EmulatedBoard
from devices.profile import load_profile
from export.graph import Activation, Graph, Operator, OpKind, macs
from export.kernels import kernel_of
from tests.export.graph_builder import GraphBuilder
from tinynas.measuring import build_image, random_inputs
from tinynas.output import print_json, print_table, progress

DEVICE = "mps2-an386"
SEED = 1
"""Of scales and weights; with these, as with most, every layer has a form that its fastest kernel takes."""

# Where the floors come from: prototypes in assembly on a Cortex-M4 without wait states, cycles counted by the rules of
# firmware/emulator/tn_cycles.c.
DENSE_CYCLES_PER_MAC = 23 / 24
"""3 pixels × 2 channels: 22 instructions, one of them a run of loads that stalls once, for 4-deep products of six
accumulators. Depth is padded to fours within each row of the kernel."""
FULLY_CONNECTED_CYCLES_PER_MAC = 23 / 20
"""1 input × 5 outputs in the same way."""
CYCLES_PER_OUTPUT = 9.0
"""Bias, requantization (5.5 of them) and store of one output."""
DEPTHWISE_CYCLES_PER_TAP = (16.5 - CYCLES_PER_OUTPUT) / 9
"""3×3 at stride 1 on channel planes took 16.5 cycles an output, and DEPTHWISE_CYCLES_PER_ROW for each channel's row;
larger kernels are taken to need as much per tap."""
DEPTHWISE_CYCLES_PER_ROW = 38.0
DEPTHWISE_STRIDE_2 = 20.1 / 16.5
"""What an output takes more at stride 2: 2.59 cycles a tap where stride 1 takes 2.19, both on rows of 12."""


@dataclass(frozen=True)
class Case:
    """A layer to measure: the last one that ``build`` appends."""

    group: str
    label: str
    shape: tuple[int, ...]
    """Rows, columns and channels of the graph's input; or inputs alone."""
    build: Callable[[GraphBuilder], int]
    note: str = ""


@dataclass(frozen=True)
class Row:
    """What was measured. Work is multiply-accumulates, or for layers without any what they read or compute."""

    group: str
    layer: str
    kernel: str
    work: int
    unit: str
    outputs: int
    instructions: int
    cycles: int
    instructions_per_work: float
    cycles_per_work: float
    floor: float | None
    """Estimated cycles per MAC of the best kernel that is known of; None where nobody has estimated one."""
    ratio: float | None
    note: str


def conv(size: tuple[int, int, int], channels: int, kernel: int | tuple[int, int] = 1, stride: int = 1) -> Case:
    """A convolution with SAME padding."""
    rows, columns = (kernel, kernel) if isinstance(kernel, int) else kernel
    first = size[-1] in (1, 3)
    group = "first layer" if first else "1x1" if rows == columns == 1 else "convolution"
    label = f"{rows}x{columns}/{stride} {_size(size)} -> {channels}"

    def build(builder: GraphBuilder) -> int:
        return builder.conv(builder.input, channels, (rows, columns), (stride, stride), activation=Activation.RELU)

    return Case(group, label, size, build)


def depthwise(size: tuple[int, int, int], kernel: int = 3, stride: int = 1) -> Iterator[Case]:
    """A depthwise layer with SAME padding: alone, and fed by a pointwise one."""
    label = f"{kernel}x{kernel}/{stride} {_size(size)}"

    def alone(builder: GraphBuilder) -> int:
        return builder.depthwise(builder.input, (kernel, kernel), (stride, stride), activation=Activation.RELU)

    def fed(builder: GraphBuilder) -> int:
        value = builder.conv(builder.input, size[-1], activation=Activation.RELU)
        return builder.depthwise(value, (kernel, kernel), (stride, stride), activation=Activation.RELU)

    yield Case("depthwise", label, size, alone)
    yield Case("depthwise", label, size, fed, "fed by 1x1")


def fully_connected(inputs: int, outputs: int) -> Case:
    """A fully connected layer."""
    return Case(
        "fully connected",
        f"{inputs} -> {outputs}",
        (inputs,),
        lambda builder: builder.fully_connected(builder.input, outputs, Activation.RELU),
    )


def add(size: tuple[int, int, int]) -> Case:
    """The sum of two tensors, here of the input and itself."""
    return Case("add", _size(size), size, lambda builder: builder.add(builder.input, builder.input))


def pool(size: tuple[int, int, int], kernel: tuple[int, int], *, maximum: bool = False) -> Case:
    """A pool whose windows do not overlap."""
    name = "maximum" if maximum else "average"
    label = f"{name} {kernel[0]}x{kernel[1]} {_size(size)}"
    return Case(
        "pool",
        label,
        size,
        lambda builder: builder.pool(builder.input, kernel, kernel, maximum=maximum, same=False),
    )


def mean(size: tuple[int, int, int]) -> Case:
    """The mean over rows and columns."""
    return Case("mean", _size(size), size, lambda builder: builder.mean(builder.input))


def cases() -> list[Case]:
    """Every shape, each once."""
    found = [conv((12, 12, depth), 32) for depth in (16, 32, 64, 128, 256)]
    found += [conv((12, 12, depth), 16, 3) for depth in (16, 32, 64)]
    found += [conv((48, 48, channels), 16, 3, 2) for channels in (1, 3)]
    for kernel in (3, 5, 7):
        for stride in (1, 2):
            for width in (6, 12, 24, 48):
                found += depthwise((12, width, 16), kernel, stride)
    found += [*person_detection(), *image_classification(), *keyword_spotting(), *anomaly_detection()]
    found += [mean((5, 5, 64)), pool((24, 24, 16), (2, 2)), pool((24, 24, 16), (2, 2), maximum=True)]
    order = {group: place for place, group in enumerate(dict.fromkeys(case.group for case in found))}
    return sorted({(c.group, c.label, c.note): c for c in found}.values(), key=lambda case: order[case.group])


def person_detection() -> Iterator[Case]:
    """MobileNetV1 0.25 at 96 × 96."""
    yield conv((96, 96, 3), 8, 3, 2)
    side, channels = 48, 8
    for stride, wider in ((1, 16), (2, 32), (1, 32), (2, 64), (1, 64), (2, 128), *[(1, 128)] * 5, (2, 256), (1, 256)):
        yield from depthwise((side, side, channels), 3, stride)
        side //= stride
        yield conv((side, side, channels), wider)
        channels = wider
    yield pool((3, 3, 256), (3, 3))
    yield fully_connected(256, 2)


def image_classification() -> Iterator[Case]:
    """ResNet-8 at 32 × 32."""
    yield conv((32, 32, 3), 16, 3)
    yield conv((32, 32, 16), 16, 3)
    for side, channels in ((32, 16), (16, 32)):
        yield conv((side, side, channels), 2 * channels, 3, 2)
        yield conv((side // 2, side // 2, 2 * channels), 2 * channels, 3)
        yield conv((side, side, channels), 2 * channels, 1, 2)
    for side, channels in ((32, 16), (16, 32), (8, 64)):
        yield add((side, side, channels))
    yield pool((8, 8, 64), (8, 8))
    yield fully_connected(64, 10)


def keyword_spotting() -> Iterator[Case]:
    """DS-CNN on 49 × 10 spectra."""
    yield conv((49, 10, 1), 64, (10, 4), 2)
    yield from depthwise((25, 5, 64))
    yield conv((25, 5, 64), 64)
    yield pool((25, 5, 64), (25, 5))
    yield fully_connected(64, 12)


def anomaly_detection() -> Iterator[Case]:
    """The autoencoder's fully connected layers."""
    for inputs, outputs in ((640, 128), (128, 128), (128, 8), (8, 128), (128, 640)):
        yield fully_connected(inputs, outputs)


def _size(size: tuple[int, int, int]) -> str:
    return "x".join(map(str, size))


def graph_of(case: Case) -> Graph:
    """The case's layer, behind whatever feeds it."""
    builder = GraphBuilder((1, *case.shape), SEED, name=case.group)
    return builder.finish(case.build(builder))


def floor_cycles(graph: Graph, operator: Operator) -> float | None:
    """Estimated cycles of the layer, or None."""
    output, work = graph.output_tensor(operator), macs(graph, operator)
    if operator.kind is OpKind.FULLY_CONNECTED:
        return work * FULLY_CONNECTED_CYCLES_PER_MAC + output.elements * CYCLES_PER_OUTPUT
    if operator.window is None or operator.kind not in (OpKind.CONV_2D, OpKind.DEPTHWISE_CONV_2D):
        return None
    rows, columns = operator.window.kernel
    channels = graph.input_tensors(operator)[0].shape[-1]
    if operator.kind is OpKind.CONV_2D:
        depth = rows * 4 * math.ceil(columns * channels / 4)
        return output.elements * (depth * DENSE_CYCLES_PER_MAC + CYCLES_PER_OUTPUT)
    each = rows * columns * DEPTHWISE_CYCLES_PER_TAP + CYCLES_PER_OUTPUT
    if operator.window.stride != (1, 1):
        each *= DEPTHWISE_STRIDE_2
    return output.elements * each + output.shape[1] * channels * DEPTHWISE_CYCLES_PER_ROW


def work_of(graph: Graph, operator: Operator) -> tuple[int, str]:
    """How much the layer has to do, and in what unit."""
    if work := macs(graph, operator):
        return work, "MAC"
    if operator.window is not None:
        return graph.output_tensor(operator).elements * math.prod(operator.window.kernel), "tap"
    return graph.input_tensors(operator)[0].elements, "element"


def measure(case: Case, board: EmulatedBoard, device: str) -> Row:
    """Compile, run, count."""
    profile, graph = load_profile(device), graph_of(case)
    operator = graph.operators[-1]
    with tempfile.TemporaryDirectory() as folder:
        board.flash(build_image(graph, profile, Path(folder)))
        count = board.count(random_inputs(graph, 1, seed=0), runs=1)
    instructions, cycles = count.layer_instructions[-1], count.layer_cycles[-1]
    work, unit = work_of(graph, operator)
    floor = floor_cycles(graph, operator) if profile.core == "cortex-m4" else None
    return Row(
        group=case.group,
        layer=case.label,
        kernel=kernel_of(graph, operator, profile.instruction_set).name,
        work=work,
        unit=unit,
        outputs=graph.output_tensor(operator).elements,
        instructions=instructions,
        cycles=cycles,
        instructions_per_work=instructions / work,
        cycles_per_work=cycles / work,
        floor=floor and floor / work,
        ratio=floor and cycles / floor,
        note=case.note,
    )


def show(rows: list[Row]) -> None:
    """One table for people."""
    columns = ("group", "layer", "", "kernel", "work", "unit", "instr./unit", "cycles/unit", "floor", "ratio")
    print_table(
        columns,
        [
            (
                row.group,
                row.layer,
                row.note,
                row.kernel,
                row.work,
                row.unit,
                row.instructions_per_work,
                row.cycles_per_work,
                row.floor,
                row.ratio,
            )
            for row in rows
        ],
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--device", default=DEVICE, help="a device profile with an emulated board")
    parser.add_argument("--only", default="", help="measure only what has this in its group or shape")
    options = parser.parse_args()
    chosen = [case for case in cases() if options.only in f"{case.group} {case.label}"]
    rows = []
    with EmulatedBoard(load_profile(options.device)) as board, progress("measuring") as update:
        for done, case in enumerate(chosen, start=1):
            rows.append(measure(case, board, options.device))
            update(done, len(chosen), "layers")
    if options.json:
        print_json({"device": options.device, "kernels": [dataclasses.asdict(row) for row in rows]})
    else:
        show(rows)


if __name__ == "__main__":
    main()
