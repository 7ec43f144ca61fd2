"""Boards that are flashed by copying a file to a drive they show: finds the right one, and what became of the file.

DAPLink is such a thing, and so are UF2 boot loaders.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from devices.errors import DeviceError
from devices.flashing import usb

POLL_S = 0.05
SETTLE_S = 10.0
"""How long DAPLink may take to show its drive anew once it has the whole file, and the system to mount it."""
FAILURE_FILE = "FAIL.TXT"


@dataclass(frozen=True)
class Drive:
    """The mounted drive of one board."""

    folder: Path
    marker: str
    """The file by which such a drive is known."""
    drive: usb.UsbDrive | None
    """None for a folder that was given by name."""

    def is_there(self) -> bool:
        """Whether the board still shows the drive."""
        if self.drive is not None and not any(drive.node == self.drive.node for drive in usb.usb_drives()):
            return False
        try:
            return (self.folder / self.marker).is_file()
        except OSError:
            return False


def find_drive(label: str, marker: str, board: str | None, shared_serial: str | None) -> Drive:
    """The drive called ``label`` with the file ``marker`` on it.

    ``board`` tells one from several: the drive's USB serial number, the USB port that the board is plugged into
    (``1-1.4``), or the folder where the drive is mounted. ``shared_serial`` is a serial number that every such board
    has, so that it tells nothing. Raises DeviceError when there is no such drive, when there are several, and when it
    is not mounted.
    """
    if board is not None and board.startswith("/"):
        found = Drive(Path(board), marker, None)
        if not found.is_there():
            raise DeviceError(f"{board} is no {label} drive: there is no {marker} in it; mount the board's drive there")
        return found
    drives = [drive for drive in usb.usb_drives() if drive.label == label]
    if not drives:
        raise DeviceError(f"no drive is called {label}: plug the board in so that it shows its drive, and run again")
    matching = [drive for drive in drives if board is None or _is_board(drive, board)]
    if not matching:
        shared = [drive for drive in drives if drive.device is not None and drive.device.serial == shared_serial]
        hint = " (boards of this kind all have the same serial number: give the USB port)" if shared else ""
        raise DeviceError(f"no {label} drive belongs to {board}{hint}; there are {_describe(drives)}")
    if len(matching) > 1 or (board is not None and board == shared_serial):
        raise DeviceError(
            f"{len(matching)} {label} drives could be meant: give the board's probe_id in boards.toml, the serial "
            f"number or the USB port of one of {_describe(matching)}"
        )
    (drive,) = matching
    if drive.folder is None:
        raise DeviceError(f"the drive {label} ({drive.node}) is not mounted: udisksctl mount -b {drive.node}")
    found = Drive(drive.folder, marker, drive)
    if not found.is_there():
        raise DeviceError(f"{drive.folder} is called {label}, but there is no {marker} in it: is it another board's?")
    return found


def write_to_drive(drive: Drive, file: Path, timeout_s: float) -> None:
    """Copy ``file`` to the drive and wait until the board took it.

    A UF2 boot loader starts the program, and its drive goes away. DAPLink shows its drive anew, without the file. Where
    nobody mounts it again, that cannot be seen, so that only the board can tell what it runs. Raises DeviceError when
    the file cannot be written, when the boot loader did not take it, and with DAPLink's own words when it refused it.
    """
    target = drive.folder / file.name
    content = file.read_bytes()
    try:
        # Straight, without a temporary name: such a drive is no file system, it reads the sectors as they come.
        with target.open("wb", buffering=0) as out:
            if out.write(content) != len(content):
                raise OSError(0, "it is full")
            os.fsync(out.fileno())
    except OSError as error:
        # The board may go away with the last sector, before the system is told that it was written.
        if drive.is_there():
            raise DeviceError(
                f"{target} cannot be written: {error.strerror or error}; plug the board in again"
            ) from error
    if file.suffix == ".uf2":
        if not _wait_until(lambda: not drive.is_there(), timeout_s):
            raise DeviceError(
                f"the board did not take {target} within {timeout_s:.0f} s, its drive is still there: plug it in "
                f"again, and check that it is the right board"
            )
    elif _wait_until(lambda: not target.exists(), SETTLE_S) and _wait_until(
        lambda: _again(drive) is not None, SETTLE_S
    ):
        failure = (_again(drive) or drive.folder) / FAILURE_FILE
        if failure.is_file():
            reason = " ".join(failure.read_text(encoding="utf-8", errors="replace").split())
            raise DeviceError(f"the board refused {file.name}: {reason}; plug it in again, or choose another runner")


def _again(drive: Drive) -> Path | None:
    """Where the drive is mounted by now: it may have got another folder."""
    if drive.drive is None:
        return drive.folder if drive.is_there() else None
    return next((now.folder for now in usb.usb_drives() if now.node == drive.drive.node), None)


def _is_board(drive: usb.UsbDrive, board: str) -> bool:
    if drive.device is not None:
        return drive.device.serial.casefold() == board.casefold() or drive.device.port == board
    return drive.folder is not None and _unique_id(drive.folder).casefold() == board.casefold()


def _unique_id(folder: Path) -> str:
    """What DAPLink writes into DETAILS.TXT: the serial number of its USB device."""
    try:
        details = (folder / "DETAILS.TXT").read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
    found = re.search(r"^(?:Unique|Auto generated) ID:\s*(\S+)", details, re.MULTILINE | re.IGNORECASE)
    return found[1] if found is not None else ""


def _describe(drives: list[usb.UsbDrive]) -> str:
    return ", ".join(
        f"{drive.node} (serial number {drive.device.serial or 'none'}, USB port {drive.device.port})"
        if drive.device is not None
        else drive.node
        for drive in drives
    )


def _wait_until(true: Callable[[], bool], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not true():
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_S)
    return True
