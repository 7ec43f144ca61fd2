"""What happens in a study: one model per line of its journal."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PlainSerializer,
    PositiveInt,
    TypeAdapter,
)

from tinynas.architecture import Architecture
from tinynas.evaluation import Costs, Evaluation
from tinynas.narrowing import SubSpace

ArchitectureText = Annotated[
    Architecture,
    BeforeValidator(lambda value: Architecture.parse(value) if isinstance(value, str) else value),
    PlainSerializer(str),
]
"""An architecture, written in its text form."""

Fraction = Annotated[float, Field(ge=0, le=1)]


class _Event(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    time: AwareDatetime = Field(default_factory=lambda: datetime.now(UTC))


class StudyStarted(_Event):
    """The first line of every journal."""

    type: Literal["study_started"] = "study_started"
    versions: dict[str, str]
    """Of Python and of the packages that decide the result."""


class RejectedCandidate(BaseModel):
    """An architecture that did not fit, with a sentence for each limit it broke."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: ArchitectureText
    reasons: tuple[str, ...]


class EvaluationFinished(_Event):
    """A candidate's accuracy is known.

    What was turned away on the way to it is in the same line, so that a kill cannot part them and count it twice.
    """

    type: Literal["evaluation_finished"] = "evaluation_finished"
    architecture: ArchitectureText
    costs: Costs
    accuracy: Fraction
    rejected: NonNegativeInt = 0
    """Architectures turned away since the evaluation before."""
    rejected_by_constraint: dict[str, NonNegativeInt] = {}
    """How many of them broke each constraint; one may break several."""
    nearest_rejected: RejectedCandidate | None = None
    """The one of them that came closest to fitting."""

    @property
    def evaluation(self) -> Evaluation:
        """The line's evaluation as a value."""
        return Evaluation(self.architecture, self.costs, self.accuracy)


class SpaceNarrowed(_Event):
    """The search goes on in one sub-space, at one resolution and width."""

    type: Literal["space_narrowed"] = "space_narrowed"
    resolution: PositiveInt | None
    """None where no sample fitted, and so the whole space is searched; likewise the width."""
    width: float | None
    sub_spaces: tuple[SubSpace, ...]
    seconds: NonNegativeFloat


class StageDone(_Event):
    """A step of the study that is not an evaluation, such as the supernet's training, need not be repeated."""

    type: Literal["stage_done"] = "stage_done"
    stage: str
    seconds: NonNegativeFloat
    files: tuple[str, ...] = ()
    """What it left, relative to the study's folder."""
    figures: dict[str, float] = {}


class CandidateTrained(_Event):
    """A candidate was trained beyond what its evaluation took."""

    type: Literal["candidate_trained"] = "candidate_trained"
    architecture: ArchitectureText
    accuracy: Fraction
    """On the validation images, by which the winner is chosen."""
    test_accuracy: Fraction
    epochs: NonNegativeInt
    seconds: NonNegativeFloat
    checkpoint: str
    """Relative to the study's folder."""


class Exported(_Event):
    """A candidate's files were written."""

    type: Literal["exported"] = "exported"
    architecture: ArchitectureText
    folder: str
    """Relative to the study's folder."""
    accuracy: dict[str, Fraction]
    """By stage: torch, onnx, tflite, int8."""
    sram_bytes: NonNegativeInt
    flash_bytes: NonNegativeInt


class Measured(_Event):
    """A candidate was run on a board."""

    type: Literal["measured"] = "measured"
    architecture: ArchitectureText
    weights: Literal["random", "trained"]
    """Random weights take the same time; they were measured to refit the cost model before anything was trained."""
    board: str
    latency_ms: NonNegativeFloat
    predicted_latency_ms: NonNegativeFloat
    """By the study's first cost model."""
    cycles: NonNegativeInt
    instructions: NonNegativeInt | None
    layer_cycles: tuple[NonNegativeInt, ...]
    sram_bytes: NonNegativeInt
    flash_bytes: NonNegativeInt
    code_bytes: NonNegativeInt | None = None
    """None in journals of the first studies, which did not record it."""
    firmware_sha256: str
    toolchain: str


class Verified(_Event):
    """A candidate's outputs on a board were compared with the reference kernels'."""

    type: Literal["verified"] = "verified"
    architecture: ArchitectureText
    board: str
    inputs: NonNegativeInt
    identical: NonNegativeInt
    max_abs_diff: NonNegativeFloat


class CostModelRefitted(_Event):
    """The latency model was fitted to measurements.

    Errors are mean absolute percentages over the measured networks, each predicted after the refit by a model fitted to
    the others.
    """

    type: Literal["cost_model_refitted"] = "cost_model_refitted"
    board: str
    measurements: NonNegativeInt
    mape_before: NonNegativeFloat
    mape_after: NonNegativeFloat


Event = (
    StudyStarted
    | EvaluationFinished
    | SpaceNarrowed
    | StageDone
    | CandidateTrained
    | Exported
    | Measured
    | Verified
    | CostModelRefitted
)

EVENT: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="type")])
"""Reads one line."""
