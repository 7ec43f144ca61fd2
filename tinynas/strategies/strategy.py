"""What every strategy does."""

from __future__ import annotations

from typing import Protocol

from tinynas.architecture import Architecture
from tinynas.evaluation import Evaluation


class Strategy(Protocol):
    """Chooses what to evaluate next.

    A strategy depends on its seed and on what it was told, and on nothing else: a fresh one that is asked and told the
    same evaluations in the same order continues as the first would have. That is how a killed study resumes.
    """

    def ask(self) -> Architecture:
        """An architecture that fits and was neither asked nor told before.

        Raises InfeasibleBudgetError when none was ever found to fit, and SpaceExhaustedError when no more are found.
        """
        ...

    def tell(self, evaluation: Evaluation) -> None:
        """Take an evaluation into account, whether or not this strategy asked for it."""
        ...
