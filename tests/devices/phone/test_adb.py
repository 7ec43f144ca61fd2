"""The real adb against a stand-in phone: what it says is checked, what it starts ends, what is wrong is told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.adb_faults import measure_with_faults, private_adb
from devices.errors import DeviceError
from devices.phone.adb import AdbFaultError, AdbPhone, CommandFailedError, cksum, list_devices
from tests.devices.phone.fake_adbd import FakePhone, Faults
from tests.devices.phone.phone_tools import make_phone
from tests.devices.toy_models import need


@pytest.fixture
def adb(tmp_path: Path) -> Iterator[None]:
    need("adb")
    with private_adb(tmp_path):
        yield


@pytest.fixture(params=["shell_v2", "shell v1"])
def phone(request: pytest.FixtureRequest, adb: None, tmp_path: Path) -> Iterator[FakePhone]:
    stand_in = make_phone(tmp_path / "phone")
    if request.param == "shell v1":
        stand_in.features = ("cmd",)
    with stand_in:
        yield stand_in


@given(st.binary(max_size=600))
def test_cksum_is_that_of_the_command(data: bytes) -> None:
    """Bit by bit, as POSIX defines it."""
    crc = 0
    for byte in data + len(data).to_bytes((len(data).bit_length() + 7) // 8, "little"):
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ 0x04C11DB7 if crc & 0x80000000 else crc << 1) & 0xFFFFFFFF
    assert cksum(data) == crc ^ 0xFFFFFFFF


def test_output_and_exit_code_come_as_they_were(phone: FakePhone, tmp_path: Path) -> None:
    with AdbPhone(phone.serial) as connected:
        finished = connected.shell("echo \"it's\"; printf 'a  b\\tc' | tr t T; echo err >&2".replace("\\t", " t "))
        assert finished.output.splitlines() == ["it's", "a  b T cerr"]
        assert connected.shell("exit 7", check=False).exit_code == 7
        assert connected.shell("printf ''").output == ""
        with pytest.raises(CommandFailedError, match=r"'exit 3' .*exit code 3"):
            connected.shell("exit 3")
        content = os.urandom(200_000)
        (tmp_path / "a").write_bytes(content)
        connected.push(tmp_path / "a", "/data/local/tmp/b")
        assert phone.path("/data/local/tmp/b").read_bytes() == content
        connected.pull("/data/local/tmp/b", tmp_path / "c", len(content))
        assert (tmp_path / "c").read_bytes() == content
    assert all(command.endswith("echo __rc=$?") for command in phone.commands)


@pytest.mark.parametrize(
    "kind",
    ["truncate", "flip", "digit", "no exit code", "garbage", "lose", "repeat", "repeat message", "flip request"],
)
def test_a_damaged_answer_is_no_answer(kind: str, phone: FakePhone) -> None:
    with AdbPhone(phone.serial) as connected:
        phone.faults = Faults(1, 1.0, (kind,))
        for _ in range(6):
            # Some damage is harmless: a line that is lost or repeated before the answer. Then the answer is right.
            try:
                assert connected.shell("echo one; echo two").output == "one\ntwo\n"
            except AdbFaultError:
                continue
        if kind in ("truncate", "flip", "no exit code"):
            with pytest.raises(AdbFaultError):
                connected.shell("echo one; echo two")


@pytest.mark.parametrize(
    ("mood", "message"), [("unauthorized", "unauthorized.*accept this computer's key"), ("gone", "adb finds no phone")]
)
def test_what_is_in_the_way_is_told(mood: str, message: str, adb: None, tmp_path: Path) -> None:
    with FakePhone(tmp_path / "phone", mood=mood) as phone:
        if mood == "gone":
            phone.vanish()
        with pytest.raises(DeviceError, match=message):
            AdbPhone(phone.serial)


def test_the_only_phone_needs_no_name_and_several_do(adb: None, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="adb finds no phone; connect one"):
        AdbPhone()
    with FakePhone(tmp_path / "a") as first, FakePhone(tmp_path / "b") as second, AdbPhone(first.serial):
        with AdbPhone() as only:
            assert only.serial == first.serial
        with AdbPhone(second.serial):
            with pytest.raises(DeviceError, match=rf"finds 2 phones: .*{second.serial}.*--board adb:SERIAL"):
                AdbPhone()
            assert {device.serial for device in list_devices()} == {first.serial, second.serial}


def _servers() -> list[int]:
    """Processes that serve at the port of this test."""
    port = f"ANDROID_ADB_SERVER_PORT={os.environ['ANDROID_ADB_SERVER_PORT']}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                command = (entry / "cmdline").read_bytes().split(b"\0")
                environment = (entry / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if command[0].endswith(b"adb") and port in environment:
                found.append(int(entry.name))
    return found


def test_a_server_of_our_own_ends_with_us_and_the_users_stays(phone: FakePhone) -> None:
    with AdbPhone(phone.serial):
        assert _servers()
    assert _servers() == []
    subprocess.run(["adb", "start-server"], check=True, capture_output=True)
    users = _servers()
    with AdbPhone(phone.serial):
        pass
    assert _servers() == users


def test_a_server_of_our_own_that_hangs_is_replaced(phone: FakePhone) -> None:
    with AdbPhone(phone.serial) as connected:
        (hanging,) = _servers()
        os.kill(hanging, signal.SIGSTOP)
        connected.wait_until_ready()
        assert connected.shell("echo here").output == "here\n"
        assert len(_servers()) == 1
        assert _servers() != [hanging]


def test_a_killed_process_leaves_no_server(phone: FakePhone) -> None:
    code = f"from devices.phone.adb import AdbPhone\np = AdbPhone({phone.serial!r})\nprint('on', flush=True)\ninput()"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"on\n"
    assert _servers()
    process.send_signal(signal.SIGKILL)
    process.wait()
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        pipe.close()
    deadline = time.monotonic() + 30
    while _servers() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert _servers() == []


def test_measurements_over_a_bad_line(tmp_path: Path) -> None:
    need("adb")
    outcome = measure_with_faults(tmp_path, runs=5, rate=0.05, seed=2)
    assert outcome.wrong == []
    assert outcome.failed == []
    assert outcome.right == 5
    assert sum(outcome.faults.values()) >= 5
