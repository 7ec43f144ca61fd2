"""Whether a board of the lab can be used now, and what to do where it cannot."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from devices.boards import BoardEntry, flasher_of, path_of_port, resolve_board
from devices.emulator import EmulatedBoard
from devices.errors import DeviceError
from devices.firmware import FirmwareImage
from devices.flashing.flasher import probe_number
from devices.phone.adb_board import AdbBoard
from devices.profile import DeviceProfile, load_profile
from devices.serial_line.ports import port_info
from devices.serial_line.protocol import ForeignFirmwareError, NoAnswerError
from devices.serial_line.serial_board import SerialBoard

CLOCK_TOLERANCE = 0.02
"""Between what a board says of its clock and what its profile does: so good is an RC oscillator."""

Trial = Callable[[DeviceProfile], tuple[FirmwareImage, bytes]]
"""A small network for a device, and an input for it."""


@dataclass(frozen=True)
class BoardState:
    """What came of looking at one board."""

    board: str
    facts: Mapping[str, str] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    """Why it cannot be used, each with what to do."""
    warnings: tuple[str, ...] = ()
    """What will do for now."""

    @property
    def is_ok(self) -> bool:
        """Whether it can be used."""
        return not self.problems


def check_board(entry: BoardEntry, trial: Trial) -> BoardState:
    """Lock the board, open it, and ask it how it is; an emulated one runs the trial.

    Nothing is written to a real one.
    """
    facts: dict[str, str] = {}
    warnings = _order_of_plugging(entry)
    try:
        with resolve_board(entry.id) as board:
            profile = load_profile(entry.platform)
            if isinstance(board, SerialBoard):
                warnings += _check_serial(board, profile, entry, facts)
            elif isinstance(board, AdbBoard):
                facts |= board.condition()
                warnings += [facts.pop("warnings")] if "warnings" in facts else []
            elif isinstance(board, EmulatedBoard):
                image, given = trial(profile)
                board.flash(image)
                facts["trial"] = f"{board.measure([given]).cycles:,} cycles"
    except DeviceError as error:
        return BoardState(entry.id, facts, (str(error),), tuple(warnings))
    return BoardState(entry.id, facts, (), tuple(warnings))


def _check_serial(board: SerialBoard, profile: DeviceProfile, entry: BoardEntry, facts: dict[str, str]) -> list[str]:
    """Note down what the board is and runs; returns warnings. Raises DeviceError when it is not fit for use."""
    assert entry.serial is not None
    facts["port"] = board.session.port.path
    flasher = flasher_of(profile, entry)
    if flasher is not None:
        probes = flasher.probes()
        facts["flasher"] = flasher.runner + (f", probe {flasher.probe_id}" if flasher.probe_id else "")
        wanted = None if flasher.probe_id is None else probe_number(flasher.probe_id)
        if wanted is not None and probes and wanted not in {probe_number(probe.id) for probe in probes}:
            seen = ", ".join(probe.id for probe in probes)
            raise DeviceError(
                f"the probe {flasher.probe_id} of the board {entry.id} is not plugged in: plug it in, or correct its "
                f"probe_id; {flasher.runner} sees {seen}"
            )
    try:
        board.session.sync()
        info, memory = board.session.info(), board.session.memory()
    except (NoAnswerError, ForeignFirmwareError) as error:
        if flasher is None:
            raise
        return [f"{error}; its next measurement writes the firmware"]
    facts["model"] = f"{info.model_name} ({info.model_id})"
    facts["clock"] = f"{info.ticks_per_second / 1e6:g} MHz"
    facts["baud"] = str(board.session.port.baud)
    facts["memory"] = (
        f"arena {memory.arena:,} B, free {memory.free:,} B, stack {memory.stack_used:,} of {memory.stack:,} B"
    )
    if repetitions := board.session.statistics.repetitions:
        facts["repetitions"] = str(repetitions)
    if abs(info.ticks_per_second / profile.clock_hz - 1) > CLOCK_TOLERANCE:
        raise DeviceError(
            f"the clock of the board {entry.id} runs at {facts['clock']}, and that of a {profile.name} at "
            f"{profile.clock_hz / 1e6:g} MHz: check its platform, and that its firmware is of that part"
        )
    if flasher is None:
        return ["nothing is known that writes to it, so it runs no other model: give its runner or its probe_id"]
    return []


def _order_of_plugging(entry: BoardEntry) -> list[str]:
    """Warn of a port whose name goes by the order of plugging in."""
    if entry.serial is None or entry.serial != os.path.realpath(path_of_port(entry.serial)):
        return []
    info = port_info(entry.serial)
    if info is None or info.vid is None:
        return []
    better = info.by_id or (f"usb={info.usb_serial}" if info.usb_serial else "")
    return [
        f"{entry.serial} may be another board after the next start"
        + (f'; write serial = "{better}" in its place' if better else ", and its USB device has no serial number")
    ]
