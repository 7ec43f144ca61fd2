"""Predicts the latency of whole networks on a phone from a few that were measured.

A latency is a weighted sum of what the network does (see `spaces`), and no weight is negative. What is known before
anything has been measured is what the terms cost in proportion to each other on phones that others have measured;
`priors.toml` holds that, and says of whom. A new phone's costs are those, times a factor that all terms share (how fast
the phone is), times a departure of each term's own. How far a phone departs, how noisy it is and what its runtime makes
of a network (`READINGS`) is not known beforehand: the fit is made for each combination, and those count that the
measurements make likely.

Errors are relative, and of a few measurements large (a phone that is busy or hot takes half as long again): they are
taken to be Student-t distributed, so that outliers count little, on top of the rounding of what was written down.
"""

from __future__ import annotations

import hashlib
import json
import math
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import product

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls
from scipy.special import gammaln
from scipy.stats import t as student_t

from tinynas.errors import SearchError
from tinynas.phones.spaces import READINGS, TERMS, PublishedSpace

Floats = npt.NDArray[np.float64]

_DEPARTURES = (0.1, 0.2, 0.4, 0.8, 1.6)
"""Standard deviations, relative to the prior, that a term's cost may have of its own; equally likely at first."""

_SHARED_DEPARTURE = 0.3
"""The same of the factor that all terms share, around the one that a median of the measurements gives."""

_DEGREES_OF_FREEDOM = 4.0
_USUAL_ERRORS, _USUAL_ERROR_WEIGHT = (0.02, 0.1), 8.0
"""The relative errors to expect of a phone's measurements, if it is quiet and if it is not, which are equally likely at
first; and as how many measurements that counts."""

_OTHER_READINGS = 0.1
"""How likely the other readings of a space are together, before anything has been measured."""

_CONFIDENCE = 0.9
_ROUNDS = 100
_SETTLED = 1e-7


@dataclass(frozen=True, slots=True)
class LatencyModel:
    """What the terms of a space cost on one phone."""

    space: PublishedSpace
    reading: str
    """What the runtime makes of an architecture: the likeliest of the space's readings."""
    reading_probability: float
    costs_ms: dict[str, float]
    """Milliseconds of one of each term; none is negative."""
    covariance: tuple[tuple[float, ...], ...]
    """Of the costs."""
    relative_error: float
    """Scale of a measurement's relative error, which is Student-t distributed."""
    step_ms: float
    """To what measurements were rounded."""
    source: str
    """How many measurements, and the hash of them."""

    def latencies_ms(self, amounts: Floats) -> Floats:
        """The expected latency of each network; ``amounts`` is (readings, networks, terms)."""
        expected: Floats = self._read(amounts) @ np.array(list(self.costs_ms.values()))
        return expected

    def intervals_ms(self, amounts: Floats) -> tuple[Floats, Floats]:
        """Where nine of ten measurements of each network will lie."""
        read, expected = self._read(amounts), self.latencies_ms(amounts)
        of_costs = np.einsum("nt,tu,nu->n", read, np.array(self.covariance), read)
        relative = np.sqrt(self.relative_error**2 + of_costs / expected**2)
        factor = np.exp(student_t.ppf((1 + _CONFIDENCE) / 2, _DEGREES_OF_FREEDOM) * relative)
        rounding = self.step_ms / 2
        return np.maximum(expected / factor - rounding, 0), expected * factor + rounding

    def _read(self, amounts: Floats) -> Floats:
        read: Floats = amounts[READINGS[self.space].index(self.reading)]
        return read


@dataclass(frozen=True, slots=True)
class _Fit:
    reading: int
    multipliers: Floats
    """Of the prior's costs."""
    covariance: Floats
    variance: float
    """Of the relative errors."""
    log_evidence: float


@cache
def prior_costs_ms(space: PublishedSpace) -> dict[str, float]:
    """What one of each term costs on a typical phone; only the proportions matter."""
    text = (resources.files("tinynas.phones") / "priors.toml").read_text(encoding="utf-8")
    costs = tomllib.loads(text)[space.value]["costs_ms"]
    return {term: float(costs[term]) for term in TERMS[space]}


def typical_phone(space: PublishedSpace, step_ms: float, prior_ms: dict[str, float] | None = None) -> LatencyModel:
    """The model of a phone before anything has been measured on it; ``prior_ms`` stands in for the prior's costs."""
    costs = prior_ms or prior_costs_ms(space)
    unit = np.array(list(costs.values()))
    covariance = costs_covariance(len(unit), _DEPARTURES[-1]) * np.outer(unit, unit)
    return LatencyModel(
        space=space,
        reading=READINGS[space][0],
        reading_probability=_odds(len(READINGS[space]))[0],
        costs_ms=costs,
        covariance=tuple(map(tuple, covariance.tolist())),
        relative_error=_USUAL_ERRORS[-1],
        step_ms=step_ms,
        source="a typical phone",
    )


def fit(
    space: PublishedSpace,
    amounts: Floats,
    latencies_ms: Sequence[float],
    step_ms: float,
    prior_ms: dict[str, float] | None = None,
) -> LatencyModel:
    """Learn a phone's costs from measured networks; ``amounts`` is (readings, networks, terms).

    ``prior_ms`` stands in for the costs on a typical phone.
    """
    if not latencies_ms:
        raise SearchError("nothing has been measured, so there is nothing to fit")
    prior = np.array(list((prior_ms or prior_costs_ms(space)).values()))
    measured = np.array(latencies_ms, dtype=float)
    units = [float(np.median(measured / (work @ prior))) * prior for work in amounts]
    odds = _odds(len(amounts))
    fits = [
        _fit(reading, amounts[reading] * unit, measured, departure, usual_error, _rounding_variance(step_ms))
        for reading, unit in enumerate(units)
        for departure, usual_error in product(_DEPARTURES, _USUAL_ERRORS)
    ]
    evidence = np.array([f.log_evidence + math.log(odds[f.reading]) for f in fits])
    likely = np.exp(evidence - evidence.max())
    by_reading = [float(likely[[f.reading == r for f in fits]].sum()) for r in range(len(amounts))]
    best = int(np.argmax(by_reading))
    chosen = [(f, weight / by_reading[best]) for f, weight in zip(fits, likely, strict=True) if f.reading == best]
    unit = units[best]
    mean = sum(weight * f.multipliers for f, weight in chosen)
    covariance = sum(
        weight * (f.covariance + np.outer(f.multipliers - mean, f.multipliers - mean)) for f, weight in chosen
    )
    return LatencyModel(
        space=space,
        reading=READINGS[space][best],
        reading_probability=by_reading[best] / sum(by_reading),
        costs_ms=dict(zip(TERMS[space], (mean * unit).tolist(), strict=True)),
        covariance=tuple(map(tuple, (covariance * np.outer(unit, unit)).tolist())),
        relative_error=math.sqrt(sum(weight * f.variance for f, weight in chosen)),
        step_ms=step_ms,
        source=f"fitted on {len(measured)} networks, sha256 {_digest(amounts, measured)}",
    )


def _odds(readings: int) -> list[float]:
    """How likely each reading is before anything has been measured: on the phones of the prior, the first was right."""
    others = readings - 1
    return [1 - _OTHER_READINGS, *[_OTHER_READINGS / others] * others] if others else [1.0]


def _fit(reading: int, work: Floats, measured: Floats, departure: float, usual_error: float, rounding: float) -> _Fit:
    """The likeliest multipliers, all about 1 beforehand: iteratively re-weighted non-negative least squares.

    Errors are relative to what was measured: those above are the larger ones, and divided so they stay within reach.
    The evidence is Laplace's approximation.
    """
    terms = work.shape[1]
    precision = np.linalg.inv(costs_covariance(terms, departure))
    relative = work / measured[:, None]
    rounded = rounding / measured**2
    degrees = _DEGREES_OF_FREEDOM
    multipliers, variance = np.ones(terms), usual_error**2
    for _ in range(_ROUNDS):
        spread = variance + rounded
        errors = 1 - relative @ multipliers
        weights = (degrees + 1) / (degrees + errors**2 / spread) / spread
        information = (relative * weights[:, None]).T @ relative + precision
        root = np.linalg.cholesky(information).T
        wanted = np.linalg.solve(root.T, relative.T @ weights + precision.sum(axis=1))
        before, (multipliers, _) = multipliers, nnls(root, wanted)
        errors = 1 - relative @ multipliers
        weights = (degrees + 1) / (degrees + errors**2 / spread)
        seen = float(weights @ errors**2)
        variance = (seen + _USUAL_ERROR_WEIGHT * usual_error**2) / (len(measured) + _USUAL_ERROR_WEIGHT)
        if np.abs(multipliers - before).max() < _SETTLED:
            break
    departed = multipliers - 1
    log_posterior = (
        _log_likelihood(errors, variance + rounded)
        - _USUAL_ERROR_WEIGHT / 2 * (math.log(variance / usual_error**2) + usual_error**2 / variance)
        - departed @ precision @ departed / 2
    )
    evidence = log_posterior + (np.linalg.slogdet(precision)[1] - np.linalg.slogdet(information)[1]) / 2
    return _Fit(reading, multipliers, np.linalg.inv(information), variance, float(evidence))


def costs_covariance(terms: int, departure: float) -> Floats:
    """Of the terms' costs before anything has been measured, each relative to the prior's."""
    return _SHARED_DEPARTURE**2 * np.ones((terms, terms)) + departure**2 * np.eye(terms)


def _log_likelihood(errors: Floats, variances: Floats) -> float:
    """Of Student-t distributed errors."""
    degrees = _DEGREES_OF_FREEDOM
    constant = gammaln((degrees + 1) / 2) - gammaln(degrees / 2) - np.log(degrees * math.pi * variances) / 2
    return float(np.sum(constant - (degrees + 1) / 2 * np.log1p(errors**2 / variances / degrees)))


def _rounding_variance(step_ms: float) -> float:
    """Of an error that is anything within half a step."""
    return step_ms**2 / 12


def _digest(amounts: Floats, measured: Floats) -> str:
    text = json.dumps([amounts.tolist(), measured.tolist()])
    return hashlib.sha256(text.encode()).hexdigest()[:16]
