"""The emulated board: the very image behind a pseudo-terminal, and its cycle counter against counts made by hand."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest
import serial

from devices.emulator import EmulatedBoard
from devices.errors import DeviceError
from devices.firmware import FirmwareImage, build_firmware
from devices.profile import load_profile
from devices.serial_line.ports import Port, open_port
from devices.serial_line.protocol import BoardReplyError, SerialSession
from tests.devices.test_harness import check
from tests.devices.toy_models import INPUT_BYTES, expected_output, write_model

F405 = load_profile("stm32f405")
DATA = bytes(range(17, 17 + INPUT_BYTES))


def some_inputs(count: int) -> list[bytes]:
    generator = random.Random(7)
    return [generator.randbytes(INPUT_BYTES) for _ in range(count)]


def session_of(board: EmulatedBoard) -> SerialSession:
    assert board._session is not None
    return board._session


def port_of(board: EmulatedBoard) -> Port:
    assert board._port is not None
    return board._port


def test_outputs_are_the_models(toy_board: EmulatedBoard) -> None:
    inputs = some_inputs(10)
    assert toy_board.outputs(inputs) == [expected_output(data) for data in inputs]


def test_the_benchmark_runners_conversation(emulator: None, toy_image: FirmwareImage) -> None:
    """What MLPerf Tiny's runner sends, from a tool that knows nothing of us but the port."""
    with EmulatedBoard(F405) as board:
        port = serial.Serial(board.serve(toy_image), 115_200, timeout=20)

        def say(command: str) -> list[str]:
            port.write(command.encode())
            lines = []
            while not lines or lines[-1] != "m-ready":
                line = port.readline()
                assert line.endswith(b"\r\n"), (command, lines, line)
                lines.append(line.decode().strip())
            return lines

        assert say("name%") == ["m-name-dut-[tinynas]", "m-ready"]
        assert say("profile%")[1] == "m-model-[toy]"
        assert int(say("timestamp%")[0].removeprefix("m-lap-us-")) < int(say("timestamp%")[0].removeprefix("m-lap-us-"))
        assert say(f"db load {INPUT_BYTES}%") == [f"m-[Expecting {INPUT_BYTES} bytes]", "m-ready"]
        replies = [say(f"db {DATA[i : i + 31].hex()}%") for i in range(0, INPUT_BYTES, 31)]
        assert replies == [["m-ready"], ["m-ready"], ["m-load-done", "m-ready"]]
        infer = say("infer 10 1%")
        laps = [int(line.removeprefix("m-lap-us-")) for line in infer if line.startswith("m-lap-us-")]
        assert laps[0] < laps[1]
        values = [(value - 256 * (value > 127) + 128) / 256 for value in expected_output(DATA)]
        assert infer[-2] == "m-results-[" + ",".join(f"{value:.3f}" for value in values) + "]"
        assert say("results%")[0] == infer[-2]
        port.close()


def answer_to(board: EmulatedBoard, sent: bytes) -> bytes:
    """What the board says to bytes that are no checked command."""
    port_of(board).write(sent)
    answer = b""
    while not answer.endswith(b"m-ready\r\n"):
        answer += port_of(board).read()
    return answer


def test_noise_on_the_line_is_answered_with_an_error(toy_board: EmulatedBoard) -> None:
    session = session_of(toy_board)
    with pytest.raises(BoardReplyError, match="Unknown command: nonsense"):
        session.command("nonsense")
    assert b"too long" in answer_to(toy_board, b"db " + b"00" * 200 + b"%")
    port_of(toy_board).write(bytes(range(1, 32)))
    assert b"Corrupt command" in answer_to(toy_board, b"infer 1 0%")
    assert session.run(DATA) == expected_output(DATA)


def test_a_load_that_loses_bytes_or_changes_them_is_refused(toy_board: EmulatedBoard) -> None:
    def load(crc: int) -> bytes:
        return check(f"load {INPUT_BYTES} 0 {INPUT_BYTES} {crc:08x}")

    session = session_of(toy_board)
    assert b"CRC mismatch" in answer_to(toy_board, load(zlib.crc32(DATA) ^ 1) + DATA)
    assert b"Bytes are missing" in answer_to(toy_board, load(zlib.crc32(DATA)) + DATA[:-1])
    with pytest.raises(BoardReplyError, match="No input"):
        session.infer(1)
    assert session.run(DATA) == expected_output(DATA)


def test_a_half_sent_command_does_not_survive_sync(toy_board: EmulatedBoard) -> None:
    port_of(toy_board).write(b"db loa")
    session_of(toy_board).sync()
    assert session_of(toy_board).run(DATA) == expected_output(DATA)


def test_measure_is_the_same_every_time(toy_board: EmulatedBoard) -> None:
    first = toy_board.measure(some_inputs(2), runs=3)
    time.sleep(0.3)  # another phase of the board's timer
    second = toy_board.measure(some_inputs(2), runs=3)
    assert first == second
    assert first.runs == 6
    assert first.latency_ms == load_profile(first.device).latency_ms(first.cycles)
    assert sum(first.layer_cycles) < first.cycles < sum(first.layer_cycles) + 60


def test_a_second_image_starts_afresh(emulator: None, tmp_path: Path) -> None:
    one = build_firmware(write_model(tmp_path / "a"), F405, tmp_path / "one")
    two = build_firmware(write_model(tmp_path / "b", ["tn_arena[0] = 5;"]), F405, tmp_path / "two")
    with EmulatedBoard(F405) as board:
        board.flash(one)
        assert len(board.measure([DATA], 1).layer_cycles) == 2
        board.flash(two)
        assert len(board.measure([DATA], 1).layer_cycles) == 1
        assert board.outputs([DATA]) == [bytes([5]) + DATA[1:4]]


# Layers in assembly, each with its instructions and its cycles by hand: one per instruction, and what comes on top.
BY_HAND = {
    # 1 + 100 * (subs, bne) + bx; 99 taken branches and the return.
    "loop": ("movs r0, #100; 1: subs r0, #1; bne 1b; bx lr", 202, 202 + 2 * 100),
    # Two runs of loads.
    "loads": (
        "mov r0, sp; ldr r1, [r0]; ldrb r2, [r0, #4]; ldrsh r3, [r0, #8]; adds r1, r2; ldr.w r2, [r0]; bx lr",
        7,
        7 + 2 + 2,
    ),
    "stores": ("sub sp, #8; str r0, [sp]; strh.w r0, [sp, #4]; add sp, #8; bx lr", 5, 5 + 2),
    # A run longer than any translation block, across pages, counts once.
    "long run": (".rept 1500; ldr r1, [sp]; .endr; bx lr", 1501, 1501 + 1 + 2),
    "long run of wide loads": (".rept 1500; ldr.w r1, [sp]; .endr; bx lr", 1501, 1501 + 1 + 2),
    "push and pop": ("push {r4, r5, lr}; pop {r4, r5, pc}", 2, 2 + 3 + 3 + 2),
    "multiple": (
        "push {r4-r11}; mov r0, sp; ldm r0, {r1-r3}; stm r0!, {r1, r2}; pop {r4-r11}; bx lr",
        6,
        6 + 8 + 3 + 2 + 8 + 2,
    ),
    "pairs": (
        "sub sp, #8; ldrd r0, r1, [sp]; strd r0, r1, [sp]; vldr s0, [sp]; vstr s0, [sp]; add sp, #8; bx lr",
        7,
        7 + 4 + 2,
    ),
    "float multiple": ("vpush {s0-s3}; vpop {s0-s3}; bx lr", 3, 3 + 4 + 4 + 2),
    "divide": (
        "movs r0, #9; movs r1, #2; udiv r2, r0, r1; sdiv r2, r0, r1; smull r2, r3, r0, r1; bx lr",
        6,
        6 + 10 + 2,
    ),
    "float divide": (
        "vmov.f32 s0, #1.0; vdiv.f32 s0, s0, s0; vsqrt.f32 s0, s0; vmul.f32 s0, s0, s0; bx lr",
        5,
        5 + 26 + 2,
    ),
    # IT is folded; what it skips still takes its cycle.
    "if-then": ("cmp r0, r0; ite eq; moveq r1, #1; movne r1, #2; bx lr", 5, 5 - 1 + 2),
    # A call and a return inside the layer; a branch that is not taken.
    "call": ("push {r4, lr}; bl 1f; cmp sp, #0; beq 1f; pop {r4, pc}; 1: bx lr", 6, 6 + 2 + 2 + 2 + 2 + 2),
    "table": ("movs r0, #0; tbb [pc, r0]; .byte 1, 1; bx lr", 3, 3 + 1 + 2 + 2),
    "simd": (
        "smlad r0, r1, r2, r3; sxtb16 r0, r1, ror #8; pkhbt r0, r1, r2; ssat r0, #8, r1; nop; bx lr",
        6,
        6 + 2,
    ),
}


def test_the_cycle_counter_agrees_with_counts_by_hand(emulator: None, tmp_path: Path) -> None:
    layers = [f'__asm volatile("{code}");' for code, _, _ in BY_HAND.values()]
    model = write_model(tmp_path / "model", layers, attributes="naked, noinline")
    with EmulatedBoard(F405) as board:
        board.flash(build_firmware(model, F405, tmp_path / "out"))
        session_of(board).load(DATA)
        session_of(board).infer(1)
        (count,) = board._read_counts()
    found = dict(zip(BY_HAND, zip(count.layer_instructions, count.layer_cycles, strict=True), strict=True))
    assert found == {name: (instructions, cycles) for name, (_, instructions, cycles) in BY_HAND.items()}


def test_the_cycles_of_one_layer_do_not_leak_into_the_next(emulator: None, tmp_path: Path) -> None:
    """Twenty equal layers count equal cycles, across at least one wrap of the board's timer."""
    spin = 'for (int i = 0; i < 400000; ++i) __asm volatile("");'
    model = write_model(tmp_path / "model", [spin] * 20)
    with EmulatedBoard(F405) as board:
        board.flash(build_firmware(model, F405, tmp_path / "out"))
        measured = board.measure([DATA] * 2, 20)
        lap_us = session_of(board).infer(20)
    assert len(set(measured.layer_cycles)) == 1
    # The board's own clock shows what the cycle model says.
    assert (lap_us.end_us - lap_us.start_us) / 1e3 / 20 == pytest.approx(measured.latency_ms, rel=1e-4)


def test_an_input_with_no_room_for_a_copy_serves_one_inference(emulator: None, tmp_path: Path) -> None:
    image = build_firmware(
        write_model(tmp_path / "model", arena_bytes=126_500, input_bytes=1_000), F405, tmp_path / "out"
    )
    with EmulatedBoard(F405) as board:
        board.flash(image)
        session = session_of(board)
        data = DATA + bytes(1_000 - INPUT_BYTES)
        assert session.run(data) == expected_output(DATA)
        with pytest.raises(BoardReplyError, match="Input consumed: load it again"):
            session.infer(1)
        session.load(data)
        session.infer(3)
        assert session.output() == expected_output(DATA)


@pytest.mark.parametrize(
    "layer",
    [
        pytest.param("*(volatile int *)0x10000001 = tn_arena[0];", id="bad address"),
        pytest.param(
            'int eaten[2000]; for (int i = 1999; i >= 0; --i) __asm volatile("str %0, [%1]" ::"r"(i), "r"(eaten + i));',
            id="stack overflow",
        ),
    ],
)
def test_a_fault_is_an_error_not_a_result(emulator: None, tmp_path: Path, layer: str) -> None:
    image = build_firmware(write_model(tmp_path / "model", [layer]), F405, tmp_path / "out")
    with EmulatedBoard(F405) as board:
        board.flash(image)
        with pytest.raises(DeviceError, match="stops with a fault again and again, now at 'infer 1 0'"):
            board.outputs([DATA])


def test_an_emulator_that_dies_is_an_error(emulator: None, toy_image: FirmwareImage) -> None:
    with EmulatedBoard(F405) as board:
        board.flash(toy_image)
        assert board._process is not None
        board._process.kill()
        with pytest.raises(DeviceError, match="has gone"):
            board.outputs([DATA])


def test_an_image_for_another_device_is_refused(emulator: None, toy_image: FirmwareImage) -> None:
    with EmulatedBoard(load_profile("mps2-an386")) as board, pytest.raises(DeviceError, match="built for stm32f405"):
        board.flash(toy_image)


def test_a_board_that_runs_nothing_says_so(emulator: None) -> None:
    with EmulatedBoard(F405) as board, pytest.raises(DeviceError, match="flash an image first"):
        board.outputs([DATA])


def test_a_machine_that_qemu_does_not_know_is_an_error(emulator: None, toy_image: FirmwareImage) -> None:
    assert F405.emulator is not None
    odd = F405.model_copy(update={"emulator": F405.emulator.model_copy(update={"machine": "no-such-machine"})})
    with EmulatedBoard(odd) as board, pytest.raises(DeviceError, match=r"did not start: .*unsupported machine type"):
        board.flash(toy_image)


def test_a_profile_without_an_emulator_names_those_with_one() -> None:
    with pytest.raises(
        DeviceError, match=r"stm32f746 has no emulated board; .* choose a device with an emulator: .*stm32f405"
    ):
        EmulatedBoard(load_profile("stm32f746"))


def test_a_missing_qemu_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeviceError, match="install qemu-system-arm"):
        EmulatedBoard(F405)


def test_the_port_can_be_opened_once_only(toy_board: EmulatedBoard) -> None:
    with pytest.raises(DeviceError, match="cannot open the port"):
        open_port(port_of(toy_board).path, "second")


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's help is Linux's")
def test_qemu_ends_with_a_process_that_is_killed(emulator: None, toy_image: FirmwareImage, tmp_path: Path) -> None:
    script = """
import sys, time
from pathlib import Path
from devices.emulator import EmulatedBoard
from devices.firmware import build_firmware
from devices.profile import load_profile
profile = load_profile("stm32f405")
board = EmulatedBoard(profile)
board.flash(build_firmware(Path(sys.argv[1]), profile, Path(sys.argv[2])))
print(board._process.pid, flush=True)
time.sleep(600)
"""
    arguments = [str(tmp_path / "model"), str(tmp_path / "again")]
    parent = subprocess.Popen([sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    qemu = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    for _ in range(100):
        try:
            os.kill(qemu, 0)
        except ProcessLookupError:
            break
        if Path(f"/proc/{qemu}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
            break  # nobody reaps it in a container without an init
        time.sleep(0.1)
    else:
        os.kill(qemu, signal.SIGKILL)
        pytest.fail("QEMU outlived the process that started it")
