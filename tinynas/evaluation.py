"""What is known about an architecture: its costs on a device, and its accuracy."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

from tinynas.architecture import Architecture
from tinynas.errors import SearchError


@dataclass(frozen=True, slots=True)
class Costs:
    """What one inference takes on a device, and what the network occupies there.

    Raises SearchError unless all are finite and at least 0.
    """

    macs: int
    parameters: int
    sram_bytes: int
    flash_bytes: int
    latency_ms: float
    energy_mj: float

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0 <= value < math.inf:  # also false for NaN, which would pass every limit unseen
                raise SearchError(
                    f"the cost model gave {field.name} = {value}; a cost is a finite number of at least 0"
                )


@dataclass(frozen=True, slots=True)
class Evaluation:
    """An architecture with its costs and its validation accuracy, 0 to 1. Raises SearchError outside that range."""

    architecture: Architecture
    costs: Costs
    accuracy: float

    def __post_init__(self) -> None:
        if not 0 <= self.accuracy <= 1:
            raise SearchError(f"{self.architecture} was given the accuracy {self.accuracy}; it must be from 0 to 1")


CostFunction = Callable[[Architecture], Costs]
"""Predicts the costs without training, in about a millisecond; the same architecture always costs the same."""

AccuracyFunction = Callable[[Architecture], float]
"""Measures the validation accuracy, 0 to 1."""
