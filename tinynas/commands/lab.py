"""Commands for a lab of boards: what is plugged in, what works, many models on many boards at once."""

from __future__ import annotations

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from devices.board import Board
from devices.boards import BoardEntry, boards_file, find_entry, known_boards, open_boards, parse_boards
from devices.check import check_board
from devices.errors import DeviceError
from devices.firmware import FirmwareImage
from devices.host.scratch import scratch_folder
from devices.lab import Outcome, share_out
from devices.measured_power import current_profile
from devices.profile import DeviceProfile
from devices.scan import entries_by_port, entry_of_phone, entry_of_probe, proposals, to_toml
from devices.scan import scan as scan_machine
from devices.store import MeasurementStore, StoredMeasurement
from export.synthetic import with_random_weights
from tinynas import output
from tinynas.files import write_atomically
from tinynas.lower import lower
from tinynas.measuring import build_image, measure_and_store, random_inputs
from tinynas.models import Model, load_model
from tinynas.space import load_space

_TRIAL_INPUT = (16, 16, 1)
_TRIAL_CLASSES = 3


def scan(write: bool) -> dict[str, Any]:
    """What is plugged in, whether boards.toml has it, and what would be added to that; with ``write`` it is."""
    path, entries = boards_file(), known_boards()
    found = scan_machine()
    on_port, proposed = entries_by_port(found.ports, entries), proposals(found, entries)
    text = to_toml(proposed)
    if write and proposed:
        _append(path, text)
    return {
        "boards_file": str(path),
        "ports": [
            {
                "path": port.path,
                "by_id": port.by_id,
                "usb_serial": port.usb_serial,
                "vid": port.vid,
                "pid": port.pid,
                "product": port.product,
                "board": _id(on_port.get(port.path)),
            }
            for port in found.ports
        ],
        "probes": [
            {
                "id": probe.id,
                "chip": probe.chip or None,
                "runners": list(probe.runners),
                "board": _id(entry_of_probe(probe, entries)),
            }
            for probe in found.probes
        ],
        "phones": [
            {
                "serial": phone.serial,
                "state": phone.state,
                "description": phone.description,
                "board": _id(entry_of_phone(phone, entries)),
            }
            for phone in found.phones
        ],
        "notes": list(found.notes),
        "proposed": [entry.model_dump(exclude_defaults=True) for entry in proposed],
        "toml": text,
        "written": write and bool(proposed),
    }


def check(ids: list[str]) -> dict[str, Any]:
    """Look at the boards with these ids, or at every available one of the lab, at the same time."""
    path = boards_file()
    entries = [find_entry(name) for name in dict.fromkeys(ids)] or [e for e in known_boards() if e.available]
    if not entries:
        raise DeviceError(f"{path} lists no available board; 'tinynas boards scan --write' adds what is plugged in")
    with scratch_folder() as folder, ThreadPoolExecutor(max_workers=len(entries)) as pool:
        trial = _Trials(folder)
        states = list(pool.map(lambda entry: check_board(entry, trial), entries))
    return {
        "boards_file": str(path),
        "ok": all(state.is_ok for state in states),
        "boards": [
            {
                "board": entry.id,
                "kind": entry.kind,
                "platform": entry.platform,
                "ok": state.is_ok,
                "facts": dict(state.facts),
                "problems": list(state.problems),
                "warnings": list(state.warnings),
            }
            for entry, state in zip(entries, states, strict=True)
        ],
    }


def measure(paths: list[Path], specs: list[str], device: str | None, runs: int | None) -> dict[str, Any]:
    """Measure every model on one of the boards, which work at the same time; each measurement is stored."""
    models = [load_model(path) for path in paths]
    store = MeasurementStore()
    with open_boards(specs, device) as opened, output.progress("measuring") as update:
        for reason in opened.left_out:
            output.say(f"left out: {reason}")
        profile = current_profile(opened.platform)
        if profile.kind == "phone":
            raise DeviceError(f"{specs[0]} is a phone, and phones are measured one by one; use tinynas measure")
        jobs = [
            partial(_measure_one, path, model, profile, store, runs) for path, model in zip(paths, models, strict=True)
        ]
        done = 0

        def tell(number: int, outcome: Outcome[StoredMeasurement]) -> None:
            nonlocal done
            done += 1
            update(done, len(jobs), f"models, {paths[number].name} on {outcome.board or 'no board'}")

        outcomes = share_out(jobs, opened.boards, tell)
        names = [board.name for board in opened.boards]
    rows = [_row(path, model, outcome) for path, model, outcome in zip(paths, models, outcomes, strict=True)]
    return {
        "device": profile.name,
        "boards": names,
        "left_out": list(opened.left_out),
        "measured": sum(outcome.value is not None for outcome in outcomes),
        "measurements": rows,
    }


def _append(path: Path, text: str) -> None:
    """Add ``text`` to boards.toml, of which not a byte changes, once the whole is valid."""
    path = path.resolve()  # a link stays one
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    gap = "" if not before else "\n" if before.endswith("\n") else "\n\n"
    parse_boards(before + gap + text, path)
    write_atomically(path, before + gap + text)


def _id(entry: BoardEntry | None) -> str | None:
    return None if entry is None else entry.id


class _Trials:
    """Builds the trial of each platform once, whichever board asks first."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._mutex = threading.Lock()
        self._built: dict[str, tuple[FirmwareImage, bytes]] = {}

    def __call__(self, profile: DeviceProfile) -> tuple[FirmwareImage, bytes]:
        with self._mutex:
            if profile.name not in self._built:
                space = load_space("mobilenet_small")
                smallest = space.extreme(_TRIAL_INPUT, largest=False)
                graph = with_random_weights(lower(smallest, space, _TRIAL_INPUT, _TRIAL_CLASSES))
                image = build_image(graph, profile, self._folder / profile.name)
                self._built[profile.name] = image, random_inputs(graph, 1, seed=0)[0]
            return self._built[profile.name]


def _measure_one(
    path: Path, model: Model, profile: DeviceProfile, store: MeasurementStore, runs: int | None, board: Board
) -> StoredMeasurement:
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return measure_and_store(model.graph, profile, board, store, runs=runs, model_sha256=sha256)


def _row(path: Path, model: Model, outcome: Outcome[StoredMeasurement]) -> dict[str, Any]:
    stored = outcome.value
    row: dict[str, Any] = {
        "file": str(path),
        "model": model.source.name,
        "board": outcome.board,
        "failures": [{"board": failure.board, "reason": failure.reason} for failure in outcome.failures],
    }
    if stored is None:
        return row | {"error": outcome.reason}
    measurement = stored.measurement
    return row | {
        "measurement_id": stored.id,
        "model_id": measurement.model_id,
        "latency_ms": measurement.latency_ms,
        "cycles": measurement.cycles,
        "instructions": measurement.instructions,
        "layer_cycles": list(measurement.layer_cycles),
        "runs": measurement.runs,
        "sram_bytes": measurement.sram_bytes,
        "flash_bytes": measurement.flash_bytes,
    }
