"""Traces of known energy, in the forms of several monitors, and everything that is wrong with a trace."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from devices.errors import DeviceError
from devices.measured_power import MeasuredPower, current_profile, keep_measured_power, measured_power_path
from devices.power_trace import inference_energy, read_power_trace
from devices.profile import load_profile

IDLE_MW, ACTIVE_MW, SUPPLY_V = 20.0, 132.0, 3.3
STEP_S, START, LENGTH = 1e-4, 300, 500
"""10,000 samples a second; the inferences run from sample 300 for 500 samples, 50 ms."""


def power_mw(samples: int = 1200) -> npt.NDArray[np.float64]:
    values = np.full(samples, IDLE_MW)
    values[START : START + LENGTH] = ACTIVE_MW
    return values


def write(path: Path, header: str, rows: list[str]) -> Path:
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def ppk2(path: Path, high: tuple[int, int] = (START, START + LENGTH)) -> Path:
    """As Nordic's application exports it: milliseconds, microamperes, and the channels with D0 first."""
    rows = [
        f"{index * STEP_S * 1e3:.2f},{value / SUPPLY_V * 1e3:.3f},{'1' if high[0] <= index < high[1] else '0'}0X0000-"
        for index, value in enumerate(power_mw())
    ]
    return write(path, "Timestamp(ms),Current(uA),D0-D7", rows)


def joulescope(path: Path) -> Path:
    """SI units, a second header row, and a voltage that sags while the part works."""
    rows = []
    for index, value in enumerate(power_mw()):
        volts = 3.3 if value == IDLE_MW else 3.2
        rows.append(f"{index * STEP_S:.6f},{value / 1e3 / volts:.9f},{volts}")
    return write(path, "#time,current,voltage", ["#s,A,V", *rows])


def plain(path: Path, header: str = "time (s),power (mW)", per_second: float = 1.0, per_mw: float = 1.0) -> Path:
    rows = [f"{i * STEP_S * per_second:.6f},{value * per_mw:.6f}" for i, value in enumerate(power_mw())]
    return write(path, header, rows)


@pytest.mark.parametrize("inferences", [1, 10])
def test_a_trigger_marks_the_window(tmp_path: Path, inferences: int) -> None:
    found = inference_energy(read_power_trace(ppk2(tmp_path / "t.csv"), SUPPLY_V), inferences=inferences)
    assert found.energy_mj == pytest.approx(ACTIVE_MW * LENGTH * STEP_S / inferences, rel=1e-4)
    assert found.active_power_mw == pytest.approx(ACTIVE_MW, rel=1e-4)
    assert found.latency_ms == pytest.approx(1e3 * LENGTH * STEP_S / inferences)
    assert (found.inferences, found.samples) == (inferences, LENGTH)


def test_each_rise_of_the_trigger_is_an_inference(tmp_path: Path) -> None:
    trace = read_power_trace(ppk2(tmp_path / "t.csv"), SUPPLY_V)
    assert trace.trigger is not None
    trace.trigger[400:450] = False  # a pause that the power does not show
    trace.trigger[1000:] = True  # and one whose end was not recorded
    found = inference_energy(trace)
    assert found.inferences == 2
    assert found.energy_mj == pytest.approx(ACTIVE_MW * (LENGTH - 50) * STEP_S / 2, rel=1e-4)


def test_without_a_trigger_the_window_is_where_the_energy_is(tmp_path: Path) -> None:
    found = inference_energy(read_power_trace(joulescope(tmp_path / "t.csv")), inferences=20, latency_ms=2.5)
    assert found.energy_mj == pytest.approx(ACTIVE_MW * 2.5e-3, rel=1e-4)
    assert found.active_power_mw == pytest.approx(ACTIVE_MW, rel=1e-4)
    assert found.samples == LENGTH
    # A window that ends between two samples counts the part of the last one that it covers.
    partly = inference_energy(read_power_trace(plain(tmp_path / "p.csv")), latency_ms=50.05)
    assert partly.energy_mj == pytest.approx(ACTIVE_MW * 0.05 + IDLE_MW * 5e-5, rel=1e-6)


@pytest.mark.parametrize(
    ("header", "per_second", "per_mw"),
    [
        ("time,power", 1.0, 1e-3),
        ("time_ms,power_mw", 1e3, 1.0),
        ("Time [us],Power [uW]", 1e6, 1e3),
        (" Timestamp (ms) , POWER (W)", 1e3, 1e-3),
    ],
)
def test_units_of_other_monitors(tmp_path: Path, header: str, per_second: float, per_mw: float) -> None:
    trace = read_power_trace(plain(tmp_path / "t.csv", header, per_second, per_mw))
    assert inference_energy(trace, latency_ms=50).active_power_mw == pytest.approx(ACTIVE_MW, rel=1e-5)


@pytest.mark.parametrize(
    ("header", "rows", "says"),
    [
        ("", [], "has the columns none; it needs 'time"),
        ("time (s),volume (dB)", ["0,1"], "has the columns time .s., volume .dB.; it needs"),
        ("time (h),power (mW)", ["0,1"], "column 'time .h.' .* has the unit 'h'; write it in us, ms or s"),
        ("time (s),power (dBm)", ["0,1"], "has the unit 'dbm'; write it in uW, mW or W"),
        ("time (s),current (mA)", [f"{i},1" for i in range(20)], "has a current and no voltage; .* --supply-v"),
        ("time (s),power (mW)", ["0,1", "1,two"], "line 3 of the power trace .* is not a sample"),
        ("time (s),power (mW)", ["0,1", "1,1,1"], "line 3 .*3 cells and not 2"),
        ("time (s),power (mW)", ["0,1", "1,nan"], "line 3 .* not finite"),
        ("time (s),power (mW)", ["0,1", "1,1"], "has 2 samples; record at least 10"),
        ("time (s),power (mW)", [f"{i % 7},1" for i in range(20)], "do not ascend"),
    ],
)
def test_a_trace_that_cannot_be_read(tmp_path: Path, header: str, rows: list[str], says: str) -> None:
    with pytest.raises(DeviceError, match=says):
        read_power_trace(write(tmp_path / "t.csv", header, rows))
    with pytest.raises(DeviceError, match="cannot be read"):
        read_power_trace(tmp_path / "none.csv")


def test_a_window_that_cannot_be_found(tmp_path: Path) -> None:
    no_trigger = read_power_trace(plain(tmp_path / "t.csv"))
    with pytest.raises(DeviceError, match="no trigger channel D0; give the latency"):
        inference_energy(no_trigger)
    with pytest.raises(DeviceError, match=r"3 inferences of 50 ms take 0\.15 s, and .* is 0\.1199 s long"):
        inference_energy(no_trigger, inferences=3, latency_ms=50)
    with pytest.raises(DeviceError, match="has 5 samples while inferring, and needs 10"):
        inference_energy(no_trigger, latency_ms=0.5)
    for high in [(0, 0), (0, 1200), (600, 1200)]:
        with pytest.raises(DeviceError, match="never rises and falls again"):
            inference_energy(read_power_trace(ppk2(tmp_path / "p.csv", high), SUPPLY_V))
    with pytest.raises(DeviceError, match="has no energy while inferring"):
        inference_energy(read_power_trace(plain(tmp_path / "n.csv", per_mw=-1.0)), latency_ms=50)


def test_measured_power_counts_from_then_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert current_profile("stm32f405") == load_profile("stm32f405")
    path = keep_measured_power("stm32f405", MeasuredPower(active_power_mw=101.5, source="my monitor"))
    assert path == measured_power_path("stm32f405")
    found = current_profile("stm32f405")
    assert found.active_power_mw == 101.5
    assert found.sources["active_power_mw"] == "my monitor"
    assert math.isclose(found.energy_mj(10), 1.015)
    assert load_profile("stm32f405").active_power_mw == 132.0
    assert current_profile("stm32f412") == load_profile("stm32f412")
    path.write_text("{}")
    with pytest.raises(DeviceError, match="does not hold a measured power; delete it"):
        current_profile("stm32f405")
