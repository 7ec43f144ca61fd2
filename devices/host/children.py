"""Programs that run beside this process and end with it, however it ends: the emulator, a server.

On Linux the kernel ends them even when this process is killed. It goes by the thread that started them, so they are all
started by one that lives as long as the process, the main thread or one of its own, and may be used from any.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

_launcher: ThreadPoolExecutor | None = None


def start_child(command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
    """``subprocess.Popen(command, **options)`` for a program that this process does not outlive. Raises OSError."""
    global _launcher
    if sys.platform != "linux":
        return subprocess.Popen(command, **options)
    if threading.current_thread() is threading.main_thread():
        return subprocess.Popen(command, preexec_fn=_die_with_parent(), **options)
    if _launcher is None:
        _launcher = ThreadPoolExecutor(max_workers=1, thread_name_prefix="launcher")
    start: Callable[..., subprocess.Popen[bytes]] = subprocess.Popen
    started = _launcher.submit(start, command, preexec_fn=_die_with_parent(), **options)
    try:
        return started.result()
    except BaseException:
        started.add_done_callback(_end)  # interrupted: nobody would ever know of the program
        raise


def _end(started: Future[subprocess.Popen[bytes]]) -> None:
    if started.cancelled() or started.exception() is not None:
        return
    process = started.result()
    process.kill()
    process.wait()


class _die_with_parent:  # noqa: N801 - a function with its library already loaded: nothing may be imported after fork
    """Makes the kernel kill the child when its parent ends, however that happens."""

    PR_SET_PDEATHSIG = 1

    def __init__(self) -> None:
        self._prctl = ctypes.CDLL(None).prctl
        self._parent = os.getpid()

    def __call__(self) -> None:
        self._prctl(self.PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != self._parent:
            os._exit(1)


def _forget_launcher() -> None:
    """A forked child has none of its parent's threads."""
    global _launcher
    _launcher = None


os.register_at_fork(after_in_child=_forget_launcher)
