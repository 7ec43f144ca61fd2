"""Temporary folders that do not pile up: those of processes that were killed go with the next that is made."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from devices.host.locks import try_lock

PREFIX = "tinynas-scratch-"
_RANDOM_PART = "[a-z0-9_]{8}"
"""What `tempfile` appends: a folder that a person named is not taken for one of ours."""


@contextmanager
def scratch_folder(parent: Path | None = None, prefix: str = PREFIX) -> Iterator[Path]:
    """A folder in ``parent``, by default the system's for temporary files, that is gone after the block.

    A process that is killed cannot remove its own. It held a lock on it that the kernel has taken back, so the next
    one with the same ``parent`` and ``prefix`` knows, and removes it. Raises OSError.
    """
    place = Path(tempfile.gettempdir()) if parent is None else parent
    _remove_left_overs(place, prefix)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=place))
        lock = _lock(folder)
        if lock is not None:
            break
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _remove_left_overs(place: Path, prefix: str) -> None:
    for folder in place.glob(f"{prefix}*"):
        if re.fullmatch(prefix + _RANDOM_PART, folder.name) is None:
            continue
        with suppress(OSError):  # somebody else's, or no folder
            if folder.stat().st_uid == os.geteuid() and (lock := _lock(folder)) is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)


def _lock(folder: Path) -> int | None:
    """Lock a folder; None when somebody uses it, or removed it because nobody had locked it yet."""
    try:
        return try_lock(folder, _open)
    except FileNotFoundError:
        return None


def _open(folder: Path) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
