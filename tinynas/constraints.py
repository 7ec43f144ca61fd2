"""The limits that a candidate has to keep, and what it says when it breaks one.

``CONSTRAINTS`` is the one table of them: the check, the messages, the command line and the documentation all read it.
"""

from __future__ import annotations

import difflib
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import lru_cache

from devices.profile import DeviceProfile
from tinynas.architecture import Architecture
from tinynas.errors import SearchError
from tinynas.evaluation import CostFunction, Costs

COSTS_KEPT = 65_536
"""How many architectures' costs an ``Admission`` remembers."""


@dataclass(frozen=True, slots=True)
class Constraint:
    """One kind of limit."""

    name: str
    """As it is written in options and settings."""
    label: str
    """As it starts a sentence."""
    unit: str
    meaning: str
    cost: Callable[[Costs], float]
    capacity: Callable[[DeviceProfile], int] | None = None
    """What the part has, where the part sets the limit; None where only the user can."""


CONSTRAINTS = {
    constraint.name: constraint
    for constraint in (
        Constraint(
            "max_sram_bytes",
            "SRAM",
            "B",
            "The arena that holds every activation; by default what the device leaves for a model.",
            lambda costs: costs.sram_bytes,
            lambda profile: profile.model_sram_bytes,
        ),
        Constraint(
            "max_flash_bytes",
            "flash",
            "B",
            "Weights and code; by default all of the device's flash.",
            lambda costs: costs.flash_bytes,
            lambda profile: profile.flash_bytes,
        ),
        Constraint(
            "max_latency_ms",
            "latency",
            "ms",
            "The time of one inference; unlimited by default.",
            lambda costs: costs.latency_ms,
        ),
        Constraint(
            "max_energy_mj",
            "energy",
            "mJ",
            "The energy of one inference; unlimited by default.",
            lambda costs: costs.energy_mj,
        ),
    )
}


@dataclass(frozen=True, slots=True)
class Violation:
    """One limit that was broken, and by how much; ``str()`` of it is the sentence."""

    constraint: str
    value: float
    limit: float

    @property
    def excess(self) -> float:
        """How far over the limit, in the constraint's unit."""
        return self.value - self.limit

    @property
    def relative_excess(self) -> float:
        """How far over the limit, as a fraction of it."""
        return self.excess / self.limit

    def __str__(self) -> str:
        constraint = CONSTRAINTS[self.constraint]
        unit = constraint.unit
        return (
            f"{constraint.label} {_figure(self.value)} {unit} exceeds the limit of {_figure(self.limit)} {unit} "
            f"by {_figure(self.excess)} {unit} ({_percent(self.relative_excess)})"
        )


@dataclass(frozen=True, slots=True)
class Limits:
    """The largest allowed value of each constraint, by its name in ``CONSTRAINTS``; None is unlimited."""

    max_sram_bytes: float | None = None
    max_flash_bytes: float | None = None
    max_latency_ms: float | None = None
    max_energy_mj: float | None = None

    @classmethod
    def from_mapping(cls, limits: Mapping[str, object]) -> Limits:
        """Limits by constraint name; a name that is left out, or None, is unlimited.

        Raises SearchError for a name that is not a constraint (naming the nearest), or a value that is not a positive
        number.
        """
        checked: dict[str, float] = {}
        for name, value in limits.items():
            if name not in CONSTRAINTS:
                raise _unknown(name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
                raise SearchError(f"the limit {name} = {value!r} is not a positive number of {CONSTRAINTS[name].unit}")
            checked[name] = value
        return cls(**checked)

    @classmethod
    def for_device(cls, profile: DeviceProfile, limits: Mapping[str, object]) -> Limits:
        """``limits`` by constraint name, and what the device has where they say nothing.

        Raises SearchError as ``from_mapping`` does, and for a limit that is more than the device has.
        """
        chosen = cls.from_mapping(limits).as_mapping()
        for name, constraint in CONSTRAINTS.items():
            if constraint.capacity is None:
                continue
            capacity = constraint.capacity(profile)
            limit = chosen.setdefault(name, capacity)
            if limit > capacity:
                raise SearchError(
                    f"the limit {name} = {_figure(limit)} is more than the {_figure(capacity)} {constraint.unit} "
                    f"that {profile.name} has for a model; lower it or choose a larger device"
                )
        return cls.from_mapping(chosen)

    def as_mapping(self) -> dict[str, float]:
        """The limits that are set, by constraint name."""
        values = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {name: value for name, value in values if value is not None}

    def violations(self, costs: Costs) -> tuple[Violation, ...]:
        """Every limit that ``costs`` breaks, in the order of ``CONSTRAINTS``; empty when all are kept."""
        limits = self.as_mapping()
        measured = ((name, constraint.cost(costs)) for name, constraint in CONSTRAINTS.items() if name in limits)
        return tuple(Violation(name, value, limits[name]) for name, value in measured if value > limits[name])


@dataclass(frozen=True, slots=True)
class Rejection:
    """An architecture that does not fit, and why."""

    architecture: Architecture
    violations: tuple[Violation, ...]

    @property
    def distance(self) -> float:
        """The sum of the relative excesses: 0 would fit."""
        return sum(violation.relative_excess for violation in self.violations)

    def __str__(self) -> str:
        return f"{self.architecture}: {'; '.join(str(violation) for violation in self.violations)}"


@dataclass(frozen=True, slots=True)
class Rejections:
    """What was turned away over a while."""

    count: int
    """Architectures; one that is proposed twice counts twice."""
    by_constraint: dict[str, int]
    """How many of them broke each constraint; one may break several."""
    nearest: Rejection | None
    """The one of them with the smallest distance."""


class InfeasibleBudgetError(SearchError):
    """No architecture of the space was found to keep every limit."""

    def __init__(self, space: str, attempts: int, closest: Rejection) -> None:
        names = ", ".join(violation.constraint for violation in closest.violations)
        super().__init__(
            f"no architecture of the space '{space}' fits, after {attempts:,} attempts; the closest is {closest}; "
            f"raise {names}, or choose a larger device or a smaller space"
        )
        self.closest = closest


class Admission:
    """Decides whether an architecture fits, before anything is trained, and counts what it turns away.

    It calls the cost function, which costs the same for the same architecture, once for each of the last
    ``COSTS_KEPT`` architectures.
    """

    def __init__(self, limits: Limits, costs: CostFunction) -> None:
        self.limits = limits
        self.costs: CostFunction = lru_cache(maxsize=COSTS_KEPT)(costs)
        self._count = 0
        self._by_constraint: Counter[str] = Counter()
        self._nearest: Rejection | None = None

    def __call__(self, architecture: Architecture) -> bool:
        """Whether ``architecture`` keeps every limit."""
        violations = self.limits.violations(self.costs(architecture))
        if not violations:
            return True
        rejection = Rejection(architecture, violations)
        self._count += 1
        self._by_constraint.update(violation.constraint for violation in violations)
        if self._nearest is None or rejection.distance < self._nearest.distance:
            self._nearest = rejection
        return False

    @property
    def rejections(self) -> Rejections:
        """What was turned away since the last ``forget_rejections``."""
        return Rejections(self._count, dict(self._by_constraint), self._nearest)

    def forget_rejections(self) -> None:
        """Count from here."""
        self._count = 0
        self._by_constraint.clear()
        self._nearest = None


def _unknown(name: str) -> SearchError:
    nearest = difflib.get_close_matches(name, CONSTRAINTS, n=1, cutoff=0.4)
    hint = f"did you mean {nearest[0]}? The constraints are" if nearest else "the constraints are"
    return SearchError(f"there is no constraint '{name}'; {hint} {', '.join(CONSTRAINTS)}")


def _figure(value: float) -> str:
    """Whole numbers in full, others to four digits."""
    return f"{value:,.0f}" if value == int(value) or value >= 1000 else f"{value:.4g}"


def _percent(fraction: float) -> str:
    percent = 100 * fraction
    return f"{percent:,.0f} %" if percent >= 10 else f"{percent:.2g} %"
