"""The ways to find a candidate's accuracy, by name.

``supernet`` asks the shared weights; ``predictor`` does so too, but for candidates alone that a predictor picked out of
what the strategy proposed; ``scratch`` trains each candidate for itself and stops it when it falls behind. Every
accuracy that a study records was measured: none is a prediction.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tinynas.architecture import Architecture
from tinynas.errors import SearchError
from tinynas.evaluation import AccuracyFunction, Evaluation
from tinynas.halving import Rungs, SuccessiveHalving
from tinynas.screening import Screened
from tinynas.strategies.problem import Problem
from tinynas.strategies.strategy import Strategy

if TYPE_CHECKING:  # torch takes a second to load
    from tinynas.data import DataSet
    from tinynas.space import SearchSpace
    from tinynas.supernet import Supernet

ACCURACY = ("supernet", "predictor", "scratch")
RECORD = "halving.json"


@dataclass(frozen=True)
class ScratchTrainer:
    """Trains candidates as the networks they are; what it goes on from is in ``folder``, one file each."""

    space: SearchSpace
    data: DataSet
    seed: int
    folder: Path

    def train(self, architecture: Architecture, until: int, rungs: Rungs) -> float:
        """See ``tinynas.halving.Trainer``: the learning rate falls over all epochs, wherever the training pauses."""
        import torch

        from tinynas.network import build_network
        from tinynas.training import train

        torch.manual_seed(self.seed)
        network = build_network(architecture, self.space, self.data.input_shape, len(self.data.classes))
        result = train(
            network,
            self.data,
            architecture.resolution,
            epochs=rungs.epochs,
            until=until,
            seed=self.seed,
            checkpoint=self._checkpoint(architecture),
        )
        return result.history[until - 1].validation_accuracy

    def forget(self, architecture: Architecture) -> None:
        """See ``tinynas.halving.Trainer``."""
        self._checkpoint(architecture).unlink(missing_ok=True)

    def _checkpoint(self, architecture: Architecture) -> Path:
        return self.folder / f"{hashlib.sha256(str(architecture).encode()).hexdigest()[:16]}.safetensors"


def make_accuracy(
    name: str,
    *,
    space: SearchSpace,
    data: DataSet,
    seed: int,
    supernet: Callable[[], Supernet],
    folder: Path,
    rungs: Rungs,
    evaluated: Sequence[Evaluation] = (),
) -> AccuracyFunction:
    """The accuracy function called ``name``, one of ``ACCURACY``.

    ``supernet`` gives the trained shared weights and is called when they are first needed. Training from scratch keeps
    its record in ``folder`` and goes along ``rungs``; ``evaluated`` is what a resumed study's journal holds. Raises
    SearchError for an unknown name, or when the record does not hold what was evaluated.
    """
    check_accuracy(name)
    if name == "scratch":
        trainer = ScratchTrainer(space, data, seed, folder)
        identity = {"data": data.fingerprint, "space": space.model_dump(mode="json"), "seed": seed}
        halving = SuccessiveHalving(trainer, rungs, folder / RECORD, identity)
        halving.require({evaluation.architecture: evaluation.accuracy for evaluation in evaluated})
        return halving
    loaded: list[Supernet] = []

    def accuracy(architecture: Architecture) -> float:
        if not loaded:
            loaded.append(supernet())
        return loaded[0].evaluate(architecture)

    return accuracy


def screened(name: str, strategy: Strategy, problem: Problem) -> Strategy:
    """``strategy`` as the accuracy function called ``name`` wants it: for ``predictor``, its proposals are screened."""
    check_accuracy(name)
    return Screened(strategy, problem) if name == "predictor" else strategy


def check_accuracy(name: str) -> None:
    """Raise SearchError unless ``name`` is one of ``ACCURACY``."""
    if name not in ACCURACY:
        raise SearchError(f"there is no way to find accuracies called '{name}'; choose from {', '.join(ACCURACY)}")
