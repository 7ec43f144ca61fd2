#!/usr/bin/env python3
"""A table of every architecture of a small space with the accuracy that training it from scratch came to.

Strategies can then be compared on what is known to be true, thousands of evaluations a second. The table that comes
with tinynas holds the 320 inverted-bottleneck networks of data/fashion_tiny.toml, each trained for two epochs on
Fashion-MNIST with seed 0 on one core; `seconds` is what that took, and serves as the cost of an evaluation.

Usage: python -m benchmarks.table --train [--out FILE.csv]     (about 45 minutes on one core; goes on where it stopped)
"""

from __future__ import annotations

import argparse
import csv
import random
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tinynas.architecture import Architecture
from tinynas.data import load_data
from tinynas.space import InputShape, SearchSpace, load_space

DATA = Path(__file__).parent / "data"
SPACE_FILE = DATA / "fashion_tiny.toml"
TABLE_FILE = DATA / "fashion_tiny.csv"
COLUMNS = ("architecture", "validation_accuracy", "test_accuracy", "seconds")
EPOCHS = 2
INPUT_SHAPE: InputShape = (28, 28, 1)
CLASSES = 10


@dataclass(frozen=True, slots=True)
class Entry:
    """What training one architecture came to."""

    validation_accuracy: float
    test_accuracy: float
    seconds: float


class Table:
    """The trained space."""

    def __init__(self, path: Path = TABLE_FILE) -> None:
        with path.open(newline="", encoding="utf-8") as lines:
            self.entries = {
                Architecture.parse(row["architecture"]): Entry(*(float(row[name]) for name in COLUMNS[1:]))
                for row in csv.DictReader(lines)
            }

    @cached_property
    def space(self) -> SearchSpace:
        return load_space(str(SPACE_FILE))


def train_all(out: Path) -> None:
    """Train what ``out`` does not hold yet, in a shuffled order, and append line by line."""
    import torch

    from tinynas.network import build_network
    from tinynas.training import train

    torch.set_num_threads(1)
    space, data = load_space(str(SPACE_FILE)), load_data("fashion-mnist")
    architectures = list(space.every(data.input_shape))
    random.Random(0).shuffle(architectures)
    known = set(Table(out).entries) if out.exists() else set()
    with out.open("a", newline="", encoding="utf-8") as lines:
        writer = csv.writer(lines)
        if not known:
            writer.writerow(COLUMNS)
        for position, architecture in enumerate(architectures, start=1):
            if architecture in known:
                continue
            torch.manual_seed(0)
            network = build_network(architecture, space, data.input_shape, len(data.classes))
            result = train(network, data, architecture.resolution, epochs=EPOCHS, seed=0)
            writer.writerow([architecture, result.validation_accuracy, result.test_accuracy, round(result.seconds, 2)])
            lines.flush()
            print(f"{position} of {len(architectures)}: {architecture} {result.test_accuracy:.2%}", file=sys.stderr)


def main() -> None:
    """Train the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", action="store_true", required=True)
    parser.add_argument("--out", type=Path, default=TABLE_FILE)
    train_all(parser.parse_args().out)


if __name__ == "__main__":
    main()
