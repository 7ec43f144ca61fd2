"""Serial ports found by their USB serial numbers, opened with the right levels, and found again elsewhere."""

from __future__ import annotations

import os
import threading
import tty
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import serial
from serial.tools.list_ports_common import ListPortInfo

from devices.errors import DeviceError
from devices.serial_line import ports
from devices.serial_line.ports import (
    Levels,
    PortGoneError,
    PortInfo,
    ResetMode,
    await_port,
    find_port,
    list_ports,
    open_port,
)


def usb_port(path: str, number: str | None, location: str = "1-1.2") -> ListPortInfo:
    port = ListPortInfo(path)
    port.serial_number, port.location = number, location
    port.vid, port.pid, port.product = (0x0403, 0x6001, "FT232R") if number else (None, None, None)
    return port


@pytest.fixture
def plugged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[ListPortInfo]:
    """What is plugged in; the folder of by-id names is in ``tmp_path``."""
    found: list[ListPortInfo] = []
    monkeypatch.setattr(ports.usb_ports, "comports", lambda: list(found))
    monkeypatch.setattr(ports, "_BY_ID", tmp_path / "by-id")
    return found


@pytest.fixture
def terminal() -> Iterator[tuple[str, int]]:
    """A pseudo-terminal's path and its other end."""
    end, other = os.openpty()
    tty.setraw(other)
    yield os.ttyname(other), end
    os.close(other)
    os.close(end)


def test_ports_are_listed_with_their_lasting_names(plugged: list[ListPortInfo], tmp_path: Path) -> None:
    device = tmp_path / "ttyUSB0"
    device.touch()
    (tmp_path / "by-id").mkdir()
    link = tmp_path / "by-id" / "usb-FTDI_FT232R_FT4XYZ-if00-port0"
    link.symlink_to(device)
    plugged += [usb_port(str(device), "FT4XYZ"), usb_port("/dev/ttyS0", None, "")]
    assert list_ports() == (
        PortInfo("/dev/ttyS0", None, None, None, None, None),
        PortInfo(str(device), "FT4XYZ", 0x0403, 0x6001, "FT232R", str(link)),
    )


def test_a_board_is_named_by_its_usb_serial_number(plugged: list[ListPortInfo]) -> None:
    plugged += [usb_port("/dev/ttyUSB1", "FT4XYZ"), usb_port("/dev/ttyUSB0", "OTHER")]
    assert find_port("usb=FT4XYZ") == find_port("FT4XYZ") == "/dev/ttyUSB1"


@pytest.mark.parametrize(
    "spec", ["/dev/serial/by-id/usb-FTDI-if00", "COM3", "socket://lab:4000", "rfc2217://lab:4000", "./port"]
)
def test_paths_and_addresses_are_taken_as_they_are(plugged: list[ListPortInfo], spec: str) -> None:
    assert find_port(spec) == spec


def test_a_number_that_is_not_there_says_which_are(plugged: list[ListPortInfo]) -> None:
    with pytest.raises(DeviceError, match=r"no serial port has the USB serial number FT4XYZ; .* There are: none"):
        find_port("FT4XYZ")
    plugged.append(usb_port("/dev/ttyUSB0", "OTHER"))
    with pytest.raises(DeviceError, match=r"There are: OTHER \(/dev/ttyUSB0\)"):
        find_port("usb=FT4XYZ")


def test_a_number_with_two_ports_is_not_guessed_at(plugged: list[ListPortInfo]) -> None:
    plugged += [usb_port("/dev/ttyACM0", "AB", "1-1:1.0"), usb_port("/dev/ttyACM1", "AB", "1-1:1.2")]
    with pytest.raises(DeviceError, match=r"AB has 2 serial ports: choose one by its path: /dev/ttyACM0, /dev/ttyACM1"):
        find_port("AB")


def test_a_port_that_is_not_there_is_an_error() -> None:
    with pytest.raises(DeviceError, match=r"cannot open the port /dev/no-such-port of the board bench: .* plugged in"):
        open_port("/dev/no-such-port", "bench")


def test_a_port_in_use_says_so(terminal: tuple[str, int]) -> None:
    first = open_port(terminal[0], "bench")
    with pytest.raises(DeviceError, match="another program uses it: end that"):
        open_port(terminal[0], "second")
    first.close()
    first.close()
    open_port(terminal[0], "second").close()


def test_bytes_go_both_ways_until_the_other_end_goes() -> None:
    end, other = os.openpty()
    tty.setraw(other)
    port = open_port(os.ttyname(other), "bench")
    os.close(other)
    port.write(b"hello")
    assert os.read(end, 10) == b"hello"
    os.write(end, b"there")
    assert port.read() + port.read() == b"there"
    assert port.read() == b""
    os.close(end)
    with pytest.raises(PortGoneError, match="the board bench has gone"):
        port.read()
    with pytest.raises(PortGoneError):
        port.write(b"hello")
    port.close()
    with pytest.raises(PortGoneError, match="is not open"):
        port.read()


def test_a_path_that_leads_elsewhere_is_noticed(terminal: tuple[str, int], tmp_path: Path) -> None:
    link = tmp_path / "port"
    link.symlink_to(terminal[0])
    port = open_port(str(link), "bench")
    assert not port.has_moved()
    link.unlink()
    assert port.has_moved()
    link.symlink_to("/dev/null")
    assert port.has_moved()
    port.close()


def test_a_port_that_is_just_coming_back_is_waited_for(
    plugged: list[ListPortInfo], terminal: tuple[str, int], tmp_path: Path
) -> None:
    link = tmp_path / "port"
    timer = threading.Timer(0.1, link.symlink_to, [terminal[0]])
    timer.start()
    assert await_port(str(link), 10) == str(link)
    timer.join()
    assert link.exists()
    plug = threading.Timer(0.1, plugged.append, [usb_port(terminal[0], "AB")])
    plug.start()
    assert await_port("AB", 10) == terminal[0]
    plug.join()
    assert await_port("/dev/no-such-port", 0) == "/dev/no-such-port"
    with pytest.raises(DeviceError, match="no serial port has the USB serial number OTHER"):
        await_port("OTHER", 0)


def test_a_board_is_found_again_at_another_path(plugged: list[ListPortInfo]) -> None:
    """By its USB serial number, and by the interface of it; what has its path by now is somebody else."""
    ends = [os.openpty() for _ in range(3)]
    paths = [os.ttyname(other) for _, other in ends]
    for _, other in ends:
        tty.setraw(other)
    plugged += [usb_port(paths[0], "AB", "1-1:1.2"), usb_port(paths[1], "AB", "1-1:1.0")]
    port = open_port(paths[0], "bench", replug_s=0.2)
    plugged[:] = [usb_port(paths[0], "OTHER", "1-2"), usb_port(paths[1], "AB", "1-3:1.0")]
    plugged.append(usb_port(paths[2], "AB", "1-3:1.2"))
    port.reopen()
    assert port.path == paths[2]
    port.write(b"x")
    assert os.read(ends[2][0], 1) == b"x"
    del plugged[2]
    with pytest.raises(DeviceError, match=r"bench has gone and did not come back .* USB serial number AB"):
        port.reopen()
    port.close()
    for end, other in ends:
        os.close(end)
        os.close(other)


@dataclass
class Wire:
    """A port that writes down what is done to its lines."""

    events: list[tuple[str, Any]] = field(default_factory=list)

    def __setattr__(self, name: str, value: object) -> None:
        if name in ("dtr", "rts", "baudrate"):
            self.events.append((name, value))
        super().__setattr__(name, value)

    def open(self) -> None:
        self.events.append(("open", None))

    def send_break(self, seconds: float) -> None:
        self.events.append(("break", seconds))

    def flush(self) -> None:
        self.events.append(("flush", None))

    def close(self) -> None:
        pass


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Wire:
    wire = Wire()
    monkeypatch.setattr(serial, "serial_for_url", lambda *_, **__: wire)
    monkeypatch.setattr(ports, "PULSE_S", 0.0)
    return wire


def test_the_lines_have_their_levels_before_the_port_opens(wire: Wire) -> None:
    open_port("/dev/ttyUSB0", "bench", levels=Levels(dtr=False, rts=True))
    assert wire.events == [("baudrate", 115_200), ("dtr", False), ("rts", True), ("open", None)]


@pytest.mark.parametrize(
    ("mode", "levels", "events"),
    [
        (ResetMode.DTR, Levels(), [("dtr", False), ("dtr", True)]),
        (ResetMode.DTR, Levels(dtr=False), [("dtr", True), ("dtr", False)]),
        (ResetMode.RTS, Levels(rts=False), [("dtr", False), ("rts", True), ("rts", False), ("dtr", True)]),
        (ResetMode.BREAK, Levels(), [("break", 0.25)]),
        (ResetMode.NONE, Levels(), []),
        (ResetMode.COMMAND, Levels(), []),
    ],
)
def test_a_reset_leaves_the_lines_as_they_were(
    wire: Wire, mode: ResetMode, levels: Levels, events: list[tuple[str, Any]]
) -> None:
    port = open_port("/dev/ttyUSB0", "bench", levels=levels)
    wire.events.clear()
    port.reset(mode)
    assert wire.events == events


def test_a_speed_is_changed_when_what_was_written_is_out(wire: Wire) -> None:
    port = open_port("/dev/ttyUSB0", "bench")
    wire.events.clear()
    port.set_baud(115_200)
    assert wire.events == []
    port.set_baud(921_600)
    assert wire.events == [("flush", None), ("baudrate", 921_600)]
    assert port.baud == 921_600
