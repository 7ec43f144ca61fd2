"""What ``measure`` and ``history`` say of the repetitions of a measurement."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from devices.statistics import DEFAULT, RepeatPolicy, Summary, median_interval, summarize
from devices.store import StoredMeasurement

_EXACT = RepeatPolicy(at_least=1)
"""An emulated board counts the same inference always the same: one repetition says it all."""


def summary_of(stored: StoredMeasurement) -> Summary | None:
    """The repetitions summed up, in milliseconds; None when they were not recorded."""
    latencies_ms, policy = _repetitions(stored)
    return summarize(latencies_ms, policy) if latencies_ms else None


def interval_of(stored: StoredMeasurement) -> tuple[float, float] | None:
    """The confidence interval of the latency, in milliseconds, where the repetitions give one."""
    return median_interval(*_repetitions(stored))


def _repetitions(stored: StoredMeasurement) -> tuple[tuple[float, ...], RepeatPolicy]:
    measurement = stored.measurement
    if stored.provenance.board_kind == "emulated":
        return measurement.latencies_ms or (measurement.latency_ms,), _EXACT
    return measurement.latencies_ms, DEFAULT


def statistics_of(stored: StoredMeasurement) -> dict[str, Any]:
    """The summary under the names that the command line has for it; what was not recorded is None."""
    summary = summary_of(stored)
    of_the_board = stored.measurement.conditions.get("warnings")
    warnings = [] if of_the_board is None else [of_the_board]
    if summary is None:
        return {
            "count": stored.measurement.runs,
            "median_ms": stored.measurement.latency_ms,
            "mean_ms": None,
            "half_width": None,
            "interval_ms": None,
            "outliers": [],
            "drift": None,
            "throttled": False,
            "warnings": warnings,
        }
    return {
        "count": summary.count,
        "median_ms": summary.median,
        "mean_ms": summary.mean,
        "half_width": summary.half_width,
        "interval_ms": None if summary.low is None else [summary.low, summary.high],
        "outliers": list(summary.outliers),
        "drift": None if summary.drift is None else asdict(summary.drift),
        "throttled": summary.throttled,
        "warnings": [*summary.warnings, *warnings],
    }
