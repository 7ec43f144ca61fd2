"""Chooses which networks to measure on a phone: those that say most about all the others."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tinynas.phones.latency_model import Floats, costs_covariance, prior_costs_ms
from tinynas.phones.spaces import PublishedSpace

Rows = npt.NDArray[np.int64]

_DESIGNED = 10
"""How many are chosen. They are of extreme kinds, so further ones are drawn at random: what then remains to be learned
is how the phone's errors are distributed, which takes networks like those that will be asked for."""

_CANDIDATES, _JUDGED_BY = 1_000, 400
_DEPARTURE = 0.4
_ERROR = 0.1
"""The prior's departure, and the relative error of a measurement, that the choice reckons with."""


def draw(networks: int, samples: int, seed: int) -> Rows:
    """Rows of networks at random."""
    return np.random.default_rng(seed).permutation(networks)[:samples]


def choose(
    space: PublishedSpace, amounts: Floats, samples: int, seed: int, prior_ms: dict[str, float] | None = None
) -> Rows:
    """Rows of the networks to measure, ``samples`` of those in ``amounts`` (readings, networks, terms).

    One after the other, each the one of up to a thousand random candidates that most lowers the mean variance of the
    predictions, relative to them (I-optimal design). The space's readings take turns, so that the measurements can tell
    which is right. No latency is looked at. ``prior_ms`` stands in for the costs on a typical phone.
    """
    rows = np.random.default_rng(seed).permutation(amounts.shape[1])
    work = amounts[:, rows] * np.array(list((prior_ms or prior_costs_ms(space)).values()))
    relative = work / work.sum(axis=2, keepdims=True)
    covariances = [costs_covariance(work.shape[2], _DEPARTURE)] * len(work)
    # Half of a small table: the seed has to make a difference there too.
    among = max(_DESIGNED, min(_CANDIDATES, len(rows) // 2))
    chosen: list[int] = []
    for turn in range(min(samples, _DESIGNED)):
        judging = turn % len(work)
        candidates, judges = relative[judging, :among], relative[judging, -_JUDGED_BY:]
        shared = candidates @ covariances[judging]
        gains = ((shared @ judges.T) ** 2).sum(axis=1) / _variances(shared, candidates)
        gains[chosen] = -1
        chosen.append(int(np.argmax(gains)))
        covariances = [
            _told(covariance, read[chosen[-1]]) for covariance, read in zip(covariances, relative, strict=True)
        ]
    others = np.setdiff1d(np.arange(len(rows)), chosen)  # in the order of the shuffled rows
    return rows[[*chosen, *others[: samples - len(chosen)]]]


def _variances(shared: Floats, work: Floats) -> Floats:
    """Of measurements of networks whose ``work`` the costs' covariance was multiplied with, to ``shared``."""
    variances: Floats = (shared * work).sum(axis=-1) + _ERROR**2
    return variances


def _told(covariance: Floats, work: Floats) -> Floats:
    """The costs' covariance once a network has been measured."""
    shared = covariance @ work
    return covariance - np.outer(shared, shared) / _variances(shared, work)
