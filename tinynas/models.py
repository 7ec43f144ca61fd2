"""A model file as it is compiled."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from export.graph import Graph
from export.optimize import optimize
from export.reader import read_tflite


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """What a file holds, and what of it is planned, compiled, predicted and run."""

    source: Graph
    """As the file has it."""
    graph: Graph
    """Optimized."""


def load_model(path: Path) -> Model:
    """Read and optimize a .tflite file. Raises ExportError when it cannot be compiled."""
    source = read_tflite(path)
    return Model(source, optimize(source))
