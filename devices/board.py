"""What every board can do, and what it says about a network that it ran."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from devices.firmware import FirmwareImage


@dataclass(frozen=True)
class Measurement:
    """One network on one board. Cycles and instructions are those of one inference."""

    board: str
    device: str
    model_id: str
    latency_ms: float
    cycles: int
    """Zero-wait cycles on an emulated board, clock cycles on a real one."""
    instructions: int | None
    """None where the board cannot count them."""
    layer_cycles: tuple[int, ...]
    runs: int
    """Inferences that the figures are the median of."""
    clock_hz: int
    sram_bytes: int
    """The arena."""
    flash_bytes: int
    code_bytes: int
    firmware_sha256: str
    toolchain: str

    @classmethod
    def of_image(
        cls,
        image: FirmwareImage,
        *,
        board: str,
        clock_hz: int,
        latency_ms: float,
        cycles: int,
        instructions: int | None,
        layer_cycles: tuple[int, ...],
        runs: int,
    ) -> Self:
        """What a board measured, with what the image says of itself."""
        return cls(
            board=board,
            device=image.device,
            model_id=image.model_id,
            latency_ms=latency_ms,
            cycles=cycles,
            instructions=instructions,
            layer_cycles=layer_cycles,
            runs=runs,
            clock_hz=clock_hz,
            sram_bytes=image.arena_bytes,
            flash_bytes=image.flash_bytes,
            code_bytes=image.code_bytes,
            firmware_sha256=image.sha256,
            toolchain=image.toolchain,
        )


class Board(Protocol):
    """One physical or emulated thing to run a firmware image on. Use it in a ``with`` statement, or close it."""

    name: str

    def flash(self, image: FirmwareImage) -> None:
        """Make the board run ``image``. Raises DeviceError."""
        ...

    def measure(self, inputs: Sequence[bytes], runs: int) -> Measurement:
        """Run each input ``runs`` times. Raises DeviceError."""
        ...

    def outputs(self, inputs: Sequence[bytes]) -> list[bytes]:
        """The network's raw output for each raw input. Raises DeviceError."""
        ...

    def close(self) -> None:
        """Let go of the board; closing twice is fine."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
