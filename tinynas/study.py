"""A study: one search, its settings and its journal, in one folder, which any kill leaves whole."""

from __future__ import annotations

import fcntl
import os
import platform
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, TypeVar

import tomli_w
from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt, ValidationError, field_validator

from devices.host.closing import Closing
from tinynas.constraints import Admission, InfeasibleBudgetError, Limits, Rejections
from tinynas.errors import SearchError
from tinynas.evaluation import AccuracyFunction, Evaluation
from tinynas.events import EvaluationFinished, Event, RejectedCandidate, StudyStarted
from tinynas.files import TEMPORARY_SUFFIX, cannot_write, sync_folder, write_atomically
from tinynas.journal import Journal, first_reason, read_journal
from tinynas.objectives import checked_objectives
from tinynas.strategies.sampler import SpaceExhaustedError
from tinynas.strategies.strategy import Strategy

SETTINGS_FILE = "study.toml"
JOURNAL_FILE = "journal.jsonl"
LOCK_FILE = ".lock"
RECORDED_PACKAGES = ("tinynas", "torch", "numpy")

E = TypeVar("E", bound=Event)


class StudySettings(BaseModel):
    """Everything that decides a study's result, as ``study.toml`` holds it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    version: Literal[1] = 1
    """Of the folder's format."""
    device: str
    data: str
    space: str
    """The name of a space that comes with tinynas, or the path of a file."""
    space_sha256: str = ""
    """Of what is in the file; the study keeps a copy of its own."""
    narrow_samples: NonNegativeInt = 0
    """Architectures of each sub-space that are sampled to choose one; 0 searches the whole space."""
    accuracy: str = "supernet"
    """How it is found: one of ``tinynas.accuracy.ACCURACY``."""
    strategy: str
    objectives: tuple[str, ...] = ("accuracy", "latency")
    """By name, as in ``tinynas.objectives.OBJECTIVES``."""
    trials: PositiveInt
    seed: int
    limits: dict[str, float] = {}
    """By constraint name, as in ``tinynas.constraints.CONSTRAINTS``."""
    training: dict[str, int | float | str | bool] = {}
    """How much work it is, as in ``tinynas.effort.Effort``."""

    @field_validator("limits")
    @classmethod
    def _known_limits(cls, limits: dict[str, float]) -> dict[str, float]:
        return Limits.from_mapping(limits).as_mapping()

    @field_validator("objectives")
    @classmethod
    def _known_objectives(cls, objectives: tuple[str, ...]) -> tuple[str, ...]:
        return checked_objectives(objectives)


class Study(Closing):
    """One study's folder. ``open`` it to go on with it, or ``read`` it while somebody else does."""

    def __init__(self, folder: Path, settings: StudySettings, events: list[Event], journal: Journal | None, lock: int):
        self.folder = folder
        self.settings = settings
        self._events = events
        self._journal = journal
        self._lock = lock

    @classmethod
    def open(cls, folder: Path, settings: StudySettings | None = None) -> Study:
        """Create the study of ``folder``, or resume it; without ``settings`` it has to exist and keeps its own.

        The study is this process's until it is closed or killed. Raises SearchError when another process has it, when
        ``settings`` are not those it was started with, when the folder holds something else, or when a file of it
        cannot be read or written.
        """
        if settings is None and not (folder / SETTINGS_FILE).exists():
            raise _no_study(folder)
        lock = _lock(folder)
        try:
            settings = _create_or_compare(folder, settings)
            journal = Journal(folder / JOURNAL_FILE)
            study = cls(folder, settings, journal.events, journal, lock)
            if not journal.events:
                study.append(StudyStarted(versions=_versions()))
            return study
        except BaseException:
            os.close(lock)
            raise

    @classmethod
    def read(cls, folder: Path) -> Study:
        """The study of ``folder`` as it is now, to look at; ``append`` is refused. Raises SearchError."""
        if not (folder / SETTINGS_FILE).exists():
            raise _no_study(folder)
        journal_path = folder / JOURNAL_FILE
        events = read_journal(journal_path)[0] if journal_path.exists() else []
        return cls(folder, _read_settings(folder / SETTINGS_FILE), events, None, -1)

    @property
    def note(self) -> str | None:
        """What was repaired when the study was opened, for the user to know."""
        return self._journal.note if self._journal is not None else None

    @property
    def events(self) -> tuple[Event, ...]:
        """Everything that happened, in order."""
        return tuple(self._events)

    def events_of(self, kind: type[E]) -> tuple[E, ...]:
        """The events of one kind, in order."""
        return tuple(event for event in self._events if isinstance(event, kind))

    @property
    def evaluations(self) -> tuple[Evaluation, ...]:
        """Every finished evaluation, in order."""
        return tuple(event.evaluation for event in self.events_of(EvaluationFinished))

    def append(self, event: Event) -> None:
        """Record ``event``; when this returns it is on the disk. Raises SearchError, and then nothing is recorded."""
        if self._journal is None:
            raise SearchError(f"the study '{self.folder}' is not open for writing; open it before adding to it")
        self._journal.append(event)

    def close(self) -> None:
        """Let another process have the study."""
        if self._journal is not None:
            self._journal.close()
            os.close(self._lock)
            self._journal = None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a search is."""

    done: int
    trials: int
    resumed: int
    """How many of ``done`` were there before this process."""
    rejected: int
    """Architectures that the limits turned away so far."""
    latest: Evaluation


@dataclass(frozen=True, slots=True)
class SearchOutcome:
    """What a search ended with."""

    evaluations: tuple[Evaluation, ...]
    rejected: int
    """Architectures that the limits turned away."""
    note: str | None
    """What the user should know: an exhausted space, or costs that changed since the study began."""


def search(
    study: Study,
    strategy: Strategy,
    admission: Admission,
    accuracy: AccuracyFunction,
    *,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> SearchOutcome:
    """Evaluate until the study has the trials of its settings, or until no more architectures fit.

    ``strategy`` is fresh and filters with ``admission``. What the journal holds is replayed to it first, not evaluated
    again; with the same costs and accuracy, a study that was killed anywhere ends with the evaluations of one that was
    not. Raises what the strategy raises when nothing fits, and SearchError when the journal cannot be written.
    """
    note = _replay(study, strategy)
    evaluations = list(study.evaluations)
    resumed = len(evaluations)
    rejected = sum(event.rejected for event in study.events_of(EvaluationFinished))
    trials = study.settings.trials
    admission.forget_rejections()  # those of the replay are in the journal already
    while len(evaluations) < trials:
        try:
            architecture = strategy.ask()
        except SpaceExhaustedError as error:
            note = str(error)
            break
        evaluation = Evaluation(architecture, admission.costs(architecture), accuracy(architecture))
        study.append(_finished(evaluation, admission.rejections))
        strategy.tell(evaluation)
        evaluations.append(evaluation)
        rejected += admission.rejections.count
        admission.forget_rejections()
        on_progress(Progress(len(evaluations), trials, resumed, rejected, evaluation))
    return SearchOutcome(tuple(evaluations), rejected, note)


def _replay(study: Study, strategy: Strategy) -> str | None:
    """Bring a fresh strategy to where the journal ends; says so when it would have gone another way by now."""
    follows = True
    for evaluation in study.evaluations:
        if follows:
            try:
                follows = strategy.ask() == evaluation.architecture
            except (InfeasibleBudgetError, SpaceExhaustedError):
                follows = False
        strategy.tell(evaluation)
    if follows:
        return None
    return (
        f"the costs or the strategy have changed since '{study.folder}' began: its evaluations are kept, but a search "
        "from the start would choose others"
    )


def _finished(evaluation: Evaluation, rejections: Rejections) -> EvaluationFinished:
    nearest = rejections.nearest
    return EvaluationFinished(
        architecture=evaluation.architecture,
        costs=evaluation.costs,
        accuracy=evaluation.accuracy,
        rejected=rejections.count,
        rejected_by_constraint=rejections.by_constraint,
        nearest_rejected=nearest
        and RejectedCandidate(architecture=nearest.architecture, reasons=tuple(map(str, nearest.violations))),
    )


def _lock(folder: Path) -> int:
    """Create ``folder`` where it is missing, and hold its lock until the descriptor is closed or the process ends.

    The kernel drops the lock of a process that was killed, so no stale lock is ever in the way.
    """
    path = folder / LOCK_FILE
    try:
        _make_folder(folder)
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise cannot_write(path, error) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(lock, 0)
        os.write(lock, str(os.getpid()).encode())
        return lock
    except BlockingIOError as error:
        holder = os.read(lock, 20).decode(errors="replace") or "unknown"
        os.close(lock)
        raise SearchError(
            f"the study '{folder}' is in use by process {holder}; wait until it ends, or choose another folder"
        ) from error
    except OSError as error:
        os.close(lock)
        raise cannot_write(path, error) from error


def _make_folder(folder: Path) -> None:
    if folder.is_dir():
        names = {path.name for path in folder.iterdir()}
        if SETTINGS_FILE not in names and names - {LOCK_FILE, SETTINGS_FILE + TEMPORARY_SUFFIX}:
            raise SearchError(f"'{folder}' is not a study and not empty; choose another folder")
        return
    if folder.exists():
        raise SearchError(f"'{folder}' is a file; choose another folder for the study")
    folder.mkdir(parents=True, exist_ok=True)
    sync_folder(folder.parent)


def _create_or_compare(folder: Path, settings: StudySettings | None) -> StudySettings:
    """The settings of the study in ``folder``, which become ``settings`` if it has none yet."""
    path = folder / SETTINGS_FILE
    if not path.exists():
        if settings is None:
            raise _no_study(folder)
        write_atomically(path, tomli_w.dumps(settings.model_dump()))
        return settings
    recorded = _read_settings(path)
    if settings is not None and recorded != settings:
        differences = "; ".join(_differences(recorded.model_dump(), settings.model_dump()))
        raise SearchError(
            f"the study '{folder}' was started with other settings: {differences}; "
            "use the same to resume it, or choose another folder"
        )
    return recorded


def _differences(recorded: dict[str, Any], wanted: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name in sorted(recorded.keys() | wanted.keys()):
        one, other = recorded.get(name), wanted.get(name)
        if isinstance(one, dict) and isinstance(other, dict):
            yield from _differences(one, other, f"{prefix}{name}.")
        elif one != other:
            yield f"{prefix}{name} was {_shown(one)}, now {_shown(other)}"


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return "not set" if value is None else str(value)


def _read_settings(path: Path) -> StudySettings:
    try:
        return StudySettings.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise SearchError(f"'{path}' could not be read ({error.strerror})") from error
    except (ValidationError, SearchError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SearchError(
            f"'{path}' does not hold a study's settings ({first_reason(error)}); "
            "restore it from a copy, or choose another folder"
        ) from error


def _no_study(folder: Path) -> SearchError:
    return SearchError(f"there is no study in '{folder}'; start one with 'tinynas search … -o {folder}'")


def _versions() -> dict[str, str]:
    """Of Python and of the packages that decide a result, without importing them."""
    versions = {"python": platform.python_version()}
    for name in RECORDED_PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return versions
