"""How a study chooses the next architecture: every strategy by name."""

from __future__ import annotations

from typing import Literal

from tinynas.constraints import Admission
from tinynas.errors import SearchError
from tinynas.space import InputShape, SearchSpace
from tinynas.strategies.evolution import Evolution
from tinynas.strategies.random_search import RandomSearch
from tinynas.strategies.strategy import Strategy

STRATEGIES = ("evolution", "aging-evolution", "random")


def make_strategy(
    name: str,
    space: SearchSpace,
    input_shape: InputShape,
    admission: Admission,
    *,
    seed: int,
    trials: int,
    objective: Literal["front", "accuracy"] = "front",
) -> Strategy:
    """The strategy called ``name``, with its defaults for a study of ``trials`` evaluations.

    Raises SearchError listing the strategies when there is none like it.
    """
    if name in ("evolution", "aging-evolution"):
        aging = name == "aging-evolution"
        return Evolution(space, input_shape, admission, seed=seed, trials=trials, objective=objective, aging=aging)
    if name == "random":
        return RandomSearch(space, input_shape, admission, seed=seed)
    raise SearchError(f"there is no strategy '{name}'; choose from {', '.join(STRATEGIES)}")
