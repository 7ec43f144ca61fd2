"""A board on a serial port, which the emulator's port stands in for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from devices.emulator import EmulatedBoard
from devices.errors import DeviceError
from devices.firmware import FirmwareImage
from devices.profile import load_profile
from devices.serial_board import SerialBoard
from tests.devices.toy_models import INPUT_BYTES, expected_output

F405 = load_profile("stm32f405")
INPUTS = [bytes(range(INPUT_BYTES)), bytes(range(50, 50 + INPUT_BYTES))]


@pytest.fixture
def board(emulator: None, toy_image: FirmwareImage) -> Iterator[SerialBoard]:
    with EmulatedBoard(F405) as emulated, SerialBoard(emulated.serve(toy_image), F405, "bench-1") as real:
        yield real


def test_outputs_and_measurement(board: SerialBoard, toy_image: FirmwareImage) -> None:
    board.flash(toy_image)
    assert board.outputs(INPUTS) == [expected_output(data) for data in INPUTS]
    measured = board.measure(INPUTS, runs=4)
    assert measured.board == "bench-1"
    assert measured.instructions is None
    assert measured.runs == 8
    assert len(measured.layer_cycles) == 2
    assert measured.cycles > 0
    assert measured.latency_ms * measured.clock_hz / 1e3 == pytest.approx(measured.cycles, abs=0.5)
    assert measured.clock_hz == 168_000_000
    assert measured.firmware_sha256 == toy_image.sha256


def test_a_board_with_another_model_says_how_to_write_ours(board: SerialBoard, toy_image: FirmwareImage) -> None:
    other = replace(toy_image, model_id="fedcba9876543210")
    with pytest.raises(
        DeviceError, match=r"runs the model 0123456789abcdef, not fedcba9876543210; write .*bin .*openocd"
    ):
        board.flash(other)
    with pytest.raises(DeviceError, match="flash an image first"):
        board.outputs(INPUTS)
