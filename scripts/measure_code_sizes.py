#!/usr/bin/env python3
"""Measures the flash that kernels and layer calls take, and writes export/code_sizes.json.

Each operator is compiled alone for a board, whole and streamed; what its image has and an empty model's has not is its
kernel and what that pulls in. Run it after changing a kernel, the generator or the compiler; a test
compares the table with whole images. Usage: python -m scripts.measure_code_sizes
"""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from devices.profile import InstructionSet
from export.atomic import write_bytes
from export.codegen import write_model
from export.graph import Graph
from export.kernels import VIEW, all_kernels, candidate_kernels
from export.kernels.generic import REQUANTIZE
from export.kernels.kernel import Kernel
from export.planner import Buffer, Plan, Segment, plan
from export.schedule import align, is_streamable, row_access
from export.streams import INPUT_ROW
from export.synthetic import with_random_weights
from scripts.single_layers import chain_of_relus, single_layer_graphs

ROOT = Path(__file__).resolve().parent.parent
BOARDS: tuple[tuple[str, str, InstructionSet], ...] = (
    ("cortex-m0", "microbit", "generic"),
    ("cortex-m3", "mps2-an385", "generic"),
    ("cortex-m4", "netduinoplus2", "dsp"),
    ("cortex-m55", "mps3-an547", "helium"),
)
"""Core, board and instruction set of each table, which has the kernels in plain C as well."""
FLASH = range(0x20000000)
PLACED = re.compile(
    r"^ (\.(?:isr_vector|text|rodata|data|ARM.exidx)\S*)\s+0x([0-9a-f]+)\s+0x([0-9a-f]+)\s+(\S.*)$", re.MULTILINE
)
INPUT_RING, OUTPUT_RING = 3, 2
LONG_CHAIN = 12


class Builder:
    """Builds models for one board and says what is in their images."""

    def __init__(self, board: str, work: Path) -> None:
        self.board = board
        self.work = work

    def build(self, planned: Plan, kernel: Kernel) -> dict[str, int]:
        """Bytes of every section that the linker put into flash, by object file and name."""
        model, out = self.work / "model", self.work / "out"
        for name, text in write_model(planned, [kernel] * len(planned.graph.operators)).files.items():
            write_bytes(model / name, text.encode())
        command = ["make", "-s", "-C", str(ROOT / "firmware"), f"BOARD={self.board}", f"MODEL_DIR={model}"]
        command += [f"OUT={out}", f"CACHE={self.work / 'cache'}"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return sections(out / "firmware.map")


def sections(path: Path) -> dict[str, int]:
    """What a linker's map says is in flash: aligned bytes by object file and section."""
    text = path.read_text(encoding="utf-8").split("Linker script and memory map", 1)[1]
    text = re.sub(r"^( \.\S+)\n\s+(?=0x)", r"\1 ", text, flags=re.MULTILINE)  # a long name has a line of its own
    found: dict[str, int] = {}
    for name, address, size, origin in PLACED.findall(text):
        if int(address, 16) in FLASH or name.startswith(".data"):
            member = re.sub(r".*[/(]([^/()]+)\)?$", r"\1", origin)
            key = f"{member}:{name}"
            found[key] = found.get(key, 0) + align(int(size, 16))
    return {key: size for key, size in found.items() if size}


def whole(graph: Graph, instruction_set: InstructionSet) -> Plan:
    """A plan in which no two buffers share a byte, so that the generator alone decides the sizes."""
    planned = plan(graph, instruction_set)
    layers = tuple(range(len(graph.operators)))
    last = len(layers)
    buffers, end = [], 0
    for buffer in planned.buffers:
        buffers.append(dataclasses.replace(buffer, offset=end, ring_rows=None, first_step=-1, last_step=last))
        end += align(buffer.size_bytes)
    return dataclasses.replace(
        planned,
        segments=tuple(Segment((layer,)) for layer in layers),
        order=layers,
        buffers=tuple(buffers),
        counters_at=None,
        arena_bytes=end,
    )


def streamed(planned: Plan, *, stream_input: bool = False) -> Plan:
    """The same with every layer streamed through rings, as far as the generator can tell; it computes nothing."""
    graph = planned.graph
    counters = Buffer("row counters", None, 2 * len(graph.operators) + 4, -1, 0, planned.arena_bytes)
    rings = dict.fromkeys(graph.inputs, INPUT_RING) | dict.fromkeys(graph.outputs, OUTPUT_RING)
    return dataclasses.replace(
        planned,
        segments=(Segment(tuple(range(len(graph.operators))), streamed=True),),
        order=(
            *((INPUT_ROW,) if stream_input else ()),
            *(i for i, operator in enumerate(graph.operators) for _ in range(row_access(graph, operator).units)),
        ),
        buffers=(
            *(
                buffer if buffer.tensor is None else dataclasses.replace(buffer, ring_rows=rings.get(buffer.tensor))
                for buffer in planned.buffers
            ),
            counters,
        ),
        counters_at=len(planned.buffers),
        arena_bytes=planned.arena_bytes + align(counters.size_bytes),
    )


def is_layer(key: str) -> bool:
    """Whether a section is a layer's function or constants."""
    return key.startswith("model.o:") and "tn_layer_" in key


def layer_call(found: dict[str, int]) -> int:
    """Bytes of the function of layer 0."""
    return found["model.o:.text.tn_layer_000"]


def measure(builder: Builder, instruction_set: InstructionSet) -> dict[str, object]:
    """The table of one core."""
    view, *layers = single_layer_graphs()
    empty = builder.build(whole(with_random_weights(view), instruction_set), VIEW)
    pointers = empty["model.o:.rodata.tn_model_layers"]
    symbols: dict[str, int] = {}
    kernels: dict[str, dict[str, object]] = {
        VIEW.name: {"symbols": [], "call": layer_call(empty), "streamed_call": 0, "struct": 0}
    }
    for graph in map(with_random_weights, layers):
        operator = graph.operators[0]
        for kernel in candidate_kernels(operator.kind, instruction_set):
            if kernel.name in kernels or not (kernel.fits(graph, operator) and kernel.accepts(graph, operator)):
                continue
            planned = whole(graph, instruction_set)
            found = builder.build(planned, kernel)
            pulled = {key: size for key, size in found.items() if key not in empty and not is_layer(key)}
            structs = [key for key in found if re.search(r"\.rodata\.tn_layer_000_(parameters|part_0)$", key)]
            streams = is_streamable(graph, operator)
            symbols |= pulled
            kernels[kernel.name] = {
                "symbols": sorted(pulled),
                "call": layer_call(found),
                "streamed_call": layer_call(builder.build(streamed(planned), kernel)) if streams else 0,
                "struct": found[structs[0]],
            }
    check_complete(kernels, all_kernels(instruction_set))
    chain = whole(with_random_weights(chain_of_relus(LONG_CHAIN)), instruction_set)
    whole_rest, streamed_rest, input_rest = (
        sum(size for key, size in found.items() if not is_layer(key) and not key.endswith("tn_model_order"))
        for found in (
            builder.build(planned, REQUANTIZE)
            for planned in (chain, streamed(chain), streamed(chain, stream_input=True))
        )
    )
    return {
        "empty_model_bytes": sum(empty.values()) - layer_call(empty) - pointers,
        "stream_bytes": streamed_rest - whole_rest,
        "stream_input_bytes": input_rest - streamed_rest,
        "kernels": dict(sorted(kernels.items())),
        "symbols": dict(sorted(symbols.items())),
    }


def check_complete(kernels: dict[str, dict[str, object]], expected: tuple[Kernel, ...]) -> None:
    """Stop when no single layer runs one of the kernels."""
    missing = sorted({kernel.name for kernel in expected} - kernels.keys())
    if missing:
        sys.exit(f"no layer of scripts/single_layers.py runs {', '.join(missing)}: add one")


def main() -> None:
    """Build everything and write the table."""
    cores = {}
    for core, board, instruction_set in BOARDS:
        with tempfile.TemporaryDirectory() as folder:
            cores[core] = measure(Builder(board, Path(folder)), instruction_set)
    version = subprocess.run(["arm-none-eabi-gcc", "--version"], check=True, capture_output=True, text=True).stdout
    table = {"toolchain": version.splitlines()[0], "cores": cores}
    write_bytes(ROOT / "export" / "code_sizes.json", (json.dumps(table, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
