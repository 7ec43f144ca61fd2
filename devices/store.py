"""Every measurement ever made, in one SQLite file. Rows are added, never changed."""

from __future__ import annotations

import json
import math
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, Json, NonNegativeInt, PositiveInt, ValidationError

from devices.board import Measurement, OperatorTime
from devices.errors import DeviceError

SCHEMA_VERSION = 2
"""Of the table, as ``PRAGMA user_version`` has it. Version 1 had no number, and no column after ``code_bytes``."""

_TABLE = """
CREATE TABLE {name} (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  created_at TEXT NOT NULL,
  model_hash TEXT NOT NULL,
  model_name TEXT NOT NULL,
  firmware_sha256 TEXT NOT NULL,
  toolchain TEXT NOT NULL,
  board TEXT NOT NULL,
  device TEXT NOT NULL,
  clock_hz INTEGER NOT NULL,
  latency_ms REAL NOT NULL,
  cycles INTEGER,
  instructions INTEGER,
  runs INTEGER NOT NULL,
  layer_cycles TEXT NOT NULL,
  layer_features TEXT NOT NULL,
  sram_bytes INTEGER NOT NULL,
  flash_bytes INTEGER NOT NULL,
  code_bytes INTEGER NOT NULL,
  features_version TEXT NOT NULL DEFAULT '',
  latencies_ms TEXT NOT NULL DEFAULT '[]',
  operators TEXT NOT NULL DEFAULT '[]',
  conditions TEXT NOT NULL DEFAULT '{{}}',
  board_kind TEXT NOT NULL DEFAULT '',
  host TEXT NOT NULL DEFAULT '',
  command TEXT NOT NULL DEFAULT '[]',
  folder TEXT NOT NULL DEFAULT '',
  inputs TEXT NOT NULL DEFAULT '',
  model_sha256 TEXT NOT NULL DEFAULT '',
  compiler_flags TEXT NOT NULL DEFAULT '',
  tinynas_version TEXT NOT NULL DEFAULT '',
  git_commit TEXT NOT NULL DEFAULT '',
  versions TEXT NOT NULL DEFAULT '{{}}',
  note TEXT NOT NULL DEFAULT ''
)
"""
_VERSION_1_COLUMNS = (
    "id, created_at, model_hash, model_name, firmware_sha256, toolchain, board, device, clock_hz, latency_ms, cycles, "
    "instructions, runs, layer_cycles, layer_features, sram_bytes, flash_bytes, code_bytes"
)
_BESIDE_TABLE = (
    "CREATE INDEX measurements_by_device ON measurements (device)",
    "CREATE INDEX measurements_by_model ON measurements (model_hash)",
    "CREATE INDEX measurements_by_file ON measurements (model_sha256)",
    "CREATE TRIGGER measurements_never_change BEFORE UPDATE ON measurements "
    "BEGIN SELECT RAISE(ABORT, 'measurements are never changed'); END",
    "CREATE TRIGGER measurements_never_go BEFORE DELETE ON measurements "
    "BEGIN SELECT RAISE(ABORT, 'measurements are never deleted'); END",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)
_CREATE = (_TABLE.format(name="measurements"), *_BESIDE_TABLE)
# SQLite cannot let a column be empty that may not, so the rows are copied, in one transaction. All that version 1 knew
# were emulated boards and serial ports.
_MIGRATE_FROM_1 = (
    _TABLE.format(name="measurements_2"),
    f"INSERT INTO measurements_2 ({_VERSION_1_COLUMNS}, board_kind) SELECT {_VERSION_1_COLUMNS}, "
    "CASE WHEN board LIKE 'emulator:%' THEN 'emulated' ELSE 'serial' END FROM measurements ORDER BY id",
    "DROP TABLE measurements",
    "ALTER TABLE measurements_2 RENAME TO measurements",
    *_BESIDE_TABLE,
)
_SELECT = """
SELECT * FROM measurements
WHERE (:device IS NULL OR device = :device)
  AND (:board IS NULL OR board = :board OR substr(board, 1, length(:board) + 1) = :board || ':')
  AND (:model IS NULL OR model_name = :model OR substr(model_hash, 1, length(:model)) = :model
       OR substr(model_sha256, 1, length(:model)) = :model)
  AND (:since IS NULL OR created_at >= :since)
ORDER BY id DESC LIMIT :limit
"""
_BUSY_TIMEOUT_S = 30.0
_LOOK_BACK = 10
"""Rows that are looked at for the last measurement of a model that can be read."""

OnUnreadable = Callable[[str], None]


@dataclass(frozen=True)
class Provenance:
    """What is needed to repeat a measurement, beside what the board says. Empty where it was not recorded."""

    board_kind: str = ""
    """``emulated``, ``serial`` or ``adb``: an emulated latency is a model's answer."""
    host: str = ""
    """The machine that the board is connected to, and its operating system."""
    command: tuple[str, ...] = ()
    """The command line, word by word."""
    folder: str = ""
    """Where it was typed; relative names in it begin here."""
    inputs: str = ""
    """What the network was given."""
    model_sha256: str = ""
    """Of the ``.tflite`` file, where there was one."""
    compiler_flags: str = ""
    """As the compiler noted them in the image."""
    tinynas_version: str = ""
    git_commit: str = ""
    """Of tinynas itself, where it runs from a checkout; ends in ``-dirty`` when files differ from it."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Of the emulator, and of the packages that made or judge the model."""
    note: str = ""
    """The user's own words."""


@dataclass(frozen=True)
class StoredMeasurement:
    """One row: a measurement, where it comes from, and what the cost model needs to know of its layers."""

    id: int
    created_at: str
    """UTC, ISO 8601."""
    model_name: str
    measurement: Measurement
    layer_features: tuple[Mapping[str, object], ...]
    """One mapping per layer, in the order of ``measurement.layer_cycles``."""
    features_version: str
    """Features of different versions do not compare; empty for those of the first."""
    provenance: Provenance


@dataclass(frozen=True)
class Selection:
    """Which measurements are asked for; every condition that is given has to hold."""

    device: str | None = None
    board: str | None = None
    """Its name, or what comes before a colon in it: ``emulator`` for every emulated board without a name of its own."""
    model: str | None = None
    """Its name, or how its id begins, or how the SHA-256 of its file begins."""
    since: datetime | None = None
    """With a time zone."""
    limit: int | None = None
    """The newest so many."""


def default_store_path() -> Path:
    """``$TINYNAS_STORE``, or ``tinynas/measurements.sqlite`` in the user's data folder."""
    if path := os.environ.get("TINYNAS_STORE"):
        return Path(path)
    return data_folder() / "measurements.sqlite"


def data_folder() -> Path:
    """What tinynas keeps for the user: ``$XDG_DATA_HOME/tinynas``, or ``~/.local/share/tinynas``."""
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "tinynas"


class MeasurementStore:
    """The measurements in one file, made on first use. Several processes may use it at once."""

    def __init__(self, path: Path | None = None) -> None:
        """Open the store at ``path``, or at the default place; one of an older version is brought up to date in place.

        Raises DeviceError when that is impossible, and when the store is of a newer version.
        """
        self.path = path or default_store_path()
        with self._connected() as connection:
            if self._version(connection) == SCHEMA_VERSION:
                return
            # The default journal, not WAL: to change to that, or to leave it last, takes a lock that is not waited for.
            # Immediate, because a reader that becomes a writer would not wait either.
            connection.execute("BEGIN IMMEDIATE")
            version = self._version(connection)  # another process may have been first
            for statement in {0: _CREATE, 1: _MIGRATE_FROM_1}.get(version, ()):
                connection.execute(statement)

    def add(
        self,
        measurement: Measurement,
        model_name: str,
        layer_features: Sequence[Mapping[str, object]] = (),
        *,
        features_version: str = "",
        provenance: Provenance | None = None,
    ) -> int:
        """Add one measurement and return its id. Raises DeviceError when it is none, or cannot be written."""
        if layer_features and len(layer_features) != len(measurement.layer_cycles):
            raise DeviceError(
                f"cannot store the measurement of {model_name}: it has {len(measurement.layer_cycles)} layers, the "
                f"features {len(layer_features)}"
            )
        for latency_ms in (measurement.latency_ms, *measurement.latencies_ms):
            if not (math.isfinite(latency_ms) and latency_ms > 0):
                raise DeviceError(
                    f"cannot store the measurement of {model_name} on {measurement.board}: a latency of {latency_ms:g} "
                    "ms is none; measure again, and check the board's clock"
                )
        origin = provenance or Provenance()
        row: dict[str, Any] = {
            "created_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "model_hash": measurement.model_id,
            "model_name": model_name,
            "firmware_sha256": measurement.firmware_sha256,
            "toolchain": measurement.toolchain,
            "board": measurement.board,
            "device": measurement.device,
            "clock_hz": measurement.clock_hz,
            "latency_ms": measurement.latency_ms,
            "cycles": measurement.cycles,
            "instructions": measurement.instructions,
            "runs": measurement.runs,
            "layer_cycles": _json(measurement.layer_cycles),
            "layer_features": _json([dict(features) for features in layer_features]),
            "sram_bytes": measurement.sram_bytes,
            "flash_bytes": measurement.flash_bytes,
            "code_bytes": measurement.code_bytes,
            "features_version": features_version,
            "latencies_ms": _json(measurement.latencies_ms),
            "operators": _json([asdict(operator) for operator in measurement.operators]),
            "conditions": _json(dict(measurement.conditions)),
            **asdict(origin),
            "command": _json(origin.command),
            "versions": _json(dict(origin.versions)),
        }
        names = ", ".join(row)
        places = ", ".join(f":{name}" for name in row)
        with self._connected() as connection:
            added = connection.execute(f"INSERT INTO measurements ({names}) VALUES ({places})", row).lastrowid
        assert added is not None
        return added

    def all(
        self, device: str | None = None, on_unreadable: OnUnreadable | None = None
    ) -> tuple[StoredMeasurement, ...]:
        """Every measurement, oldest first; only those of ``device`` when it is given.

        A row that cannot be read is left out when ``on_unreadable`` takes the sentence that says so, and else a
        DeviceError.
        """
        return tuple(reversed(self.newest(Selection(device=device), on_unreadable)))

    def newest(
        self, selection: Selection = Selection(), on_unreadable: OnUnreadable | None = None
    ) -> tuple[StoredMeasurement, ...]:
        """The measurements that are asked for, newest first; rows that cannot be read as in ``all``."""
        since = None if selection.since is None else selection.since.astimezone(UTC).isoformat(timespec="milliseconds")
        rows = self._rows(
            _SELECT,
            device=selection.device,
            board=selection.board,
            model=selection.model or None,
            since=since,
            limit=-1 if selection.limit is None else selection.limit,
        )
        return tuple(self._readable(rows, on_unreadable))

    def get(self, identifier: int) -> StoredMeasurement | None:
        """The measurement with this id, if there is one. Raises DeviceError when it cannot be read."""
        rows = self._rows("SELECT * FROM measurements WHERE id = :id", id=identifier)
        return next(self._readable(rows, None), None)

    def before(self, later: StoredMeasurement, on_unreadable: OnUnreadable | None = None) -> StoredMeasurement | None:
        """The last measurement before ``later`` of the same model on the same device and kind of board, if any.

        A model is the same when its file is, or else when the compiler made the same of it.
        """
        rows = self._rows(
            # The unary plus keeps SQLite from going through all rows of the device.
            "SELECT * FROM measurements WHERE id < :id AND +device = :device AND +board_kind = :kind "
            "AND (model_hash = :hash OR model_sha256 = :sha256) ORDER BY +id DESC LIMIT :some",
            id=later.id,
            device=later.measurement.device,
            kind=later.provenance.board_kind,
            hash=later.measurement.model_id,
            sha256=later.provenance.model_sha256 or None,
            some=_LOOK_BACK,
        )
        return next(self._readable(rows, on_unreadable), None)

    def _rows(self, query: str, **values: object) -> list[sqlite3.Row]:
        with self._connected() as connection:
            connection.row_factory = sqlite3.Row
            # Bytes that are no text are for the row's check to name, not for SQLite to end the whole query with.
            connection.text_factory = lambda text: text.decode("utf-8", "surrogateescape")
            return connection.execute(query, values).fetchall()

    def _readable(self, rows: Sequence[sqlite3.Row], on_unreadable: OnUnreadable | None) -> Iterator[StoredMeasurement]:
        for row in rows:
            try:
                yield _Row.model_validate(dict(row)).to_stored()
            except ValidationError as error:
                first = error.errors()[0]
                sentence = (
                    f"measurement {row['id']} in the store {self.path} cannot be read: "
                    f"{'.'.join(map(str, first['loc']))}: {first['msg']}; something other than tinynas has changed it: "
                    "bring the file back from a copy, or set TINYNAS_STORE to another"
                )
                if on_unreadable is None:
                    raise DeviceError(sentence) from error
                on_unreadable(sentence)

    def _version(self, connection: sqlite3.Connection) -> int:
        """The schema's version, 0 of an empty file. Raises DeviceError for a version that is not known."""
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA_VERSION:
            raise DeviceError(
                f"the measurement store {self.path} has version {version}, and this tinynas knows {SCHEMA_VERSION}: a "
                "newer one has written it; update tinynas, or set TINYNAS_STORE to another file"
            )
        if version:
            return int(version)
        tables = {
            name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        }
        if not tables:
            return 0
        if "measurements" in tables:
            return 1
        raise DeviceError(f"{self.path} is the database of another program; set TINYNAS_STORE to another file")

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        """A connection for one transaction."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self.path, timeout=_BUSY_TIMEOUT_S)) as connection, connection:
                yield connection
        except (OSError, sqlite3.Error) as error:
            raise DeviceError(f"cannot use the measurement store {self.path}: {error}; set TINYNAS_STORE") from error


def _json(value: object) -> str:
    return json.dumps(value, allow_nan=False, ensure_ascii=False)


_LatencyMs = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Row(BaseModel):
    """A row as the file has it, which anybody may have changed."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())

    id: PositiveInt
    created_at: str = Field(pattern=r"^\d{4}-\d\d-\d\dT[\d:.]+\+00:00$")
    model_hash: str
    model_name: str
    firmware_sha256: str
    toolchain: str
    board: str
    device: str
    clock_hz: NonNegativeInt
    latency_ms: _LatencyMs
    cycles: NonNegativeInt | None
    instructions: NonNegativeInt | None
    runs: PositiveInt
    layer_cycles: Json[tuple[NonNegativeInt, ...]]
    layer_features: Json[tuple[dict[str, object], ...]]
    sram_bytes: NonNegativeInt
    flash_bytes: NonNegativeInt
    code_bytes: NonNegativeInt
    features_version: str
    latencies_ms: Json[tuple[_LatencyMs, ...]]
    operators: Json[tuple[OperatorTime, ...]]
    conditions: Json[dict[str, str]]
    board_kind: str
    host: str
    command: Json[tuple[str, ...]]
    folder: str
    inputs: str
    model_sha256: str
    compiler_flags: str
    tinynas_version: str
    git_commit: str
    versions: Json[dict[str, str]]
    note: str

    def to_stored(self) -> StoredMeasurement:
        """The row in the form that others use."""
        measurement = Measurement(
            board=self.board,
            device=self.device,
            model_id=self.model_hash,
            latency_ms=self.latency_ms,
            cycles=self.cycles,
            instructions=self.instructions,
            layer_cycles=self.layer_cycles,
            runs=self.runs,
            clock_hz=self.clock_hz,
            sram_bytes=self.sram_bytes,
            flash_bytes=self.flash_bytes,
            code_bytes=self.code_bytes,
            firmware_sha256=self.firmware_sha256,
            toolchain=self.toolchain,
            latencies_ms=self.latencies_ms,
            operators=self.operators,
            conditions=self.conditions,
        )
        return StoredMeasurement(
            id=self.id,
            created_at=self.created_at,
            model_name=self.model_name,
            measurement=measurement,
            layer_features=self.layer_features,
            features_version=self.features_version,
            provenance=Provenance(**{name.name: getattr(self, name.name) for name in fields(Provenance)}),
        )
