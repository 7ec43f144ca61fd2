"""``tinynas history``: what was measured, how sure it is, how it compares, and how to do it again."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from devices.board import Measurement
from devices.store import MeasurementStore, OnUnreadable, Selection, StoredMeasurement
from tinynas import output
from tinynas.commands.repetitions import interval_of, statistics_of
from tinynas.errors import SearchError
from tinynas.files import write_atomically
from tinynas.junit import TestCase, junit_report

REGRESSION_PERCENT = 5.0
"""From where on a measurement that is slower than the one before is marked, unless the user says otherwise."""
_AGO = re.compile(r"(\d{1,6})\s*([mhdw])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_ID = re.compile(r"#?(\d{1,15})")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
"""How a cell begins that a spreadsheet may take for a formula (OWASP, CSV injection)."""
_SHORT_HASH = 8
_IN_FULL = ("latencies_ms", "layer_cycles", "layer_features", "operators")
"""What is told of a measurement that was asked for by its id, and written to files, but not listed."""


@dataclass(frozen=True)
class Limits:
    """What a measurement has to keep to not be a failure in the JUnit report. None is no limit."""

    max_latency_ms: float | None = None
    max_regression_percent: float | None = None


def history(
    what: str | None,
    wanted: Selection,
    limits: Limits,
    *,
    csv_path: Path | None = None,
    junit_path: Path | None = None,
) -> dict[str, Any]:
    """The measurements that are asked for, newest first, and written to the files that are named.

    ``what`` is a measurement's id, which then is told in full, or a model: its file, its name, or how its id or its
    file's SHA-256 begins. Raises SearchError when there is no such id.
    """
    store = MeasurementStore()
    unreadable: list[str] = []
    found, in_full = _find(store, what, wanted, unreadable.append)
    entries = [_entry(store, stored, limits, unreadable.append) for stored in found]
    if csv_path is not None:
        write_atomically(csv_path, _csv(entries))
    if junit_path is not None:
        write_atomically(junit_path, junit_report(_test_cases(entries, limits)))
    unreadable = list(dict.fromkeys(unreadable))
    for sentence in unreadable:
        output.say(f"left out: {sentence}")
    if not found:
        output.say(f"no measurement in {store.path} is like that")
    if not in_full:
        entries = [{key: value for key, value in entry.items() if key not in _IN_FULL} for entry in entries]
    return {"store": str(store.path), "measurements": entries, "in_full": in_full, "unreadable": unreadable}


def selection(device: str | None, board: str | None, since: str | None, limit: int | None) -> Selection:
    """What is asked for on the command line. Raises SearchError when ``since`` is no time."""
    moment = None if since is None else moment_of(since, datetime.now(UTC))
    return Selection(device=device, board=board, since=moment, limit=limit)


def moment_of(text: str, now: datetime) -> datetime:
    """The moment that ``text`` means: a date or time of ISO 8601, UTC unless it says otherwise, or ``90m``, ``7d``, …

    Raises SearchError when it is neither.
    """
    try:
        if ago := _AGO.fullmatch(text.strip()):
            return now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        moment = datetime.fromisoformat(text.strip())
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise SearchError(
            f"'{text}' is no time: give a date (2026-11-29), a time (2026-11-29T08:00), or how long ago (90m, 7d)"
        ) from error


def comparison(
    store: MeasurementStore,
    stored: StoredMeasurement,
    on_unreadable: OnUnreadable,
    max_regression_percent: float = REGRESSION_PERCENT,
) -> dict[str, Any] | None:
    """How ``stored`` compares with the last measurement before it of its model on the same device and kind of board.

    A regression is slower by more than the limit, and the intervals of the two medians, where known, do not overlap.
    """
    before = store.before(stored, on_unreadable)
    if before is None:
        return None
    ratio = stored.measurement.latency_ms / before.measurement.latency_ms
    now_ms, then_ms = interval_of(stored), interval_of(before)
    overlaps = now_ms is not None and then_ms is not None and now_ms[0] <= then_ms[1]
    return {
        "measurement_id": before.id,
        "latency_ms": before.measurement.latency_ms,
        "ratio": ratio,
        "is_regression": ratio > 1 + max_regression_percent / 100 and not overlaps,
    }


def figures_of(measurement: Measurement) -> dict[str, Any]:
    """What board and image say of a measurement, under the names that the command line has for it."""
    return {
        "cycles": measurement.cycles,
        "instructions": measurement.instructions,
        "runs": measurement.runs,
        "clock_hz": measurement.clock_hz,
        "sram_bytes": measurement.sram_bytes,
        "flash_bytes": measurement.flash_bytes,
        "code_bytes": measurement.code_bytes,
        "firmware_sha256": measurement.firmware_sha256,
        "toolchain": measurement.toolchain,
    }


def _find(
    store: MeasurementStore, what: str | None, wanted: Selection, on_unreadable: OnUnreadable
) -> tuple[Sequence[StoredMeasurement], bool]:
    if what is None:
        return store.newest(wanted, on_unreadable), False
    if number := _ID.fullmatch(what):
        stored = store.get(int(number[1]))
        if stored is not None:
            return (stored,), True
        newest = store.newest(Selection(limit=1), on_unreadable)
        there = f"the newest is {newest[0].id}" if newest else "there is none yet"
        raise SearchError(f"there is no measurement {number[1]} in {store.path}: {there}; 'tinynas history' lists them")
    path = Path(what)
    model = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else what
    return store.newest(replace(wanted, model=model), on_unreadable), False


def _entry(
    store: MeasurementStore, stored: StoredMeasurement, limits: Limits, on_unreadable: OnUnreadable
) -> dict[str, Any]:
    measurement, origin = stored.measurement, stored.provenance
    percent = REGRESSION_PERCENT if limits.max_regression_percent is None else limits.max_regression_percent
    return {
        "id": stored.id,
        "created_at": stored.created_at,
        "model": stored.model_name,
        "model_id": measurement.model_id,
        "model_sha256": origin.model_sha256,
        "device": measurement.device,
        "board": measurement.board,
        "board_kind": origin.board_kind,
        "latency_ms": measurement.latency_ms,
        "statistics": statistics_of(stored),
        "comparison": comparison(store, stored, on_unreadable, percent),
        **figures_of(measurement),
        "compiler_flags": origin.compiler_flags,
        "conditions": dict(measurement.conditions),
        "inputs": origin.inputs,
        "host": origin.host,
        "tinynas_version": origin.tinynas_version,
        "git_commit": origin.git_commit,
        "versions": dict(origin.versions),
        "features_version": stored.features_version,
        "command": shlex.join(origin.command),
        "folder": origin.folder,
        "note": origin.note,
        "latencies_ms": list(measurement.latencies_ms),
        "layer_cycles": list(measurement.layer_cycles),
        "layer_features": [dict(features) for features in stored.layer_features],
        "operators": [asdict(operator) for operator in measurement.operators],
    }


def _csv(entries: Sequence[dict[str, Any]]) -> str:
    """RFC 4180: a header, CRLF, quotes where they are needed. Every column, also where there is no measurement."""
    rows = [{name: _cell(value) for name, value in _flat(entry).items()} for entry in entries]
    text = io.StringIO()
    writer = csv.DictWriter(text, _CSV_COLUMNS)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


_CSV_COLUMNS = (
    "id",
    "created_at",
    "model",
    "model_id",
    "model_sha256",
    "device",
    "board",
    "board_kind",
    "latency_ms",
    "count",
    "mean_ms",
    "low_ms",
    "high_ms",
    "half_width",
    "outliers",
    "drift",
    "drift_p_value",
    "throttled",
    "warnings",
    "before_id",
    "before_latency_ms",
    "ratio_to_before",
    "is_regression",
    "cycles",
    "instructions",
    "runs",
    "clock_hz",
    "sram_bytes",
    "flash_bytes",
    "code_bytes",
    "firmware_sha256",
    "toolchain",
    "compiler_flags",
    "conditions",
    "inputs",
    "host",
    "tinynas_version",
    "git_commit",
    "versions",
    "features_version",
    "command",
    "folder",
    "note",
    "latencies_ms",
    "layer_cycles",
    "layer_features",
    "operators",
)


def _flat(entry: dict[str, Any]) -> dict[str, object]:
    statistics, before = entry["statistics"], entry["comparison"] or {}
    low_ms, high_ms = statistics["interval_ms"] or (None, None)
    drift = statistics["drift"] or {}
    flat = {
        **{name: entry[name] for name in _CSV_COLUMNS if name in entry},
        **{name: statistics[name] for name in ("count", "mean_ms", "half_width", "outliers", "throttled")},
        "low_ms": low_ms,
        "high_ms": high_ms,
        "drift": drift.get("relative"),
        "drift_p_value": drift.get("p_value"),
        "warnings": "; ".join(statistics["warnings"]),
        "before_id": before.get("measurement_id"),
        "before_latency_ms": before.get("latency_ms"),
        "ratio_to_before": before.get("ratio"),
        "is_regression": before.get("is_regression"),
    }
    return {
        name: json.dumps(value, ensure_ascii=False) if isinstance(value, (list, dict)) else value
        for name, value in flat.items()
    }


def _cell(value: object) -> object:
    # An apostrophe in front, as spreadsheets have it for text: names come from models and boards of any origin.
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def _test_cases(entries: Sequence[dict[str, Any]], limits: Limits) -> list[TestCase]:
    cases = []
    seen: set[str] = set()
    for entry in entries:
        name = f"{entry['model']} ({entry['model_id'][:_SHORT_HASH]})"
        key = f"{entry['board']} {entry['device']} {name}"
        # The newest of its kind has the name that the next build's will have, so that a trend is seen.
        cases.append(_test_case(entry, f"{name} #{entry['id']}" if key in seen else name, limits))
        seen.add(key)
    return cases


def _test_case(entry: dict[str, Any], name: str, limits: Limits) -> TestCase:
    flat = _flat(entry)
    left_out = {*_IN_FULL, "warnings", "conditions", "versions"}
    properties = {key: str(value) for key, value in flat.items() if key not in left_out and value not in (None, "")}
    for group in ("conditions", "versions"):
        properties |= {f"{group}.{key}": value for key, value in entry[group].items()}
    return TestCase(
        board=entry["board"],
        group=f"{entry['device']}.{entry['board'].replace('.', '_')}",
        name=name,
        seconds=entry["latency_ms"] / 1e3,
        timestamp=entry["created_at"].partition("+")[0],
        host=entry["host"].partition(",")[0],
        properties=properties,
        failures=_failures(entry, limits),
        output="\n".join(entry["statistics"]["warnings"]),
    )


def _failures(entry: dict[str, Any], limits: Limits) -> dict[str, str]:
    what = f"{entry['model']} takes {entry['latency_ms']:.4g} ms on {entry['board']} ({entry['device']})"
    failures = {}
    if limits.max_latency_ms is not None and entry["latency_ms"] > limits.max_latency_ms:
        failures["latency"] = f"{what}, more than the limit of {limits.max_latency_ms:g} ms"
    before = entry["comparison"]
    if limits.max_regression_percent is not None and before is not None and before["is_regression"]:
        failures["regression"] = (
            f"{what}, {before['ratio'] - 1:.1%} longer than the {before['latency_ms']:.4g} ms of measurement "
            f"{before['measurement_id']}, and the limit is {limits.max_regression_percent:g} %"
        )
    return failures
