"""Predicts accuracies from a few hundred that were measured: a Gaussian process over an architecture's choices.

It answers in microseconds what a supernet answers in a second, and says how far it may be off. It knows an architecture
by its genes, each value a coordinate of its own, and by the logarithms of its multiply-accumulates and parameters, so
any search space will do. The covariance of two architectures is

    linear(genes) + smooth(genes, sizes) + noise

with a squared-exponential ``smooth`` that has a length of its own for each gene and size: it finds out which of them
matter. Amplitudes and lengths are those of the largest marginal likelihood, the lengths held towards usual ones
(Rasmussen and Williams, "Gaussian Processes for Machine Learning", 2006, sections 2.2, 5.1 and 5.4). No torch.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError
from scipy.optimize import minimize

from tinynas.architecture import Architecture
from tinynas.errors import SearchError
from tinynas.evaluation import CostFunction
from tinynas.files import write_atomically
from tinynas.space import InputShape, SearchSpace

Floats = npt.NDArray[np.float64]

FEWEST_ACCURACIES = 8
"""Below so many there is nothing to learn from."""
FIRST_AMPLITUDES = (-1.0, 0.0, 0.0)
"""Natural logarithms of the noise's, the smooth term's and the linear term's standard deviation."""
USUAL_WEIGHT, WEIGHT_DEVIATION = -4.0, 1.5
"""Of the natural logarithm of a gene's or size's weight in the smooth term, the inverse of its squared length."""
LIMIT = 8.0
"""No hyperparameter, a logarithm, is further from 0."""


@dataclass(frozen=True)
class Features:
    """An architecture as numbers: genes one-hot, and the logarithms of its size."""

    space: SearchSpace
    input_shape: InputShape
    costs: CostFunction
    """Of which multiply-accumulates and parameters count: those that no device changes."""

    @property
    def genes(self) -> tuple[slice, ...]:
        """The columns of each gene in what a call returns first."""
        ends = list(accumulate((len(gene.values) for gene in self.space.genes(self.input_shape)), initial=0))
        return tuple(slice(first, end) for first, end in pairwise(ends))

    def __call__(self, architectures: Sequence[Architecture]) -> tuple[Floats, Floats]:
        """(N, values of all genes) zeros and ones, and (N, 2) natural logarithms.

        A gene that is not active, of a block beyond its stage's depth, is all zeros. Raises SearchError for an
        architecture that is not in the space.
        """
        genes = self.genes
        choices = np.zeros((len(architectures), genes[-1].stop))
        sizes = np.empty((len(architectures), 2))
        for row, architecture in enumerate(architectures):
            for gene, index in zip(genes, self.space.encode(architecture, self.input_shape), strict=True):
                if index is not None:
                    choices[row, gene.start + index] = 1
            costs = self.costs(architecture)
            sizes[row] = math.log(costs.macs), math.log(costs.parameters)
        return choices, sizes


class _Saved(BaseModel):
    """A predictor's file: what it learned from, and what it made of that."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    version: Literal[2] = 2
    space: str
    input_shape: tuple[int, int, int]
    training_set_sha256: str
    hyperparameters: tuple[float, ...]
    accuracies: dict[str, float]


class AccuracyPredictor:
    """A Gaussian process that was fitted to measured accuracies."""

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
        self._genes = features.genes
        self._known = choices, (sizes - self._centre) / self._scale
        accuracies = np.array(list(measured.values()))
        self._mean, self._spread = float(accuracies.mean()), max(float(accuracies.std()), 1e-9)
        self._targets = (accuracies - self._mean) / self._spread
        products, distances = self._parts(*self._known)
        if hyperparameters is None:
            hyperparameters = _fit(products, distances, self._targets)
        self.hyperparameters = hyperparameters
        smooth, linear = _covariances(products, distances, hyperparameters)
        self._factor = np.linalg.cholesky(smooth + linear + _noise(len(products), hyperparameters))
        self._weights = np.linalg.solve(self._factor.T, np.linalg.solve(self._factor, self._targets))

    def predict(self, architectures: Sequence[Architecture]) -> tuple[Floats, Floats]:
        """(N,) expected accuracies and (N,) standard deviations of what would be measured, both fractions.

        An expectation may lie a little outside 0 and 1. Raises SearchError for an architecture that is not in the
        space.
        """
        choices, sizes = self._features(architectures)
        smooth, linear = _covariances(*self._parts(choices, (sizes - self._centre) / self._scale), self.hyperparameters)
        covariance = smooth + linear
        explained = np.linalg.solve(self._factor, covariance.T)
        noise, smooth_variance, linear_variance = np.exp(2 * self.hyperparameters[: len(FIRST_AMPLITUDES)])
        own = linear_variance * (choices**2).sum(axis=1) / len(self._genes) + smooth_variance + noise
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

    def _parts(self, choices: Floats, sizes: Floats) -> tuple[Floats, Floats]:
        """Of each pair of N given and M known: (N, M) products, and (genes and sizes, N, M) squared distances."""
        known_choices, known_sizes = self._known
        distances = [_squared_distances(choices[:, gene], known_choices[:, gene]) for gene in self._genes]
        distances += [(ours[:, None] - theirs) ** 2 for ours, theirs in zip(sizes.T, known_sizes.T, strict=True)]
        return choices @ known_choices.T / len(self._genes), np.stack(distances)


def _squared_distances(ours: Floats, theirs: Floats) -> Floats:
    squared: Floats = (ours**2).sum(axis=1)[:, None] + (theirs**2).sum(axis=1) - 2 * ours @ theirs.T
    return squared


def _covariances(products: Floats, distances: Floats, hyperparameters: Floats) -> tuple[Floats, Floats]:
    """The smooth and the linear term."""
    amplitudes, weights = np.split(hyperparameters, [len(FIRST_AMPLITUDES)])
    _, smooth, linear = np.exp(2 * amplitudes)
    return smooth * np.exp(-0.5 * np.tensordot(np.exp(weights), distances, axes=1)), linear * products


def _noise(count: int, hyperparameters: Floats) -> Floats:
    return (math.exp(2 * hyperparameters[0]) + 1e-9) * np.eye(count)


def _fit(products: Floats, distances: Floats, targets: Floats) -> Floats:
    """The hyperparameters of the largest posterior: the three amplitudes, then a weight for each distance."""
    first = np.concatenate([FIRST_AMPLITUDES, np.full(len(distances), USUAL_WEIGHT)])
    bounds = [(-LIMIT, LIMIT)] * len(first)
    found = minimize(_loss, first, args=(products, distances, targets), jac=True, method="L-BFGS-B", bounds=bounds)
    return np.asarray(found.x)


def _loss(hyperparameters: Floats, products: Floats, distances: Floats, targets: Floats) -> tuple[float, Floats]:
    """The negative logarithm of the posterior, less a constant, and its gradient."""
    smooth, linear = _covariances(products, distances, hyperparameters)
    noise = _noise(len(targets), hyperparameters)
    inverse = np.linalg.inv(smooth + linear + noise)
    _, log_determinant = np.linalg.slogdet(inverse)
    solved = inverse @ targets
    weights = hyperparameters[len(FIRST_AMPLITUDES) :]
    deviations = (weights - USUAL_WEIGHT) / WEIGHT_DEVIATION
    loss = 0.5 * (targets @ solved - log_determinant + deviations @ deviations)
    # With K's derivative D the loss changes by half the sum of (inverse - solved solvedᵀ) * D.
    pull = inverse - np.outer(solved, solved)
    amplitudes = [(pull * term).sum() for term in (noise, smooth, linear)]
    lengths = -0.25 * np.exp(weights) * np.tensordot(distances, pull * smooth, axes=2)
    return float(loss), np.concatenate([amplitudes, lengths + deviations / WEIGHT_DEVIATION])


def _hash(features: Features, accuracies: dict[str, float]) -> str:
    genes = [[gene.name, *gene.values] for gene in features.space.genes(features.input_shape)]
    text = json.dumps({"genes": genes, "accuracies": accuracies}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
