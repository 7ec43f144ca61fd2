"""All of it, end to end, on data that takes seconds, and kills at any moment."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.devices.toy_models import need
from tests.tinynas.conftest import Tinynas, finish, little
from tinynas.journal import read_journal

Spawn = Callable[..., subprocess.Popen[str]]
JOURNAL = Path("study/journal.jsonl")
# The union of what DESIGN.md promises of the commands that run does.
RUN_KEYS = {
    *("trials", "feasible", "front", "fits", "sram_bytes", "sram_lower_bound", "flash_bytes", "macs", "live_macs"),
    *("layers", "reasons", "files", "board", "latency_ms", "cycles", "instructions", "code_bytes", "inputs"),
    *("identical", "max_abs_diff", "accuracy", "measured", "mape_before", "mape_after", "kendall_tau"),
    *("within_10_percent", "energy_mj", "interval_ms", "path"),
}


@pytest.fixture(autouse=True)
def tools() -> None:
    need("qemu-system-arm", "arm-none-eabi-gcc", "make", "cc")


def evaluated() -> list[str]:
    """The architectures of the journal's evaluations, in order; a line that a kill cut off does not count."""
    whole, _, _ = JOURNAL.read_text().rpartition("\n")
    lines = [json.loads(line) for line in whole.splitlines()]
    return [line["architecture"] for line in lines if line["type"] == "evaluation_finished"]


def events() -> Counter[str]:
    return Counter(event.type for event in read_journal(JOURNAL)[0])


def whole_lines() -> int:
    return JOURNAL.read_bytes().count(b"\n") if JOURNAL.exists() else 0


def kill_when(process: subprocess.Popen[str], ready: Callable[[], bool]) -> bool:
    """Kill the command's whole process group as soon as ``ready``; False when it ended before."""
    while process.poll() is None:
        if ready():
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return True
        time.sleep(0.002)
    return False


def emulators_of(cache: Path) -> list[str]:
    """Command lines of the emulators that these tests started: their cycle counter lies in the tests' own cache."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it has ended
            continue
        if "qemu-system-arm" in command and str(cache) in command:
            found.append(command)
    return found


def test_run(tinynas: Tinynas, data: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = little(data, "study", trials=5)
    first = tinynas("run", *options, "--json")
    assert first.code == 0, first.err
    result = first.json
    assert result.keys() >= RUN_KEYS
    _check_result(result)
    counts = events()
    assert counts["evaluation_finished"] == 5
    assert counts["cost_model_refitted"] == counts["exported"] == counts["verified"] == counts["candidate_trained"] == 1
    assert len(set(evaluated())) == 5
    assert sorted(path.name for path in Path("study").glob("*.html")) == ["report.html"]

    # Again: nothing is done twice, and from another folder, since the study knows where its data are.
    journal = JOURNAL.read_bytes()
    again = tinynas("run", *options, "--json")
    assert JOURNAL.read_bytes() == journal
    assert again.json == result
    (home / "elsewhere").mkdir()
    monkeypatch.chdir(home / "elsewhere")
    assert tinynas("report", home / "study", "--json").json["path"] == str(home / "study" / "report.html")
    monkeypatch.chdir(home)
    assert tinynas("search", *options, "--json").json["front"] == result["front"]
    assert JOURNAL.read_bytes() == journal

    # The page tells how to do it again.
    page = Path("study/report.html").read_text()
    assert "--supernet-epochs 1 --scratch-epochs 27 --finalists 1 --final-epochs 1 -o study" in page

    _check_export(tinynas, result)
    # What was trained on and exported by hand since then does not confuse it.
    assert tinynas("run", *options, "--json").code == 0
    text = tinynas("run", *options)
    assert text.code == 0
    assert "winner" in text.out
    assert "outputs identical to the reference" in text.out


def _check_result(result: dict[str, Any]) -> None:
    winner = result["winner"]
    assert (result["trials"], result["fits"], result["reasons"]) == (5, True, [])
    assert result["identical"] == result["inputs"] == 100
    assert result["max_abs_diff"] == 0
    assert result["candidate"] == winner["candidate"]
    assert result["latency_ms"] == winner["latency_ms"]
    assert sum(layer["cycles"] for layer in result["layers"]) <= result["cycles"]
    assert result["accuracy"].keys() >= {"torch", "onnx", "tflite", "int8"}
    assert all(Path(file).is_file() for file in result["files"])
    assert {Path(file).name for file in result["files"]} >= {"model.onnx", "model_int8.tflite", "model.c", "model.h"}
    assert result["front"] == sorted(result["front"], key=lambda candidate: candidate["latency_ms"])
    keys = {"architecture", "accuracy", "latency_ms", "energy_mj", "sram_bytes", "flash_bytes", "macs"}
    assert all(candidate.keys() >= keys for candidate in result["front"])
    assert winner["architecture"] in evaluated()


def _check_export(tinynas: Tinynas, result: dict[str, Any]) -> None:
    exported = tinynas("export", "study", "-o", "winner", "--json").json
    assert exported["candidate"] == result["candidate"]
    assert exported["accuracy"] == result["accuracy"]
    assert sorted(exported["files"]) == sorted(str(path) for path in Path("winner").rglob("*") if path.is_file())
    inside = Path("study/artifacts") / result["candidate"]
    for name in ("model.onnx", "model_float.tflite", "model_int8.tflite", "c/model.c"):
        assert (Path("winner") / name).read_bytes() == (inside / name).read_bytes()
    other = next(text for text in evaluated() if text != result["architecture"])
    by_text = tinynas("export", "study", "--candidate", other, "-o", "other", "--json").json
    assert by_text["architecture"] == other
    checked = tinynas("check", "other/model_int8.tflite", "--json").json
    assert checked["sram_bytes"] == by_text["sram_bytes"]
    by_id = tinynas("export", "study", "--candidate", by_text["candidate"], "-o", "other", "--json").json
    assert by_id == by_text


def write_windows(path: Path) -> Path:
    """240 windows of 40 samples of 3 axes; the axis that swings tells the class."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 240)
    windows = rng.normal(0, 0.3, (240, 40, 1, 3)).astype(np.float32)
    for window, label in zip(windows, labels, strict=True):
        window[:, 0, label] += np.sin(np.arange(40) / 2 + rng.uniform(0, 6))
    np.savez(path, x=windows, y=labels)
    return path


def test_run_of_sensor_windows(tinynas: Tinynas, home: Path) -> None:
    """One dimension all the way: the space, the shared weights, the export, and the board."""
    options = little(write_windows(home / "windows.npz"), "study", trials=3)
    result = tinynas("run", *options, "--narrow", "--narrow-samples", 5, "--json").json
    assert result["architecture"].startswith("sensor-r")
    assert result["identical"] == result["inputs"] == 100
    assert all(layer["output_shape"][2] == 1 for layer in result["layers"] if len(layer["output_shape"]) == 4)
    page = Path("study/report.html").read_text()
    assert "inputs of 40×1×3, 3 classes" in page
    assert "--space sensor" in page


def test_an_export_before_the_run_does_not_stand_in_for_its_own(tinynas: Tinynas, data: Path) -> None:
    options = little(data, "study", trials=3)
    assert tinynas("search", *options).code == 0
    assert tinynas("export", "study", "-o", "early").code == 0
    result = tinynas("run", *options, "--json").json
    assert result["identical"] == result["inputs"]
    assert all(file.startswith("study/artifacts/") for file in result["files"])


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 6))])
def test_a_search_that_is_killed_anywhere(seed: int, spawn: Spawn, data: Path, firmware_cache: Path) -> None:
    """`kill -9` of the whole group; then the same command goes on, loses nothing and does nothing twice."""
    options = [*little(data, "study", trials=12), "--json"]
    rng = random.Random(seed)
    targets = sorted(rng.sample(range(1, 13), 3))
    kept: list[str] = []
    for target in [0, *targets]:
        delay = rng.uniform(0, 0.05 if target else 1.5)  # at first, into the supernet's training

        def ready(lines: int = target + 1, delay: float = delay) -> bool:
            if whole_lines() < lines:
                return False
            time.sleep(delay)
            return True

        kill_when(spawn("search", *options), ready)
        finished = evaluated()
        assert finished[: len(kept)] == kept, "an evaluation was lost or changed"
        kept = finished
    answer = finish(spawn("search", *options))
    assert answer.code == 0, answer.err
    assert answer.json["trials"] == 12
    assert evaluated()[: len(kept)] == kept
    assert len(evaluated()) == len(set(evaluated())) == 12
    assert events()["stage_done"] == 1
    assert not emulators_of(firmware_cache)
    assert not list(Path("study").rglob("*.part"))


# Where run may die: by what the journal says last, and how long after.
MOMENTS = ["evaluation_finished", "measured", "cost_model_refitted", "candidate_trained", "verified"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_a_run_that_is_killed_in_every_stage(seed: int, spawn: Spawn, data: Path, firmware_cache: Path) -> None:
    options = [*little(data, "study", trials=4), "--json"]
    rng = random.Random(seed)
    for moment in MOMENTS:
        delay = rng.uniform(0, 1.5)

        def ready(moment: str = moment, delay: float = delay) -> bool:
            if not JOURNAL.exists() or f'"{moment}"' not in JOURNAL.read_text():
                return False
            time.sleep(delay)
            return True

        kill_when(spawn("run", *options), ready)
        time.sleep(0.5)  # the kernel ends the emulator with its parent
        assert not emulators_of(firmware_cache)
    answer = finish(spawn("run", *options))
    assert answer.code == 0, answer.err
    assert answer.json["identical"] == answer.json["inputs"]
    counts = events()
    assert counts["evaluation_finished"] == len(set(evaluated())) == 4
    assert counts["cost_model_refitted"] == counts["exported"] == counts["candidate_trained"] == 1
    journal = JOURNAL.read_bytes()
    assert finish(spawn("run", *options)).json == answer.json
    assert JOURNAL.read_bytes() == journal


@pytest.mark.slow
def test_a_killed_search_finds_what_one_that_was_not_killed_finds(spawn: Spawn, data: Path, tinynas: Tinynas) -> None:
    whole = tinynas("search", *little(data, "whole", trials=8), "--json").json
    options = [*little(data, "study", trials=8), "--json"]
    for lines in (1, 4, 7):
        kill_when(spawn("search", *options), lambda lines=lines: whole_lines() >= lines)
    answer = finish(spawn("search", *options)).json
    assert answer["front"] == whole["front"]
