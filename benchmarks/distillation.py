#!/usr/bin/env python3
"""Whether a finalist gains by a teacher: Fashion-MNIST, the same network, epochs and seeds with and without.

The student takes 9 ms on stm32f405. Its teachers are the largest network of a supernet that was trained anyway, and a
network of 32 ms that is trained for this alone. Because that training is not free, the student is also trained without
a teacher for as many epochs more as the teacher's took (in processor time): what a teacher gains has to be more.

Usage: python -m benchmarks.distillation --checkpoint FILE [--epochs N] [--seeds N] [--json] [--quick]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from tinynas.architecture import Architecture
from tinynas.data import load_data
from tinynas.effort import Effort
from tinynas.network import Network, build_network, fold_batch_norm
from tinynas.space import load_space
from tinynas.supernet import Supernet
from tinynas.training import prepare, probabilities, train

STUDENT = Architecture.parse("mobilenet_small-r24-w0.5-k7e1_k7e1-k5e4-k3e4-k5e4_k3e2")
TEACHER = Architecture.parse("mobilenet_small-r28-w0.75-k3e2-k5e4_k3e3_k5e4-k3e3_k5e2_k5e2-k3e4")


@dataclass(frozen=True, slots=True)
class Row:
    """One way to train the student."""

    teacher: str
    epochs: int
    test_accuracy: float
    """Mean over the seeds."""
    spread: float
    """Standard deviation over the seeds; 0 for one."""
    cpu_seconds: float
    """Of one student's training and of what was trained for it alone."""


class Bench:
    """Trains the student in several ways."""

    def __init__(self, seeds: int) -> None:
        self._space, self._data, self._seeds = load_space("mobilenet_small"), load_data("fashion-mnist"), seeds

    def compare(self, checkpoint: Path, supernet_epochs: int, epochs: int) -> tuple[Row, ...]:
        """The student alone, with each teacher, and alone for longer."""
        rows = [self._student("none", epochs, None, 0.0)]
        supernet = Supernet(self._space, self._data, seed=0)
        supernet.train(epochs=supernet_epochs, checkpoint=checkpoint)
        rows.append(self._student("largest of the supernet", epochs, supernet.teacher(), 0.0))

        started = time.process_time()
        teacher = self._network(TEACHER, 0)
        reached = train(teacher, self._data, TEACHER.resolution, epochs=epochs, seed=0)
        images = prepare(self._data, self._data.train_images, TEACHER.resolution)
        answers = probabilities(fold_batch_norm(teacher), images)
        spent = time.process_time() - started
        rows.append(self._student(f"32 ms network ({reached.test_accuracy:.1%})", epochs, answers, spent))

        longer = epochs + max(1, round(spent * epochs / rows[0].cpu_seconds))
        rows.append(self._student("none, as long as with the 32 ms network", longer, None, 0.0))
        return tuple(rows)

    def _student(self, name: str, epochs: int, teacher: Tensor | None, spent: float) -> Row:
        accuracies, started = [], time.process_time()
        for seed in range(self._seeds):
            network = self._network(STUDENT, seed)
            result = train(network, self._data, STUDENT.resolution, epochs=epochs, seed=seed, teacher=teacher)
            accuracies.append(result.test_accuracy)
        each = (time.process_time() - started) / self._seeds
        spread = statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0
        row = Row(name, epochs, statistics.fmean(accuracies), spread, spent + each)
        print(row, file=sys.stderr, flush=True)
        return row

    def _network(self, architecture: Architecture, seed: int) -> Network:
        torch.manual_seed(seed)
        return build_network(architecture, self._space, self._data.input_shape, len(self._data.classes))


def main() -> None:
    """Compare, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, required=True, help="of the supernet; it is trained if missing")
    parser.add_argument("--supernet-epochs", type=int, default=Effort().supernet_epochs)
    parser.add_argument("--epochs", type=int, default=Effort().finalist_epochs, help="of the student and the teacher")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="one seed")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(1 if arguments.quick else arguments.seeds)
    rows = bench.compare(arguments.checkpoint, arguments.supernet_epochs, arguments.epochs)
    if arguments.json:
        print(json.dumps({"rows": [asdict(row) for row in rows]}))
        return
    print(f"{'teacher':<42} epochs  test accuracy   CPU s")
    for row in rows:
        print(
            f"{row.teacher:<42} {row.epochs:>6}  {row.test_accuracy:.2%} ±{100 * row.spread:.2f}  {row.cpu_seconds:.0f}"
        )


if __name__ == "__main__":
    main()
