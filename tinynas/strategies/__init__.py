"""How a study chooses the next architecture: every strategy by name."""

from __future__ import annotations

from tinynas.errors import SearchError
from tinynas.strategies.evolution import Evolution
from tinynas.strategies.problem import Problem
from tinynas.strategies.random_search import RandomSearch
from tinynas.strategies.strategy import Strategy

STRATEGIES = ("evolution", "aging-evolution", "random")


def make_strategy(name: str, problem: Problem) -> Strategy:
    """The strategy called ``name``, with its defaults for ``problem``.

    Raises SearchError listing the strategies when there is none like it.
    """
    if name in ("evolution", "aging-evolution"):
        return Evolution(problem, aging=name == "aging-evolution")
    if name == "random":
        return RandomSearch(problem)
    raise SearchError(f"there is no strategy '{name}'; choose from {', '.join(STRATEGIES)}")
