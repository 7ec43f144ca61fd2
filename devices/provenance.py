"""Where a measurement comes from: who measured, with what, and how to do it again."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from devices.board import Board, Image
from devices.emulator import QEMU, EmulatedBoard
from devices.errors import DeviceError
from devices.firmware import CROSS, FirmwareImage
from devices.phone.adb_board import AdbBoard
from devices.serial_line.serial_board import SerialBoard
from devices.store import Provenance

PACKAGES = ("ai-edge-litert", "tensorflow", "torch", "numpy")
"""Whose versions decide what a model's constants are, or what it is compared with."""
EMULATED = "emulated"
"""The kind of a board that counts zero-wait cycles."""
_KINDS: dict[type, str] = {EmulatedBoard: EMULATED, SerialBoard: "serial", AdbBoard: "adb"}
_CHECKOUT = Path(__file__).resolve().parent.parent
_TIMEOUT_S = 30


def provenance(board: Board, image: Image, *, inputs: str, model_sha256: str = "", note: str = "") -> Provenance:
    """That of a measurement of ``image`` on ``board`` which this process makes, here and now."""
    board_kind = kind_of(board)
    return Provenance(
        board_kind=board_kind,
        host=f"{platform.node()}, {platform.platform()}",
        command=_command(),
        folder=str(Path.cwd()),
        inputs=inputs,
        model_sha256=model_sha256,
        compiler_flags=compiler_flags(image.elf) if isinstance(image, FirmwareImage) else "",
        tinynas_version=_package_version("tinynas") or "",
        git_commit=git_commit(_CHECKOUT),
        versions=_versions(board_kind),
        note=note,
    )


def kind_of(board: Board) -> str:
    """``emulated``, ``serial`` or ``adb``; the name of its class for a board of another make."""
    for cls, kind in _KINDS.items():
        if isinstance(board, cls):
            return kind
    return str(type(board).__name__)


def compiler_flags(elf: Path) -> str:
    """What ``model.c`` was compiled with, from the compiler's own note in the image's debugging information.

    Raises DeviceError when the image has none.
    """
    command = [f"{CROSS}readelf", "--wide", "--debug-dump=info", "--dwarf-depth=1", str(elf)]
    try:
        text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_TIMEOUT_S).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise DeviceError(f"the compiler's flags cannot be read from {elf}: {error}; run make setup") from error
    for unit in text.split("DW_TAG_compile_unit")[1:]:
        notes: dict[str, str] = dict(re.findall(r"DW_AT_(producer|name)\s*: (.*)", unit))
        found = {key: value.rsplit(": ", 1)[-1].strip() for key, value in notes.items()}
        if Path(found.get("name", "")).name == "model.c" and "producer" in found:
            return found["producer"]
    raise DeviceError(f"{elf} does not say how it was compiled; build it with the flag -g")


@cache
def git_commit(folder: Path) -> str:
    """The commit that ``folder`` is a checkout of, ``-dirty`` when its files differ; empty when it is none."""
    if not (folder / ".git").exists() or shutil.which("git") is None:
        return ""
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return ""
    return commit.strip() + ("-dirty" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        answer = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout if answer.returncode == 0 else None


def _command() -> tuple[str, ...]:
    """This process's command line, without the interpreter where it is tinynas's own."""
    if Path(sys.argv[0]).stem == "tinynas":
        return ("tinynas", *sys.argv[1:])
    return tuple(sys.orig_argv)


@cache
def _versions(board_kind: str) -> Mapping[str, str]:
    found = {name: installed for name in PACKAGES if (installed := _package_version(name)) is not None}
    found["python"] = platform.python_version()
    if board_kind == EMULATED:
        found["qemu"] = _qemu_version()
    return found


def _package_version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _qemu_version() -> str:
    answer = subprocess.run([QEMU, "--version"], capture_output=True, text=True, check=True, timeout=_TIMEOUT_S)
    return answer.stdout.splitlines()[0]
