"""Builds the firmware that carries one model, and reads from the linker's map what it takes."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from devices.board import Image
from devices.errors import DeviceError
from devices.host.scratch import scratch_folder
from devices.profile import DeviceProfile, device_names, load_profile

SOURCE_DIR = Path(__file__).resolve().parent.parent / "firmware"
CROSS = "arm-none-eabi-"
FLASH_SECTIONS = (".isr_vector", ".text", ".rodata", ".ARM.exidx", ".data")
ARENA_SECTION = ".bss.tn_arena"
BUILD_TIMEOUT_S = 600
INSTALL_COMPILER = "install gcc-arm-none-eabi and libnewlib-arm-none-eabi, or run make setup"


@dataclass(frozen=True)
class FirmwareImage:
    """One built firmware: where it is, which model it carries, and what it takes of the part."""

    device: str
    model_id: str
    elf: Path
    bin: Path
    map: Path
    arena_bytes: int
    """Size of the section that holds the model's arena."""
    flash_bytes: int
    """All flash sections together, the initial values of ``.data`` included."""
    code_bytes: int
    """Machine code of the model and of the kernels that it uses."""
    sha256: str
    """Of the flat binary."""
    toolchain: str


def firmware_of(image: Image, board: str) -> FirmwareImage:
    """``image`` as the firmware that it has to be for a microcontroller. Raises DeviceError when it is none."""
    if not isinstance(image, FirmwareImage):
        raise DeviceError(f"the board {board} runs firmware, and the image is for a {image.device}; build it again")
    return image


def cache_dir() -> Path:
    """The folder for what can be built again: ``$XDG_CACHE_HOME/tinynas`` or ``~/.cache/tinynas``."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "tinynas"


def firmware_board(profile: DeviceProfile) -> str:
    """The folder of ``firmware/boards`` for a part. Raises DeviceError when there is none."""
    if profile.emulator is None:
        known = [name for name in device_names() if load_profile(name).emulator is not None]
        raise DeviceError(
            f"there is no firmware for the device '{profile.name}' yet; choose one of {', '.join(sorted(known))}"
        )
    return profile.emulator.firmware_board


def build_firmware(model_dir: Path, profile: DeviceProfile, out_dir: Path) -> FirmwareImage:
    """Compile ``model.c`` of ``model_dir`` with the harness for ``profile`` and leave the image in ``out_dir``.

    Raises DeviceError when a tool is missing, when the sources do not compile, and when the model does not fit the
    part, saying by how many bytes.
    """
    board = firmware_board(profile)
    toolchain = _toolchain()
    model_id = _model_id(model_dir)
    build_cache = _build_cache(toolchain)
    goals = (f"BOARD={board}", f"CACHE={build_cache}")
    with _locked(build_cache):
        _make(profile, "library", *goals)
    with scratch_folder(build_cache, "build-") as work:
        sources, built = work / "model", work / "out"
        # A copy, so that make never meets a path with a space in it.
        shutil.copytree(model_dir, sources, ignore=lambda _, names: [n for n in names if not n.endswith((".c", ".h"))])
        _make(profile, "firmware", *goals, f"MODEL_DIR={sources}", f"OUT={built}")
        out_dir.mkdir(parents=True, exist_ok=True)
        for suffix in ("elf", "bin", "map"):
            _move(built / f"firmware.{suffix}", out_dir / f"firmware.{suffix}")
    sections, code_bytes = _read_map(out_dir / "firmware.map")
    return FirmwareImage(
        device=profile.name,
        model_id=model_id,
        elf=out_dir / "firmware.elf",
        bin=out_dir / "firmware.bin",
        map=out_dir / "firmware.map",
        arena_bytes=sections.get(ARENA_SECTION, 0),
        flash_bytes=sum(sections.get(name, 0) for name in FLASH_SECTIONS),
        code_bytes=code_bytes,
        sha256=hashlib.sha256((out_dir / "firmware.bin").read_bytes()).hexdigest(),
        toolchain=toolchain,
    )


def build_cycle_counter() -> Path:
    """Build the emulator's cycle counter with the host's compiler and return it; at once when it is there already."""
    compiler = os.environ.get("CC", "cc")
    if shutil.which(compiler) is None:
        raise DeviceError(f"the host's C compiler '{compiler}' was not found, and the emulator needs it; install gcc")
    folder = _build_cache(_version(compiler))
    with _locked(folder):
        _make(None, "plugin", f"CACHE={folder}", f"HOST_CC={compiler}")
    return folder / "tn_cycles.so"


def read_symbols(elf: Path) -> dict[str, tuple[int, int]]:
    """Address (without the Thumb bit) and size in bytes of every symbol of an image, by name."""
    text = subprocess.run([f"{CROSS}nm", "-S", str(elf)], capture_output=True, text=True, check=True).stdout
    symbols = {}
    for line in text.splitlines():
        fields = line.split()
        if len(fields) == 4:
            symbols[fields[3]] = (int(fields[0], 16) & ~1, int(fields[1], 16))
        elif len(fields) == 3 and fields[0] != "U":
            symbols[fields[2]] = (int(fields[0], 16) & ~1, 0)
    return symbols


def _toolchain() -> str:
    tools = [(f"{CROSS}{name}", INSTALL_COMPILER) for name in ("gcc", "ar", "nm", "objcopy")]
    for tool, hint in (*tools, ("make", "install make")):
        if shutil.which(tool) is None:
            raise DeviceError(f"cannot build the firmware: {tool} was not found; {hint}")
    return _version(f"{CROSS}gcc")


@cache
def _version(compiler: str) -> str:
    """First line of what the compiler says about itself."""
    answer = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False)
    if answer.returncode or not answer.stdout:
        raise DeviceError(f"the compiler {compiler} does not run: {answer.stderr.strip() or 'no answer'}")
    return answer.stdout.splitlines()[0]


def _model_id(model_dir: Path) -> str:
    header = model_dir / "model.h"
    if not header.is_file() or not (model_dir / "model.c").is_file():
        raise DeviceError(f"{model_dir} holds no model.c and model.h; generate them with tinynas compile")
    found = re.search(r'#define\s+TN_MODEL_ID\s+"([^"]*)"', header.read_text(encoding="utf-8"))
    if found is None:
        raise DeviceError(f"{header} defines no TN_MODEL_ID; generate it again with tinynas compile")
    return found.group(1)


def _build_cache(compiler: str) -> Path:
    """The cache folder for these firmware sources and this compiler, made if need be."""
    digest = hashlib.sha256(compiler.encode())
    for path in sorted(SOURCE_DIR.rglob("*")):
        if path.is_file() and path.suffix in {".c", ".h", ".S", ".ld", ".mk", ""}:
            digest.update(path.relative_to(SOURCE_DIR).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    folder = cache_dir() / "firmware" / digest.hexdigest()[:16]
    for path in (folder, SOURCE_DIR):
        if re.search(r"\s", str(path)):
            raise DeviceError(
                f"make cannot build in '{path}' because of the space in it; set XDG_CACHE_HOME or move it"
            )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DeviceError(f"cannot make the cache folder {folder}: {error.strerror}; set XDG_CACHE_HOME") from error
    return folder


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a folder's lock, so that two builds do not write the same object files."""
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make(profile: DeviceProfile | None, *arguments: str) -> None:
    environment = {key: value for key, value in os.environ.items() if key not in {"MAKEFLAGS", "MFLAGS", "MAKELEVEL"}}
    command = ["make", "--no-print-directory", "-C", str(SOURCE_DIR), *arguments]
    try:
        build = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env={**environment, "LC_ALL": "C"},
            timeout=BUILD_TIMEOUT_S,
            check=False,
        )
    except FileNotFoundError as error:
        raise DeviceError("cannot build the firmware: make was not found; install make") from error
    except subprocess.TimeoutExpired as error:
        raise DeviceError(f"building the firmware took more than {BUILD_TIMEOUT_S} s; try again") from error
    if build.returncode:
        raise DeviceError(_explain(build.stderr, profile))


def _explain(errors: str, profile: DeviceProfile | None) -> str:
    """One sentence for what the compiler or the linker complained about."""
    overflows = {
        region: int(count) for region, count in re.findall(r"region `(\w+)' overflowed by (\d+) bytes", errors)
    }
    if overflows and profile is not None:
        limits = {"SRAM": profile.sram_bytes, "FLASH": profile.flash_bytes}
        what = " and ".join(
            f"{region if region == 'SRAM' else 'flash'} by {count} bytes (it has {limits[region]})"
            for region, count in sorted(overflows.items())
        )
        return f"the model does not fit {profile.name}: it exceeds the {what}; take a smaller model or a larger device"
    if "No space left on device" in errors:
        return (
            f"the disk is full: the firmware could not be built in {cache_dir()}; free some space there and in "
            f"{tempfile.gettempdir()}, or set XDG_CACHE_HOME and TMPDIR to another place"
        )
    if re.search(r"cannot find -l|string\.h: No such file|stdint\.h: No such file", errors):
        return f"the C library for {CROSS}gcc is missing; {INSTALL_COMPILER}"
    lines = errors.strip().splitlines() or ["make gave no reason"]
    first = next((line for line in lines if re.search(r"error|\*\*\*", line)), lines[0])
    return f"the firmware did not build: {first.strip()}"


def _move(source: Path, target: Path) -> None:
    """Put a file in place at once, even from another file system."""
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        shutil.move(source, part)
        part.replace(target)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise DeviceError(f"cannot write {target}: {error.strerror or error}") from error


def _read_map(path: Path) -> tuple[dict[str, int], int]:
    """Size in bytes of every output section, and of the code that comes from the model and the kernels."""
    text = path.read_text(encoding="utf-8").split("Linker script and memory map", 1)[-1]
    # The linker breaks the line after a long name.
    text = re.sub(r"^( ?\.\S+)\n\s+(?=0x)", r"\1 ", text, flags=re.MULTILINE)
    outputs = re.findall(r"^(\.\S+)\s+0x[0-9a-f]+\s+0x([0-9a-f]+)", text, re.MULTILINE)
    inputs = re.findall(r"^ \.text\S*\s+0x[0-9a-f]+\s+0x([0-9a-f]+)\s+(\S.*)$", text, re.MULTILINE)
    code = sum(int(size, 16) for size, origin in inputs if re.search(r"libkernels\.a\(|/model\.o$", origin))
    return {name: int(size, 16) for name, size in outputs}, code
