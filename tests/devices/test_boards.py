"""From what is typed after --board to a board."""

from __future__ import annotations

from pathlib import Path

import pytest

from devices.boards import BoardEntry, known_boards, open_boards, platform_of, resolve_board, select_boards
from devices.emulator import EmulatedBoard
from devices.errors import DeviceError
from devices.host.locks import BoardBusyError
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
        ("serial:/dev/no-such", r"cannot open the port /dev/no-such"),
    ],
)
def test_what_cannot_be_resolved_says_why(boards_toml: Path, spec: str, message: str) -> None:
    with pytest.raises(DeviceError, match=message):
        resolve_board(spec)


def board(text: str) -> str:
    return f'[[board]]\nid = "a"\nplatform = "stm32f405"\n{text}\n'


PORT = 'serial = "/dev/serial/by-id/usb-a"'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[board\n", r"Expected ']]'"),
        ('[[boards]]\nid = "a"\n', "boards: there is no such field; there are board;"),
        ('[[board]]\nid = "a"\n', "board 'a': platform: Field required;"),
        ('[[board]]\nplatform = "stm32f405"\n', "board number 1: id: Field required;"),
        (board("") + '[[board]]\nid = 3\nplatform = "stm32f405"\n', "board number 2: id: .* string"),
        (board('port = "x"'), "board 'a': port: there is no such field; there are id, platform, .*serial"),
        (board("baud = 0\n" + PORT), "board 'a': baud: Input should be greater than 0"),
        (board('fixtures = ["x", 3]'), r"board 'a': fixtures\.1: "),
        (board('adb = "1"\ncore_mask = "big"'), "board 'a': core_mask: "),
        (board('emulator = true\nadb = "1"'), "board 'a': it has adb and emulator, .* one way"),
        (board(PORT + "\nthreads = 2"), "board 'a': threads belongs to a board with adb, .* has serial"),
        (board('adb = "1"\nprobe_id = "2"'), "board 'a': probe_id belongs to a board with serial, .* has adb"),
        ('[[board]]\nid = "a"\nplatform = "stm32"\n', "board 'a': platform: there is no device profile 'stm32'"),
        ('[[board]]\nid = "emulator"\nplatform = "stm32f405"\n', "board 'emulator': id: .* choose another id"),
        ('[[board]]\nid = "a b"\nplatform = "stm32f405"\n', "board 'a b': id: "),
        (board("") + board(""), "lists the board 'a' twice; give each its own id"),
    ],
)
def test_a_wrong_file_is_told_with_the_board_and_the_field(boards_toml: Path, text: str, says: str) -> None:
    boards_toml.write_text(text)
    with pytest.raises(DeviceError, match=rf"boards\.toml .*{says}") as caught:
        known_boards()
    assert "errors.pydantic.dev" not in str(caught.value)


@pytest.mark.parametrize(
    ("one", "other", "field"),
    [
        ('probe_id = "066EFF01"', 'probe_id = "0066eff01"', "probe_id"),
        ('adb = "R58M"', 'adb = "R58M"', "adb"),
        ('serial = "FT4XYZ"', 'serial = "FT4XYZ"', "serial"),
        ('serial = "{}/ttyACM0"', 'serial = "{}/by-id"', "serial"),
    ],
)
def test_two_boards_are_never_one(boards_toml: Path, tmp_path: Path, one: str, other: str, field: str) -> None:
    """Also when its port is named in two ways, and its probe as two tools write it."""
    (tmp_path / "ttyACM0").write_text("")
    (tmp_path / "by-id").symlink_to("ttyACM0")
    boards_toml.write_text((board(one) + board(other).replace('"a"', '"b"')).replace("{}", str(tmp_path)))
    with pytest.raises(DeviceError, match=rf"boards\.toml: board 'b': {field}: .* is already that of 'a'"):
        known_boards()


def test_every_field(boards_toml: Path) -> None:
    boards_toml.write_text(
        board(
            'product = "STM32 STLink"\nserial = "0670FF"\nbaud = 460800\nprobe_id = "0670FF"\nrunner = "openocd"\n'
            'fixtures = ["power-meter"]\nnotes = "loose cable"\navailable = false'
        )
        + '[[board]]\nid = "p"\nplatform = "pixel2"\nadb = "HT7"\ncore_mask = "f0"\nthreads = 2\n'
        'benchmark_model = "/opt/bm"\n[[board]]\nid = "e"\nplatform = "mps2-an386"\nemulator = true\n'
    )
    first, phone, emulated = known_boards()
    assert first == BoardEntry(
        id="a",
        platform="stm32f405",
        product="STM32 STLink",
        serial="0670FF",
        baud=460_800,
        probe_id="0670FF",
        runner="openocd",
        fixtures=("power-meter",),
        notes="loose cable",
        available=False,
    )
    assert [entry.kind for entry in (first, phone, emulated)] == ["serial", "adb", "emulated"]
    assert (phone.core_mask, phone.threads, phone.benchmark_model) == ("f0", 2, "/opt/bm")


def test_a_lab_board_without_a_port_says_what_to_add(boards_toml: Path) -> None:
    boards_toml.write_text(board(""))
    with pytest.raises(DeviceError, match="'a' has no serial port"):
        resolve_board("a")


def test_a_board_that_is_not_available_is_not_used(boards_toml: Path) -> None:
    boards_toml.write_text(board("emulator = true\navailable = false"))
    with pytest.raises(DeviceError, match=r"'a' is not available: .*boards\.toml says so"):
        resolve_board("a")


def test_a_board_of_an_unknown_part_says_what_to_set(boards_toml: Path) -> None:
    boards_toml.write_text(f'[[board]]\nid = "a"\nplatform = "unknown"\n{PORT}\n')
    for use in (resolve_board, platform_of):
        with pytest.raises(
            DeviceError, match=r"not known what part the board 'a' has; set its platform in .*stm32f405"
        ):
            use("a")


EMULATED = "".join(
    f'[[board]]\nid = "{name}"\nplatform = "{platform}"\nemulator = true\nfixtures = ["{fixture}"]\n'
    for name, platform, fixture in [
        ("a", "stm32f405", "meter"),
        ("b", "netduinoplus2", "none"),
        ("c", "mps2-an386", "meter"),
    ]
)


def test_an_emulated_board_of_the_lab_is_for_one_user(boards_toml: Path) -> None:
    need("qemu-system-arm")
    boards_toml.write_text(EMULATED)
    with resolve_board("a") as first, resolve_board("b", "stm32f405"), resolve_board("emulator"):
        assert isinstance(first, EmulatedBoard)
        assert first.name == "a"
        with pytest.raises(BoardBusyError, match="the board a is in use by process"):
            resolve_board("a")
    resolve_board("a").close()


def test_the_device_of_a_board(boards_toml: Path) -> None:
    boards_toml.write_text(EMULATED)
    specs = ["emulator", "serial:/dev/x", "adb:1", "adb:", "c", "platform:mps2-an386", "fixture:none"]
    devices = ["stm32f405", "stm32f405", "android", "android", "mps2-an386", "mps2-an386", "netduinoplus2"]
    assert [platform_of(spec) for spec in specs] == devices
    assert platform_of("c", "stm32f412") == "stm32f412"


def test_boards_are_selected_by_platform_and_fixture(boards_toml: Path) -> None:
    boards_toml.write_text(EMULATED + '[[board]]\nid = "d"\nplatform = "mps2-an386"\navailable = false\n')
    assert select_boards(["fixture:meter"]) == ("a", "c")
    assert select_boards(["platform:mps2-an386"]) == ("c",)
    assert select_boards(["platform:netduinoplus2"]) == select_boards(["platform:stm32f405"]) == ("a", "b")
    assert select_boards(["c", "emulator", "fixture:meter"]) == ("c", "emulator", "a")
    with pytest.raises(DeviceError, match=r"no available board of .*boards\.toml has the fixture 'camera'"):
        select_boards(["a", "fixture:camera"])
    with pytest.raises(DeviceError, match="no board is given"):
        select_boards([])


def test_boards_are_opened_together(boards_toml: Path) -> None:
    need("qemu-system-arm")
    boards_toml.write_text(EMULATED)
    with open_boards(["a", "b"]) as opened:
        assert [one.name for one in opened.boards] == ["a", "b"]
        assert (opened.platform, opened.left_out) == ("stm32f405", ())
        with open_boards(["platform:netduinoplus2", "emulator"]) as others:
            assert [one.name for one in others.boards] == ["emulator:netduinoplus2"]
            assert [why[:24] for why in others.left_out] == ["the board a is in use by", "the board b is in use by"]
        with pytest.raises(BoardBusyError, match="the board b is in use"), open_boards(["b", "platform:netduinoplus2"]):
            pass
        with pytest.raises(DeviceError, match="none of the boards platform:stm32f405 can be used: the board a is in"):
            open_boards(["platform:stm32f405"]).__enter__()
    with open_boards(["a"]):  # free again
        pass


def test_boards_of_two_platforms_are_not_mixed(boards_toml: Path) -> None:
    boards_toml.write_text(EMULATED)
    with (
        pytest.raises(DeviceError, match=r"not of one platform: a \(stm32f405\), c \(mps2-an386\)"),
        open_boards(["fixture:meter"]),
    ):
        pass
