"""What is plugged into this machine: serial ports, debug probes, phones; and what boards.toml would say of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import tomli_w

from devices.boards import DEFAULT_PHONE, UNKNOWN_PLATFORM, BoardEntry, path_of_port
from devices.errors import DeviceError
from devices.flashing.flasher import Probe, flasher_for, probe_number, tools
from devices.host.locks import port_identity
from devices.phone.adb import AdbDevice, list_devices
from devices.profile import DeviceProfile, device_names, load_profile
from devices.serial_line.ports import PortInfo, list_ports

_T = TypeVar("_T")


@dataclass(frozen=True)
class FoundProbe:
    """A debug probe, and the tools that see it."""

    id: str
    chip: str
    """The number of the chip behind it, where a tool tells; else empty."""
    runners: tuple[str, ...]


@dataclass(frozen=True)
class Scan:
    """What was found, and what could not be looked for."""

    ports: tuple[PortInfo, ...]
    probes: tuple[FoundProbe, ...]
    phones: tuple[AdbDevice, ...]
    notes: tuple[str, ...]


def scan() -> Scan:
    """Ask the system, and every installed tool that can list probes or phones, at the same time.

    Nothing is opened, and no board notices. A tool that is missing or fails is a note.
    """
    by_runner = _profiles_by_runner()
    with ThreadPoolExecutor(max_workers=len(by_runner) + 1) as pool:
        asked = {runner: pool.submit(_probes, runner, profile) for runner, profile in by_runner.items()}
        phones, notes = _asked("phones", pool.submit(list_devices).result)
        seen: dict[str, tuple[Probe, ...]] = {}
        for runner, answer in asked.items():
            seen[runner], more = _asked(f"probes with {runner}", answer.result)
            notes += more
    return Scan(list_ports(), _merge(seen), phones, tuple(notes))


def entries_by_port(ports: Iterable[PortInfo], entries: Iterable[BoardEntry]) -> dict[str, BoardEntry]:
    """The boards of the lab that are on ``ports``, by the ports' paths, however the two are written."""
    # Once for each board, not for each pair: to find a USB serial number, all ports are listed.
    named = {path_of_port(entry.serial): entry for entry in entries if entry.serial is not None}
    identified = {port_identity(path): entry for path, entry in named.items()}
    found: dict[str, BoardEntry] = {}
    for port in ports:
        entry = named.get(port.by_id or "") or identified.get(port_identity(port.path))
        if entry is not None:
            found[port.path] = entry
    return found


def entry_of_probe(probe: FoundProbe, entries: Iterable[BoardEntry]) -> BoardEntry | None:
    """The board of the lab that is behind a probe."""
    number = probe_number(probe.id)
    return next((e for e in entries if e.probe_id is not None and probe_number(e.probe_id) == number), None)


def entry_of_phone(phone: AdbDevice, entries: Iterable[BoardEntry]) -> BoardEntry | None:
    """The board of the lab that a phone is."""
    return next((entry for entry in entries if entry.adb == phone.serial), None)


def proposals(found: Scan, entries: Sequence[BoardEntry]) -> tuple[BoardEntry, ...]:
    """Boards that were found and are not in the lab's list yet: USB ports, each with the probe of the same USB device.

    Built-in ports, ports without a name of their own, and probes without a port are not proposed: nothing tells which
    board they belong to.
    """
    proposed: list[BoardEntry] = []
    names = {entry.id for entry in entries}
    listed = entries_by_port(found.ports, entries)
    for port in found.ports:
        serial = _lasting_name(port, found.ports)
        if serial is None or port.path in listed:
            continue
        # Of several ports of one device, the first is that of the board behind the probe.
        free = (probe for probe in found.probes if entry_of_probe(probe, (*entries, *proposed)) is None)
        probe = next((probe for probe in free if _same_device(probe, port)), None)
        profile = None if probe is None else _profile_with_chip(probe.chip)
        platform = UNKNOWN_PLATFORM if profile is None else profile.name
        entry = BoardEntry(
            id=_new_name(profile.name if profile else port.product or "board", port.usb_serial or "", names),
            platform=platform,
            product=port.product,
            serial=serial,
            probe_id=None if probe is None else probe.id,
            runner=None if probe is None or profile is None else _runner(profile, probe),
        )
        proposed.append(entry)
    for phone in found.phones:
        if entry_of_phone(phone, entries) is None:
            model = _model_of(phone)
            platform = _phone_platform(model)
            name = _new_name(platform if platform != DEFAULT_PHONE else model or "phone", phone.serial, names)
            proposed.append(BoardEntry(id=name, platform=platform, product=model or None, adb=phone.serial))
    return tuple(proposed)


def to_toml(entries: Iterable[BoardEntry]) -> str:
    """The text of ``entries`` for boards.toml; what has to be filled in is told in comments."""
    tables = []
    for entry in entries:
        is_known = entry.platform != UNKNOWN_PLATFORM
        comment = "" if is_known else "# Set the platform: 'tinynas devices' lists the profiles.\n"
        # The head by hand: tomli_w writes a short list of tables in one line, to which no table can be added.
        tables.append(f"[[board]]\n{comment}{tomli_w.dumps(entry.model_dump(exclude_defaults=True))}")
    return "\n".join(tables)


def _asked(what: str, answer: Callable[[], tuple[_T, ...]]) -> tuple[tuple[_T, ...], list[str]]:
    try:
        return answer(), []
    except DeviceError as error:
        return (), [f"cannot look for {what}: {error}"]


def _probes(runner: str, profile: DeviceProfile) -> tuple[Probe, ...]:
    return flasher_for(profile, runner).probes()


def _profiles_by_runner() -> dict[str, DeviceProfile]:
    """Every installed tool that works with probes, with a part that it writes to: it takes one to make a flasher."""
    found: dict[str, DeviceProfile] = {}
    for profile in map(load_profile, device_names()):
        for runner in profile.flashing.runners if profile.flashing is not None else ():
            if runner not in found and tools()[runner].probe == "probe" and tools()[runner].executable() is not None:
                found[runner] = profile
    return found


def _merge(seen: dict[str, tuple[Probe, ...]]) -> tuple[FoundProbe, ...]:
    """One for each probe, whatever way each tool writes its number."""
    merged: dict[str, FoundProbe] = {}
    for runner, probes in seen.items():
        for probe in probes:
            before = merged.get(probe_number(probe.id), FoundProbe(probe.id, "", ()))
            merged[probe_number(probe.id)] = FoundProbe(before.id, before.chip or probe.chip, (*before.runners, runner))
    return tuple(sorted(merged.values(), key=lambda probe: probe.id))


def _lasting_name(port: PortInfo, ports: Iterable[PortInfo]) -> str | None:
    """What names a port after it is plugged in again, too: its by-id path, or a USB serial number that is its alone."""
    if port.vid is None:
        return None
    if port.by_id is not None:
        return port.by_id
    alone = sum(other.usb_serial == port.usb_serial for other in ports) == 1
    return f"usb={port.usb_serial}" if port.usb_serial and alone else None


def _same_device(probe: FoundProbe, port: PortInfo) -> bool:
    return port.usb_serial is not None and probe_number(probe.id) == probe_number(port.usb_serial)


def _profile_with_chip(chip: str) -> DeviceProfile | None:
    """The one profile of a chip number; None where there is none, or the number is that of several."""
    if not chip:
        return None
    found = [
        profile
        for profile in map(load_profile, device_names())
        if profile.flashing is not None
        and any(int(names.names.get("chip_id", "-1"), 0) == int(chip, 0) for names in profile.flashing.runners.values())
    ]
    return found[0] if len(found) == 1 else None


def _runner(profile: DeviceProfile, probe: FoundProbe) -> str | None:
    """The best of the part's tools that sees the probe."""
    runners = profile.flashing.runners if profile.flashing is not None else {}
    return next((runner for runner in runners if runner in probe.runners), None)


def _model_of(phone: AdbDevice) -> str:
    found = re.search(r"\bmodel:(\S+)", phone.description)
    return "" if found is None else found[1].replace("_", " ")


def _phone_platform(model: str) -> str:
    """The profile that is called like the phone, or that of any phone."""
    plain = re.sub(r"[^a-z0-9]", "", model.lower())
    for name in device_names():
        if load_profile(name).kind == "phone" and len(plain) > 2 and name.replace("-", "").endswith(plain):
            return name
    return DEFAULT_PHONE


def _new_name(base: str, number: str, taken: set[str]) -> str:
    """An id that says what it is and which, and that no other board has; it is taken from now on."""
    slug = re.sub(r"[^a-z0-9]+", "-", base.lower()).strip("-") or "board"
    tail = re.sub(r"[^a-z0-9]+", "-", number.lower()).strip("-")[-6:].strip("-")
    name = stem = f"{slug}-{tail}" if tail else slug
    count = 1
    while name in taken:
        count += 1
        name = f"{stem}-{count}"
    taken.add(name)
    return name
