"""Where a measurement comes from: read from the image, the checkout and the machine, not made up."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from devices.emulator import EmulatedBoard
from devices.errors import DeviceError
from devices.firmware import FirmwareImage
from devices.profile import load_profile
from devices.provenance import compiler_flags, git_commit, provenance


def test_the_flags_are_those_that_the_model_was_compiled_with(toy_image: FirmwareImage) -> None:
    flags = compiler_flags(toy_image.elf).split()
    assert {"-mcpu=cortex-m4", "-mthumb", "-O2", "-std=c99", "-fno-optimize-sibling-calls"} <= set(flags)
    assert "-Os" not in flags  # those are the harness's


def test_an_image_that_does_not_tell_is_an_error(toy_image: FirmwareImage, tmp_path: Path) -> None:
    stripped = tmp_path / "stripped.elf"
    subprocess.run(["arm-none-eabi-strip", str(toy_image.elf), "-o", str(stripped)], check=True)
    with pytest.raises(DeviceError, match="does not say how it was compiled"):
        compiler_flags(stripped)
    with pytest.raises(DeviceError, match="cannot be read"):
        compiler_flags(tmp_path / "missing.elf")


def test_the_commit_of_a_checkout(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=x", "-c", "user.email=x@example.org")
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    assert git_commit(tmp_path) == ""
    git("init", "-q")
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("commit", "-q", "-m", "one")
    git_commit.cache_clear()
    commit = git("rev-parse", "HEAD")
    assert git_commit(tmp_path) == commit
    (tmp_path / "file").write_text("two")
    git_commit.cache_clear()
    assert git_commit(tmp_path) == f"{commit}-dirty"
    # A folder inside somebody's checkout, as a virtual environment is, is none of ours.
    (tmp_path / "inside").mkdir()
    assert git_commit(tmp_path / "inside") == ""


def test_what_is_recorded_of_an_emulated_board(
    toy_image: FirmwareImage, emulator: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/tinynas", "measure", "a b.tflite", "--board", "emulator"])
    monkeypatch.chdir(tmp_path)
    with EmulatedBoard(load_profile("stm32f405")) as board:
        found = provenance(board, toy_image, inputs="one", model_sha256="ab", note="warm")
    assert found.board_kind == "emulated"
    assert found.command == ("tinynas", "measure", "a b.tflite", "--board", "emulator")
    assert found.folder == str(tmp_path)
    assert (found.inputs, found.model_sha256, found.note) == ("one", "ab", "warm")
    assert "QEMU" in found.versions["qemu"]
    assert "-mcpu=cortex-m4" in found.compiler_flags
    assert found.tinynas_version
    assert found.host
