"""The command line on a board behind a line that cannot be trusted: the emulated one, by way of somebody's port."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.serial_faults import FAULTS
from tests.devices.serial_line.faulty_line import Faults, FaultyLine, PortEnd
from tests.devices.toy_models import need
from tests.tinynas.conftest import finish

Spawn = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def line(spawn: Spawn, model: Path, tmp_path: Path) -> Iterator[FaultyLine]:
    need("arm-none-eabi-gcc", "make", "qemu-system-arm", "cc")
    emulator = spawn("emulate", model)
    assert emulator.stdout is not None
    end = PortEnd(emulator.stdout.readline().strip())
    line = FaultyLine(end, tmp_path / "port", Faults(), 3)
    yield line
    line.close()
    end.close()


def answer(spawn: Spawn, *arguments: object) -> dict[str, object]:
    done = finish(spawn(*arguments, "--json"))
    assert done.code == 0, done.err
    found: dict[str, object] = json.loads(done.out)
    return found


def test_faults_change_no_figure(line: FaultyLine, spawn: Spawn, model: Path, tmp_path: Path) -> None:
    board = ("--board", f"serial:{tmp_path / 'port'}")
    faultless = answer(spawn, "measure", model, *board, "--runs", "3")
    line.faults = replace(FAULTS, disconnect=0.004, reset=0.004)
    faulty = answer(spawn, "measure", model, *board, "--runs", "3")
    verified = answer(spawn, "verify", model, *board, "--inputs", "12")
    assert verified["identical"] == 12
    assert verified["max_abs_diff"] == 0
    # An interrupt of the board's clock takes some cycles of one inference in thousands.
    assert faulty["cycles"] == pytest.approx(faultless["cycles"], abs=100)
    assert sum(line.injected.values()) > 0


@pytest.mark.slow
def test_hundreds_of_inputs_through_faults(line: FaultyLine, spawn: Spawn, model: Path, tmp_path: Path) -> None:
    line.faults = FAULTS
    verified = answer(spawn, "verify", model, "--board", f"serial:{tmp_path / 'port'}", "--inputs", "150")
    assert (verified["identical"], verified["max_abs_diff"]) == (150, 0)
    assert line.injected.keys() == FAULTS.rates.keys()
