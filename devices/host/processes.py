"""Runs somebody else's command-line tool: no shell, a time limit, and nothing of it outlives this process."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from devices.errors import DeviceError
from devices.host.children import start_child

GUARD = Path(__file__).with_name("guard.py")
GRACE_S = 2.0
"""How long a tool may take to let go of its probe once it is told to stop."""
OUTPUT_BYTES = 1 << 20
"""The end of the output is where the outcome is, and a tool that has gone mad may write for minutes."""
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(frozen=True)
class Finished:
    """How a tool ended."""

    exit_code: int | None
    """None when it ran out of time and was stopped."""
    output: str
    """Standard output and error as they came, without colours; what a progress bar overwrote stays, line by line."""


def run_tool(command: Sequence[str], folder: Path, timeout_s: float) -> Finished:
    """Run ``command``, whose first part is the path of an executable, in ``folder``, for ``timeout_s`` at most.

    When it ends, whatever it left running in its process group ends with it, and so it does when this process is
    killed (on Linux). Raises DeviceError when it cannot be started.
    """
    guarded = [sys.executable, "-I", "-S", str(GUARD)] if sys.platform == "linux" else []
    # Tables of some tools break their sentences at the width of the terminal, which has none here.
    environment = {**os.environ, "COLUMNS": "500", "NO_COLOR": "1", "TERM": "dumb"}
    # A file and not a pipe: a program that the tool leaves in the background would hold a pipe open for ever.
    with tempfile.TemporaryFile() as output:
        try:
            process = start_child(
                [*guarded, *command],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise DeviceError(f"{command[0]} cannot be started: {error.strerror}; install it again") from error
        exit_code = None
        try:
            exit_code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            pass
        finally:
            if exit_code is None:
                _end_group(process)
        size = output.seek(0, os.SEEK_END)
        output.seek(max(0, size - OUTPUT_BYTES))
        text = output.read().decode("utf-8", "replace")
    return Finished(exit_code, _ESCAPES.sub("", text).replace("\r\n", "\n").replace("\r", "\n"))


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Tell the tool to stop as Ctrl-C does, so that it can let go of its probe, and kill what is left after a while."""
    for end in (signal.SIGINT, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, end)
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_S)
