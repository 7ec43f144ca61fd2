#!/usr/bin/env python3
"""Measures a stand-in phone whose latencies are known, while the connection to it fails in every way.

The real adb talks to adbd's protocol over TCP. Connections are cut before, during and after a command; the phone goes
away, and comes back having started again or not; outputs are cut short, delayed, repeated, garbled, with bits flipped
on either way; the exit code is lost; the adb server is killed. A figure that is not the phone's is an error, and so is
a measurement that does not come about, for the phone is there all the time.

Usage: python -m benchmarks.adb_faults [--runs N] [--rate R] [--seed S] [--json]
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from devices.board import Measurement
from devices.errors import DeviceError
from devices.phone.adb_board import AdbBoard, PhoneOptions
from devices.phone.model import phone_model
from devices.profile import load_profile
from tests.devices.phone.fake_adbd import FakePhone, Faults
from tests.devices.phone.phone_tools import OPERATORS, make_phone, set_latency, write_benchmark_model
from tinynas.output import print_json, progress

KINDS = (
    "cut",
    "cut in output",
    "vanish",
    "delay",
    "truncate",
    "flip",
    "flip request",
    "flip header",
    "digit",
    "no exit code",
    "garbage",
    "repeat",
    "repeat message",
    "lose",
    "server",
)
RATE = 0.04
"""Of faults among adb's commands, of which a measurement takes about thirty."""
DURATION_S = 0.02
"""Of one invocation of benchmark_model, so that there is something to interrupt."""

PATIENCE_S = 5.0
"""With a phone that never needs more."""


@dataclass
class Outcome:
    """What became of the runs."""

    runs: int = 0
    right: int = 0
    wrong: list[str] = field(default_factory=list)
    """Accepted, and not what the phone took: must stay empty."""
    failed: list[str] = field(default_factory=list)
    """Given up, though the phone was there again: must stay empty."""
    faults: dict[str, int] = field(default_factory=dict)
    left_over: list[str] = field(default_factory=list)
    """Files that were still on the phone in the end."""


def measure_with_faults(folder: Path, runs: int, rate: float = RATE, seed: int = 0) -> Outcome:
    """Measure ``runs`` models, each with a latency of its own, on a phone at the other end of a bad line."""
    rng = random.Random(seed)
    outcome = Outcome(faults=dict.fromkeys(KINDS, 0))
    tool = write_benchmark_model(folder / "benchmark_model")
    with private_adb(folder), make_phone(folder / "phone") as phone, progress("measuring") as update:
        (phone.folder / "duration_s").write_text(f"{DURATION_S}\n")
        phone.faults = Faults(seed, rate, KINDS, outcome.faults, on_server_kill=_kill_server)
        for run in range(runs):
            outcome.runs += 1
            _measure_once(phone, tool, folder, rng, outcome)
            update(run + 1, runs, "runs")
        phone.faults.rate = 0.0
        outcome.left_over = sorted(path.name for path in phone.path("/data/local/tmp").iterdir())
    return outcome


def _measure_once(phone: FakePhone, tool: Path, folder: Path, rng: random.Random, outcome: Outcome) -> None:
    latency_us = rng.randrange(1_000, 90_000)
    set_latency(phone, latency_us)
    model, given = folder / "model.tflite", rng.randbytes(490)
    model.write_bytes(b"\x1c\0\0\0TFL3" + rng.randbytes(5_000))
    expected = hashlib.sha256(model.read_bytes() + given).hexdigest().encode() + b"\n"
    options = PhoneOptions(benchmark_model=tool)
    try:
        with AdbBoard(phone.serial, load_profile("pixel2"), options=options, patience_s=PATIENCE_S) as board:
            board.flash(phone_model(model, "pixel2", (1, 490)))
            measurement = board.measure([given])
            (output,) = board.outputs([given])
    except DeviceError as error:
        outcome.failed.append(str(error))
        return
    wrong = [*_wrong(measurement, latency_us), *([] if output == expected else [f"output {output!r}"])]
    if wrong:
        outcome.wrong.append(f"{latency_us}.5 us: {'; '.join(wrong)}")
    else:
        outcome.right += 1


def _wrong(measurement: Measurement, latency_us: int) -> Iterator[str]:
    """Whatever the measurement says that is not so."""
    known_ms = (latency_us + 0.5) / 1e3
    for found_ms in (measurement.latency_ms, *measurement.latencies_ms):
        if abs(found_ms - known_ms) > 1e-9:
            yield f"{found_ms} ms"
    if len(measurement.latencies_ms) < 5 or measurement.runs != 50 * len(measurement.latencies_ms):
        yield f"{measurement.runs} inferences"
    operators = [(operator.name, operator.kind, operator.latency_ms) for operator in measurement.operators]
    expected = [(name, kind, float(f"{latency_us * share / 1000:.3f}")) for name, kind, share in OPERATORS]
    if [(o[0], o[1]) for o in operators] != [(e[0], e[1]) for e in expected] or any(
        abs(o[2] - e[2]) > 0.0011 for o, e in zip(operators, expected, strict=True)
    ):
        yield f"operators {operators}"
    for name, value in {"core_mask": "c", "thermal_status_after": "none", "delegate": "XNNPACK, whole graph"}.items():
        if measurement.conditions.get(name) != value:
            yield f"{name} {measurement.conditions.get(name)}"


@contextmanager
def private_adb(folder: Path) -> Iterator[None]:
    """An adb with a server, a key and locks of its own; the user's are left alone."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    home = folder / "home"
    home.mkdir(exist_ok=True)
    changed = {"ANDROID_ADB_SERVER_PORT": str(port), "HOME": str(home), "TINYNAS_LOCKS": str(folder / "locks")}
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    try:
        yield
    finally:
        _kill_server()
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _kill_server() -> None:
    subprocess.run(["adb", "kill-server"], stdin=subprocess.DEVNULL, capture_output=True, check=False)


def main() -> int:
    """Exit code 1 when any figure was wrong, or any run came to nothing."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=RATE, help="of faults among adb's commands")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tinynas-adb-") as folder:
        outcome = measure_with_faults(Path(folder), arguments.runs, arguments.rate, arguments.seed)
    if arguments.json:
        print_json(asdict(outcome))
    else:
        injected = sum(outcome.faults.values())
        print(f"{outcome.runs} runs, {injected} faults: " + ", ".join(f"{n} {k}" for k, n in outcome.faults.items()))
        print(f"{outcome.right} right, {len(outcome.wrong)} wrong, {len(outcome.failed)} given up")
        for line in [*outcome.wrong, *outcome.failed, *outcome.left_over][:20]:
            print(f"  {line}")
    return 1 if outcome.wrong or outcome.failed else 0


if __name__ == "__main__":
    sys.exit(main())
