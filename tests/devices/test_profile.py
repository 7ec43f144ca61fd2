"""Device profiles: what ships is complete and right, what is wrong is refused with the field's name."""

from __future__ import annotations

from importlib import resources

import pytest
from pydantic import ValidationError

from devices.errors import DeviceError
from devices.profile import DEFAULT_DEVICE, SOURCED_FIELDS, device_names, load_profile, parse_profile

KIB = 1024

PROMISED = {
    "stm32f405", "stm32f412", "stm32f746", "stm32h743", "stm32l4r5", "nrf52840", "rp2040", "stm32u575", "esp32-s3",
    "cortex-m55", "mps2-an385", "mps2-an386", "mps2-an500", "mps2-an505", "mps3-an547", "nrf51822", "pixel2",
    "samsung-a50", "essential-ph-1", "android",
}  # fmt: skip


def profile_text(name: str) -> str:
    return (resources.files("devices") / "profiles" / f"{name}.toml").read_text(encoding="utf-8")


def test_ships_the_promised_devices() -> None:
    assert set(device_names()) == PROMISED


@pytest.mark.parametrize("name", device_names())
def test_profile_is_complete(name: str) -> None:
    profile = load_profile(name)
    assert set(profile.sources) == SOURCED_FIELDS
    assert profile.reserved.source.strip()
    assert 0 < profile.model_sram_bytes < profile.sram_bytes
    assert 0 < profile.reserved.flash_bytes < profile.flash_bytes
    # The text that a person reads names the same clock as the figure: the two are easily edited apart.
    assert any(f"{profile.clock_hz / unit:.{digits}f} {word}" in profile.description
               for unit, word in ((1e6, "MHz"), (1e9, "GHz")) for digits in (0, 1, 2))  # fmt: skip


def test_default_device_is_the_emulated_stm32f405() -> None:
    profile = load_profile(DEFAULT_DEVICE)
    assert (profile.core, profile.clock_hz) == ("cortex-m4", 168_000_000)
    assert (profile.sram_bytes, profile.flash_bytes) == (128 * KIB, 1024 * KIB)
    assert profile.emulator is not None
    assert profile.emulator.machine == "netduinoplus2"


def test_latency_and_energy_of_known_cycles() -> None:
    """microTVM's vww on a NUCLEO-L4R5ZI takes 301.2 ms; the cycle model reads it within its stated ±0.06 of 1.18."""
    board = load_profile("stm32l4r5")
    zero_wait_cycles = 301.2e-3 * 120e6 / 1.23
    assert board.latency_ms(zero_wait_cycles) == pytest.approx(301.2, rel=0.06)
    assert load_profile("mps2-an386").latency_ms(25e6) == pytest.approx(1000.0)
    assert board.energy_mj(1000.0) == pytest.approx(board.active_power_mw)


def test_profiles_are_frozen() -> None:
    with pytest.raises(ValidationError):
        load_profile(DEFAULT_DEVICE).clock_hz = 1


def test_unknown_device_names_the_known_ones() -> None:
    with pytest.raises(DeviceError, match=r"'stm32f999'.*choose from .*stm32f405"):
        load_profile("stm32f999")


@pytest.mark.parametrize("name", ["../stm32f405", "", "profiles"])
def test_a_name_is_never_a_path(name: str) -> None:
    with pytest.raises(DeviceError, match="there is no device profile"):
        load_profile(name)


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("clock_hz = 168_000_000", "clock_hz = -1", "clock_hz: "),
        ("clock_hz = 168_000_000", "clock_mhz = 168", "clock_mhz: "),
        ("stall_factor = 1.18", "stall_factor = 0.9", "stall_factor: "),
        ('core = "cortex-m4"', 'core = "z80"', "core: "),
        ("[reserved]\nsram_bytes = 4_", "[reserved]\nsram_bytes = 999_", "leaves the model no SRAM"),
        ("active_power_mw = \"", "acrive_power_mw = \"", "no source is given for active_power_mw"),
        ("[sources]", "[sources]\ncolour = \"a guess\"", "colour"),
        ("[reserved]", "[reserved", "is not TOML"),
    ],
)  # fmt: skip
def test_a_wrong_profile_is_refused_by_field(old: str, new: str, complaint: str) -> None:
    text = profile_text("stm32f405")
    assert text.count(old) == 1
    with pytest.raises(DeviceError, match="'mine'") as caught:
        parse_profile(text.replace(old, new), "mine")
    assert complaint in str(caught.value)
    assert "errors.pydantic.dev" not in str(caught.value)


def test_a_figure_with_an_empty_source_is_refused() -> None:
    lines = [f'{line.split(" = ")[0]} = " "' if line.startswith("flash_bytes = \"") else line
             for line in profile_text("stm32f405").splitlines()]  # fmt: skip
    with pytest.raises(DeviceError, match="the source of flash_bytes is empty"):
        parse_profile("\n".join(lines), "mine")


def test_a_profile_is_also_found_by_its_machine() -> None:
    assert load_profile("microbit").name == "nrf51822"
    assert load_profile("netduinoplus2").name == "stm32f405"
    assert load_profile("mps3-an547").name == "mps3-an547"
