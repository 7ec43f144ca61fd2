#!/usr/bin/env python3
"""Writes the C of the small space's smallest network, with random weights, for `make firmware`.

Usage: python -m scripts.sample_model FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

from export.atomic import write_bytes
from export.codegen import generate
from export.synthetic import with_random_weights
from tinynas.lower import lower
from tinynas.space import load_space

INPUT_SHAPE = (28, 28, 1)
CLASSES = 10


def main(folder: Path) -> None:
    """Write model.c and model.h."""
    space = load_space("mobilenet_small")
    graph = lower(space.extreme(INPUT_SHAPE, largest=False), space, INPUT_SHAPE, CLASSES)
    for name, text in generate(with_random_weights(graph)).files.items():
        write_bytes(folder / name, text.encode())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
