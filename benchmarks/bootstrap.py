"""How sure a mean is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def interval(sample: Sequence[float]) -> tuple[float, float]:
    """The central 95 % of the means of 10,000 bootstrap samples."""
    drawn = np.random.default_rng(0).choice(np.array(sample), (10_000, len(sample)))
    low, high = np.quantile(drawn.mean(axis=1), (0.025, 0.975))
    return float(low), float(high)
