"""From what a person types after ``--board`` to a board, by way of the lab's ``boards.toml``.

``boards.toml`` has the shape of the hardware map of Zephyr's twister, one table per board::

    [[board]]
    id = "bench-3"
    platform = "stm32f405"                                # a device profile
    serial = "/dev/serial/by-id/usb-FTDI_…-if00-port0"    # never ttyACM0: that depends on the order of plugging in
    probe_id = "066EFF…"
    runner = "openocd"
    fixtures = ["power-meter"]
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from devices.board import Board
from devices.emulator import EmulatedBoard
from devices.errors import DeviceError
from devices.profile import DEFAULT_DEVICE, load_profile
from devices.serial_board import SerialBoard


class BoardEntry(BaseModel):
    """One board of the lab."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    platform: str
    serial: str | None = None
    probe_id: str | None = None
    runner: str | None = None
    fixtures: tuple[str, ...] = ()


class _BoardsFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    board: tuple[BoardEntry, ...] = ()


def boards_file() -> Path:
    """Where the lab's boards are listed: ``$TINYNAS_BOARDS``, or ``boards.toml`` in the user's configuration folder."""
    if path := os.environ.get("TINYNAS_BOARDS"):
        return Path(path)
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "tinynas" / "boards.toml"


def known_boards() -> tuple[BoardEntry, ...]:
    """The boards of ``boards.toml``; none when there is no such file. Raises DeviceError when it is not valid."""
    path = boards_file()
    if not path.exists():
        return ()
    try:
        entries = _BoardsFile.model_validate(tomllib.loads(path.read_text(encoding="utf-8"))).board
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise DeviceError(f"{path} is not a valid list of boards: {where}: {first['msg']}; correct it") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DeviceError(f"{path} is not a valid list of boards: {error}; correct it") from error
    names = [entry.id for entry in entries]
    for name in names:
        if names.count(name) > 1:
            raise DeviceError(f"{path} lists the board '{name}' twice; give each its own id")
    return entries


def resolve_board(spec: str, device: str | None = None) -> Board:
    """The board that ``spec`` names: ``emulator``, ``serial:PORT``, ``adb:SERIAL``, or an id from ``boards.toml``.

    ``device`` is the device profile; ``boards.toml`` knows it for its boards, elsewhere it is stm32f405 unless given.
    Raises DeviceError when there is no such board or device, or when the two do not belong together.
    """
    kind, _, argument = spec.partition(":")
    if spec == "emulator":
        return EmulatedBoard(load_profile(device or DEFAULT_DEVICE))
    if kind == "serial" and argument:
        return SerialBoard(argument, load_profile(device or DEFAULT_DEVICE))
    if kind == "adb":
        raise DeviceError(f"the board '{spec}' cannot be used yet: phones over ADB come with a later release")
    for entry in known_boards():
        if entry.id == spec:
            return _lab_board(entry, device)
    names = ", ".join(["emulator", "serial:PORT", *(entry.id for entry in known_boards())])
    raise DeviceError(f"there is no board '{spec}'; choose from {names}, or add it to {boards_file()}")


def _lab_board(entry: BoardEntry, device: str | None) -> Board:
    if device is not None and device != entry.platform:
        raise DeviceError(f"the board '{entry.id}' is a {entry.platform}, not a {device}; leave out --device")
    if entry.serial is None:
        raise DeviceError(f"the board '{entry.id}' has no serial port in {boards_file()}; add its serial = \"…\"")
    return SerialBoard(entry.serial, load_profile(entry.platform), entry.id)
