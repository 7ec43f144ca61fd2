"""How a study chooses the next architecture: every strategy by name."""

from __future__ import annotations

from collections.abc import Callable

from tinynas.errors import SearchError
from tinynas.strategies.evolution import Evolution
from tinynas.strategies.grid import Grid
from tinynas.strategies.problem import Problem
from tinynas.strategies.random_search import RandomSearch
from tinynas.strategies.reinforce import Reinforce
from tinynas.strategies.strategy import Strategy


def _differentiable(problem: Problem) -> Strategy:
    from tinynas.strategies.differentiable import Differentiable  # loads torch

    return Differentiable(problem)


_STRATEGIES: dict[str, Callable[[Problem], Strategy]] = {
    "evolution": Evolution,
    "aging-evolution": lambda problem: Evolution(problem, aging=True),
    "random": RandomSearch,
    "grid": Grid,
    "reinforce": Reinforce,
    "differentiable": _differentiable,
}

STRATEGIES = tuple(_STRATEGIES)


def make_strategy(name: str, problem: Problem) -> Strategy:
    """The strategy called ``name``, with its defaults for ``problem``.

    Raises SearchError listing the strategies when there is none like it.
    """
    if name not in _STRATEGIES:
        raise SearchError(f"there is no strategy '{name}'; choose from {', '.join(STRATEGIES)}")
    return _STRATEGIES[name](problem)
