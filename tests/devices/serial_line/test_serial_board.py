"""Boards on serial ports: the emulated one, and the harness as a program of the host behind a line with faults."""

from __future__ import annotations

import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import serial
from serial.rfc2217 import PortManager

from benchmarks.serial_faults import FAULTS, HASTY, LIVE_TRUTH, faulty_session, run_transactions, transact
from devices.emulator import EmulatedBoard
from devices.errors import DeviceError
from devices.firmware import FirmwareImage
from devices.flashing.flasher import Flashed
from devices.host.locks import BoardBusyError
from devices.profile import load_profile
from devices.serial_line.ports import Port, ResetMode, open_port
from devices.serial_line.protocol import BoardReplyError, NoAnswerError, SerialSession
from devices.serial_line.serial_board import SerialBoard
from devices.statistics import RepeatPolicy
from tests.devices.live_board import (
    LIVE_INPUT_BYTES,
    LIVE_MODEL_ID,
    LiveBoard,
    build_live_board,
    live_layer_ticks,
    live_output,
    live_ticks,
)
from tests.devices.serial_line.faulty_line import Faults, FaultyLine
from tests.devices.toy_models import INPUT_BYTES, expected_output

F405 = load_profile("stm32f405")
INPUTS = [bytes(range(INPUT_BYTES)), bytes(range(50, 50 + INPUT_BYTES))]
LIVE_INPUTS = [random.Random(seed).randbytes(LIVE_INPUT_BYTES) for seed in range(3)]
OTHER_MODEL_ID = "fedcba9876543210"
TIGHT_BYTES = LIVE_INPUT_BYTES // 2
"""Of free memory: no room for a copy of the input."""


@pytest.fixture
def board(emulator: None, toy_image: FirmwareImage) -> Iterator[SerialBoard]:
    with EmulatedBoard(F405) as emulated, SerialBoard(emulated.serve(toy_image), F405, "bench-1") as real:
        yield real


def test_outputs_and_measurement(board: SerialBoard, toy_image: FirmwareImage) -> None:
    board.flash(toy_image)
    assert board.outputs(INPUTS) == [expected_output(data) for data in INPUTS]
    measured = board.measure(INPUTS, runs=4)
    assert measured.board == "bench-1"
    assert measured.instructions is None
    assert measured.runs == 8
    assert len(measured.layer_cycles) == 2
    assert measured.cycles > 0
    assert measured.latency_ms * measured.clock_hz / 1e3 == pytest.approx(measured.cycles, abs=0.5)
    assert measured.clock_hz == 168_000_000
    assert measured.firmware_sha256 == toy_image.sha256
    assert 0 < int(measured.conditions["stack_used_bytes"]) < int(measured.conditions["stack_bytes"])


def test_a_board_with_another_model_says_how_to_write_ours(board: SerialBoard, toy_image: FirmwareImage) -> None:
    other = replace(toy_image, model_id=OTHER_MODEL_ID)
    with pytest.raises(
        DeviceError, match=r"runs the model 0123456789abcdef, not fedcba9876543210; write .*bin .*openocd"
    ):
        board.flash(other)
    with pytest.raises(DeviceError, match="flash an image first"):
        board.outputs(INPUTS)


# From here on, the harness runs on the host.


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_live_board(tmp_path_factory.mktemp("live"))


@pytest.fixture(scope="module")
def tight_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_live_board(tmp_path_factory.mktemp("tight"), TIGHT_BYTES)


@pytest.fixture(scope="module")
def other_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_live_board(tmp_path_factory.mktemp("other"), model_id=OTHER_MODEL_ID)


class Bench:
    """A live board behind a line, and what is opened on it."""

    def __init__(self, stack: ExitStack, folder: Path, program: Path) -> None:
        self._stack = stack
        self.path = folder / "port"
        self.live = LiveBoard(program)
        stack.callback(self.live.close)
        self._unplug: Callable[[], object] = lambda: None

    def plug(self, faults: Faults | None = None, **options: object) -> FaultyLine:
        line = FaultyLine(self.live, self.path, faults or Faults(), 0, **options)  # type: ignore[arg-type]
        own = self._stack.enter_context(ExitStack())
        own.callback(line.close)
        self._unplug = own.close
        return line

    def unplug(self) -> None:
        self._unplug()

    def board(self, **options: object) -> SerialBoard:
        options = {"patience": HASTY, "replug_s": 5.0, **options}
        return self._stack.enter_context(SerialBoard(str(self.path), F405, "bench", **options))  # type: ignore[arg-type]

    def session(self, **options: object) -> SerialSession:
        port = open_port(str(self.path), "bench", replug_s=5.0)
        self._stack.callback(port.close)
        return SerialSession(port, "bench", patience=HASTY, **options)  # type: ignore[arg-type]


@pytest.fixture
def bench(program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setenv("TINYNAS_LOCKS", str(tmp_path / "locks"))
    with ExitStack() as stack:
        yield Bench(stack, tmp_path, program)


@pytest.fixture
def live_image(toy_image: FirmwareImage) -> FirmwareImage:
    return replace(toy_image, model_id=LIVE_MODEL_ID)


def test_no_fault_of_the_line_gets_through(bench: Bench, tmp_path: Path) -> None:
    with faulty_session(bench.live, tmp_path, FAULTS, 1, LIVE_MODEL_ID, HASTY) as (session, line):
        tally = run_transactions(
            session, line, LIVE_TRUTH, random.Random(1), lambda _: session.statistics.exchanges >= 1_500
        )
    assert (tally.wrong, tally.refused, tally.errors) == (0, 0, [])
    assert tally.injected.keys() == FAULTS.rates.keys()
    assert tally.recovered == tally.injected


class TrustingSession(SerialSession):
    """What would be without the check: every reply is taken as it comes."""

    def _verified(self, body: bytes, crc: int) -> bytes | None:
        return body.rpartition(b"m-ready\r\n")[2]


@pytest.mark.parametrize(("kind", "is_safe"), [(SerialSession, True), (TrustingSession, False)])
def test_without_checks_faults_do_get_through(
    bench: Bench, tmp_path: Path, kind: type[SerialSession], is_safe: bool
) -> None:
    """That is, the test above can fail: in every fourth chunk from the board, one digit is another."""
    rng, wrong = random.Random(1), 0
    with faulty_session(bench.live, tmp_path, Faults(), 1, LIVE_MODEL_ID, HASTY, kind=kind) as (session, _):
        read = session.port.read

        def misread() -> bytes:
            data = bytearray(read())
            digits = [place for place, byte in enumerate(data) if chr(byte).isdigit()]
            if digits and rng.random() < 0.25:
                data[rng.choice(digits)] ^= 1
            return bytes(data)

        session.port.read = misread  # type: ignore[method-assign]
        # How many digits are misread depends on how the bytes come in chunks, which a busy machine makes fewer.
        for _ in range(40 if is_safe else 400):
            if wrong:
                break
            with suppress(DeviceError):
                wrong += not transact(session, LIVE_TRUTH, rng)
    assert (wrong == 0) == is_safe


def test_a_board_without_room_for_the_input_gets_it_again(bench: Bench, tight_program: Path, tmp_path: Path) -> None:
    bench.live.install(tight_program)
    with faulty_session(bench.live, tmp_path, FAULTS, 2, LIVE_MODEL_ID, HASTY) as (session, line):
        for data in 20 * LIVE_INPUTS:
            assert session.run(data) == live_output(data)
            assert session.time(data, 1) == live_ticks(data)
            assert session.layers(data) == live_layer_ticks(data)
        assert sum(line.injected.values()) > 0


@pytest.mark.parametrize(
    "before",
    [
        b"db load",
        b"check 123",
        b"db load 96%db 0011",
        b"\x00\xff% %%",
        b"db load 96%" + 3 * (b"db " + b"00" * 31 + b"%") + b"db 000000%" + 20 * b"db print%",
        b"restart%",
        b"baud 921600%",
    ],
)
def test_a_board_is_found_in_whatever_state_it_was_left(bench: Bench, before: bytes) -> None:
    bench.plug()
    leave(bench.path, before)
    session = bench.session()
    session.sync()
    assert session.run(LIVE_INPUTS[0]) == live_output(LIVE_INPUTS[0])


def leave(path: Path, sent: bytes) -> None:
    """What a host did that was killed."""
    descriptor = os.open(path, os.O_RDWR | os.O_NOCTTY)
    os.write(descriptor, sent)
    os.close(descriptor)


def test_a_board_is_found_in_the_middle_of_raw_data(bench: Bench) -> None:
    bench.plug()
    dying = bench.session()
    dying.sync()
    write, pieces = dying.port.write, []

    def cut(data: bytes) -> None:
        if not data.startswith((b"check", b"%check")):
            pieces.append(data)
            raise KeyboardInterrupt
        write(data)

    dying.port.write = cut  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        dying.run(LIVE_INPUTS[0])
    dying.port.close()
    assert pieces == [LIVE_INPUTS[0]]
    session = bench.session()
    session.sync()
    assert session.run(LIVE_INPUTS[1]) == live_output(LIVE_INPUTS[1])


@pytest.fixture
def has_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Speeds mean something on these pseudo-terminals."""
    monkeypatch.setattr(Port, "has_baud", property(lambda port: True))


def test_a_faster_speed_is_agreed_on_and_again_after_a_restart(bench: Bench, has_speed: None) -> None:
    line = bench.plug(fastest_baud=921_600)
    session = bench.session(baud=921_600)
    session.sync()
    assert session.port.baud == bench.live.baud == 921_600
    assert session.run(LIVE_INPUTS[0]) == live_output(LIVE_INPUTS[0])
    line.faults = Faults(reset=1.0)
    time.sleep(0.01)
    session.port.write(b"%")
    time.sleep(0.1)
    line.faults = Faults()
    assert line.injected["reset"] > 0
    assert bench.live.baud == 115_200
    assert session.run(LIVE_INPUTS[1]) == live_output(LIVE_INPUTS[1])
    assert session.port.baud == bench.live.baud == 921_600


@pytest.mark.parametrize(
    ("wanted", "fastest"), [(460_800, 921_600), (921_600, 230_400)], ids=["not the board's", "not the line's"]
)
def test_a_speed_that_does_not_work_is_not_used(bench: Bench, has_speed: None, wanted: int, fastest: int) -> None:
    bench.plug(fastest_baud=fastest)
    session = bench.session(baud=wanted)
    session.sync()
    assert session.run(LIVE_INPUTS[0]) == live_output(LIVE_INPUTS[0])
    assert session.port.baud == bench.live.baud == 115_200


def test_a_board_is_found_at_the_speed_where_it_was_left(bench: Bench, has_speed: None) -> None:
    bench.plug(fastest_baud=921_600)
    dying = bench.session(baud=921_600)
    dying.sync()
    dying.port.close()
    assert bench.live.baud == 921_600
    session = bench.session()
    session.sync()
    assert session.run(LIVE_INPUTS[0]) == live_output(LIVE_INPUTS[0])
    assert session.port.baud == bench.live.baud == 115_200


def test_a_hung_board_is_an_error_and_then_a_board_again(bench: Bench) -> None:
    bench.plug()
    session = bench.session()
    session.sync()
    bench.live.freeze(True)
    session._patience = replace(HASTY, sync_s=0.5)
    with pytest.raises(NoAnswerError, match="does not answer within"):
        session.run(LIVE_INPUTS[0])
    bench.live.freeze(False)
    session.sync()
    assert session.run(LIVE_INPUTS[0]) == live_output(LIVE_INPUTS[0])


def test_it_restarts_by_its_own_command(bench: Bench) -> None:
    bench.plug()
    session = bench.session(reset=ResetMode.COMMAND)
    session.sync()
    session.load(LIVE_INPUTS[0])
    session.restart()
    with pytest.raises(BoardReplyError, match="No input"):
        session.infer(1)


# The board of the lab.


def test_inputs_are_timed_until_the_median_is_known(bench: Bench, live_image: FirmwareImage) -> None:
    bench.plug()
    # Nothing is asked for twice, however busy this machine is.
    patience = replace(HASTY, first_s=20.0, floor_s=20.0, ceiling_s=20.0)
    board = bench.board(policy=RepeatPolicy(at_least=5, at_most=9, half_width=1e-9), patience=patience)
    board.flash(live_image)
    board.session.restart()  # what came before is no repetition of what is measured
    measured = board.measure(LIVE_INPUTS)
    together = -(-5_000_000 // live_ticks(LIVE_INPUTS[0]))  # 50 ms at 100 MHz
    assert measured.runs == 9 * together
    expected = [live_ticks(LIVE_INPUTS[turn % 3]) / 1e5 for turn in range(9)]
    assert measured.latencies_ms == pytest.approx(expected, rel=1e-12)
    assert measured.latency_ms == sorted(measured.latencies_ms)[4]
    assert measured.layer_cycles == live_layer_ticks(LIVE_INPUTS[0])
    assert measured.conditions["port"] == str(bench.path)
    assert measured.conditions["baud"] == "115200"
    assert measured.conditions["repetitions"] == "0"


@pytest.mark.parametrize("runs", [1, 2, 7, 5_000])
def test_runs_are_exactly_as_many_as_asked_for(bench: Bench, live_image: FirmwareImage, runs: int) -> None:
    bench.plug()
    board = bench.board()
    board.flash(live_image)
    counts: list[tuple[bytes, int]] = []
    timed = board.session.time

    def count(data: bytes, runs: int, warmups: int = 0) -> int:
        counts.append((data, runs))
        return timed(data, runs, warmups)

    board.session.time = count  # type: ignore[method-assign]
    measured = board.measure(LIVE_INPUTS[:2], runs)
    assert measured.runs == 2 * runs
    samples = counts[-len(measured.latencies_ms) :]
    assert [sum(part for data, part in samples if data == given) for given in LIVE_INPUTS[:2]] == [runs, runs]
    assert max(part for _, part in samples) - min(part for _, part in samples) <= 1


def test_a_board_without_memory_times_one_at_a_time(bench: Bench, tmp_path: Path, live_image: FirmwareImage) -> None:
    bench.live.install(build_live_board(tmp_path, 3))
    bench.plug()
    board = bench.board(policy=RepeatPolicy(at_least=5, at_most=6))
    board.flash(live_image)
    measured = board.measure(LIVE_INPUTS[:1])
    assert measured.runs == 5
    assert set(measured.latencies_ms) == {live_ticks(LIVE_INPUTS[0]) / 1e5}


def test_faults_change_no_measurement(bench: Bench, live_image: FirmwareImage) -> None:
    line = bench.plug(FAULTS)
    board = bench.board()
    board.flash(live_image)
    repeated = []
    for data in 10 * LIVE_INPUTS:
        before = board.session.statistics.repetitions
        measured = board.measure([data], 3)
        assert set(measured.latencies_ms) == {live_ticks(data) / 1e5}
        assert measured.layer_cycles == live_layer_ticks(data)
        repeated.append(int(measured.conditions["repetitions"]))
        assert repeated[-1] == board.session.statistics.repetitions - before
    assert sum(line.injected.values()) > 20
    assert sum(repeated) > 0


def test_a_board_is_for_one_user_by_whatever_path(bench: Bench, tmp_path: Path) -> None:
    bench.plug()
    bench.board()
    other = tmp_path / "other name"
    other.symlink_to(bench.path)
    with pytest.raises(BoardBusyError, match=r"in use by process \d+"):
        SerialBoard(str(other), F405)


class StandInFlasher:
    """Writes a program to the live board, with nobody on its port."""

    runner = "stand-in"

    def __init__(self, bench: Bench, programs: dict[str, Path]) -> None:
        self._bench = bench
        self._programs = programs
        self.written: list[str] = []

    def write(self, image: FirmwareImage, running: Callable[[], str] | None = None) -> Flashed:
        # The port is free, and goes away meanwhile.
        port = serial.Serial(str(self._bench.path), exclusive=True)
        port.close()
        self._bench.unplug()
        self._bench.live.install(self._programs[image.model_id])
        threading.Timer(0.2, self._bench.plug).start()
        self.written.append(image.model_id)
        assert running is not None
        assert running() == image.model_id
        return Flashed(self.runner, "1.0", "asking the board")


def test_what_is_not_there_is_written(
    bench: Bench, program: Path, other_program: Path, live_image: FirmwareImage
) -> None:
    bench.plug()
    flasher = StandInFlasher(bench, {LIVE_MODEL_ID: program, OTHER_MODEL_ID: other_program})
    board = bench.board(flasher=flasher)
    board.flash(live_image)
    assert flasher.written == []
    other = replace(live_image, model_id=OTHER_MODEL_ID)
    board.flash(other)
    assert flasher.written == [OTHER_MODEL_ID]
    measured = board.measure(LIVE_INPUTS[:1], 2)
    assert measured.model_id == OTHER_MODEL_ID
    assert measured.conditions["flasher"] == "stand-in 1.0"
    assert measured.conditions["flash_verified_by"] == "asking the board"


def test_firmware_that_does_not_answer_is_written_over(
    bench: Bench, program: Path, live_image: FirmwareImage, tmp_path: Path
) -> None:
    silent = tmp_path / "silent"
    silent.write_text("#!/bin/sh\nexec sleep 100\n")
    silent.chmod(0o755)
    bench.live.install(silent)
    bench.plug()
    flasher = StandInFlasher(bench, {LIVE_MODEL_ID: program})
    board = bench.board(flasher=flasher, patience=replace(HASTY, sync_s=0.3))
    board.flash(live_image)
    assert flasher.written == [LIVE_MODEL_ID]
    assert board.outputs(LIVE_INPUTS) == [live_output(data) for data in LIVE_INPUTS]


def test_a_board_that_was_written_by_somebody_else_is_written_again(
    bench: Bench, program: Path, other_program: Path, live_image: FirmwareImage
) -> None:
    bench.plug()
    flasher = StandInFlasher(bench, {LIVE_MODEL_ID: program})
    board = bench.board(flasher=flasher)
    board.flash(live_image)
    bench.unplug()
    bench.live.install(other_program)
    bench.plug()
    assert board.outputs(LIVE_INPUTS) == [live_output(data) for data in LIVE_INPUTS]
    assert flasher.written == [LIVE_MODEL_ID]


def test_another_board_at_the_port_is_not_measured(
    bench: Bench, other_program: Path, live_image: FirmwareImage
) -> None:
    bench.plug()
    board = bench.board()
    board.flash(live_image)
    bench.unplug()
    bench.live.install(other_program)
    bench.plug()
    with pytest.raises(DeviceError, match=f"runs the model {OTHER_MODEL_ID}, not {LIVE_MODEL_ID}; write "):
        board.measure(LIVE_INPUTS)


def test_a_flasher_that_wrote_another_board_is_found_out(
    bench: Bench, program: Path, live_image: FirmwareImage
) -> None:
    bench.plug()
    flasher = StandInFlasher(bench, {OTHER_MODEL_ID: program})
    flasher.write = lambda image, running: Flashed("stand-in", "", "nothing")  # type: ignore[method-assign]
    board = bench.board(flasher=flasher)
    with pytest.raises(DeviceError, match=r"stand-in wrote .* runs the model .*: check that its probe_id"):
        board.flash(replace(live_image, model_id=OTHER_MODEL_ID))


def test_a_board_that_does_not_come_back_is_an_error(bench: Bench, live_image: FirmwareImage) -> None:
    bench.plug()
    board = bench.board(replug_s=0.3)
    board.flash(live_image)
    bench.unplug()
    with pytest.raises(DeviceError, match="has gone and did not come back within 0 s: cannot open the port"):
        board.outputs(LIVE_INPUTS)


# Ports that are somewhere else.


class Server:
    """Passes a TCP connection on to a board, perhaps as RFC 2217 has it."""

    def __init__(self, live: LiveBoard, as_rfc2217: bool) -> None:
        self._live = live
        self._as_rfc2217 = as_rfc2217
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = "{}:{}".format(*self._listener.getsockname())
        self.accepted = 0
        self._connection: socket.socket | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            self._connection = connection
            with connection:
                self._serve(connection)

    def _serve(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        manager = None
        if self._as_rfc2217:
            end = serial.serial_for_url("loop://", timeout=0)

            class Out:
                def write(self, data: bytes) -> None:
                    connection.sendall(data)

            manager = PortManager(end, Out())
        stop = threading.Event()

        def back() -> None:
            while not stop.is_set():
                data = self._live.read()
                if not data:
                    return
                try:
                    connection.sendall(b"".join(manager.escape(data)) if manager else data)
                except OSError:
                    return

        threading.Thread(target=back, daemon=True).start()
        while True:
            try:
                data = connection.recv(4096)
            except OSError:
                data = b""
            if not data:
                break
            self._live.write(b"".join(manager.filter(data)) if manager else data)
        stop.set()

    def cut(self) -> None:
        """End the connection."""
        assert self._connection is not None
        self._connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()


@pytest.mark.parametrize("scheme", ["socket", "rfc2217"])
def test_a_board_across_the_network(scheme: str, bench: Bench, live_image: FirmwareImage) -> None:
    with (
        closing(Server(bench.live, scheme == "rfc2217")) as server,
        SerialBoard(f"{scheme}://{server.address}", F405, patience=HASTY, replug_s=5.0) as board,
    ):
        board.flash(live_image)
        assert board.outputs(LIVE_INPUTS) == [live_output(data) for data in LIVE_INPUTS]
        measured = board.measure(LIVE_INPUTS[:1], 2)
        assert measured.latency_ms == live_ticks(LIVE_INPUTS[0]) / 1e5
        server.cut()
        assert board.outputs(LIVE_INPUTS) == [live_output(data) for data in LIVE_INPUTS]
        assert server.accepted == 2


def test_a_socket_has_no_speed_to_set(bench: Bench) -> None:
    with (
        closing(Server(bench.live, False)) as server,
        pytest.raises(DeviceError, match="no speed can be set; leave out its baud, or use rfc2217://"),
    ):
        SerialBoard(f"socket://{server.address}", F405, baud=921_600)
