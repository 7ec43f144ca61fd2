"""The fuzzer finds nothing in the harness, and finds every fault that is put into it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from benchmarks.fuzz_harness import HARNESS, FaultFoundError, build, compile_driver, fuzz
from tests.devices.toy_models import need

INPUTS = 100_000

FAULTS = {
    "a line one byte too long": ("} else if (count == LINE_BYTES) {", "} else if (count == LINE_BYTES + 1) {"),
    "one word too many": ("if (count == WORDS) {", "if (count == WORDS + 2) {"),
    "a piece's checksum ignored": ("byte < 0 || crc32(0, piece, count) != crc", "byte < 0"),
    "a piece beyond the input": ("count == 0 || count > bytes - offset", "count == 0"),
    "a piece after floats": ("state.announced = state.received = tn_model.input_bytes;", ""),
    "a gap between pieces": ("offset > state.received) {", "0) {"),
    "a command's checksum ignored": ("length(command_text)) != expected", "length(command_text)) == ~expected"),
    "a reply's number left out of its checksum": ("state.crc = crc;", "state.crc = 0;"),
    "more db digits than announced": ("digits / 2u > state.announced - state.received", "0"),
    "an old result after a new load": ("if (!state.copy) state.result = NULL; /*", "/*"),
    "an input used twice": ("    state.input = INPUT_CONSUMED;", "    state.input = INPUT_LOADED;"),
    "a spoilt load goes on": ("if (state.input == INPUT_LOADING) forget_input();", ""),
    "raw data taken for commands": ("while (platform_read(QUIET_MS) != PLATFORM_TIMEOUT) {", "while (0) {"),
    "layers' ticks beyond the memory": ("if (free_bytes < used + tn_model.layers * sizeof(uint64_t)) return NULL;", ""),
    "a float's rounding": ("(rest >= 0.5f)", "(rest > 0.5f)"),
    "an unproven rate kept": ("if (c == PLATFORM_TIMEOUT) set_baud(DEFAULT_BAUD, 0);", ""),
    "noise at a proven rate": ("++state.noise == NOISE_BYTES", "0"),
    "no m-ready after a corrupt command": (
        "    put_error(error);\n  } else if (checked)",
        "    return;\n  } else if (checked)",
    ),
    "a command that never ends": ("if (count == WORDS) {", "while (count == WORDS) {\n    }\n    if (0) {"),
}


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need("gcc")
    return compile_driver(tmp_path_factory.mktemp("driver"))


def test_a_hundred_thousand_inputs_find_nothing(driver: Path, tmp_path: Path) -> None:
    counted = fuzz(build(tmp_path, driver), INPUTS, seed=20)
    # Nothing would be found where nothing is reached.
    least = {"checked": 100_000, "pieces": 50_000, "spoilt_pieces": 10_000, "loads": 20_000, "inferences": 10_000}
    assert {name: counted[name] for name in least if counted[name] < least[name]} == {}
    assert counted["long_runs"] < INPUTS / 100


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found(fault: str, driver: Path, tmp_path: Path) -> None:
    harness = tmp_path / "harness"
    shutil.copytree(HARNESS, harness)
    source = (harness / "protocol.c").read_text()
    right, wrong = FAULTS[fault]
    assert source.count(right) == 1
    (harness / "protocol.c").write_text(source.replace(right, wrong))
    program = build(tmp_path, driver, harness)
    with pytest.raises(FaultFoundError, match=r"the input that did it: replay \d+ \d+"):
        fuzz(program, INPUTS, seed=20)
