"""Programs that end with the process that started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from devices.host.children import start_child

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for_end(pid: int) -> None:
    """Until the process is gone: the test's own timeout ends this if it never is."""
    while alive(pid):
        time.sleep(0.01)


def test_a_child_outlives_the_thread_that_asked_for_it() -> None:
    started: list[subprocess.Popen[bytes]] = []
    thread = threading.Thread(
        target=lambda: started.append(start_child(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE))
    )
    thread.start()
    thread.join()
    (child,) = started
    assert child.communicate(b"still here", timeout=60)[0] == b"still here"
    assert child.returncode == 0


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_child_ends_with_its_process(end: signal.Signals) -> None:
    program = (
        "import time; from devices.host.children import start_child\n"
        "print(start_child(['sleep', '600']).pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        assert alive(child)
        process.send_signal(end)
        process.wait(60)
        wait_for_end(child)


def test_what_cannot_be_started_says_so() -> None:
    with pytest.raises(FileNotFoundError):
        start_child(["/no/such/program"])


def test_a_forked_child_can_start_its_own() -> None:
    start_child(["true"]).wait(60)
    child = os.fork()
    if child == 0:
        os._exit(start_child(["true"]).wait(60))
    assert os.waitpid(child, 0)[1] == 0
