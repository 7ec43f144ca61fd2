"""Device profiles: the limits and facts of a part, each with its source, read from ``devices/profiles/<name>.toml``."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib import resources
from typing import Literal, Self, TypeAlias

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from devices.errors import DeviceError

DEFAULT_DEVICE = "stm32f405"

InstructionSet: TypeAlias = Literal["generic", "dsp", "helium"]
"""What kernels are written for: plain C, the Armv7E-M DSP extension with an FPU, or Helium (M-profile vectors)."""

_INSTRUCTION_SETS: dict[str, InstructionSet] = {
    "cortex-m4": "dsp",
    "cortex-m7": "dsp",
    "cortex-m33": "dsp",
    "cortex-m55": "helium",
}

SOURCED_FIELDS = frozenset({"clock_hz", "sram_bytes", "flash_bytes", "stall_factor", "active_power_mw"})
"""The figures of a profile, each of which has its entry in ``sources``."""


class Reserved(BaseModel):
    """What start-up code, stack and harness take before the model gets anything."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sram_bytes: NonNegativeInt
    flash_bytes: NonNegativeInt
    source: str


class Emulator(BaseModel):
    """How QEMU stands in for the part."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    machine: str
    firmware_board: str
    """The folder of ``firmware/boards`` with the start-up code and linker script of this machine."""


class RunnerNames(BaseModel):
    """What one flashing tool calls the part."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    names: dict[str, str] = {}
    """By the placeholders of the tool's table in ``devices/flashing/flashers.toml``."""
    source: str = Field(min_length=1)


class Flashing(BaseModel):
    """How an image gets onto the part."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    address: NonNegativeInt
    """Where the flat binary begins."""
    source: str = Field(min_length=1)
    """Where the address comes from."""
    runners: dict[str, RunnerNames] = Field(min_length=1)
    """The tools that write to it, the best first; ``devices/flashing/flashers.toml`` has a table for each."""


class DeviceProfile(BaseModel):
    """One part: a microcontroller, or a phone."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    kind: Literal["mcu", "phone"]
    description: str
    core: Literal[
        "cortex-m0",
        "cortex-m0plus",
        "cortex-m3",
        "cortex-m4",
        "cortex-m7",
        "cortex-m33",
        "cortex-m55",
        "xtensa-lx7",
        "armv8-a",
    ]
    clock_hz: PositiveInt
    sram_bytes: PositiveInt
    flash_bytes: PositiveInt
    reserved: Reserved
    stall_factor: float = Field(default=1.0, ge=1.0)
    """Real cycles over zero-wait cycles: what flash wait states and bus conflicts cost (DESIGN.md §4 of the docs)."""
    active_power_mw: PositiveFloat
    """Supply power while inferring at ``clock_hz``, in milliwatts."""
    emulator: Emulator | None = None
    flashing: Flashing | None = None
    """None for what nothing is written to: phones, and parts that exist only in an emulator."""
    sources: dict[str, str]
    """Where each figure comes from, by field name; an estimate says so in its first word."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        """A figure without a source, or a part that its own start-up code does not fit, is no profile."""
        if missing := sorted(SOURCED_FIELDS - self.sources.keys()):
            raise ValueError(f"no source is given for {', '.join(missing)}")
        if unknown := sorted(self.sources.keys() - SOURCED_FIELDS):
            raise ValueError(f"sources are given for {', '.join(unknown)}, which are no figures of a profile")
        if empty := sorted(field for field, source in self.sources.items() if not source.strip()):
            raise ValueError(f"the source of {', '.join(empty)} is empty")
        if self.reserved.sram_bytes >= self.sram_bytes or self.reserved.flash_bytes >= self.flash_bytes:
            raise ValueError("what is reserved leaves the model no SRAM or no flash")
        return self

    @property
    def instruction_set(self) -> InstructionSet:
        """Which kernels the part runs."""
        return _INSTRUCTION_SETS.get(self.core, "generic")

    @property
    def model_sram_bytes(self) -> int:
        """SRAM left for the model's arena."""
        return self.sram_bytes - self.reserved.sram_bytes

    def latency_ms(self, zero_wait_cycles: float) -> float:
        """Milliseconds that ``zero_wait_cycles`` take on this part."""
        return zero_wait_cycles * self.stall_factor / self.clock_hz * 1e3

    def energy_mj(self, latency_ms: float) -> float:
        """Millijoules of one inference of ``latency_ms``."""
        return latency_ms * self.active_power_mw / 1e3


def device_names() -> tuple[str, ...]:
    """Every profile's name, sorted."""
    folder = resources.files("devices") / "profiles"
    return tuple(sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml")))


@cache
def load_profile(name: str) -> DeviceProfile:
    """Read a profile by its name, or by that of the QEMU machine that stands in for it: ``microbit`` is the nRF51822.

    Raises DeviceError with the known names, or with the field that is wrong.
    """
    if name not in device_names():
        profiles = (load_profile(known) for known in device_names())
        emulated = next((p for p in profiles if p.emulator is not None and p.emulator.machine == name), None)
        if emulated is None:
            raise DeviceError(f"there is no device profile '{name}'; choose from {', '.join(device_names())}")
        return emulated
    text = (resources.files("devices") / "profiles" / f"{name}.toml").read_text(encoding="utf-8")
    profile = parse_profile(text, name)
    if profile.name != name:
        raise DeviceError(f"the device profile '{name}' calls itself '{profile.name}'; the two names must be the same")
    return profile


def parse_profile(text: str, origin: str) -> DeviceProfile:
    """Check the TOML ``text`` of a profile; ``origin`` names it in the DeviceError that says which field is wrong."""
    try:
        return DeviceProfile.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise DeviceError(f"the device profile '{origin}' is not TOML: {error}") from error
    except ValidationError as error:
        reasons = "; ".join(
            f"{'.'.join(str(part) for part in detail['loc']) or 'the profile'}: {detail['msg']}"
            for detail in error.errors()
        )
        raise DeviceError(f"the device profile '{origin}' is not valid: {reasons}") from error
