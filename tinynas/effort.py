"""How much work a study does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

from tinynas.errors import SearchError

SMALL_DATA = 20_000
"""Below so many training inputs an epoch is short: studies do more of them, and training takes smaller batches."""

_SMALL_DATA_EPOCHS = {"supernet_epochs": 40, "scratch_epochs": 27, "finalist_epochs": 30}


@dataclass(frozen=True)
class Effort:
    """How much work the stages do; every figure is part of the study's settings."""

    supernet_epochs: int = 5
    scratch_epochs: int = 9
    """Of a candidate that is trained by itself during the search and never falls behind."""
    finalists: int = 4
    """How many of the front are trained."""
    finalist_epochs: int = 6
    measured: int = 12
    """How many candidates are measured to refit the cost model."""
    verified_inputs: int = 100
    """Inputs on which each exported network is compared with the reference, and the stages of its export with it."""

    def as_settings(self) -> dict[str, int | float | str | bool]:
        """For `StudySettings.training`."""
        return asdict(self)

    @classmethod
    def for_data(cls, inputs: int, chosen: Mapping[str, int | float | str | bool]) -> Effort:
        """The usual effort for so many training inputs, but for what is ``chosen``. Raises SearchError as `of` does."""
        usual = _SMALL_DATA_EPOCHS if inputs < SMALL_DATA else {}
        return cls.of({**usual, **chosen})

    @classmethod
    def of(cls, settings: Mapping[str, int | float | str | bool]) -> Effort:
        """The effort that a study was started with. Raises SearchError for a name that is none of it."""
        known = {field.name for field in fields(cls)}
        unknown = sorted(settings.keys() - known)
        if unknown:
            raise SearchError(
                f"the study's training settings have an unknown '{unknown[0]}'; known are {sorted(known)}"
            )
        return cls(**{name: int(value) for name, value in settings.items()})
