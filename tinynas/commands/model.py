"""Commands about one model and no board: check, compile and predict."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from devices.measured_power import current_profile
from devices.profile import DeviceProfile, device_names, load_profile
from export.bundle import write_bundle
from export.codegen import generate
from export.errors import PlanError
from export.flash import flash_bytes
from export.graph import Graph, total_macs
from export.optimize import optimize
from export.planner import Plan, plan
from export.streams import INPUT_ROW
from export.verify_plan import verify_plan
from tinynas.architecture import Architecture
from tinynas.commands.layer_table import layer_table
from tinynas.constraints import Limits
from tinynas.cost_model import CostModel, current_cost_model, layer_features
from tinynas.data import load_data
from tinynas.errors import SearchError
from tinynas.evaluation import Costs
from tinynas.lower import lower
from tinynas.models import Model, load_model
from tinynas.space import load_space
from tinynas.unit_facts import parameters

_NAMED_AT_THE_PEAK = 6
"""How many buffers are named where the arena is fullest."""


def check(path: Path, device: str, *, stream_input: bool = False) -> dict[str, Any]:
    """Plan a model for a device and say whether it fits; runs nothing."""
    profile = current_profile(device)
    model = load_model(path)
    planned = plan(model.graph, profile.instruction_set, stream_input=stream_input)
    verify_plan(planned)
    return check_plan(model, planned, profile)


def check_plan(model: Model, planned: Plan, profile: DeviceProfile) -> dict[str, Any]:
    """What a model's plan takes of a device, and every reason why it does not fit."""
    cost_model = current_cost_model(profile)
    cycles = [cost_model.layer_cycles(layer) for layer in layer_features(planned)]
    latency_ms = profile.latency_ms(sum(cycles))
    costs = Costs(
        macs=total_macs(model.source),
        parameters=parameters(model.source),
        sram_bytes=planned.arena_bytes,
        flash_bytes=flash_bytes(planned, profile),
        latency_ms=latency_ms,
        energy_mj=profile.energy_mj(latency_ms),
    )
    reasons = [str(violation) for violation in Limits.for_device(profile, {}).violations(costs)]
    if planned.arena_bytes > profile.model_sram_bytes:
        reasons += [_at_the_peak(planned), _what_would_do(planned, profile)]
    return {
        "model": model.source.name,
        "device": profile.name,
        "fits": not reasons,
        "reasons": reasons,
        "sram_bytes": planned.arena_bytes,
        "sram_lower_bound": planned.lower_bound_bytes,
        "sram_limit_bytes": profile.model_sram_bytes,
        "flash_bytes": costs.flash_bytes,
        "flash_limit_bytes": profile.flash_bytes,
        "macs": costs.macs,
        "live_macs": total_macs(model.graph),
        "parameters": costs.parameters,
        "predicted_latency_ms": latency_ms,
        "predicted_energy_mj": costs.energy_mj,
        "layers": layer_table(model.source, planned, cycles, "predicted_cycles", costs.energy_mj),
    }


def _at_the_peak(planned: Plan) -> str:
    """Who is alive where the arena is fullest, for somebody who has to make the model smaller."""
    layer = planned.order[planned.peak_step]
    where = (
        "as an input row arrives" if layer == INPUT_ROW else f"at layer '{_short(planned.graph.operators[layer].name)}'"
    )
    alive = [(name, size) for name, size in planned.alive_at_peak if size]
    named = ", ".join(f"'{_short(name)}' {size:,} B" for name, size in alive[:_NAMED_AT_THE_PEAK])
    if others := alive[_NAMED_AT_THE_PEAK:]:
        named += f", and {len(others)} more of together {sum(size for _, size in others):,} B"
    return f"the most is alive {where}: {planned.lower_bound_bytes:,} B ({named})"


def _short(name: str) -> str:
    """A name without those of the layers that the converter fused into it."""
    return name.partition(";")[0]


def _what_would_do(planned: Plan, profile: DeviceProfile) -> str:
    """The smallest SRAM that holds the plan, and whether to stream the input makes it fit."""
    reserved = profile.reserved.sram_bytes
    said = (
        f"the smallest SRAM that would do is {planned.arena_bytes + reserved:,} B, of which {reserved:,} B are for "
        f"start-up code, stack and harness{_smallest_device(planned.arena_bytes)}"
    )
    if INPUT_ROW not in planned.order:
        with suppress(PlanError):
            streamed = plan(planned.graph, planned.instruction_set, stream_input=True)
            if streamed.arena_bytes <= profile.model_sram_bytes:
                said += f"; with --stream-input {streamed.arena_bytes + reserved:,} B would do"
    return said


def _smallest_device(arena_bytes: int) -> str:
    """The microcontroller with the least SRAM that leaves a model so much, as the end of a sentence."""
    profiles = [load_profile(name) for name in device_names()]
    large_enough = [p for p in profiles if p.kind == "mcu" and p.model_sram_bytes >= arena_bytes]
    if not large_enough:
        return ", which no known device has"
    smallest = min(large_enough, key=lambda p: (p.sram_bytes, p.name))
    return f"; '{smallest.name}' has {smallest.sram_bytes:,} B"


def compile_model(path: Path, device: str, out: Path, layout: str, *, stream_input: bool = False) -> dict[str, Any]:
    """Write the C of a model, ready to drop into a project."""
    profile = current_profile(device)
    model = load_model(path)
    generated = generate(model.graph, profile.instruction_set, stream_input=stream_input)
    result = check_plan(model, generated.plan, profile)
    if not result["fits"]:
        raise SearchError(f"'{model.source.name}' does not fit on {device}: {'; '.join(result['reasons'])}")
    files = write_bundle(generated, out, layout)
    return {
        "files": [str(out / name) for name in files],
        "sram_bytes": result["sram_bytes"],
        "flash_bytes": result["flash_bytes"],
    }


def predict(path: Path | None, architecture: str | None, device: str, data: str) -> dict[str, Any]:
    """The cost model's answer for a model, or for an architecture on a data set's inputs."""
    profile = current_profile(device)
    graph = load_model(path).graph if path is not None else _lowered(str(architecture), data)
    return predict_plan(plan(graph, profile.instruction_set), current_cost_model(profile), profile)


def predict_plan(planned: Plan, cost_model: CostModel, profile: DeviceProfile) -> dict[str, Any]:
    """What a cost model says of a planned network."""
    layers = layer_features(planned)
    latency_ms = profile.latency_ms(cost_model.cycles(layers))
    error = cost_model.error_of(layers)
    return {
        "model": planned.graph.name,
        "device": profile.name,
        "latency_ms": latency_ms,
        "energy_mj": profile.energy_mj(latency_ms),
        "interval_ms": [latency_ms * (1 - error), latency_ms * (1 + error)],
        "cost_model": cost_model.source,
    }


def _lowered(text: str, data_name: str) -> Graph:
    architecture = Architecture.parse(text)
    data = load_data(data_name)
    return optimize(lower(architecture, load_space(architecture.space), data.input_shape, len(data.classes)))
