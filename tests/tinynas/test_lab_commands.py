"""The commands of a lab: what is plugged in, what can be used, and many models on many boards."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from devices import scan
from devices.boards import known_boards
from devices.host.locks import board_lock
from devices.host.scratch import PREFIX
from devices.phone.adb import AdbDevice
from devices.serial_line import ports
from devices.serial_line.ports import PortInfo
from tests.devices.phone.phone_tools import make_phone, write_benchmark_model
from tests.devices.toy_models import need
from tests.tinynas.conftest import Tinynas

Spawn = Callable[..., subprocess.Popen[str]]

ST_LINK = PortInfo("/dev/ttyACM0", "066EFF01", 0x0483, 0x374B, "STM32 STLink", "/dev/serial/by-id/usb-ST_066EFF01-if02")
ADAPTER = PortInfo("/dev/ttyUSB0", "FT4XYZ", 0x0403, 0x6001, "FT232R USB UART", None)
NAMELESS = PortInfo("/dev/ttyUSB1", None, 0x1A86, 0x7523, "USB Serial", None)
BUILT_IN = PortInfo("/dev/ttyS0", None, None, None, None, None)
PIXEL = AdbDevice("HT7A1", "device", "product:walleye model:Pixel_2 device:walleye transport_id:1")
OTHER = AdbDevice("R58M12", "unauthorized", "transport_id:2")


@pytest.fixture
def emulator() -> None:
    need("qemu-system-arm", "arm-none-eabi-gcc", "make", "cc")


@pytest.fixture
def boards_toml(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = home / "lab" / "boards.toml"
    monkeypatch.setenv("TINYNAS_BOARDS", str(path))
    return path


@pytest.fixture
def tools(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all there is of flashing tools."""
    folder = home / "tools"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/bin:/usr/bin")
    return folder


def put_tool(folder: Path, name: str, says: str, code: int = 0) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\ncat <<'END'\n{says}\nEND\nexit {code}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def plugged_in(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two boards of which one tells its chip, an adapter, a port that has no name of its own, two phones."""
    for module in (scan, ports):
        monkeypatch.setattr(module, "list_ports", lambda: (ST_LINK, BUILT_IN, ADAPTER, NAMELESS))
    monkeypatch.setattr(scan, "list_devices", lambda: (PIXEL, OTHER))
    put_tool(tools, "st-flash", "1.7.0")
    put_tool(tools, "st-info", "Found 1 stlink programmers\n  serial:     066EFF01\n  chipid:     0x413\n")
    put_tool(tools, "pyocd", '{"boards": [{"unique_id": "066eff01"}, {"unique_id": "0240AB"}]}')
    put_tool(tools, "nrfjprog", "it broke", code=33)


def test_scan_finds_and_proposes(plugged_in: None, boards_toml: Path, tinynas: Tinynas) -> None:
    answer = tinynas("boards", "scan", "--json").json
    assert [port["path"] for port in answer["ports"]] == ["/dev/ttyACM0", "/dev/ttyS0", "/dev/ttyUSB0", "/dev/ttyUSB1"]
    assert [(probe["id"].lower(), probe["chip"]) for probe in answer["probes"]] == [
        ("0240ab", None),
        ("066eff01", "0x413"),
    ]
    assert set(answer["probes"][1]["runners"]) == {"st-flash", "pyocd"}
    assert [phone["serial"] for phone in answer["phones"]] == ["HT7A1", "R58M12"]
    assert any("probes with nrfjprog" in note for note in answer["notes"])
    assert answer["proposed"] == [
        {
            "id": "stm32f405-6eff01",
            "platform": "stm32f405",
            "product": "STM32 STLink",
            "serial": ST_LINK.by_id,
            "probe_id": answer["probes"][1]["id"],
            "runner": "st-flash",
        },
        {
            "id": "ft232r-usb-uart-ft4xyz",
            "platform": "unknown",
            "product": "FT232R USB UART",
            "serial": "usb=FT4XYZ",
        },
        {"id": "pixel2-ht7a1", "platform": "pixel2", "product": "Pixel 2", "adb": "HT7A1"},
        {"id": "phone-r58m12", "platform": "android", "adb": "R58M12"},
    ]
    assert tomllib.loads(answer["toml"]) == {"board": answer["proposed"]}
    assert not answer["written"]
    assert not boards_toml.exists()


def test_scan_adds_what_is_new_and_keeps_every_byte(plugged_in: None, boards_toml: Path, tinynas: Tinynas) -> None:
    boards_toml.parent.mkdir()
    mine = '# my lab\n[[board]]\nid = "mine"   # the loud one\nplatform = "stm32f412"\nserial = "FT4XYZ"'
    boards_toml.write_text(mine)
    answer = tinynas("boards", "scan", "--write", "--json").json
    assert answer["written"]
    assert [port["board"] for port in answer["ports"]] == [None, None, "mine", None]
    assert boards_toml.read_text().startswith(mine + "\n\n[[board]]\n")
    assert [entry.id for entry in known_boards()] == ["mine", "stm32f405-6eff01", "pixel2-ht7a1", "phone-r58m12"]
    text = boards_toml.read_text()
    again = tinynas("boards", "scan", "--write", "--json").json
    assert (again["proposed"], again["written"]) == ([], False)
    assert boards_toml.read_text() == text
    assert [probe["board"] for probe in again["probes"]] == [None, "stm32f405-6eff01"]


def test_scan_makes_the_file(plugged_in: None, boards_toml: Path, tinynas: Tinynas) -> None:
    shown = tinynas("boards", "scan", "--write")
    assert shown.code == 0
    assert "is added to" in shown.err
    assert "Set the platform" in boards_toml.read_text()
    assert len(known_boards()) == 4


def test_scan_of_nothing(tools: Path, boards_toml: Path, tinynas: Tinynas, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "list_ports", tuple)
    monkeypatch.setattr(scan, "list_devices", tuple)
    assert "nothing is plugged in" in tinynas("boards", "scan").out
    assert tinynas("boards", "scan", "--write", "--json").json["written"] is False
    assert not boards_toml.exists()


def write_boards(path: Path, *names: str, more: str = "", platform: str = "stm32f405") -> None:
    path.parent.mkdir(exist_ok=True)
    entry = '[[board]]\nid = "{}"\nplatform = "{}"\nemulator = true\n'
    path.write_text("".join(entry.format(name, platform) for name in names) + more)


def test_check(emulator: None, boards_toml: Path, tinynas: Tinynas) -> None:
    gone = '[[board]]\nid = "gone"\nplatform = "stm32f405"\nserial = "/dev/no-such"\n'
    away = '[[board]]\nid = "away"\nplatform = "stm32f405"\navailable = false\n'
    write_boards(boards_toml, "a", "b", more=gone + away)
    answer = tinynas("boards", "check", "a", "b", "--json")
    assert answer.code == 0
    assert answer.json["ok"]
    facts = [board["facts"] for board in answer.json["boards"]]
    assert facts[0] == facts[1]
    assert facts[0]["trial"].endswith(" cycles")
    everything = tinynas("boards", "check", "--json")
    assert everything.code == 1
    assert [(board["board"], board["ok"]) for board in everything.json["boards"]] == [
        ("a", True),
        ("b", True),
        ("gone", False),
    ]
    (problem,) = everything.json["boards"][2]["problems"]
    assert "cannot open the port /dev/no-such of the board gone" in problem
    shown = tinynas("boards", "check", "gone", "away")
    assert shown.code == 1
    assert "set its available = true" in shown.out


def test_check_tells_who_has_a_board(emulator: None, boards_toml: Path, tinynas: Tinynas) -> None:
    write_boards(boards_toml, "a")
    with board_lock(f"emulator:{boards_toml.resolve()}:a"):
        answer = tinynas("boards", "check", "--json")
    assert answer.code == 1
    assert f"in use by process {os.getpid()}" in answer.json["boards"][0]["problems"][0]


def test_check_of_no_lab(boards_toml: Path, tinynas: Tinynas) -> None:
    assert "lists no available board; 'tinynas boards scan --write'" in tinynas("boards", "check").error
    assert "there is no board 'x'" in tinynas("boards", "check", "x").error


def test_measure_is_what_measure_is(
    emulator: None, boards_toml: Path, tinynas: Tinynas, model: Path, image_model: Path
) -> None:
    """Many models on two boards: each figure is that of the model alone on the emulator."""
    write_boards(boards_toml, "a", "b")
    files = [model, image_model, model]
    answer = tinynas("boards", "measure", *files, "--board", "platform:stm32f405", "--json")
    assert answer.code == 0
    rows = answer.json["measurements"]
    assert answer.json["boards"] == ["a", "b"]
    assert [row["file"] for row in rows] == [str(path) for path in files]
    for path, row in zip(files, rows, strict=True):
        alone = tinynas("measure", path, "--board", "emulator", "--json").json
        for key in ("model_id", "latency_ms", "cycles", "instructions", "sram_bytes", "flash_bytes"):
            assert row[key] == alone[key]
        assert row["layer_cycles"] == [layer["cycles"] for layer in alone["layers"] if layer["cycles"] is not None]
        assert row["failures"] == []
    assert {row["board"] for row in rows} <= {"a", "b"}


def test_measure_goes_on_without_a_board_that_is_gone(
    emulator: None, boards_toml: Path, tinynas: Tinynas, model: Path
) -> None:
    gone = '[[board]]\nid = "gone"\nplatform = "stm32f405"\nserial = "/dev/no-such"\n'
    write_boards(boards_toml, "a", more=gone)
    answer = tinynas("boards", "measure", model, "--board", "platform:stm32f405", "--json")
    assert answer.code == 0
    assert "/dev/no-such" in answer.json["left_out"][0]
    assert "/dev/no-such" in tinynas("boards", "measure", model, "--board", "a", "--board", "gone").error


def test_measure_tells_a_model_that_no_board_runs(
    emulator: None, boards_toml: Path, tinynas: Tinynas, model: Path, large_model: Path
) -> None:
    write_boards(boards_toml, "a", "b")
    answer = tinynas("boards", "measure", large_model, model, "--board", "a", "--board", "b", "--json")
    assert answer.code == 1
    assert answer.json["measured"] == 1
    first, second = answer.json["measurements"]
    assert "does not fit" in first["error"]
    assert second["cycles"] > 0
    assert tinynas("boards", "measure", large_model, "--board", "a").code == 1


@pytest.mark.parametrize("arguments", [[], ["measure"], ["measure", "a.tflite"], ["scan", "x"], ["sell"]])
def test_wrong_usage(tinynas: Tinynas, arguments: list[str]) -> None:
    answer = tinynas("boards", *arguments)
    assert answer.code == 2
    assert "Usage: " in answer.err + answer.out


@pytest.mark.parametrize("command", ["scan", "check", "measure"])
def test_help(tinynas: Tinynas, command: str) -> None:
    assert "..." not in tinynas("boards", "--help").out.split("Commands:")[1]
    answer = tinynas("boards", command, "--help")
    assert (answer.code, answer.err) == (0, "")
    assert "--json" in answer.out


def test_two_processes_never_share_a_board(
    emulator: None, boards_toml: Path, spawn: Spawn, tinynas: Tinynas, model: Path
) -> None:
    """Six at once, on one board: those that measure did so alone, and the others were told who has it."""
    write_boards(boards_toml, "only")
    processes = [spawn("measure", model, "--board", "only", "--json") for _ in range(6)]
    ended = [(process.communicate(timeout=240), process.returncode) for process in processes]
    codes = [code for _, code in ended]
    assert set(codes) <= {0, 1}
    assert 0 in codes
    for (out, _), code in ended:
        if code == 1:
            assert "the board only is in use by process" in out
    assert tinynas("measure", model, "--board", "only", "--json").code == 0


def qemu_of(text: str) -> list[int]:
    """The QEMUs that run, with ``text`` in their command line."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if "qemu-system-arm" in command and text in command and state != "Z":
            found.append(int(folder.name))
    return found


@pytest.mark.parametrize("command", ["measure", pytest.param("calibrate", marks=pytest.mark.slow)])
def test_a_killed_process_leaves_nothing(
    command: str,
    emulator: None,
    boards_toml: Path,
    spawn: Spawn,
    model: Path,
    image_model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Killed before, while and after boards run: no QEMU, no lock, and no folder that stays for good."""
    write_boards(boards_toml, "a", "b")
    temporary = boards_toml.parent / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    if command == "measure":
        arguments = ["boards", "measure", *[model, image_model] * 4, "--board", "a", "--board", "b", "--runs", "20"]
    else:
        arguments = ["calibrate", "--board", "a", "--samples", "4"]
    for delay_s in (None, 0.0, 0.05, 0.3, 0.8):
        process = spawn(*arguments)
        if delay_s is None:
            time.sleep(0.7)
        else:
            while not qemu_of(str(temporary)) and process.poll() is None:
                time.sleep(0.005)
            assert process.poll() is None, process.communicate()
            time.sleep(delay_s)
        process.send_signal(signal.SIGKILL)  # to it alone, not to what it started
        process.communicate(timeout=60)
        deadline = time.monotonic() + 30
        while qemu_of(str(temporary)) and time.monotonic() < deadline:
            time.sleep(0.01)  # the kernel is about to end it
        assert qemu_of(str(temporary)) == []
        for name in ("a", "b"):
            with board_lock(f"emulator:{boards_toml.resolve()}:{name}"):
                pass
    # Whatever is left of all those is gone after one that ends by itself.
    process = spawn("measure", model, "--board", "a")
    process.communicate(timeout=240)
    assert process.returncode == 0
    assert [path for path in temporary.iterdir() if path.name.startswith(PREFIX)] == []


def test_no_adb_server_is_left_behind(
    home: Path, spawn: Spawn, boards_toml: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that had to be started ends with the process, killed or not; the user's own would stay."""
    need("adb")
    port = free_port()
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(port))
    for kill_after_s in (0.5, 1.0, None):
        process = spawn("boards", "scan", "--json")
        if kill_after_s is not None:
            time.sleep(kill_after_s)
            process.send_signal(signal.SIGKILL)
        process.communicate(timeout=120)
        deadline = time.monotonic() + 30
        while listens(port) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not listens(port)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.slow
def test_calibration_on_many_boards_is_that_on_one(
    emulator: None, boards_toml: Path, tinynas: Tinynas, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same networks, the same fit; the emulated boards of the lab are emulated to the store, too."""
    write_boards(boards_toml, "a", "b", "c")
    answers = []
    for number, board in enumerate(["emulator", "platform:stm32f405"]):
        monkeypatch.setenv("TINYNAS_STORE", str(home / f"{number}.sqlite"))
        answers.append(tinynas("calibrate", "--board", board, "--samples", "6", "--json").json)
    one, many = answers
    assert (one.pop("board"), many.pop("board")) == ("emulator:netduinoplus2", "a, b, c")
    assert one == many
    again = tinynas("calibrate", "--board", "emulator", "--samples", "2", "--json").json
    assert again["fitted_on"] == 8


def test_check_of_a_board_on_a_serial_port(
    emulator: None, boards_toml: Path, tinynas: Tinynas, spawn: Spawn, model: Path
) -> None:
    """Asked over its port, written to never: what it runs, and whether it is the part that the lab says."""
    process = spawn("emulate", model)
    assert process.stdout is not None
    port = process.stdout.readline().strip()
    entry = '[[board]]\nid = "wired"\nplatform = "{}"\nserial = "{}"\n'
    boards_toml.parent.mkdir()
    boards_toml.write_text(entry.format("stm32f405", port))
    (state,) = tinynas("boards", "check", "--json").json["boards"]
    assert (state["ok"], state["problems"]) == (True, [])
    assert state["facts"].items() >= {"port": port, "clock": "168 MHz", "baud": "115200"}.items()
    model_id = tinynas("measure", model, "--board", "emulator", "--json").json["model_id"]
    assert model_id in state["facts"]["model"]
    (warning,) = state["warnings"]
    assert "nothing is known that writes to it" in warning
    boards_toml.write_text(entry.format("mps2-an386", port))
    answer = tinynas("boards", "check", "--json")
    assert answer.code == 1
    (problem,) = answer.json["boards"][0]["problems"]
    assert "runs at 168 MHz, and that of a mps2-an386 at 25 MHz: check its platform" in problem
    boards_toml.write_text(entry.format("stm32f405", port) + 'runner = "esptool"\n')
    (problem,) = tinynas("boards", "check", "--json").json["boards"][0]["problems"]
    assert "'esptool' cannot write to the device stm32f405" in problem


def test_check_of_a_phone(
    home: Path, boards_toml: Path, tinynas: Tinynas, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the user's own adb: its state, its temperatures, what it runs networks with; a hot one is a warning."""
    need("adb")
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(free_port()))
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("TINYNAS_LOCKS", str(home / "locks"))
    with make_phone(home / "phone") as phone:
        tool = write_benchmark_model(home / "benchmark_model")
        boards_toml.parent.mkdir()
        entry = f'[[board]]\nid = "p"\nplatform = "pixel2"\nadb = "{phone.serial}"\n'
        boards_toml.write_text(entry)
        answer = tinynas("boards", "check", "--json")
        assert answer.code == 1
        assert "no benchmark_model to run on the phone p" in answer.json["boards"][0]["problems"][0]
        boards_toml.write_text(entry + f'benchmark_model = "{tool}"\n')
        (state,) = tinynas("boards", "check", "--json").json["boards"]
        assert (state["ok"], state["warnings"]) == (True, [])
        assert state["facts"]["phone"] == "Stand-in 1"
        assert "41.5" in state["facts"]["temperatures_c_now"]
        assert len(state["facts"]["benchmark_model"]) == 64
        (phone.folder / "thermal_status").write_text("3\n")
        (state,) = tinynas("boards", "check", "--json").json["boards"]
        assert state["ok"]
        assert "the phone throttles (thermal status severe)" in state["warnings"][0]
        assert "phones are measured one by one" in tinynas("boards", "measure", model, "--board", "p").error
        with board_lock(f"adb:{phone.serial}"):
            (state,) = tinynas("boards", "check", "--json").json["boards"]
        assert "the board p is in use" in state["problems"][0]
