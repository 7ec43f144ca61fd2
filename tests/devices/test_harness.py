"""The harness's protocol, compiled for the host with sanitizers: every command, and whatever else may come."""

from __future__ import annotations

import re
import subprocess
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from devices.firmware import SOURCE_DIR
from tests.devices.toy_models import INPUT_BYTES, OUTPUT_BYTES, expected_output, need, write_model, write_streamed_model

DATA = bytes(range(100, 100 + INPUT_BYTES))
LOAD = f"db load {INPUT_BYTES}%".encode() + b"".join(
    b"db " + DATA[i : i + 31].hex().encode() + b"%" for i in range(0, INPUT_BYTES, 31)
)
RAW_LOAD = f"load {INPUT_BYTES} {zlib.crc32(DATA):08x}%".encode() + DATA
BANNER = ["m-timestamp-mode-performance", "m-lap-us-1500", "m-init-done", "m-ready"]

Harness = Callable[[bytes], list[str]]


def build(folder: Path, free_bytes: int, write: Callable[[Path], Path] = write_model) -> Harness:
    need("cc")
    model = write(folder / "model")
    program = folder / "harness"
    sources = [SOURCE_DIR / "harness" / name for name in ("protocol.c", "model_info.c")]
    sources += [model / "model.c", Path(__file__).with_name("host_platform.c")]
    includes = [f"-I{path}" for path in (SOURCE_DIR / "harness", SOURCE_DIR / "kernels", model)]
    flags = ["-std=c99", "-g", "-Wall", "-Wextra", "-Werror", f"-DFREE_BYTES={free_bytes}"]
    flags += ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    subprocess.run(["cc", *flags, *includes, *map(str, sources), "-o", str(program)], check=True)

    def run(sent: bytes) -> list[str]:
        done = subprocess.run([str(program)], input=sent, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        lines = done.stdout.decode("ascii").split("\r\n")
        assert lines[:4] == BANNER
        assert lines[-1] == ""
        return lines[4:-1]

    return run


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Harness:
    """A board with room for a copy of the input."""
    return build(tmp_path_factory.mktemp("copy"), INPUT_BYTES)


@pytest.fixture(scope="module")
def tight_harness(tmp_path_factory: pytest.TempPathFactory) -> Harness:
    """A board with room for a copy of the output only."""
    return build(tmp_path_factory.mktemp("tight"), INPUT_BYTES - 1)


@pytest.fixture(scope="module")
def full_harness(tmp_path_factory: pytest.TempPathFactory) -> Harness:
    """A board with room for nothing."""
    return build(tmp_path_factory.mktemp("full"), OUTPUT_BYTES - 1)


@pytest.fixture(scope="module", params=[False, True], ids=["input", "rows"])
def streamed_harness(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Harness:
    """A model of which a layer runs row by row, perhaps on rows that arrive one by one; room for all that is kept."""
    write = partial(write_streamed_model, stream_input=request.param)
    return build(tmp_path_factory.mktemp("streamed"), INPUT_BYTES + 2 * 8, write)


def results_line(data: bytes) -> str:
    values = [((byte ^ 0x80) - 0x80 + 128) / 256 for byte in expected_output(data)]
    return "m-results-[" + ",".join(f"{value:.3f}" for value in values) + "]"


def test_names_and_time(harness: Harness) -> None:
    assert harness(b"name%") == ["m-name-dut-[tinynas]", "m-ready"]
    assert harness(b"profile%\r\n") == ["m-profile-[tinynas-1]", "m-model-[toy]", "m-ready"]
    assert harness(b"timestamp%timestamp%") == ["m-lap-us-3000", "m-ready", "m-lap-us-4500", "m-ready"]


def test_the_benchmarks_load_and_infer(harness: Harness) -> None:
    lines = harness(LOAD + b"infer 3 2%results%")
    assert lines[:5] == [f"m-[Expecting {INPUT_BYTES} bytes]", "m-ready", "m-ready", "m-ready", "m-load-done"]
    infer = lines[6:]
    assert infer[:3] == ["m-warmup-start-2", "m-warmup-done", "m-infer-start-3"]
    assert re.fullmatch(r"m-lap-us-\d+", infer[3])
    assert re.fullmatch(r"m-lap-us-\d+", infer[4])
    assert infer[5:] == ["m-infer-done", results_line(DATA), "m-ready", results_line(DATA), "m-ready"]


def test_print_shows_the_input_eight_bytes_a_line(harness: Harness) -> None:
    lines = harness(LOAD + b"infer%db print%")
    printed = [line.removeprefix("m-buffer-") for line in lines if line.startswith("m-buffer-")]
    assert [len(line.split("-")) for line in printed] == [8] * (INPUT_BYTES // 8)
    assert bytes.fromhex("".join(printed).replace("-", "")) == DATA


def test_our_own_commands(harness: Harness) -> None:
    lines = harness(RAW_LOAD + b"infer 2 0%output%ticks%layers%info%")
    output = expected_output(DATA)
    assert lines[1] == "m-load-done"
    assert f"m-output-[{output.hex()}]-{zlib.crc32(output):08x}" in lines
    assert "m-ticks-[2,3000]" in lines
    assert "m-layers-[1500,1500]" in lines
    assert "m-info-[id=0123456789abcdef,name=toy,arena=64,input=64,output=4,layers=2,ticks-per-second=1000000]" in lines


def test_ticks_of_a_streamed_layer_are_those_of_its_rows(streamed_harness: Harness) -> None:
    lines = streamed_harness(RAW_LOAD + b"layers%output%infer 2 1%layers%output%")
    output = expected_output(DATA)
    assert [line for line in lines if line.startswith("m-layers")] == ["m-layers-[6000,1500]"] * 2
    assert lines.count(f"m-output-[{output.hex()}]-{zlib.crc32(output):08x}") == 2
    assert results_line(DATA) in lines


def test_ticks_need_room_where_layers_are_streamed(tmp_path: Path) -> None:
    lines = build(tmp_path, INPUT_BYTES + 2 * 8 - 1, write_streamed_model)(RAW_LOAD + b"layers%infer 1 0%")
    assert lines[2:4] == ["m-ready", "e-[No memory to add up the layers' ticks]"]
    assert results_line(DATA) in lines


def test_a_streamed_input_needs_room_in_the_harness(tmp_path: Path) -> None:
    harness = build(tmp_path, INPUT_BYTES - 1, partial(write_streamed_model, stream_input=True))
    refused = "e-[No memory for a whole input, which this model takes row by row]"
    assert harness(b"db load 64%infer 1 0%") == [refused, "m-ready", "e-[No input: load one first]", "m-ready"]


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        (b"hello%", "Unknown command: hello"),
        (b"%", "Unknown command: "),
        (b"name now%", "This command takes no arguments"),
        (b"a b c d e%", "Too many words"),
        (b"na\x80me%", "Corrupt command"),
        (b"na\nme%", "Corrupt command"),
        (b"n\x02ame%", "Input overrun"),
        (b"db " + b"0" * 78 + b"%", "Command too long"),
        (b"infer 1 0%", "No input: load one first"),
        (b"results%", "No result: infer first"),
        (b"output%", "No result: infer first"),
        (b"db 00%", "No load is going on: start with db load N"),
        (b"db print%", "No input: load one first"),
        (b"db load 63%", "This model takes 64 bytes"),
        (b"db load 4294967360%", "This model takes 64 bytes"),
        (b"db load -1%", "This model takes 64 bytes"),
        (b"db%", "Use: db load N, db HH.., or db print"),
        (b"load 64 zzzzzzzz%", "Use: load N CRC32 in 8 hexadecimal digits"),
        (b"load 64 123456789%", "Use: load N CRC32 in 8 hexadecimal digits"),
    ],
)
def test_a_wrong_command_is_refused_and_the_next_one_works(harness: Harness, sent: bytes, error: str) -> None:
    assert harness(sent + b"name%") == [f"e-[{error}]", "m-ready", "m-name-dut-[tinynas]", "m-ready"]


@pytest.mark.parametrize("infer", [b"infer 0%", b"infer x%", b"infer 1 2 3%", b"infer 1 -1%"])
def test_infer_refuses_numbers_that_are_none(harness: Harness, infer: bytes) -> None:
    assert harness(LOAD + infer)[-2:] == ["e-[Use: infer N W with N of at least 1]", "m-ready"]


@pytest.mark.parametrize(
    ("piece", "error"),
    [
        (b"db 0%", "Wrong number of digits: load again"),
        (b"db 0g%", "Not a hexadecimal number: load again"),
        (b"db 00 00%", "Use: db load N, db HH.., or db print"),
        (b"db \x00\x00%", "Corrupt command"),
    ],
)
def test_a_corrupt_piece_spoils_the_whole_load(harness: Harness, piece: bytes, error: str) -> None:
    lines = harness(b"db load 64%" + piece + b"db " + b"00" * 31 + b"%infer 1 0%")
    assert lines[2:] == [
        f"e-[{error}]",
        "m-ready",
        "e-[No load is going on: start with db load N]",
        "m-ready",
        "e-[No input: load one first]",
        "m-ready",
    ]


def test_more_bytes_than_announced_spoil_the_load(harness: Harness) -> None:
    lines = harness(b"db load 64%" + (b"db " + b"00" * 31 + b"%") * 3 + b"infer 1 0%")
    assert lines[-4:] == [
        "e-[Wrong number of digits: load again]",
        "m-ready",
        "e-[No input: load one first]",
        "m-ready",
    ]


def test_raw_bytes_that_were_changed_or_lost_are_refused(harness: Harness) -> None:
    changed = RAW_LOAD[:-1] + bytes([RAW_LOAD[-1] ^ 1])
    assert harness(changed)[1:] == ["e-[CRC mismatch: load again]", "m-ready"]
    assert harness(RAW_LOAD[:-1])[1:] == ["e-[Bytes are missing: load again]", "m-ready"]


def test_without_room_for_the_input_it_serves_one_inference(tight_harness: Harness) -> None:
    lines = tight_harness(LOAD + b"infer 1 0%infer 1 0%results%")
    assert results_line(DATA) == lines[-2]
    assert lines[-4:-2] == ["e-[Input consumed: load it again]", "m-ready"]


def test_without_room_for_the_input_the_first_result_is_kept(tight_harness: Harness) -> None:
    lines = tight_harness(LOAD + b"infer 5 3%output%")
    output = expected_output(DATA)
    assert results_line(DATA) in lines
    assert f"m-output-[{output.hex()}]-{zlib.crc32(output):08x}" in lines


def test_without_any_room_only_one_run_is_allowed(full_harness: Harness) -> None:
    lines = full_harness(LOAD + b"infer 2 0%infer 1 0%")
    assert "e-[No memory to keep the first result: use infer 1 0]" in lines
    assert lines[-2:] == [results_line(DATA), "m-ready"]


def test_a_new_load_in_the_arena_takes_the_result_with_it(tight_harness: Harness) -> None:
    assert tight_harness(LOAD + b"infer 1 0%db load 64%results%")[-2:] == ["e-[No result: infer first]", "m-ready"]


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=90),
            st.sampled_from(
                [b"db load 64%", b"db 00ff%", b"infer 2 1%", b"results%", b"load 64 00000000%", b"layers%"]
            ),
        ),
        max_size=12,
    )
)
def test_anything_is_answered_and_nothing_breaks(tight_harness: Harness, pieces: list[bytes]) -> None:
    lines = tight_harness(b"".join(pieces))
    assert all(re.match(r"m-|e-\[", line) for line in lines)
    assert not lines or lines[-1] == "m-ready" or lines[-1].startswith("m-[Expecting")
