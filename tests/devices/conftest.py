"""Boards and images for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from devices.emulator import EmulatedBoard
from devices.firmware import FirmwareImage, build_firmware
from devices.profile import load_profile
from tests.devices.toy_models import need, write_model


@pytest.fixture(scope="session")
def build_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of the tests' own."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture
def compiler(build_cache: Path) -> None:
    need("arm-none-eabi-gcc", "make")


@pytest.fixture
def emulator(compiler: None) -> None:
    need("qemu-system-arm", "cc")


@pytest.fixture
def toy_image(compiler: None, tmp_path: Path) -> FirmwareImage:
    return build_firmware(write_model(tmp_path / "model"), load_profile("stm32f405"), tmp_path / "out")


@pytest.fixture(params=["stm32f405", "mps2-an386"])
def toy_board(request: pytest.FixtureRequest, emulator: None, tmp_path: Path) -> Iterator[EmulatedBoard]:
    """An emulated board that runs the toy model."""
    profile = load_profile(request.param)
    with EmulatedBoard(profile) as board:
        board.flash(build_firmware(write_model(tmp_path / "model"), profile, tmp_path / "out"))
        yield board
