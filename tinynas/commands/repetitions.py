"""What ``measure`` and ``history`` say of the repetitions of a measurement."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from devices.statistics import RepeatPolicy, Summary, summarize
from devices.store import StoredMeasurement

_EXACT = RepeatPolicy(at_least=1)
"""An emulated board counts the same inference always the same: one repetition says it all."""


def summary_of(stored: StoredMeasurement) -> Summary | None:
    """The repetitions summed up, in milliseconds; None when they were not recorded."""
    measurement = stored.measurement
    if stored.provenance.board_kind == "emulated":
        return summarize(measurement.latencies_ms or (measurement.latency_ms,), _EXACT)
    return summarize(measurement.latencies_ms) if measurement.latencies_ms else None


def statistics_of(stored: StoredMeasurement) -> dict[str, Any]:
    """The summary under the names that the command line has for it; what was not recorded is None."""
    summary = summary_of(stored)
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
            "warnings": [],
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
        "warnings": list(summary.warnings),
    }
