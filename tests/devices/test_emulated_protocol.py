"""What only a board has of the protocol: stack, UART rate, silence on the line, resets, and bytes in between."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import serial

from devices.emulator import EmulatedBoard
from devices.firmware import build_firmware, read_symbols
from devices.profile import DeviceProfile, load_profile
from tests.devices.test_harness import DATA, check, load_piece
from tests.devices.toy_models import HALF_AND_SUM, INPUT_BYTES, expected_output, write_model

DEEP_BYTES = 600
LONG = 'for (int i = 0; i < 3000000; ++i) __asm volatile("");'
DEEP = f"""volatile char deep[{DEEP_BYTES}];
  for (unsigned i = 0; i < sizeof deep; ++i) deep[i] = 1;
  tn_arena[0] = deep[tn_arena[1] & 7];"""


class Line:
    """A terminal."""

    def __init__(self, path: str) -> None:
        self.port = serial.Serial(path, 115_200, timeout=30)

    def reply(self) -> list[str]:
        lines: list[str] = []
        while not lines or lines[-1] != "m-ready":
            line = self.port.readline()
            assert line.endswith(b"\r\n"), (lines, line)
            lines.append(line.decode().strip())
        return lines

    def say(self, sent: bytes) -> list[str]:
        self.port.write(sent)
        return self.reply()


@pytest.fixture(params=["stm32f405", "nrf51822", pytest.param("cortex-m55", marks=pytest.mark.slow)])
def profile(request: pytest.FixtureRequest, emulator: None) -> DeviceProfile:
    return load_profile(request.param)


@pytest.fixture
def board(profile: DeviceProfile) -> Iterator[EmulatedBoard]:
    with EmulatedBoard(profile) as running:
        yield running


def memory(line: Line) -> dict[str, int]:
    found = re.fullmatch(r"m-memory-\[(.*)\]", line.say(b"memory%")[0])
    assert found is not None
    return {name: int(count) for name, count in (field.split("=") for field in found[1].split(","))}


def test_the_stacks_paint_tells_what_was_used(board: EmulatedBoard, profile: DeviceProfile, tmp_path: Path) -> None:
    image = build_firmware(write_model(tmp_path / "model", [HALF_AND_SUM[0], DEEP]), profile, tmp_path / "out")
    line = Line(board.serve(image))
    before = memory(line)
    stack_bytes = read_symbols(image.elf)["TN_STACK_BYTES"][0]
    assert before["arena"] == INPUT_BYTES
    assert before["stack"] == stack_bytes
    assert 0 < before["stack-used"] < DEEP_BYTES
    assert 0 <= profile.reserved.sram_bytes - before["stack"] - before["static"] < 16
    taken = before["stack"] + before["arena"] + before["static"]
    assert 0 <= profile.sram_bytes - taken - before["free"] < 16
    line.say(load_piece(DATA))
    line.say(b"infer 1 0%")
    after = memory(line)
    # The layer's array and what it is called through, perhaps with an interrupt on top.
    assert DEEP_BYTES < after["stack-used"] < before["stack-used"] + DEEP_BYTES + 200
    assert {**after, "stack-used": 0} == {**before, "stack-used": 0}
    line.say(b"restart%")
    line.reply()
    assert memory(line)["stack-used"] < DEEP_BYTES


def test_a_rate_is_kept_when_proven_and_else_given_up(
    board: EmulatedBoard, profile: DeviceProfile, tmp_path: Path
) -> None:
    line = Line(board.serve(build_firmware(write_model(tmp_path / "model"), profile, tmp_path / "out")))

    def rate() -> int:
        found = re.search(r",baud=(\d+)\]", line.say(b"info%")[0])
        assert found is not None
        return int(found[1])

    def change(wanted: int) -> int:
        found = re.fullmatch(r"m-baud-\[(\d+)\]", line.say(f"baud {wanted}%".encode())[0])
        assert found is not None
        return int(found[1])

    assert [change(wanted) for wanted in (0, 1, 4_800, 999_999_999)] == [0, 0, 0, 0]
    assert rate() == 115_200
    actual = change(230_400)
    assert actual == pytest.approx(230_400, rel=0.025)
    assert line.say(b"name%")[0] == "m-name-dut-[tinynas]"
    time.sleep(1.5)
    assert rate() == actual
    # Noise, as of a sender at another rate.
    line.port.write(b"\x80" * 32)
    assert rate() == 115_200
    assert change(57_600) == pytest.approx(57_600, rel=0.025)
    # No proof: what follows is no name, and no check. A board that sleeps looks at its clock once a second at least.
    time.sleep(2.5)
    assert rate() == 115_200
    # A reset ends a proven rate, too.
    change(230_400)
    line.say(b"name%")
    line.say(b"restart%")
    assert line.reply()[-2:] == ["m-init-done", "m-ready"]
    assert rate() == 115_200


def test_a_restart_starts_everything_anew(board: EmulatedBoard, profile: DeviceProfile, tmp_path: Path) -> None:
    line = Line(board.serve(build_firmware(write_model(tmp_path / "model", [LONG]), profile, tmp_path / "out")))
    line.say(load_piece(DATA))
    line.say(b"infer 3 0%")
    assert line.say(check("restart"))[-1] == "m-ready"
    mode, lap, *rest = line.reply()
    assert (mode, rest) == ("m-timestamp-mode-performance", ["m-init-done", "m-ready"])
    assert int(lap.removeprefix("m-lap-us-")) < 100_000
    assert line.say(b"results%")[0] == "e-[No result: infer first]"
    assert line.say(b"infer 1 0%")[0] == "e-[No input: load one first]"


def test_a_piece_that_was_spoilt_is_sent_again(board: EmulatedBoard, profile: DeviceProfile, tmp_path: Path) -> None:
    line = Line(board.serve(build_firmware(write_model(tmp_path / "model"), profile, tmp_path / "out")))
    first, second = load_piece(DATA[:40]), load_piece(DATA[40:], 40)
    assert "m-loaded-[40]" in line.say(first)
    assert line.say(second[:-3])[1] == "e-[Bytes are missing: load again]"
    assert line.say(second[:-1] + b"?")[1] == "e-[CRC mismatch: load again]"
    assert line.say(second[:-1] + b"? and name% and more%")[1] == "e-[CRC mismatch: load again]"
    assert line.say(second)[1:3] == ["m-loaded-[64]", "m-load-done"]
    line.say(b"infer 1 0%")
    assert line.say(b"output%")[0].startswith(f"m-output-[{expected_output(DATA).hex()}]")


def test_bytes_that_come_in_between_are_told(board: EmulatedBoard, profile: DeviceProfile, tmp_path: Path) -> None:
    line = Line(board.serve(build_firmware(write_model(tmp_path / "model", [LONG]), profile, tmp_path / "out")))
    line.say(load_piece(DATA))
    line.say(b"infer 2 0%")
    assert re.fullmatch(r"m-ticks-\[2,\d+,0\]", line.say(b"ticks%")[0])
    assert line.say(b"layers%")[1] == "m-disturbed-[0]"
    for _ in range(20):
        line.port.write(b"infer 20 0%")
        assert line.port.readline() == b"m-warmup-start-0\r\n"
        while not line.port.readline().startswith(b"m-lap-us-"):
            pass
        line.port.write(b"\r\n\r\n")
        line.reply()
        disturbed = re.fullmatch(r"m-ticks-\[20,\d+,(\d+)\]", line.say(b"ticks%")[0])
        assert disturbed is not None
        if disturbed[1] == "4":
            return
    pytest.fail("bytes that came during the runs were never counted")
