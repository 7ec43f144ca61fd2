"""One user at a time for every physical board: a lock across processes that goes away with the process that holds it.

The lock is a BSD lock (``flock``) on a file that is named after the board, so nothing that a killed process leaves
behind counts: the file stays until the board's next user has ended, the lock on it does not. It holds between two
boards of one process too. The files lie in one place for the whole machine, whatever the environment of a process is,
because a board has only one cable.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from devices.errors import DeviceError

POLL_S = 0.05
_SHARED_FOLDERS = (Path("/run/lock"), Path("/tmp"))
"""Not tempfile's folder: TMPDIR differs between processes."""
_BY_ID = Path("/dev/serial/by-id")
_COMMAND_CHARACTERS = 120

_held: set[int] = set()
"""Descriptors of the locks that this process holds."""


class BoardBusyError(DeviceError):
    """Somebody else uses the board."""


def lock_folder() -> Path:
    """Where the locks of this machine are: ``$TINYNAS_LOCKS``, else ``/run/lock/tinynas`` or ``/tmp/tinynas``.

    The second where not everybody may write to ``/run/lock``: all users have to meet in the same folder.
    """
    if path := os.environ.get("TINYNAS_LOCKS"):
        return Path(path)
    for folder in _SHARED_FOLDERS:
        with suppress(OSError):
            if folder.stat().st_mode & stat.S_IWOTH:
                return folder / "tinynas"
    return _SHARED_FOLDERS[-1] / "tinynas"


def port_identity(port: str) -> str:
    """What to lock for a serial port, however it is named: its ``by-id`` name, which it keeps when it is re-plugged.

    A port without one, such as a pseudo-terminal, goes by its real path; a URL (``socket://…``) by itself.
    """
    if re.match(r"[a-z0-9+]+://", port, re.IGNORECASE):
        return f"serial:{port.lower()}"
    path = os.path.realpath(port)
    with suppress(OSError):
        for link in sorted(_BY_ID.iterdir()):
            if os.path.realpath(link) == path:
                return f"serial:{link.name}"
    return f"serial:{path}"


@contextmanager
def board_lock(identity: str, *, wait_s: float = 0.0, board: str | None = None) -> Iterator[None]:
    """Be the only user of a board.

    ``identity`` tells it from every other: ``adb:SERIAL``, ``probe:ID``, or a serial port's `port_identity`; ``board``
    is what the user calls it. Raises BoardBusyError, which says who has it, when it is not free within
    ``wait_s`` seconds, and DeviceError when there can be no lock.
    """
    name = board or identity
    deadline = time.monotonic() + wait_s
    path = lock_folder() / hashlib.sha256(identity.encode()).hexdigest()[:32]
    while (descriptor := _try_lock(path, name)) is None:
        if time.monotonic() >= deadline:
            raise BoardBusyError(
                f"the board {name} is in use by {_holder(path)}; wait until that is done, end it, or choose another"
            )
        time.sleep(POLL_S)
    _held.add(descriptor)
    try:
        _describe_holder(descriptor, identity)
        yield
    finally:
        if descriptor in _held:  # else this is a forked child, which has closed it
            _held.discard(descriptor)
            with suppress(OSError):  # somebody else's file stays; it means nothing
                if os.path.samestat(os.fstat(descriptor), path.stat()):
                    path.unlink()
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # a child that is just being forked has it open too
            os.close(descriptor)


def try_lock(path: Path, open_it: Callable[[Path], int]) -> int | None:
    """A descriptor of ``path``, from ``open_it``, that holds the lock on it; None when somebody else holds it.

    Raises OSError, also what ``open_it`` does when ``path`` is gone.
    """
    while True:
        descriptor = open_it(path)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with suppress(FileNotFoundError):
                # What somebody deleted meanwhile locks nobody out.
                if os.path.samestat(os.fstat(descriptor), path.stat()):
                    return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _try_lock(path: Path, board: str) -> int | None:
    try:
        return try_lock(path, _open)
    except OSError as error:
        raise _impossible(path.parent, board, error) from error


def _open(path: Path) -> int:
    """Open the file, or make it: for everybody, whatever the umask."""
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    while True:
        # Not O_CREAT alone: Linux refuses it for a file of somebody else in a folder that all may write to.
        with suppress(FileNotFoundError):
            return os.open(path, flags)
        _make_folder(path.parent)
        with suppress(FileExistsError):
            descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666)
            os.fchmod(descriptor, 0o666)
            return descriptor


def _make_folder(folder: Path) -> None:
    with suppress(FileExistsError):
        folder.mkdir(parents=True)
        if "TINYNAS_LOCKS" not in os.environ:
            folder.chmod(0o1777)


def _describe_holder(descriptor: int, identity: str) -> None:
    command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]) if sys.argv else sys.executable
    holder = {
        "pid": os.getpid(),
        "command": command[:_COMMAND_CHARACTERS],
        "since": datetime.now().astimezone().isoformat(timespec="seconds"),
        "board": identity,
    }
    with suppress(OSError):  # a full disk: the lock holds all the same
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(holder).encode(), 0)


def _holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
        return f"process {int(holder['pid'])} ({holder['command']}) since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _impossible(folder: Path, board: str, error: OSError) -> DeviceError:
    reason = error.strerror or str(error)
    if error.errno == errno.ELOOP:
        reason = "a lock file is a symbolic link"
    return DeviceError(
        f"the board {board} cannot be locked in {folder}: {reason}; make that folder writable, or set TINYNAS_LOCKS to "
        "one that everybody who uses the board can write to"
    )


def _forget_in_child() -> None:
    """A forked child shares the lock, and would keep it after this process."""
    for descriptor in _held:
        with suppress(OSError):
            os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_forget_in_child)
