"""Host side of the serial protocol of ``firmware/harness``: MLPerf Tiny's, and our commands beside it.

A byte that is lost or changed on the way ends in a repeated transfer or in a DeviceError, never in a wrong result:
inputs and outputs carry a CRC-32, and every other reply has to match its pattern.
"""

from __future__ import annotations

import re
import time
import zlib
from dataclasses import dataclass

import serial

from devices.errors import DeviceError

BAUD = 115_200
REPLY_TIMEOUT_S = 10.0
SYNC_TIMEOUT_S = 15.0
INFERENCE_TIMEOUT_S = 120.0
"""For one inference: emulating a large network takes seconds."""
SLOWEST_BYTES_PER_S = 2_000
ATTEMPTS = 3
QUIET_S = 0.05
MAX_LINE_BYTES = 1 << 20


class BoardReplyError(DeviceError):
    """The board answered a command with an error."""


@dataclass(frozen=True)
class BoardInfo:
    """What the harness says about itself and the model in it."""

    model_id: str
    model_name: str
    arena_bytes: int
    input_bytes: int
    output_bytes: int
    layers: int
    ticks_per_second: int


@dataclass(frozen=True)
class Inference:
    """The reply to ``infer``: the board's clock before and after, and the results as numbers."""

    start_us: int
    end_us: int
    results: tuple[float, ...]


def open_port(path: str, board: str) -> serial.Serial:
    """Open a serial port. Raises DeviceError when it is not there or in use."""
    try:
        return serial.Serial(path, BAUD, timeout=0.1, exclusive=True)
    except (OSError, serial.SerialException) as error:
        raise DeviceError(f"cannot open the port {path} of the board {board}: {error}; is it plugged in?") from error


class SerialSession:
    """A conversation with the harness over an open port."""

    def __init__(self, port: serial.Serial, board: str) -> None:
        self._port = port
        self._board = board
        self._received = bytearray()

    def sync(self) -> None:
        """Get the board's attention whatever it was doing. Raises DeviceError when it does not answer in time."""
        deadline = time.monotonic() + SYNC_TIMEOUT_S
        while time.monotonic() < deadline:
            self._drain()
            self._write(b"name%")
            try:
                lines = self._read_until_ready("name", min(2.0, deadline - time.monotonic()), restarts=True)
            except _NoReplyError:
                # Perhaps half a command was left from before: end it.
                self._write(b"%")
                continue
            if any(line.startswith("m-name-dut-[") for line in lines):
                self._drain()
                return
        raise DeviceError(
            f"the board {self._board} does not answer within {SYNC_TIMEOUT_S:.0f} s; check the port, and that it runs "
            "the tinynas firmware"
        )

    def command(self, text: str, timeout_s: float = REPLY_TIMEOUT_S) -> list[str]:
        """Send one command (without its ``%``) and return the lines of its reply, ``m-ready`` left out.

        Raises BoardReplyError with the board's own words when it refuses, and DeviceError when it falls silent.
        """
        self._write(text.encode("ascii") + b"%")
        return self._reply(text, timeout_s)

    def info(self) -> BoardInfo:
        """What model the board runs."""
        pattern = (
            r"m-info-\[id=([^,]*),name=([^,]*),arena=(\d+),input=(\d+),output=(\d+),layers=(\d+),"
            r"ticks-per-second=(\d+)(?:,.*)?\]"
        )
        found = self._match(pattern, self.command("info"), "info")
        return BoardInfo(found[1], found[2], *(int(value) for value in found.groups()[2:]))

    def load(self, data: bytes) -> None:
        """Send an input, checked by its CRC; sent again when bytes were lost."""
        inner = f"load {len(data)} 0 {len(data)} {zlib.crc32(data):08x}"
        text = f"check 1 {zlib.crc32(f'1 {inner}'.encode()):08x} {inner}"
        for attempt in range(1, ATTEMPTS + 1):
            self._write(text.encode("ascii") + b"%")
            try:
                self._await_expecting(text)
                self._write(data)
                self._match(r"m-load-done", self._reply(text, REPLY_TIMEOUT_S + len(data) / SLOWEST_BYTES_PER_S), text)
            except BoardReplyError as error:
                if attempt == ATTEMPTS or "load again" not in str(error):
                    raise
            else:
                return

    def infer(self, runs: int, warmups: int = 0) -> Inference:
        """Run the loaded input."""
        text = f"infer {runs} {warmups}"
        lines = self.command(text, INFERENCE_TIMEOUT_S * (runs + warmups))
        laps = [int(line.removeprefix("m-lap-us-")) for line in lines if re.fullmatch(r"m-lap-us-\d+", line)]
        if len(laps) != 2:
            raise DeviceError(
                f"the board {self._board} gave {len(laps)} time stamps for '{text}' in place of 2; try again"
            )
        results = self._match(r"m-results-\[([-+.,\dainf]*)\]", lines, text)[1]
        return Inference(laps[0], laps[1], tuple(float(value) for value in results.split(",")))

    def output(self) -> bytes:
        """Raw bytes of the last result, checked by their CRC; asked for again when they do not agree."""
        for _ in range(ATTEMPTS):
            lines = self.command("output")
            found = next(
                filter(None, (re.fullmatch(r"m-output-\[((?:[\da-f]{2})*)\]-([\da-f]{8})", x) for x in lines)), None
            )
            if found is not None:
                data = bytes.fromhex(found[1])
                if zlib.crc32(data) == int(found[2], 16):
                    return data
        raise DeviceError(f"the board {self._board} sent a corrupt output {ATTEMPTS} times; check its cable")

    def run(self, data: bytes) -> bytes:
        """The output for one input."""
        self.load(data)
        self.infer(1)
        return self.output()

    def ticks(self) -> tuple[int, int]:
        """How many inferences the last ``infer`` timed, and the clock cycles that they took together."""
        found = self._match(r"m-ticks-\[(\d+),(\d+),\d+\]", self.command("ticks"), "ticks")
        return int(found[1]), int(found[2])

    def layers(self) -> tuple[int, ...]:
        """Run the loaded input once more, and return the clock cycles of each layer."""
        found = self._match(r"m-layers-\[([\d,]+)\]", self.command("layers", INFERENCE_TIMEOUT_S), "layers")
        return tuple(int(value) for value in found[1].split(","))

    def _match(self, pattern: str, lines: list[str], command: str) -> re.Match[str]:
        for line in lines:
            if found := re.fullmatch(pattern, line):
                return found
        raise DeviceError(f"the board {self._board} answered '{command}' with {lines!r}, which is no answer; try again")

    def _await_expecting(self, command: str) -> None:
        deadline = time.monotonic() + REPLY_TIMEOUT_S
        while not (line := self._read_line(deadline, command)).startswith("m-[Expecting "):
            if line.startswith("e-["):
                self._read_until_ready(command, REPLY_TIMEOUT_S)
                raise BoardReplyError(self._refusal(command, line))

    def _reply(self, command: str, timeout_s: float) -> list[str]:
        try:
            lines = self._read_until_ready(command, timeout_s)
        except _NoReplyError as error:
            raise DeviceError(str(error)) from error
        for line in lines:
            if line.startswith("e-["):
                raise BoardReplyError(self._refusal(command, line))
        return lines

    def _refusal(self, command: str, line: str) -> str:
        return f"the board {self._board} refused '{command}': {line.removeprefix('e-[').removesuffix(']')}"

    def _read_until_ready(self, command: str, timeout_s: float, restarts: bool = False) -> list[str]:
        deadline = time.monotonic() + timeout_s
        lines: list[str] = []
        while (line := self._read_line(deadline, command)) != "m-ready":
            if line == "m-init-done" and not restarts:
                raise DeviceError(
                    f"the board {self._board} started again during '{command}': {' '.join(lines)}; try again"
                )
            # Some boards echo what they are sent.
            if line != command + "%":
                lines.append(line)
        return lines

    def _read_line(self, deadline: float, command: str) -> str:
        while (end := self._received.find(b"\n")) < 0:
            if time.monotonic() > deadline:
                raise _NoReplyError(
                    f"the board {self._board} did not answer '{command}' in time; reset it and try again"
                )
            if len(self._received) > MAX_LINE_BYTES:
                raise DeviceError(f"the board {self._board} sends noise without end; check the port and its speed")
            self._received += self._read()
        line = self._received[:end].decode("ascii", errors="replace").strip()
        del self._received[: end + 1]
        return line

    def _read(self) -> bytes:
        try:
            return bytes(self._port.read(max(1, self._port.in_waiting)))
        except (OSError, serial.SerialException) as error:
            raise DeviceError(f"the board {self._board} has gone: {error}; connect it again") from error

    def _write(self, data: bytes) -> None:
        try:
            self._port.write_timeout = REPLY_TIMEOUT_S + len(data) / SLOWEST_BYTES_PER_S
            self._port.write(data)
        except serial.SerialTimeoutException as error:
            raise DeviceError(f"the board {self._board} takes no more bytes; reset it and try again") from error
        except (OSError, serial.SerialException) as error:
            raise DeviceError(f"the board {self._board} has gone: {error}; connect it again") from error

    def _drain(self) -> None:
        """Drop what has come, until nothing comes for a moment."""
        self._received.clear()
        deadline = time.monotonic() + REPLY_TIMEOUT_S
        quiet_since = time.monotonic()
        while (now := time.monotonic()) < deadline and now - quiet_since < QUIET_S:
            if self._port.in_waiting:
                self._read()
                quiet_since = now
            else:
                time.sleep(QUIET_S / 10)


class _NoReplyError(DeviceError):
    """Time is up."""
