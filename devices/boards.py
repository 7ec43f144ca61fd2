"""From what a person types after ``--board`` to a board, by way of the lab's ``boards.toml``.

``boards.toml`` has the shape of the hardware map of Zephyr's twister, one table per board::

    [[board]]
    id = "bench-3"
    platform = "stm32f405"                                # a device profile
    serial = "/dev/serial/by-id/usb-FTDI_…-if00-port0"    # or its USB serial number; never ttyACM0, which depends on
    probe_id = "066EFF…"                                  # the order of plugging in
    runner = "openocd"
    fixtures = ["power-meter"]

    [[board]]
    id = "pixel"
    platform = "pixel2"
    adb = "HT7A1A00123"

    [[board]]
    id = "emulated-1"
    platform = "stm32f405"
    emulator = true
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, field_validator, model_validator

from devices.board import Board
from devices.emulator import EmulatedBoard
from devices.errors import DeviceError
from devices.flashing.flasher import Flasher, flasher_for, probe_number, tools
from devices.host.locks import port_identity
from devices.phone.adb_board import AdbBoard, PhoneOptions
from devices.profile import DEFAULT_DEVICE, DeviceProfile, device_names, load_profile
from devices.serial_line.ports import BAUD, Levels, ResetMode, find_port
from devices.serial_line.serial_board import SerialBoard

DEFAULT_PHONE = "android"
"""The profile of a phone of which nothing else is said."""
UNKNOWN_PLATFORM = "unknown"
"""What `tinynas boards scan` writes where it cannot tell what part a board has."""

BoardKind = Literal["serial", "adb", "emulated", "unconnected"]


class BoardEntry(BaseModel):
    """One board of the lab. The fields that twister's hardware map has too mean the same there."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(min_length=1, pattern=r"^[^\s:]+$")
    platform: str
    """A device profile, or ``unknown``."""
    product: str | None = None
    """What the board, its probe or its port calls itself."""
    notes: str | None = None
    available: bool = True
    """False for a board that is not to be used for now."""
    fixtures: tuple[str, ...] = ()
    """What is attached to it; ``--board fixture:NAME`` takes every board with that."""

    serial: str | None = Field(default=None, min_length=1)
    """Its port: a ``by-id`` path, its USB serial number, ``COM3``, ``socket://…`` or ``rfc2217://…``."""
    baud: PositiveInt | None = None
    """The speed to change to once the board answers at 115,200; it stays there where it cannot."""
    reset: ResetMode | None = None
    """How to make it start again when it does not answer."""
    dtr: bool | None = None
    """False for a board that does not run with DTR on; likewise ``rts``."""
    rts: bool | None = None
    probe_id: str | None = Field(default=None, min_length=1)
    runner: str | None = Field(default=None, min_length=1)
    """The tool that writes its flash; by default the first of its profile's that is installed."""

    adb: str | None = Field(default=None, min_length=1)
    """A phone's serial number, or HOST:PORT."""
    core_mask: str | None = Field(default=None, pattern=r"^(0x)?[0-9a-fA-F]+$")
    """The phone's cores to run on, in hexadecimal, as for ``taskset``."""
    threads: PositiveInt | None = None
    benchmark_model: str | None = Field(default=None, min_length=1)
    """The ``benchmark_model`` to push to the phone."""

    emulator: bool = False
    """Whether it is the emulated board of its platform."""

    @field_validator("id")
    @classmethod
    def _is_no_other_name(cls, name: str) -> str:
        if name == "emulator":
            raise ValueError("'emulator' always means the emulated board; choose another id")
        return name

    @field_validator("platform")
    @classmethod
    def _is_a_profile(cls, platform: str) -> str:
        if platform != UNKNOWN_PLATFORM:
            try:
                load_profile(platform)
            except DeviceError as error:
                raise ValueError(str(error)) from error
        return platform

    @model_validator(mode="after")
    def _is_one_kind(self) -> Self:
        ways = {"serial": self.serial is not None, "adb": self.adb is not None, "emulator": self.emulator}
        given = [name for name, is_given in ways.items() if is_given]
        if len(given) > 1:
            raise ValueError(f"it has {' and '.join(given)}, and a board is reached in one way; leave out the others")
        for name, owner in _BELONGS_TO.items():
            if getattr(self, name) is not None and given and given[0] != owner:
                raise ValueError(f"{name} belongs to a board with {owner}, and this one has {given[0]}; leave it out")
        return self

    @property
    def kind(self) -> BoardKind:
        """How it is reached."""
        if self.adb is not None:
            return "adb"
        if self.emulator:
            return "emulated"
        return "serial" if self.serial is not None else "unconnected"


_BELONGS_TO = {
    "baud": "serial",
    "reset": "serial",
    "dtr": "serial",
    "rts": "serial",
    "probe_id": "serial",
    "runner": "serial",
    "core_mask": "adb",
    "threads": "adb",
    "benchmark_model": "adb",
}
"""Fields that mean something for one kind of board only."""


class _BoardsFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    board: tuple[BoardEntry, ...] = ()


@dataclass(frozen=True)
class OpenBoards:
    """Boards of one platform, open for use by this process alone."""

    platform: str
    boards: tuple[Board, ...]
    left_out: tuple[str, ...]
    """Why a board that a selection would have taken is not among them: busy, or not to be opened."""


def boards_file() -> Path:
    """Where the lab's boards are listed: ``$TINYNAS_BOARDS``, or ``boards.toml`` in the user's configuration folder."""
    if path := os.environ.get("TINYNAS_BOARDS"):
        return Path(path)
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "tinynas" / "boards.toml"


def known_boards() -> tuple[BoardEntry, ...]:
    """The boards of ``boards.toml``; none when there is no such file. Raises DeviceError when it is not valid."""
    path = boards_file()
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ()
    except (OSError, UnicodeDecodeError) as error:
        raise DeviceError(f"{path} is not a valid list of boards: {error}; correct it") from error
    return parse_boards(text, path)


@cache  # every board that is opened asks for the list, and each USB serial number in it has all ports listed
def parse_boards(text: str, path: Path) -> tuple[BoardEntry, ...]:
    """The boards that the TOML ``text`` of ``path`` lists. Raises DeviceError naming the file, the board, the field."""
    raw: dict[str, Any] = {}
    try:
        raw = tomllib.loads(text)
        entries = _BoardsFile.model_validate(raw).board
    except tomllib.TOMLDecodeError as error:
        raise DeviceError(f"{path} is not a valid list of boards: {error}; correct it") from error
    except ValidationError as error:
        reasons = "; ".join(_reason(raw, detail) for detail in error.errors())
        raise DeviceError(f"{path} is not a valid list of boards: {reasons}; correct it") from error
    for what, key in _UNIQUE.items():
        _require_unique(entries, what, key, path)
    return entries


def resolve_board(spec: str, device: str | None = None) -> Board:
    """The board that ``spec`` names: ``emulator``, ``serial:PORT``, ``adb:SERIAL``, or an id from ``boards.toml``.

    ``device`` is the device profile; ``boards.toml`` knows it for its boards, elsewhere it is stm32f405, or android for
    a phone, unless given. Raises BoardBusyError when somebody else uses it, and DeviceError when there is no such board
    or device, when the two do not belong together, or when the board cannot be opened.
    """
    kind, _, argument = spec.partition(":")
    if spec == "emulator":
        return EmulatedBoard(load_profile(device or DEFAULT_DEVICE))
    if kind == "serial" and argument:
        profile = load_profile(device or DEFAULT_DEVICE)
        return SerialBoard(argument, profile, flasher=_flasher(profile, argument, None, None))
    if kind == "adb":
        return AdbBoard(argument, load_profile(device or DEFAULT_PHONE))
    return _lab_board(find_entry(spec), device)


def find_entry(name: str) -> BoardEntry:
    """The board of ``boards.toml`` with this id. Raises DeviceError when there is none."""
    entries = known_boards()
    for entry in entries:
        if entry.id == name:
            return entry
    names = ", ".join(["emulator", "serial:PORT", "adb:SERIAL", *(entry.id for entry in entries)])
    raise DeviceError(f"there is no board '{name}'; choose from {names}, or add it to {boards_file()}")


def select_boards(specs: Sequence[str]) -> tuple[str, ...]:
    """Every board that is meant, once: ``platform:NAME`` and ``fixture:NAME`` are the available ones of the lab.

    Raises DeviceError when such a selection is empty, and when nothing is given.
    """
    names: list[str] = []
    for spec in specs:
        names += _selected(spec)
    if not names:
        raise DeviceError("no board is given; name one, or select some with platform:NAME or fixture:NAME")
    return tuple(dict.fromkeys(names))


@contextmanager
def open_boards(specs: Sequence[str], device: str | None = None) -> Iterator[OpenBoards]:
    """Open every board that ``specs`` names or selects, all of one platform, and close them after the block.

    A board that is named has to be free and well; of a selection, those that are not are left out. Raises DeviceError.
    """
    named = {spec for spec in specs if not _is_selection(spec)}
    with ExitStack() as stack:
        boards, left_out = [], []
        names = select_boards(specs)
        platform = _one_platform(names, device)
        for name in names:
            try:
                boards.append(stack.enter_context(resolve_board(name, device)))
            except DeviceError as error:
                if name in named:
                    raise
                left_out.append(str(error))
        if not boards:
            raise DeviceError(f"none of the boards {', '.join(specs)} can be used: {'; '.join(left_out)}")
        yield OpenBoards(platform, tuple(boards), tuple(left_out))


def flasher_of(profile: DeviceProfile, entry: BoardEntry) -> Flasher | None:
    """What writes to a board on a serial port, if that is certain: the lab says so, or it writes through the port.

    Otherwise None, and the board says how to write to it: whatever probe is plugged in may be on another board. Raises
    DeviceError when what the lab says does not fit the part or is not installed.
    """
    assert entry.serial is not None
    return _flasher(profile, entry.serial, entry.runner, entry.probe_id)


def path_of_port(spec: str) -> str:
    """The path of a board's port; of one that is not plugged in, what the lab calls it."""
    try:
        return find_port(spec)
    except DeviceError:
        return spec


def platform_of(spec: str, device: str | None = None) -> str:
    """The device profile of a board: the one that is given, else what ``boards.toml`` says, else the kind's default."""
    if device is not None:
        return device
    if spec.partition(":")[0] == "adb":
        return DEFAULT_PHONE
    if _is_selection(spec):
        spec = select_boards([spec])[0]
    entry = next((entry for entry in known_boards() if entry.id == spec), None)
    return DEFAULT_DEVICE if entry is None else _known_platform(entry)


def _known_platform(entry: BoardEntry) -> str:
    if entry.platform == UNKNOWN_PLATFORM:
        raise DeviceError(
            f"it is not known what part the board '{entry.id}' has; set its platform in {boards_file()} to one of "
            f"{', '.join(device_names())}"
        )
    return entry.platform


def _lab_board(entry: BoardEntry, device: str | None) -> Board:
    path = boards_file()
    if not entry.available:
        raise DeviceError(f"the board '{entry.id}' is not available: {path} says so; set its available = true")
    profile = load_profile(_known_platform(entry))
    if device is not None and load_profile(device) != profile:
        raise DeviceError(f"the board '{entry.id}' is a {entry.platform}, not a {device}; leave out --device")
    if entry.emulator:
        return EmulatedBoard(profile, entry.id, identity=f"emulator:{path.resolve()}:{entry.id}")
    if entry.adb is not None:
        return AdbBoard(entry.adb, profile, entry.id, options=_phone_options(entry))
    if entry.serial is None:
        raise DeviceError(f"the board '{entry.id}' has no serial port in {path}; add its serial = \"…\"")
    return SerialBoard(
        entry.serial,
        profile,
        entry.id,
        flasher=flasher_of(profile, entry),
        baud=entry.baud or BAUD,
        reset=entry.reset or ResetMode.NONE,
        levels=Levels(dtr=entry.dtr is not False, rts=entry.rts is not False),
    )


def _flasher(profile: DeviceProfile, port: str, runner: str | None, probe_id: str | None) -> Flasher | None:
    if runner is None and probe_id is None:
        runners = () if profile.flashing is None else profile.flashing.runners
        installed = (name for name in runners if tools()[name].executable() is not None)
        runner = next((name for name in installed if tools()[name].probe == "port"), None)
        if runner is None:
            return None
    return flasher_for(profile, runner, probe_id, find_port(port))


def _phone_options(entry: BoardEntry) -> PhoneOptions:
    """As the lab sets them for this phone."""
    return PhoneOptions(
        benchmark_model=None if entry.benchmark_model is None else Path(entry.benchmark_model).expanduser(),
        threads=entry.threads or 1,
        cores=entry.core_mask or "fast",
    )


def _is_selection(spec: str) -> bool:
    return spec.partition(":")[0] in ("platform", "fixture")


def _selected(spec: str) -> list[str]:
    if not _is_selection(spec):
        return [spec]
    kind, _, wanted = spec.partition(":")
    entries = [entry for entry in known_boards() if entry.available]
    if kind == "fixture":
        found = [entry.id for entry in entries if wanted in entry.fixtures]
    else:
        profile = load_profile(wanted)  # which may have been called by its emulated machine's name
        known = [entry for entry in entries if entry.platform != UNKNOWN_PLATFORM]
        found = [entry.id for entry in known if load_profile(entry.platform) == profile]
    if not found:
        raise DeviceError(f"no available board of {boards_file()} has the {kind} '{wanted}'")
    return found


def _one_platform(names: Iterable[str], device: str | None) -> str:
    platforms = {name: load_profile(platform_of(name, device)).name for name in names}
    if len(set(platforms.values())) > 1:
        listed = ", ".join(f"{name} ({platform})" for name, platform in platforms.items())
        raise DeviceError(f"the boards are not of one platform: {listed}; measure on those of each apart")
    return next(iter(platforms.values()))


def _reason(raw: dict[str, Any], detail: Any) -> str:
    """What is wrong with which field of which board."""
    where = list(detail["loc"])
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "extra_forbidden":
        fields = ", ".join(BoardEntry.model_fields) if len(where) > 2 else "board"
        message = f"there is no such field; there are {fields}"
    if len(where) > 1 and where[0] == "board" and isinstance(where[1], int):
        table = raw["board"][where[1]]
        name = table.get("id") if isinstance(table, dict) else None
        board = f"board '{name}'" if isinstance(name, str) else f"board number {where[1] + 1}"
        field = ".".join(map(str, where[2:]))
        return f"{board}: {field}: {message}" if field else f"{board}: {message}"
    return f"{'.'.join(map(str, where))}: {message}"


_UNIQUE: dict[str, Callable[[BoardEntry], str | None]] = {
    "id": lambda entry: entry.id,
    "serial": lambda entry: None if entry.serial is None else port_identity(path_of_port(entry.serial)),
    "probe_id": lambda entry: None if entry.probe_id is None else probe_number(entry.probe_id),
    "adb": lambda entry: entry.adb,
}
"""What two boards cannot have in common."""


def _require_unique(
    entries: Iterable[BoardEntry], what: str, key: Callable[[BoardEntry], str | None], path: Path
) -> None:
    owners: dict[str, str] = {}
    for entry in entries:
        value = key(entry)
        if value is None:
            continue
        if value in owners:
            if what == "id":
                raise DeviceError(f"{path} lists the board '{entry.id}' twice; give each its own id")
            raise DeviceError(
                f"{path}: board '{entry.id}': {what}: {getattr(entry, what)} is already that of '{owners[value]}'; "
                "correct one of the two"
            )
        owners[value] = entry.id
