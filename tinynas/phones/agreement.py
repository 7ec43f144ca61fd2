"""How well predicted latencies agree with measured ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import kendalltau, spearmanr

from tinynas.phones.latency_model import Floats


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of networks that the model was not fitted on."""

    spearman: float
    kendall_tau: float
    """Rank correlations; 0 where one side does not rank the networks at all."""
    within_10_percent: float
    """Share of the networks, 0 to 1, predicted within ±10 % of what was measured."""
    mape: float
    """Mean absolute relative error, in per cent."""
    interval_coverage: float
    """Share of the networks, 0 to 1, whose measurement lies in its 90 % interval."""


def agreement(predicted: Floats, intervals: tuple[Floats, Floats], measured: Floats) -> Agreement:
    """Compare predictions with measurements, in any unit; all are of the same length."""
    errors = np.abs(predicted - measured) / measured
    low, high = intervals
    ranked = np.ptp(predicted) > 0 and np.ptp(measured) > 0
    return Agreement(
        spearman=float(spearmanr(predicted, measured).statistic) if ranked else 0.0,
        kendall_tau=float(kendalltau(predicted, measured).statistic) if ranked else 0.0,
        within_10_percent=float(np.mean(errors <= 0.1)),
        mape=100 * float(np.mean(errors)),
        interval_coverage=float(np.mean((low <= measured) & (measured <= high))),
    )
