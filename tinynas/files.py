"""Writing files that survive a crash."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

from tinynas.errors import SearchError

TEMPORARY_SUFFIX = ".part"


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write ``content`` to ``path`` so that a crash leaves the old content or the new, whole; makes its folder.

    Raises SearchError.
    """
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)  # it may be what fills the disk
        raise cannot_write(path, error) from error


def sync_folder(folder: Path) -> None:
    """Make the names of ``folder`` durable: a new file's content is lost with its name. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def cannot_write(path: Path, error: OSError) -> SearchError:
    """What the user is told when ``path`` could not be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return SearchError(
            f"the disk is full: '{path}' could not be written; free some space and run the same command again, "
            "which goes on from what is already there"
        )
    return SearchError(f"'{path}' could not be written ({error.strerror}); make it writable or choose another folder")
