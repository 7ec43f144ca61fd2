"""Device profiles: the limits and facts of a part, each with its source, read from ``devices/profiles/<name>.toml``."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib import resources
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt, ValidationError

from devices.errors import DeviceError

DEFAULT_DEVICE = "stm32f405"


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


class DeviceProfile(BaseModel):
    """One part: a microcontroller, or a phone."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    kind: Literal["mcu", "phone"]
    description: str
    core: Literal[
        "cortex-m0plus", "cortex-m3", "cortex-m4", "cortex-m7", "cortex-m33", "cortex-m55", "xtensa-lx7", "armv8-a"
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
    flashing: str | None = None
    """The tool that writes the image to the part."""
    sources: dict[str, str]
    """Where each figure comes from, by field name."""

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
    """Read a profile by name. Raises DeviceError with the known names, or with the field that is wrong."""
    if name not in device_names():
        raise DeviceError(f"there is no device profile '{name}'; choose from {', '.join(device_names())}")
    text = (resources.files("devices") / "profiles" / f"{name}.toml").read_text(encoding="utf-8")
    try:
        return DeviceProfile.model_validate(tomllib.loads(text))
    except (ValidationError, tomllib.TOMLDecodeError) as error:
        raise DeviceError(f"the device profile '{name}' is not valid: {error}") from error
