"""What of a phone decides how fast it is: its cores, their clocks, its temperature, its battery.

Every figure is optional: phones differ in what they let a shell read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

STATE_SCRIPT = """
for c in $S/devices/system/cpu/cpu[0-9]*; do
  q=$c/cpufreq
  echo "core=${c##*cpu} online=$(cat $c/online) capacity=$(cat $c/cpu_capacity) "\
"hardware=$(cat $q/cpuinfo_max_freq) limit=$(cat $q/scaling_max_freq) "\
"clock=$(cat $q/scaling_cur_freq) governor=$(cat $q/scaling_governor)"
done 2>/dev/null
for z in $S/class/thermal/thermal_zone*; do echo "zone=$(cat $z/type)=$(cat $z/temp)"; done 2>/dev/null
dumpsys thermalservice 2>/dev/null
dumpsys battery 2>/dev/null
dumpsys power 2>/dev/null | grep -E "mWakefulness=|Display Power: state="
echo "low_power=$(settings get global low_power 2>/dev/null)"
echo "load=$(cat $P/loadavg 2>/dev/null)"
"""
"""For `parse_state`. A core that is switched off has no clock."""

THERMAL_STATUS = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")
"""Android's android.os.PowerManager.THERMAL_STATUS_*, by their numbers."""
LOW_BATTERY_PERCENT = 20
"""Below which phones save power."""
_TEMPERATURE = re.compile(r"Temperature\{mValue=([-\d.]+), mType=-?\d+, mName=([^,]*), mStatus=\d+\}")


@dataclass(frozen=True)
class Core:
    """One core, as the kernel describes it. Clocks are in kHz."""

    number: int
    is_online: bool = True
    capacity: int | None = None
    """Its speed beside the fastest core's, 1024."""
    hardware_khz: int | None = None
    limit_khz: int | None = None
    """What heat or a power saver allows now."""
    clock_khz: int | None = None
    governor: str | None = None


@dataclass(frozen=True)
class PhoneState:
    """A phone at one moment."""

    cores: tuple[Core, ...] = ()
    thermal_status: str | None = None
    temperatures_c: Mapping[str, float] = field(default_factory=dict)
    """By sensor."""
    battery_percent: int | None = None
    battery_c: float | None = None
    power: str | None = None
    """What it is powered by: ``AC``, ``USB``, …, or ``battery``."""
    screen: str | None = None
    saves_power: bool | None = None
    load: float | None = None


def parse_state(text: str) -> PhoneState:
    """What STATE_SCRIPT printed. Lines that mean nothing are left alone."""
    lines = [line.strip() for line in text.splitlines()]
    values = dict(_pair(line) for line in lines)
    screen = values.get("Display Power", "").removeprefix("state=") or values.get("mWakefulness")
    load = re.match(r"[\d.]+", values.get("load", ""))
    temperature, level = values.get("temperature", ""), values.get("level", "")
    return PhoneState(
        cores=tuple(core for line in lines if line.startswith("core=") and (core := _core(line)) is not None),
        thermal_status=_thermal_status(values.get("Thermal Status", "")),
        temperatures_c=_temperatures(lines),
        battery_percent=int(level) if level.isdecimal() else None,
        battery_c=int(temperature) / 10 if re.fullmatch(r"-?\d+", temperature) else None,
        power=_power(values),
        screen=screen or None,
        saves_power={"1": True, "0": False}.get(values.get("low_power", "")),
        load=float(load[0]) if load else None,
    )


def fast_cores(cores: Sequence[Core]) -> tuple[int, ...]:
    """The numbers of the fastest cores that are on: all of them where the phone tells no difference."""
    online = [core for core in cores if core.is_online]
    speeds = [core.capacity or 0 for core in online]
    if len(set(speeds)) < 2:
        speeds = [core.hardware_khz or 0 for core in online]
    return tuple(core.number for core, speed in zip(online, speeds, strict=True) if speed == max(speeds))


def core_mask(numbers: Sequence[int]) -> str:
    """The mask that ``taskset`` takes: hexadecimal, the lowest bit core 0."""
    return f"{sum(1 << number for number in set(numbers)):x}"


def cores_of(mask: str) -> tuple[int, ...]:
    """The numbers of the cores that a mask stands for."""
    bits = int(mask, 16)
    return tuple(number for number in range(bits.bit_length()) if bits >> number & 1)


def describe(state: PhoneState, numbers: Sequence[int], when: str) -> dict[str, str]:
    """The state as conditions of a measurement on the cores ``numbers``; what the phone does not tell is left out."""
    used = [core for core in state.cores if core.number in numbers]
    battery = ", ".join(
        text
        for text, value in (
            (f"{state.battery_percent} %", state.battery_percent),
            (f"{state.battery_c} °C", state.battery_c),
            (f"powered by {state.power}", state.power),
        )
        if value is not None
    )
    found = {
        "governor": _listed({core.governor for core in used}),
        "clock_mhz": _listed({None if core.clock_khz is None else f"{core.clock_khz / 1e3:.0f}" for core in used}),
        "clock_limit_mhz": _listed(
            {None if core.limit_khz is None else f"{core.limit_khz / 1e3:.0f}" for core in used}
        ),
        "thermal_status": state.thermal_status or "",
        "temperatures_c": ", ".join(f"{name} {value:.1f}" for name, value in _hottest(state.temperatures_c)),
        "battery": battery,
        "screen": state.screen or "",
        "load": "" if state.load is None else f"{state.load:.2f}",
    }
    return {f"{name}_{when}": value for name, value in found.items() if value}


def warnings_of(before: PhoneState, after: PhoneState, numbers: Sequence[int]) -> tuple[str, ...]:
    """What made the measurement worth less than it looks; each says what to do."""
    warnings = []
    hot = {state.thermal_status for state in (before, after)} - {None, THERMAL_STATUS[0]}
    if hot:
        warnings.append(f"the phone throttles (thermal status {_listed(hot)}); let it cool and measure again")
    limited = [
        core
        for state in (before, after)
        for core in state.cores
        if core.number in numbers and core.limit_khz and core.hardware_khz and core.limit_khz < core.hardware_khz
    ]
    if limited:
        slowest = min(limited, key=lambda core: core.limit_khz or 0)
        held, could = (slowest.limit_khz or 0) / 1e3, (slowest.hardware_khz or 0) / 1e3
        warnings.append(
            f"core {slowest.number} is held to {held:.0f} of {could:.0f} MHz, by heat or a power saver; let the phone "
            "cool, charge it and measure again"
        )
    if before.saves_power or after.saves_power:
        warnings.append("the phone's battery saver is on; switch it off and measure again")
    if after.battery_percent is not None and after.battery_percent < LOW_BATTERY_PERCENT:
        warnings.append(f"the phone's battery is at {after.battery_percent} %; charge it and measure again")
    return tuple(warnings)


def _pair(line: str) -> tuple[str, str]:
    """``name: value`` or ``name=value``."""
    found = re.match(r"([^:=]+)[:=]\s*(.*)", line)
    return (found[1].strip(), found[2].strip()) if found else ("", "")


def _core(line: str) -> Core | None:
    values = dict(_pair(word) for word in line.split())
    if not values.get("core", "").isdecimal():
        return None

    def number(name: str) -> int | None:
        return int(values[name]) if values.get(name, "").isdecimal() else None

    return Core(
        number=int(values["core"]),
        is_online=values.get("online") != "0",
        capacity=number("capacity"),
        hardware_khz=number("hardware"),
        limit_khz=number("limit"),
        clock_khz=number("clock"),
        governor=values.get("governor") or None,
    )


def _thermal_status(value: str) -> str | None:
    if not value.isdecimal():
        return None
    return THERMAL_STATUS[int(value)] if int(value) < len(THERMAL_STATUS) else f"status {value}"


def _temperatures(lines: Sequence[str]) -> dict[str, float]:
    """From the kernel's zones, and from Android's service, whose cached readings come before the current ones."""
    found: dict[str, float] = {}
    for line in lines:
        if line.startswith("zone="):
            name, _, value = line.removeprefix("zone=").partition("=")
            if re.fullmatch(r"-?\d+", value):
                # Thousandths of a degree by the kernel's rules, which some drivers do not follow.
                degrees = int(value) / 1000 if abs(int(value)) >= 1000 else float(value)
                found[name] = degrees
        elif service := _TEMPERATURE.search(line):
            found[service[2]] = float(service[1])
    return {name: degrees for name, degrees in found.items() if name and 0.0 < degrees < 150.0}


def _hottest(temperatures: Mapping[str, float], count: int = 4) -> list[tuple[str, float]]:
    return sorted(temperatures.items(), key=lambda item: (-item[1], item[0]))[:count]


def _power(values: Mapping[str, str]) -> str | None:
    sources = {name.removesuffix(" powered"): on for name, on in values.items() if name.endswith(" powered")}
    if not sources:
        return None
    return ", ".join(name for name, on in sources.items() if on == "true") or "battery"


def _listed(values: set[str | None]) -> str:
    return ", ".join(sorted(value for value in values if value))
