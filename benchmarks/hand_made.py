#!/usr/bin/env python3
"""Compares a study's winner with hand-made networks that are scaled to its latency and trained the same way.

Each hand-made network gets the largest width whose int8 form runs on the study's emulated board in no more time than
the winner, and fits its SRAM. All of them, and the winner's architecture once more, are then trained from scratch with
the same epochs, schedule, augmentation and seeds. The winner as the study delivered it is listed too.

Usage: python -m benchmarks.hand_made STUDY [--epochs N] [--seeds N] [--json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
from tinynas.data import some
from tinynas.effort import Effort
from tinynas.measuring import measure_graph
from tinynas.models import load_model
from tinynas.network import Network, build_network, fold_batch_norm, resize
from tinynas.space import input_shape_at
from tinynas.training import train
from tinynas.workers import single_core_workers
from tinynas.workspace import Workspace


@dataclass(frozen=True)
class Row:
    """One network of the table."""

    name: str
    latency_ms: float
    sram_bytes: int
    flash_bytes: int
    macs: int
    test_accuracy: float
    """Mean over the seeds."""
    spread: float
    """Standard deviation over the seeds; 0 for one."""


@dataclass(frozen=True)
class Contestant:
    """A network to train, by name."""

    name: str
    build: Callable[[], Network]
    resolution: int


class Bench:
    """Measures and trains networks for one study."""

    def __init__(self, workspace: Workspace, epochs: int, seeds: int) -> None:
        self._workspace = workspace
        self._epochs = epochs
        self._seeds = seeds

    def graph(self, network: Network, resolution: int) -> Graph:
        """The network's int8 form, as the export chain makes it."""
        data = self._workspace.data
        height, width, channels = shape = input_shape_at(resolution, data.input_shape)
        images = data.normalize(resize(data.train_images[some(len(data.train_labels), 50)], shape))
        with tempfile.TemporaryDirectory() as folder:
            onnx, tflite = Path(folder) / "model.onnx", Path(folder) / "model.tflite"
            export_onnx(fold_batch_norm(network), (channels, height, width), onnx)
            convert_int8(onnx, images, tflite)
            return load_model(tflite).graph

    def measure(self, graph: Graph) -> Measurement:
        """Cycles and sizes on the emulated board."""
        profile = self._workspace.profile
        with resolve_board("emulator", profile.name) as board:
            return measure_graph(graph, profile, board)

    def fits(self, network: Network, resolution: int, latency_ms: float) -> bool:
        """Whether the network keeps the part's SRAM and flash, and takes no longer than ``latency_ms``."""
        graph, profile = self.graph(network, resolution), self._workspace.profile
        planned = plan(graph, profile.instruction_set)
        too_large = (
            planned.arena_bytes > profile.model_sram_bytes or flash_bytes(planned, profile) > profile.flash_bytes
        )
        return not too_large and self.measure(graph).latency_ms <= latency_ms

    def rows(self, contestants: Sequence[Contestant]) -> list[Row]:
        """Train every contestant with every seed, one to a processor core, and measure it."""
        jobs = [(contestant, seed) for contestant in contestants for seed in range(self._seeds)]
        networks = []
        for (
            contestant,
            seed,
        ) in jobs:  # here and not in the workers: they would share the generator of the first weights
            torch.manual_seed(seed)
            networks.append(contestant.build())

        def train_one(index: int) -> float:
            contestant, seed = jobs[index]
            result = train(networks[index], self._workspace.data, contestant.resolution, epochs=self._epochs, seed=seed)
            print(f"{contestant.name}, seed {seed}: {result.test_accuracy:.2%}", file=sys.stderr)
            return result.test_accuracy

        with single_core_workers() as workers:
            accuracies = list(workers.map(train_one, range(len(jobs))))
        return [self._row(c, [a for (d, _), a in zip(jobs, accuracies, strict=True) if d is c]) for c in contestants]

    def _row(self, contestant: Contestant, accuracies: Sequence[float]) -> Row:
        graph = self.graph(contestant.build(), contestant.resolution)
        measured = self.measure(graph)
        return Row(
            contestant.name,
            measured.latency_ms,
            measured.sram_bytes,
            measured.flash_bytes,
            total_macs(graph),
            statistics.mean(accuracies),
            statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0,
        )


def main() -> None:
    """Scale, train, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", type=Path)
    parser.add_argument("--epochs", type=int, default=Effort.finalist_epochs)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    workspace = Workspace.read(options.study)
    winner = workspace.winner()
    if winner is None:
        parser.error(f"the study {options.study} has no trained network yet")
    delivered = workspace.measured("trained")[winner.architecture]
    data, classes = workspace.data, len(workspace.data.classes)
    bench = Bench(workspace, options.epochs, options.seeds)

    def scaled(baseline: Baseline) -> Contestant:
        side, limit_ms = max(data.input_shape), delivered.latency_ms
        width = width_to_fit(baseline, data.input_shape, classes, lambda network: bench.fits(network, side, limit_ms))
        name = f"{baseline.name} scaled to width {width:g}"
        return Contestant(name, lambda: baseline.build(width, data.input_shape, classes), side)

    architecture = winner.architecture
    rows = bench.rows(
        [
            *map(scaled, BASELINES),
            Contestant(
                "winner, trained again",
                lambda: build_network(architecture, workspace.space, data.input_shape, classes),
                architecture.resolution,
            ),
        ]
    )
    graph = workspace.costs(workspace.first_model).graph(architecture)
    rows.append(
        Row(
            "winner, as delivered",
            delivered.latency_ms,
            delivered.sram_bytes,
            delivered.flash_bytes,
            total_macs(graph),
            winner.test_accuracy,
            0.0,
        )
    )
    if options.json:
        print(json.dumps({"epochs": options.epochs, "seeds": options.seeds, "rows": [vars(row) for row in rows]}))
        return
    print(
        f"| network ({options.epochs} epochs, {options.seeds} seeds) | test accuracy | ms | SRAM B | flash B | MACs |"
    )
    print("| --- | --- | --- | --- | --- | --- |")
    for row in rows:
        spread = f" ± {100 * row.spread:.2f}" if options.seeds > 1 and row.spread else ""
        print(
            f"| {row.name} | {100 * row.test_accuracy:.2f}{spread} % | {row.latency_ms:.1f} | {row.sram_bytes:,} | "
            f"{row.flash_bytes:,} | {row.macs:,} |"
        )


if __name__ == "__main__":
    main()
