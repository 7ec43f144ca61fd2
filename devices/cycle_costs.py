"""What an instruction costs on a core, from ``devices/cycle_costs.toml``: the emulator's zero-wait cycle model."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib import resources

from pydantic import BaseModel, ConfigDict, NonNegativeFloat, ValidationError

from devices.errors import DeviceError


class CycleCosts(BaseModel):
    """Cycles of one core, by the names that ``firmware/emulator/tn_cycles.c`` and ``docs/cycles.md`` explain."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    instruction: NonNegativeFloat = 1.0
    load: NonNegativeFloat = 0.0
    next_load: NonNegativeFloat = 0.0
    store: NonNegativeFloat = 0.0
    pair: NonNegativeFloat = 0.0
    multiple: NonNegativeFloat = 0.0
    taken: NonNegativeFloat = 0.0
    call: NonNegativeFloat = 0.0
    pop_pc: NonNegativeFloat = 0.0
    multiply: NonNegativeFloat = 0.0
    accumulate: NonNegativeFloat = 0.0
    long_multiply: NonNegativeFloat = 0.0
    long_accumulate: NonNegativeFloat = 0.0
    divide: NonNegativeFloat = 0.0
    float_divide: NonNegativeFloat = 0.0
    vector: NonNegativeFloat = 0.0
    loop: NonNegativeFloat = 1.0

    def by_name(self) -> dict[str, float]:
        """Every cost under the name that the cycle counter takes."""
        return self.model_dump(exclude={"source"})


def modelled_cores() -> tuple[str, ...]:
    """The cores that have a table."""
    return tuple(_tables())


def cycle_costs(core: str) -> CycleCosts:
    """The table of a core. Raises DeviceError when there is none."""
    if core not in _tables():
        raise DeviceError(
            f"the emulator has no cycle model for the core {core}; add a table to devices/cycle_costs.toml or choose a "
            f"device with one of {', '.join(_tables())}"
        )
    return _tables()[core]


@cache
def _tables() -> dict[str, CycleCosts]:
    text = (resources.files("devices") / "cycle_costs.toml").read_text(encoding="utf-8")
    try:
        return {core: CycleCosts.model_validate(table) for core, table in tomllib.loads(text).items()}
    except (tomllib.TOMLDecodeError, ValidationError) as error:
        raise DeviceError(f"devices/cycle_costs.toml is not valid: {error}") from error
