"""One user at a time for a board, across processes and threads."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from devices.errors import DeviceError
from devices.host.locks import BoardBusyError, board_lock, lock_folder, port_identity
from tests.devices.processes import run_together, start_program

HOLD = """
import sys
from devices.host.locks import board_lock
with board_lock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "locks"
    monkeypatch.setenv("TINYNAS_LOCKS", str(folder))
    return folder


@contextmanager
def held_by_another(identity: str) -> Iterator[subprocess.Popen[str]]:
    process, said = start_program(HOLD, identity)
    with process:
        try:
            assert said == "held"
            yield process
        finally:
            process.kill()


def test_another_process_is_told_who_has_the_board() -> None:
    with (
        held_by_another("adb:1") as process,
        pytest.raises(BoardBusyError, match=rf"bench-3 is in use by process {process.pid} \(-c adb:1\) since 20"),
        board_lock("adb:1", board="bench-3"),
    ):
        pass


def test_another_board_is_free() -> None:
    with held_by_another("adb:1"), board_lock("adb:2"):
        pass


def test_a_killed_process_leaves_no_lock(locks: Path) -> None:
    with held_by_another("adb:1") as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert any(file.read_text() for file in locks.iterdir())  # what it left does not count
        with board_lock("adb:1"):
            pass


def test_it_holds_within_a_process_and_is_free_again_afterwards() -> None:
    with board_lock("probe:1"), pytest.raises(BoardBusyError, match=rf"process {os.getpid()} "), board_lock("probe:1"):
        pass
    with board_lock("probe:1"):
        pass


def test_it_is_free_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), board_lock("probe:1"):
        raise ZeroDivisionError
    with board_lock("probe:1"):
        pass


def test_who_waits_gets_it() -> None:
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with board_lock("probe:1"):
            held.set()
            done.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(30)
    threading.Timer(0.2, done.set).start()
    with board_lock("probe:1", wait_s=30):
        pass
    thread.join()


def test_many_processes_are_never_inside_together(tmp_path: Path) -> None:
    """Each adds to a counter in two steps that only a lock keeps together."""
    counter = tmp_path / "counter"
    counter.write_text("0")
    program = (
        "import sys, time; from pathlib import Path; from devices.host.locks import board_lock\n"
        "counter = Path(sys.argv[1])\n"
        "for _ in range(20):\n"
        "    with board_lock('probe:1', wait_s=60):\n"
        "        value = int(counter.read_text()); time.sleep(0.001); counter.write_text(str(value + 1))\n"
    )
    run_together(program, counter)
    assert counter.read_text() == "80"


def test_a_lock_file_that_somebody_deletes_locks_nobody_out_for_good(locks: Path) -> None:
    with board_lock("probe:1"):
        for file in locks.iterdir():
            file.unlink()
    with board_lock("probe:1"):
        pass


def test_a_forked_child_does_not_keep_the_lock_of_a_killed_process() -> None:
    program = (
        "import os, signal, time; from devices.host.locks import board_lock\n"
        "ready, go = os.pipe()\n"
        "with board_lock('probe:1'):\n"
        "    if os.fork() == 0:\n"
        "        os.write(go, b'.'); print(os.getpid(), flush=True); time.sleep(60); os._exit(0)\n"
        "    os.read(ready, 1)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    process, child = start_program(program)
    with process:
        assert process.wait() == -signal.SIGKILL
        try:
            with board_lock("probe:1"):
                pass
        finally:
            os.kill(int(child), signal.SIGKILL)


def test_a_forked_child_that_leaves_the_block_does_not_unlock_it() -> None:
    lock = board_lock("probe:1")
    lock.__enter__()
    child = os.fork()
    if child == 0:
        lock.__exit__(None, None, None)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    with pytest.raises(BoardBusyError), board_lock("probe:1"):
        pass
    lock.__exit__(None, None, None)


def test_no_program_that_is_started_keeps_the_lock() -> None:
    with board_lock("probe:1"):
        child = subprocess.Popen(["sleep", "60"])
    try:
        with board_lock("probe:1"):
            pass
    finally:
        child.kill()
        child.wait()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TINYNAS_LOCKS", str(tmp_path / "file" / "locks"))
    with (
        pytest.raises(
            DeviceError, match=r"board bench-3 cannot be locked in .*file/locks: Not a directory; .*TINYNAS_"
        ),
        board_lock("adb:1", board="bench-3"),
    ):
        pass


def test_a_read_only_file_system_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYNAS_LOCKS", "/proc/tinynas")
    with pytest.raises(DeviceError, match="cannot be locked in /proc/tinynas"), board_lock("adb:1"):
        pass


def test_a_symbolic_link_is_not_followed(locks: Path, tmp_path: Path) -> None:
    with board_lock("adb:1"):
        (file,) = locks.iterdir()
    assert not file.exists()
    precious = tmp_path / "precious"
    precious.write_text("mine")
    file.symlink_to(precious)
    with pytest.raises(DeviceError, match="symbolic link"), board_lock("adb:1"):
        pass
    assert precious.read_text() == "mine"


def test_the_environment_does_not_choose_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TINYNAS_LOCKS")
    usual = lock_folder()
    for name in ("XDG_CACHE_HOME", "XDG_RUNTIME_DIR", "TMPDIR", "HOME"):
        monkeypatch.setenv(name, "/elsewhere")
    assert lock_folder() == usual


def test_a_port_is_the_same_port_by_every_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by_id = tmp_path / "by-id"
    by_id.mkdir()
    (tmp_path / "ttyACM0").write_text("")
    (by_id / "usb-ST_0670-if02").symlink_to("../ttyACM0")
    (tmp_path / "alias").symlink_to("by-id/usb-ST_0670-if02")
    monkeypatch.setattr("devices.host.locks._BY_ID", by_id)
    names = [str(tmp_path / name) for name in ("ttyACM0", "by-id/usb-ST_0670-if02", "alias")]
    assert {port_identity(name) for name in names} == {"serial:usb-ST_0670-if02"}


def test_a_port_without_a_by_id_name_goes_by_its_path(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("pts")
    assert port_identity(str(tmp_path / "link")) == port_identity(str(tmp_path / "pts")) == f"serial:{tmp_path}/pts"
    assert port_identity("socket://Lab:4000") == "serial:socket://lab:4000"
