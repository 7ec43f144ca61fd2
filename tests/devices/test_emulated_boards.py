"""Every emulated machine is built for the memories it has, boots, computes what LiteRT computes, and counts cycles."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from devices.cycle_costs import CycleCosts, cycle_costs, modelled_cores
from devices.emulator import EmulatedBoard
from devices.errors import DeviceError
from devices.firmware import build_firmware
from devices.profile import DeviceProfile, load_profile
from scripts.measure_reserved import emulated_profiles, reserved_bytes, with_reserved
from tests.devices.toy_models import INPUT_BYTES, expected_output, write_model
from tests.export.graph_builder import GraphBuilder
from tests.oracles.tflite_writer import write_tflite
from tinynas.measuring import build_image, compare_with_reference, random_inputs

ROOT = Path(__file__).resolve().parents[2]
PROFILES = {profile.name: profile for profile in emulated_profiles()}
FLASH_SLACK_BYTES = 256


@pytest.fixture(params=sorted(PROFILES))
def profile(request: pytest.FixtureRequest, emulator: None) -> DeviceProfile:
    return PROFILES[request.param]


@pytest.fixture
def board(profile: DeviceProfile) -> Iterator[EmulatedBoard]:
    with EmulatedBoard(profile) as running:
        yield running


def test_every_core_family_is_emulated() -> None:
    cores = {profile.core for profile in PROFILES.values()}
    assert cores == {"cortex-m0", "cortex-m3", "cortex-m4", "cortex-m7", "cortex-m33", "cortex-m55"}
    assert cores == set(modelled_cores())


def test_it_boots_and_computes(board: EmulatedBoard, profile: DeviceProfile, tmp_path: Path) -> None:
    image = build_firmware(write_model(tmp_path / "model"), profile, tmp_path / "out")
    board.flash(image)
    assert board._session is not None
    info = board._session.info()
    assert (info.model_id, info.input_bytes, info.layers) == (image.model_id, INPUT_BYTES, 2)
    assert info.ticks_per_second == profile.clock_hz
    generator = random.Random(3)
    inputs = [generator.randbytes(INPUT_BYTES) for _ in range(5)]
    assert board.outputs(inputs) == [expected_output(data) for data in inputs]
    assert board.measure(inputs[:1], 2) == board.measure(inputs[:1], 2)


def test_its_memories_are_the_profiles(profile: DeviceProfile, tmp_path: Path) -> None:
    """The limits that the search filters on are the memories that the firmware is linked into."""
    image = build_firmware(write_model(tmp_path / "model"), profile, tmp_path / "out")
    regions = dict(re.findall(r"^(FLASH|SRAM)\s+0x[0-9a-f]+\s+(0x[0-9a-f]+) ", image.map.read_text(), re.MULTILINE))
    assert {name: int(size, 16) for name, size in regions.items()} == {
        "FLASH": profile.flash_bytes,
        "SRAM": profile.sram_bytes,
    }
    assert image.bin.stat().st_size <= image.flash_bytes + 16  # no gap between far memories was filled


def test_its_profile_reserves_what_is_taken(profile: DeviceProfile, tmp_path: Path) -> None:
    sram_bytes, flash_bytes = reserved_bytes(profile, tmp_path)
    hint = "run python -m scripts.measure_reserved --write"
    assert profile.reserved.sram_bytes == sram_bytes, hint
    assert abs(profile.reserved.flash_bytes - flash_bytes) <= FLASH_SLACK_BYTES, hint


def test_a_network_is_bit_exact(board: EmulatedBoard, profile: DeviceProfile, tmp_path: Path) -> None:
    """Odd sizes and channel counts: where a core without unaligned loads, or a vector's tail, would go wrong."""
    builder = GraphBuilder((1, 11, 9, 3), seed=5)
    first = builder.conv(builder.input, 7, (3, 3), (2, 2))
    second = builder.depthwise(first)
    third = builder.conv(second, 7)
    pooled = builder.mean(builder.add(first, third))
    graph = builder.finish(builder.softmax(builder.fully_connected(pooled, 5)))
    board.flash(build_image(graph, profile, tmp_path))
    inputs = random_inputs(graph, 8, seed=1)
    compared = compare_with_reference(write_tflite(graph), inputs, board.outputs(inputs))
    assert (compared.identical, compared.max_abs_diff) == (8, 0)


def test_a_fault_restarts_it(board: EmulatedBoard, profile: DeviceProfile, tmp_path: Path) -> None:
    layer = '__asm volatile("udf #0");'
    board.flash(build_firmware(write_model(tmp_path / "model", [layer]), profile, tmp_path / "out"))
    with pytest.raises(DeviceError, match="stops with a fault again and again, now at 'infer 1 0'"):
        board.outputs([bytes(INPUT_BYTES)])
    assert board._session is not None
    board._session.sync()
    assert board._session.info().layers == 1


@pytest.mark.parametrize("device", ["nrf51822", "mps2-an505"])
def test_its_clock_goes_on_across_wraps(device: str, emulator: None, tmp_path: Path) -> None:
    """The counter behind it wraps after 2^24 ticks, which take 0.8 to 1.05 s here; the board sleeps meanwhile."""
    with EmulatedBoard(load_profile(device)) as board:
        board.flash(build_firmware(write_model(tmp_path / "model"), load_profile(device), tmp_path / "out"))
        now_us = timestamp_us(board)
        for _ in range(300):
            before_us, now_us = now_us, timestamp_us(board)
            assert now_us > before_us
            if now_us > 2_200_000:
                break
            time.sleep(0.2)
        else:
            pytest.fail(f"the clock stands at {now_us} µs after a minute")


def timestamp_us(board: EmulatedBoard) -> int:
    assert board._session is not None
    (line,) = board._session.command("timestamp")
    return int(line.removeprefix("m-lap-us-"))


# Per board: assembly, its instructions, and its cycles by hand.
BY_HAND = {
    "nrf51822": [
        # A taken branch takes 3 cycles, one that is not taken 1.
        ("movs r0, #3; 1: subs r0, #1; bne 1b; bx lr", 8, 1 + 3 + 3 + 3 + 1 + 3),
        # Loads and stores take 2 each, however many there are.
        ("sub sp, #8; str r0, [sp]; ldr r1, [sp]; ldr r2, [sp]; add sp, #8; bx lr", 6, 1 + 2 + 2 + 2 + 1 + 3),
        # PUSH 1 + N, BL 4, POP with the PC 4 + N.
        ("push {r4, lr}; bl 1f; pop {r4, pc}; 1: muls r0, r0; bx lr", 5, 3 + 4 + 1 + 3 + 6),
    ],
    "mps2-an385": [
        (
            "mla r0, r1, r2, r3; mls r0, r1, r2, r3; mul r0, r1, r2; smull r0, r1, r2, r3; umlal r0, r1, r2, r3; bx lr",
            6,
            2 + 2 + 1 + 4 + 5 + 3,
        ),
        ("ldr r1, [sp]; ldr r2, [sp]; str r1, [sp, #-4]; bx lr", 4, 2 + 1 + 1 + 3),
    ],
    "mps2-an500": [(".rept 10; nop; .endr; bx lr", 11, round(11 * 0.7 + 1))],
    "mps2-an505": [("ldr r1, [sp]; adds r1, #1; ldr r2, [sp]; bx lr", 4, 3 + 2)],
    "mps3-an547": [
        # A vector instruction waits a cycle for one of its own kind.
        (
            "vldrw.32 q0, [sp]; vldrw.32 q1, [sp]; vmul.i8 q2, q0, q1; vadd.i8 q2, q2, q0; vldrw.32 q3, [sp]; "
            "vmladav.s8 r0, q0, q1; bx lr",
            7,
            1 + 2 + 1 + 2 + 1 + 1 + 2,
        ),
        ("push {r4, lr}; movs r0, #5; dls lr, r0; 1: nop; le lr, 1b; pop {r4, pc}", 14, 2 + 1 + 1 + 5 + 0 + 3),
    ],
}


@pytest.mark.parametrize("device", sorted(BY_HAND))
def test_cycles_agree_with_counts_by_hand(device: str, emulator: None, tmp_path: Path) -> None:
    layers = [f'__asm volatile(".syntax unified; {code}");' for code, _, _ in BY_HAND[device]]
    model = write_model(tmp_path / "model", layers, attributes="naked, noinline")
    with EmulatedBoard(load_profile(device)) as board:
        board.flash(build_firmware(model, load_profile(device), tmp_path / "out"))
        assert board._session is not None
        board._session.load(bytes(INPUT_BYTES))
        board._session.infer(1)
        (count,) = board._read_counts()
    found = list(zip(count.layer_instructions, count.layer_cycles, strict=True))
    assert found == [(instructions, cycles) for _, instructions, cycles in BY_HAND[device]]


def test_an_inference_ends_where_tn_model_invoke_does(emulator: None, tmp_path: Path) -> None:
    """Not where it calls something that is no layer, as a Cortex-M0's does to clear the row counters."""
    folder = write_model(tmp_path / "model")
    source = (folder / "model.c").read_text()
    helper = 'static __attribute__((noinline)) void helper(void) { __asm volatile("nop; nop; nop"); }\n'
    changed = source.replace("void tn_model_invoke(void) {", helper + "void tn_model_invoke(void) {\n  helper();", 1)
    with EmulatedBoard(PROFILES["nrf51822"]) as board:
        counts = []
        for text in (source, changed):
            (folder / "model.c").write_text(text)
            board.flash(build_firmware(folder, PROFILES["nrf51822"], tmp_path / "out"))
            counts.append(board.measure([bytes(INPUT_BYTES)], 1))
    assert counts[1].layer_cycles == counts[0].layer_cycles
    # BL, three NOP, BX.
    assert counts[1].instructions == counts[0].instructions + 5
    assert counts[1].cycles == counts[0].cycles + 4 + 3 + 3


def test_the_documentation_states_every_cost() -> None:
    text = (ROOT / "docs" / "cycles.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    header = next(row for row in rows if row[0] == "cost")
    table = {row[0].strip("`"): row[2:] for row in rows if row[0].startswith("`") and len(row) == len(header)}
    assert [f"cortex-m{number}" for number in (0, 3, 4, 7, 33, 55)] == list(modelled_cores())
    assert header[2:] == ["M0", "M3", "M4", "M7", "M33", "M55"]
    assert set(table) == set(CycleCosts.model_fields) - {"source"}
    for name, cells in table.items():
        assert [float(cell) for cell in cells] == [cycle_costs(core).by_name()[name] for core in modelled_cores()], name


def test_a_core_without_a_table_is_refused() -> None:
    with pytest.raises(DeviceError, match=r"no cycle model for the core xtensa-lx7; .*cortex-m4"):
        cycle_costs("xtensa-lx7")


def test_a_profile_takes_new_figures_and_keeps_the_rest() -> None:
    text = (ROOT / "devices" / "profiles" / "stm32f405.toml").read_text(encoding="utf-8")
    changed = with_reserved(text, 1234, 56789)
    assert "\nsram_bytes = 1_234 # 4 KiB of stack" in changed
    assert "\nflash_bytes = 56_789\n" in changed
    reserved = load_profile("stm32f405").reserved
    assert with_reserved(changed, reserved.sram_bytes, reserved.flash_bytes) == text
