"""What is plugged in, as Linux tells it: USB devices with their serial numbers, and the drives among them.

Nothing here opens a device. Where the system has no such folders, nothing is found.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

SYSTEM = Path("/")
"""Where ``sys``, ``proc`` and ``dev`` are."""


@dataclass(frozen=True)
class UsbDevice:
    """One USB device."""

    port: str
    """Where it is plugged in, such as ``1-1.4``: bus, then the ports of the hubs. It stays when the device changes."""
    vendor_product: str
    """Such as ``0483:374b``."""
    serial: str
    """Empty where it has none."""
    names: str
    """What it and its interfaces call themselves."""


@dataclass(frozen=True)
class UsbDrive:
    """A partition, or a drive without partitions, that a USB device shows."""

    node: str
    """Such as ``/dev/sdb1``."""
    label: str
    folder: Path | None
    """Where it is mounted; None when it is not."""
    device: UsbDevice | None
    """None when the system does not tell."""


def usb_devices() -> tuple[UsbDevice, ...]:
    """Every USB device, by port."""
    folders = sorted((SYSTEM / "sys/bus/usb/devices").glob("*"))
    return tuple(device for folder in folders if (device := _device(folder)) is not None)


def usb_drives() -> tuple[UsbDrive, ...]:
    """Every drive with a label, by label and node."""
    mounts = _mounts()
    drives = []
    for link in sorted((SYSTEM / "dev/disk/by-label").glob("*")):
        name = link.readlink().name
        parents = (SYSTEM / "sys/class/block" / name).resolve().parents
        device = next((found for parent in parents if (found := _device(parent)) is not None), None)
        drives.append(UsbDrive(f"/dev/{name}", _unescape(link.name), mounts.get(f"/dev/{name}"), device))
    return tuple(drives)


def _device(folder: Path) -> UsbDevice | None:
    vendor, product = _read(folder / "idVendor"), _read(folder / "idProduct")
    if not vendor or not product:
        return None
    names = [_read(folder / name) for name in ("manufacturer", "product")]
    names += [_read(path) for path in sorted(folder.glob("*/interface"))]
    return UsbDevice(
        folder.name, f"{vendor}:{product}".lower(), _read(folder / "serial"), " ".join(name for name in names if name)
    )


def _mounts() -> dict[str, Path]:
    """Where every device node is mounted; the last mount counts, as it does for who looks into the folder."""
    rows = [line.split() for line in _read(SYSTEM / "proc/self/mounts").splitlines()]
    return {row[0]: Path(_unescape(row[1])) for row in rows if len(row) > 1 and row[0].startswith("/dev/")}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _unescape(text: str) -> str:
    r"""Undo ``\x20`` of udev and ``\040`` of the kernel."""
    text = re.sub(r"\\x([0-9a-fA-F]{2})", lambda found: chr(int(found[1], 16)), text)
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)
