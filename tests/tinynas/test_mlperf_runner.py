"""What MLPerf Tiny's public runner sends in performance mode, to the port that ``tinynas emulate`` prints.

The conversation is written anew from the runner's grammar (mlcommons/tiny, benchmark/runner: serial_device.py,
device_under_test.py, script.py, tests_performance.yaml): a command and its '%' are two writes; a reply is every line up
to the first with m-ready in it, so one m-ready too many would shift all that follows; five seconds without a line are
given up; inputs go in pieces of 31 bytes; the model's name chooses the script.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import serial

from devices.host.closing import Closing
from devices.profile import load_profile
from tests.devices.toy_models import need
from tests.tinynas.conftest import Tinynas

LINE_TIMEOUT_S = 60.0
"""The runner itself waits 5 s, which an emulator on a busy machine may take for 1,500 inferences."""
MODELS = {"vww": ("vww01", 27_648), "ic": ("ic01", 3_072), "kws": ("kws01", 490), "ad": ("ad01", 2_560)}
"""The name that the runner knows a model by, and how many bytes its files have."""
SCRIPTS = {"vww01": (20, 5), "ic01": (20, 5), "kws01": (70, 10), "ad01": (1500, 10)}
"""Inferences and warm-ups of the runner's own tests_performance.yaml."""


class Runner(Closing):
    """The runner's side of the line."""

    def __init__(self, port: str) -> None:
        self._port = serial.Serial(port, 115_200, timeout=0.1)
        self._received = b""

    def close(self) -> None:
        self._port.close()

    def say(self, command: str) -> list[str]:
        self._port.write(command.encode())
        self._port.write(b"%")
        lines: list[str] = []
        while not lines or "m-ready" not in lines[-1]:
            line = self._line(command)
            if line:
                lines.append(line)
        return lines

    def load(self, data: bytes) -> list[str]:
        assert self.say(f"db load {len(data)}") == [f"m-[Expecting {len(data)} bytes]", "m-ready"]
        pieces = [data[i : i + 31] for i in range(0, len(data), 31)]
        *silent, last = [self.say("db " + "".join(f"{byte:02x}" for byte in piece)) for piece in pieces]
        assert all(reply == ["m-ready"] for reply in silent)
        return last

    def _line(self, command: str) -> str:
        deadline = time.monotonic() + LINE_TIMEOUT_S
        while b"\n" not in self._received:
            assert time.monotonic() < deadline, f"no response to command {command}"
            self._received += self._port.read(max(1, self._port.in_waiting))
        line, _, self._received = self._received.partition(b"\n")
        return line.decode().strip("\r\0")


@pytest.fixture
def emulator() -> None:
    need("arm-none-eabi-gcc", "make", "qemu-system-arm", "cc")


def emulate(spawn: Callable[..., subprocess.Popen[str]], *arguments: object) -> str:
    process = spawn("emulate", *arguments)
    assert process.stdout is not None
    return process.stdout.readline().rstrip("\n")


def reference(model: Path, data: bytes) -> list[float]:
    """The results of LiteRT's reference kernels, as real values."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(
        model_content=model.read_bytes(), experimental_op_resolver_type=OpResolverType.BUILTIN_REF
    )
    interpreter.allocate_tensors()
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
    scale, zero_point = source["quantization"]
    if len(data) == 4 * np.prod(source["shape"]):
        values = np.frombuffer(data, "<f4") / np.float32(scale)
        away = np.trunc(values + np.copysign(np.float32(0.5), values))
        quantized = np.clip(away + zero_point, -128, 127).astype(np.int8)
    else:
        quantized = np.frombuffer(data, np.int8)
    interpreter.set_tensor(source["index"], quantized.reshape(source["shape"]))
    interpreter.invoke()
    scale, zero_point = target["quantization"]
    return [
        float(value) for value in (interpreter.get_tensor(target["index"]).ravel().astype(float) - zero_point) * scale
    ]


def sample(name: str, count: int) -> bytes:
    """An input as the runner's files hold it: floats for anomaly detection, else bytes."""
    rng = np.random.default_rng(count)
    if name == "ad":
        return rng.normal(0, 20, count // 4).astype("<f4").tobytes()
    return rng.integers(0, 256, count, np.uint8).tobytes()


def results(lines: list[str]) -> list[float]:
    (found,) = [match[1] for line in lines if (match := re.match(r"^m-results-\[([^]]+)\]$", line))]
    return [float(value) for value in found.split(",")]


@pytest.mark.parametrize("device", ["stm32f405", pytest.param("mps2-an386", marks=pytest.mark.slow)])
def test_the_runners_performance_script(
    device: str,
    emulator: None,
    reference_model: Path,
    spawn: Callable[..., subprocess.Popen[str]],
    tinynas: Tinynas,
) -> None:
    name = reference_model.stem
    benchmark, count = MODELS[name]
    measured: dict[str, Any] = tinynas(
        "measure", reference_model, "--board", "emulator", "--device", device, "--json"
    ).json
    with Runner(emulate(spawn, reference_model, "--device", device)) as runner:
        names = [match[1] for line in runner.say("name") if (match := re.match(r"^m-name-dut-\[([^]]+)]$", line))]
        assert names == ["tinynas"]
        profile = [
            (match[1], match[2])
            for line in runner.say("profile")
            if (match := re.match(r"^m-(model|profile)-\[([^]]+)]$", line))
        ]
        assert dict(profile)["model"] == benchmark
        assert re.fullmatch(r"m-lap-us-\d+", runner.say("timestamp")[0])
        inferences, warmups = SCRIPTS[benchmark]
        data = sample(name, count)
        assert runner.load(data) == ["m-load-done", "m-ready"]
        lines = runner.say(f"infer {inferences} {warmups}")
        start_us, end_us = (int(match[1]) for line in lines if (match := re.match(r"^m-lap-us-([0-9]+)$", line)))
        # The inference itself, as the cycle counter has it, and what the harness does around it.
        latency_us = (end_us - start_us) / inferences
        assert 1.0 <= latency_us / 1e3 / measured["latency_ms"] < 1.005
        cycles = latency_us * 1e-6 * load_profile(device).clock_hz / load_profile(device).stall_factor
        assert cycles == pytest.approx(measured["cycles"], rel=0.005)
        assert results(lines) == pytest.approx(reference(reference_model, data), abs=0.00051, rel=1e-6)
        assert results(runner.say("results")) == results(lines)


def test_one_client_after_another_finds_a_clean_line(
    emulator: None, references: Path, spawn: Callable[..., subprocess.Popen[str]]
) -> None:
    """Each leaves in another unfinished state; the next one's first command gets its own reply."""
    port = emulate(spawn, references / "models" / "kws.tflite")
    for left_behind in (b"", b"name%", b"db load 490%", b"infer 1 0%profile%", b"name%\r\n", b"db print%timestamp%"):
        with Runner(port) as runner:
            assert runner.say("name") == ["m-name-dut-[tinynas]", "m-ready"], left_behind
            assert runner.say("profile")[1:] == ["m-model-[kws01]", "m-ready"]
            runner._port.write(left_behind)
            time.sleep(0.2)


def test_a_serial_board_on_the_port_measures_the_same(
    emulator: None, references: Path, spawn: Callable[..., subprocess.Popen[str]], tinynas: Tinynas
) -> None:
    """The board's own clock, over a real port's class, against the emulator's cycle counter."""
    model = references / "models" / "kws.tflite"
    port = emulate(spawn, model)
    counted = tinynas("measure", model, "--board", "emulator", "--json").json
    timed = tinynas("measure", model, "--board", f"serial:{port}", "--device", "stm32f405", "--json").json
    assert timed["latency_ms"] == pytest.approx(counted["latency_ms"], rel=1e-3)
    # By the clock, a layer's rows are timed one by one, and reading the clock takes its part.
    by_clock = [layer["cycles"] for layer in timed["layers"]]
    by_counter = [layer["cycles"] * load_profile("stm32f405").stall_factor for layer in counted["layers"]]
    assert all(0.999 * theirs <= ours <= 1.15 * theirs for ours, theirs in zip(by_clock, by_counter, strict=True))
    assert sum(by_clock) == pytest.approx(sum(by_counter), rel=0.02)
