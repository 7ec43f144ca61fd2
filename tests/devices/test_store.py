"""The measurement store: what goes in comes out, nothing is overwritten, and several writers do not lose rows."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from devices.board import OperatorTime
from devices.errors import DeviceError
from devices.store import SCHEMA_VERSION, MeasurementStore, Provenance, Selection, default_store_path
from tests.devices.measurements import EMULATED as ONE

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
    assert {stored.measurement.cycles for stored in MeasurementStore(path).all()} == set(range(40))


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


PHONE = replace(
    ONE,
    board="pixel",
    device="pixel2",
    cycles=None,
    instructions=None,
    layer_cycles=(),
    latencies_ms=(1.25, 1.2, 1.31),
    operators=(OperatorTime("conv", "CONV_2D", 0.75), OperatorTime("dense \N{DEGREE SIGN}", "FULLY_CONNECTED", 0.5)),
    conditions={"core mask": "f0", "temperature": "31 \N{DEGREE SIGN}C"},
)
ORIGIN = Provenance(
    board_kind="adb",
    host="bench, Linux",
    command=("tinynas", "measure", "a b.tflite", "--board", "pixel"),
    folder="/home/me",
    inputs="one at random",
    model_sha256="cd" * 32,
    compiler_flags="-O2",
    tinynas_version="0.1",
    git_commit="abc-dirty",
    versions={"qemu": "7.2"},
    note="=warm room",
)


def test_a_phone_and_where_it_was_measured_come_out_again(tmp_path: Path) -> None:
    store = MeasurementStore(tmp_path / "store.sqlite")
    store.add(PHONE, "toy", features_version="7", provenance=ORIGIN)
    (stored,) = store.all()
    assert stored.measurement == PHONE
    assert (stored.provenance, stored.features_version) == (ORIGIN, "7")


@pytest.mark.parametrize("latency_ms", [float("nan"), float("inf"), 0.0, -1.0])
def test_a_latency_that_is_none_is_refused(tmp_path: Path, latency_ms: float) -> None:
    store = MeasurementStore(tmp_path / "store.sqlite")
    for wrong in (replace(ONE, latency_ms=latency_ms), replace(ONE, latencies_ms=(1.25, latency_ms))):
        with pytest.raises(DeviceError, match="cannot store the measurement of toy on emulator:netduinoplus2"):
            store.add(wrong, "toy")
    assert store.all() == ()


def test_what_is_asked_for_newest_first(tmp_path: Path) -> None:
    store = MeasurementStore(tmp_path / "store.sqlite")
    for model_id, board in (("aa11", "x"), ("aa22", "y"), ("bb33", "x"), ("aa11", "x")):
        store.add(replace(ONE, model_id=model_id, board=board), f"net {model_id}", provenance=ORIGIN)

    def ids(**conditions: object) -> list[int]:
        return [stored.id for stored in store.newest(Selection(**conditions))]  # type: ignore[arg-type]

    assert ids() == [4, 3, 2, 1]
    assert ids(limit=2) == [4, 3]
    assert ids(model="aa") == [4, 2, 1]
    assert ids(model="net bb33") == [3]
    assert ids(model="a_11") == []  # no wildcard
    assert ids(model="cdcd", board="x", device="stm32f405") == [4, 3, 1]
    assert ids(device="stm32h743") == []
    now = datetime.now(UTC)
    assert ids(since=now - timedelta(hours=1)) == [4, 3, 2, 1]
    assert ids(since=now + timedelta(hours=1)) == []


def test_one_by_its_id(tmp_path: Path) -> None:
    store = MeasurementStore(tmp_path / "store.sqlite")
    added = store.add(ONE, "toy")
    found = store.get(added)
    assert found is not None
    assert found.measurement == ONE
    assert store.get(added + 1) is None


def test_the_measurement_before_is_of_the_same_model_device_and_kind_of_board(tmp_path: Path) -> None:
    store = MeasurementStore(tmp_path / "store.sqlite")
    emulated, serial = replace(ORIGIN, board_kind="emulated", model_sha256=""), replace(ORIGIN, board_kind="serial")
    store.add(ONE, "toy", provenance=emulated)  # 1
    store.add(replace(ONE, device="mps2-an386"), "toy", provenance=emulated)
    store.add(replace(ONE, model_id="other"), "toy", provenance=emulated)
    store.add(ONE, "toy", provenance=serial)
    store.add(ONE, "toy", provenance=replace(emulated, model_sha256="ee"))  # 5: the same to the compiler as 1
    store.add(replace(ONE, model_id="recompiled"), "toy", provenance=replace(emulated, model_sha256="ee"))  # 6: file
    before = {stored.id: found.id if (found := store.before(stored)) else None for stored in store.all()}
    assert before == {1: None, 2: None, 3: None, 4: None, 5: 1, 6: 5}


VERSION_1 = """
CREATE TABLE measurements (
  id INTEGER PRIMARY KEY AUTOINCREMENT, created_at TEXT NOT NULL, model_hash TEXT NOT NULL, model_name TEXT NOT NULL,
  firmware_sha256 TEXT NOT NULL, toolchain TEXT NOT NULL, board TEXT NOT NULL, device TEXT NOT NULL,
  clock_hz INTEGER NOT NULL, latency_ms REAL NOT NULL, cycles INTEGER NOT NULL, instructions INTEGER,
  runs INTEGER NOT NULL, layer_cycles TEXT NOT NULL, layer_features TEXT NOT NULL, sram_bytes INTEGER NOT NULL,
  flash_bytes INTEGER NOT NULL, code_bytes INTEGER NOT NULL
);
CREATE INDEX measurements_by_device ON measurements (device);
CREATE TRIGGER measurements_never_change BEFORE UPDATE ON measurements
  BEGIN SELECT RAISE(ABORT, 'measurements are never changed'); END;
CREATE TRIGGER measurements_never_go BEFORE DELETE ON measurements
  BEGIN SELECT RAISE(ABORT, 'measurements are never deleted'); END;
"""
"""The store as tinynas first wrote it."""
ADD_1 = (
    "INSERT INTO measurements (created_at, model_hash, model_name, firmware_sha256, toolchain, board, device, clock_hz,"
    " latency_ms, cycles, instructions, runs, layer_cycles, layer_features, sram_bytes, flash_bytes, code_bytes)"
    " VALUES ('2026-01-0' || ? || 'T10:00:00.000+00:00', 'aa', 'old', 'ff', 'gcc', ?, 'stm32f405', 168000000, 1.5, "
    "200, NULL, 3, '[150, 50]', '[{\"kind\": \"CONV_2D\"}, {}]', 10, 20, 30)"
)


def _old_store(path: Path, rows: int = 3) -> Path:
    connection = sqlite3.connect(path)
    connection.executescript(VERSION_1)
    for index in range(rows):
        connection.execute(
            ADD_1, (index % 9 + 1, ("emulator:netduinoplus2", "serial:/dev/ttyACM0", "bench-3")[index % 3])
        )
    connection.commit()
    connection.close()
    return path


def _dump(path: Path) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(path)
    try:
        return connection.execute(
            "SELECT id, created_at, model_hash, model_name, firmware_sha256, toolchain, board, device, clock_hz, "
            "latency_ms, cycles, instructions, runs, layer_cycles, layer_features, sram_bytes, flash_bytes, code_bytes "
            "FROM measurements ORDER BY id"
        ).fetchall()
    finally:
        connection.close()


def test_a_store_of_the_first_version_is_brought_up_to_date_in_place(tmp_path: Path) -> None:
    path = _old_store(tmp_path / "store.sqlite")
    before = _dump(path)
    store = MeasurementStore(path)
    assert _dump(path) == before
    old = store.all()
    assert [(stored.id, stored.provenance.board_kind) for stored in old] == [
        (1, "emulated"),
        (2, "serial"),
        (3, "serial"),
    ]
    assert old[0].measurement.layer_cycles == (150, 50)
    assert old[0].layer_features == ({"kind": "CONV_2D"}, {})
    assert (old[0].features_version, old[0].measurement.latencies_ms) == ("", ())
    assert store.add(PHONE, "toy") == 4
    assert [stored.id for stored in MeasurementStore(path).all()] == [1, 2, 3, 4]
    connection = sqlite3.connect(path)
    for statement in ("UPDATE measurements SET note = ''", "DELETE FROM measurements"):
        with pytest.raises(sqlite3.IntegrityError, match="never"):
            connection.execute(statement)
    # A tinynas of before that still runs can go on.
    connection.execute(ADD_1, (4, "serial:COM3"))
    connection.commit()
    connection.close()
    assert len(store.all()) == 5


def _in_a_child_that_is_killed(work: Callable[[], object], at: int) -> bool:
    """Run ``work`` in a process that is killed before its SQL statement number ``at``; whether it got that far."""
    child = os.fork()
    if child == 0:
        statements = 0
        connect = sqlite3.connect

        def count(_: str) -> None:
            nonlocal statements
            statements += 1
            if statements == at:
                os.kill(os.getpid(), signal.SIGKILL)

        def counted(*arguments: object, **options: object) -> sqlite3.Connection:
            connection = connect(*arguments, **options)  # type: ignore[call-overload]
            connection.set_trace_callback(count)
            return connection  # type: ignore[no-any-return]

        code = 1
        try:
            sqlite3.connect = counted  # type: ignore[assignment]
            work()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    assert os.waitstatus_to_exitcode(status) == 0
    return False


def test_a_migration_that_is_killed_anywhere_loses_nothing(tmp_path: Path) -> None:
    kills = 0
    for at in range(1, 100):
        path = _old_store(tmp_path / f"store-{at}.sqlite", rows=200)
        before = _dump(path)
        killed = _in_a_child_that_is_killed(partial(MeasurementStore, path), at)
        assert _dump(path) == before
        assert len(MeasurementStore(path).all()) == 200
        assert _dump(path) == before
        if not killed:
            break
        kills += 1
    assert kills > 8


def test_many_that_open_an_old_store_at_once_migrate_it_once(tmp_path: Path) -> None:
    path = _old_store(tmp_path / "store.sqlite")
    with ThreadPoolExecutor(8) as pool:
        added = list(pool.map(lambda _: MeasurementStore(path).add(ONE, "toy"), range(24)))
    assert sorted(added) == list(range(4, 28))
    assert len(MeasurementStore(path).all()) == 27


def test_a_store_of_a_newer_tinynas_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    MeasurementStore(path)
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    connection.close()
    content = path.read_bytes()
    with pytest.raises(DeviceError, match=r"has version 3, and this tinynas knows 2: .* update tinynas"):
        MeasurementStore(path)
    assert path.read_bytes() == content


def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE bookmarks (url TEXT)")
    connection.close()
    with pytest.raises(DeviceError, match="another program"):
        MeasurementStore(path)


def test_a_store_that_may_only_be_read_is_read(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    MeasurementStore(path).add(ONE, "toy")
    connection = sqlite3.connect(path)
    connection.execute("BEGIN IMMEDIATE")  # somebody writes, and takes long
    assert len(MeasurementStore(path).all()) == 1
    connection.close()


def _damage(path: Path, row: int, assignment: str, value: object) -> None:
    connection = sqlite3.connect(path)
    connection.execute("DROP TRIGGER measurements_never_change")
    connection.execute(f"UPDATE measurements SET {assignment} = ? WHERE id = ?", (value, row))
    connection.commit()
    connection.close()


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("layer_cycles", "[1, 2"),
        ("layer_cycles", '{"a": 1}'),
        ("layer_cycles", "[-1]"),
        ("layer_features", "nonsense"),
        ("latencies_ms", "[1.0, NaN]"),
        ("operators", '[{"name": 1}]'),
        ("conditions", "[]"),
        ("command", "tinynas"),
        ("latency_ms", -3.0),
        ("latency_ms", "fast"),
        ("runs", 0),
        ("created_at", "yesterday"),
        ("model_name", b"\xff\xfe"),
        ("note", b"\x00\xff"),
    ],
)
def test_a_row_that_was_damaged_is_named(tmp_path: Path, column: str, value: object) -> None:
    store = MeasurementStore(tmp_path / "store.sqlite")
    for _ in range(3):
        store.add(PHONE, "toy", provenance=ORIGIN)
    _damage(store.path, 2, column, value)
    with pytest.raises(DeviceError, match=rf"measurement 2 in the store .*store.sqlite cannot be read: {column}"):
        store.all()
    with pytest.raises(DeviceError, match="measurement 2"):
        store.get(2)
    told: list[str] = []
    assert [stored.id for stored in store.all(on_unreadable=told.append)] == [1, 3]
    assert len(told) == 1
    (third,) = store.newest(Selection(limit=1))
    before = store.before(third, told.append)
    assert before is not None
    assert before.id == 1
