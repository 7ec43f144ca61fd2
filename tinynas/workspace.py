"""An opened study with everything that follows from its settings: device, data, space, costs."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import tomli_w

from devices.measured_power import current_profile
from devices.profile import DeviceProfile, load_profile, parse_profile
from tinynas.accuracy import check_accuracy
from tinynas.architecture import Architecture
from tinynas.candidate import CandidateCosts
from tinynas.constraints import Admission, Limits
from tinynas.cost_model import CostModel, current_cost_model
from tinynas.data import DataSet, data_names, load_data
from tinynas.effort import Effort
from tinynas.errors import SearchError
from tinynas.evaluation import Evaluation
from tinynas.events import CandidateTrained, CostModelRefitted, Measured, SpaceNarrowed
from tinynas.files import write_atomically
from tinynas.front import pareto_front
from tinynas.space import SearchSpace, default_space, load_space, space_names
from tinynas.strategies import STRATEGIES, make_strategy
from tinynas.strategies.problem import Problem
from tinynas.study import SETTINGS_FILE, Study, StudySettings

FIRST_MODEL = "cost_model_first.json"
DEVICE_FILE = "device.toml"
SPACE_FILE = "space.toml"
REFITTED_MODEL = "cost_model_refitted.json"


def candidate_id(architecture: Architecture) -> str:
    """A short name for an architecture: eight hex digits of its text's SHA-256."""
    return hashlib.sha256(str(architecture).encode()).hexdigest()[:8]


@dataclass(frozen=True)
class Workspace:
    """What every stage of a study works with."""

    study: Study
    profile: DeviceProfile
    """As it was when the study began: the study keeps it, and likewise its space and its first cost model."""
    data: DataSet
    space: SearchSpace
    limits: Limits
    first_model: CostModel
    """The cost model that the search filters and ranks with."""

    @classmethod
    def open(cls, folder: Path, settings: StudySettings | None) -> Self:
        """Create or resume the study of ``folder``; raises SearchError or DeviceError before anything is written."""
        data: DataSet | None
        if settings is not None:
            data = _prepared(settings)
            if not (folder / SETTINGS_FILE).exists():
                _require_a_fit(settings, data)
            study = Study.open(folder, settings)
        else:
            data = None
            study = Study.open(folder)
        try:
            return cls._with(study, data or load_data(study.settings.data), may_write=True)
        except BaseException:
            study.close()
            raise

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The study of ``folder`` to look at."""
        study = Study.read(folder)
        return cls._with(study, load_data(study.settings.data), may_write=False)

    @classmethod
    def _with(cls, study: Study, data: DataSet, *, may_write: bool) -> Self:
        model_path, device_path, space_path = (study.folder / name for name in (FIRST_MODEL, DEVICE_FILE, SPACE_FILE))
        if device_path.exists():
            profile = parse_profile(device_path.read_text(encoding="utf-8"), str(device_path))
        else:
            profile = current_profile(study.settings.device)
        space = load_space(space_path if space_path.exists() else study.settings.space)
        first_model = CostModel.load(model_path) if model_path.exists() else current_cost_model(profile)
        if may_write and not model_path.exists():
            write_atomically(device_path, tomli_w.dumps(profile.model_dump(exclude_none=True)))
            write_atomically(space_path, tomli_w.dumps(space.model_dump(exclude_none=True)))
            first_model.save(model_path)  # the last: a study that is killed before it begins again from here
        return cls(
            study=study,
            profile=profile,
            data=data,
            space=space,
            limits=Limits.for_device(profile, study.settings.limits),
            first_model=first_model,
        )

    @property
    def search_space(self) -> SearchSpace:
        """What is searched: the whole space, or the part of it that it was narrowed to."""
        for event in self.study.events_of(SpaceNarrowed):
            return self.space.restricted(self.data.input_shape, resolution=event.resolution, width=event.width)
        return self.space

    def costs(self, model: CostModel) -> CandidateCosts:
        """The cost function of this study with one cost model."""
        return CandidateCosts(self.space, self.data.input_shape, len(self.data.classes), self.profile, model)

    @property
    def best_model(self) -> CostModel:
        """The refitted cost model once there is one, until then the first."""
        refitted = self.study.events_of(CostModelRefitted)
        return CostModel.load(self.study.folder / REFITTED_MODEL) if refitted else self.first_model

    def evaluations(self) -> tuple[Evaluation, ...]:
        """Every candidate of the search with its costs by the best cost model, those that break a limit left out."""
        costs = self.costs(self.best_model)
        renewed = (Evaluation(e.architecture, costs(e.architecture), e.accuracy) for e in self.study.evaluations)
        return tuple(e for e in renewed if not self.limits.violations(e.costs))

    def front(self) -> tuple[Evaluation, ...]:
        """The candidates that no other beats in every objective of the study, fastest first."""
        front = pareto_front(self.evaluations(), self.study.settings.objectives)
        return tuple(sorted(front, key=lambda e: e.costs.latency_ms))

    def trained(self) -> dict[Architecture, CandidateTrained]:
        """What was trained, by architecture."""
        return {event.architecture: event for event in self.study.events_of(CandidateTrained)}

    def measured(self, weights: str) -> dict[Architecture, Measured]:
        """The last measurement of each architecture with ``random`` or ``trained`` weights."""
        return {e.architecture: e for e in self.study.events_of(Measured) if e.weights == weights}

    def winner(self) -> CandidateTrained | None:
        """The most accurate trained network that keeps the limits, by validation accuracy; None if there is none.

        Where a network was measured, its measured latency counts, not the predicted one.
        """
        measured, costs = self.measured("trained"), self.costs(self.best_model)
        keeping = []
        for architecture, event in self.trained().items():
            found = costs(architecture)
            if architecture in measured:
                latency_ms = measured[architecture].latency_ms
                energy_mj = self.profile.energy_mj(latency_ms)
                found = dataclasses.replace(found, latency_ms=latency_ms, energy_mj=energy_mj)
            if not self.limits.violations(found):
                keeping.append(event)
        return max(keeping, key=lambda event: event.accuracy, default=None)

    def find(self, wanted: str | None) -> Architecture:
        """The candidate with an id or text form, by default the winner. Raises SearchError when there is none."""
        if wanted is None:
            winner = self.winner()
            if winner is not None:
                return winner.architecture
            front = self.front()
            if not front:
                raise SearchError(f"the study '{self.study.folder}' has no candidates yet; run tinynas search first")
            return max(front, key=lambda e: e.accuracy).architecture
        for evaluation in self.study.evaluations:
            if wanted in (candidate_id(evaluation.architecture), str(evaluation.architecture)):
                return evaluation.architecture
        raise SearchError(f"the study '{self.study.folder}' has no candidate '{wanted}'; its report lists them")

    @cached_property
    def artifacts(self) -> Path:
        """The folder of exported candidates."""
        return self.study.folder / "artifacts"


def _prepared(settings: StudySettings) -> DataSet:
    """Check what the settings name before a folder is made for them."""
    current_profile(settings.device)
    load_space(settings.space)
    if settings.strategy not in STRATEGIES:
        raise SearchError(f"there is no strategy '{settings.strategy}'; choose from {', '.join(STRATEGIES)}")
    check_accuracy(settings.accuracy)
    return load_data(settings.data)


def _require_a_fit(settings: StudySettings, data: DataSet) -> None:
    """Raise InfeasibleBudgetError when nothing fits: before a folder keeps limits that have to change."""
    profile, space = current_profile(settings.device), load_space(settings.space)
    costs = CandidateCosts(space, data.input_shape, len(data.classes), profile, current_cost_model(profile))
    admission = Admission(Limits.for_device(profile, settings.limits), costs)
    problem = Problem(space, data.input_shape, admission, settings.objectives, trials=1, seed=0)
    make_strategy("random", problem).ask()


def make_settings(
    *,
    device: str,
    data_name: str,
    space_name: str | None,
    strategy: str,
    trials: int,
    seed: int,
    limits: dict[str, float],
    training: dict[str, int | float | str | bool],
    objectives: tuple[str, ...] = ("accuracy", "latency"),
    accuracy: str = "supernet",
    narrow_samples: int = 0,
) -> StudySettings:
    """The settings of a new study; the default space, the device's own limits and the usual effort are filled in.

    Paths become absolute: the study is looked at from other folders too.
    """
    profile = load_profile(device)
    if data_name not in data_names() and Path(data_name).exists():
        data_name = str(Path(data_name).resolve())
    data = load_data(data_name)
    space = load_space(space_name) if space_name else default_space(data.input_shape)
    is_file = space_name is not None and space_name not in space_names()
    return StudySettings(
        device=device,
        data=data_name,
        space=str(Path(space_name).resolve()) if space_name and is_file else space.name,
        space_sha256=_hash_of(space) if is_file else "",
        narrow_samples=narrow_samples,
        strategy=strategy,
        objectives=objectives,
        accuracy=accuracy,
        trials=trials,
        seed=seed,
        limits=Limits.for_device(profile, limits).as_mapping(),
        training=Effort.for_data(len(data.train_labels), training).as_settings(),
    )


def _hash_of(space: SearchSpace) -> str:
    """Of the choices, whatever the file's comments and order are."""
    return hashlib.sha256(json.dumps(space.model_dump(), sort_keys=True).encode()).hexdigest()
