"""What a report shows: everything that the page of a study knows."""

from __future__ import annotations

from dataclasses import dataclass

from tinynas.narrowing import SubSpace


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """The part that the study is for, as its profile has it."""

    name: str
    description: str
    core: str
    clock_hz: int
    sram_bytes: int
    flash_bytes: int
    reserved_sram_bytes: int
    """Taken by start-up code, stack and harness; likewise for flash."""
    reserved_flash_bytes: int
    active_power_mw: float


@dataclass(frozen=True, slots=True)
class Limits:
    """What a candidate may take; ``None`` is no limit."""

    sram_bytes: int
    flash_bytes: int
    latency_ms: float | None = None
    energy_mj: float | None = None


@dataclass(frozen=True, slots=True)
class Rejections:
    """How many sampled architectures broke one limit."""

    limit: str
    count: int


@dataclass(frozen=True, slots=True)
class Download:
    """One exported file; ``relative_path`` starts at the report's folder and uses forward slashes."""

    name: str
    relative_path: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class ReportCandidate:
    """One architecture that was evaluated. Accuracies are fractions from 0 to 1; ``None`` is not known (yet)."""

    candidate_id: str
    architecture: str
    search_accuracy: float | None
    """Validation accuracy as the search found it."""
    predicted_before_ms: float
    """Latency that the cost model gave before it was refitted."""
    energy_mj: float
    sram_bytes: int
    flash_bytes: int
    macs: int
    validation_accuracy: float | None = None
    """Of the candidate's own weights, after it was trained by itself; likewise for the test set."""
    test_accuracy: float | None = None
    predicted_after_ms: float | None = None
    measured_ms: float | None = None
    is_front: bool = False
    is_winner: bool = False
    files: tuple[Download, ...] = ()

    @property
    def latency_ms(self) -> float:
        """The best known latency: measured, else predicted after the refit, else before it."""
        if self.measured_ms is not None:
            return self.measured_ms
        return self.predicted_before_ms if self.predicted_after_ms is None else self.predicted_after_ms

    @property
    def trained_accuracy(self) -> float | None:
        """The accuracy that candidates are compared by once trained: validation, else test."""
        return self.test_accuracy if self.validation_accuracy is None else self.validation_accuracy

    @property
    def best_known_accuracy(self) -> float | None:
        return self.search_accuracy if self.trained_accuracy is None else self.trained_accuracy


@dataclass(frozen=True, slots=True)
class LatencyPair:
    """One measured network and what the cost model said of it."""

    label: str
    predicted_before_ms: float
    predicted_after_ms: float
    measured_ms: float


@dataclass(frozen=True, slots=True)
class FitFigures:
    """How well predictions agree with measurements. ``None`` is not defined for so few pairs."""

    mape_percent: float
    kendall_tau: float | None
    within_10_percent: float
    """Percentage of predictions within ±10 % of the measurement."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """The cost model before and after its refit, on the same measured networks."""

    pairs: tuple[LatencyPair, ...]
    before: FitFigures
    after: FitFigures
    note: str = ""
    """How the predictions after the refit were made, for example that each network was left out of its own fit."""


@dataclass(frozen=True, slots=True)
class ArenaBuffer:
    """One tensor in the arena, alive from ``first_layer`` to ``last_layer``, both included and counted from 0."""

    tensor: str
    offset_bytes: int
    size_bytes: int
    first_layer: int
    last_layer: int
    at_peak: bool = False
    """Whether it is alive when the most bytes are."""


@dataclass(frozen=True, slots=True)
class MemoryMap:
    """The plan of the winner's arena."""

    layer_names: tuple[str, ...]
    buffers: tuple[ArenaBuffer, ...]
    arena_bytes: int
    lower_bound_bytes: int
    sram_limit_bytes: int


@dataclass(frozen=True, slots=True)
class LayerCycles:
    """What one layer of the winner costs."""

    name: str
    kind: str
    macs: int
    cycles: float

    @property
    def cycles_per_mac(self) -> float | None:
        return self.cycles / self.macs if self.macs else None


@dataclass(frozen=True, slots=True)
class Narrowing:
    """How the sub-space that was searched was chosen."""

    sub_spaces: tuple[SubSpace, ...]
    chosen: SubSpace | None
    """None where no sample fitted."""
    samples: int
    """Of each sub-space."""
    seconds: float


@dataclass(frozen=True, slots=True)
class ReportData:
    """Everything that the page shows."""

    study: str
    command: str
    """The command line that repeats the study."""
    device: DeviceFacts
    limits: Limits
    data_set: str
    space: str
    strategy: str
    objectives: tuple[str, ...]
    """As they stand in a sentence."""
    accuracy_source: str
    """Where accuracies of the search come from, as it stands in a sentence, for example ``supernet``."""
    trials: int
    seed: int
    sampled: int
    """Architectures drawn, the rejected ones included."""
    rejected: tuple[Rejections, ...] = ()
    candidates: tuple[ReportCandidate, ...] = ()
    history: tuple[float, ...] = ()
    """The accuracy of every evaluation, in order; those of candidates that turned out to break a limit too."""
    narrowing: Narrowing | None = None
    calibration: Calibration | None = None
    winner_memory: MemoryMap | None = None
    winner_layers: tuple[LayerCycles, ...] = ()
    layer_source: str = "predicted by the cost model"
    """Where the layers' cycles come from, for example ``measured on emulator``."""
    board: str | None = None
    """The id of the board that measured, if one did."""
    toolchain: str | None = None
    settings: tuple[tuple[str, str], ...] = ()
    """Further settings of the study, in the order to show them."""
    versions: tuple[tuple[str, str], ...] = ()
    """Package and tool names with their versions."""
    hashes: tuple[tuple[str, str], ...] = ()
    """What was hashed, and its SHA-256."""

    @property
    def winner(self) -> ReportCandidate | None:
        return next((candidate for candidate in self.candidates if candidate.is_winner), None)

    @property
    def front(self) -> tuple[ReportCandidate, ...]:
        """The front from the fastest to the slowest."""
        return tuple(sorted((c for c in self.candidates if c.is_front), key=lambda c: c.latency_ms))
