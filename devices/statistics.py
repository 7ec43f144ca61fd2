"""How often to repeat a measurement, and what its repetitions say together.

Latencies are skewed, have stragglers and no known distribution, so nothing here assumes one. The figure is the median;
its confidence interval lies between two order statistics (W. J. Conover, Practical Nonparametric Statistics, 3rd ed.,
1999, section 3.2; for latencies T. Hoefler and R. Belli, Scientific Benchmarking of Parallel Computing Systems, SC'15).
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from devices.errors import DeviceError

OUTLIER_SCORE = 3.5
"""Of the modified z-score: B. Iglewicz and D. Hoaglin, How to Detect and Handle Outliers, 1993."""
SIGNIFICANCE = 0.01
"""Of drift and steps: what chance alone would show in one measurement of a hundred is not reported."""
STEP_FROM = 0.03
"""By how much a board has to become slower, for good, to be called throttled, or faster to have lacked warm-up."""
STRAGGLER_FROM = 0.1
"""How far from the median an outlier has to be to be worth a sentence."""
_FEWEST_FOR_TRENDS = 6
"""Of fewer values, no order at all is as rare as SIGNIFICANCE."""
_MOST_FOR_TRENDS = 400
"""The tests take the square of it; longer series are thinned to the medians of as many stretches."""
_PERMUTATIONS = 4_999
_ROUNDING = 1e-9
_FEWEST_FOR_GROUPS = 16
_SMALLEST_GROUP = 0.2
_GROUPS_APART = 6.0
"""Ashman's D between two groups; the halves of any one normal or uniform group come to 3.5."""


@dataclass(frozen=True)
class RepeatPolicy:
    """When the repetitions of a measurement are enough."""

    warmups: int = 1
    """Untimed repetitions before the first that counts."""
    at_least: int = 5
    at_most: int = 100
    half_width: float = 0.01
    """Of the median's confidence interval, as a part of the median."""
    confidence: float = 0.95
    at_most_s: float = 300.0
    """No repetition is begun later than this after the first, unless fewer than ``at_least`` were made."""

    def __post_init__(self) -> None:
        """Raise DeviceError when no measurement could follow it."""
        if not (
            self.warmups >= 0
            and 1 <= self.at_least <= self.at_most
            and self.half_width > 0
            and 0 < self.confidence < 1
            and self.at_most_s > 0
        ):
            raise DeviceError(
                f"a measurement cannot be repeated by {self}: it takes warmups of at least 0, 1 ≤ at_least ≤ at_most, "
                "a half_width above 0, a confidence between 0 and 1, and at_most_s above 0"
            )


DEFAULT = RepeatPolicy()


@dataclass(frozen=True)
class Drift:
    """The trend over all repetitions."""

    relative: float
    """From the first to the last, as a part of the median; Theil and Sen's slope, which stragglers do not bend."""
    p_value: float
    """Of the Mann-Kendall test, two-sided: how often chance alone would order values as much."""


@dataclass(frozen=True)
class Summary:
    """What the repetitions of one measurement say together. Times are in the values' own unit."""

    count: int
    median: float
    mean: float
    deviation: float
    """The standard deviation of one repetition; 0 of a single one."""
    low: float | None
    high: float | None
    """The confidence interval of the median; None of too few values to have one."""
    half_width: float | None
    """Of that interval: the farther of its ends from the median, as a part of the median."""
    is_steady: bool
    """Whether the median is known as well as the policy asks."""
    outliers: tuple[int, ...]
    """Their positions. They count like any other value: a median does not mind, and they did happen."""
    drift: Drift | None
    """None of too few values."""
    throttled: bool
    """Whether the board became slower at some point, and stayed so."""
    warnings: tuple[str, ...]
    """Each says what is wrong with the values and what to do about it."""


def repeat_until_steady(
    sample: Callable[[], float], policy: RepeatPolicy = DEFAULT, *, clock: Callable[[], float] = time.monotonic
) -> tuple[float, ...]:
    """Every value of ``sample`` in order, warm-ups left out, until the median is known as well as ``policy`` asks.

    ``clock`` counts seconds. Raises DeviceError when a value is no duration.
    """
    for _ in range(policy.warmups):
        sample()
    values: list[float] = []
    begun = clock()
    while len(values) < policy.at_most:
        if len(values) >= policy.at_least and (_is_enough(values, policy) or clock() - begun >= policy.at_most_s):
            break
        values.append(_duration(sample(), len(values)))
    return tuple(values)


def _is_enough(values: Sequence[float], policy: RepeatPolicy) -> bool:
    """Whether the interval is narrow enough, and was before the last value.

    To stop at the first narrow interval would favour those that are narrow by chance: 92 to 94 % of them hold the true
    median, and with this 94 to 97 % (simulated with the distributions of tests/devices/test_statistics.py).
    """
    return is_steady(values, policy) and (min(values) == max(values) or _is_narrow(values[:-1], policy))


def is_steady(values: Sequence[float], policy: RepeatPolicy = DEFAULT) -> bool:
    """Whether the median of ``values`` is known as well as ``policy`` asks."""
    return len(values) >= policy.at_least and _is_narrow(values, policy)


def _is_narrow(values: Sequence[float], policy: RepeatPolicy) -> bool:
    interval = median_interval(values, policy)
    return interval is not None and _half_width(interval, statistics.median(values)) <= policy.half_width


def median_interval(values: Sequence[float], policy: RepeatPolicy = DEFAULT) -> tuple[float, float] | None:
    """The confidence interval of the median, whatever the distribution; None of too few values to have one.

    Identical values, ``at_least`` of them, are an interval of width 0: a counter of cycles, or a coarse clock.
    """
    ordered = sorted(values)
    if len(ordered) >= policy.at_least and ordered[0] == ordered[-1]:
        return ordered[0], ordered[-1]
    rank = _interval_rank(len(ordered), policy.confidence)
    return None if rank is None else (ordered[rank], ordered[-1 - rank])


def summarize(values: Sequence[float], policy: RepeatPolicy = DEFAULT) -> Summary:
    """What ``values``, in the order in which they were measured, say together.

    Raises DeviceError when there is none, or one is no duration.
    """
    if not values:
        raise DeviceError("there is no repetition to sum up; measure at least once")
    series = np.array([_duration(value, position) for position, value in enumerate(values)])
    median = float(statistics.median(values))
    interval = median_interval(values, policy)
    low, high = interval or (None, None)
    half_width = None if interval is None else _half_width(interval, median)
    outliers = _outliers(series, median, policy)
    drift = _drift(_thinned(series), median)
    step = _step(series)
    steady = is_steady(values, policy)
    warnings = (
        None if steady else _precision_warning(len(values), half_width, policy),
        _step_warning(step) or _drift_warning(drift, policy),
        _groups_warning(series, policy) if step is None else None,
        _straggler_warning(series, median, outliers),
    )
    return Summary(
        count=len(values),
        median=median,
        mean=float(series.mean()),
        deviation=float(series.std(ddof=1)) if len(values) > 1 else 0.0,
        low=low,
        high=high,
        half_width=half_width,
        is_steady=steady,
        outliers=outliers,
        drift=drift,
        throttled=step is not None and step.is_up,
        warnings=tuple(warning for warning in warnings if warning is not None),
    )


def _duration(value: float, position: int) -> float:
    if not (math.isfinite(value) and value > 0):
        raise DeviceError(
            f"repetition {position + 1} took {value:g}, which is no duration: the board's clock is broken or too "
            "coarse; time more inferences together, and check the clock"
        )
    return float(value)


def _half_width(interval: tuple[float, float], median: float) -> float:
    low, high = interval
    return max(high - median, median - low) / median


@lru_cache(maxsize=1024)
def _interval_rank(count: int, confidence: float) -> int | None:
    """How many values to leave out at either end; None when even the least and the greatest are not confident enough.

    The k-th smallest of ``count`` lies above the median when fewer than k of them lie below it, as likely as fewer than
    k heads in ``count`` tosses.
    """
    outside = 0.0
    for rank in range((count + 1) // 2):
        outside += math.exp(
            math.lgamma(count + 1) - math.lgamma(rank + 1) - math.lgamma(count - rank + 1) - count * math.log(2.0)
        )
        if 1.0 - 2.0 * outside < confidence:
            return rank - 1 if rank else None
    return (count - 1) // 2 if count else None


def _outliers(series: NDArray[np.float64], median: float, policy: RepeatPolicy) -> tuple[int, ...]:
    """By the modified z-score, which goes by the median absolute deviation; what is within the precision is none."""
    away = np.abs(series - median)
    scale = float(np.median(away)) / 0.6745
    if scale == 0.0:  # more than half are identical: Iglewicz and Hoaglin's way out is the mean absolute deviation
        scale = 1.253314 * float(away.mean())
    is_outlier = (away > OUTLIER_SCORE * scale) & (away > policy.half_width * median)
    return tuple(int(position) for position in np.flatnonzero(is_outlier))


def _thinned(series: NDArray[np.float64]) -> NDArray[np.float64]:
    if len(series) <= _MOST_FOR_TRENDS:
        return series
    return np.array([np.median(stretch) for stretch in np.array_split(series, _MOST_FOR_TRENDS)])


def _drift(series: NDArray[np.float64], median: float) -> Drift | None:
    if len(series) < _FEWEST_FOR_TRENDS:
        return None
    if series.min() == series.max():
        return Drift(0.0, 1.0)
    from scipy.stats import kendalltau, theilslopes  # a second to import, and one repetition needs none of it

    order = np.arange(len(series))
    slope = float(theilslopes(series, order).slope)
    return Drift(slope * (len(series) - 1) / median, float(kendalltau(order, series).pvalue))


@dataclass(frozen=True)
class _Step:
    """Where a board became slower or faster for good."""

    position: int
    """The first repetition after it."""
    count: int
    before: float
    after: float

    @property
    def is_up(self) -> bool:
        """Whether it became slower."""
        return self.after > self.before


def _step(series: NDArray[np.float64]) -> _Step | None:
    """Where the values become larger or smaller for good, when they do so by STEP_FROM or more and not by chance.

    The values before every point are compared with those after it by their ranks (Mann and Whitney), and the point
    where they differ most is taken: D. M. Hawkins and Q. Deng, A nonparametric change-point control chart, Journal of
    Quality Technology 42(2), 2010. How often chance alone would do as much, random orders of the same values say.
    """
    thinned = _thinned(series)
    if len(thinned) < _FEWEST_FOR_TRENDS or thinned.min() == thinned.max():
        return None
    from scipy.stats import rankdata

    ranks = rankdata(thinned) - (len(thinned) + 1) / 2
    before_count = np.arange(1, len(ranks))
    scale = np.sqrt(before_count * (len(ranks) - before_count))
    found = np.abs(np.cumsum(ranks)[:-1]) / scale
    position = round((int(np.argmax(found)) + 1) * len(series) / len(thinned))
    step = _Step(position, len(series), float(np.median(series[:position])), float(np.median(series[position:])))
    if max(step.before, step.after) < (1.0 + STEP_FROM) * min(step.before, step.after):
        return None
    rng = np.random.default_rng(0)
    orders = rng.permuted(np.broadcast_to(ranks, (_PERMUTATIONS, len(ranks))), axis=1)
    by_chance = (np.abs(np.cumsum(orders, axis=1)[:, :-1]) / scale).max(axis=1)
    as_extreme = int((by_chance >= found.max() - _ROUNDING).sum())
    return step if (1 + as_extreme) / (1 + _PERMUTATIONS) <= SIGNIFICANCE else None


def _precision_warning(count: int, half_width: float | None, policy: RepeatPolicy) -> str:
    if half_width is None:
        timings = "timing tells" if count == 1 else "timings tell"
        return (
            f"{count} {timings} too little for a {policy.confidence:.0%} interval of the median; measure with more "
            "--runs, or without --runs until the median is known"
        )
    return (
        f"after {count} runs the median is known within ±{half_width:.1%}, and ±{policy.half_width:.1%} was asked for; "
        "allow more --runs, or take away what disturbs the board: other programs, a low battery, changing clocks"
    )


def _step_warning(step: _Step | None) -> str | None:
    if step is None:
        return None
    if step.is_up:
        return (
            f"the last {_runs(step.count - step.position)} took {step.after / step.before - 1:.0%} longer than those "
            "before: the board throttles; cool it and charge it, fix its clock, or lower --runs"
        )
    return (
        f"the first {_runs(step.position)} took {step.before / step.after - 1:.0%} longer than those after: the board "
        "was still warming up or its clock rising; give it more warm-up runs, or fix its clock"
    )


def _drift_warning(drift: Drift | None, policy: RepeatPolicy) -> str | None:
    if drift is None or drift.p_value > SIGNIFICANCE or abs(drift.relative) <= policy.half_width:
        return None
    if drift.relative > 0:
        return (
            f"the runs became {drift.relative:.1%} slower from the first to the last: the board heats up or something "
            "else takes its time; cool it, end other programs, or lower --runs"
        )
    return (
        f"the runs became {-drift.relative:.1%} faster from the first to the last: the board was still warming up or "
        "its clock rising; give it more warm-up runs, or fix its clock"
    )


def _groups_warning(series: NDArray[np.float64], policy: RepeatPolicy) -> str | None:
    """Two groups with a gap between them: two cores, or two clocks. One median says little of both."""
    count = len(series)
    if count < _FEWEST_FOR_GROUPS:
        return None
    values = np.sort(series)
    fewest = max(2, math.ceil(_SMALLEST_GROUP * count))
    cut = fewest + int(np.argmax(np.diff(values)[fewest - 1 : count - fewest]))
    low, high = values[:cut], values[cut:]
    apart = float(np.median(high) - np.median(low))
    spread = math.sqrt(float(low.var() + high.var()) / 2)
    if apart <= max(_GROUPS_APART * spread, 2 * policy.half_width * float(np.median(low))):
        return None
    return (
        f"the runs fall into two groups: {len(low)} take about {np.median(low):.4g} and {len(high)} about "
        f"{np.median(high):.4g}, so the median says little of either; pin the program to one core, fix the clock, or "
        "end what else runs there"
    )


def _straggler_warning(series: NDArray[np.float64], median: float, outliers: Sequence[int]) -> str | None:
    far = [position for position in outliers if abs(series[position] - median) > STRAGGLER_FROM * median]
    if not far:
        return None
    worst = max(far, key=lambda position: abs(float(series[position]) - median))
    return (
        f"{_runs(len(far))} took more than {STRAGGLER_FROM:.0%} off the median, the worst of them run {worst + 1}, at "
        f"{series[worst] / median:.2f} times the median; they are kept, and the median does not mind, but see what "
        "interrupts the board if they are many"
    )


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count} runs"
