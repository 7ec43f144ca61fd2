"""Writes a firmware image to a real board with the user's own tool, and comes back only when the flash holds it.

What each tool is called with is data, ``flashers.toml``; what a part is called by each tool is in its profile.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, PositiveFloat, ValidationError, model_validator

from devices.errors import DeviceError
from devices.firmware import CROSS, INSTALL_COMPILER, FirmwareImage
from devices.flashing.uf2 import PAYLOAD_BYTES, read_uf2, write_uf2
from devices.flashing.usb import UsbDevice, usb_devices
from devices.flashing.usb_drive import find_drive, write_to_drive
from devices.host.processes import Finished, run_tool
from devices.host.scratch import scratch_folder
from devices.profile import DeviceProfile, Flashing
from devices.serial_line.ports import find_port, list_ports

VERSION_TIMEOUT_S = 60.0
"""Also for listing the probes. A Python tool on a busy machine takes its time to start."""
QUOTED_CHARACTERS = 300

_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_LOG_PREFIX = re.compile(r"^(\d{4}-\d\d-\d\dT[\d:]+ \w+ \S+: |\d{7} [A-Z] )")
"""Time, level and file, as st-flash and pyocd put them in front of every line."""
_NOISE = re.compile(r"^shutdown command invoked|^[\[\]#.\s|%\d]+$")
"""The end of every openocd, and progress bars."""

T = TypeVar("T", bound=BaseModel)


class FlashError(DeviceError):
    """The image is not on the board, or it is not certain that it is."""


@dataclass(frozen=True)
class Flashed:
    """An image that was written and verified; part of where a measurement comes from."""

    runner: str
    version: str
    """Of the tool; empty where there is none, or it does not tell."""
    verified_by: str
    """What tells that the flash holds the image. There is no Flashed without it."""

    @property
    def verified(self) -> bool:
        """Always true: what cannot be verified ends in a FlashError."""
        return True


@dataclass(frozen=True)
class Probe:
    """A debug probe that is plugged in."""

    id: str
    chip: str = ""
    """The number of the chip behind it, where listing the probes tells."""
    adapter: str = ""
    """Which kind of probe it is, where the tool has to be told."""


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from error
    return text


Pattern = Annotated[str, AfterValidator(_pattern)]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Step(_Table):
    """One command of a tool."""

    arguments: tuple[str, ...]
    success: Pattern | None = None
    reads_back: bool = False


class Adapter(_Table):
    """One kind of probe: what the tool has to be told, and which USB devices are such."""

    arguments: tuple[str, ...]
    usb: tuple[str, ...] = ()
    usb_name: str | None = None

    def is_it(self, device: UsbDevice) -> bool:
        """Whether a USB device is such a probe."""
        named = self.usb_name is not None and self.usb_name in device.names
        return named or any(device.vendor_product.startswith(start) for start in self.usb)


class Tool(_Table):
    """One table of ``devices/flashing/flashers.toml``, whose head explains the fields."""

    executables: tuple[str, ...]
    install: str
    version: tuple[str, ...] = ()
    version_text: Pattern | None = None
    minimum: str = ""
    format: Literal["bin", "hex", "uf2"] | None = None
    probe: Literal["probe", "port", "drive"]
    verified_by: str
    timeout_s: PositiveFloat
    source: str
    steps: tuple[Step, ...] = ()
    list_executable: str | None = None
    list: tuple[str, ...] = ()
    listed: Pattern | None = None
    groups: Mapping[str, tuple[str, ...]] = {}
    files: Mapping[str, str] = {}
    words: Mapping[str, str] = {}
    adapters: Mapping[str, Adapter] = {}

    @model_validator(mode="after")
    def _check(self) -> Self:
        """Whatever writes has to verify, and a table that names a group has to have it."""
        if self.probe != "drive" and (not self.executables or not self.steps or self.format is None):
            raise ValueError("executables, steps and format belong to every tool")
        for step in self.steps:
            for group in re.findall(r"\{\?(\w+)\}", " ".join(step.arguments)):
                if group not in self.groups and not (group == "adapter" and self.adapters):
                    raise ValueError(f"there is no group '{group}'")
        return self

    def executable(self) -> str | None:
        """The path of the first of its executables that is installed; empty for the tool that needs none."""
        if not self.executables:
            return ""
        return next((path for name in self.executables if (path := shutil.which(name)) is not None), None)

    def names(self, said: Mapping[str, str]) -> frozenset[str]:
        """What a profile that says ``said`` about a part for this tool has to say."""
        needed = {name for step in self.steps for name in _placeholders(step.arguments)}
        needed -= {"address", "size", "file", "copy", "probe", "port"}
        needed |= {"adapter"} if self.adapters else set()
        needed |= {"family"} if (self.format or said.get("format")) == "uf2" else set()
        needed |= {"label", "marker", "format"} if self.probe == "drive" else set()
        return frozenset(needed)

    def optional_names(self) -> frozenset[str]:
        """What a profile may say about a part for this tool."""
        named = {name for group in self.groups.values() for name in _placeholders(group)} - {"probe"}
        named |= {"chip_id"} if self.listed and "<chip>" in self.listed else set()
        named |= {"family", "shared_serial"} if self.probe == "drive" else set()
        return frozenset(named)


class _Advice(_Table):
    found: Pattern
    say: str


@dataclass(frozen=True)
class Flasher:
    """One tool and one board. ``flasher_for`` makes it."""

    runner: str
    probe_id: str | None
    """What tells this board from the others: its probe's serial number, its port, or its drive. None: the only one."""
    port: str | None
    """The board's serial port, for tools that write through it."""
    device: str
    flashing: Flashing
    tool: Tool
    executable: str

    def probes(self) -> tuple[Probe, ...]:
        """The debug probes that are plugged in, as the tool, or the system, lists them.

        Empty as well for a tool that can list none. Raises FlashError when listing fails.
        """
        if self.tool.list:
            with scratch_folder() as folder:
                return self._list(folder)
        return tuple(
            Probe(device.serial, adapter=adapter)
            for device in usb_devices()
            if (adapter := self._adapter_of(device)) is not None
        )

    def write(self, image: FirmwareImage, running: Callable[[], str] | None = None) -> Flashed:
        """Write ``image`` to the board, verify it, and start it.

        ``running`` asks the started board for the id of its model; only a drive needs it, which cannot be read back.
        Nothing else may use the board's serial port meanwhile. Raises FlashError, with the tool's last words and what
        to do; the flash may then hold a part of the image.
        """
        program = self._program(image)
        if self.tool.probe == "drive":
            return self._copy(image, program, running)
        with scratch_folder() as folder:
            version = self._version(folder)
            fields = self._fields(program, self._chosen())
            self._stage(folder, program)
            self._write_files(folder, fields)
            for step in self.tool.steps:
                done = self._run(folder, self._arguments(step.arguments, fields, version), self.tool.timeout_s)
                if done.exit_code != 0:
                    raise self._failed(done.output, _ending(done, self.tool.timeout_s))
                if step.success is not None and not re.search(step.success, done.output):
                    raise self._failed(done.output, "it did not say that it verified what it wrote")
                if step.reads_back:
                    self._compare(folder / "copy.bin", program, done.output)
                version = version or self._version_in(done.output)
        return Flashed(self.runner, version, self.tool.verified_by)

    def _program(self, image: FirmwareImage) -> bytes:
        """The flat binary of an image that is for this board."""
        if image.device != self.device:
            raise FlashError(f"the image was built for {image.device}, not for {self.device}; build it again")
        try:
            program = image.bin.read_bytes()
        except OSError as error:
            raise FlashError(f"{image.bin} cannot be read: {error.strerror}; build it again") from error
        if hashlib.sha256(program).hexdigest() != image.sha256:
            raise FlashError(f"{image.bin} is not what was built (its SHA-256 differs); build it again")
        return program

    def _chosen(self) -> Probe | None:
        """The one probe to use; None when the tool has to find it. Never one of several."""
        if self.tool.probe == "port":
            return None
        probes = self.probes()
        if self.probe_id is None:
            if len(probes) > 1:
                raise FlashError(
                    f"{len(probes)} probes are plugged in and it is not said which one the {self.device} is behind: "
                    f"give its probe_id in boards.toml, one of {', '.join(probe.id for probe in probes)}"
                )
            chosen = probes[0] if probes else None
        else:
            same = [probe for probe in probes if probe_number(probe.id) == probe_number(self.probe_id)]
            if len(same) > 1:
                raise FlashError(
                    f"{len(same)} probes have the id {self.probe_id}; unplug all but the one of the {self.device}"
                )
            # Where none is seen it is left to the tool, which may reach it through a network.
            if not same and probes:
                raise FlashError(
                    f"the probe {self.probe_id} is not plugged in; {self.runner} sees "
                    f"{', '.join(probe.id for probe in probes)}: plug it in, or correct its probe_id"
                )
            chosen = same[0] if same else Probe(self.probe_id)
        wanted = self._names().get("chip_id")
        seen = chosen.chip if chosen is not None else ""
        # A chip that does not answer shows as 0.
        if chosen is not None and seen and wanted is not None and int(seen, 0) not in {0, int(wanted, 0)}:
            raise FlashError(
                f"the chip behind the probe {chosen.id} is a {seen}, and the {self.device} is a {wanted}: "
                f"nothing was written; check which board the probe sits on"
            )
        return chosen

    def _list(self, folder: Path) -> tuple[Probe, ...]:
        executable = self.executable
        if self.tool.list_executable is not None:
            executable = shutil.which(self.tool.list_executable) or ""
            if not executable:
                raise FlashError(f"{self.tool.list_executable} was not found; install it: {self.tool.install}")
        self._write_files(folder, {})
        done = run_tool([executable, *self.tool.list], folder, VERSION_TIMEOUT_S)
        if done.exit_code != 0:
            raise self._failed(done.output, "it cannot list the probes: " + _ending(done, VERSION_TIMEOUT_S))
        assert self.tool.listed is not None
        found = [match.groupdict() for match in re.finditer(self.tool.listed, done.output)]
        return tuple(Probe(one.get("id") or one["id2"], one.get("chip") or "") for one in found)

    def _adapter_of(self, device: UsbDevice) -> str | None:
        """Which kind of probe a USB device is, the profile's own kind first; None when it is no probe."""
        ranked = sorted(self.tool.adapters, key=lambda name: name != self._names().get("adapter"))
        return next((name for name in ranked if self.tool.adapters[name].is_it(device)), None)

    def _names(self) -> Mapping[str, str]:
        return self.flashing.runners[self.runner].names

    def _fields(self, program: bytes, probe: Probe | None) -> dict[str, str]:
        """What stands for each ``{name}`` of the tool's table."""
        fields = {
            **self._names(),
            "address": f"{self.flashing.address:#010x}",
            "size": str(len(program)),
            "file": f"firmware.{self._format()}",
            "copy": "copy.bin",
        }
        if probe is not None and probe.adapter:
            fields["adapter"] = probe.adapter
        # By its id although it may be the only one: another may be plugged in at any moment. Some old ST-LINKs have a
        # serial number that is no text, and some probes have none.
        if probe is not None and _is_plain(probe.id):
            fields["probe"] = probe.id
        if self.tool.probe == "port":
            fields["port"] = self._serial_port()
        return fields

    def _serial_port(self) -> str:
        """The port to write through: the one that is named, or the only USB port there is."""
        if (named := self.probe_id or self.port) is not None:
            try:
                return find_port(named)
            except DeviceError as error:
                raise FlashError(str(error)) from error
        ports = [port for port in list_ports() if port.vid is not None]
        if len(ports) != 1:
            there = ", ".join(f"{port.by_id or port.path} ({port.usb_serial})" for port in ports) or "none"
            raise FlashError(
                f"it is not said which serial port the {self.device} is on: give its serial or probe_id in boards.toml,"
                f" one of {there}"
            )
        return ports[0].path

    def _arguments(self, template: Sequence[str], fields: Mapping[str, str], version: str) -> list[str]:
        """A step's arguments with everything filled in, in the words of the version that is installed."""
        flat: list[str] = []
        for argument in template:
            group = re.fullmatch(r"\{\?(\w+)\}", argument)
            if group is None:
                flat.append(argument)
            elif group[1] == "adapter":
                flat += self.tool.adapters[fields["adapter"]].arguments
            else:
                parts = self.tool.groups[group[1]]
                if _placeholders(parts) <= fields.keys():
                    flat += parts
        before = self.tool.words.get("before")
        if before is not None and version and _ordered(version) < _ordered(before):
            flat = [self.tool.words.get(argument, argument) for argument in flat]
        return [_fill(argument, fields) for argument in flat]

    def _format(self) -> str:
        """What is written: the tool's format, or that of the board's drive."""
        return self.tool.format or self._names()["format"]

    def _stage(self, folder: Path, program: bytes) -> Path:
        """Put the image into an empty folder, in the format that is written."""
        (folder / "firmware.bin").write_bytes(program)
        if self._format() == "hex":
            _to_hex(folder, self.flashing.address)
        elif self._format() == "uf2":
            (folder / "firmware.uf2").write_bytes(self._uf2(program))
        return folder / f"firmware.{self._format()}"

    def _write_files(self, folder: Path, fields: Mapping[str, str]) -> None:
        for name, text in self.tool.files.items():
            (folder / name).write_text(_fill(text.lstrip("\n"), fields), encoding="utf-8")

    def _uf2(self, program: bytes) -> bytes:
        family = int(self._names()["family"], 0)
        content = write_uf2(program, self.flashing.address, family)
        padded = program.ljust(-(-len(program) // PAYLOAD_BYTES) * PAYLOAD_BYTES, b"\0")
        if read_uf2(content) != (padded, self.flashing.address, family):
            raise FlashError("the UF2 file does not hold the image; report this as a bug")
        return content

    def _copy(self, image: FirmwareImage, program: bytes, running: Callable[[], str] | None) -> Flashed:
        """Write to the board's drive and ask the board what it runs."""
        names = self._names()
        if running is None:
            raise FlashError(
                "a USB drive cannot be read back, so the board itself has to say which model it runs: give its serial "
                "port, or choose another runner"
            )
        with scratch_folder() as folder:
            file = self._stage(folder, program)
            try:
                drive = find_drive(names["label"], names["marker"], self.probe_id, names.get("shared_serial"))
                write_to_drive(drive, file, self.tool.timeout_s)
            except DeviceError as error:
                raise FlashError(str(error)) from error
        if (model := running()) != image.model_id:
            raise FlashError(
                f"the image was copied to {drive.folder}, and the board still runs the model {model}, not "
                f"{image.model_id}: check that the serial port and the drive belong to the same board"
            )
        return Flashed(self.runner, "", self.tool.verified_by)

    def _version(self, folder: Path) -> str:
        """The version that is installed. Raises FlashError when the tool does not run or is too old."""
        if not self.tool.version:
            return ""
        done = self._run(folder, list(self.tool.version), VERSION_TIMEOUT_S)
        if done.exit_code is None or (done.exit_code != 0 and not self._version_in(done.output)):
            raise self._failed(done.output, "it does not run: " + _ending(done, VERSION_TIMEOUT_S))
        return self._version_in(done.output)

    def _version_in(self, output: str) -> str:
        found = re.search(self.tool.version_text, output, re.MULTILINE) if self.tool.version_text else None
        if found is None:
            return ""
        if _ordered(found[1]) < _ordered(self.tool.minimum):
            raise FlashError(
                f"{self.runner} {found[1]} is too old: get {self.tool.minimum} or newer, {self.tool.install}"
            )
        return found[1]

    def _run(self, folder: Path, arguments: Sequence[str], timeout_s: float) -> Finished:
        return run_tool([self.executable, *arguments], folder, timeout_s)

    def _compare(self, copy: Path, program: bytes, output: str) -> None:
        """Hold what was read back against the image."""
        if not copy.is_file():
            raise self._failed(output, "it did not read the flash back")
        found = copy.read_bytes()
        if found != program:
            same = next((at for at, (a, b) in enumerate(zip(found, program, strict=False)) if a != b), len(found))
            raise FlashError(
                f"the flash of the {self.device} does not hold the image: it differs from address "
                f"{self.flashing.address + same:#010x} on ({len(found)} of {len(program)} bytes were read back); check "
                f"the supply and the cable, write again, and suspect the chip if it comes back"
            )

    def _failed(self, output: str, ending: str) -> FlashError:
        """What the tool complained about, and what to do about it."""
        fields = {**self._names(), "device_name": self.device, "install": self.tool.install}
        said, to_do = _last_words(output), "run it by hand to see more"
        for advice in _advices():
            if found := re.search(advice.found, output):
                said, to_do = _last_words(_line_at(output, found.start())), _fill(advice.say, fields)
                break
        board = f" behind {self.probe_id}" if self.probe_id else ""
        return FlashError(
            f"{self.runner} did not write to the {self.device}{board}: {ending}{f' ({said})' if said else ''}; {to_do}"
        )


def flasher_for(
    profile: DeviceProfile, runner: str | None = None, probe_id: str | None = None, port: str | None = None
) -> Flasher:
    """The tool that writes to a board: ``runner``, or else the first of the profile's that is installed.

    ``probe_id`` tells the board from others: its debug probe's serial number, for esptool its port or that port's USB
    serial number, for ``cp`` its drive's USB serial number, USB port or folder. ``port`` is the board's serial port.
    Raises DeviceError when the part is not flashed, when it is not known how, and when the tool is not installed,
    saying which would do and where to get it.
    """
    if profile.flashing is None:
        raise DeviceError(f"no image can be written to the device {profile.name}: its profile has no [flashing] table")
    choice = tuple(profile.flashing.runners)
    if runner is not None and runner not in choice:
        known = (
            f"; it is written with {', '.join(choice)}" if runner in tools() else f"; choose from {', '.join(choice)}"
        )
        kind = "cannot write to" if runner in tools() else "is no runner for"
        raise DeviceError(f"'{runner}' {kind} the device {profile.name}{known}")
    candidates = choice if runner is None else (runner,)
    for name in candidates:
        _check_names(profile, name)
    for name in candidates:
        tool = tools()[name]
        if (executable := tool.executable()) is not None:
            if probe_id is not None and tool.probe == "probe" and not _is_plain(probe_id):
                raise DeviceError(f"the probe_id '{probe_id}' has characters that no serial number has; correct it")
            return Flasher(name, probe_id, port, profile.name, profile.flashing, tool, executable)
    hints = "; ".join(f"{name}: {tools()[name].install}" for name in candidates)
    raise DeviceError(f"nothing is installed that writes to the device {profile.name}; one of these would do: {hints}")


def _check_names(profile: DeviceProfile, runner: str) -> None:
    """A tool would be called with a hole in its arguments, or a name would be ignored."""
    assert profile.flashing is not None
    if runner not in tools():
        raise DeviceError(f"the profile {profile.name} names the runner '{runner}'; choose from {', '.join(tools())}")
    tool, names = tools()[runner], profile.flashing.runners[runner].names
    needed = tool.names(names)
    missing, unknown = sorted(needed - names.keys()), sorted(names.keys() - needed - tool.optional_names())
    if missing or unknown:
        what = f"does not say {', '.join(missing)}" if missing else f"says {', '.join(unknown)}, which it does not use,"
        raise DeviceError(f"the profile {profile.name} {what} for the runner {runner}; correct its [flashing] table")


@cache
def tools() -> Mapping[str, Tool]:
    """Every tool of ``devices/flashing/flashers.toml`` by its name."""
    return {name: _checked(Tool, table, name) for name, table in _data().items() if name != "advice"}


@cache
def _advices() -> tuple[_Advice, ...]:
    return tuple(_checked(_Advice, table, "advice") for table in _data()["advice"])


def _data() -> dict[str, Any]:
    return tomllib.loads((resources.files("devices.flashing") / "flashers.toml").read_text(encoding="utf-8"))


def _checked(model: type[T], table: object, name: str) -> T:
    try:
        return model.model_validate(table)
    except ValidationError as error:
        raise DeviceError(f"devices/flashing/flashers.toml is not valid, in '{name}': {error}") from error


def _fill(text: str, fields: Mapping[str, str]) -> str:
    """``text`` with every ``{name}`` of ``fields`` replaced; other braces stay, Tcl has many."""
    return _PLACEHOLDER.sub(lambda found: fields.get(found[1], found[0]), text)


def _placeholders(arguments: Sequence[str]) -> set[str]:
    """Each ``{name}`` in them."""
    return {name for argument in arguments for name in _PLACEHOLDER.findall(argument)}


def _to_hex(folder: Path, address: int) -> None:
    """Turn ``firmware.bin`` into ``firmware.hex`` for ``address``."""
    command = [f"{CROSS}objcopy", "-I", "binary", "-O", "ihex", "--change-addresses", str(address)]
    try:
        subprocess.run([*command, "firmware.bin", "firmware.hex"], cwd=folder, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise FlashError(f"{CROSS}objcopy did not make an Intel HEX file: {error}; {INSTALL_COMPILER}") from error


def _ordered(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version.split("-")[0].split("+")[0]))


def probe_number(text: str) -> str:
    """A serial number as it is compared: tools differ in case, and some fill up with zeros."""
    return text.casefold().lstrip("0")


def _is_plain(text: str) -> bool:
    return re.fullmatch(r"[\w.:/+@=,#\\-]+", text, re.ASCII) is not None


def _ending(done: Finished, timeout_s: float) -> str:
    if done.exit_code is None:
        return f"it did not end within {timeout_s:.0f} s and was stopped"
    return f"it ended with exit code {done.exit_code}"


def _line_at(text: str, position: int) -> str:
    return text[text.rfind("\n", 0, position) + 1 :].partition("\n")[0]


def _last_words(output: str) -> str:
    """The last line that says it is an error, or that sounds like one, or the last line at all."""
    lines = [_LOG_PREFIX.sub("", line).strip(" \t*=-") for line in output.splitlines()]
    lines = [line for line in lines if line and not _NOISE.search(line)]
    for telling in (r"(?i)\berror( occurred)?:", r"(?i)error|fail|cannot|can't|couldn't|unable|denied|wrong|\bno\b"):
        if found := [line for line in lines if re.search(telling, line)]:
            return found[-1][:QUOTED_CHARACTERS]
    return lines[-1][:QUOTED_CHARACTERS] if lines else ""
