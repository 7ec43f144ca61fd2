"""Every measurement ever made, in one SQLite file. Rows are added, never changed."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from devices.board import Measurement
from devices.errors import DeviceError

_SCHEMA = """
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS measurements (
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
  cycles INTEGER NOT NULL,
  instructions INTEGER,
  runs INTEGER NOT NULL,
  layer_cycles TEXT NOT NULL,
  layer_features TEXT NOT NULL,
  sram_bytes INTEGER NOT NULL,
  flash_bytes INTEGER NOT NULL,
  code_bytes INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS measurements_by_device ON measurements (device);
CREATE TRIGGER IF NOT EXISTS measurements_never_change BEFORE UPDATE ON measurements
  BEGIN SELECT RAISE(ABORT, 'measurements are never changed'); END;
CREATE TRIGGER IF NOT EXISTS measurements_never_go BEFORE DELETE ON measurements
  BEGIN SELECT RAISE(ABORT, 'measurements are never deleted'); END;
COMMIT;
"""
_BUSY_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class StoredMeasurement:
    """One row: a measurement, whose network it was of, and what the cost model needs to know of its layers."""

    id: int
    created_at: str
    """UTC, ISO 8601."""
    model_name: str
    measurement: Measurement
    layer_features: tuple[Mapping[str, object], ...]
    """One mapping per layer, in the order of ``measurement.layer_cycles``."""


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
        """Open the store at ``path``, or at the default place. Raises DeviceError when that is impossible."""
        self.path = path or default_store_path()
        with self._connected() as connection:
            # The default journal, not WAL: to change to that, or to leave it last, takes a lock that is not waited for.
            # Immediate, because a reader that becomes a writer would not wait either.
            connection.executescript(_SCHEMA)

    def add(
        self, measurement: Measurement, model_name: str, layer_features: Sequence[Mapping[str, object]] = ()
    ) -> int:
        """Add one measurement and return its id. Raises DeviceError when it cannot be written."""
        if layer_features and len(layer_features) != len(measurement.layer_cycles):
            raise DeviceError(
                f"cannot store the measurement of {model_name}: it has {len(measurement.layer_cycles)} layers, the "
                f"features {len(layer_features)}"
            )
        row = {
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
            "layer_cycles": json.dumps(measurement.layer_cycles),
            "layer_features": json.dumps([dict(features) for features in layer_features], allow_nan=False),
            "sram_bytes": measurement.sram_bytes,
            "flash_bytes": measurement.flash_bytes,
            "code_bytes": measurement.code_bytes,
        }
        names = ", ".join(row)
        places = ", ".join(f":{name}" for name in row)
        with self._connected() as connection:
            added = connection.execute(f"INSERT INTO measurements ({names}) VALUES ({places})", row).lastrowid
        assert added is not None
        return added

    def all(self, device: str | None = None) -> tuple[StoredMeasurement, ...]:
        """Every measurement, oldest first; only those of ``device`` when it is given."""
        with self._connected() as connection:
            connection.row_factory = sqlite3.Row
            rows = connection.execute(
                "SELECT * FROM measurements WHERE :device IS NULL OR device = :device ORDER BY id", {"device": device}
            ).fetchall()
        return tuple(_stored(row) for row in rows)

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        """A connection for one transaction."""
        connection = None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(self.path, timeout=_BUSY_TIMEOUT_S)
            with connection:
                yield connection
        except (OSError, sqlite3.Error) as error:
            raise DeviceError(f"cannot use the measurement store {self.path}: {error}; set TINYNAS_STORE") from error
        finally:
            if connection is not None:
                connection.close()


def _stored(row: sqlite3.Row) -> StoredMeasurement:
    measurement = Measurement(
        board=row["board"],
        device=row["device"],
        model_id=row["model_hash"],
        latency_ms=row["latency_ms"],
        cycles=row["cycles"],
        instructions=row["instructions"],
        layer_cycles=tuple(json.loads(row["layer_cycles"])),
        runs=row["runs"],
        clock_hz=row["clock_hz"],
        sram_bytes=row["sram_bytes"],
        flash_bytes=row["flash_bytes"],
        code_bytes=row["code_bytes"],
        firmware_sha256=row["firmware_sha256"],
        toolchain=row["toolchain"],
    )
    return StoredMeasurement(
        row["id"], row["created_at"], row["model_name"], measurement, tuple(json.loads(row["layer_features"]))
    )
