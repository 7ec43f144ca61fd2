"""The harness's protocol, compiled for the host with sanitizers: every command, and whatever else may come."""

from __future__ import annotations

import re
import subprocess
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.devices.toy_models import (
    INPUT_BYTES,
    OUTPUT_BYTES,
    compile_harness,
    expected_output,
    write_model,
    write_streamed_model,
)

DATA = bytes(range(100, 100 + INPUT_BYTES))
LOAD = f"db load {INPUT_BYTES}%".encode() + b"".join(
    b"db " + DATA[i : i + 31].hex().encode() + b"%" for i in range(0, INPUT_BYTES, 31)
)


def check(command: str, sequence: int = 1) -> bytes:
    """A command in a check."""
    return f"check {sequence} {zlib.crc32(f'{sequence} {command}'.encode()):08x} {command}%".encode()


def load_piece(data: bytes, offset: int = 0, total: int = INPUT_BYTES) -> bytes:
    """A piece of an input, with its checked command."""
    return check(f"load {total} {offset} {len(data)} {zlib.crc32(data):08x}") + data


RAW_LOAD = load_piece(DATA)
BANNER = ["m-timestamp-mode-performance", "m-lap-us-1500", "m-init-done", "m-ready"]

Harness = Callable[[bytes], list[str]]


def build(folder: Path, free_bytes: int, write: Callable[[Path], Path] = write_model) -> Harness:
    sanitizers = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    program = compile_harness(write(folder / "model"), "host_platform.c", free_bytes, *sanitizers)

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
    assert lines[:3] == ["m-[Expecting 64 bytes]", "m-loaded-[64]", "m-load-done"]
    assert f"m-output-[{output.hex()}]-{zlib.crc32(output):08x}" in lines
    assert "m-ticks-[2,3000,0]" in lines
    assert lines[lines.index("m-layers-[1500,1500]") + 1] == "m-disturbed-[0]"
    info = "id=0123456789abcdef,name=toy,arena=64,input=64,output=4,layers=2,ticks-per-second=1000000,baud=115200"
    assert f"m-info-[{info}]" in lines


def test_memory_tells_what_is_used_of_the_stack(harness: Harness) -> None:
    assert harness(b"memory%")[0] == f"m-memory-[arena=64,static=100,stack=4096,stack-used=600,free={INPUT_BYTES}]"


def test_ticks_of_a_streamed_layer_are_those_of_its_rows(streamed_harness: Harness) -> None:
    lines = streamed_harness(RAW_LOAD + b"layers%output%infer 2 1%layers%output%")
    output = expected_output(DATA)
    assert [line for line in lines if line.startswith("m-layers")] == ["m-layers-[6000,1500]"] * 2
    assert lines.count(f"m-output-[{output.hex()}]-{zlib.crc32(output):08x}") == 2
    assert results_line(DATA) in lines


def test_ticks_need_room_where_layers_are_streamed(tmp_path: Path) -> None:
    lines = build(tmp_path, INPUT_BYTES + 2 * 8 - 1, write_streamed_model)(RAW_LOAD + b"layers%infer 1 0%")
    assert lines[4:6] == ["m-ready", "e-[No memory to add up the layers' ticks]"]
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
        (b"a b c d e f%", "Too many words"),
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
        (b"load 64 0 64 12345678%", "Only inside of a check"),
        (b"check%", "Unknown command: check"),
        (b"baud%", "Use: baud N"),
        (b"baud 1 2%", "Use: baud N"),
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
    assert harness(changed)[1] == "e-[CRC mismatch: load again]"
    assert harness(RAW_LOAD[:-1])[1] == "e-[Bytes are missing: load again]"


def inner_lines(reply: list[str], sequence: int = 1) -> list[str]:
    """The lines inside of a checked reply, if it is right."""
    assert reply[-1] == "m-ready"
    text = f"{sequence} " + "".join(f"{line}\r\n" for line in reply[:-2])
    assert reply[-2] == f"m-check-[{sequence},{zlib.crc32(text.encode()):08x}]"
    return reply[:-2]


@pytest.mark.parametrize("command", ["name", "profile", "info", "memory", "ticks", "nonsense", "db load 64"])
def test_a_checked_reply_is_the_plain_one_and_its_check(harness: Harness, command: str) -> None:
    assert inner_lines(harness(check(command, 987654321)), 987654321) == harness(f"{command}%".encode())[:-1]


def test_checks_do_not_nest(harness: Harness) -> None:
    assert inner_lines(harness(check(check("name")[:-1].decode()))) == ["e-[Unknown command: check]"]


@pytest.mark.parametrize(
    "sent",
    [
        check("name").replace(b"name", b"nane"),
        check("name").replace(b"check 1", b"check 2"),
        check("name").replace(b"check 1", b"check 01"),
        check("name", 1234567890),
        check("name").replace(b" name", b"name"),
        check("name").replace(b" name", b"  name"),
        b"check 1 12345678 %",
        b"check 1 %",
        b"check  %",
    ],
)
def test_a_check_that_is_not_right_does_nothing(harness: Harness, sent: bytes) -> None:
    assert harness(sent + check("name"))[:2] == ["e-[Check failed: send it again]", "m-ready"]
    assert harness(sent + check("name"))[2] == "m-name-dut-[tinynas]"


@pytest.mark.parametrize("command", ["load 64", "load 64 0 64", "load 64 0 64 123456789", "load x 0 64 12345678"])
def test_a_load_that_is_incomplete_is_refused(harness: Harness, command: str) -> None:
    said = "e-[Use: load N OFFSET COUNT CRC32 in 8 hexadecimal digits]"
    assert inner_lines(harness(check(command))) == [said]


def pieces_of(data: bytes, count: int) -> list[bytes]:
    return [load_piece(data[i : i + count], i) for i in range(0, len(data), count)]


def test_an_input_comes_in_pieces(harness: Harness) -> None:
    first, *_, last = pieces_of(DATA, 20)
    lines = harness(b"".join(pieces_of(DATA, 20)) + check("infer 1 0") + check("output"))
    loaded = [line for line in lines if line.startswith("m-load")]
    assert loaded == ["m-loaded-[20]", "m-loaded-[40]", "m-loaded-[60]", "m-loaded-[64]", "m-load-done"]
    output = expected_output(DATA)
    assert f"m-output-[{output.hex()}]-{zlib.crc32(output):08x}" in lines
    # A gap, another size, more than there is, none: refused, and no data is taken.
    missing = "e-[A piece is missing before this one: load from the start]"
    assert inner_lines(harness(last)[:3]) == [missing]
    assert missing in harness(first + check("load 63 20 20 00000000"))
    assert "e-[This model takes 64 bytes]" in harness(check("load 63 0 20 00000000"))
    for command in ("load 64 20 45 00000000", "load 64 20 0 00000000"):
        assert "e-[Too many bytes for this input]" in harness(first + check(command))


def test_a_piece_may_come_twice(harness: Harness) -> None:
    pieces = pieces_of(DATA, 16)
    lines = harness(b"".join([pieces[0], pieces[0], *pieces[1:3], pieces[2], pieces[3], pieces[3]]) + b"db print%")
    loaded = [int(line[len("m-loaded-[") : -1]) for line in lines if line.startswith("m-loaded")]
    assert loaded == [16, 16, 32, 48, 48, 64, 64]
    assert print_of(DATA) == [line for line in lines if line.startswith("m-buffer")]


def test_a_piece_that_fails_leaves_those_before_it(harness: Harness) -> None:
    pieces = pieces_of(DATA, 16)
    spoilt = pieces[1][:-1] + b"?"
    lines = harness(b"".join([pieces[0], spoilt]))
    assert lines[-3] == "e-[CRC mismatch: load again]"
    # The harness swallowed everything that came at once with the spoilt piece, so a pause is needed: see the emulator.
    assert harness(pieces[0] + b"corrupt\x80 line%" + b"".join(pieces[1:]))[-4:-2] == ["m-loaded-[64]", "m-load-done"]


def test_a_consumed_input_cannot_be_continued(tight_harness: Harness) -> None:
    pieces = pieces_of(DATA, 32)
    lines = tight_harness(b"".join(pieces) + b"infer 1 0%" + pieces[1])
    assert "e-[A piece is missing before this one: load from the start]" in lines


def test_plain_and_checked_loads_do_not_mix(harness: Harness) -> None:
    pieces = pieces_of(DATA, 32)
    lines = harness(b"db load 64%db " + DATA[:31].hex().encode() + b"%" + check("load 64 31 33 00000000"))
    assert "e-[A piece is missing before this one: load from the start]" in lines
    assert "e-[No load is going on: start with db load N]" in harness(pieces[0] + b"db 00%")


def print_of(data: bytes) -> list[str]:
    return ["m-buffer-" + data[i : i + 8].hex("-") for i in range(0, len(data), 8)]


def test_floats_are_quantized_like_the_reference(harness: Harness) -> None:
    rng = np.random.default_rng(0)
    near = rng.integers(-140, 140, INPUT_BYTES - 8) * 0.5 + rng.choice(
        [-0.25, 0.25, 0.0, 0.2499, 0.01], INPUT_BYTES - 8
    )
    values = np.array([*near, 0.25, -0.25, 0.24999999, 1e30, -1e30, np.inf, -np.inf, -0.0], np.float32)
    sent = values.tobytes()
    lines = harness(
        f"db load {len(sent)}%".encode()
        + b"".join(b"db " + sent[i : i + 31].hex().encode() + b"%" for i in range(0, len(sent), 31))
        + b"db print%"
    )
    scaled = np.clip(values / np.float32(0.5), -1e6, 1e6)
    rounded = np.trunc(scaled) + np.sign(scaled) * (np.abs(scaled - np.trunc(scaled)) >= 0.5)
    expected = np.clip(rounded - 3, -128, 127).astype(np.int8)
    assert lines[0] == "m-[Expecting 256 bytes]"
    assert "m-load-done" in lines
    assert [line for line in lines if line.startswith("m-buffer")] == print_of(expected.tobytes())


def test_an_input_of_floats_goes_on_in_pieces_of_bytes(harness: Harness) -> None:
    floats = b"db load 256%" + (b"db " + b"00" * 16 + b"%") * 16
    beyond = harness(floats + check("load 256 69 1 00000000"))
    assert "e-[A piece is missing before this one: load from the start]" in beyond
    assert "m-loaded-[64]" in harness(floats + load_piece(DATA[60:], 60))
    assert "e-[A piece is missing before this one: load from the start]" in harness(floats + load_piece(b"", 65))


def test_a_float_that_is_no_number_spoils_the_load(harness: Harness) -> None:
    assert harness(b"db load 256%db 0000c07f%db 00%")[2] == "e-[Not a number: load again]"


def test_the_rate_changes_after_the_reply_and_goes_back_in_silence(harness: Harness) -> None:
    assert harness(b"baud 9601%name%") == ["m-baud-[0]", "m-ready", "m-name-dut-[tinynas]", "m-ready"]
    switched = ["m-baud-[231884]", "m-ready", "(231884 baud)"]
    # The end of the input is silence.
    unproven = harness(b"baud 230400%profile%junk")
    assert unproven[:3] == switched
    assert unproven[-2:] == ["m-ready", "(115200 baud)"]
    assert harness(b"baud 230400%name%") == [*switched, "m-name-dut-[tinynas]", "m-ready"]
    assert harness(b"baud 230400%" + check("timestamp"))[:3] == switched
    assert harness(b"baud 230400%" + check("timestamp"))[-1] == "m-ready"


def test_noise_puts_a_proven_rate_back(harness: Harness) -> None:
    proven = b"baud 230400%name%"
    assert "(115200 baud)" not in harness(proven + b"\x80" * 31 + b"%name%" + b"\x80" * 31)
    assert harness(proven + b"\x80" * 32 + b"name%")[-3:] == ["(115200 baud)", "m-name-dut-[tinynas]", "m-ready"]
    assert "(115200 baud)" not in harness(b"\x80" * 100 + b"%")


def test_restart_answers_first(harness: Harness) -> None:
    assert harness(b"restart%name%") == ["m-ready"]


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
                [b"db load 64%", b"db 00ff%", b"infer 2 1%", b"results%", check("load 64 0 9 00000000"), b"layers%"]
            ),
        ),
        max_size=12,
    )
)
def test_anything_is_answered_and_nothing_breaks(tight_harness: Harness, pieces: list[bytes]) -> None:
    lines = tight_harness(b"".join(pieces))
    assert all(re.match(r"m-|e-\[", line) for line in lines)
    assert not lines or lines[-1] == "m-ready" or lines[-1].startswith("m-[Expecting")
