"""Training from scratch, stopped early: successive halving, one candidate after another.

A candidate trains to one rung of epochs after the other. It goes past a rung only if it is among the best 1/eta of all
that reached that rung so far, itself included, so most of the time goes into the few that may win. This is asynchronous
successive halving (Li et al., "A System for Massively Parallel Hyperparameter Tuning", MLSys 2020) in the form that
stops rather than pauses: a study wants each candidate's accuracy before it chooses the next.

The accuracy of a candidate is that at the last rung it reached. A stopped one would have come further; it was behind
others after the same epochs, and its figure is comparable with theirs at that rung alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from pydantic import BaseModel, ConfigDict, ValidationError

from tinynas.architecture import Architecture
from tinynas.errors import SearchError
from tinynas.files import write_atomically


@dataclass(frozen=True, slots=True)
class Rungs:
    """After how many epochs a candidate is compared. Raises SearchError for figures that make no ladder."""

    epochs: int = 9
    """Of the whole training: the last rung."""
    eta: int = 3
    """One candidate in so many goes on to the next rung, which has so many times the epochs."""

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.eta < 2:
            raise SearchError(
                f"successive halving with {self.epochs} epochs and eta {self.eta} has no rungs; "
                "give at least 1 epoch and an eta of at least 2"
            )

    @property
    def ladder(self) -> tuple[int, ...]:
        """The rungs, ascending: ``epochs`` divided by ``eta`` as long as an epoch is left."""
        rungs = [self.epochs]
        while rungs[0] >= self.eta:
            rungs.insert(0, rungs[0] // self.eta)
        return tuple(rungs)


class Trainer(Protocol):
    """What trains the candidates; `tinynas.accuracy.ScratchTrainer` is the one with networks and data."""

    def train(self, architecture: Architecture, until: int, rungs: Rungs) -> float:
        """Train on to ``until`` epochs of ``rungs.epochs`` and return the validation accuracy that was reached there.

        Goes on from where an earlier call for the architecture left off, also in another process, and must return the
        same when it has been there already.
        """
        ...

    def forget(self, architecture: Architecture) -> None:
        """Remove what was kept to go on from, if anything."""
        ...


class _Candidate(BaseModel):
    """One line of the record: the accuracy at each rung that was reached."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    architecture: str
    accuracies: tuple[float, ...]


class _Record(BaseModel):
    """The file of a halving."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    version: int = 1
    identity: dict[str, object]
    candidates: tuple[_Candidate, ...] = ()


@dataclass
class SuccessiveHalving:
    """An AccuracyFunction that trains each architecture from scratch and stops it when it falls behind.

    What a candidate is compared with are the candidates before it, which ``record`` keeps: a file that is replaced
    whole after each. It is the one thing that a resumed study needs besides its journal, whose lines hold a candidate's
    last accuracy alone. A candidate that is in the record is not trained again. Raises SearchError when the record
    belongs to other work than ``identity`` describes, or cannot be read.
    """

    trainer: Trainer
    rungs: Rungs
    record: Path
    identity: Mapping[str, object]
    """What the accuracies depend on: data, training settings, seed."""
    _reached: dict[str, tuple[float, ...]] = field(init=False)
    """The accuracies at the rungs by architecture, in the order in which they were trained."""

    def __post_init__(self) -> None:
        identity = {**self.identity, "ladder": self.rungs.ladder, "eta": self.rungs.eta}
        self._identity: dict[str, object] = json.loads(json.dumps(identity))
        self._reached = self._read()

    def __call__(self, architecture: Architecture) -> float:
        """The validation accuracy at the last rung that ``architecture`` reaches."""
        name = str(architecture)
        if name not in self._reached:
            accuracies: list[float] = []
            for rung, epochs in enumerate(self.rungs.ladder):
                accuracies.append(self.trainer.train(architecture, epochs, self.rungs))
                if not self._goes_on(rung, accuracies[-1]):
                    break
            self._reached[name] = tuple(accuracies)
            self._write()
        self.trainer.forget(architecture)  # also after a kill between the record and this line
        return self._reached[name][-1]

    def reached(self, architecture: Architecture) -> int | None:
        """After how many epochs ``architecture`` was stopped, or all of them; None if it was not trained."""
        accuracies = self._reached.get(str(architecture))
        return self.rungs.ladder[len(accuracies) - 1] if accuracies else None

    def require(self, evaluated: Mapping[Architecture, float]) -> None:
        """Raise SearchError unless the record holds what a study's journal says was evaluated."""
        for architecture, accuracy in evaluated.items():
            if self._reached.get(str(architecture), (None,))[-1] != accuracy:
                raise SearchError(
                    f"'{self.record}' does not hold the training of {architecture}, which the study's journal does; "
                    "restore it from a copy, or start again in another folder"
                )

    def _goes_on(self, rung: int, accuracy: float) -> bool:
        seen = [accuracies[rung] for accuracies in self._reached.values() if len(accuracies) > rung]
        better = sum(other > accuracy for other in seen)
        return better < max(1, (len(seen) + 1) // self.rungs.eta)

    def _read(self) -> dict[str, tuple[float, ...]]:
        if not self.record.exists():
            return {}
        try:
            record = _Record.model_validate_json(self.record.read_bytes())
        except (OSError, ValidationError) as error:
            raise SearchError(
                f"'{self.record}' does not hold the rungs of a search ({type(error).__name__}); "
                "restore it from a copy, or start again in another folder"
            ) from error
        if record.identity != self._identity:
            raise SearchError(f"'{self.record}' belongs to other data or settings; delete it to start over")
        return {candidate.architecture: candidate.accuracies for candidate in record.candidates}

    def _write(self) -> None:
        candidates = tuple(_Candidate(architecture=a, accuracies=reached) for a, reached in self._reached.items())
        write_atomically(self.record, _Record(identity=self._identity, candidates=candidates).model_dump_json(indent=1))
