"""A phone as a board, from the push to the clean-up, against the real adb and a stand-in phone."""

from __future__ import annotations

import os
import shutil
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.adb_faults import private_adb
from devices.errors import DeviceError
from devices.host.locks import BoardBusyError
from devices.phone.adb import PHONE_FOLDER
from devices.phone.adb_board import AdbBoard, PhoneOptions
from devices.phone.benchmark_model import BenchmarkOutputError
from devices.phone.model import phone_model
from devices.phone.state import PhoneState, core_mask, cores_of, fast_cores, parse_state
from devices.profile import load_profile
from tests.devices.phone.fake_adbd import FakePhone, Faults
from tests.devices.phone.phone_tools import BENCHMARK_MODEL, make_phone, write_benchmark_model
from tests.devices.toy_models import need

PIXEL = load_profile("pixel2")


@pytest.fixture
def phone(tmp_path: Path) -> Iterator[FakePhone]:
    need("adb")
    with private_adb(tmp_path), make_phone(tmp_path / "phone") as stand_in:
        yield stand_in


@pytest.fixture
def tool(tmp_path: Path) -> Path:
    return write_benchmark_model(tmp_path / "benchmark_model")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.tflite"
    path.write_bytes(b"\x1c\0\0\0TFL3" + bytes(1000))
    return path


def files(phone: FakePhone) -> list[str]:
    return sorted(path.name for path in phone.path(PHONE_FOLDER).iterdir())


def test_pinned_measured_and_cleaned_up(phone: FakePhone, tool: Path, model: Path) -> None:
    with AdbBoard(phone.serial, PIXEL, options=PhoneOptions(benchmark_model=tool, threads=2)) as board:
        board.flash(phone_model(model, "pixel2"))
        measurement = board.measure([b""])
    assert measurement.latency_ms == pytest.approx(12.3455)
    assert (measurement.cycles, measurement.instructions, measurement.layer_cycles) == (None, None, ())
    assert (measurement.runs, len(measurement.latencies_ms)) == (250, 5)
    assert [(o.name, o.kind) for o in measurement.operators] == [
        ("[conv]:0", "CONV_2D"),
        ("[dense, in two parts]:1", "FULLY_CONNECTED"),
    ]
    assert measurement.sram_bytes == round(6.25 * 2**20)
    conditions = measurement.conditions
    expected = {
        "core_mask": "c", "cores": "2, 3", "threads": "2", "delegate": "XNNPACK, whole graph", "phone": "Stand-in 1",
        "governor_before": "schedutil", "thermal_status_after": "none", "temperatures_c_before": "cpu-big 41.5",
        "battery_after": "85 %, 27.5 °C, powered by USB", "screen_before": "Asleep",
    }  # fmt: skip
    assert {name: conditions[name] for name in expected} == expected
    assert "standin:10" in conditions["build"]
    assert len(conditions["benchmark_model"]) == 64
    assert "warnings" not in conditions
    calls = (phone.folder / "calls").read_text().splitlines()
    assert set((phone.folder / "masks").read_text().split()) == {"c"}
    assert all("--num_threads=2 --use_xnnpack=true --num_runs=" in call for call in calls)
    # The profile is taken apart from what is timed.
    assert [("--enable_op_profiling=true" in call) for call in calls] == [False] * 6 + [True]
    assert files(phone) == []


def test_the_phones_own_tool_and_how_to_get_one(phone: FakePhone, model: Path) -> None:
    with (
        AdbBoard(phone.serial, PIXEL) as board,
        pytest.raises(DeviceError, match=r"no benchmark_model .*--benchmark-model.*storage\.googleapis.*bazel build"),
    ):
        board.flash(phone_model(model, "pixel2"))
    phone.install(f"{PHONE_FOLDER}/benchmark_model", BENCHMARK_MODEL)
    with AdbBoard(phone.serial, PIXEL, options=PhoneOptions(cores="all")) as board:
        board.flash(phone_model(model, "pixel2"))
        measurement = board.measure([b""], runs=120)
    assert measurement.conditions["core_mask"] == "none"
    assert (measurement.runs, len(measurement.latencies_ms)) == (120, 3)
    assert files(phone) == ["benchmark_model"]


def test_what_is_kept_is_not_pushed_again(phone: FakePhone, tool: Path, model: Path) -> None:
    options = PhoneOptions(benchmark_model=tool, keep=True)
    for _ in range(2):
        with AdbBoard(phone.serial, PIXEL, options=options) as board:
            board.flash(phone_model(model, "pixel2"))
        (kept,) = phone.path(PHONE_FOLDER).glob("tinynas-*/benchmark_model")
        stamp = kept.stat().st_ino, kept.stat().st_mtime_ns
    assert (kept.stat().st_ino, kept.stat().st_mtime_ns) == stamp
    assert len(files(phone)) == 2


def test_heat_and_held_clocks_are_warned_of(phone: FakePhone, tool: Path, model: Path) -> None:
    (phone.folder / "thermal_status").write_text("3")
    (phone.folder / "sys/devices/system/cpu/cpu3/cpufreq/scaling_max_freq").write_text("1200000\n")
    with AdbBoard(phone.serial, PIXEL, options=PhoneOptions(benchmark_model=tool)) as board:
        board.flash(phone_model(model, "pixel2"))
        warnings = board.measure([b""], runs=1).conditions["warnings"]
    assert "thermal status severe" in warnings
    assert "core 3 is held to 1200 of 2458 MHz" in warnings


def test_a_tool_that_fails_or_lies_is_no_measurement(phone: FakePhone, tool: Path, model: Path) -> None:
    said = {
        "echo 'INFO: count=1 curr=5'; exit 0": (BenchmarkOutputError, "second line of statistics"),
        "echo 'ERROR: Failed to load model'; exit 1": (DeviceError, r"exit code 1\): ERROR: Failed to load"),
        BENCHMARK_MODEL.replace("(avg): $us.5", "(avg): $us$us"): (BenchmarkOutputError, "two means"),
    }
    for script, (kind, message) in said.items():
        tool.write_text("#!/bin/sh\n" + script)
        with AdbBoard(phone.serial, PIXEL, options=PhoneOptions(benchmark_model=tool)) as board:
            board.flash(phone_model(model, "pixel2"))
            with pytest.raises(kind, match=message):
                board.measure([b""])
    assert files(phone) == []


def test_a_phone_that_stays_away_is_an_error_and_one_that_comes_back_begins_anew(
    phone: FakePhone, tool: Path, model: Path
) -> None:
    with AdbBoard(phone.serial, PIXEL, options=PhoneOptions(benchmark_model=tool), patience_s=1.0) as board:
        board.flash(phone_model(model, "pixel2"))
        phone.vanish(0.3, restarted=True)
        for path in phone.path(PHONE_FOLDER).iterdir():
            shutil.rmtree(path)
        assert board.measure([b""]).latency_ms == pytest.approx(12.3455)
        phone.vanish()
        with pytest.raises(DeviceError, match=r"adb finds no phone|is not ready"):
            board.measure([b""])


def test_what_runs_on_after_its_connection_was_lost_is_ended(phone: FakePhone, tool: Path, model: Path) -> None:
    """Else it would slow down its successor, which this benchmark_model then does."""
    (phone.folder / "duration_s").write_text("0.2\n")
    with AdbBoard(phone.serial, PIXEL, options=PhoneOptions(benchmark_model=tool)) as board:
        board.flash(phone_model(model, "pixel2"))
        phone.faults = Faults(3, 0.15, ("cut",))
        measurement = board.measure([b""], runs=100)
    assert phone.faults.counts["cut"] > 0
    assert set(measurement.latencies_ms) == {12.3455}


def test_one_user_at_a_time(phone: FakePhone) -> None:
    with AdbBoard(phone.serial, PIXEL), pytest.raises(BoardBusyError, match="in use"):
        AdbBoard(phone.serial, PIXEL)


def test_what_no_phone_can_do(phone: FakePhone, tool: Path, model: Path, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="stm32f405 is no phone"):
        AdbBoard(phone.serial, load_profile("stm32f405"))
    with pytest.raises(DeviceError, match="the cores 'big'"):
        PhoneOptions(cores="big")
    with pytest.raises(DeviceError, match="0 threads"):
        PhoneOptions(threads=0)
    (tmp_path / "x.tflite").write_bytes(b"no model")
    with pytest.raises(DeviceError, match="TFL3"):
        phone_model(tmp_path / "x.tflite", "pixel2")
    tool.write_text("#!/bin/sh\n" + BENCHMARK_MODEL.replace("--output_filepath=*)", "--nothing=*)"))
    with AdbBoard(phone.serial, PIXEL, options=PhoneOptions(benchmark_model=tool)) as board:
        with pytest.raises(DeviceError, match="flash one first"):
            board.measure([b""])
        board.flash(phone_model(model, "pixel2", (1, 4)))
        with pytest.raises(DeviceError, match=r"--output_filepath.*newer"):
            board.outputs([b"abcd"])


def test_fast_cores_and_masks() -> None:
    text = "core=0 online= hardware=1800000\ncore=1 online=1 hardware=2400000\ncore=7 online=0 hardware=3000000\n"
    assert fast_cores(parse_state(text).cores) == (1,)
    by_capacity = "core=0 capacity=400 hardware=9\ncore=4 capacity=1024 hardware=8\ncore=5 capacity=1024 hardware=8\n"
    assert fast_cores(parse_state(by_capacity).cores) == (4, 5)
    assert parse_state("") == PhoneState()
    assert core_mask((4, 5, 6, 7)) == "f0"
    assert cores_of("0xf0") == (4, 5, 6, 7)


@pytest.mark.slow
def test_arm64_tensorflow_lite_under_an_emulator(phone: FakePhone, references: Path, tmp_path: Path) -> None:
    """Real arm64 kernels stand in for the phone's CPU: for outputs, never for times.

    Uniform noise drives every layer to its limits. The optimized arm64 kernels round per layer in another way than the
    reference; 31 units is what such kernels were seen to differ by on the models of the references.
    """
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    need("qemu-aarch64", "aarch64-linux-gnu-gcc")
    wheels = os.environ.get("TINYNAS_ARM64_WHEEL")
    if not wheels:
        pytest.skip("set TINYNAS_ARM64_WHEEL to PyPI's pymicro-wakeword wheel for aarch64")
    with zipfile.ZipFile(wheels) as wheel:
        library = wheel.extract("pymicro_wakeword/lib/libtensorflowlite_c.so", tmp_path)
    source = Path(__file__).with_name("tflite_runner.c")
    command = [
        "aarch64-linux-gnu-gcc",
        "-O2",
        "-Wall",
        "-Wextra",
        "-Werror",
        source,
        library,
        "-o",
        tmp_path / "runner",
    ]
    command += [f"-Wl,-rpath,{Path(library).parent}", "-Wl,--allow-shlib-undefined"]
    subprocess.run(command, check=True)
    tool = tmp_path / "tool"
    tool.write_text(f'#!/bin/sh\nexec qemu-aarch64 -L /usr/aarch64-linux-gnu {tmp_path / "runner"} "$@"\n')
    rng = np.random.default_rng(0)
    for name in ("kws", "ic", "vww"):
        path = references / "models" / f"{name}.tflite"
        interpreter = Interpreter(str(path), experimental_op_resolver_type=OpResolverType.BUILTIN_REF)
        interpreter.allocate_tensors()
        (given,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
        inputs = [rng.integers(-128, 128, given["shape"], dtype=np.int8) for _ in range(3)]
        with AdbBoard(phone.serial, PIXEL, options=PhoneOptions(benchmark_model=tool)) as board:
            board.flash(phone_model(path, "pixel2", tuple(int(size) for size in given["shape"])))
            outputs = board.outputs([data.tobytes() for data in inputs])
        for data, found in zip(inputs, outputs, strict=True):
            interpreter.set_tensor(given["index"], data)
            interpreter.invoke()
            expected = interpreter.get_tensor(target["index"]).ravel().astype(int)
            assert np.abs(expected - np.frombuffer(found, np.int8)).max() <= 31
