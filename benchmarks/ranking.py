#!/usr/bin/env python3
"""How well the fast estimates of accuracy rank architectures: Kendall's tau, 1 being the same order.

- The supernet against training from scratch: 30 architectures of mobilenet_small, drawn with seed 7 among those of at
  most 60 ms on stm32f405, each trained for three epochs on Fashion-MNIST, once with each of several seeds; its accuracy
  is the mean. What that came to is in data/ranking_scratch.csv. The interval is that of 10,000 bootstrap samples of the
  30. How well one seed ranks them as another does says how much of the rest is chance.
- The same after the first and the second epoch of three: what successive halving decides by.
- The predictor against the supernet: fitted to 400 accuracies of the supernet, asked for 100 others.

Usage: python -m benchmarks.ranking [--checkpoint FILE] [--json] [--quick]
       python -m benchmarks.ranking --train     (an hour for each seed on one core; goes on where it stopped)
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.stats import kendalltau

from devices.profile import load_profile
from tinynas.architecture import Architecture
from tinynas.candidate import CandidateCosts
from tinynas.cost_model import current_cost_model
from tinynas.data import DataSet, load_data
from tinynas.effort import Effort
from tinynas.predictor import AccuracyPredictor, Features
from tinynas.space import SearchSpace, load_space

SCRATCH_FILE = Path(__file__).parent / "data" / "ranking_scratch.csv"
COLUMNS = ("architecture", "seed", "validation_accuracy", "test_accuracy", "seconds", "after_1", "after_2")
SCRATCH_COUNT, DRAWN_WITH, SCRATCH_EPOCHS, SCRATCH_SEEDS = 30, 7, 3, 2
LATENCY_LIMIT_MS = 60.0
PREDICTOR_SEED = 11
BOOTSTRAP_SAMPLES = 10_000
CHECKED_IMAGES = (1000, 2000, 5000)

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Tau:
    """Kendall's tau with its 95 % interval."""

    tau: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class ByImages:
    """The supernet's ranking when it is asked on so many images."""

    images: int
    tau: Tau
    ms_per_evaluation: float


@dataclass(frozen=True, slots=True)
class Ranking:
    """What the benchmark finds."""

    supernet: tuple[ByImages, ...]
    seeds: int
    """Of training from scratch; the truth is their mean."""
    between_seeds: Tau
    """Training from scratch with the second seed against that with the first."""
    early: dict[int, Tau]
    """Of training from scratch after so many of its epochs, against its end."""
    predictor: Tau
    predictor_trained_on: int
    predictor_held_out: int
    predictor_error: float
    """The mean absolute one, a fraction."""
    predictor_inside: float
    """The share of what was held out that lies within two of the predictor's standard deviations."""
    supernet_seconds: float
    """Of its training."""


def tau_of(ours: Floats, theirs: Floats) -> Tau:
    """Kendall's tau-b with a bootstrap interval over the architectures."""
    generator = np.random.default_rng(0)
    draws = (generator.integers(0, len(ours), len(ours)) for _ in range(BOOTSTRAP_SAMPLES))
    # Of each pair of a sample whether both orders agree; a pair of one architecture with itself says nothing.
    agreement = np.sign(ours[:, None] - ours) * np.sign(theirs[:, None] - theirs)
    ours_differ, theirs_differ = (values[:, None] != values for values in (ours, theirs))
    taus = []
    for draw in draws:
        pairs = np.ix_(draw, draw)
        norm = np.sqrt(ours_differ[pairs].sum(dtype=float) * theirs_differ[pairs].sum(dtype=float))
        taus.append(agreement[pairs].sum() / norm if norm else 0.0)
    low, high = np.percentile(taus, [2.5, 97.5])
    return Tau(float(kendalltau(ours, theirs).statistic), float(low), float(high))


class Bench:
    """The space, the data and the costs that all figures are for."""

    def __init__(self) -> None:
        self.space: SearchSpace = load_space("mobilenet_small")
        self.data: DataSet = load_data("fashion-mnist")
        profile = load_profile("stm32f405")
        self.costs = CandidateCosts(
            self.space, self.data.input_shape, len(self.data.classes), profile, current_cost_model(profile)
        )

    def draw(self, count: int, seed: int, without: frozenset[Architecture] = frozenset()) -> list[Architecture]:
        """Different architectures that keep the limit, every choice uniform."""
        rng = random.Random(seed)
        drawn: dict[Architecture, None] = {}
        while len(drawn) < count:
            architecture = self.space.sample(rng, self.data.input_shape)
            if architecture not in without and self.costs(architecture).latency_ms <= LATENCY_LIMIT_MS:
                drawn[architecture] = None
        return list(drawn)

    def train_from_scratch(self, out: Path) -> None:
        """Train what ``out`` does not hold yet, and append line by line."""
        import torch

        from tinynas.network import build_network
        from tinynas.training import train

        torch.set_num_threads(1)
        known = {(row["architecture"], row["seed"]) for row in _rows(out)} if out.exists() else set()
        with out.open("a", newline="", encoding="utf-8") as lines:
            writer = csv.writer(lines)
            if not known:
                writer.writerow(COLUMNS)
            drawn = self.draw(SCRATCH_COUNT, DRAWN_WITH)
            for seed, architecture in itertools.product(range(SCRATCH_SEEDS), drawn):
                if (str(architecture), str(seed)) in known:
                    continue
                torch.manual_seed(seed)
                network = build_network(architecture, self.space, self.data.input_shape, len(self.data.classes))
                result = train(network, self.data, architecture.resolution, epochs=SCRATCH_EPOCHS, seed=seed)
                reached = [epoch.validation_accuracy for epoch in result.history[:-1]]
                figures = (result.validation_accuracy, result.test_accuracy, round(result.seconds, 2), *reached)
                writer.writerow([architecture, seed, *figures])
                lines.flush()
                _say(f"{architecture}, seed {seed}: {result.validation_accuracy:.2%}")

    def rank(self, checkpoint: Path, epochs: int, *, quick: bool) -> Ranking:
        """All figures, by a supernet that is trained for ``epochs``, or was, as ``checkpoint`` holds it."""
        from tinynas.supernet import Supernet

        supernet = Supernet(self.space, self.data, seed=0)
        trained = supernet.train(
            epochs=epochs,
            checkpoint=checkpoint,
            progress=lambda p: _say(f"supernet {p.fraction:.0%}, loss {p.loss:.3f}") if p.step % 200 == 0 else None,
        )
        thirty, reached = read_scratch(SCRATCH_FILE, "validation_accuracy")
        truth = reached.mean(axis=0)
        for architecture in thirty:
            supernet.extract(architecture)  # prepares the images of each resolution, which is not part of the time
        by_images = []
        for images in CHECKED_IMAGES[: 1 if quick else None]:
            started = time.perf_counter()
            accuracies = np.array(supernet.evaluate_all(thirty, images=images))
            spent_ms = 1000 * (time.perf_counter() - started) / len(thirty)
            by_images.append(ByImages(images, tau_of(accuracies, truth), spent_ms))
            _say(f"supernet on {images} images: tau {by_images[-1].tau.tau:.3f}, {spent_ms:.0f} ms")
        early = {
            epoch: tau_of(read_scratch(SCRATCH_FILE, f"after_{epoch}")[1][0], reached[0])
            for epoch in range(1, SCRATCH_EPOCHS)
        }

        training_set, held_out = (40, 20) if quick else (400, 100)
        asked = self.draw(training_set + held_out, PREDICTOR_SEED, frozenset(thirty))
        accuracies = np.array(
            _in_pieces(asked, lambda piece: supernet.evaluate_all(piece, images=by_images[-1].images))
        )
        features = Features(self.space, self.data.input_shape, self.costs)
        measured = dict(zip(asked[:training_set], accuracies[:training_set].tolist(), strict=True))
        expected, deviations = AccuracyPredictor(features, measured).predict(asked[training_set:])
        errors = np.abs(expected - accuracies[training_set:])
        return Ranking(
            supernet=tuple(by_images),
            seeds=len(reached),
            between_seeds=tau_of(reached[1], reached[0]),
            early=early,
            predictor=tau_of(expected, accuracies[training_set:]),
            predictor_trained_on=training_set,
            predictor_held_out=held_out,
            predictor_error=float(errors.mean()),
            predictor_inside=float(np.mean(errors < 2 * deviations)),
            supernet_seconds=trained.seconds,
        )


def read_scratch(path: Path, name: str) -> tuple[list[Architecture], Floats]:
    """The architectures that were trained from scratch, and (seeds, architectures) of the figure called ``name``."""
    by_architecture: dict[str, list[float]] = {}
    for row in _rows(path):
        by_architecture.setdefault(row["architecture"], []).append(float(row[name]))
    return [Architecture.parse(text) for text in by_architecture], np.array(list(by_architecture.values())).T


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def _in_pieces(
    architectures: list[Architecture], measure: Callable[[list[Architecture]], list[float]], piece: int = 20
) -> list[float]:
    found: list[float] = []
    while len(found) < len(architectures):
        found += measure(architectures[len(found) : len(found) + piece])
        _say(f"{len(found)} of {len(architectures)} asked")
    return found


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def show(ranking: Ranking) -> None:
    """Print the tables."""

    def figures(tau: Tau) -> str:
        return f"{tau.tau:.3f}  ({tau.low:.3f} to {tau.high:.3f})"

    print(f"{'estimate':<34} {'against':<22} tau  (95 % interval)")
    for row in ranking.supernet:
        against = f"from scratch, {ranking.seeds} seeds"
        print(f"{f'supernet, {row.images} images':<34} {against:<22} {figures(row.tau)}", end="")
        print(f"   {row.ms_per_evaluation:.0f} ms each")
    print(f"{'from scratch, seed 1':<34} {'from scratch, seed 0':<22} {figures(ranking.between_seeds)}")
    for epoch, tau in ranking.early.items():
        name = f"from scratch, epoch {epoch} of {SCRATCH_EPOCHS}"
        print(f"{name:<34} {'its end':<22} {figures(tau)}")
    name = f"predictor from {ranking.predictor_trained_on}"
    print(f"{name:<34} {f'supernet, {ranking.predictor_held_out} others':<22} {figures(ranking.predictor)}", end="")
    print(f"   off by {100 * ranking.predictor_error:.2f} points, {ranking.predictor_inside:.0%} within 2 deviations")


def main() -> None:
    """Rank, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", action="store_true", help="train the architectures from scratch, and nothing else")
    parser.add_argument("--checkpoint", type=Path, help="of the supernet; it is trained, and kept there, if missing")
    parser.add_argument("--epochs", type=int, default=Effort().supernet_epochs, help="of the supernet's training")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="fewer images, and a predictor from fewer accuracies")
    arguments = parser.parse_args()
    bench = Bench()
    if arguments.train:
        bench.train_from_scratch(SCRATCH_FILE)
        return
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = arguments.checkpoint or Path(folder) / "supernet.safetensors"
        ranking = bench.rank(checkpoint, arguments.epochs, quick=arguments.quick)
    if arguments.json:
        print(json.dumps(asdict(ranking)))
    else:
        show(ranking)


if __name__ == "__main__":
    main()
