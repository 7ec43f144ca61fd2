"""From what is typed after --board to a board."""

from __future__ import annotations

from pathlib import Path

import pytest

from devices.boards import known_boards, resolve_board
from devices.emulator import EmulatedBoard
from devices.errors import DeviceError
from tests.devices.toy_models import need


@pytest.fixture
def boards_toml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "boards.toml"
    monkeypatch.setenv("TINYNAS_BOARDS", str(path))
    return path


def test_the_emulator_takes_the_device_or_the_default(boards_toml: Path) -> None:
    need("qemu-system-arm")
    with resolve_board("emulator") as board:
        assert isinstance(board, EmulatedBoard)
        assert board.name == "emulator:netduinoplus2"
    with resolve_board("emulator", "mps2-an386") as board:
        assert board.name == "emulator:mps2-an386"


def test_no_file_is_no_boards(boards_toml: Path) -> None:
    assert known_boards() == ()


def test_a_lab_board_is_found_by_its_id(boards_toml: Path) -> None:
    boards_toml.write_text(
        '[[board]]\nid = "bench-3"\nplatform = "stm32f405"\nserial = "/dev/no-such"\nfixtures = ["x"]\n'
    )
    assert [entry.id for entry in known_boards()] == ["bench-3"]
    with pytest.raises(DeviceError, match="cannot open the port /dev/no-such of the board bench-3"):
        resolve_board("bench-3")
    with pytest.raises(DeviceError, match="'bench-3' is a stm32f405, not a stm32h743"):
        resolve_board("bench-3", "stm32h743")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("emulater", r"there is no board 'emulater'; choose from emulator, serial:PORT"),
        ("serial:", r"there is no board 'serial:'"),
        ("adb:0123", r"'adb:0123' cannot be used yet: phones over ADB come with a later release"),
        ("serial:/dev/no-such", r"cannot open the port /dev/no-such"),
    ],
)
def test_what_cannot_be_resolved_says_why(boards_toml: Path, spec: str, message: str) -> None:
    with pytest.raises(DeviceError, match=message):
        resolve_board(spec)


@pytest.mark.parametrize(
    "text",
    [
        '[[board]]\nid = "a"\n',
        '[[board]]\nid = "a"\nplatform = "stm32f405"\nport = "x"\n',
        "[[board\n",
        '[[board]]\nid = "a"\nplatform = "stm32f405"\n[[board]]\nid = "a"\nplatform = "stm32f405"\n',
    ],
)
def test_a_wrong_file_is_named(boards_toml: Path, text: str) -> None:
    boards_toml.write_text(text)
    with pytest.raises(DeviceError, match=r"boards\.toml"):
        known_boards()


def test_a_lab_board_without_a_port_says_what_to_add(boards_toml: Path) -> None:
    boards_toml.write_text('[[board]]\nid = "a"\nplatform = "stm32f405"\n')
    with pytest.raises(DeviceError, match="'a' has no serial port"):
        resolve_board("a")
