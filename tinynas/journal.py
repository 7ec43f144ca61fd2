"""The append-only, fsynced record of a study: one JSON line per event."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import ValidationError

from tinynas.errors import SearchError
from tinynas.events import EVENT, Event
from tinynas.files import cannot_write, sync_folder


class Journal:
    """The journal at ``path``; the caller holds the study's lock, so nobody else writes.

    Every line ends in a newline, which is written last: a line without one was cut off by a kill or a power failure
    and never counted. It is removed when the journal is opened. Raises SearchError for a line that is whole and yet
    cannot be read, or when the disk fails.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.note: str | None = None
        """What was repaired when the journal was opened."""
        try:
            is_new = not path.exists()
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            if is_new:
                sync_folder(path.parent)
        except OSError as error:
            raise cannot_write(path, error) from error
        try:
            self.events, self._size, torn_bytes = read_journal(path)
            if torn_bytes:
                self._cut_to_size()
                self.note = f"{path}: the last line was cut off in the middle ({torn_bytes} bytes) and was removed"
        except BaseException:
            self.close()
            raise

    def append(self, event: Event) -> None:
        """Write ``event`` and wait until it is on the disk; on failure the journal is as it was before."""
        line = event.model_dump_json().encode() + b"\n"
        try:
            _write_all(self._descriptor, line)
            os.fsync(self._descriptor)
        except OSError as error:
            self._cut_to_size()
            raise cannot_write(self.path, error) from error
        self._size += len(line)
        self.events.append(event)

    def close(self) -> None:
        """Write no more."""
        os.close(self._descriptor)

    def _cut_to_size(self) -> None:
        try:
            os.ftruncate(self._descriptor, self._size)
            os.fsync(self._descriptor)
        except OSError as error:
            raise cannot_write(self.path, error) from error


def read_journal(path: Path) -> tuple[list[Event], int, int]:
    """The events of the whole lines, the bytes these take, and the bytes of a torn line after them.

    Raises SearchError naming the line that cannot be read.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SearchError(f"'{path}' could not be read ({error.strerror})") from error
    *lines, torn = content.split(b"\n")
    events = [_parse(line, number, path) for number, line in enumerate(lines, start=1)]
    return events, len(content) - len(torn), len(torn)


def _parse(line: bytes, number: int, path: Path) -> Event:
    try:
        return EVENT.validate_json(line)
    except (ValidationError, SearchError) as error:
        raise SearchError(
            f"line {number} of '{path}' is not a study event ({first_reason(error)}); "
            "restore the file from a copy, or start again in another folder"
        ) from error


def first_reason(error: Exception) -> str:
    """What is wrong, in one line: of a pydantic error, which lists everything, the first."""
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}" if where else first["msg"]


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
