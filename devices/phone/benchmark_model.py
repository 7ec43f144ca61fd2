"""What TensorFlow Lite's ``benchmark_model`` prints, read into figures; every form that its versions have had.

A line that is missing, malformed or at odds with another is an error and never a number: the mean of the inferences is
printed twice, by the line of statistics and by the summary.

Source: ``tensorflow/lite/tools/benchmark`` and ``tsl/util/stats_calculator``, now ``tflite/`` in google-ai-edge/LiteRT.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from devices.board import OperatorTime
from devices.errors import DeviceError

PRINTED_PRECISION = 1e-5
"""Of a mean: six digits are printed."""
TRUNCATED_US = 1.0
"""Builds of 2018 cut the mean off to whole microseconds in one of the two places."""

_NUMBER = r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?"
_STATISTICS = re.compile(rf"count=\d+( \w+={_NUMBER}(\(all same\))?)*")
_STATISTIC = re.compile(rf"(\w+)=({_NUMBER})")
_SUMMARY = re.compile(r"(?:Average i|I)nference timings in us: (.*)")
_MEMORY = re.compile(
    rf"(?:Memory footprint delta from the start of the tool|Peak memory footprint) \(MB\): "
    rf"init=({_NUMBER}) overall=({_NUMBER})"
)
_IGNORED_FLAGS = re.compile(r"(?:WARN: )?Unconsumed cmdline flags: (.*)")
_DELEGATED = re.compile(
    r"Explicitly applied (\w+) delegate, and the model graph will be (completely|partially) executed by .*"
)
_NOT_DELEGATED = re.compile(r"Though (\w+) delegate is explicitly applied, the model graph will not be executed.*")

_RUN_ORDER = re.compile(r"=+ Run Order =+")
_TABLE_END = re.compile(r"=+ Top by Computation Time =+")
_PROFILE_OF_START = "Profiling Info for Benchmark Initialization"
_PROFILE_OF_RUNS = "Operator-wise Profiling Info for Regular Benchmark Runs"

_MEAN_KEYS = ("Inference (avg)", "no stats", "Inference")


class BenchmarkOutputError(DeviceError):
    """What benchmark_model printed is not what it prints after a measurement."""


@dataclass(frozen=True)
class RunStatistics:
    """One ``count=…`` line. Times are in microseconds."""

    count: int
    first_us: float
    min_us: float
    max_us: float
    mean_us: float


@dataclass(frozen=True)
class BenchmarkReport:
    """One invocation of benchmark_model."""

    warmup: RunStatistics | None
    """None when there were no warm-up runs."""
    inference: RunStatistics
    init_us: float | None
    memory_init_mib: float | None
    """Growth of the tool's memory while the model was loaded; None where the system cannot tell."""
    memory_overall_mib: float | None
    """The same up to the end."""
    operators: tuple[OperatorTime, ...]
    """In run order, where operators were profiled; a delegate that runs part of the graph is one of them."""
    delegate_operators: tuple[OperatorTime, ...]
    """What the delegate says of its own operators, where it does."""
    delegate: str | None
    """What became of the delegate that was asked for, such as ``XNNPACK, whole graph``; None where it is not said."""
    ignored_flags: tuple[str, ...]
    """Flags that this version of the tool does not know."""


def parse_report(text: str, *, profiled: bool = False) -> BenchmarkReport:
    """Read the output of one invocation; ``profiled`` when the operators' table was asked for.

    Raises BenchmarkOutputError, which names what is missing or wrong.
    """
    lines = [line.strip().removeprefix("INFO: ") for line in text.splitlines()]
    warmup, inference = _statistics(lines)
    summary = _summary(lines)
    _check_mean(inference.mean_us, summary)
    memory = next(filter(None, map(_MEMORY.fullmatch, lines)), None)
    operators, delegate_operators = _operators(text.splitlines()) if profiled else ((), ())
    return BenchmarkReport(
        warmup=warmup,
        inference=inference,
        init_us=summary.get("Init"),
        memory_init_mib=None if memory is None else float(memory[1]),
        memory_overall_mib=None if memory is None else float(memory[2]),
        operators=operators,
        delegate_operators=delegate_operators,
        delegate=next(filter(None, map(_delegate, lines)), None),
        ignored_flags=ignored_flags(text),
    )


def ignored_flags(text: str) -> tuple[str, ...]:
    """The flags that this version of the tool says it does not know."""
    lines = [line.strip() for line in text.splitlines()]
    return tuple(flag for found in filter(None, map(_IGNORED_FLAGS.fullmatch, lines)) for flag in found[1].split())


def _statistics(lines: Sequence[str]) -> tuple[RunStatistics | None, RunStatistics]:
    """The warm-up, then the measurement: the two lines look the same, so there have to be exactly two."""
    found = [line for line in lines if line.startswith("count=")]
    if len(found) < 2:
        missing = "both lines of statistics (count=…)" if not found else "the second line of statistics (count=…)"
        raise BenchmarkOutputError(
            f"benchmark_model did not print {missing}, one of the warm-up and one of the inferences{_last_words(lines)}"
        )
    if len(found) > 2:
        raise BenchmarkOutputError(
            f"benchmark_model printed {len(found)} lines of statistics (count=…) in place of 2, so it cannot be told "
            "which is the measurement; try again"
        )
    inference = _run_statistics(found[1])
    if inference is None:
        raise BenchmarkOutputError("benchmark_model timed no inference (count=0); ask for at least one run")
    return _run_statistics(found[0]), inference


def _run_statistics(line: str) -> RunStatistics | None:
    """One line; None of no run at all."""
    if not _STATISTICS.fullmatch(line):
        raise _malformed(line)
    found = [(match[1], float(match[2])) for match in _STATISTIC.finditer(line)]
    values = dict(found)
    same = "(all same)" in line
    if len(values) != len(found):
        raise _malformed(line)
    count = int(values["count"])
    if count == 0:
        if len(values) > 1:
            raise _malformed(line)
        return None
    if {"first", "curr", "min", "max", "avg", "std"} <= values.keys() and not same:
        statistics = RunStatistics(count, values["first"], values["min"], values["max"], values["avg"])
    elif values.keys() & {"first", "min", "max", "avg", "std"} or "curr" not in values or same != (count > 1):
        raise _malformed(line)
    else:
        curr = values["curr"]
        statistics = RunStatistics(count, curr, curr, curr, curr)
    slack = PRINTED_PRECISION * statistics.max_us
    inside = [
        statistics.first_us,
        statistics.mean_us,
        *(values[key] for key in ("curr", "p5", "median", "p95") if key in values),
    ]
    low, high = statistics.min_us - slack, statistics.max_us + slack
    if not (all(map(math.isfinite, values.values())) and all(low <= value <= high for value in inside)):
        raise _malformed(line)
    if statistics.mean_us <= 0 or statistics.min_us < 0:
        raise BenchmarkOutputError(
            f"benchmark_model printed '{line}', which is no duration: the phone's clock is broken or too coarse for "
            "this model"
        )
    return statistics


def _summary(lines: Sequence[str]) -> dict[str, float]:
    """The line that sums up, by what its figures are called. Some builds print it twice."""
    found = {match[1] for match in map(_SUMMARY.fullmatch, lines) if match is not None}
    if not found:
        raise BenchmarkOutputError(
            f"benchmark_model did not print its summary (Inference timings in us: …){_last_words(lines)}"
        )
    if len(found) > 1:
        raise BenchmarkOutputError("benchmark_model printed two summaries that differ; try again")
    (text,) = found
    summary: dict[str, float] = {}
    for part in text.removesuffix(",").split(","):
        name, colon, value = part.strip().rpartition(": ")
        # Without any warm-up run, the mean of it is no number.
        number = value if re.fullmatch(rf"{_NUMBER}|-?nan", value) else None
        if not colon or number is None or name in summary:
            raise _malformed(f"Inference timings in us: {text}")
        summary[name] = float(number)
    return summary


def _check_mean(mean_us: float, summary: dict[str, float]) -> None:
    again = next((summary[name] for name in _MEAN_KEYS if name in summary), None)
    if again is None:
        raise BenchmarkOutputError("benchmark_model's summary lacks the mean of the inferences; use a newer build")
    if not abs(mean_us - again) <= TRUNCATED_US + PRINTED_PRECISION * mean_us:
        raise BenchmarkOutputError(
            f"benchmark_model gives two means of the inferences, {mean_us:g} and {again:g} us; try again"
        )


def _delegate(line: str) -> str | None:
    if found := _DELEGATED.fullmatch(line):
        return f"{found[1]}, {'whole' if found[2] == 'completely' else 'part of the'} graph"
    if found := _NOT_DELEGATED.fullmatch(line):
        return f"{found[1]}, none of the graph"
    return None


def _malformed(line: str) -> BenchmarkOutputError:
    return BenchmarkOutputError(f"benchmark_model printed '{line}', which is not as it should be; try again")


def _last_words(lines: Sequence[str]) -> str:
    """What the tool said last: usually why it gave up."""
    said = [line for line in lines if line]
    errors = [line for line in said if line.startswith(("ERROR", "FATAL"))]
    words = " ".join((errors or said)[-3:])
    return f"; it said: {words[-300:]}" if words else "; it printed nothing"


def _operators(lines: Sequence[str]) -> tuple[tuple[OperatorTime, ...], tuple[OperatorTime, ...]]:
    """The graph's operators, and those inside of a delegate. None without a table: some builds cannot profile."""
    graph: tuple[OperatorTime, ...] | None = None
    inside: tuple[OperatorTime, ...] = ()
    for place, rows in _tables(lines):
        if place == "runs" and graph is None:
            graph = rows
        elif place == "delegate":
            inside = rows
    return graph or (), inside


def _tables(lines: Sequence[str]) -> Iterator[tuple[str, tuple[OperatorTime, ...]]]:
    """Every table in run order, and what it is of: the start, the runs, a subgraph, or a delegate."""
    place = "runs"
    position = 0
    while position < len(lines):
        line = lines[position].strip().removeprefix("INFO: ")
        position += 1
        if line.startswith(_PROFILE_OF_START):
            place = "start"
        elif line.startswith((_PROFILE_OF_RUNS, "Primary graph")):
            # The profile of the start is of the primary graph too.
            place = place if line.startswith("Primary graph") and place == "start" else "runs"
        elif re.match(r"Subgraph \(index: \d+.*profile:", line):
            place = "subgraph"
        elif line.startswith("Delegate internal:"):
            place = "start" if place == "start" else "delegate"
        elif _RUN_ORDER.fullmatch(line):
            end = next((i for i in range(position, len(lines)) if _TABLE_END.fullmatch(lines[i].strip())), None)
            if end is None or end == position:
                raise BenchmarkOutputError("the table of operators ends in the middle; try again")
            rows = [text for text in lines[position + 1 : end] if text.strip()]
            row = _row_pattern(lines[position])
            yield place, tuple(_operator(text, row) for text in rows)
            position = end


def _row_pattern(header: str) -> re.Pattern[str]:
    """How the rows below ``header`` look; the columns between the type and the name differ by version."""
    aligned = re.findall(r"\[([^\]]+)\]", header)
    names = aligned or [name.strip() for name in header.split(",")]
    lower = [name.strip().lower().replace("_", " ") for name in names]
    if len(lower) < 3 or lower[0] != "node type" or lower[-1] != "name" or "avg ms" not in lower:
        raise BenchmarkOutputError(f"the table of operators has unknown columns: {' '.join(header.split())}")
    between = r"\s*,\s*" if not aligned else r" *\t *" if "\t" in header else r"\s+"
    kind = r"\S[^\t]*?" if "\t" in header else r"\S.*?"
    columns = [
        (rf"(?P<mean>{_NUMBER})" if name == "avg ms" else rf"(?:{_NUMBER}|-?nan)") + ("%" if "%" in name else "")
        for name in lower[1:-1]
    ]
    # The type and the name may hold whatever separates the columns; the figures between them are what is certain.
    return re.compile(rf"\s*(?P<kind>{kind})" + between + between.join(columns) + between + r"(?P<name>.*\S)\s*")


def _operator(text: str, row: re.Pattern[str]) -> OperatorTime:
    found = row.fullmatch(text)
    if found is None or float(found["mean"]) < 0:
        raise BenchmarkOutputError(f"the table of operators has a damaged row: {' '.join(text.split())}; try again")
    return OperatorTime(found["name"], found["kind"], float(found["mean"]))
