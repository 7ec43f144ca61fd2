"""The active power of a device as the user's own power monitor found it; until then the profile's figure counts."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, PositiveFloat, ValidationError

from devices.errors import DeviceError
from devices.profile import DeviceProfile, load_profile
from devices.store import data_folder


class MeasuredPower(BaseModel):
    """Supply power while inferring, with where it comes from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    active_power_mw: PositiveFloat
    source: str


def measured_power_path(device: str) -> Path:
    """Where the measured power of a device is kept."""
    return data_folder() / "active_power" / f"{device}.json"


def keep_measured_power(device: str, power: MeasuredPower) -> Path:
    """From now on ``current_profile`` has this power; returns the file, which may be deleted. Raises DeviceError."""
    path = measured_power_path(device)
    temporary = path.with_suffix(".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8") as file:
            file.write(power.model_dump_json(indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise DeviceError(f"the measured power could not be written to {path} ({error.strerror})") from error
    return path


def current_profile(device: str) -> DeviceProfile:
    """The profile of a device, with its measured power where there is one. Raises DeviceError."""
    profile = load_profile(device)
    path = measured_power_path(profile.name)
    if not path.exists():
        return profile
    try:
        power = MeasuredPower.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise DeviceError(f"{path} does not hold a measured power; delete it to use the profile's") from error
    sources = profile.sources | {"active_power_mw": power.source}
    return profile.model_copy(update={"active_power_mw": power.active_power_mw, "sources": sources})
