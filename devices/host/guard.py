"""Runs a command and ends it, with all it started, when the process that asked for it ends.

``python -I -S guard.py COMMAND ARGUMENT…``, started as the leader of a process group of its own by
``devices.host.children.start_child``. The kernel tells the guard that its parent ended, however that happened. A tool
behind a wrapper script could not be reached that way, because the kernel tells children and not grandchildren.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
CANNOT_START = 127


def main() -> int:
    """The command's exit code, 128 + N when signal N ended it, or 127 when it cannot be started."""
    command = sys.argv[1:]
    prctl = ctypes.CDLL(None).prctl
    signal.signal(signal.SIGTERM, _end_group)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    child = os.fork()
    if child == 0:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        try:
            os.execv(command[0], command)
        except OSError as error:
            os.write(2, f"{command[0]}: {error.strerror}\n".encode())
            os._exit(CANNOT_START)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    # What the tool left running in the background ends too; the guard has to live to hand on the exit code.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(0, signal.SIGTERM)
    return code if code >= 0 else 128 - code


def _end_group(*_: object) -> None:
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
