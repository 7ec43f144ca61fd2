"""Every command of the contract: its keys, its exit code, and one JSON object on stdout."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import serial

from devices.profile import device_names, load_profile
from tests.devices.toy_models import need
from tests.export.graph_builder import GraphBuilder
from tests.oracles.tflite_writer import write_tflite
from tests.tinynas.conftest import Tinynas, finish, little
from tinynas.accuracy import ACCURACY
from tinynas.commands import boards
from tinynas.measuring import Comparison
from tinynas.objectives import OBJECTIVES
from tinynas.strategies import STRATEGIES

COMMANDS = [
    *("devices", "check", "compile", "measure", "verify", "search"),
    *("export", "calibrate", "history", "predict", "emulate", "report", "run"),
]
LAYOUTS = {
    "plain": "model.c",
    "cmake": "CMakeLists.txt",
    "arduino": "library.properties",
    "platformio": "library.json",
    "zephyr": "zephyr/module.yml",
    "esp-idf": "CMakeLists.txt",
}


@pytest.fixture
def emulator() -> None:
    need("qemu-system-arm", "arm-none-eabi-gcc", "make", "cc")


def test_help(tinynas: Tinynas) -> None:
    answer = tinynas("--help")
    assert answer.code == 0
    listed = answer.out.split("Commands:")[1]
    assert {line.split()[0] for line in listed.strip().splitlines()} == {*COMMANDS, "boards"}
    assert "..." not in listed, "a first sentence is too long for the list"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command(command: str, tinynas: Tinynas) -> None:
    answer = tinynas(command, "--help")
    assert (answer.code, answer.err) == (0, "")
    assert "--json" in answer.out


def test_version(tinynas: Tinynas) -> None:
    answer = tinynas("--version")
    assert answer.code == 0
    assert answer.out.startswith("tinynas ")


@pytest.mark.parametrize("command", ["search", "run"])
def test_help_names_what_an_option_may_be(command: str, tinynas: Tinynas) -> None:
    words = set(re.findall(r"[a-z-]+", tinynas(command, "--help").out))
    assert words >= {*STRATEGIES, *OBJECTIVES, *ACCURACY}


def modules_after(code: str) -> set[str]:
    """Which modules are loaded once ``code`` has run."""
    code += "\nimport sys; print(*sys.modules, file=sys.stderr)"
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(root)!r})\n{code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stderr.split("\n")[-2].split())


def test_the_command_line_starts_light() -> None:
    heavy = {"torch", "tensorflow", "onnx", "sklearn", "keras", "scipy", "ai_edge_litert", "plotly", "numpy", "PIL"}
    assert not heavy & modules_after("import tinynas.cli; tinynas.cli._run(['--help'])")


def test_check_loads_no_framework(model: Path) -> None:
    loaded = modules_after(f"import tinynas.cli; tinynas.cli._run(['check', {str(model)!r}])")
    assert not {"torch", "tensorflow", "onnx", "sklearn", "keras"} & loaded


def test_devices(tinynas: Tinynas) -> None:
    listed = tinynas("devices", "--json").json
    assert [device["name"] for device in listed["devices"]] == list(device_names())
    for device in listed["devices"]:
        assert device.keys() >= {"name", "core", "clock_hz", "sram_bytes", "flash_bytes"}
    assert {"name": "emulator", "platform": "stm32f405", "kind": "emulated"} in listed["boards"]
    shown = tinynas("devices")
    assert shown.code == 0
    assert all(name in shown.out for name in device_names())


def test_boards_of_the_lab(tinynas: Tinynas, home: Path, model: Path) -> None:
    folder = home / "xdg-config" / "tinynas"
    folder.mkdir(parents=True)
    (folder / "boards.toml").write_text(
        '[[board]]\nid = "bench-3"\nplatform = "stm32f412"\nserial = "/dev/serial/by-id/none"\n'
    )
    assert {"name": "bench-3", "platform": "stm32f412", "kind": "serial"} in tinynas("devices", "--json").json["boards"]
    # Its device comes from boards.toml: without --device nothing contradicts it.
    assert "/dev/serial/by-id/none" in tinynas("measure", model, "--board", "bench-3").error
    assert "is a stm32f412" in tinynas("measure", model, "--board", "bench-3", "--device", "stm32f405").error


def test_check(tinynas: Tinynas, model: Path) -> None:
    answer = tinynas("check", model, "--json")
    assert (answer.code, answer.err) == (0, "")
    checked = answer.json
    assert checked.keys() >= {"fits", "sram_bytes", "sram_lower_bound", "flash_bytes", "macs", "live_macs"}
    assert (checked["fits"], checked["reasons"]) == (True, [])
    assert 0 < checked["sram_lower_bound"] <= checked["sram_bytes"] <= checked["sram_limit_bytes"]
    assert sum(layer["macs"] for layer in checked["layers"]) == checked["macs"]
    # Overlaid buffers share their bytes, so a layer never uses more than the arena.
    assert checked["sram_bytes"] / 2 < max(layer["alive_bytes"] for layer in checked["layers"]) <= checked["sram_bytes"]
    shown = tinynas("check", model)
    assert "small fits on stm32f405" in shown.out
    assert f"{checked['sram_bytes']:,} B" in shown.out


def test_check_of_a_model_that_does_not_fit(tinynas: Tinynas, large_model: Path) -> None:
    checked = tinynas("check", large_model, "--json").json
    assert not checked["fits"]
    assert "SRAM" in checked["reasons"][0]
    assert "exceeds the limit of" in checked["reasons"][0]
    _, peak, would_do = checked["reasons"]
    fullest = max(checked["layers"], key=lambda layer: layer["alive_bytes"])
    assert f"at layer '{fullest['name']}': {fullest['alive_bytes']:,} B ('" in peak
    reserved = load_profile("stm32f405").reserved.sram_bytes
    assert f"the smallest SRAM that would do is {checked['sram_bytes'] + reserved:,} B" in would_do
    assert "'nrf52840' has 262,144 B" in would_do
    streamed = tinynas("check", large_model, "--stream-input", "--json").json
    assert f"with --stream-input {streamed['sram_bytes'] + reserved:,} B would do" in would_do
    assert streamed["fits"]
    assert tinynas("check", large_model).code == 0
    assert "does not fit on stm32f405: SRAM" in tinynas("compile", large_model, "-o", "c").error
    assert not Path("c").exists()
    assert tinynas("check", large_model, "--device", "stm32h743", "--json").json["fits"]


def test_what_the_optimizer_leaves_out(emulator: None, tinynas: Tinynas, wasteful_model: Path) -> None:
    checked = tinynas("check", wasteful_model, "--device", "mps2-an386", "--json").json
    measured = tinynas("measure", wasteful_model, "--board", "emulator", "--device", "mps2-an386", "--json").json
    first, second, reshape, mean = checked["layers"]
    assert (first["macs"], first["live_macs"]) == (12 * 12 * 27 * 8, 12 * 12 * 27 * 4)
    assert (second["macs"], second["live_macs"]) == (12 * 12 * 8 * 6, 12 * 12 * 4 * 6)
    assert (reshape["kernel"], reshape["segment"], mean["kernel"]) == (None, None, "tn_mean_rows_s8")
    for result in (checked, measured):
        assert result["macs"] == first["macs"] + second["macs"]
        assert result["live_macs"] == first["live_macs"] + second["live_macs"]
    for before, after in zip(checked["layers"], measured["layers"], strict=True):
        assert all(before[key] == after[key] for key in ("name", "kernel", "live_macs", "alive_bytes", "segment"))
        assert (before["predicted_cycles"] > 0) == (after["cycles"] > 0) == (before["kernel"] is not None)
        if after["live_macs"]:
            assert after["cycles_per_mac"] == after["cycles"] / after["live_macs"]
    shown = tinynas("check", wasteful_model).out
    assert "optimized away" in shown
    assert f"of them live {checked['live_macs']:,}" in shown


@pytest.mark.parametrize("device", device_names())
def test_every_device_can_be_planned_for(device: str, tinynas: Tinynas, model: Path) -> None:
    checked = tinynas("check", model, "--device", device, "--json").json
    predicted = tinynas("predict", model, "--device", device, "--json").json
    assert checked["fits"]
    assert checked["predicted_latency_ms"] == predicted["latency_ms"] > 0


def test_a_published_model(tinynas: Tinynas, reference_model: Path) -> None:
    checked = tinynas("check", reference_model, "--json").json
    assert checked["fits"]
    shown = tinynas("check", reference_model)
    # One line for each layer, a header, a blank line, and four of summary, however long the names are.
    assert len(shown.out.splitlines()) == len(checked["layers"]) + 6


@pytest.mark.parametrize("layout", LAYOUTS)
def test_compile(layout: str, tinynas: Tinynas, model: Path) -> None:
    compiled = tinynas("compile", model, "-o", "c", "--layout", layout, "--json").json
    on_disk = sorted(str(path) for path in Path("c").rglob("*") if path.is_file())
    assert sorted(compiled["files"]) == on_disk
    assert f"c/{LAYOUTS[layout]}" in on_disk
    checked = tinynas("check", model, "--json").json
    assert compiled["sram_bytes"] == checked["sram_bytes"]
    assert compiled["flash_bytes"] == checked["flash_bytes"]
    assert tinynas("compile", model, "-o", "c", "--layout", layout).code == 0


def test_measure(emulator: None, tinynas: Tinynas, model: Path) -> None:
    answer = tinynas("measure", model, "--board", "emulator", "--json")
    measured = answer.json
    keys = ["board", "latency_ms", "cycles", "instructions", "sram_bytes", "flash_bytes", "code_bytes", "layers"]
    assert measured.keys() >= set(keys)
    assert sum(layer["cycles"] for layer in measured["layers"]) <= measured["cycles"]
    assert all(layer.keys() >= {"name", "cycles", "macs"} for layer in measured["layers"])
    checked = tinynas("check", model, "--json").json
    assert measured["sram_bytes"] == checked["sram_bytes"]
    again = tinynas("measure", model, "--board", "emulator", "--device", "mps2-an386", "--runs", 2, "--json").json
    assert again["cycles"] == pytest.approx(measured["cycles"], rel=0.001)
    assert again["device"] == "mps2-an386"
    assert sum(layer["energy_mj"] for layer in measured["layers"]) == pytest.approx(measured["energy_mj"])
    assert measured["energy_mj"] == pytest.approx(measured["latency_ms"] * 0.132)
    assert "latency" in tinynas("measure", model, "--board", "emulator").out


def test_verify(emulator: None, tinynas: Tinynas, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = tinynas("verify", model, "--board", "emulator", "--inputs", 3, "--json")
    assert answer.code == 0
    assert answer.json | {"inputs": 3, "identical": 3, "max_abs_diff": 0} == answer.json
    monkeypatch.setattr(boards, "compare_with_reference", lambda *_: Comparison(3, 2, 1.0))
    answer = tinynas("verify", model, "--board", "emulator", "--inputs", 3, "--json")
    assert answer.code == 1
    assert answer.json["identical"] == 2


def test_streamed_input(emulator: None, tinynas: Tinynas, image_model: Path) -> None:
    whole = tinynas("compile", image_model, "-o", "whole", "--json").json
    checked = tinynas("check", image_model, "--stream-input", "--json").json
    compiled = tinynas("compile", image_model, "-o", "streamed", "--stream-input", "--json").json
    assert checked["sram_bytes"] == compiled["sram_bytes"] < whole["sram_bytes"] / 2
    assert checked["layers"][0]["streamed"]
    assert "int tn_model_push_row(const void *row);" in Path("streamed/model.h").read_text()
    assert "tn_model_push_row" not in Path("whole/model.h").read_text()
    measured = tinynas("measure", image_model, "--board", "emulator", "--stream-input", "--json").json
    assert measured["sram_bytes"] == checked["sram_bytes"]
    verified = tinynas("verify", image_model, "--board", "emulator", "--inputs", 3, "--stream-input", "--json").json
    assert verified["identical"] == 3


@pytest.mark.parametrize("command", [["check"], ["compile", "-o", "c"], ["measure", "--board", "emulator"]])
def test_an_input_that_cannot_be_streamed(command: list[str], tinynas: Tinynas, home: Path) -> None:
    builder = GraphBuilder((1, 20), name="flat")
    graph = builder.finish(builder.fully_connected(builder.input, 4))
    (home / "flat.tflite").write_bytes(write_tflite(graph))
    says = tinynas(command[0], "flat.tflite", *command[1:], "--stream-input").error
    assert "the input of 'flat' cannot be streamed: its first layer 'fully_connected_0' needs it whole" in says


def test_predict(tinynas: Tinynas, model: Path, data: Path) -> None:
    predicted = tinynas("predict", model, "--json").json
    low, high = predicted["interval_ms"]
    assert 0 < low < predicted["latency_ms"] < high
    assert predicted["energy_mj"] > 0
    architecture = "mobilenet_small-r16-w0.5-k3e1-k5e3_k3e2-k3e2-k7e2"
    of_text = tinynas("predict", "--architecture", architecture, "--data", data, "--json").json
    assert of_text["latency_ms"] > predicted["latency_ms"]
    slower = tinynas("predict", model, "--device", "nrf52840", "--json").json
    assert slower["latency_ms"] > predicted["latency_ms"]
    assert "ms" in tinynas("predict", model).out


def test_calibrate(emulator: None, tinynas: Tinynas, model: Path) -> None:
    before = tinynas("predict", model, "--json").json
    calibrated = tinynas("calibrate", "--board", "emulator", "--samples", 4, "--json").json
    keys = {"measured", "mape_before", "mape_after", "kendall_tau", "within_10_percent"}
    assert calibrated.keys() >= keys
    assert calibrated["measured"] == 4
    after = tinynas("predict", model, "--json").json
    assert after["cost_model"].startswith("fitted on 4 networks")
    assert after["interval_ms"] != before["interval_ms"]


def write_power_trace(path: Path, active_ma: float) -> Path:
    """A millisecond apart: 1 mA, but ``active_ma`` from 50 to 150 ms."""
    rows = [f"{ms},{active_ma if 50 <= ms < 150 else 1},{int(50 <= ms < 150)}" for ms in range(200)]
    path.write_text("\n".join(["time (ms),current (mA),D0", *rows]))
    return path


def test_power_that_was_measured_counts_from_then_on(tinynas: Tinynas, model: Path, data: Path) -> None:
    before = tinynas("predict", model, "--json").json
    trace = write_power_trace(Path("trace.csv"), active_ma=20)
    options = ["--power-trace", trace, "--supply-v", "3.3"]
    found = tinynas("calibrate", *options, "--inferences", 10, "--json").json
    assert found["active_power_mw"] == pytest.approx(66.0)
    assert found["energy_mj"] == pytest.approx(0.66)
    assert found["active_power_before_mw"] == 132.0
    after = tinynas("predict", model, "--json").json
    assert after["latency_ms"] == before["latency_ms"]
    assert after["energy_mj"] == pytest.approx(before["energy_mj"] / 2)
    checked = tinynas("check", model, "--json").json
    assert sum(layer["energy_mj"] for layer in checked["layers"]) == pytest.approx(checked["predicted_energy_mj"])
    other = tinynas("predict", model, "--device", "nrf52840", "--json").json
    assert other["energy_mj"] == pytest.approx(other["latency_ms"] / 1e3 * load_profile("nrf52840").active_power_mw)

    # A search keeps to an energy limit by it, and a study to the power that it began with.
    studied = tinynas("search", *little(data, "study", trials=2), "--json").json
    for candidate in studied["front"]:
        assert candidate["energy_mj"] == pytest.approx(candidate["latency_ms"] * 0.066)
    said = tinynas("calibrate", *options[:-1], "1.65", "--latency-ms", 5, "--inferences", 20).out
    assert "draws 33 mW while inferring, and 66 mW was assumed" in said
    assert tinynas("search", *little(data, "study", trials=2), "--json").json["front"] == studied["front"]
    Path(found["active_power_file"]).unlink()
    assert tinynas("predict", model, "--json").json == before


@pytest.mark.parametrize(("as_json", "end"), [(False, signal.SIGINT), (True, signal.SIGTERM)])
def test_emulate(
    as_json: bool, end: int, emulator: None, model: Path, spawn: Callable[..., subprocess.Popen[str]]
) -> None:
    process = spawn("emulate", model, *(["--json"] if as_json else []))
    assert process.stdout is not None
    line = process.stdout.readline().rstrip("\n")
    port = json.loads(line)["port"] if as_json else line
    with serial.Serial(port, 115200, timeout=20) as opened:
        opened.write(b"name%")
        assert b"m-ready" in opened.read_until(b"m-ready")
    emulators = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.send_signal(end)
    answer = finish(process)
    assert answer.code == 0
    assert answer.out == ""
    assert "Ctrl-C" in answer.err
    assert len(emulators) == 1
    assert not Path(f"/proc/{emulators[0]}").exists(), "the emulator still runs"
