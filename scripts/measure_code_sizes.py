#!/usr/bin/env python3
"""Measures the flash that kernels, layer calls and the harness take, and writes export/code_sizes.json.

Each operator is compiled alone for a board; what its image has and an empty model's has not is its kernel and what that
pulls in. Run it after changing a kernel, the harness, the generator or the compiler; a test compares the table with
whole images. Usage: python scripts/measure_code_sizes.py
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from export.atomic import write_bytes
from export.codegen import generate
from export.graph import Graph
from export.kernels import kernel_of
from export.synthetic import with_random_weights
from scripts.single_layers import single_layer_graphs

ROOT = Path(__file__).resolve().parent.parent
BOARD = "netduinoplus2"
CORE = "cortex-m4"
FLASH_SECTIONS = (".isr_vector", ".text", ".rodata", ".ARM.exidx", ".data")


def build(graph: Graph, work: Path) -> tuple[int, dict[str, int]]:
    """Flash bytes of the image and the size of each of its symbols."""
    model, out = work / "model", work / "out"
    for name, text in generate(graph).files.items():
        write_bytes(model / name, text.encode())
    command = ["make", "-s", "-C", str(ROOT / "firmware"), f"BOARD={BOARD}", f"MODEL_DIR={model}", f"OUT={out}"]
    subprocess.run([*command, f"CACHE={work / 'cache'}"], check=True, stdout=subprocess.DEVNULL)
    elf = str(out / "firmware.elf")
    sizes = subprocess.run(["arm-none-eabi-size", "-A", elf], check=True, capture_output=True, text=True).stdout
    sections = {name: int(size) for name, size in re.findall(r"^(\.\S+)\s+(\d+)", sizes, re.MULTILINE)}
    flash = sum(sections.get(name, 0) for name in FLASH_SECTIONS)
    names = subprocess.run(["arm-none-eabi-nm", "-S", elf], check=True, capture_output=True, text=True).stdout
    symbols: dict[str, int] = {}
    for size, kind, name in re.findall(r"^\w+ (\w+) (\w) (\S+)$", names, re.MULTILINE):
        if kind in "tTrRdDW":
            symbols[name] = symbols.get(name, 0) + int(size, 16)
    return flash, symbols


def aligned(size: int) -> int:
    """Sections start at multiples of four."""
    return -(-size // 4) * 4


def main() -> None:
    """Build everything and write the table."""
    view, *layers = single_layer_graphs()
    with tempfile.TemporaryDirectory() as folder:
        empty_flash, empty_symbols = build(with_random_weights(view), Path(folder))
        view_code = aligned(empty_symbols["tn_layer_000"])
        pointer = 4
        symbols: dict[str, int] = {}
        kernels: dict[str, dict[str, object]] = {"view": {"symbols": [], "call": view_code, "struct": 0}}
        for graph in layers:
            kernel = kernel_of(graph, graph.operators[0])
            _, found = build(with_random_weights(graph), Path(folder))
            pulled = {name: aligned(size) for name, size in found.items() if name not in empty_symbols}
            layer_data = {name: pulled.pop(name) for name in list(pulled) if name.startswith("tn_layer_")}
            structs = [name for name in layer_data if name.endswith("_parameters") or "_part_" in name]
            symbols |= pulled
            kernels[kernel] = {
                "symbols": sorted(pulled),
                "call": aligned(found["tn_layer_000"]),
                "struct": layer_data[structs[0]] * len(structs),
            }
    version = subprocess.run(["arm-none-eabi-gcc", "--version"], check=True, capture_output=True, text=True).stdout
    table = {
        "toolchain": version.splitlines()[0],
        "cores": {
            CORE: {
                "empty_model_bytes": empty_flash - view_code - pointer,
                "kernels": dict(sorted(kernels.items())),
                "symbols": dict(sorted(symbols.items())),
            }
        },
    }
    write_bytes(ROOT / "export" / "code_sizes.json", (json.dumps(table, indent=1) + "\n").encode())
    print(f"an empty model takes {empty_flash} bytes", file=sys.stderr)


if __name__ == "__main__":
    main()
