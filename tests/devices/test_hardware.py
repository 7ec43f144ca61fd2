"""Hardware in the loop: what has to hold on any board, on the emulated one in CI, and with ``--board NAME`` on yours.

On a real board this writes its flash, or, where nothing is known that does, needs the toy model to be on it already.
The board is one, so on a real one without ``-n``.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from devices.board import Board
from devices.boards import platform_of, resolve_board
from devices.errors import DeviceError
from devices.firmware import FirmwareImage, build_firmware
from devices.host.locks import BoardBusyError
from devices.phone.adb_board import AdbBoard
from devices.profile import DeviceProfile, load_profile
from tests.devices.toy_models import INPUT_BYTES, expected_output, need, write_model


@pytest.fixture(scope="module")
def board_name(request: pytest.FixtureRequest) -> str:
    return str(request.config.getoption("--board") or "emulator")


@pytest.fixture(scope="module")
def profile(board_name: str) -> DeviceProfile:
    return load_profile(platform_of(board_name))


@pytest.fixture(scope="module")
def image(profile: DeviceProfile, build_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> FirmwareImage:
    need("arm-none-eabi-gcc", "make")
    if profile.kind == "phone":
        pytest.skip(f"a phone runs no firmware: use tinynas verify --board {profile.name}")
    folder = tmp_path_factory.mktemp("toy")
    return build_firmware(write_model(folder / "model"), profile, folder / "out")


@pytest.fixture(scope="module")
def board(board_name: str, image: FirmwareImage) -> Iterator[Board]:
    if board_name == "emulator":
        need("qemu-system-arm", "cc")
    with resolve_board(board_name) as board:
        assert not isinstance(board, AdbBoard)
        board.flash(image)
        yield board


def some_inputs(count: int) -> list[bytes]:
    generator = random.Random(11)
    return [generator.randbytes(INPUT_BYTES) for _ in range(count)]


def test_outputs_are_the_models(board: Board) -> None:
    inputs = [bytes(INPUT_BYTES), b"\xff" * INPUT_BYTES, *some_inputs(30)]
    assert board.outputs(inputs) == [expected_output(data) for data in inputs]


def test_a_measurement_is_whole_and_says_what_was_measured(board: Board, image: FirmwareImage) -> None:
    measurement = board.measure(some_inputs(2), runs=5)
    assert (measurement.model_id, measurement.firmware_sha256) == (image.model_id, image.sha256)
    assert (measurement.device, measurement.board) == (image.device, board.name)
    assert measurement.runs == 10
    assert measurement.latency_ms > 0
    assert measurement.latencies_ms
    assert min(measurement.latencies_ms) <= measurement.latency_ms <= max(measurement.latencies_ms)
    assert measurement.cycles is not None
    assert len(measurement.layer_cycles) == 2
    assert all(cycles > 0 for cycles in measurement.layer_cycles)
    # The layers are most of the network, and not more than it.
    assert 0.5 * measurement.cycles < sum(measurement.layer_cycles) < 1.1 * measurement.cycles


def test_measurements_agree(board: Board) -> None:
    """The same network twice; a microcontroller with nothing else to do takes the same time."""
    first, second = (board.measure(some_inputs(1)) for _ in range(2))
    assert second.latency_ms == pytest.approx(first.latency_ms, rel=0.02)


def test_flashing_what_is_there_changes_nothing(board: Board, image: FirmwareImage) -> None:
    board.flash(image)
    assert board.outputs(some_inputs(1)) == [expected_output(some_inputs(1)[0])]


def test_an_image_of_another_part_is_refused(board: Board, image: FirmwareImage, tmp_path: Path) -> None:
    other = load_profile("mps2-an386" if image.device != "mps2-an386" else "stm32f405")
    with pytest.raises(DeviceError, match=f"built for {other.name}, not for {image.device}"):
        board.flash(build_firmware(write_model(tmp_path / "model"), other, tmp_path / "out"))
    board.flash(image)
    assert board.outputs(some_inputs(1)) == [expected_output(some_inputs(1)[0])]


def test_nobody_else_gets_the_board_meanwhile(board: Board, board_name: str) -> None:
    if board_name == "emulator":
        pytest.skip("everybody may have an emulated board without a name")
    with pytest.raises(BoardBusyError, match="in use by process"):
        resolve_board(board_name)
