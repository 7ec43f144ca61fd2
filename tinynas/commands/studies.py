"""Commands about a study: search, export, report, and run, which is all of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from devices.boards import resolve_board
from export.planner import plan
from tinynas import output, stages
from tinynas.architecture import Architecture
from tinynas.commands.layer_table import layer_table
from tinynas.commands.model import check_plan, predict_plan
from tinynas.errors import SearchError
from tinynas.evaluation import Evaluation
from tinynas.events import CandidateTrained, CostModelRefitted, Exported, SpaceNarrowed, Verified
from tinynas.models import load_model
from tinynas.report import write_report
from tinynas.reporting import report_of
from tinynas.study import SearchOutcome, StudySettings
from tinynas.supernet import Supernet
from tinynas.workspace import Workspace, candidate_id

REPORT = "report.html"


def search(folder: Path, settings: StudySettings) -> dict[str, Any]:
    """Search, or go on with a search."""
    with _opened(folder, settings) as workspace:
        stages.narrow(workspace)
        outcome = stages.search(workspace, _lazily(workspace))
        return _search_result(workspace, outcome)


def export(folder: Path, candidate: str | None, out: Path) -> dict[str, Any]:
    """Train a candidate, if that has not been done, and write its files."""
    with _opened(folder, None) as workspace:
        architecture = workspace.find(candidate)
        stages.train_finalists(workspace, [architecture])
        exported = stages.export_candidate(workspace, architecture, out.resolve())
        return _exported_result(workspace, exported, out)


def report(folder: Path) -> dict[str, Any]:
    """Write the study's page."""
    path = folder / REPORT
    write_report(report_of(Workspace.read(folder)), path)
    return {"path": str(path)}


def run(folder: Path, board_name: str, settings: StudySettings) -> dict[str, Any]:
    """Search, measure, refit, train, export, compile, verify, report."""
    with resolve_board(board_name, settings.device) as board, _opened(folder, settings) as workspace:
        stages.narrow(workspace)
        outcome = stages.search(workspace, _lazily(workspace))
        stages.measure_and_refit(workspace, board)
        finalists = stages.finalists(workspace)
        stages.train_finalists(workspace, finalists)
        # `tinynas export --candidate` may have trained one that is no finalist, and better than they are.
        best = workspace.winner()
        for architecture in dict.fromkeys([*finalists, *([best.architecture] if best else [])]):
            if _artifacts_event(workspace, architecture) is None:
                stages.export_candidate(workspace, architecture, _artifacts(workspace, architecture), board)
        winner = workspace.winner()
        if winner is None:
            raise SearchError(
                f"none of the {len(outcome.evaluations)} candidates keeps the limits on the board; "
                "start a study with higher limits, or with more trials"
            )
        write_report(report_of(workspace), folder / REPORT)
        return _run_result(workspace, outcome, winner)


def _run_result(workspace: Workspace, outcome: SearchOutcome, winner: CandidateTrained) -> dict[str, Any]:
    """What search, export, check, measure, verify, calibrate and report say, of the winner."""
    study, folder = workspace.study, _artifacts(workspace, winner.architecture)
    exported = _artifacts_event(workspace, winner.architecture)
    assert exported is not None
    verified = [e for e in study.events_of(Verified) if e.architecture == winner.architecture][-1]
    measured = workspace.measured("trained")[winner.architecture]
    refitted = study.events_of(CostModelRefitted)[-1]
    fit = stages.refit_quality(workspace)
    model = load_model(folder / stages.INT8_MODEL)
    planned = plan(model.graph, workspace.profile.instruction_set)
    energy_mj = workspace.profile.energy_mj(measured.latency_ms)
    return {
        **check_plan(model, planned, workspace.profile),
        **predict_plan(planned, workspace.best_model, workspace.profile),
        **_search_result(workspace, outcome),
        **_exported_result(workspace, exported, folder),
        "layers": layer_table(model.source, planned, measured.layer_cycles, "cycles", energy_mj),
        "latency_ms": measured.latency_ms,
        "energy_mj": energy_mj,
        "cycles": measured.cycles,
        "instructions": measured.instructions,
        "flash_bytes": measured.flash_bytes,
        "code_bytes": measured.code_bytes,
        "winner": {
            "candidate": candidate_id(winner.architecture),
            "architecture": str(winner.architecture),
            "validation_accuracy": winner.accuracy,
            "test_accuracy": winner.test_accuracy,
            "latency_ms": measured.latency_ms,
            "predicted_latency_ms": measured.predicted_latency_ms,
            "energy_mj": energy_mj,
            "cycles": measured.cycles,
            "instructions": measured.instructions,
            "sram_bytes": measured.sram_bytes,
            "flash_bytes": measured.flash_bytes,
        },
        "board": measured.board,
        "inputs": verified.inputs,
        "identical": verified.identical,
        "max_abs_diff": verified.max_abs_diff,
        "measured": refitted.measurements,
        "mape_before": refitted.mape_before,
        "mape_after": refitted.mape_after,
        "kendall_tau": fit.kendall_tau,
        "within_10_percent": fit.within_10_percent,
        "path": str(study.folder / REPORT),
    }


def _artifacts(workspace: Workspace, architecture: Architecture) -> Path:
    return workspace.artifacts / candidate_id(architecture)


def _artifacts_event(workspace: Workspace, architecture: Architecture) -> Exported | None:
    """The export to the study's own folder, which is measured and verified; the user's exports elsewhere are not."""
    folder = str(_artifacts(workspace, architecture).relative_to(workspace.study.folder))
    return next((event for event in workspace.study.events_of(Exported) if event.folder == folder), None)


class _opened:  # noqa: N801 - used like a function, in a with statement
    """A workspace whose study is closed at the end; says what was repaired."""

    def __init__(self, folder: Path, settings: StudySettings | None) -> None:
        self._workspace = Workspace.open(folder, settings)

    def __enter__(self) -> Workspace:
        if self._workspace.study.note is not None:
            output.say(self._workspace.study.note)
        return self._workspace

    def __exit__(self, *reason: object) -> None:
        self._workspace.study.close()


def _lazily(workspace: Workspace) -> Callable[[], Supernet]:
    """The trained supernet, trained or loaded at the first call."""
    return cache(lambda: stages.train_supernet(workspace))


def _search_result(workspace: Workspace, outcome: SearchOutcome) -> dict[str, Any]:
    if outcome.note is not None:
        output.say(outcome.note)
    return {
        "study": str(workspace.study.folder),
        "device": workspace.profile.name,
        "narrowed": _narrowed(workspace),
        "trials": len(outcome.evaluations),
        "feasible": len(workspace.evaluations()),
        "rejected": outcome.rejected,
        "front": [_candidate(workspace, evaluation) for evaluation in workspace.front()],
    }


def _narrowed(workspace: Workspace) -> dict[str, Any] | None:
    """The resolution and width that were searched; None where the whole space was."""
    for event in workspace.study.events_of(SpaceNarrowed):
        if event.resolution is not None:
            return {"resolution": event.resolution, "width": event.width}
    return None


def _candidate(workspace: Workspace, evaluation: Evaluation) -> dict[str, Any]:
    costs = evaluation.costs
    trained = workspace.trained().get(evaluation.architecture)
    return {
        "candidate": candidate_id(evaluation.architecture),
        "architecture": str(evaluation.architecture),
        "accuracy": evaluation.accuracy,
        "trained_accuracy": trained and trained.accuracy,
        "test_accuracy": trained and trained.test_accuracy,
        "latency_ms": costs.latency_ms,
        "energy_mj": costs.energy_mj,
        "sram_bytes": costs.sram_bytes,
        "flash_bytes": costs.flash_bytes,
        "macs": costs.macs,
        "parameters": costs.parameters,
    }


def _exported_result(workspace: Workspace, exported: Exported, folder: Path) -> dict[str, Any]:
    files = sorted(str(path) for path in folder.rglob("*") if path.is_file())
    return {
        "candidate": candidate_id(exported.architecture),
        "architecture": str(exported.architecture),
        "files": files,
        "accuracy": exported.accuracy,
        "sram_bytes": exported.sram_bytes,
        "flash_bytes": exported.flash_bytes,
    }
