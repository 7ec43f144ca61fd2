#!/usr/bin/env python3
"""Fuzzes the firmware's command parser on the host under AddressSanitizer and UndefinedBehaviorSanitizer.

Each input is a sequence of commands, raw data, noise, overruns and silences, from a grammar that knows checksums and
from inputs that reached new code (gcc's trace-pc), over ten kinds of models and memories. The driver,
``tests/devices/fuzz_harness.c``, holds every reply against an independent model of the protocol: which line it must
be, the CRC of checked replies, the results of the data that was loaded, and ``m-ready`` at the end whatever came.

10,000,000 inputs take ten to fifteen minutes on one core. The same seed gives the same inputs.
Usage: python -m benchmarks.fuzz_harness [--inputs N] [--seed N] [--json]
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from devices.firmware import SOURCE_DIR

HARNESS = SOURCE_DIR / "harness"
DRIVER = Path(__file__).resolve().parent.parent / "tests" / "devices"
FLAGS = ("-std=gnu99", "-g", "-O1", "-Wall", "-Wextra", "-Werror")
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")


class FaultFoundError(Exception):
    """An input made the harness fail; the message has the fault and the input."""


def compile_driver(folder: Path) -> Path:
    """Compile what judges the harness, whichever it is."""
    driver = folder / "driver.o"
    _compile(f"-I{HARNESS}", "-c", DRIVER / "fuzz_harness.c", "-o", driver)
    return driver


def build(folder: Path, driver: Path, harness: Path = HARNESS) -> Path:
    """Compile the harness's sources in ``harness`` and link them with the driver."""
    protocol, program = folder / "protocol.o", folder / "fuzz_harness"
    coverage = "-fsanitize-coverage=trace-pc"
    _compile(f"-I{harness}", coverage, "-c", DRIVER / "fuzz_protocol.c", "-o", protocol)
    _compile(driver, protocol, "-lm", "-o", program)
    return program


def _compile(*arguments: str | Path) -> None:
    compiler = shutil.which("gcc")
    if compiler is None:
        raise SystemExit("fuzzing needs gcc, whose coverage feeds back which inputs reach new code; install gcc")
    subprocess.run([compiler, *FLAGS, *SANITIZERS, *arguments], check=True)


def fuzz(program: Path, inputs: int, seed: int) -> dict[str, Any]:
    """Run ``inputs`` inputs; returns what the driver counted. Raises FaultFoundError at the first fault."""
    done = subprocess.run([str(program), str(inputs), str(seed)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise FaultFoundError(done.stderr or f"the driver ended with {done.returncode}")
    counted: dict[str, Any] = json.loads(done.stdout)
    return counted


def main() -> None:
    """Fuzz, print what was reached, and fail at the first fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=10_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tinynas-fuzz-") as folder:
        program = build(Path(folder), compile_driver(Path(folder)))
        start = time.monotonic()
        try:
            counted = fuzz(program, options.inputs, options.seed)
        except FaultFoundError as fault:
            sys.exit(str(fault))
    counted["minutes"] = round((time.monotonic() - start) / 60, 1)
    if options.json:
        print(json.dumps(counted))
    else:
        print(f"{counted['inputs']:,} inputs of seed {counted['seed']} in {counted['minutes']} minutes: no fault")
        print(", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in list(counted.items())[2:-1]))


if __name__ == "__main__":
    main()
