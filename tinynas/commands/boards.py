"""Commands that list, run or calibrate boards."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from devices.boards import known_boards, open_boards, platform_of, resolve_board
from devices.emulator import EmulatedBoard
from devices.errors import DeviceError
from devices.host.scratch import scratch_folder
from devices.measured_power import MeasuredPower, current_profile, keep_measured_power
from devices.power_trace import inference_energy, read_power_trace
from devices.profile import device_names, load_profile
from devices.store import MeasurementStore, StoredMeasurement
from export.graph import total_macs
from export.planner import plan
from tinynas import output
from tinynas.calibration import calibrate as run_calibration
from tinynas.commands.history import comparison, figures_of
from tinynas.commands.layer_table import layer_table
from tinynas.commands.phones import configure, measure_on_phone, phone_figures, verify_on_phone
from tinynas.commands.repetitions import statistics_of
from tinynas.cost_model import calibrated_path
from tinynas.measuring import (
    build_image,
    compare_with_reference,
    measure_and_store,
    random_inputs,
)
from tinynas.models import load_model


def devices() -> dict[str, Any]:
    """Every device profile and every board."""
    profiles = [load_profile(name) for name in device_names()]
    boards = [{"name": "emulator", "platform": p.name, "kind": "emulated"} for p in profiles if p.emulator is not None]
    boards += [{"name": entry.id, "platform": entry.platform, "kind": entry.kind} for entry in known_boards()]
    return {
        "devices": [
            {
                "name": profile.name,
                "kind": profile.kind,
                "description": profile.description,
                "core": profile.core,
                "clock_hz": profile.clock_hz,
                "sram_bytes": profile.sram_bytes,
                "flash_bytes": profile.flash_bytes,
                "model_sram_bytes": profile.model_sram_bytes,
                "emulated": profile.emulator is not None,
            }
            for profile in profiles
        ],
        "boards": boards,
    }


def measure(
    path: Path,
    board_name: str,
    device: str | None,
    runs: int | None,
    *,
    stream_input: bool = False,
    note: str = "",
    phone: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Build, flash, run, and time every layer, ``runs`` times or until the latency is known well enough.

    A phone takes the file itself; ``phone`` holds the PhoneOptions that were typed.
    """
    profile = current_profile(platform_of(board_name, device))
    if profile.kind == "phone":
        store = MeasurementStore()
        with resolve_board(board_name, profile.name) as board:
            stored = measure_on_phone(path, configure(board, phone or {}), profile, store, runs, note)
        figures = _figures(store, stored, profile.energy_mj(stored.measurement.latency_ms))
        return figures | phone_figures(path, stored.measurement)
    model = load_model(path)
    store = MeasurementStore()
    with resolve_board(board_name, profile.name) as board:
        stored = measure_and_store(
            model.graph,
            profile,
            board,
            store,
            runs=runs,
            stream_input=stream_input,
            model_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
            note=note,
        )
    figures = _figures(store, stored, profile.energy_mj(stored.measurement.latency_ms))
    planned = plan(model.graph, profile.instruction_set, stream_input=stream_input)
    return figures | {
        "model": model.source.name,
        "macs": total_macs(model.source),
        "live_macs": total_macs(model.graph),
        "layers": layer_table(model.source, planned, stored.measurement.layer_cycles, "cycles", figures["energy_mj"]),
    }


def _figures(store: MeasurementStore, stored: StoredMeasurement, energy_mj: float) -> dict[str, Any]:
    """What there is to say of any measurement; what is wrong with it goes to stderr too."""
    measurement = stored.measurement
    statistics = statistics_of(stored)
    for warning in statistics["warnings"]:
        output.say(f"warning: {warning}")
    return {
        "measurement_id": stored.id,
        "model_id": measurement.model_id,
        "board": measurement.board,
        "device": measurement.device,
        "latency_ms": measurement.latency_ms,
        "statistics": statistics,
        "comparison": comparison(store, stored, output.say),
        "conditions": dict(measurement.conditions),
        "energy_mj": energy_mj,
        **figures_of(measurement),
    }


def verify(
    path: Path,
    board_name: str,
    device: str | None,
    count: int,
    seed: int,
    *,
    stream_input: bool = False,
    phone: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Run random inputs on the board and on the reference kernels."""
    profile = load_profile(platform_of(board_name, device))
    if profile.kind == "phone":
        with resolve_board(board_name, profile.name) as board:
            return verify_on_phone(path, configure(board, phone or {}), profile, count, seed)
    model = load_model(path)
    inputs = random_inputs(model.graph, count, seed)
    outputs: list[bytes] = []
    with resolve_board(board_name, profile.name) as board, scratch_folder() as folder:
        board.flash(build_image(model.graph, profile, folder, stream_input=stream_input))
        with output.progress("verifying") as update:
            for done, given in enumerate(inputs, start=1):
                outputs += board.outputs([given])
                update(done, count, "inputs")
        name = board.name
    comparison = compare_with_reference(path.read_bytes(), inputs, outputs)
    return {
        "model": model.source.name,
        "board": name,
        "inputs": comparison.inputs,
        "identical": comparison.identical,
        "max_abs_diff": comparison.max_abs_diff,
    }


def emulate(path: Path, device: str, as_json: bool) -> None:
    """Run the emulated board until it is interrupted; the first line printed is its port."""
    profile = load_profile(device)
    graph = load_model(path).graph
    with EmulatedBoard(profile) as board, scratch_folder() as folder:
        port = board.serve(build_image(graph, profile, folder))
        try:
            # First, so that whoever waits for the port may interrupt as soon as there is one.
            output.say(f"{board.name} runs '{graph.name}' at {port}, 115200 baud; press Ctrl-C to end it")
            if as_json:
                output.print_json({"port": port, "board": board.name, "model": graph.name})
            else:
                print(port, flush=True)
            board.wait()
        except KeyboardInterrupt:
            output.say("ended")
            return
    raise DeviceError(f"the board {board.name} ended by itself; start it again, or report a bug if that repeats")


def calibrate(specs: list[str], device: str | None, samples: int, seed: int) -> dict[str, Any]:
    """Measure what the cost model is least sure of, refit it to all that was ever measured, and keep it."""
    with open_boards(specs, device) as opened:
        for reason in opened.left_out:
            output.say(f"left out: {reason}")
        profile = load_profile(opened.platform)
        result = run_calibration(profile, opened.boards, MeasurementStore(), samples, seed)
        names = [board.name for board in opened.boards]
    path = calibrated_path(profile.name)
    result.model.save(path)
    return {
        "board": ", ".join(names),
        "device": profile.name,
        "measured": result.measured,
        "spaces": result.spaces,
        "fitted_on": len(result.networks),
        "ignored_in_store": result.ignored,
        "mape_before": result.before.mape,
        "mape_after": result.after.mape,
        "kendall_tau": result.after.kendall_tau,
        "within_5_percent": result.after.within_5_percent,
        "within_10_percent": result.after.within_10_percent,
        "interval_percent": 100 * result.model.relative_error,
        "cost_model": str(path),
    }


def refine_power(
    trace_path: Path, device: str, supply_v: float | None, inferences: int, latency_ms: float | None
) -> dict[str, Any]:
    """Find a device's power while inferring in a power monitor's file, and keep it for all predictions from then on."""
    before = current_profile(device)
    trace = read_power_trace(trace_path, supply_v)
    found = inference_energy(trace, inferences=inferences, latency_ms=latency_ms)
    source = f"measured over {found.inferences} inferences: {trace.name}, sha256 {trace.sha256[:16]}"
    path = keep_measured_power(before.name, MeasuredPower(active_power_mw=found.active_power_mw, source=source))
    return {
        "device": before.name,
        "energy_mj": found.energy_mj,
        "traced_latency_ms": found.latency_ms,
        "inferences": found.inferences,
        "trace_samples": found.samples,
        "active_power_mw": found.active_power_mw,
        "active_power_before_mw": before.active_power_mw,
        "active_power_file": str(path),
    }
