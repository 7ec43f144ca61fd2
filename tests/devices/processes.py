"""Python programs that tests run beside themselves, to be killed or waited for."""

from __future__ import annotations

import subprocess
import sys


def start_program(program: str, *arguments: object) -> tuple[subprocess.Popen[str], str]:
    """A program that runs until its stdin ends or it is done, and the first line that it printed."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, process.stdout.readline().rstrip("\n")


def run_together(program: str, argument: object, count: int = 4) -> None:
    """Run a program ``count`` times at once; none may fail."""
    processes = [subprocess.Popen([sys.executable, "-c", program, str(argument)]) for _ in range(count)]
    assert [process.wait() for process in processes] == [0] * count
