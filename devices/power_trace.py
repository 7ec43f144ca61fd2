"""Energy of one inference from the CSV file of a power monitor.

Any file with a header row that names a time column, and either power or current, is read. Units stand in the name, as
in ``time (ms)``, ``current_ma`` or ``Power [mW]``; a name without one is in seconds, amperes, volts or watts, as in a
Joulescope's ``time,current,voltage``. Nordic's Power Profiler Kit II writes ``Timestamp(ms),Current(uA),D0-D7``, where
the first character of the last column is the channel D0.
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from devices.errors import DeviceError

LEAST_SAMPLES = 10
"""In the window of the inferences; with fewer, its edges decide the result."""

_NAMES = {"time": "s", "timestamp": "s", "current": "a", "voltage": "v", "power": "w"}
"""What each column is called, and its unit where the name tells none."""
_FACTORS = {"n": 1e-9, "u": 1e-6, "µ": 1e-6, "μ": 1e-6, "m": 1e-3, "": 1.0}
_TRIGGERS = ("d0", "d0-d7", "trigger")

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PowerTrace:
    """Power over time; a sample holds until the next one."""

    name: str
    times_s: Array
    """Ascending."""
    power_mw: Array
    trigger: npt.NDArray[np.bool_] | None
    """Whether the trigger channel was high; None where there is none."""
    sha256: str
    """Of the file."""


@dataclass(frozen=True, slots=True)
class InferenceEnergy:
    """What a trace says of one inference."""

    energy_mj: float
    active_power_mw: float
    """Mean power while inferring."""
    latency_ms: float
    inferences: int
    samples: int
    """Of the trace, while inferring."""


def read_power_trace(path: Path, supply_v: float | None = None) -> PowerTrace:
    """Read a power monitor's CSV file; ``supply_v`` turns a current into power where no voltage was recorded.

    Raises DeviceError naming the column or the line that cannot be used.
    """
    try:
        content = path.read_bytes()
        rows = csv.reader(content.decode("utf-8-sig").splitlines())
        header = next(rows, [])
        columns = _columns(path, header)
        numbers, trigger = _read_rows(path, rows, columns, len(header))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DeviceError(f"the power trace {path} cannot be read as CSV ({error})") from error
    if "power" in numbers:
        power_mw = 1e3 * numbers["power"]
    elif "voltage" in numbers:
        power_mw = 1e3 * numbers["current"] * numbers["voltage"]
    elif supply_v is not None:
        power_mw = 1e3 * numbers["current"] * supply_v
    else:
        raise DeviceError(f"the power trace {path} has a current and no voltage; give the supply's with --supply-v")
    if len(power_mw) < LEAST_SAMPLES:
        raise DeviceError(f"the power trace {path} has {len(power_mw)} samples; record at least {LEAST_SAMPLES}")
    if not (np.diff(numbers["time"]) > 0).all():
        raise DeviceError(f"the times of the power trace {path} do not ascend; export it again, from one recording")
    return PowerTrace(path.name, numbers["time"], power_mw, trigger, hashlib.sha256(content).hexdigest())


def inference_energy(trace: PowerTrace, *, inferences: int = 1, latency_ms: float | None = None) -> InferenceEnergy:
    """Integrate the power over the inferences.

    Without ``latency_ms`` they are where the trigger channel is high: each time it is, from its rise to its fall,
    ``inferences`` ran. With it, ``inferences`` of that latency ran back to back, and their window is where the trace
    holds the most energy, for a part draws less while it waits. Raises DeviceError when the window cannot be found, or
    holds too few samples.
    """
    return _by_trigger(trace, inferences) if latency_ms is None else _by_latency(trace, inferences, latency_ms)


def _by_trigger(trace: PowerTrace, inferences: int) -> InferenceEnergy:
    if trace.trigger is None:
        raise DeviceError(
            f"the power trace {trace.name} has no trigger channel D0; give the latency of one inference with "
            "--latency-ms"
        )
    edges = np.diff(trace.trigger.astype(np.int8))
    rises, falls = np.flatnonzero(edges > 0) + 1, np.flatnonzero(edges < 0) + 1
    falls = falls[falls > rises[0]] if len(rises) else falls[:0]
    spans = list(zip(rises.tolist(), falls.tolist(), strict=False))  # one that is still high at the end has no fall
    if not spans:
        raise DeviceError(
            f"the trigger channel D0 of {trace.name} never rises and falls again; connect it, record from before the "
            "inferences to after them, or give the latency of one inference with --latency-ms"
        )
    energies = np.concatenate([[0.0], np.cumsum(trace.power_mw[:-1] * np.diff(trace.times_s))])
    seconds = sum(float(trace.times_s[fall] - trace.times_s[rise]) for rise, fall in spans)
    energy_mj = sum(float(energies[fall] - energies[rise]) for rise, fall in spans)
    return _result(trace, energy_mj, seconds, inferences * len(spans), sum(fall - rise for rise, fall in spans))


def _by_latency(trace: PowerTrace, inferences: int, latency_ms: float) -> InferenceEnergy:
    times, seconds = trace.times_s, inferences * latency_ms / 1e3
    length = float(times[-1] - times[0])
    if seconds > length:
        raise DeviceError(
            f"{inferences} inferences of {latency_ms:g} ms take {seconds:.4g} s, and the power trace {trace.name} is "
            f"{length:.4g} s long; record longer, or give the number of inferences that it shows"
        )
    energies = np.concatenate([[0.0], np.cumsum(trace.power_mw[:-1] * np.diff(times))])
    starts = times[times <= times[-1] - seconds]
    of_windows = np.interp(starts + seconds, times, energies) - energies[: len(starts)]
    best = int(of_windows.argmax())
    samples = int(np.searchsorted(times, starts[best] + seconds)) - best
    return _result(trace, float(of_windows[best]), seconds, inferences, samples)


def _result(trace: PowerTrace, energy_mj: float, seconds: float, inferences: int, samples: int) -> InferenceEnergy:
    if samples < LEAST_SAMPLES:
        raise DeviceError(
            f"the power trace {trace.name} has {samples} samples while inferring, and needs {LEAST_SAMPLES}; record "
            "more inferences, or at a higher rate"
        )
    if energy_mj <= 0:
        raise DeviceError(f"the power trace {trace.name} has no energy while inferring; check how the monitor is wired")
    return InferenceEnergy(
        energy_mj=energy_mj / inferences,
        active_power_mw=energy_mj / seconds,
        latency_ms=1e3 * seconds / inferences,
        inferences=inferences,
        samples=samples,
    )


@dataclass(frozen=True, slots=True)
class _Column:
    """What a column holds, where it stands, and its unit's size."""

    quantity: str
    index: int
    factor: float


def _columns(path: Path, header: Sequence[str]) -> list[_Column]:
    columns: dict[str, _Column] = {}
    for index, cell in enumerate(header):
        name = cell.strip().lstrip("#").strip()
        if name.lower() in _TRIGGERS:
            columns.setdefault("trigger", _Column("trigger", index, 1.0))
            continue
        match = re.fullmatch(r"([a-z]+)\s*(?:[(\[_]\s*([a-zµμ]+)\s*[)\]]?)?", name.lower())
        if match and match[1] in _NAMES:
            quantity, unit = match[1].replace("timestamp", "time"), match[2] or _NAMES[match[1]]
            base = _NAMES[quantity]
            if not unit.endswith(base) or unit[: -len(base)] not in _FACTORS:
                shown = base if base == "s" else base.upper()
                raise DeviceError(
                    f"the column '{name}' of the power trace {path} has the unit '{unit}'; "
                    f"write it in u{shown}, m{shown} or {shown}"
                )
            columns.setdefault(quantity, _Column(quantity, index, _FACTORS[unit[: -len(base)]]))
    if "time" not in columns or not columns.keys() & {"power", "current"}:
        raise DeviceError(
            f"the power trace {path} has the columns {', '.join(header) or 'none'}; it needs 'time (s)', and "
            "'power (mW)' or 'current (mA)', or the export of a Power Profiler Kit II or a Joulescope"
        )
    return list(columns.values())


def _read_rows(
    path: Path, rows: Iterator[list[str]], columns: Sequence[_Column], width: int
) -> tuple[dict[str, Array], npt.NDArray[np.bool_] | None]:
    numeric = [column for column in columns if column.quantity != "trigger"]
    trigger = next((column for column in columns if column.quantity == "trigger"), None)
    values: list[list[float]] = []
    highs: list[bool] = []
    for line, row in enumerate(rows, start=2):
        if not row or row[0].startswith("#"):  # a Joulescope's second header row holds the units
            continue
        try:
            if len(row) != width:
                raise ValueError(f"{len(row)} cells and not {width}")
            values.append([float(row[column.index]) * column.factor for column in numeric])
        except ValueError as error:
            raise DeviceError(
                f"line {line} of the power trace {path} is not a sample ({error}); export it again"
            ) from None
        if trigger is not None:
            highs.append(row[trigger.index].strip()[:1] == "1")
    table = np.asarray(values, np.float64).reshape(-1, len(numeric))
    if not np.isfinite(table).all():
        line = int(np.flatnonzero(~np.isfinite(table).all(axis=1))[0]) + 2
        raise DeviceError(f"line {line} of the power trace {path} holds a value that is not finite; export it again")
    numbers = {column.quantity: table[:, index] for index, column in enumerate(numeric)}
    return numbers, np.asarray(highs, bool) if trigger is not None else None
