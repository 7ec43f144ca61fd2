"""Commands that list, run or calibrate boards."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from devices.board import Board
from devices.boards import known_boards, platform_of, resolve_board
from devices.emulator import EmulatedBoard
from devices.errors import DeviceError
from devices.measured_power import MeasuredPower, current_profile, keep_measured_power
from devices.power_trace import inference_energy, read_power_trace
from devices.profile import DeviceProfile, device_names, load_profile
from devices.scratch import scratch_folder
from devices.store import MeasurementStore
from export.graph import total_macs
from export.planner import plan
from export.synthetic import with_random_weights
from tinynas import output
from tinynas.commands.layer_table import layer_table
from tinynas.constraints import Limits
from tinynas.cost_model import CostModel, MeasuredNetwork, calibrated_path, prior
from tinynas.errors import SearchError
from tinynas.measuring import (
    build_image,
    compare_with_reference,
    measure_graph,
    measured_network,
    random_inputs,
)
from tinynas.models import load_model
from tinynas.space import load_space

_CALIBRATION_INPUT = (28, 28, 1)
_CALIBRATION_CLASSES = 10
_CALIBRATION_SPACE = "mobilenet_small"


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


def device_of(board_name: str, device: str | None) -> str:
    """The device profile to use with a board: the one asked for, else what boards.toml says, else the default."""
    return platform_of(board_name, device)


def measure(
    path: Path, board_name: str, device: str | None, runs: int, *, stream_input: bool = False
) -> dict[str, Any]:
    """Build, flash, run, and time every layer."""
    profile = current_profile(device_of(board_name, device))
    model = load_model(path)
    with resolve_board(board_name, profile.name) as board:
        measurement = measure_graph(
            model.graph, profile, board, runs=runs, store=MeasurementStore(), stream_input=stream_input
        )
    planned = plan(model.graph, profile.instruction_set, stream_input=stream_input)
    energy_mj = profile.energy_mj(measurement.latency_ms)
    return {
        "model": model.source.name,
        "model_id": measurement.model_id,
        "board": measurement.board,
        "device": measurement.device,
        "latency_ms": measurement.latency_ms,
        "energy_mj": energy_mj,
        "macs": total_macs(model.source),
        "live_macs": total_macs(model.graph),
        "cycles": measurement.cycles,
        "instructions": measurement.instructions,
        "runs": measurement.runs,
        "clock_hz": measurement.clock_hz,
        "sram_bytes": measurement.sram_bytes,
        "flash_bytes": measurement.flash_bytes,
        "code_bytes": measurement.code_bytes,
        "firmware_sha256": measurement.firmware_sha256,
        "toolchain": measurement.toolchain,
        "layers": layer_table(model.source, planned, measurement.layer_cycles, "cycles", energy_mj),
    }


def verify(
    path: Path, board_name: str, device: str | None, count: int, seed: int, *, stream_input: bool = False
) -> dict[str, Any]:
    """Run random inputs on the board and on the reference kernels."""
    profile = load_profile(device_of(board_name, device))
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


def calibrate(board_name: str, device: str | None, samples: int, seed: int) -> dict[str, Any]:
    """Measure random networks; fit the cost model on half of them, judge it on the others, keep one fitted on all."""
    profile = load_profile(device_of(board_name, device))
    before = prior(profile.core)
    with resolve_board(board_name, profile.name) as board:
        measured = _measure_random(profile, board, before, samples, seed)
        name = board.name
    half = samples // 2
    trained, unseen = measured[:half], measured[half:]
    fit_before, fit_after = before.fit_of(unseen), before.refit(trained).fit_of(unseen)
    path = calibrated_path(profile.name)
    before.refit(measured).save(path)
    return {
        "board": name,
        "device": profile.name,
        "measured": len(measured),
        "fitted_on": len(trained),
        "judged_on": len(unseen),
        "mape_before": fit_before.mape,
        "mape_after": fit_after.mape,
        "kendall_tau": fit_after.kendall_tau,
        "within_10_percent": fit_after.within_10_percent,
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


def _measure_random(
    profile: DeviceProfile, board: Board, model: CostModel, samples: int, seed: int
) -> list[MeasuredNetwork]:
    from tinynas.candidate import CandidateCosts

    space = load_space(_CALIBRATION_SPACE)
    rng = random.Random(seed)
    costs = CandidateCosts(space, _CALIBRATION_INPUT, _CALIBRATION_CLASSES, profile, model)
    limits = Limits.for_device(profile, {})
    store = MeasurementStore()
    measured: list[MeasuredNetwork] = []
    seen: set[str] = set()
    attempts = 0
    with output.progress("measuring") as update:
        while len(measured) < samples:
            attempts += 1
            if attempts > 100 * samples:
                raise SearchError(f"found only {len(measured)} networks that fit {profile.name}; ask for fewer samples")
            architecture = space.sample(rng, _CALIBRATION_INPUT)
            if str(architecture) in seen or limits.violations(costs(architecture)):
                continue
            seen.add(str(architecture))
            graph = with_random_weights(costs.graph(architecture))
            measured.append(measured_network(graph, profile, measure_graph(graph, profile, board, store=store)))
            update(len(measured), samples, "networks")
    return measured
