"""What a strategy is asked to solve."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tinynas.constraints import Admission
from tinynas.space import InputShape, SearchSpace

if TYPE_CHECKING:
    from tinynas.supernet import Supernet


@dataclass(frozen=True)
class Problem:
    """Where to search, within which limits, for what, and for how long."""

    space: SearchSpace
    input_shape: InputShape
    admission: Admission
    """Decides what fits; nothing that it turns away is ever evaluated."""
    objectives: tuple[str, ...]
    """By name, as in ``tinynas.objectives.OBJECTIVES``."""
    trials: int
    """The evaluations that the study will make."""
    seed: int
    supernet: Callable[[], Supernet] | None = None
    """The shared weights, trained when first asked for; only what takes gradients through them asks."""
