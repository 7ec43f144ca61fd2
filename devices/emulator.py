"""A part without the part: QEMU runs the very firmware image, behind a pseudo-terminal that is opened like any port."""

from __future__ import annotations

import os
import re
import select
import shutil
import subprocess
import tempfile
import time
import weakref
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import BinaryIO

from devices.board import Image, Measurement
from devices.cycle_costs import cycle_costs
from devices.errors import DeviceError
from devices.firmware import FirmwareImage, build_cycle_counter, firmware_of, read_symbols
from devices.host.children import start_child
from devices.host.closing import Closing
from devices.host.locks import board_lock
from devices.profile import DeviceProfile, device_names, load_profile
from devices.serial_line.ports import Port, open_port
from devices.serial_line.protocol import SerialSession
from devices.serial_line.pty_relay import PtyRelay

QEMU = "qemu-system-arm"
START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class InferenceCount:
    """What the cycle counter saw of one inference."""

    instructions: int
    cycles: int
    layer_instructions: tuple[int, ...]
    layer_cycles: tuple[int, ...]


class EmulatedBoard(Closing):
    """The emulated board of a profile. Nothing runs before ``flash``; QEMU ends with this object or this process.

    One with a name is a board of the lab, for one user at a time like any other, until it is closed.
    """

    def __init__(self, profile: DeviceProfile, name: str | None = None, *, identity: str | None = None) -> None:
        """``identity`` is what to lock. Raise DeviceError when the board is in use or cannot be emulated here."""
        if profile.emulator is None:
            known = ", ".join(name for name in device_names() if load_profile(name).emulator is not None)
            raise DeviceError(
                f"the device {profile.name} has no emulated board; connect one with --board serial:PORT or choose a "
                f"device with an emulator: {known}"
            )
        if shutil.which(QEMU) is None:
            raise DeviceError(f"the emulator {QEMU} was not found; install qemu-system-arm, or run make setup")
        self.name = name or f"emulator:{profile.emulator.machine}"
        self._profile = profile
        self._costs = cycle_costs(profile.core)
        self._machine = profile.emulator.machine
        self._image: FirmwareImage | None = None
        self._session: SerialSession | None = None
        self._port: Port | None = None
        self._relay: PtyRelay | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._stop: weakref.finalize[..., EmulatedBoard] | None = None
        self._counts: BinaryIO | None = None
        self._lock = ExitStack()
        if identity is not None:
            self._lock.enter_context(board_lock(identity, board=self.name))

    def flash(self, image: Image) -> None:
        """Start QEMU with ``image`` and wait until the firmware answers."""
        port = self._start(firmware_of(image, self.name))
        try:
            self._port = open_port(port, self.name, replug_s=0.0)
            # Only now, so that the boot banner has somewhere to go.
            self._resume()
            self._session = SerialSession(self._port, self.name)
            self._session.sync()
        except BaseException:
            self._end()
            raise

    def serve(self, image: FirmwareImage) -> str:
        """Start QEMU with ``image`` for somebody else's tools; returns the path of its serial port, ready for use."""
        self.flash(image)
        session, _ = self._running()
        session.finish()
        self._relay = PtyRelay(session.port.path)
        session.port.close()
        self._port = self._session = None
        return self._relay.path

    def wait(self) -> None:
        """Wait until QEMU ends by itself."""
        if self._process is not None:
            self._process.wait()

    def measure(self, inputs: Sequence[bytes], runs: int | None = None) -> Measurement:
        """Run each input ``runs`` times, by default once, for the emulator counts the same input always the same.

        The figures are those of the inference with the median cycle count.
        """
        _, image = self._running()
        counts = self._counts_of(inputs, 1 if runs is None else runs)
        median = _median(counts)
        return Measurement.of_image(
            image,
            board=self.name,
            latency_ms=self._profile.latency_ms(median.cycles),
            cycles=median.cycles,
            instructions=median.instructions,
            layer_cycles=median.layer_cycles,
            runs=len(counts),
            clock_hz=self._profile.clock_hz,
            latencies_ms=tuple(self._profile.latency_ms(count.cycles) for count in counts),
        )

    def count(self, inputs: Sequence[bytes], runs: int) -> InferenceCount:
        """What `measure` measures, as the emulator counts it: instructions too, layer by layer."""
        return _median(self._counts_of(inputs, runs))

    def _counts_of(self, inputs: Sequence[bytes], runs: int) -> list[InferenceCount]:
        session, _ = self._running()
        counts: list[InferenceCount] = []
        for data in inputs:
            self._read_counts()
            session.time(data, runs)
            new = self._read_counts()[-runs:]  # of the last attempt, if there were several
            if len(new) != runs:
                raise DeviceError(
                    f"the emulator counted {len(new)} inferences in place of {runs}; report this as a bug"
                )
            counts += new
        if not counts:
            raise DeviceError("there is nothing to measure: give at least one input and one run")
        return counts

    def outputs(self, inputs: Sequence[bytes]) -> list[bytes]:
        """The raw output of each raw input."""
        session, _ = self._running()
        return [session.run(data) for data in inputs]

    def close(self) -> None:
        """End QEMU, and let others use the board."""
        self._end()
        self._lock.close()

    def _end(self) -> None:
        if self._port is not None:
            self._port.close()
        if self._relay is not None:
            self._relay.close()
        if self._stop is not None:
            self._stop()
        if self._counts is not None:
            self._counts.close()
        self._port = self._session = self._image = self._process = self._stop = self._counts = self._relay = None

    def _running(self) -> tuple[SerialSession, FirmwareImage]:
        if self._session is None or self._image is None:
            raise DeviceError(f"the board {self.name} runs nothing yet: flash an image first")
        return self._session, self._image

    def _start(self, image: FirmwareImage) -> str:
        """Start QEMU, halted before the first instruction; returns the path of its serial port."""
        self._end()
        if image.device != self._profile.name:
            raise DeviceError(f"the image was built for {image.device}, not for {self._profile.name}; build it again")
        # A file without a name, so that nothing is left of it when this process is killed.
        self._counts = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the board
        command = [QEMU, "-machine", self._machine, "-kernel", str(image.elf), "-icount", "shift=0", "-display", "none"]
        command += ["-monitor", "stdio", "-S"]
        # A multiplexer, because it holds 32 bytes for a UART that holds one. Its escape character is none.
        command += ["-chardev", "pty,id=uart,mux=on", "-serial", "chardev:uart", "-echr", "256"]
        counts = self._counts.fileno()
        plugin = [str(build_cycle_counter()), f"output=/dev/fd/{counts}", *self._counter_arguments(image)]
        command += ["-plugin", ",".join(part.replace(",", ",,") for part in plugin)]
        process = start_child(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, pass_fds=[counts]
        )
        self._process = process
        self._stop = weakref.finalize(self, _stop, process)
        self._image = image
        return _await_port(process, self.name)

    def _resume(self) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(b"cont\n")
        self._process.stdin.flush()

    def _counter_arguments(self, image: FirmwareImage) -> list[str]:
        symbols = read_symbols(image.elf)
        layers = [symbols[name][0] for name in sorted(symbols) if re.fullmatch(r"tn_layer_\d+", name)]
        if "tn_model_invoke" not in symbols or not layers:
            raise DeviceError(f"{image.elf} holds no tn_model_invoke and tn_layer functions; build it again")
        start, size = symbols["tn_model_invoke"]
        handlers = f"{symbols['tn_handlers_start'][0]:x}-{symbols['tn_handlers_end'][0]:x}"
        return [
            f"invoke={start:x}-{start + size:x}",
            f"handlers={handlers}",
            "layers=" + ":".join(f"{address:x}" for address in layers),
            f"clock={symbols['platform_ticks'][0]:x}",
            f"lag={symbols['tn_lag_ticks'][0]:x}",
            f"reset={symbols['tn_reset'][0]:x}",
            f"hz={self._profile.clock_hz}",
            f"stall={self._profile.stall_factor}",
            *(f"{name}={cost:.2f}" for name, cost in self._costs.by_name().items()),
        ]

    def _read_counts(self) -> list[InferenceCount]:
        """Inferences counted since the last call."""
        assert self._counts is not None
        return [_parse_count(line.decode("ascii")) for line in self._counts]


def _median(counts: Sequence[InferenceCount]) -> InferenceCount:
    return sorted(counts, key=lambda count: count.cycles)[(len(counts) - 1) // 2]


def _parse_count(line: str) -> InferenceCount:
    instructions, cycles, *layers = line.split()
    pairs = [layer.split(":") for layer in layers]
    return InferenceCount(
        int(instructions), int(cycles), tuple(int(pair[0]) for pair in pairs), tuple(int(pair[1]) for pair in pairs)
    )


def _await_port(process: subprocess.Popen[bytes], board: str) -> str:
    """Path of the pseudo-terminal that QEMU announces."""
    assert process.stdout is not None
    deadline = time.monotonic() + START_TIMEOUT_S
    said = b""
    while time.monotonic() < deadline:
        readable, _, _ = select.select([process.stdout], [], [], deadline - time.monotonic())
        chunk = os.read(process.stdout.fileno(), 4096) if readable else b""
        if readable and not chunk:
            reason = said.decode(errors="replace").strip() or f"exit code {process.wait()}"
            raise DeviceError(f"the board {board} did not start: {reason}")
        said += chunk
        if found := re.search(rb"redirected to (\S+) ", said):
            return found[1].decode()
    raise DeviceError(f"the board {board} did not start within {START_TIMEOUT_S:.0f} s; is the machine overloaded?")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
