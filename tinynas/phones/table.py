"""Reads tables of latencies that somebody measured: one network a line, one phone a column."""

from __future__ import annotations

import csv
import hashlib
import io
import math
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tinynas.errors import SearchError
from tinynas.phones.spaces import PublishedSpace, amounts_of

ARCHITECTURE, SUFFIX = "arch", "_ms"
"""The column of architectures, and how the name of a phone's column ends."""

_SHORTEST_MS, _LONGEST_MS = 1e-6, 1e9
"""A nanosecond, eleven days: nothing that was measured is beyond."""


@dataclass(frozen=True, slots=True)
class LatencyTable:
    """What was measured of the networks of one space."""

    architectures: tuple[str, ...]
    amounts: npt.NDArray[np.float64]
    """(readings, networks, terms) of the space."""
    latencies_ms: dict[str, tuple[float, ...]]
    """By phone, in the order of the architectures."""
    steps_ms: dict[str, float]
    """By phone: the last decimal place that was written, 1 for whole milliseconds."""
    sha256: str
    """Of the file."""


def read_latencies(path: Path, space: PublishedSpace) -> LatencyTable:
    """Read a CSV file with a column ``arch`` and one ``<phone>_ms`` for each phone.

    Raises SearchError, with the line, for whatever is not as it should be, and OSError.
    """
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SearchError(f"'{path}' is no text in UTF-8 ({error.reason} at byte {error.start})") from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    architectures: dict[str, int] = {}
    columns: dict[str, list[str]] = {}
    try:
        header = [name.strip() for name in next(reader, [])]
        place, phones = _columns(path, header)
        columns = {phone: [] for phone in phones}
        for row in reader:
            if not row:
                continue
            line = reader.line_num
            if len(row) != len(header):
                raise SearchError(f"'{path}', line {line}: {len(row)} fields, and the first line names {len(header)}")
            _add_architecture(architectures, row[place].strip(), path, line)
            for phone, column in phones.items():
                columns[phone].append(_latency(row[column].strip(), path, line, phone))
    except csv.Error as error:
        raise SearchError(f"'{path}', line {reader.line_num}: it is no line of a CSV file ({error})") from error
    if not architectures:
        raise SearchError(
            f"'{path}' holds no network; each line after the first is one: its architecture, its latencies"
        )
    amounts = [_amounts(space, text, path, line) for text, line in architectures.items()]
    return LatencyTable(
        architectures=tuple(architectures),
        amounts=np.array(amounts).transpose(1, 0, 2),
        latencies_ms={phone: tuple(map(float, written)) for phone, written in columns.items()},
        steps_ms={phone: _step(written) for phone, written in columns.items()},
        sha256=hashlib.sha256(content).hexdigest(),
    )


def _columns(path: Path, header: list[str]) -> tuple[int, dict[str, int]]:
    """Where the architectures are, and where each phone's latencies are."""
    doubled = {name for name in header if header.count(name) > 1}
    if doubled:
        raise SearchError(f"'{path}', line 1: the column '{min(doubled)}' is there more than once; keep one of them")
    if ARCHITECTURE not in header:
        raise SearchError(f"'{path}', line 1: there is no column '{ARCHITECTURE}'; the columns are {_listed(header)}")
    phones = {
        name.removesuffix(SUFFIX): place
        for place, name in enumerate(header)
        if name.endswith(SUFFIX) and name != SUFFIX
    }
    if not phones:
        raise SearchError(
            f"'{path}', line 1: there is no column of latencies, whose name is a phone's and ends in '{SUFFIX}'; "
            f"the columns are {_listed(header)}"
        )
    return header.index(ARCHITECTURE), phones


def _listed(header: list[str]) -> str:
    names = ", ".join(f"'{name[:30]}'" for name in header[:8])
    return (names + (", …" if len(header) > 8 else "")) or "none"


def _add_architecture(architectures: dict[str, int], text: str, path: Path, line: int) -> None:
    if not text:
        raise SearchError(f"'{path}', line {line}: there is no architecture")
    if text in architectures:
        raise SearchError(
            f"'{path}', line {line}: the architecture of line {architectures[text]} once more; keep one line of each"
        )
    architectures[text] = line


def _latency(text: str, path: Path, line: int, phone: str) -> str:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not _SHORTEST_MS <= value <= _LONGEST_MS:
        what = f"'{text[:30]}'" if text else "missing"
        raise SearchError(
            f"'{path}', line {line}: the latency on {phone} is {what}; it has to be a number of milliseconds from "
            f"{_SHORTEST_MS:g} to {_LONGEST_MS:g}: correct the line or leave it out"
        )
    return text


def _step(latencies: list[str]) -> float:
    """The value of the last decimal place that any of them uses."""
    return 10.0 ** min(0, *(int(Decimal(text).normalize().as_tuple().exponent) for text in latencies))


def _amounts(space: PublishedSpace, text: str, path: Path, line: int) -> tuple[tuple[float, ...], ...]:
    try:
        return amounts_of(space, text)
    except SearchError as error:
        raise SearchError(
            f"'{path}', line {line}: '{text[:80]}' is no architecture of {space.value}: {error}"
        ) from error
