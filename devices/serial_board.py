"""A real board on a serial port that runs the tinynas firmware."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median_low
from types import TracebackType
from typing import Self

from devices.board import Image, Measurement
from devices.errors import DeviceError
from devices.firmware import FirmwareImage, firmware_of
from devices.profile import DeviceProfile
from devices.protocol import SerialSession, open_port


class SerialBoard:
    """A board at the other end of a serial port, such as ``/dev/serial/by-id/…``."""

    def __init__(self, port: str, profile: DeviceProfile, name: str | None = None) -> None:
        """Open the port. Raises DeviceError when it cannot be opened."""
        self.name = name or f"serial:{port}"
        self._profile = profile
        self._image: FirmwareImage | None = None
        self._port = open_port(port, self.name)
        self._session = SerialSession(self._port, self.name)

    def flash(self, image: Image) -> None:
        """Check that the board runs ``image``. Raises DeviceError with how to write it there when it does not."""
        firmware = firmware_of(image, self.name)
        self._session.sync()
        running = self._session.info().model_id
        if running != image.model_id:
            tool = self._profile.flashing or "your board's flashing tool"
            raise DeviceError(
                f"the board {self.name} runs the model {running}, not {image.model_id}; write {firmware.bin} to the "
                f"start of its flash with {tool} and run this again"
            )
        self._image = firmware

    def measure(self, inputs: Sequence[bytes], runs: int | None = None) -> Measurement:
        """Run each input ``runs`` times; the cycles are the median over the inputs of the mean over the runs."""
        image = self._flashed()
        runs = 1 if runs is None else runs
        if not inputs or runs < 1:
            raise DeviceError("there is nothing to measure: give at least one input and one run")
        cycles = []
        for data in inputs:
            self._session.load(data)
            self._session.infer(runs)
            count, ticks = self._session.ticks()
            cycles.append(round(ticks / count))
        self._session.load(inputs[0])
        layer_cycles = self._session.layers()
        clock_hz = self._session.info().ticks_per_second
        return Measurement.of_image(
            image,
            board=self.name,
            latency_ms=median_low(cycles) / clock_hz * 1e3,
            cycles=median_low(cycles),
            instructions=None,
            layer_cycles=layer_cycles,
            runs=len(inputs) * runs,
            clock_hz=clock_hz,
        )

    def outputs(self, inputs: Sequence[bytes]) -> list[bytes]:
        """The raw output of each raw input."""
        self._flashed()
        return [self._session.run(data) for data in inputs]

    def close(self) -> None:
        """Close the port."""
        self._port.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _flashed(self) -> FirmwareImage:
        if self._image is None:
            raise DeviceError(f"it is not known what the board {self.name} runs: flash an image first")
        return self._image
