"""A real board on a serial port that runs the tinynas firmware."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from itertools import cycle
from statistics import median
from typing import TypeVar

from devices.board import Image, Measurement
from devices.errors import DeviceError
from devices.firmware import FirmwareImage, firmware_of
from devices.flashing.flasher import Flashed, Flasher
from devices.host.closing import Closing
from devices.host.locks import board_lock, port_identity
from devices.profile import DeviceProfile
from devices.serial_line.ports import BAUD, DEFAULT_LEVELS, REPLUG_S, Levels, ResetMode, await_port, open_port
from devices.serial_line.protocol import (
    DEFAULT_PATIENCE,
    BoardReplyError,
    ForeignFirmwareError,
    NoAnswerError,
    OtherModelError,
    Patience,
    SerialSession,
)
from devices.statistics import DEFAULT, RepeatPolicy, repeat_until_steady

SAMPLE_S = 0.05
"""Of the board's time, so that a round trip per sample does not matter for fast networks."""
MOST_RUNS_PER_SAMPLE = 100_000
FLASHES = 2
"""Of one image onto a board that somebody else writes to as well."""

_T = TypeVar("_T")


class SerialBoard(Closing):
    """A board at the other end of a serial port, for this process alone until it is closed."""

    def __init__(
        self,
        port: str,
        profile: DeviceProfile,
        name: str | None = None,
        *,
        flasher: Flasher | None = None,
        baud: int = BAUD,
        reset: ResetMode = ResetMode.NONE,
        levels: Levels = DEFAULT_LEVELS,
        replug_s: float = REPLUG_S,
        patience: Patience = DEFAULT_PATIENCE,
        policy: RepeatPolicy = DEFAULT,
    ) -> None:
        """Lock the board and open its port: a path, a USB serial number, or a URL; see ports.find_port.

        ``baud`` is the speed to change to where the board can. Raises DeviceError when the port cannot be opened, and
        BoardBusyError when somebody else uses it.
        """
        self.name = name or f"serial:{port}"
        self._profile = profile
        self._flasher = flasher
        self._policy = policy
        self._image: FirmwareImage | None = None
        self._flashed: Flashed | None = None
        with ExitStack() as stack:
            stack.enter_context(board_lock(port_identity(await_port(port)), board=self.name))
            self._port = stack.enter_context(closing(open_port(port, self.name, levels=levels, replug_s=replug_s)))
            if baud != BAUD and self._port.is_socket:
                raise DeviceError(
                    f"the board {self.name} is at {port}, through which no speed can be set; leave out its baud, or "
                    "use rfc2217://"
                )
            self._open = stack.pop_all()
        self._session = SerialSession(self._port, self.name, patience=patience, baud=baud, reset=reset)

    @property
    def session(self) -> SerialSession:
        """The conversation with the board, for what is no measurement."""
        return self._session

    def flash(self, image: Image) -> None:
        """Make the board run ``image``: written by the flasher unless it is there already.

        Raises DeviceError, without a flasher with how to write it.
        """
        firmware = firmware_of(image, self.name)
        if firmware.device != self._profile.name:
            raise DeviceError(
                f"the image was built for {firmware.device}, not for {self._profile.name}; build it again"
            )
        try:
            self._session.sync()
            self._session.require_model(firmware.model_id)
        except (OtherModelError, ForeignFirmwareError, NoAnswerError) as error:
            self._write(firmware, error)
        self._image = firmware

    def measure(self, inputs: Sequence[bytes], runs: int | None = None) -> Measurement:
        """Time the inputs in turn until the median is known well enough, or each of them exactly ``runs`` times.

        Inferences of fast networks are timed together; a latency is then the mean of these. The layers' cycles are
        those of one inference of the first input.
        """
        image = self._running()
        if not inputs or (runs is not None and runs < 1):
            raise DeviceError("there is nothing to measure: give at least one input and one run")
        before = self._session.statistics.repetitions
        clock_hz = self._keep_model(self._session.info).ticks_per_second
        together = self._runs_per_sample(inputs[0], clock_hz)
        latencies: tuple[float, ...]
        if runs is None:
            turns = cycle(inputs)
            policy = replace(self._policy, warmups=max(0, self._policy.warmups - 1))  # one was made just now
            latencies = repeat_until_steady(lambda: self._latency_ms(next(turns), together, clock_hz), policy)
            count = together * len(latencies)
        else:
            latencies = tuple(
                self._latency_ms(data, share, clock_hz) for data in inputs for share in _shares(runs, together)
            )
            count = runs * len(inputs)
        latency_ms = median(latencies)
        layer_cycles = self._keep_model(lambda: self._session.layers(inputs[0]))
        return Measurement.of_image(
            image,
            board=self.name,
            latency_ms=latency_ms,
            cycles=round(latency_ms * clock_hz / 1e3),
            instructions=None,
            layer_cycles=layer_cycles,
            runs=count,
            clock_hz=clock_hz,
            latencies_ms=latencies,
            conditions=self._conditions(before),
        )

    def outputs(self, inputs: Sequence[bytes]) -> list[bytes]:
        """The raw output of each raw input."""
        self._running()
        return [self._output(data) for data in inputs]

    def close(self) -> None:
        """Close the port and let others use the board."""
        self._open.close()

    def _running(self) -> FirmwareImage:
        if self._image is None:
            raise DeviceError(f"it is not known what the board {self.name} runs: flash an image first")
        return self._image

    def _output(self, data: bytes) -> bytes:
        return self._keep_model(lambda: self._session.run(data))

    def _latency_ms(self, data: bytes, runs: int, clock_hz: int) -> float:
        ticks = self._keep_model(lambda: self._session.time(data, runs))
        return ticks / runs / clock_hz * 1e3

    def _runs_per_sample(self, data: bytes, clock_hz: int) -> int:
        """How many inferences to time together; finding out is the warm-up."""
        ticks = self._keep_model(lambda: self._session.time(data, 1))
        together = min(MOST_RUNS_PER_SAMPLE, math.ceil(SAMPLE_S * clock_hz / max(1, ticks)))
        if together > 1:
            try:
                self._keep_model(lambda: self._session.time(data, 2))
            except BoardReplyError as error:
                if "use infer 1 0" not in str(error):
                    raise
                return 1  # the board has no memory to keep the first result in
        return together

    def _keep_model(self, operation: Callable[[], _T]) -> _T:
        """Do it, and again if the board turns out to have been given another model meanwhile and can be given ours."""
        for _ in range(FLASHES):
            try:
                return operation()
            except OtherModelError as error:
                self._write(self._running(), error)
        return operation()

    def _write(self, image: FirmwareImage, reason: DeviceError) -> None:
        """Write the image with the port closed: some tools write through it, and some boards go away meanwhile."""
        if self._flasher is None:
            if not isinstance(reason, OtherModelError):
                raise reason
            flashing = self._profile.flashing
            tool = next(iter(flashing.runners)) if flashing is not None else "your board's flashing tool"
            raise DeviceError(f"{reason}; write {image.bin} to the start of its flash with {tool} and run this again")
        self._session.forget_model()
        self._port.close()
        self._flashed = self._flasher.write(image, self._model_after_start)
        try:
            self._session.reopen()
            self._session.require_model(image.model_id)
        except OtherModelError as error:
            raise DeviceError(
                f"{self._flasher.runner} wrote {image.bin}, and {error}: check that its probe_id in boards.toml is "
                "that of the board on this port"
            ) from error

    def _model_after_start(self) -> str:
        self._session.reopen()
        try:
            return self._session.info().model_id
        finally:
            self._port.close()

    def _conditions(self, repetitions_before: int) -> dict[str, str]:
        memory = self._keep_model(self._session.memory)
        conditions = {
            "port": self._port.path,
            "baud": str(self._port.baud),
            "repetitions": str(self._session.statistics.repetitions - repetitions_before),
            "stack_used_bytes": str(memory.stack_used),
            "stack_bytes": str(memory.stack),
        }
        if self._port.info is not None and self._port.info.usb_serial is not None:
            conditions["usb_serial"] = self._port.info.usb_serial
        if self._flashed is not None:
            conditions["flasher"] = f"{self._flashed.runner} {self._flashed.version}".strip()
            conditions["flash_verified_by"] = self._flashed.verified_by
        return conditions


def _shares(runs: int, together: int) -> Iterator[int]:
    """``runs`` in as few parts as there may be of at most ``together``, which differ by one at most."""
    parts = math.ceil(runs / together)
    for part in range(parts):
        yield (runs + part) // parts
