"""Predicts accuracies from a few hundred that were measured: a Gaussian process over an architecture's choices.

It answers in microseconds what a supernet answers in a second, and says how far it may be off. It knows an architecture
by its genes, each value a coordinate of its own, and by the logarithms of its multiply-accumulates and parameters, so
any search space will do. The covariance of two architectures is

    linear(genes) + smooth(choices) + smooth(sizes) + noise

with squared-exponential ``smooth`` terms; the amplitudes and lengths are those of the largest marginal likelihood
(Rasmussen and Williams, "Gaussian Processes for Machine Learning", 2006, sections 2.2 and 5.4). It is numpy alone.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError

from tinynas.architecture import Architecture
from tinynas.errors import SearchError
from tinynas.evaluation import CostFunction
from tinynas.files import write_atomically
from tinynas.space import InputShape, SearchSpace

Floats = npt.NDArray[np.float64]

FEWEST_ACCURACIES = 8
"""Below so many there is nothing to learn from."""
FIRST_HYPERPARAMETERS = (-0.5, 0.0, 1.0, 0.0, 1.0, -2.0)
"""Natural logarithms: the linear term's amplitude; amplitude and length of choices and of sizes; the noise."""
LARGEST_STEP, SMALLEST_STEP = 1.0, 0.06
"""Of the search for hyperparameters, in their logarithms."""
LIMIT = 5.0
"""No hyperparameter is beyond e to this power, or below its inverse."""


@dataclass(frozen=True)
class Features:
    """An architecture as numbers: genes one-hot, and the logarithms of its size."""

    space: SearchSpace
    input_shape: InputShape
    costs: CostFunction
    """Of which multiply-accumulates and parameters count: those that no device changes."""

    def __call__(self, architectures: Sequence[Architecture]) -> tuple[Floats, Floats]:
        """(N, values of all genes) zeros and ones, and (N, 2) natural logarithms.

        A gene that is not active, of a block beyond its stage's depth, is all zeros. Raises SearchError for an
        architecture that is not in the space.
        """
        counts = [len(gene.values) for gene in self.space.genes(self.input_shape)]
        starts = np.concatenate([[0], np.cumsum(counts)])
        choices = np.zeros((len(architectures), int(starts[-1])))
        sizes = np.empty((len(architectures), 2))
        for row, architecture in enumerate(architectures):
            for start, index in zip(starts, self.space.encode(architecture, self.input_shape), strict=False):
                if index is not None:
                    choices[row, start + index] = 1
            costs = self.costs(architecture)
            sizes[row] = math.log(costs.macs), math.log(costs.parameters)
        return choices, sizes


class _Saved(BaseModel):
    """A predictor's file: what it learned from, and what it made of that."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    version: Literal[1] = 1
    space: str
    input_shape: tuple[int, int, int]
    training_set_sha256: str
    hyperparameters: tuple[float, ...]
    accuracies: dict[str, float]


class AccuracyPredictor:
    """A Gaussian process that was fitted to measured accuracies; make one with ``fit`` or ``load``."""

    def __init__(
        self, features: Features, measured: Mapping[Architecture, float], hyperparameters: Floats | None = None
    ) -> None:
        """Find the hyperparameters where they are not given. Raises SearchError when there is too little to learn."""
        if len(measured) < FEWEST_ACCURACIES:
            raise SearchError(
                f"an accuracy predictor needs {FEWEST_ACCURACIES} measured architectures and was given "
                f"{len(measured)}; measure more first"
            )
        self.measured = dict(measured)
        self._features = features
        choices, sizes = features(list(measured))
        self._centre, self._scale = sizes.mean(axis=0), np.maximum(sizes.std(axis=0), 1e-9)
        self._choices, self._sizes = choices, (sizes - self._centre) / self._scale
        accuracies = np.array(list(measured.values()))
        self._mean, self._spread = float(accuracies.mean()), max(float(accuracies.std()), 1e-9)
        self._targets = (accuracies - self._mean) / self._spread
        parts = self._parts(self._choices, self._sizes)
        if hyperparameters is None:
            hyperparameters = _climb(lambda logs: _likelihood(_covariance(parts, logs), self._targets, logs))
        self.hyperparameters = hyperparameters
        self._factor = np.linalg.cholesky(_with_noise(_covariance(parts, hyperparameters), hyperparameters))
        self._weights = np.linalg.solve(self._factor.T, np.linalg.solve(self._factor, self._targets))

    def predict(self, architectures: Sequence[Architecture]) -> tuple[Floats, Floats]:
        """(N,) expected accuracies and (N,) standard deviations of what would be measured, both fractions.

        An expectation may lie a little outside 0 and 1. Raises SearchError for an architecture that is not in the
        space.
        """
        choices, sizes = self._features(architectures)
        parts = self._parts(choices, (sizes - self._centre) / self._scale)
        covariance = _covariance(parts, self.hyperparameters)
        explained = np.linalg.solve(self._factor, covariance.T)
        linear, smooth, _, sizes_amplitude, _, noise = np.exp(2 * self.hyperparameters)
        own = linear * (choices**2).sum(axis=1) / self._active + smooth + sizes_amplitude + noise
        variance = np.maximum(own - (explained**2).sum(axis=0), 1e-12)
        return self._mean + self._spread * (covariance @ self._weights), self._spread * np.sqrt(variance)

    @property
    def training_set_sha256(self) -> str:
        """The hash of what it learned from, as 64 hex digits."""
        return _hash(self._features, {str(architecture): accuracy for architecture, accuracy in self.measured.items()})

    def save(self, path: Path) -> None:
        """Write it as JSON text, with the hash of its training set. Raises SearchError when the disk will not."""
        saved = _Saved(
            space=self._features.space.name,
            input_shape=self._features.input_shape,
            training_set_sha256=self.training_set_sha256,
            hyperparameters=tuple(self.hyperparameters.tolist()),
            accuracies={str(architecture): accuracy for architecture, accuracy in self.measured.items()},
        )
        write_atomically(path, saved.model_dump_json(indent=1) + "\n")

    @classmethod
    def load(cls, path: Path, features: Features) -> Self:
        """Read what ``save`` wrote. Raises SearchError when it is another space's, damaged, or was changed by hand."""
        try:
            saved = _Saved.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise SearchError(f"'{path}' holds no accuracy predictor ({type(error).__name__}); fit it again") from error
        if (saved.space, saved.input_shape) != (features.space.name, features.input_shape):
            raise SearchError(
                f"'{path}' predicts for '{saved.space}' with inputs {saved.input_shape}; fit one for yours"
            )
        if saved.training_set_sha256 != _hash(features, saved.accuracies):
            raise SearchError(f"'{path}' is not what was learned: its training set or the space changed; fit it again")
        measured = {Architecture.parse(text): accuracy for text, accuracy in saved.accuracies.items()}
        return cls(features, measured, np.array(saved.hyperparameters))

    @property
    def _active(self) -> int:
        """How many genes there are; it brings the genes' terms to the order of one."""
        return len(self._features.space.genes(self._features.input_shape))

    def _parts(self, choices: Floats, sizes: Floats) -> tuple[Floats, Floats, Floats]:
        """Of each pair of given and measured: the product and the squared distance of choices, that of sizes."""
        return (
            choices @ self._choices.T / self._active,
            _squared_distances(choices, self._choices) / self._active,
            _squared_distances(sizes, self._sizes),
        )


def _squared_distances(ours: Floats, theirs: Floats) -> Floats:
    squared: Floats = (ours**2).sum(axis=1)[:, None] + (theirs**2).sum(axis=1) - 2 * ours @ theirs.T
    return np.maximum(squared, 0)


def _covariance(parts: tuple[Floats, Floats, Floats], logs: Floats) -> Floats:
    products, choices, sizes = parts
    linear, choices_amplitude, choices_length, sizes_amplitude, sizes_length, _ = np.exp(2 * logs)
    covariance: Floats = (
        linear * products
        + choices_amplitude * np.exp(-choices / (2 * choices_length))
        + sizes_amplitude * np.exp(-sizes / (2 * sizes_length))
    )
    return covariance


def _with_noise(covariance: Floats, logs: Floats) -> Floats:
    return covariance + (math.exp(2 * logs[-1]) + 1e-9) * np.eye(len(covariance))


def _likelihood(covariance: Floats, targets: Floats, logs: Floats) -> float:
    """The logarithm of the marginal likelihood, less a constant."""
    try:
        factor = np.linalg.cholesky(_with_noise(covariance, logs))
    except np.linalg.LinAlgError:
        return -math.inf
    whitened = np.linalg.solve(factor, targets)
    return float(-0.5 * whitened @ whitened - np.log(np.diagonal(factor)).sum())


def _climb(score: Callable[[Floats], float]) -> Floats:
    """The hyperparameters of the best score: one after the other up or down, by steps that halve."""
    best = np.array(FIRST_HYPERPARAMETERS)
    reached, step = score(best), LARGEST_STEP
    while step > SMALLEST_STEP:
        improved = False
        for index in range(len(best)):
            for change in (step, -step):
                other = best.copy()
                other[index] = min(LIMIT, max(-LIMIT, other[index] + change))
                found = score(other)
                if found > reached:
                    best, reached, improved = other, found, True
        if not improved:
            step /= 2
    return best


def _hash(features: Features, accuracies: dict[str, float]) -> str:
    genes = [[gene.name, *gene.values] for gene in features.space.genes(features.input_shape)]
    text = json.dumps({"genes": genes, "accuracies": accuracies}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
