"""Serial ports: which there are, by their USB serial numbers; and an open one, which may be pulled out and come back.

A board is named by its USB serial number or by ``/dev/serial/by-id``, never by ``ttyACM0``: that goes by the order of
plugging in.
"""

from __future__ import annotations

import errno
import os
import re
import termios
import time
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import serial
from serial.tools import list_ports as usb_ports

from devices.errors import DeviceError

BAUD = 115_200
"""MLPerf Tiny's, and the harness's after every reset."""
READ_WAIT_S = 0.01
WRITE_TIMEOUT_S = 10.0
REPLUG_S = 30.0
REPLUG_POLL_S = 0.02
AWAIT_S = 2.0
PULSE_S = 0.1
BREAK_S = 0.25

_BY_ID = Path("/dev/serial/by-id")
_URL = re.compile(r"[a-z0-9+]+://", re.IGNORECASE)
_PATH = re.compile(r"/|\\|^COM\d+$", re.IGNORECASE)
_PORT_ERRORS = (OSError, serial.SerialException, termios.error)


class PortGoneError(DeviceError):
    """The port was there and is no longer: unplugged, or its other end was closed."""


class ResetMode(StrEnum):
    """How to make a board start again when it does not answer."""

    NONE = "none"
    COMMAND = "command"
    """The harness's own ``restart``, which a hung board does not hear."""
    DTR = "dtr"
    """A pulse on DTR, as on an Arduino."""
    RTS = "rts"
    """A pulse on RTS with DTR off, as on an ESP32, which otherwise starts its boot loader."""
    BREAK = "break"


@dataclass(frozen=True)
class Levels:
    """What a board needs on the control lines: some do not talk without DTR, others stay in reset with it."""

    dtr: bool = True
    rts: bool = True


DEFAULT_LEVELS = Levels()


@dataclass(frozen=True)
class PortInfo:
    """One serial port of this machine."""

    path: str
    usb_serial: str | None
    vid: int | None
    pid: int | None
    product: str | None
    by_id: str | None
    interface: str = ""
    """Which of the ports of one USB device, such as ``1.2``; empty when it has only one."""


def list_ports() -> tuple[PortInfo, ...]:
    """Every serial port that the system knows, sorted by path. Pseudo-terminals are none of them."""
    links = {os.path.realpath(link): str(link) for link in sorted(_BY_ID.glob("*"))} if _BY_ID.is_dir() else {}
    found = [
        PortInfo(
            path=port.device,
            usb_serial=port.serial_number or None,
            vid=port.vid,
            pid=port.pid,
            product=port.product,
            by_id=links.get(os.path.realpath(port.device)),
            interface=(port.location or "").partition(":")[2],
        )
        for port in usb_ports.comports()
    ]
    return tuple(sorted(found, key=lambda port: port.path))


def find_port(spec: str) -> str:
    """The path or URL that ``spec`` names: itself, or that of the port with this USB serial number.

    ``usb=FT4XYZ`` is always a USB serial number; so is whatever is neither a path, nor ``COM3``, nor a URL. Raises
    DeviceError when no port has the number, or several have.
    """
    number = _usb_serial_of(spec)
    if number is None:
        return spec
    ports = list_ports()
    found = [port for port in ports if port.usb_serial == number]
    if len(found) == 1:
        return found[0].path
    if found:
        names = ", ".join(port.by_id or port.path for port in found)
        raise DeviceError(f"the USB device {number} has {len(found)} serial ports: choose one by its path: {names}")
    known = ", ".join(f"{port.usb_serial} ({port.path})" for port in ports if port.usb_serial) or "none"
    raise DeviceError(f"no serial port has the USB serial number {number}; is it plugged in? There are: {known}")


def await_port(spec: str, wait_s: float = AWAIT_S) -> str:
    """What find_port says, as soon as the port is there: it may just be coming back from a reset or a new cable.

    Raises DeviceError as find_port does; a path that never comes is returned all the same, for opening it says more.
    """
    deadline = time.monotonic() + wait_s
    while True:
        is_last = time.monotonic() >= deadline
        try:
            path = find_port(spec)
            if is_last or not path.startswith("/") or Path(path).exists():
                return path
        except DeviceError:
            if is_last:
                raise
        time.sleep(REPLUG_POLL_S)


def port_info(path: str) -> PortInfo | None:
    """What the system knows of a port; None of a pseudo-terminal or a URL."""
    real = os.path.realpath(path)
    return next((port for port in list_ports() if os.path.realpath(port.path) == real), None)


def open_port(spec: str, board: str, *, levels: Levels = DEFAULT_LEVELS, replug_s: float = REPLUG_S) -> Port:
    """Open the port that ``spec`` names, at BAUD. Raises DeviceError when it is not there or in use."""
    return Port(spec, board, levels=levels, replug_s=replug_s)


class Port:
    """An open serial port. When it goes away, every call raises PortGoneError until ``reopen`` has found it again."""

    def __init__(self, spec: str, board: str, *, levels: Levels, replug_s: float) -> None:
        """See open_port."""
        self._board = board
        self._spec = spec
        self._levels = levels
        self._replug_s = replug_s
        self._baud = BAUD
        self._serial: serial.Serial | None = None
        self._open(find_port(spec))
        self.info = port_info(self.path)
        """The port as it was when it was first opened."""

    @property
    def path(self) -> str:
        """Where it is open, or was last."""
        return self._path

    @property
    def baud(self) -> int:
        """The speed at this end."""
        return self._baud

    @property
    def has_baud(self) -> bool:
        """Whether the speed means anything: a bare socket does not pass it on, and a pseudo-terminal has none."""
        return not self.is_socket and not self._real_path.startswith("/dev/pts/")

    @property
    def is_socket(self) -> bool:
        """Whether bytes go to a bare socket, and nothing else."""
        return self._path.lower().startswith("socket://")

    def read(self) -> bytes:
        """What has come; waits for the first byte, at most READ_WAIT_S."""
        port = self._opened()
        try:
            return bytes(port.read(max(1, port.in_waiting)))
        except _PORT_ERRORS as error:
            raise self._gone(error) from error

    def write(self, data: bytes) -> None:
        """Send ``data``. Raises PortGoneError also when the port takes nothing for seconds."""
        port = self._opened()
        try:
            port.write(data)
        except serial.SerialTimeoutException as error:
            raise PortGoneError(f"the port {self._path} of the board {self._board} takes no more bytes") from error
        except _PORT_ERRORS as error:
            raise self._gone(error) from error

    def set_baud(self, baud: int) -> None:
        """Change the speed at this end, once what was written is out."""
        port = self._opened()
        if baud == self._baud:
            return
        try:
            port.flush()
            port.baudrate = baud
        except ValueError as error:
            raise DeviceError(f"the port {self._path} cannot do {baud} baud: {error}; choose another speed") from error
        except _PORT_ERRORS as error:
            raise self._gone(error) from error
        self._baud = baud

    def reset(self, mode: ResetMode) -> None:
        """Reset the board over the control lines or by a break; the other modes do nothing here."""
        port = self._opened()
        try:
            if mode is ResetMode.BREAK:
                port.send_break(BREAK_S)
            elif mode is ResetMode.DTR:
                port.dtr = not self._levels.dtr
                time.sleep(PULSE_S)
                port.dtr = self._levels.dtr
            elif mode is ResetMode.RTS:
                port.dtr = False
                port.rts = not self._levels.rts
                time.sleep(PULSE_S)
                port.rts = self._levels.rts
                port.dtr = self._levels.dtr
        except _PORT_ERRORS as error:
            raise self._gone(error) from error

    def has_moved(self) -> bool:
        """Whether the path leads elsewhere by now, or nowhere: the board was plugged in again."""
        return not _URL.match(self._path) and os.path.realpath(self._path) != self._real_path

    def reopen(self) -> None:
        """Close the port, and open the same board's again, wherever it is by now, at BAUD.

        Raises DeviceError when it does not come back in time.
        """
        self.close()
        self._baud = BAUD
        deadline = time.monotonic() + self._replug_s
        while True:
            try:
                self._open(self._find_again())
                return
            except DeviceError as error:
                if time.monotonic() >= deadline:
                    raise DeviceError(
                        f"the board {self._board} has gone and did not come back within {self._replug_s:.0f} s: {error}"
                    ) from error
            time.sleep(REPLUG_POLL_S)

    def close(self) -> None:
        """Close the port; closing twice is fine."""
        port, self._serial = self._serial, None
        if port is not None:
            with suppress(*_PORT_ERRORS):  # it has gone, which is as good
                port.close()

    def _find_again(self) -> str:
        """By its USB serial number where it has one, for the path may be another; else by the same name."""
        if self.info is None or self.info.usb_serial is None:
            return find_port(self._spec)
        for port in list_ports():
            if (port.usb_serial, port.interface) == (self.info.usb_serial, self.info.interface):
                return port.path
        raise DeviceError(f"no serial port has the USB serial number {self.info.usb_serial}; connect it again")

    def _open(self, path: str) -> None:
        try:
            port = serial.serial_for_url(path, do_not_open=True, exclusive=True)
            port.baudrate = self._baud
            # Never changed while it is open: behind rfc2217:// every change is negotiated anew.
            port.timeout = READ_WAIT_S
            if not path.lower().startswith("rfc2217://"):  # where pyserial knows of no such thing
                port.write_timeout = WRITE_TIMEOUT_S
            # Before it is open, or a board that is reset by these lines gets a pulse more than it has to.
            port.dtr = self._levels.dtr
            port.rts = self._levels.rts
            port.open()
        except (*_PORT_ERRORS, ValueError) as error:
            raise DeviceError(
                f"cannot open the port {path} of the board {self._board}: {error}; {_advice(error)}"
            ) from error
        self._serial, self._path, self._real_path = port, path, os.path.realpath(path)

    def _opened(self) -> serial.Serial:
        if self._serial is None:
            raise PortGoneError(f"the port {self._path} of the board {self._board} is not open")
        return self._serial

    def _gone(self, error: Exception) -> PortGoneError:
        return PortGoneError(f"the board {self._board} has gone: {error}; connect it again")


def _usb_serial_of(spec: str) -> str | None:
    """The USB serial number that ``spec`` is, or None when it is a path or a URL."""
    kind, _, number = spec.partition("=")
    if kind == "usb" and number:
        return number
    return None if _URL.match(spec) or _PATH.search(spec) or Path(spec).exists() else spec


def _advice(error: Exception) -> str:
    number = getattr(error, "errno", None)
    if number in (errno.EACCES, errno.EPERM):
        return "you may not use it: join the group that owns it, mostly dialout"
    if number in (errno.EAGAIN, errno.EBUSY):
        return "another program uses it: end that"
    return "is it plugged in?"
