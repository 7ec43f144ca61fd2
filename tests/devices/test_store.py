"""The measurement store: what goes in comes out, nothing is overwritten, and several writers do not lose rows."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from devices.board import Measurement
from devices.errors import DeviceError
from devices.store import MeasurementStore, default_store_path

ONE = Measurement(
    board="emulator:netduinoplus2",
    device="stm32f405",
    model_id="0123456789abcdef",
    latency_ms=1.25,
    cycles=178_000,
    instructions=150_000,
    layer_cycles=(100_000, 78_000),
    runs=5,
    clock_hz=168_000_000,
    sram_bytes=4_096,
    flash_bytes=20_000,
    code_bytes=1_500,
    firmware_sha256="ab" * 32,
    toolchain="arm-none-eabi-gcc 12.2.1",
)
FEATURES = ({"kind": "CONV_2D", "macs": 1000}, {"kind": "FULLY_CONNECTED", "macs": 64})


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    store = MeasurementStore(tmp_path / "deep" / "store.sqlite")
    added = store.add(ONE, "toy", FEATURES)
    (stored,) = MeasurementStore(store.path).all()
    assert (stored.id, stored.model_name, stored.measurement) == (added, "toy", ONE)
    assert stored.layer_features == FEATURES
    assert stored.created_at.endswith("+00:00")


def test_a_board_that_counts_no_instructions(tmp_path: Path) -> None:
    store = MeasurementStore(tmp_path / "store.sqlite")
    store.add(replace(ONE, instructions=None), "toy")
    assert store.all()[0].measurement.instructions is None


def test_one_device_or_all_in_order(tmp_path: Path) -> None:
    store = MeasurementStore(tmp_path / "store.sqlite")
    for device in ("stm32f405", "mps2-an386", "stm32f405"):
        store.add(replace(ONE, device=device), "toy")
    assert [stored.id for stored in store.all(device="stm32f405")] == [1, 3]
    assert [stored.id for stored in store.all()] == [1, 2, 3]
    assert store.all(device="stm32h743") == ()


def test_nothing_is_changed_or_deleted(tmp_path: Path) -> None:
    store = MeasurementStore(tmp_path / "store.sqlite")
    store.add(ONE, "toy")
    connection = sqlite3.connect(store.path)
    for statement in ("UPDATE measurements SET cycles = 1", "DELETE FROM measurements"):
        with pytest.raises(sqlite3.IntegrityError, match="never"):
            connection.execute(statement)
    connection.close()
    assert store.all()[0].measurement == ONE


def test_writers_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"

    def write(index: int) -> None:
        MeasurementStore(path).add(replace(ONE, cycles=index), "toy")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(40)))
    assert sorted(stored.measurement.cycles for stored in MeasurementStore(path).all()) == list(range(40))


def test_features_for_another_number_of_layers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="it has 2 layers, the features 1"):
        MeasurementStore(tmp_path / "store.sqlite").add(ONE, "toy", FEATURES[:1])


def test_a_file_that_is_no_store_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    path.write_bytes(b"this is no database, but long enough to look like one" * 100)
    with pytest.raises(DeviceError, match=r"cannot use the measurement store .*store\.sqlite"):
        MeasurementStore(path)


def test_a_place_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DeviceError, match="set TINYNAS_STORE"):
        MeasurementStore(tmp_path / "file" / "store.sqlite")


def test_the_default_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TINYNAS_STORE", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_store_path() == tmp_path / "tinynas" / "measurements.sqlite"
    monkeypatch.setenv("TINYNAS_STORE", str(tmp_path / "mine.sqlite"))
    assert default_store_path() == tmp_path / "mine.sqlite"
