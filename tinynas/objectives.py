"""What a search may improve: the accuracy, and every cost.

``OBJECTIVES`` is the one table of them: settings, strategies, the command line and the documentation all read it.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from tinynas.errors import SearchError
from tinynas.evaluation import Evaluation

Point = tuple[float, ...]
"""Where an evaluation lies: one number for each objective, less being better."""


@dataclass(frozen=True, slots=True)
class Objective:
    """One thing to improve."""

    name: str
    """As it is written in options and settings."""
    label: str
    """As it stands in a sentence or at an axis."""
    unit: str
    """Empty for a fraction."""
    goal: Literal["max", "min"]
    value: Callable[[Evaluation], float]

    def loss(self, evaluation: Evaluation) -> float:
        """The value with the sign that makes less better."""
        value = self.value(evaluation)
        return -value if self.goal == "max" else value


OBJECTIVES = {
    objective.name: objective
    for objective in (
        Objective("accuracy", "accuracy", "", "max", lambda evaluation: evaluation.accuracy),
        Objective("latency", "latency", "ms", "min", lambda evaluation: evaluation.costs.latency_ms),
        Objective("energy", "energy", "mJ", "min", lambda evaluation: evaluation.costs.energy_mj),
        Objective("sram", "SRAM", "B", "min", lambda evaluation: evaluation.costs.sram_bytes),
        Objective("flash", "flash", "B", "min", lambda evaluation: evaluation.costs.flash_bytes),
        Objective("macs", "multiply-accumulates", "", "min", lambda evaluation: evaluation.costs.macs),
    )
}


def parse_objectives(text: str) -> tuple[str, ...]:
    """The objectives of a list like ``accuracy,latency``. Raises SearchError as ``checked_objectives`` does."""
    return checked_objectives([name.strip() for name in text.split(",")])


def checked_objectives(names: Sequence[str]) -> tuple[str, ...]:
    """``names``; raises SearchError for none, one that is there twice, or an unknown one, naming the nearest."""
    known = ", ".join(OBJECTIVES)
    if not names:
        raise SearchError(f"a search needs an objective; choose from {known}")
    for name in names:
        if name not in OBJECTIVES:
            nearest = difflib.get_close_matches(name, OBJECTIVES, n=1, cutoff=0.4)
            hint = f"did you mean {nearest[0]}? The objectives are" if nearest else "the objectives are"
            raise SearchError(f"there is no objective '{name}'; {hint} {known}")
        if names.count(name) > 1:
            raise SearchError(f"the objective {name} is given {names.count(name)} times; give each one once")
    return tuple(names)


def point_of(evaluation: Evaluation, objectives: Sequence[str]) -> Point:
    """Where ``evaluation`` lies in the space of ``objectives``; less is better, so the accuracy is negative."""
    return tuple(OBJECTIVES[name].loss(evaluation) for name in objectives)
