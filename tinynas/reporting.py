"""Gathers a study's report from its journal."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

from export.graph import macs
from export.planner import Plan, plan
from tinynas.architecture import Architecture
from tinynas.constraints import CONSTRAINTS
from tinynas.cost_model import Fit, compare, layer_features
from tinynas.data import DataSet
from tinynas.effort import Effort
from tinynas.evaluation import Costs
from tinynas.events import (
    CandidateTrained,
    EvaluationFinished,
    Exported,
    SpaceNarrowed,
    StudyStarted,
    Verified,
)
from tinynas.front import pareto_front
from tinynas.objectives import OBJECTIVES
from tinynas.report_data import (
    ArenaBuffer,
    Calibration,
    DeviceFacts,
    Download,
    FitFigures,
    LatencyPair,
    LayerCycles,
    Limits,
    MemoryMap,
    Narrowing,
    Rejections,
    ReportCandidate,
    ReportData,
)
from tinynas.stages import measured_networks
from tinynas.workspace import Workspace, candidate_id


def report_of(workspace: Workspace) -> ReportData:
    """Everything that the page shows, as far as the study has come."""
    study, settings, profile = workspace.study, workspace.study.settings, workspace.profile
    winner = workspace.winner()
    measured = workspace.measured("trained")
    verified = {event.architecture: event for event in study.events_of(Verified)}
    winner_run = measured.get(winner.architecture) if winner else None
    hashes: list[tuple[str, str]] = [("data", workspace.data.fingerprint)]
    if winner_run is not None:
        hashes.append(("firmware of the winner", winner_run.firmware_sha256))
    checks = []
    if winner is not None and winner.architecture in verified:
        check = verified[winner.architecture]
        checks.append(("winner against the reference", f"{check.identical} of {check.inputs} outputs identical"))
    return ReportData(
        study=study.folder.name,
        command=_command(workspace),
        device=DeviceFacts(
            name=profile.name,
            description=profile.description,
            core=profile.core,
            clock_hz=profile.clock_hz,
            sram_bytes=profile.sram_bytes,
            flash_bytes=profile.flash_bytes,
            reserved_sram_bytes=profile.reserved.sram_bytes,
            reserved_flash_bytes=profile.reserved.flash_bytes,
            active_power_mw=profile.active_power_mw,
        ),
        limits=_limits(workspace),
        data_set=_data_set(workspace.data),
        space=f"{settings.space} ({workspace.space.size(workspace.data.input_shape):.2e} architectures)",
        strategy=settings.strategy,
        objectives=tuple(OBJECTIVES[name].label for name in settings.objectives),
        accuracy_source=_ACCURACY_SOURCES[settings.accuracy],
        trials=settings.trials,
        seed=settings.seed,
        sampled=len(study.evaluations) + sum(event.rejected for event in study.events_of(EvaluationFinished)),
        rejected=_rejections(workspace),
        candidates=_candidates(workspace, winner),
        history=tuple(evaluation.accuracy for evaluation in study.evaluations),
        narrowing=_narrowing(workspace),
        calibration=_calibration(workspace),
        winner_memory=_memory(workspace, winner.architecture) if winner else None,
        winner_layers=_layers(workspace, winner.architecture) if winner else (),
        layer_source=f"measured on {winner_run.board}" if winner_run else "predicted by the cost model",
        board=winner_run.board if winner_run else None,
        toolchain=winner_run.toolchain if winner_run else None,
        settings=(*_settings(workspace), *checks),
        # A study that was killed while it began has no event yet.
        versions=tuple(item for event in study.events_of(StudyStarted)[:1] for item in event.versions.items()),
        hashes=tuple(hashes),
    )


def _command(workspace: Workspace) -> str:
    settings, effort = workspace.study.settings, Effort.of(workspace.study.settings.training)
    given = workspace.limits.as_mapping()
    device_limits = {name: c.capacity(workspace.profile) for name, c in CONSTRAINTS.items() if c.capacity}
    limits = [f"--limit {name}={value:g}" for name, value in given.items() if value != device_limits.get(name)]
    parts = [
        f"tinynas run --device {settings.device} --data {settings.data} --space {settings.space}",
        *([f"--narrow --narrow-samples {settings.narrow_samples}"] if settings.narrow_samples else ["--no-narrow"]),
        f"--strategy {settings.strategy} --objective {','.join(settings.objectives)}",
        f"--trials {settings.trials} --seed {settings.seed}",
        *limits,
        f"--accuracy {settings.accuracy} --supernet-epochs {effort.supernet_epochs}",
        f"--scratch-epochs {effort.scratch_epochs}",
        f"--finalists {effort.finalists} --final-epochs {effort.finalist_epochs}",
        f"-o {workspace.study.folder.name}",
    ]
    return " ".join(parts)


_ACCURACY_SOURCES = {
    "supernet": "the supernet",
    "predictor": "the supernet, of candidates that a predictor chose",
    "scratch": "training from scratch, stopped early",
}


def _narrowing(workspace: Workspace) -> Narrowing | None:
    for event in workspace.study.events_of(SpaceNarrowed):
        at = event.resolution, event.width
        chosen = next((s for s in event.sub_spaces if (s.resolution, s.width) == at), None)
        return Narrowing(event.sub_spaces, chosen, workspace.study.settings.narrow_samples, event.seconds)
    return None


def _limits(workspace: Workspace) -> Limits:
    limits = workspace.limits
    assert limits.max_sram_bytes is not None
    assert limits.max_flash_bytes is not None
    return Limits(int(limits.max_sram_bytes), int(limits.max_flash_bytes), limits.max_latency_ms, limits.max_energy_mj)


def _data_set(data: DataSet) -> str:
    height, width, channels = data.input_shape
    return (
        f"{data.name}: {len(data.train_labels):,} training, {len(data.validation_labels):,} validation and "
        f"{len(data.test_labels):,} test inputs of {height}×{width}×{channels}, {len(data.classes)} classes"
    )


def _rejections(workspace: Workspace) -> tuple[Rejections, ...]:
    counts: Counter[str] = Counter()
    for event in workspace.study.events_of(EvaluationFinished):
        counts.update(event.rejected_by_constraint)
    return tuple(Rejections(CONSTRAINTS[name].label, count) for name, count in counts.most_common())


def _candidates(workspace: Workspace, winner: CandidateTrained | None) -> tuple[ReportCandidate, ...]:
    evaluations = workspace.evaluations()
    front = {evaluation.architecture for evaluation in pareto_front(evaluations, workspace.study.settings.objectives)}
    first_costs, trained = workspace.costs(workspace.first_model), workspace.trained()
    measured = workspace.measured("random") | workspace.measured("trained")

    def candidate(architecture: Architecture, costs: Costs, search_accuracy: float) -> ReportCandidate:
        own, run = trained.get(architecture), measured.get(architecture)
        return ReportCandidate(
            candidate_id=candidate_id(architecture),
            architecture=str(architecture),
            search_accuracy=search_accuracy,
            predicted_before_ms=first_costs(architecture).latency_ms,
            energy_mj=costs.energy_mj,
            sram_bytes=costs.sram_bytes,
            flash_bytes=costs.flash_bytes,
            macs=costs.macs,
            validation_accuracy=own.accuracy if own else None,
            test_accuracy=own.test_accuracy if own else None,
            predicted_after_ms=costs.latency_ms,
            measured_ms=run.latency_ms if run else None,
            is_front=architecture in front,
            is_winner=winner is not None and architecture == winner.architecture,
            files=_downloads(workspace, architecture),
        )

    return tuple(candidate(e.architecture, e.costs, e.accuracy) for e in evaluations)


def _downloads(workspace: Workspace, architecture: Architecture) -> tuple[Download, ...]:
    exported = [e for e in workspace.study.events_of(Exported) if e.architecture == architecture]
    folder = workspace.artifacts / candidate_id(architecture)
    if not exported or not folder.is_dir():
        return ()
    return tuple(
        _download(path, workspace.study.folder) for path in sorted(folder.iterdir()) if path.is_file()
    ) + tuple(_download(path, workspace.study.folder) for path in sorted((folder / "c").glob("model.*")))


def _download(path: Path, root: Path) -> Download:
    content = path.read_bytes()
    relative = path.relative_to(root).as_posix()
    return Download(path.name, relative, len(content), hashlib.sha256(content).hexdigest())


def _calibration(workspace: Workspace) -> Calibration | None:
    networks = measured_networks(workspace)
    if not networks:
        return None
    first, to_ms = workspace.first_model, workspace.profile.latency_ms
    before = [first.cycles(network.layers) for network in networks]
    after = first.left_out_predictions(networks)
    actual = [sum(network.cycles) for network in networks]
    labels = [candidate_id(architecture) for architecture in workspace.measured("random")]
    return Calibration(
        pairs=tuple(
            LatencyPair(label, to_ms(b), to_ms(a), to_ms(m))
            for label, b, a, m in zip(labels, before, after, actual, strict=True)
        ),
        before=_figures(compare(before, actual)),
        after=_figures(compare(after, actual)),
        note="After the refit, each network is predicted by a model fitted to the others alone.",
    )


def _figures(fit: Fit) -> FitFigures:
    return FitFigures(fit.mape, fit.kendall_tau, 100 * fit.within_10_percent)


def _memory(workspace: Workspace, architecture: Architecture) -> MemoryMap:
    planned = plan(workspace.costs(workspace.first_model).graph(architecture), workspace.profile.instruction_set)
    return MemoryMap(
        layer_names=tuple(operator.name for operator in planned.graph.operators),
        buffers=tuple(
            ArenaBuffer(
                b.name,
                b.offset,
                b.size_bytes,
                *_layers_during(planned, b.first_step, b.last_step),
                at_peak=b.first_step <= planned.peak_step <= b.last_step,
            )
            for b in planned.buffers
        ),
        arena_bytes=planned.arena_bytes,
        lower_bound_bytes=planned.lower_bound_bytes,
        sram_limit_bytes=workspace.profile.model_sram_bytes,
    )


def _layers_during(planned: Plan, first_step: int, last_step: int) -> tuple[int, int]:
    """The first and the last layer that run between two steps of the schedule; those of a stream run together."""
    layers = planned.order[max(0, first_step) : last_step + 1] or planned.order[-1:]
    return min(layers), max(layers)


def _layers(workspace: Workspace, architecture: Architecture) -> tuple[LayerCycles, ...]:
    graph = workspace.costs(workspace.first_model).graph(architecture)
    planned = plan(graph, workspace.profile.instruction_set)
    measured = workspace.measured("trained").get(architecture)
    cycles = measured and measured.layer_cycles
    if not cycles or len(cycles) != len(graph.operators):
        cycles = tuple(round(workspace.best_model.layer_cycles(layer)) for layer in layer_features(planned))
    return tuple(
        LayerCycles(operator.name, operator.kind.value, macs(graph, operator), float(count))
        for operator, count in zip(graph.operators, cycles, strict=True)
    )


def _settings(workspace: Workspace) -> tuple[tuple[str, str], ...]:
    training = workspace.study.settings.training
    return (
        *((name.replace("_", " "), str(value)) for name, value in training.items()),
        ("first cost model", workspace.first_model.source),
        ("refitted cost model", workspace.best_model.source),
    )
