#!/usr/bin/env python3
"""Compares what `tinynas check` says of SRAM and flash with what the linker reports, and prints both.

Random candidates of the small space are given random weights, written as int8 .tflite files by the test oracle's writer
and put through the same commands as a user's model. Usage: python -m benchmarks.exactness [--json] [MODEL.tflite ...]
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from pathlib import Path

from devices.profile import load_profile
from export.synthetic import with_random_weights
from tests.oracles.tflite_writer import write_tflite
from tinynas.commands.model import check
from tinynas.lower import lower
from tinynas.measuring import build_image
from tinynas.models import load_model
from tinynas.space import load_space

DEVICE = "stm32f405"
INPUT_SHAPE = (28, 28, 1)
CLASSES = 10


def main() -> None:
    """Compare, print, and fail if any figure is off."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--candidates", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        models = [*options.models, *random_models(Path(folder), options.candidates, options.seed)]
        for model in models:
            said = check(model, DEVICE)
            image = build_image(load_model(model).graph, load_profile(DEVICE), Path(folder) / model.stem)
            rows.append(
                {
                    "model": model.stem,
                    "sram_bytes": said["sram_bytes"],
                    "linker_arena_bytes": image.arena_bytes,
                    "flash_bytes": said["flash_bytes"],
                    "linker_flash_bytes": image.flash_bytes,
                    "flash_error_percent": 100 * (said["flash_bytes"] / image.flash_bytes - 1),
                }
            )
    worst = max(abs(row["flash_error_percent"]) for row in rows)
    exact = all(row["sram_bytes"] == row["linker_arena_bytes"] for row in rows)
    if options.json:
        print(json.dumps({"rows": rows, "sram_exact": exact, "worst_flash_error_percent": worst}))
    else:
        for row in rows:
            print(
                f"{row['model'][:70]:70} SRAM {row['sram_bytes']:>7,} = {row['linker_arena_bytes']:>7,}"
                f"   flash {row['flash_bytes']:>8,} ~ {row['linker_flash_bytes']:>8,}"
                f" {row['flash_error_percent']:+.3f} %"
            )
        print(f"SRAM exact for all {len(rows)}: {exact}; largest flash error {worst:.3f} %")
    raise SystemExit(0 if exact and worst <= 1 else 1)


def random_models(folder: Path, count: int, seed: int) -> list[Path]:
    """``count`` random candidates as int8 .tflite files."""
    space, rng = load_space("mobilenet_small"), random.Random(seed)
    paths = []
    for _ in range(count):
        architecture = space.sample(rng, INPUT_SHAPE)
        graph = with_random_weights(lower(architecture, space, INPUT_SHAPE, CLASSES))
        paths.append(folder / f"{architecture}.tflite")
        paths[-1].write_bytes(write_tflite(graph))
    return paths


if __name__ == "__main__":
    main()
