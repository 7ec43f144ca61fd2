"""Flashing: stand-in tools record how they were called and imitate success and each failure; real ones parse it.

Nothing here touches hardware. The stand-ins are executables on a PATH of their own; the drives and USB devices are a
folder in the shape of Linux's /sys, /proc and /dev.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.errors import DeviceError
from devices.firmware import FirmwareImage
from devices.flashing import usb, usb_drive
from devices.flashing.flasher import Flasher, FlashError, Probe, flasher_for, tools
from devices.flashing.uf2 import read_uf2, write_uf2
from devices.host.processes import run_tool
from devices.profile import device_names, load_profile, parse_profile
from devices.serial_line import ports
from tests.devices.host.test_children import alive
from tests.devices.test_profile import profile_text

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = bytes(range(256)) * 20 + b"end"

STAND_IN = """#!{python} -IS
import json, os, sys
here = os.path.dirname(os.path.abspath(__file__))
name = os.path.basename(__file__)
with open(os.path.join(here, "calls.jsonl"), "a") as log:
    files = {{file: open(file, "rb").read().hex() for file in sorted(os.listdir("."))}}
    log.write(json.dumps({{"tool": name, "arguments": sys.argv[1:], "pid": os.getpid(), "files": files}}) + "\\n")
for answer in json.load(open(os.path.join(here, name + ".json"))):
    if answer["when"] in " ".join(sys.argv[1:]):
        break
else:
    sys.exit("the stand-in has no answer")
print(answer["says"], end="", flush=True)
print(answer["warns"], end="", file=sys.stderr, flush=True)
does = answer["does"]
if does == "read back":
    open("copy.bin", "wb").write(open("firmware.bin", "rb").read())
if does == "read back short":
    open("copy.bin", "wb").write(open("firmware.bin", "rb").read()[:-5])
if does == "read back wrong":
    data = bytearray(open("firmware.bin", "rb").read())
    data[1000] ^= 1
    open("copy.bin", "wb").write(data)
if does == "hang":
    import signal, subprocess, time
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    child = subprocess.Popen(["/bin/sleep", "600"])
    open(os.path.join(here, "child"), "w").write(str(child.pid))
    open(os.path.join(here, "hangs"), "w").write(str(os.getpid()))
    time.sleep(600)
if does == "leave something running":
    import subprocess
    child = subprocess.Popen(["/bin/sleep", "600"])
    open(os.path.join(here, "child"), "w").write(str(child.pid))
if does == "die":
    import signal
    os.kill(os.getpid(), signal.SIGSEGV)
sys.exit(answer["code"])
"""


def says(when: str, output: str = "", *, code: int = 0, does: str = "", warns: str = "") -> dict[str, Any]:
    """One answer of a stand-in: to arguments that contain ``when``."""
    return {"when": when, "says": output, "code": code, "does": does, "warns": warns}


@dataclass(frozen=True)
class Bench:
    """A PATH with stand-ins only, and what they were called with."""

    bin: Path

    def install(self, name: str, *answers: dict[str, Any]) -> None:
        (self.bin / f"{name}.json").write_text(json.dumps(answers))
        path = self.bin / name
        path.write_text(STAND_IN.format(python=sys.executable))
        path.chmod(0o755)

    def calls(self) -> list[dict[str, Any]]:
        log = self.bin / "calls.jsonl"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    def arguments(self, without: Sequence[str] = ("--version", "version")) -> list[list[str]]:
        """Every call but those that ask for the version."""
        return [call["arguments"] for call in self.calls() if call["arguments"] not in [[word] for word in without]]

    def wrote(self) -> bool:
        """Whether any tool was told to write."""
        words = {"write", "load", "write-flash", "--program", "program", "flash.jlink"}
        return any(words & set(" ".join(call["arguments"]).split()) for call in self.calls())


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: Path) -> Bench:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return Bench(folder)


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty /sys, /proc and /dev; nothing is plugged into this machine as far as the tests are concerned."""
    root = tmp_path / "system"
    root.mkdir()
    monkeypatch.setattr(usb, "SYSTEM", root)
    monkeypatch.setattr(ports.usb_ports, "comports", list)
    return root


@pytest.fixture
def image(tmp_path: Path) -> Callable[[str], FirmwareImage]:
    def make(device: str) -> FirmwareImage:
        file = tmp_path / "built image" / "firmware.bin"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(PROGRAM)
        digest = hashlib.sha256(PROGRAM).hexdigest()
        return FirmwareImage(device, "0123abcd", file.with_suffix(".elf"), file, file, 0, 0, 0, digest, "gcc")

    return make


@pytest.fixture
def objcopy(bench: Bench) -> None:
    real = shutil.which("arm-none-eabi-objcopy", path=os.defpath)
    if real is None:
        pytest.skip("arm-none-eabi-objcopy is not installed")
    (bench.bin / "arm-none-eabi-objcopy").symlink_to(real)


def plug_in(root: Path, port: str, ids: str, serial: str, product: str = "", block: str = "") -> None:
    """Plug a USB device into the stand-in for the system, with a drive ``block`` if it has one."""
    device = root / "sys/devices/usb1" / port
    interface = device / f"{port}:1.0"
    interface.mkdir(parents=True)
    vendor, _, number = ids.partition(":")
    for name, text in (("idVendor", vendor), ("idProduct", number), ("serial", serial), ("manufacturer", "Maker")):
        (device / name).write_text(text + "\n")
    (interface / "interface").write_text(product + "\n")
    bus = root / "sys/bus/usb/devices"
    bus.mkdir(parents=True, exist_ok=True)
    (bus / port).symlink_to(device)
    (bus / f"{port}:1.0").symlink_to(interface)
    if block:
        (interface / "host0/block" / block).mkdir(parents=True)
        (root / "sys/class/block").mkdir(parents=True, exist_ok=True)
        (root / "sys/class/block" / block).symlink_to(interface / "host0/block" / block)


def label_drive(root: Path, block: str, label: str, folder: Path | None) -> None:
    """Give a drive its label and mount it."""
    labels = root / "dev/disk/by-label"
    labels.mkdir(parents=True, exist_ok=True)
    (labels / label).symlink_to(f"../../{block}")
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        mounts = root / "proc/self/mounts"
        mounts.parent.mkdir(parents=True, exist_ok=True)
        with mounts.open("a") as file:
            file.write(f"/dev/{block} {str(folder).replace(' ', chr(92) + '040')} vfat rw 0 0\n")


# --- what each tool is called with -----------------------------------------------------------------------------------

OPENOCD_OK = "** Programming Started **\n** Programming Finished **\n** Verify Started **\n** Verified OK **\n"
ST_INFO = "Found 1 stlink programmers\n  version: V2J37S26\n  serial:     {id}\n  sram:  196608\n  chipid:     {chip}\n"
PORTS_OFF = ["-c", "gdb_port disabled", "-c", "tcl_port disabled", "-c", "telnet_port disabled"]
PYOCD_LIST = json.dumps({"status": 0, "boards": [{"unique_id": "0670FF48", "info": "STLink"}]}, indent=4)
JLINK_LIST = (
    "SEGGER J-Link Commander V7.94e\nJ-Link[0]: Connection: USB, Serial number: 683456789, ProductName: J-Link\n"
)


def install_everything(bench: Bench) -> None:
    """Every tool, each with one probe plugged in and nothing going wrong."""
    bench.install(
        "openocd", says("--version", warns="Open On-Chip Debugger 0.12.0\n"), says("program", warns=OPENOCD_OK)
    )
    bench.install(
        "pyocd",
        says("--version", "0.36.0\n"),
        says("json", PYOCD_LIST),
        says("load", warns="0001234 I Erased 0 bytes, programmed 5123 bytes [loader]\n"),
        says("commander", "Saved 5123 bytes to copy.bin\n", does="read back"),
    )
    bench.install("st-info", says("--probe", ST_INFO.format(id="0670ff48", chip="0x0413")))
    bench.install(
        "st-flash",
        says("--version", "v1.7.0\n"),
        says("write", warns="2026-11-29T03:34:56 INFO common.c: Flash written and verified! jolly good!\n"),
    )
    bench.install(
        "esptool",
        says("write-flash", "Hash of data verified.\n"),
        says("verify-flash", "Verification successful (digest matched).\n"),
        says("version", "esptool v5.1.0\n5.1.0\n"),
    )
    progress = "Loading into Flash: [====]  100%\rVerifying Flash: [====]  100%\n  OK\nThe device was rebooted\n"
    bench.install("picotool", says("load", progress), says("version", "picotool v2.1.1 (Linux, GNU-12.2.0, Release)\n"))
    bench.install(
        "nrfjprog",
        says("--version", "nrfjprog version: 10.24.2 external\n"),
        says("--ids", "683456789\n"),
        says("--program", "[ #################### ]   1.442s | Verify file - Done verifying\nApplying system reset.\n"),
    )
    bench.install(
        "nrfutil",
        says("--version", "nrfutil 7.13.0 (52cd4ba 2024-11-19)\n"),
        says("device list", "001050288420\nProduct         J-Link\n\nFound 1 supported device(s)\n"),
        says("device program", "[00:00:03] ###### 100% [1/1 001050288420] Programmed\n"),
    )
    bench.install(
        "JLinkExe",
        says("list.jlink", JLINK_LIST),
        says("flash.jlink", "SEGGER J-Link Commander V7.94e (Compiled Jan 1 2024)\nO.K.\nVerify successful.\n"),
    )


CALLS = {
    ("stm32f405", "openocd"): [
        [*PORTS_OFF, "-f", "interface/stlink.cfg", "-c", "adapter serial 0670FF48", "-f", "target/stm32f4x.cfg",
         "-c", "init", "-c", "reset init",
         "-c", "set chip [format 0x%03x [expr {[read_memory 0xe0042000 32 1] & 0xfff}]]",
         "-c", 'if {$chip ne "0x413"} {echo "** Wrong chip: $chip, not 0x413 **"; shutdown error}',
         "-c", "program firmware.bin verify reset exit 0x08000000"],
    ],
    ("stm32f405", "pyocd"): [
        ["json", "--no-config", "--probes"],
        ["load", "--no-config", "--no-wait", "--color", "never", "--uid", "0670FF48", "--target", "stm32f405rgtx",
         "--format", "bin", "--base-address", "0x08000000", "firmware.bin"],
        ["commander", "--no-config", "--no-wait", "--color", "never", "--uid", "0670FF48", "--target", "stm32f405rgtx",
         "--command", "savemem 0x08000000 5123 copy.bin", "--command", "reset"],
    ],
    ("stm32f405", "st-flash"): [
        ["--probe"],
        ["--reset", "--serial", "0670ff48", "write", "firmware.bin", "0x08000000"],
    ],
    ("stm32f405", "jlink"): [
        ["-NoGui", "1", "-ExitOnError", "1", "-CommandFile", "list.jlink"],
        ["-NoGui", "1", "-ExitOnError", "1", "-AutoConnect", "1", "-Device", "STM32F405RG", "-If", "SWD", "-Speed",
         "4000", "-USB", "683456789", "-CommandFile", "flash.jlink"],
    ],
    ("esp32-s3", "esptool"): [
        ["--chip", "esp32s3", "--port", "/dev/serial/by-id/esp", "--baud", "460800", "--before", "default-reset",
         "--after", "no-reset", "write-flash", "0x00010000", "firmware.bin"],
        ["--chip", "esp32s3", "--port", "/dev/serial/by-id/esp", "--baud", "460800", "--before", "default-reset",
         "--after", "hard-reset", "verify-flash", "0x00010000", "firmware.bin"],
    ],
    ("rp2040", "picotool"): [["load", "--verify", "--execute", "firmware.uf2", "--ser", "E6616408", "-f"]],
    ("nrf52840", "nrfjprog"): [
        ["--ids"],
        ["--program", "firmware.hex", "--sectorerase", "--verify", "--reset", "--family", "NRF52",
         "--snr", "683456789"],
    ],
    ("nrf52840", "nrfutil"): [
        ["device", "list"],
        ["device", "program", "--firmware", "firmware.hex", "--options",
         "chip_erase_mode=ERASE_RANGES_TOUCHED_BY_FIRMWARE,verify=VERIFY_READ,reset=RESET_SYSTEM",
         "--serial-number", "001050288420"],
    ],
}  # fmt: skip
PROBES = {"openocd": "0670FF48", "pyocd": "0670ff48", "st-flash": "0670FF48", "jlink": "683456789",
          "esptool": "/dev/serial/by-id/esp", "picotool": "E6616408", "nrfjprog": "683456789",
          "nrfutil": "1050288420"}  # fmt: skip
VERSIONS = {"openocd": "0.12.0", "pyocd": "0.36.0", "st-flash": "1.7.0", "jlink": "7.94e", "esptool": "5.1.0",
            "picotool": "2.1.1", "nrfjprog": "10.24.2", "nrfutil": "7.13.0"}  # fmt: skip


@pytest.mark.usefixtures("objcopy")
@pytest.mark.parametrize(("device", "runner"), CALLS)
def test_each_tool_is_called_as_its_manual_says(
    device: str, runner: str, bench: Bench, image: Callable[[str], FirmwareImage]
) -> None:
    install_everything(bench)
    flashed = flasher_for(load_profile(device), runner, PROBES[runner]).write(image(device))
    assert bench.arguments() == CALLS[device, runner]
    assert (flashed.runner, flashed.version) == (runner, VERSIONS[runner])
    assert flashed.verified
    assert flashed.verified_by == tools()[runner].verified_by


def test_every_tool_of_the_table_is_covered() -> None:
    assert {runner for _, runner in CALLS} | {"cp"} == set(tools())


@pytest.mark.usefixtures("objcopy")
@pytest.mark.parametrize(("device", "runner"), CALLS)
def test_the_tool_gets_the_very_image(
    device: str, runner: str, bench: Bench, image: Callable[[str], FirmwareImage]
) -> None:
    install_everything(bench)
    flasher_for(load_profile(device), runner, PROBES[runner]).write(image(device))
    files = bench.calls()[-1]["files"]
    profile = load_profile(device)
    assert profile.flashing is not None
    assert bytes.fromhex(files["firmware.bin"]) == PROGRAM
    if "firmware.hex" in files:
        assert read_hex(bytes.fromhex(files["firmware.hex"]).decode()) == (PROGRAM, profile.flashing.address)
    if "firmware.uf2" in files:
        program, address, family = read_uf2(bytes.fromhex(files["firmware.uf2"]))
        assert (program[: len(PROGRAM)], address, family) == (PROGRAM, 0x10000000, 0xE48BFF56)
    if runner == "jlink":
        script = bytes.fromhex(files["flash.jlink"]).decode().splitlines()
        assert script == [
            "r",
            "h",
            "loadbin firmware.bin, 0x08000000",
            "verifybin firmware.bin, 0x08000000",
            "r",
            "g",
            "exit",
        ]


def read_hex(text: str) -> tuple[bytes, int]:
    """An independent reader of Intel HEX: the data and its first address."""
    data, base, first = bytearray(), 0, None
    for line in text.split():
        record = bytes.fromhex(line[1:])
        assert sum(record) % 256 == 0
        size, address, kind, payload = record[0], int.from_bytes(record[1:3], "big"), record[3], record[4:-1]
        if kind == 4:
            base = int.from_bytes(payload, "big") << 16
        elif kind == 2:
            base = int.from_bytes(payload, "big") << 4
        elif kind == 0:
            first = base + address if first is None else first
            assert base + address == first + len(data)
            assert len(payload) == size
            data += payload
    assert first is not None
    return bytes(data), first


@pytest.mark.usefixtures("objcopy")
@pytest.mark.parametrize(("device", "runner"), [pair for pair in CALLS if pair[1] not in {"esptool", "picotool"}])
def test_the_only_probe_is_named_although_it_is_the_only_one(
    device: str, runner: str, bench: Bench, image: Callable[[str], FirmwareImage], system: Path
) -> None:
    """Another may be plugged in between listing and writing."""
    install_everything(bench)
    plug_in(system, "1-2", "0483:374b", "0670FF48")
    flasher_for(load_profile(device), runner).write(image(device))
    assert bench.arguments()[-1:] == CALLS[device, runner][-1:]


def test_without_a_probe_that_can_be_listed_the_tool_finds_its_own(
    bench: Bench, image: Callable[[str], FirmwareImage]
) -> None:
    install_everything(bench)
    flasher_for(load_profile("stm32f405"), "openocd").write(image("stm32f405"))
    flasher_for(load_profile("rp2040"), "picotool").write(image("rp2040"))
    openocd, picotool = bench.arguments()
    assert not any("adapter serial" in argument for argument in openocd)
    assert picotool == ["load", "--verify", "--execute", "firmware.uf2", "-f"]


def test_esptool_before_5_is_called_in_its_own_words(bench: Bench, image: Callable[[str], FirmwareImage]) -> None:
    bench.install(
        "esptool.py",
        says("write_flash", "Hash of data verified.\n"),
        says("verify_flash", "-- verify OK (digest matched)\n"),
        says("version", "esptool.py v4.7.0\n4.7.0\n"),
    )
    flashed = flasher_for(load_profile("esp32-s3"), port="/dev/ttyACM0").write(image("esp32-s3"))
    assert flashed.version == "4.7.0"
    assert [call[6:] for call in bench.arguments()] == [
        ["--before", "default_reset", "--after", "no_reset", "write_flash", "0x00010000", "firmware.bin"],
        ["--before", "default_reset", "--after", "hard_reset", "verify_flash", "0x00010000", "firmware.bin"],
    ]


@pytest.mark.parametrize(
    ("ids", "product", "expected"),
    [
        ("0483:374b", "", ["-f", "interface/stlink.cfg"]),
        ("1366:0105", "", ["-f", "interface/jlink.cfg", "-c", "transport select swd"]),
        ("0d28:0204", "CMSIS-DAP v2", ["-f", "interface/cmsis-dap.cfg", "-c", "transport select swd"]),
    ],
)
def test_openocd_is_told_which_kind_of_probe_is_plugged_in(
    ids: str, product: str, expected: list[str], bench: Bench, image: Callable[[str], FirmwareImage], system: Path
) -> None:
    install_everything(bench)
    plug_in(system, "1-1", "1d6b:0002", "")
    plug_in(system, "1-2", "046d:c52b", "", "Receiver")
    plug_in(system, "1-3", ids, "ABC123", product)
    flasher_for(load_profile("stm32f405"), "openocd").write(image("stm32f405"))
    (call,) = bench.arguments()
    assert call[6 : 6 + len(expected) + 2] == [*expected, "-c", "adapter serial ABC123"]


def test_a_probe_with_a_serial_number_that_is_no_text_is_used_while_it_is_alone(
    bench: Bench, image: Callable[[str], FirmwareImage], system: Path
) -> None:
    install_everything(bench)
    plug_in(system, "1-3", "1366:0101", "U\x01 ?\x06")
    flasher = flasher_for(load_profile("stm32f405"), "openocd")
    flasher.write(image("stm32f405"))
    (call,) = bench.arguments()
    assert "interface/jlink.cfg" in call
    assert not any("adapter serial" in argument for argument in call)
    plug_in(system, "1-4", "0483:3748", "U\x01 ?\x07")
    with pytest.raises(FlashError, match=r"2 probes are plugged in"):
        flasher.write(image("stm32f405"))


def test_openocd_keeps_the_profile_s_way_to_talk_to_the_same_probe(
    bench: Bench, image: Callable[[str], FirmwareImage], system: Path
) -> None:
    install_everything(bench)
    plug_in(system, "1-3", "0483:374e", "ABC123")
    flasher_for(load_profile("stm32u575"), "openocd").write(image("stm32u575"))
    assert bench.arguments()[0][6:10] == ["-f", "interface/stlink-dap.cfg", "-c", "transport select dapdirect_swd"]


# --- never the wrong board -------------------------------------------------------------------------------------------

TWO = {
    "pyocd": json.dumps({"boards": [{"unique_id": "0670FF48"}, {"unique_id": "0670FF49"}]}),
    "st-flash": (ST_INFO + ST_INFO).replace("{id}", "0670FF48", 1).format(id="0670FF49", chip="0x413"),
    "nrfjprog": "683456789\n260012345\n",
    "jlink": JLINK_LIST + JLINK_LIST.replace("683456789", "260012345"),
}


@pytest.mark.parametrize("runner", ["openocd", *TWO])
def test_several_probes_and_none_named_is_refused(
    runner: str, bench: Bench, image: Callable[[str], FirmwareImage], system: Path
) -> None:
    install_everything(bench)
    device = "nrf52840" if runner == "nrfjprog" else "stm32f405"
    if runner == "openocd":
        plug_in(system, "1-2", "0483:374b", "0670FF48")
        plug_in(system, "1-3", "0483:374b", "0670FF49")
    lister = {"st-flash": "st-info", "jlink": "JLinkExe"}.get(runner, runner)
    if runner != "openocd":
        bench.install(lister, says("version", "9.99"), says("", TWO[runner]))
    with pytest.raises(
        FlashError, match=r"2 probes are plugged in.*probe_id.*(0670FF48, 0670FF49|683456789, 260012345)"
    ):
        flasher_for(load_profile(device), runner).write(image(device))
    assert not bench.wrote()


@pytest.mark.parametrize("runner", ["pyocd", "st-flash", "jlink"])
@pytest.mark.parametrize("probe_id", ["0670FF4", "670FF4899", "68345678"])
def test_another_probe_or_a_part_of_its_number_is_not_the_board(
    runner: str, probe_id: str, bench: Bench, image: Callable[[str], FirmwareImage]
) -> None:
    """pyocd takes any part of a number for the whole."""
    install_everything(bench)
    with pytest.raises(FlashError, match=rf"the probe {probe_id} is not plugged in; {runner} sees (0670|683)"):
        flasher_for(load_profile("stm32f405"), runner, probe_id).write(image("stm32f405"))
    assert not bench.wrote()


def test_openocd_s_probe_is_looked_for_among_the_usb_devices(
    bench: Bench, image: Callable[[str], FirmwareImage], system: Path
) -> None:
    install_everything(bench)
    plug_in(system, "1-2", "0483:374b", "0670FF48")
    with pytest.raises(FlashError, match=r"the probe 0670FF49 is not plugged in; openocd sees 0670FF48"):
        flasher_for(load_profile("stm32f405"), "openocd", "0670FF49").write(image("stm32f405"))
    assert not bench.wrote()


def test_a_probe_that_cannot_be_listed_is_left_to_the_tool(bench: Bench, image: Callable[[str], FirmwareImage]) -> None:
    """Such as one behind a network. No part of another's number can be meant where there is no other."""
    install_everything(bench)
    bench.install("st-info", says("--probe", "Found 0 stlink programmers\n"))
    flasher_for(load_profile("stm32f405"), "st-flash", "0670FF48").write(image("stm32f405"))
    assert bench.arguments()[-1] == ["--reset", "--serial", "0670FF48", "write", "firmware.bin", "0x08000000"]


def test_a_list_that_fails_is_told(bench: Bench, image: Callable[[str], FirmwareImage]) -> None:
    install_everything(bench)
    bench.install("st-info", says("--probe", code=1, warns="Could not open USB device 0x0483:0x374b, access error.\n"))
    with pytest.raises(FlashError, match=r"cannot list the probes: it ended with exit code 1 .*udev rules"):
        flasher_for(load_profile("stm32f405"), "st-flash").write(image("stm32f405"))
    (bench.bin / "st-info").unlink()
    with pytest.raises(FlashError, match=r"st-info was not found; install it: apt install stlink-tools"):
        flasher_for(load_profile("stm32f405"), "st-flash").write(image("stm32f405"))
    assert not bench.wrote()


def test_another_chip_behind_the_right_probe_is_refused(bench: Bench, image: Callable[[str], FirmwareImage]) -> None:
    install_everything(bench)
    bench.install("st-info", says("--probe", ST_INFO.format(id="0670FF48", chip="0x0441")))
    with pytest.raises(FlashError, match=r"chip behind the probe 0670FF48 is a 0x0441, and the stm32f405 is a 0x413"):
        flasher_for(load_profile("stm32f405"), "st-flash", "0670FF48").write(image("stm32f405"))
    assert not bench.wrote()


def test_a_chip_that_does_not_answer_is_left_to_the_tool(bench: Bench, image: Callable[[str], FirmwareImage]) -> None:
    install_everything(bench)
    bench.install("st-info", says("--probe", ST_INFO.format(id="0670FF48", chip="0x0000")))
    bench.install("st-flash", says("--version", "v1.7.0\n"), says("", "Failed to connect to target\n", code=255))
    with pytest.raises(
        FlashError, match=r"Failed to connect to target\); the probe is there, the chip does not answer"
    ):
        flasher_for(load_profile("stm32f405"), "st-flash", "0670FF48").write(image("stm32f405"))


def test_an_image_for_another_board_or_a_changed_one_is_refused(
    bench: Bench, image: Callable[[str], FirmwareImage]
) -> None:
    install_everything(bench)
    flasher = flasher_for(load_profile("stm32f405"), "openocd")
    with pytest.raises(FlashError, match=r"built for stm32f412, not for stm32f405"):
        flasher.write(image("stm32f412"))
    changed = image("stm32f405")
    changed.bin.write_bytes(PROGRAM[:-1])
    with pytest.raises(FlashError, match=r"SHA-256 differs"):
        flasher.write(changed)
    changed.bin.unlink()
    with pytest.raises(FlashError, match=r"cannot be read: No such file"):
        flasher.write(changed)
    assert not bench.calls()


@pytest.mark.parametrize("probe_id", ["A; shutdown", "A\nB", "$(reboot)", "[exec reboot]", "{A}", "ü", ""])
def test_a_probe_id_cannot_be_a_command(probe_id: str, bench: Bench) -> None:
    install_everything(bench)
    with pytest.raises(DeviceError, match=r"has characters that no serial number"):
        flasher_for(load_profile("stm32f405"), "openocd", probe_id)


def port(device: str, serial: str | None) -> SimpleNamespace:
    return SimpleNamespace(
        device=device, serial_number=serial, vid=0x303A, pid=0x1001, product="USB JTAG", location=None
    )


def test_esptool_s_port_is_found_by_its_usb_serial_number(
    bench: Bench, image: Callable[[str], FirmwareImage], monkeypatch: pytest.MonkeyPatch
) -> None:
    install_everything(bench)
    plugged_in = [port("/dev/ttyACM0", "7C:DF:A1"), port("/dev/ttyACM1", "7C:DF:A2"), port("/dev/ttyACM2", "7CDFA3")]
    monkeypatch.setattr(ports.usb_ports, "comports", lambda: plugged_in)
    profile = load_profile("esp32-s3")
    flasher_for(profile, None, "7CDFA3").write(image("esp32-s3"))
    assert {call[3] for call in bench.arguments()} == {"/dev/ttyACM2"}
    flasher_for(profile, None, "7C:DF:A2").write(image("esp32-s3"))
    assert {call[3] for call in bench.arguments()[2:]} == {"/dev/ttyACM1"}
    with pytest.raises(FlashError, match=r"no serial port has the USB serial number 7CDFA4; .*7CDFA3 \(/dev/ttyACM2\)"):
        flasher_for(profile, None, "7CDFA4").write(image("esp32-s3"))
    with pytest.raises(FlashError, match=r"it is not said which serial port the esp32-s3 is on"):
        flasher_for(profile).write(image("esp32-s3"))
    monkeypatch.setattr(ports.usb_ports, "comports", lambda: plugged_in[:1])
    flasher_for(profile).write(image("esp32-s3"))
    assert bench.arguments()[-1][3] == "/dev/ttyACM0"
    for url in ("socket://farm:4000", "rfc2217://farm:4000", "COM3", "/dev/ttyUSB7"):
        flasher_for(profile, None, url).write(image("esp32-s3"))
        assert bench.arguments()[-1][3] == url


# --- verified, or not written ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("objcopy")
@pytest.mark.parametrize(("device", "runner"), [pair for pair in CALLS if pair[1] not in {"pyocd", "nrfutil"}])
def test_exit_code_0_alone_is_no_success(
    device: str, runner: str, bench: Bench, image: Callable[[str], FirmwareImage]
) -> None:
    """A wrapper that swallows errors, an old version, a stand-in: all end with 0."""
    install_everything(bench)
    executable = {"jlink": "JLinkExe"}.get(runner, runner)
    bench.install(executable, says("list.jlink", JLINK_LIST), says("--ids", "683456789\n"), says("", "done\n"))
    with pytest.raises(FlashError, match=rf"{runner} did not write .*it did not say that it verified"):
        flasher_for(load_profile(device), runner, PROBES[runner]).write(image(device))


@pytest.mark.parametrize(
    ("does", "complaint"),
    [
        ("read back wrong", "differs from address 0x080003e8 on .5123 of 5123 bytes"),
        ("read back short", "differs from address 0x080013fe on .5118 of 5123 bytes"),
        ("", "it did not read the flash back"),
    ],
)
def test_what_is_read_back_has_to_be_the_image(
    does: str, complaint: str, bench: Bench, image: Callable[[str], FirmwareImage]
) -> None:
    install_everything(bench)
    answers = [says("--version", "0.36.0\n"), says("json", PYOCD_LIST), says("load"), says("commander", does=does)]
    bench.install("pyocd", *answers)
    with pytest.raises(FlashError, match=complaint):
        flasher_for(load_profile("stm32f405"), "pyocd").write(image("stm32f405"))


FAILURES = [
    # What the tools print, from their sources and their users' reports; then what the person is told.
    ("openocd", "Error: open failed\nin procedure 'program'\n** OpenOCD init failed **\nshutdown command invoked\n",
     "Error: open failed", "no probe was found"),
    ("openocd",
     "Error: unable to find a matching CMSIS-DAP device\n** OpenOCD init failed **\nshutdown command invoked\n",
     "unable to find a matching CMSIS-DAP device", "no probe was found"),
    ("openocd", "Error: libusb_open() failed with LIBUSB_ERROR_ACCESS\nError: open failed\n", "LIBUSB_ERROR_ACCESS",
     "udev rules"),
    ("openocd", "Info : Target voltage: 3.2\nError: init mode failed (unable to connect to the target)\n",
     "init mode failed", "the chip does not answer"),
    ("openocd", "Info : device id = 0x20036410\nError: stm32x device protected\nError: failed erasing sectors 0 to 2\n"
     "** Programming Failed **\n", "stm32x device protected", "protected against reading or writing"),
    ("openocd",
     "Error: Cannot identify target as a STM32 family.\nError: auto_probe failed\n** Programming Failed **\n",
     "Cannot identify target", "this is no stm32f405"),
    ("openocd", "** Wrong chip: 0x441, not 0x413 **\nshutdown command invoked\n", "Wrong chip: 0x441",
     "this is no stm32f405"),
    ("openocd", "** Programming Finished **\n** Verify Started **\nError: checksum mismatch\n** Verify Failed **\n",
     "(Verify Failed)", "does not hold what was written"),
    ("openocd", "embedded:startup.tcl:28: Error: Can't find target/stm32u5x.cfg\n", "Can't find target",
     "get a newer one"),
    ("openocd", "Error: couldn't bind tcl to socket on port 6666: Address already in use\n", "6666", "another program"),
    ("st-flash", "2026-11-29T03:34:56 WARN usb.c: Couldn't find any ST-Link devices\n", "Couldn't find any",
     "no probe"),
    ("st-flash", "2026-11-29T03:34:56 ERROR usb.c: Could not open USB device 0x0483:0x374b, access error.\n",
     "(Could not open USB device", "udev rules"),
    ("st-flash", "Stlink usb device found, but unable to claim (probably already in use?)\n", "unable to claim",
     "another program"),
    ("st-flash", "2026-11-29T03:34:56 ERROR common.c: Verification of flash failed at offset: 512\n",
     "Verification of flash failed at offset: 512", "does not hold what was written"),
    ("st-flash", "2026-11-29T03:34:56 ERROR common.c: Flash memory is write protected\n", "write protected",
     "erases the whole"),
    ("st-flash", "WARN common.c: unknown chip id! 0xe0042000\n", "unknown chip id", "this is no stm32f405"),
    ("st-flash", "Failed to connect to target\n", "Failed to connect", "the chip does not answer"),
    ("pyocd", "0000407 E No target device available [load_cmd]\n", "(No target device available", "no probe was found"),
    ("pyocd", "0000640 C Target type stm32f405rgtx not recognized. Use 'pyocd list --targets' to see currently "
     "available target types. [__main__]\n", "not recognized", "pyocd pack install stm32f405rgtx"),
    ("pyocd", "0000640 E No ACK received [__main__]\n", "No ACK", "the chip does not answer"),
    ("pyocd", "0000640 C Error: [Errno 13] Access denied (insufficient permissions) [__main__]\n", "Access denied",
     "udev"),
    ("esptool", "A fatal error occurred: Failed to connect to ESP32-S3: No serial data received.\n", "No serial data",
     "hold BOOT"),
    ("esptool", "A fatal error occurred: This chip is ESP32-C3, not ESP32-S3. Wrong chip argument?\n",
     "This chip is ESP32-C3",
     "this is no esp32-s3"),
    ("esptool",
     "A fatal error occurred: Could not open /dev/ttyACM0, the port is busy or doesn't exist.\n([Errno 13] could "
     "not open port /dev/ttyACM0: [Errno 13] Permission denied: '/dev/ttyACM0')\n", "Permission denied",
     "usermod -aG dialout"),
    ("esptool", "A fatal error occurred: Could not open /dev/ttyACM0, the port is busy or doesn't exist.\n([Errno 16] "
     "Device or resource busy)\n", "port is busy", "another program"),
    ("esptool", "A fatal error occurred: MD5 of file does not match data in flash!\n", "MD5 of file", "does not hold"),
    ("picotool", "No accessible RP-series devices in BOOTSEL mode were found.\n", "No accessible", "hold BOOTSEL"),
    ("picotool",
     "No accessible RP-series devices in BOOTSEL mode were found.\n\nbut:\n\nRP2040 device at bus 1, address 5 "
     "appears to be in BOOTSEL mode, but picotool was unable to connect. Maybe try 'sudo' or check your permissions.\n",
     "unable to connect", "udev rules"),
    ("picotool", "ERROR: Command requires a single RP-series device to be targeted.\n", "single RP-series",
     "more than one"),
    ("picotool", "  FAILED\nERROR: The device contents did not match the file\n", "did not match", "does not hold"),
    ("nrfjprog", "ERROR: There is no debugger connected to the PC.\n", "no debugger connected", "no probe was found"),
    ("nrfjprog", "ERROR: The operation attempted is unavailable due to readback protection in\nERROR: your device.\n",
     "readback protection", "erases the whole chip"),
    ("jlink", "SEGGER J-Link Commander V7.94e\nVerify failed @ address 0x0800001C.\nExpected 0C read 8A\n",
     "Verify failed",
     "does not hold what was written"),
    ("jlink",
     "SEGGER J-Link Commander V7.94e\nConnecting to J-Link via USB...FAILED: Failed to open DLL\nCannot connect to "
     "J-Link.\n", "FAILED: Failed to open DLL", "no probe was found"),
    ("jlink", "SEGGER J-Link Commander V7.94e\nConnecting to target via SWD\nCannot connect to target.\n",
     "Cannot connect to target", "the chip does not answer"),
]  # fmt: skip
DEVICES = {"esptool": "esp32-s3", "picotool": "rp2040", "nrfjprog": "nrf52840"}


@pytest.mark.usefixtures("objcopy")
@pytest.mark.parametrize(("runner", "output", "quoted", "advice"), FAILURES)
def test_a_failure_is_quoted_and_explained(
    runner: str, output: str, quoted: str, advice: str, bench: Bench, image: Callable[[str], FirmwareImage]
) -> None:
    install_everything(bench)
    executable = {"jlink": "JLinkExe"}.get(runner, runner)
    lists = [says("list.jlink", JLINK_LIST), says("--ids", "683456789\n"), says("json", PYOCD_LIST)]
    bench.install(executable, says("version", "99.0"), *lists, says("", code=1, warns=output))
    device = DEVICES.get(runner, "stm32f405")
    with pytest.raises(FlashError) as caught:
        flasher_for(load_profile(device), runner, PROBES[runner]).write(image(device))
    message = str(caught.value)
    assert message.startswith(f"{runner} did not write to the {device} behind {PROBES[runner]}: ")
    assert "exit code 1" in message
    assert quoted in message
    assert advice in message
    assert "\n" not in message
    assert "{" not in message


def test_a_failure_that_nobody_knows_is_still_told(bench: Bench, image: Callable[[str], FirmwareImage]) -> None:
    bench.install("openocd", says("version", "0.12.0"), says("", "Frobnicating\nthe flux is gone\n\n", code=7))
    with pytest.raises(FlashError, match=r"exit code 7 \(the flux is gone\); run it by hand"):
        flasher_for(load_profile("stm32f405"), "openocd").write(image("stm32f405"))


def test_an_error_in_the_first_step_ends_it(bench: Bench, image: Callable[[str], FirmwareImage]) -> None:
    install_everything(bench)
    answers = [says("--version", "0.36.0\n"), says("json", PYOCD_LIST), says("load", code=1)]
    bench.install("pyocd", *answers, says("commander", does="read back"))
    with pytest.raises(FlashError):
        flasher_for(load_profile("stm32f405"), "pyocd").write(image("stm32f405"))
    assert "commander" not in [call[0] for call in bench.arguments()]


# --- tools that hang, die, or are not there --------------------------------------------------------------------------


def gone(pid: int) -> bool:
    """Whether a process ends, given some time."""
    deadline = time.monotonic() + 20
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not alive(pid)


def impatient(flasher: Flasher) -> Flasher:
    return replace(flasher, tool=flasher.tool.model_copy(update={"timeout_s": 1.5}))


def test_a_tool_that_hangs_is_stopped_with_all_it_started(
    bench: Bench, image: Callable[[str], FirmwareImage], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("devices.host.processes.GRACE_S", 0.2)
    bench.install(
        "openocd", says("version", "Open On-Chip Debugger 0.12.0"), says("", "Info : clock speed\n", does="hang")
    )
    with pytest.raises(FlashError, match=r"did not end within 2 s and was stopped \(Info : clock speed\)"):
        impatient(flasher_for(load_profile("stm32f405"), "openocd")).write(image("stm32f405"))
    assert gone(int((bench.bin / "hangs").read_text()))
    assert gone(int((bench.bin / "child").read_text()))


def test_a_tool_that_crashes_is_no_success(bench: Bench, image: Callable[[str], FirmwareImage]) -> None:
    bench.install("openocd", says("version", "Open On-Chip Debugger 0.12.0"), says("", OPENOCD_OK, does="die"))
    with pytest.raises(FlashError, match=r"exit code 139"):
        flasher_for(load_profile("stm32f405"), "openocd").write(image("stm32f405"))


def test_what_a_tool_leaves_in_the_background_neither_blocks_nor_stays(
    bench: Bench, image: Callable[[str], FirmwareImage]
) -> None:
    done = says("", OPENOCD_OK, does="leave something running")
    bench.install("openocd", says("version", "Open On-Chip Debugger 0.12.0"), done)
    flasher_for(load_profile("stm32f405"), "openocd").write(image("stm32f405"))
    assert gone(int((bench.bin / "child").read_text()))


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel ends a child with its parent on Linux only")
def test_a_killed_parent_leaves_no_flasher_behind(bench: Bench, tmp_path: Path) -> None:
    bench.install("openocd", says("version", "Open On-Chip Debugger 0.12.0"), says("", does="hang"))
    (tmp_path / "firmware.bin").write_bytes(PROGRAM)
    script = f"""
import hashlib
from pathlib import Path
from devices.firmware import FirmwareImage
from devices.flashing.flasher import flasher_for
from devices.profile import load_profile
file = Path({str(tmp_path / "firmware.bin")!r})
digest = hashlib.sha256(file.read_bytes()).hexdigest()
flasher_for(load_profile("stm32f405"), "openocd").write(
    FirmwareImage("stm32f405", "id", file, file, file, 0, 0, 0, digest, "gcc"))
"""
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT) as parent:
        deadline = time.monotonic() + 60
        while not (bench.bin / "hangs").exists() and parent.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        parent.send_signal(signal.SIGKILL)
    assert gone(int((bench.bin / "hangs").read_text()))
    assert gone(int((bench.bin / "child").read_text()))


def test_run_tool_tells_the_exit_code_and_joins_the_output(tmp_path: Path) -> None:
    script = "import sys; print('\\x1b[31mred\\x1b[0m\\r12%\\rend'); sys.stderr.write('last'); sys.exit(3)"
    done = run_tool([sys.executable, "-u", "-c", script], tmp_path, 20)
    assert (done.exit_code, done.output) == (3, "red\n12%\nend\nlast")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is no guard in between")
def test_a_tool_that_cannot_be_started_is_told(bench: Bench, image: Callable[[str], FirmwareImage]) -> None:
    path = bench.bin / "openocd"
    path.write_text("#!/nowhere/interpreter\n")
    path.chmod(0o755)
    with pytest.raises(FlashError, match=r"it does not run: it ended with exit code 127 .*No such file or directory"):
        flasher_for(load_profile("stm32f405"), "openocd").write(image("stm32f405"))


@pytest.mark.parametrize(
    ("runner", "answer", "complaint"),
    [
        (
            "openocd",
            "Open On-Chip Debugger 0.10.0\n",
            "openocd 0.10.0 is too old: get 0.12 or newer, apt install openocd",
        ),
        ("st-flash", "v1.5.1\n", "st-flash 1.5.1 is too old: get 1.7 or newer"),
        ("pyocd", "0.20.0\n", "pyocd 0.20.0 is too old: get 0.34 or newer, pip install pyocd"),
    ],
)
def test_a_tool_that_is_too_old_is_not_used(
    runner: str, answer: str, complaint: str, bench: Bench, image: Callable[[str], FirmwareImage]
) -> None:
    install_everything(bench)
    bench.install(runner, says("--version", answer), says(""))
    with pytest.raises(FlashError, match=re.escape(complaint)):
        flasher_for(load_profile("stm32f405"), runner).write(image("stm32f405"))
    assert not bench.wrote()


def test_the_first_tool_that_is_installed_is_used(bench: Bench) -> None:
    profile = load_profile("stm32f405")
    with pytest.raises(DeviceError) as caught:
        flasher_for(profile)
    for part in (
        "openocd: apt install openocd",
        "st-flash: apt install stlink-tools",
        "pyocd: pip install pyocd",
        "jlink: ",
    ):
        assert part in str(caught.value)
    bench.install("pyocd")
    assert flasher_for(profile).runner == "pyocd"
    bench.install("openocd")
    assert flasher_for(profile).runner == "openocd"
    assert flasher_for(profile, "pyocd").runner == "pyocd"
    with pytest.raises(DeviceError, match=r"nothing is installed .*st-flash: apt install stlink-tools"):
        flasher_for(profile, "st-flash")


def test_a_runner_that_does_not_belong_to_the_board_is_refused(bench: Bench) -> None:
    install_everything(bench)
    with pytest.raises(
        DeviceError, match=r"'esptool' cannot write to the device stm32f405; it is written with openocd"
    ):
        flasher_for(load_profile("stm32f405"), "esptool")
    with pytest.raises(DeviceError, match=r"'avrdude' is no runner for the device stm32f405; choose from openocd"):
        flasher_for(load_profile("stm32f405"), "avrdude")
    for device in ("mps2-an386", "pixel2"):
        with pytest.raises(DeviceError, match=rf"no image can be written to the device {device}"):
            flasher_for(load_profile(device))


# --- the data --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", device_names())
def test_profiles_say_all_that_their_tools_need(name: str, bench: Bench) -> None:
    install_everything(bench)
    profile = load_profile(name)
    if profile.flashing is None:
        assert profile.kind == "phone" or profile.emulator is not None
        return
    assert profile.flashing.source.strip()
    for runner, names in profile.flashing.runners.items():
        assert names.source.strip()
        assert flasher_for(profile, runner).runner == runner


@pytest.mark.parametrize(
    ("device", "old", "new", "complaint"),
    [
        ("stm32f405", 'target = "target/stm32f4x.cfg", ', "", "does not say target for the runner openocd"),
        ("rp2040", 'format = "uf2", family = "0xe48bff56"', 'format = "uf2"', "does not say family for the runner cp"),
        (
            "stm32f405",
            'chip_id = "0x413", chip',
            'chipid = "0x413", chip',
            "says chipid, which it does not use, for the runner openocd",
        ),
        (
            "stm32f405",
            "[flashing.runners.pyocd]",
            "[flashing.runners.avrdude]",
            "names the runner 'avrdude'; choose from openocd",
        ),
    ],
)
def test_a_profile_with_a_hole_or_a_slip_is_refused(
    device: str, old: str, new: str, complaint: str, bench: Bench
) -> None:
    install_everything(bench)
    text = profile_text(device)
    assert old in text
    with pytest.raises(DeviceError, match=re.escape(complaint)):
        flasher_for(parse_profile(text.replace(old, new), "mine"))


def test_the_page_tells_of_every_tool() -> None:
    page = (ROOT / "docs" / "flashing.md").read_text(encoding="utf-8")
    for name, tool in tools().items():
        row = next((line for line in page.splitlines() if line.startswith(f"| `{name}` |")), None)
        assert row is not None, f"docs/flashing.md has no row for {name}"
        assert tool.minimum in row
        assert tool.verified_by in row
        assert tool.install in row


def test_the_chip_s_address_is_where_the_firmware_is_linked() -> None:
    for name in device_names():
        profile = load_profile(name)
        if profile.flashing is not None and profile.emulator is not None:
            script = (ROOT / "firmware/boards" / profile.emulator.firmware_board / "board.ld").read_text(
                encoding="utf-8"
            )
            found = re.search(r"FLASH \(rx\) : ORIGIN = (0x[0-9A-Fa-f]+)", script)
            assert found is not None
            assert profile.flashing.address == int(found[1], 16)


# --- UF2 -------------------------------------------------------------------------------------------------------------


def test_a_uf2_block_is_as_the_specification_draws_it() -> None:
    content = write_uf2(b"\x11" * 257, 0x10000000, 0xE48BFF56)
    assert len(content) == 2 * 512
    second = content[512:]
    assert second[:4] == b"UF2\n"
    assert second[4:8] == bytes.fromhex("57515d9e")
    words = [int.from_bytes(second[at : at + 4], "little") for at in range(8, 32, 4)]
    assert words == [0x2000, 0x10000100, 256, 1, 2, 0xE48BFF56]
    assert second[32:36] == b"\x11\0\0\0"
    assert second[-4:] == bytes.fromhex("306fb10a")


@given(st.binary(min_size=1, max_size=3000), st.integers(0, 2**24 - 12), st.integers(0, 2**32 - 1))
def test_a_uf2_file_holds_the_program(program: bytes, page: int, family: int) -> None:
    read, address, of = read_uf2(write_uf2(program, page * 256, family))
    assert read[: len(program)] == program
    assert not read[len(program) :].strip(b"\0")
    assert (address, of, len(read) % 256) == (page * 256, family, 0)


@given(st.data())
def test_a_damaged_uf2_file_is_noticed_or_read_as_it_is(data: st.DataObject) -> None:
    """Only the payload has no redundancy in this format."""
    content = bytearray(write_uf2(bytes(700), 0x10000000, 0xE48BFF56))
    at = data.draw(st.sampled_from([at for at in range(len(content)) if at % 512 < 32 or at % 512 >= 508]))
    content[at] ^= data.draw(st.integers(1, 255))
    try:
        assert read_uf2(bytes(content)) != read_uf2(write_uf2(bytes(700), 0x10000000, 0xE48BFF56))
    except DeviceError:
        return
    assert at % 512 in range(8, 32)


@pytest.mark.parametrize("cut", [0, 511, 512, 1024])
def test_an_incomplete_uf2_file_is_refused(cut: int) -> None:
    with pytest.raises(DeviceError, match=r"UF2"):
        read_uf2(write_uf2(bytes(700), 0x10000000, 0xE48BFF56)[:cut])


# --- drives ----------------------------------------------------------------------------------------------------------


class Board(threading.Thread):
    """What a board does with the file that is copied to its drive."""

    def __init__(self, file: Path, does: Callable[[bytes], None]) -> None:
        super().__init__(daemon=True)
        self._file, self._does, self.got = file, does, b""
        self._stopped = threading.Event()

    def run(self) -> None:
        size = -1
        while not self._stopped.wait(0.05):
            now = self._file.stat().st_size if self._file.exists() else -1
            if now > 0 and now == size:
                self.got = self._file.read_bytes()
                self._does(self.got)
                return
            size = now

    def __enter__(self) -> Board:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self.join()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(usb_drive, "SETTLE_S", 0.7)
    return


def uf2_drive(system: Path, folder: Path, usb_port: str = "1-4", block: str = "sdb1") -> Path:
    plug_in(system, usb_port, "2e8a:0003", "E0C9125B0D9B", block=block)
    label_drive(system, block, "RPI-RP2", folder)
    (folder / "INFO_UF2.TXT").write_text("UF2 Bootloader v3.0\nModel: Raspberry Pi RP2\nBoard-ID: RPI-RP2\n")
    return folder


def leave(folder: Path) -> Callable[[bytes], None]:
    """A boot loader that starts the program: its drive is gone."""
    return lambda _: shutil.rmtree(folder)


@pytest.mark.parametrize("probe_id", [None, "1-4", "folder"])
def test_a_uf2_drive_gets_the_image_and_the_board_says_so(
    probe_id: str | None, bench: Bench, image: Callable[[str], FirmwareImage], system: Path, tmp_path: Path
) -> None:
    drive = uf2_drive(system, tmp_path / "RPI-RP2")
    flasher = flasher_for(load_profile("rp2040"), "cp", str(drive) if probe_id == "folder" else probe_id)
    with Board(drive / "firmware.uf2", leave(drive)) as board:
        flashed = flasher.write(image("rp2040"), lambda: "0123abcd")
    assert (flashed.runner, flashed.verified_by) == ("cp", "the board, which reports the model's id")
    program, address, family = read_uf2(board.got)
    assert (program[: len(PROGRAM)], address, family) == (PROGRAM, 0x10000000, 0xE48BFF56)


def test_a_drive_alone_verifies_nothing(
    bench: Bench, image: Callable[[str], FirmwareImage], system: Path, tmp_path: Path
) -> None:
    drive = uf2_drive(system, tmp_path / "RPI-RP2")
    flasher = flasher_for(load_profile("rp2040"), "cp")
    with pytest.raises(FlashError, match=r"cannot be read back, so the board itself has to say"):
        flasher.write(image("rp2040"))
    assert not (drive / "firmware.uf2").exists()
    with (
        Board(drive / "firmware.uf2", leave(drive)),
        pytest.raises(FlashError, match=r"still runs the model old, not 0123"),
    ):
        flasher.write(image("rp2040"), lambda: "old")


def test_a_uf2_drive_that_stays_did_not_take_the_image(
    bench: Bench, image: Callable[[str], FirmwareImage], system: Path, tmp_path: Path
) -> None:
    uf2_drive(system, tmp_path / "RPI-RP2")
    with pytest.raises(FlashError, match=r"the board did not take .*its drive is still there"):
        impatient(flasher_for(load_profile("rp2040"), "cp")).write(image("rp2040"), lambda: "0123abcd")


def test_of_several_drives_none_is_guessed(
    bench: Bench, image: Callable[[str], FirmwareImage], system: Path, tmp_path: Path
) -> None:
    """Two boards in BOOTSEL mode have the same label and the same serial number; udev's link shows one of them."""
    first = uf2_drive(system, tmp_path / "RPI-RP2")
    profile = load_profile("rp2040")
    plug_in(system, "1-5", "2e8a:0003", "E0C9125B0D9B", block="sdc1")
    (system / "dev/disk/by-label/RPI-RP2").rename(system / "dev/disk/by-label/x")
    label_drive(system, "sdc1", "RPI-RP2", tmp_path / "RPI-RP21")
    with pytest.raises(FlashError, match=r"no RPI-RP2 drive belongs to 1-4.*\(boards of this kind all have the same"):
        flasher_for(profile, "cp", "1-4").write(image("rp2040"), lambda: "")
    with pytest.raises(FlashError, match=r"give the board's probe_id .*USB port 1-5"):
        flasher_for(profile, "cp", "E0C9125B0D9B").write(image("rp2040"), lambda: "")
    assert not list(first.glob("firmware*"))


def test_a_drive_that_is_missing_unmounted_or_another_s_is_told(
    bench: Bench, image: Callable[[str], FirmwareImage], system: Path, tmp_path: Path
) -> None:
    flasher = flasher_for(load_profile("rp2040"), "cp")
    with pytest.raises(FlashError, match=r"no drive is called RPI-RP2: plug the board in"):
        flasher.write(image("rp2040"), lambda: "")
    plug_in(system, "1-4", "2e8a:0003", "E0C9125B0D9B", block="sdb1")
    label_drive(system, "sdb1", "RPI-RP2", None)
    with pytest.raises(FlashError, match=r"is not mounted: udisksctl mount -b /dev/sdb1"):
        flasher.write(image("rp2040"), lambda: "")
    (system / "dev/disk/by-label/RPI-RP2").unlink()
    label_drive(system, "sdb1", "RPI-RP2", tmp_path / "my stick")
    with pytest.raises(FlashError, match=r"my stick is called RPI-RP2, but there is no INFO_UF2.TXT in it"):
        flasher.write(image("rp2040"), lambda: "")
    with pytest.raises(FlashError, match=r"is no RPI-RP2 drive: there is no INFO_UF2.TXT"):
        flasher_for(load_profile("rp2040"), "cp", str(tmp_path)).write(image("rp2040"), lambda: "")
    assert not list((tmp_path / "my stick").iterdir())


def daplink_drive(system: Path, folder: Path, serial: str, *, known: bool = True, block: str = "sdd") -> Path:
    if known:
        plug_in(system, f"2-{block[-1]}", "0d28:0204", serial, "CMSIS-DAP", block)
    label_drive(system, block, "MICROBIT", folder)
    (folder / "DETAILS.TXT").write_text(f"# DAPLink Firmware\r\nUnique ID: {serial}\r\nHIC ID: 97969901\r\n")
    return folder


@pytest.mark.usefixtures("objcopy", "quick")
@pytest.mark.parametrize("known", [True, False])
def test_a_daplink_drive_is_found_by_its_serial_number(
    known: bool, bench: Bench, image: Callable[[str], FirmwareImage], system: Path, tmp_path: Path
) -> None:
    """As USB tells it, or as the drive's own file does."""
    drive = daplink_drive(system, tmp_path / "MICROBIT", "9900000037324e45", known=known)
    profile = load_profile("nrf51822")
    with pytest.raises(FlashError, match=r"no MICROBIT drive belongs to 9900000037324e46"):
        flasher_for(profile, "cp", "9900000037324e46").write(image("nrf51822"), lambda: "")
    with Board(drive / "firmware.hex", lambda _: (drive / "firmware.hex").unlink()) as board:
        flasher_for(profile, "cp", "9900000037324E45").write(image("nrf51822"), lambda: "0123abcd")
    assert read_hex(board.got.decode()) == (PROGRAM, 0)


@pytest.mark.usefixtures("objcopy", "quick")
def test_daplink_s_own_words_are_told_when_it_refuses(
    bench: Bench, image: Callable[[str], FirmwareImage], system: Path, tmp_path: Path
) -> None:
    drive = daplink_drive(system, tmp_path / "MICROBIT", "9900")
    reason = "The transfer timed out.\r\nerror: The transfer timed out.\r\ntype: transient, user\r\n"

    def refuse(_: bytes) -> None:
        (drive / "FAIL.TXT").write_text(reason)
        (drive / "firmware.hex").unlink()

    with (
        Board(drive / "firmware.hex", refuse),
        pytest.raises(FlashError, match=r"refused firmware.hex: The transfer timed"),
    ):
        flasher_for(load_profile("nrf51822"), "cp").write(image("nrf51822"), lambda: "0123abcd")


@pytest.mark.usefixtures("objcopy", "quick")
def test_where_nobody_mounts_the_drive_again_the_board_decides(
    bench: Bench, image: Callable[[str], FirmwareImage], system: Path, tmp_path: Path
) -> None:
    """The old mount still shows the file then, and an old FAIL.TXT."""
    drive = daplink_drive(system, tmp_path / "MICROBIT", "9900")
    (drive / "FAIL.TXT").write_text("of last week")
    flasher = flasher_for(load_profile("nrf51822"), "cp")
    assert flasher.write(image("nrf51822"), lambda: "0123abcd").verified
    with pytest.raises(FlashError, match=r"still runs the model other"):
        flasher.write(image("nrf51822"), lambda: "other")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.usefixtures("objcopy", "quick")
def test_a_drive_that_cannot_be_written_is_told(
    bench: Bench, image: Callable[[str], FirmwareImage], system: Path, tmp_path: Path
) -> None:
    drive = daplink_drive(system, tmp_path / "MICROBIT", "9900")
    drive.chmod(0o555)
    with pytest.raises(FlashError, match=r"firmware.hex cannot be written: Permission denied"):
        flasher_for(load_profile("nrf51822"), "cp").write(image("nrf51822"), lambda: "0123abcd")


# --- the real tools --------------------------------------------------------------------------------------------------


def real(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


STM32 = [name for name in device_names() if name.startswith("stm32")]


@pytest.mark.parametrize("device", [*STM32, "nrf51822", "nrf52840", "rp2040"])
def test_the_real_openocd_understands_every_profile(
    device: str, system: Path, image: Callable[[str], FirmwareImage]
) -> None:
    """It reads the configuration and ends where a probe would be opened: nothing is plugged in, or not this one."""
    real("openocd")
    probe_id = "123456" if device == "nrf52840" else "TINYNAS0"
    with pytest.raises(FlashError, match=r"no probe was found"):
        flasher_for(load_profile(device), "openocd", probe_id).write(image(device))


FAUX = """
adapter speed 1000
jtag newtap t cpu -irlen 4 -expected-id 0
target create t.cpu testee -chain-position t.cpu
flash bank t.flash faux 0x08000000 0x100000 2 4 t.cpu
t.cpu configure -event reset-init {
    proc read_memory {args} {return 0x1003641%s}
    %s
}
"""
"""A processor that does not exist, with a flash that forgets; what it cannot do by itself is made up once it runs."""


def faux(folder: Path, chip: str, more: str) -> Flasher:
    """The real openocd on its own dummy adapter, with a chip that it makes up."""
    real("openocd")
    config = folder / "faux.cfg"
    config.write_text(FAUX % (chip, more))
    flasher = flasher_for(load_profile("stm32f405"), "openocd")
    runners = flasher.flashing.runners
    names = {**runners["openocd"].names, "target": str(config)}
    dummy = flasher.tool.adapters["stlink"].model_copy(update={"arguments": ("-f", "interface/dummy.cfg")})
    return replace(
        flasher,
        tool=flasher.tool.model_copy(update={"adapters": {"stlink": dummy}}),
        flashing=flasher.flashing.model_copy(
            update={"runners": {"openocd": runners["openocd"].model_copy(update={"names": names})}}
        ),
    )


def test_the_real_openocd_writes_and_verifies(
    tmp_path: Path, system: Path, image: Callable[[str], FirmwareImage]
) -> None:
    verified = 'proc verify_image {file address} {echo "verifying [file size $file] bytes at $address"}'
    flashed = faux(tmp_path, "3", verified).write(image("stm32f405"))
    assert flashed.runner == "openocd"
    assert flashed.version


def test_the_real_openocd_s_failed_verification_is_told(
    tmp_path: Path, system: Path, image: Callable[[str], FirmwareImage]
) -> None:
    """Its made-up chip cannot be read back."""
    with pytest.raises(FlashError, match=r"exit code 1 \(Verify Failed\); the flash does not hold"):
        faux(tmp_path, "3", "").write(image("stm32f405"))


def test_the_real_openocd_writes_nothing_to_another_chip(
    tmp_path: Path, system: Path, image: Callable[[str], FirmwareImage]
) -> None:
    trap = f"proc program {{args}} {{close [open {tmp_path}/written w]}}"
    with pytest.raises(FlashError, match=r"this is no stm32f405"):
        faux(tmp_path, "1", trap).write(image("stm32f405"))
    assert not (tmp_path / "written").exists()


def test_the_real_st_flash_understands_how_it_is_called(system: Path, image: Callable[[str], FirmwareImage]) -> None:
    real("st-flash")
    with pytest.raises(FlashError, match=r"find any ST-Link.*no probe was found"):
        flasher_for(load_profile("stm32f405"), "st-flash").write(image("stm32f405"))
    flasher = flasher_for(load_profile("stm32f405"), "st-flash", "0670FF48")
    assert flasher.probes() == ()


def test_the_real_pyocd_understands_how_it_is_called(system: Path, image: Callable[[str], FirmwareImage]) -> None:
    real("pyocd")
    with pytest.raises(FlashError, match=r"No connected debug probes.*no probe was found"):
        flasher_for(load_profile("stm32h743"), "pyocd").write(image("stm32h743"))


def filled(device: str, runner: str, step: int, probe_id: str, **more: str) -> list[str]:
    """The arguments of a step as the tool would get them."""
    profile = load_profile(device)
    assert profile.flashing is not None
    tool = tools()[runner]
    flasher = Flasher(runner, probe_id, None, device, profile.flashing, tool, "")
    fields = flasher._fields(PROGRAM, Probe(probe_id))
    return flasher._arguments(tool.steps[step].arguments, {**fields, **more}, "99")


@pytest.mark.parametrize("device", [name for name in device_names() if "pyocd" in profile_text(name)])
def test_pyocd_s_own_parser_takes_the_arguments_for_what_they_are_meant(device: str) -> None:
    tool = pytest.importorskip("pyocd.__main__", reason="pyocd is not installed beside tinynas").PyOCDTool()
    profile = load_profile(device)
    assert profile.flashing is not None
    parser = getattr(tool, "_parser", None) or tool.build_parser()
    load = parser.parse_args(filled(device, "pyocd", 0, "0670FF48"))
    target = profile.flashing.runners["pyocd"].names["target"]
    assert (load.unique_id, load.target_override, load.no_wait) == ("0670FF48", target, True)
    assert (load.file, load.format, load.base_address) == (["firmware.bin"], "bin", profile.flashing.address)
    commander = parser.parse_args(filled(device, "pyocd", 1, "0670FF48"))
    assert commander.unique_id == "0670FF48"
    assert [" ".join(command) for command in commander.commands] == [
        f"savemem {profile.flashing.address:#010x} {len(PROGRAM)} copy.bin",
        "reset",
    ]
    assert parser.parse_args(list(tools()["pyocd"].list)).probes
    if device in {"stm32f412", "stm32h743", "nrf51822", "nrf52840", "rp2040"}:
        assert target in importlib.import_module("pyocd.target").TARGET


def test_esptool_s_own_parser_takes_the_arguments_for_what_they_are_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli = pytest.importorskip("esptool", reason="esptool is not installed beside tinynas").cli
    monkeypatch.setattr(cli, "_esp", None, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "firmware.bin").write_bytes(PROGRAM)
    for step, name, after in ((0, "write-flash", "no-reset"), (1, "verify-flash", "hard-reset")):
        arguments = filled("esp32-s3", "esptool", step, "/dev/ttyACM0")
        context = cli.make_context("esptool", list(arguments))
        assert {key: context.params[key] for key in ("chip", "port", "baud", "before", "after")} == {
            "chip": "esp32s3", "port": "/dev/ttyACM0", "baud": 460800, "before": "default-reset", "after": after,
        }  # fmt: skip
        rest = [*getattr(context, "_protected_args", []), *context.args]
        found, command, rest = cli.resolve_command(context, rest)
        assert found == name
        ((address, file),) = command.make_context(found, rest, parent=context).params["addr_filename"]
        assert address == 0x10000
        assert Path(getattr(file, "name", file)).name == "firmware.bin"
