"""Temporary folders of processes that were killed are removed; nothing else is."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from devices.host.scratch import PREFIX, scratch_folder
from tests.devices.processes import run_together, start_program

HOLD = """
import sys; from pathlib import Path; from devices.host.scratch import scratch_folder
with scratch_folder(Path(sys.argv[1])) as folder:
    (folder / "file").write_text("x")
    print(folder, flush=True)
    sys.stdin.read()
"""


def hold(place: Path) -> tuple[subprocess.Popen[str], Path]:
    process, folder = start_program(HOLD, place)
    return process, Path(folder)


def test_a_folder_goes_with_its_block(tmp_path: Path) -> None:
    with scratch_folder(tmp_path) as folder:
        assert folder.parent == tmp_path
        (folder / "sub").mkdir()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ZeroDivisionError), scratch_folder(tmp_path):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_goes_with_the_next(tmp_path: Path) -> None:
    process, left = hold(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert (left / "file").exists()
    with scratch_folder(tmp_path) as folder:
        assert list(tmp_path.iterdir()) == [folder]


def test_what_is_used_stays(tmp_path: Path) -> None:
    process, theirs = hold(tmp_path)
    with scratch_folder(tmp_path) as one, scratch_folder(tmp_path) as two:
        assert {one, two, theirs} == set(tmp_path.iterdir())
        assert (theirs / "file").exists()
    process.communicate(timeout=60)
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_ours_stays(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    names = ["tinynas-study", PREFIX + "mine", PREFIX + "Abcdefgh", "x" + PREFIX + "abcdefgh"]
    for name in names:
        (tmp_path / name).mkdir()
    (tmp_path / (PREFIX + "linkxxxx")).symlink_to(elsewhere)
    (tmp_path / (PREFIX + "filexxxx")).write_text("x")
    before = set(tmp_path.iterdir())
    with scratch_folder(tmp_path):
        pass
    assert set(tmp_path.iterdir()) == before


def test_many_at_once_do_not_take_each_others(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from devices.host.scratch import scratch_folder\n"
        "for turn in range(200):\n"
        "    with scratch_folder(Path(sys.argv[1])) as folder:\n"
        "        (folder / 'file').write_text(str(turn)); assert (folder / 'file').read_text() == str(turn)\n"
    )
    run_together(program, tmp_path)
    assert list(tmp_path.iterdir()) == []
