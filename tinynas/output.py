"""What a command prints: one JSON object or a table on stdout, everything else on stderr."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

_SECONDS_BETWEEN_LINES = 5.0
_PIPE_WIDTH = 10_000
"""Columns where no terminal sets them: a row stays one line for the tools that read it."""

stderr = Console(stderr=True, highlight=False, emoji=False)


def say(text: str) -> None:
    """One line of news on stderr."""
    stderr.print(one_line(text), markup=False, soft_wrap=True)


def one_line(text: str) -> str:
    """``text`` in one line: names come from models and files of any origin, and a terminal obeys what it is sent."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))


def print_json(result: Mapping[str, Any]) -> None:
    """The command's one JSON object."""
    print(json.dumps(result, allow_nan=False), flush=True)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], title: str | None = None) -> None:
    """A table on stdout; numbers are right-aligned."""
    table = Table(title=title, title_justify="left", box=None, header_style="bold", pad_edge=False)
    for position, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[position], (int, float)) or row[position] is None for row in rows)
        table.add_column(column, justify="right" if numeric else "left", no_wrap=numeric, overflow="fold")
    for row in rows:
        table.add_row(*(Text(_shown(value)) for value in row))  # a string would be read as markup
    Console(highlight=False, width=None if sys.stdout.isatty() else _PIPE_WIDTH).print(table)


def _shown(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.2f}"
    return one_line(str(value))


@contextmanager
def progress(label: str) -> Iterator[Callable[[int, int, str], None]]:
    """A progress bar on a terminal, a line every few seconds elsewhere.

    Yields ``update(done, total, note)``.
    """
    if stderr.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, TimeRemainingColumn(), console=stderr, transient=True) as bar:
            task = bar.add_task(label, total=None, note="")
            yield lambda done, total, note: bar.update(task, completed=done, total=total, note=note)
        return
    last = time.monotonic() - _SECONDS_BETWEEN_LINES

    def update(done: int, total: int, note: str) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _SECONDS_BETWEEN_LINES or done == total:
            last = now
            say(f"{label}: {done} of {total} {note}".rstrip())

    yield update
