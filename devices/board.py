"""What every board can do, and what it says about a network that it ran."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self


class Image(Protocol):
    """What a board runs: a firmware with a model in it, or a model for a phone's runtime."""

    @property
    def device(self) -> str:
        """The profile that it was made for."""
        ...

    @property
    def model_id(self) -> str:
        """Tells one model from every other."""
        ...

    @property
    def arena_bytes(self) -> int:
        """Memory for activations."""
        ...

    @property
    def flash_bytes(self) -> int:
        """What it takes of the storage."""
        ...

    @property
    def code_bytes(self) -> int:
        """Machine code of the model and of its kernels."""
        ...

    @property
    def sha256(self) -> str:
        """Of the file that is written to the board."""
        ...

    @property
    def toolchain(self) -> str:
        """What it was made with."""
        ...


@dataclass(frozen=True)
class OperatorTime:
    """What a phone's profiler says of one operator of the network."""

    name: str
    kind: str
    latency_ms: float


@dataclass(frozen=True)
class Measurement:
    """One network on one board. Cycles and instructions are those of one inference."""

    board: str
    device: str
    model_id: str
    latency_ms: float
    """The median of ``latencies_ms``."""
    cycles: int | None
    """Zero-wait cycles on an emulated board, clock cycles on a real one; None on a phone, whose clock varies."""
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
    latencies_ms: tuple[float, ...] = ()
    """Every timed repetition in order, outliers too; each is the mean of the inferences that were timed together."""
    operators: tuple[OperatorTime, ...] = ()
    """On a phone, in place of ``layer_cycles``."""
    conditions: Mapping[str, str] = field(default_factory=dict)
    """What else it takes to repeat the measurement: port, probe, baud, flasher, core mask, threads, temperature, …

    ``warnings`` are the board's own doubts about it.
    """

    @classmethod
    def of_image(
        cls,
        image: Image,
        *,
        board: str,
        clock_hz: int,
        latency_ms: float,
        cycles: int | None,
        instructions: int | None,
        layer_cycles: tuple[int, ...],
        runs: int,
        latencies_ms: tuple[float, ...] = (),
        operators: tuple[OperatorTime, ...] = (),
        conditions: Mapping[str, str] | None = None,
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
            latencies_ms=latencies_ms,
            operators=operators,
            conditions=conditions or {},
        )


class Board(Protocol):
    """One physical or emulated thing to run a firmware image on. Use it in a ``with`` statement, or close it."""

    name: str

    def flash(self, image: Image) -> None:
        """Make the board run ``image``. Raises DeviceError, also when the image is for another kind of board."""
        ...

    def measure(self, inputs: Sequence[bytes], runs: int | None = None) -> Measurement:
        """Time each input ``runs`` times, by default until the median is known well enough. Raises DeviceError."""
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
