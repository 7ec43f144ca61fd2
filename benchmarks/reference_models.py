#!/usr/bin/env python3
"""The four MLPerf Tiny models on an emulated board, beside TensorFlow Lite Micro with CMSIS-NN.

Each model is compiled, measured, and compared with the reference kernels on random inputs. TFLM's figures are those of
the same models on the same emulator under the same cycle model (cycles on the Cortex-M4, instructions on the
Cortex-M55); its code is its image less the .tflite file.
Usage: python -m benchmarks.reference_models [--device mps2-an386|mps3-an547] [--inputs N] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from devices.boards import resolve_board
from devices.profile import load_profile
from tinynas.measuring import build_image, compare_with_reference, random_inputs
from tinynas.models import load_model

MODELS = ("vww", "ic", "kws", "ad")

TFLM = {
    "vww": {"cycles": 28_270_000, "sram_bytes": 100_708, "flash_bytes": 417_640, "code_bytes": 84_000},
    "ic": {"cycles": 36_140_000, "sram_bytes": 54_996, "flash_bytes": 177_712, "code_bytes": 79_000},
    "kws": {"cycles": 8_940_000, "sram_bytes": 22_820, "flash_bytes": 138_288, "code_bytes": 84_000},
    "ad": {"cycles": 718_000, "sram_bytes": 2_580, "flash_bytes": 309_024, "code_bytes": 32_000},
}
TFLM_M55_INSTRUCTIONS = {"vww": 6_430_000, "ic": 4_810_000, "kws": 1_780_000, "ad": 286_000}


def main() -> None:
    """Measure, compare, print; fail if an output differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="mps2-an386")
    parser.add_argument("--inputs", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = [measure(name, options.device, options.inputs) for name in MODELS]
    if options.json:
        print(json.dumps({"device": options.device, "models": rows}))
    else:
        for row in rows:
            print(
                f"{row['model']:4} {row['cycles']:>11,} cycles {row['instructions']:>11,} instructions"
                f" {row['sram_bytes']:>7,} B SRAM {row['flash_bytes']:>8,} B flash {row['code_bytes']:>7,} B code"
                f"   {row['identical']} of {row['inputs']} identical"
                + "".join(f"   {name} {ratio:.2f}" for name, ratio in row["of_tflm"].items())
            )
    raise SystemExit(0 if all(row["identical"] == row["inputs"] for row in rows) else 1)


def measure(name: str, device: str, inputs: int) -> dict[str, Any]:
    """One model's figures, and each as a share of TFLM's where that is known for the core."""
    profile = load_profile(device)
    path = Path(os.environ.get("TINYNAS_REFERENCES", "../shared")) / "models" / f"{name}.tflite"
    graph = load_model(path).graph
    with resolve_board("emulator", device) as board, tempfile.TemporaryDirectory(prefix="tinynas-") as folder:
        image = build_image(graph, profile, Path(folder))
        board.flash(image)
        given = random_inputs(graph, max(1, inputs), seed=0)
        measurement = board.measure(given[:1], 1)
        comparison = compare_with_reference(path.read_bytes(), given[:inputs], board.outputs(given[:inputs]))
    figures = {
        "cycles": measurement.cycles,
        "instructions": measurement.instructions,
        "sram_bytes": measurement.sram_bytes,
        "flash_bytes": measurement.flash_bytes,
        "code_bytes": measurement.code_bytes,
    }
    known: dict[str, int] = TFLM[name] if profile.core == "cortex-m4" else {}
    if profile.core == "cortex-m55":
        known = {"instructions": TFLM_M55_INSTRUCTIONS[name]}
    return {
        "model": name,
        **figures,
        "inputs": comparison.inputs,
        "identical": comparison.identical,
        "of_tflm": {key: (figures[key] or 0) / value for key, value in known.items()},
    }


if __name__ == "__main__":
    main()
