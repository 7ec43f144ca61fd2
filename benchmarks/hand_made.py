#!/usr/bin/env python3
"""Compares the winners of studies with hand-made networks that are scaled to the same latency and trained the same way.

Each hand-made network gets the largest width whose int8 form keeps the study's latency limit (where it has none, the
winner's latency) and the part's memories on the study's emulated board. All of them, and the winner's architecture, are
then trained from scratch with the same epochs, schedule, augmentation and seeds.

With --budgets the studies are made first: one for each latency in milliseconds, in FOLDER/<latency>ms, by what
`tinynas run --objective accuracy --narrow --max-latency-ms …` does. Whatever is done is kept in the studies: the same
command goes on after an interruption.

Usage: python -m benchmarks.hand_made STUDY... [--epochs N] [--seeds N] [--json]
       python -m benchmarks.hand_made --budgets 5 10 20 50 --out FOLDER [--device D] [--data T] ...
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from devices.board import Measurement
from devices.boards import resolve_board
from export.flash import flash_bytes
from export.graph import Graph, total_macs
from export.onnx_export import export_onnx
from export.planner import plan
from export.tflite_convert import convert_int8
from tinynas.baselines import BASELINES, Baseline, width_to_fit
from tinynas.commands.studies import run
from tinynas.data import some
from tinynas.effort import Effort
from tinynas.errors import SearchError
from tinynas.files import write_atomically
from tinynas.measuring import measure_graph
from tinynas.models import load_model
from tinynas.narrowing import SAMPLES
from tinynas.network import Network, build_network, fold_batch_norm, resize
from tinynas.space import input_shape_at
from tinynas.training import train
from tinynas.workers import single_core_workers
from tinynas.workspace import Workspace, make_settings

RESULTS = "hand_made.json"
"""In a study's folder: the accuracies that are known, by network and seed."""


@dataclass(frozen=True)
class Row:
    """One network of the table."""

    budget_ms: float
    name: str
    latency_ms: float
    sram_bytes: int
    flash_bytes: int
    macs: int
    test_accuracies: tuple[float, ...]
    """By seed."""

    @property
    def mean(self) -> float:
        return statistics.mean(self.test_accuracies)

    @property
    def spread(self) -> float:
        """Standard deviation over the seeds; 0 for one."""
        return statistics.stdev(self.test_accuracies) if len(self.test_accuracies) > 1 else 0.0


@dataclass(frozen=True)
class Contestant:
    """A network to train, by name."""

    name: str
    build: Callable[[], Network]
    resolution: int


class Bench:
    """Measures and trains networks for one study."""

    def __init__(self, workspace: Workspace, epochs: int, seeds: int) -> None:
        winner = workspace.winner()
        if winner is None:
            raise SearchError(f"the study '{workspace.study.folder}' has no trained network yet; run it first")
        delivered = workspace.measured("trained")[winner.architecture]
        self.budget_ms = workspace.limits.max_latency_ms or delivered.latency_ms
        self._winner = winner.architecture
        self._workspace, self._epochs, self._seeds = workspace, epochs, seeds

    def rows(self) -> list[Row]:
        """Train every contestant with every seed, one to a processor core, and measure it."""
        contestants = self._contestants()
        accuracies = self._accuracies(contestants)
        return [self._row(contestant, accuracies[contestant.name]) for contestant in contestants]

    def _contestants(self) -> list[Contestant]:
        data, classes, winner = self._workspace.data, len(self._workspace.data.classes), self._winner
        contestants = []
        for baseline in BASELINES:
            try:
                contestants.append(self._scaled(baseline))
            except SearchError as error:
                print(f"{self.budget_ms:g} ms: {error}", file=sys.stderr)
        contestants.append(
            Contestant(
                f"found: {winner}",
                lambda: build_network(winner, self._workspace.space, data.input_shape, classes),
                winner.resolution,
            )
        )
        return contestants

    def _scaled(self, baseline: Baseline) -> Contestant:
        """``baseline`` at the largest width that fits. Raises SearchError when none does."""
        data, classes = self._workspace.data, len(self._workspace.data.classes)
        side = max(data.input_shape)
        width = width_to_fit(baseline, data.input_shape, classes, lambda network: self._fits(network, side))
        name = f"{baseline.name} scaled to width {width:g}"
        return Contestant(name, lambda: baseline.build(width, data.input_shape, classes), side)

    def _graph(self, network: Network, resolution: int) -> Graph:
        """The network's int8 form, as the export chain makes it."""
        data = self._workspace.data
        height, width, channels = shape = input_shape_at(resolution, data.input_shape)
        images = data.normalize(resize(data.train_images[some(len(data.train_labels), 50)], shape))
        with tempfile.TemporaryDirectory() as folder:
            onnx, tflite = Path(folder) / "model.onnx", Path(folder) / "model.tflite"
            export_onnx(fold_batch_norm(network), (channels, height, width), onnx)
            convert_int8(onnx, images, tflite)
            return load_model(tflite).graph

    def _measure(self, graph: Graph) -> Measurement:
        """Cycles and sizes on the emulated board."""
        profile = self._workspace.profile
        with resolve_board("emulator", profile.name) as board:
            return measure_graph(graph, profile, board)

    def _fits(self, network: Network, resolution: int) -> bool:
        """Whether the network keeps the part's SRAM and flash, and takes no longer than the budget."""
        graph, profile = self._graph(network, resolution), self._workspace.profile
        planned = plan(graph, profile.instruction_set)
        too_large = (
            planned.arena_bytes > profile.model_sram_bytes or flash_bytes(planned, profile) > profile.flash_bytes
        )
        return not too_large and self._measure(graph).latency_ms <= self.budget_ms

    def _accuracies(self, contestants: Sequence[Contestant]) -> dict[str, tuple[float, ...]]:
        path = self._workspace.study.folder / RESULTS
        known: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}
        jobs = [
            (contestant, seed)
            for seed in range(self._seeds)
            for contestant in contestants
            if self._key(contestant, seed) not in known
        ]
        networks = []
        for contestant, seed in jobs:  # not in the workers: they would share the generator of the first weights
            torch.manual_seed(seed)
            networks.append(contestant.build())

        def train_one(index: int) -> float:
            contestant, seed = jobs[index]
            result = train(networks[index], self._workspace.data, contestant.resolution, epochs=self._epochs, seed=seed)
            return result.test_accuracy

        with single_core_workers() as workers:
            for (contestant, seed), accuracy in zip(jobs, workers.map(train_one, range(len(jobs))), strict=True):
                known[self._key(contestant, seed)] = accuracy
                write_atomically(path, json.dumps(known, indent=2) + "\n")
                print(f"{self.budget_ms:g} ms, {contestant.name}, seed {seed}: {accuracy:.2%}", file=sys.stderr)
        return {c.name: tuple(known[self._key(c, seed)] for seed in range(self._seeds)) for c in contestants}

    def _key(self, contestant: Contestant, seed: int) -> str:
        return f"{contestant.name}, {self._epochs} epochs, seed {seed}"

    def _row(self, contestant: Contestant, accuracies: tuple[float, ...]) -> Row:
        graph = self._graph(contestant.build(), contestant.resolution)
        measured = self._measure(graph)
        return Row(
            self.budget_ms,
            contestant.name,
            measured.latency_ms,
            measured.sram_bytes,
            measured.flash_bytes,
            total_macs(graph),
            accuracies,
        )


def make_study(budget_ms: float, folder: Path, options: argparse.Namespace) -> None:
    """Make the study of one latency budget in ``folder``, or finish it."""
    settings = make_settings(
        device=options.device,
        data_name=options.data,
        space_name=None,
        strategy="evolution",
        objectives=("accuracy",),
        trials=options.trials,
        seed=0,
        limits={"max_latency_ms": budget_ms},
        training={"finalist_epochs": options.epochs},
        narrow_samples=0 if options.whole_space else SAMPLES,
    )
    result = run(folder, "emulator", settings)
    print(f"{budget_ms:g} ms: {json.dumps(result['winner'])}", file=sys.stderr)


def main() -> None:
    """Make the studies that are asked for, scale, train, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("studies", type=Path, nargs="*")
    parser.add_argument("--budgets", type=float, nargs="*", default=[], help="latencies in ms to make studies for")
    parser.add_argument("--out", type=Path, default=Path("studies/budgets"), help="where those go")
    parser.add_argument("--device", default="stm32f405")
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--whole-space", action="store_true", help="search it all: do not narrow it first")
    parser.add_argument("--trials", type=int, default=150)
    parser.add_argument("--epochs", type=int, default=Effort.finalist_epochs)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    made = {budget: options.out / f"{budget:g}ms" for budget in options.budgets}
    for budget, folder in made.items():
        make_study(budget, folder, options)
    studies = [*options.studies, *made.values()]
    if not studies:
        parser.error("name a study, or budgets to make studies for")
    rows = [row for folder in studies for row in Bench(Workspace.read(folder), options.epochs, options.seeds).rows()]
    if options.json:
        print(json.dumps({"epochs": options.epochs, "seeds": options.seeds, "rows": [asdict(row) for row in rows]}))
        return
    print(
        f"| budget | network ({options.epochs} epochs, {options.seeds} seeds) | test accuracy | ms | SRAM B | flash B "
        "| MACs |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for row in rows:
        spread = f" ± {100 * row.spread:.2f}" if options.seeds > 1 else ""
        print(
            f"| {row.budget_ms:g} ms | {row.name} | {100 * row.mean:.2f}{spread} % | {row.latency_ms:.1f} | "
            f"{row.sram_bytes:,} | {row.flash_bytes:,} | {row.macs:,} |"
        )


if __name__ == "__main__":
    main()
