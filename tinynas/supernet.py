"""A weight-sharing supernet: one set of weights from which every architecture of a search space takes its part.

Every step trains a random architecture or two on the labels, and every few steps the largest and the smallest as well
(the sandwich rule of Yu and Huang, ICCV 2019), the others then optionally on the largest's answers (in-place
distillation). Kernels are centre crops of the largest (Cai et al., "Once-for-all", ICLR 2020). An architecture's
accuracy is that of the standalone network with its weights, batch normalizations recalibrated.
"""

from __future__ import annotations

import copy
import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from tinynas import checkpoint as checkpoints
from tinynas.architecture import Architecture
from tinynas.data import DataSet, some
from tinynas.elastic import SupernetWeights
from tinynas.errors import SearchError
from tinynas.network import Network, fold_batch_norm
from tinynas.space import SearchSpace
from tinynas.training import (
    Batches,
    Progress,
    ProgressCallback,
    Schedule,
    TrainingSettings,
    accuracy,
    make_optimizer,
    prepare,
    probabilities,
)
from tinynas.workers import on_one_core, single_core_workers

CHECKPOINT_SECONDS = 20.0
"""At most this much training is lost to an interruption."""


class SupernetSettings(BaseModel):
    """How a supernet is trained and asked; the defaults are tuned for five minutes on two processor cores."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    training: TrainingSettings = TrainingSettings(batch_size=64, weight_decay=5e-5)
    random_per_step: PositiveInt = 2
    """Random architectures in each step, trained side by side on as many processor cores."""
    sandwich_every: PositiveInt = 8
    """The largest and the smallest architecture join in every so many steps."""
    distillation: float = Field(0.0, ge=0, le=1)
    """In those steps, the weight of the largest's answers against the labels' for all others.

    Left at 0, because a teacher that is itself a few minutes old teaches little: after equal processor time, random
    architectures reached 83.6 % of Fashion-MNIST without and 78.0 % with it in every step.
    """
    calibration_images: PositiveInt = 512
    """Training images from which an architecture's batch normalizations take their statistics."""
    evaluation_images: PositiveInt = 5000
    """Validation images that an architecture's accuracy is measured on."""


@dataclass(frozen=True, slots=True)
class SupernetResult:
    """What training a supernet came to."""

    steps: int
    epochs: float
    seconds: float
    loss: float
    """Of random architectures on the labels, over the last steps."""


class Supernet:
    """A search space's shared weights together with the data set that trains and judges them."""

    def __init__(
        self, space: SearchSpace, data: DataSet, *, settings: SupernetSettings | None = None, seed: int = 0
    ) -> None:
        self.space, self.data, self.seed = space, data, seed
        self.settings = settings or SupernetSettings()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.weights = SupernetWeights(space, data.input_shape, len(data.classes))
        self._calibration = some(len(data.train_labels), self.settings.calibration_images)
        # Not in the order of the data, which may be sorted by class: the first few of them are a sample of all.
        self._evaluation = np.random.default_rng(0).permutation(len(data.validation_labels))
        self._evaluation = self._evaluation[: self.settings.evaluation_images]
        self._known: dict[int, dict[Architecture, float]] = {}
        """Accuracies by number of images."""
        self.trained = False
        """Whether `train` has come to its end."""
        self._workers = single_core_workers()
        self._prepared: dict[int, tuple[Tensor, Tensor]] = {}

    def train(
        self,
        *,
        epochs: int | None = None,
        seconds: float | None = None,
        checkpoint: Path | None = None,
        progress: ProgressCallback | None = None,
    ) -> SupernetResult:
        """Train the shared weights for ``epochs`` or ``seconds``, whichever ends first.

        With ``epochs`` alone the weights depend on nothing but the seed, the settings and the data. ``checkpoint`` is
        written every few seconds and, when it exists, gone on from; a finished one is loaded and not trained again.
        Raises SearchError when neither limit is given, the loss is no longer finite, or the checkpoint cannot be used.
        """
        data, settings = self.data, self.settings.training
        schedule = Schedule(settings.learning_rate, settings.warmup, epochs, seconds)
        batches = Batches(data, max(data.input_shape[:2]), settings, self.seed)
        optimizer = make_optimizer(self.weights, settings)
        identity = {
            "data": data.fingerprint,
            "space": self.space.model_dump(),
            "settings": self.settings.model_dump(),
            "epochs": epochs,
            "seconds": seconds,
            "seed": self.seed,
        }
        fresh: dict[str, object] = {"step": 0, "elapsed": 0.0, "losses": []}
        state = checkpoints.resume(checkpoint, identity, self.weights, optimizer) or fresh
        step, elapsed_before = cast(int, state["step"]), cast(float, state["elapsed"])
        losses = cast(list[float], state["losses"])
        self.weights.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        first_step, started = step, time.perf_counter()

        def elapsed() -> float:
            return elapsed_before + time.perf_counter() - started

        def fraction() -> float:
            return schedule.fraction(step / batches.per_epoch, elapsed())

        def keep() -> None:
            done = {"step": step, "elapsed": elapsed(), "losses": losses}
            checkpoints.keep(checkpoint, identity, self.weights, optimizer, done)

        kept = elapsed()
        self._known.clear()
        with on_one_core():
            while fraction() < 1:
                number, first = divmod(step, batches.per_epoch)
                for images, labels, _ in batches.epoch(number, first):
                    for group in optimizer.param_groups:
                        group["lr"] = schedule.rate(fraction())
                    optimizer.zero_grad(set_to_none=True)
                    losses = [*losses[-99:], self._accumulate_gradients(images, labels, step)]
                    if not math.isfinite(losses[-1]):
                        raise SearchError(
                            f"the supernet's training on '{data.name}' diverged at step {step}; "
                            f"lower the learning rate of {settings.learning_rate:g}"
                        )
                    nn.utils.clip_grad_norm_(self.weights.parameters(), GRADIENT_NORM)
                    optimizer.step()
                    step += 1
                    if progress is not None:
                        rate = (step - first_step) * batches.size / (time.perf_counter() - started)
                        progress(Progress(fraction(), number, step, losses[-1], rate))
                    if elapsed() - kept > CHECKPOINT_SECONDS:
                        keep()
                        kept = elapsed()
                    if fraction() >= 1:
                        break
        if step > first_step:
            keep()
        self.trained = True
        return SupernetResult(step, step / batches.per_epoch, elapsed(), math.fsum(losses) / len(losses))

    def _accumulate_gradients(self, images: Tensor, labels: Tensor, step: int) -> float:
        """Set the gradients to those of one step's architectures; returns the mean loss of the random ones."""
        settings, space, shape = self.settings, self.space, self.data.input_shape
        rng = random.Random(f"{self.seed}/{step}")
        chosen = [space.sample(rng, shape) for _ in range(settings.random_per_step)]
        parameters = list(self.weights.parameters())
        teacher: Tensor | None = None

        def gradients(architecture: Architecture) -> tuple[float, Tensor, tuple[Tensor | None, ...]]:
            logits = self.weights(images, architecture)
            loss = F.cross_entropy(logits, labels, label_smoothing=settings.training.label_smoothing)
            labels_loss = loss.item()
            if teacher is not None:
                weight = settings.distillation
                loss = (1 - weight) * loss + weight * F.cross_entropy(logits, teacher)
            return labels_loss, logits, torch.autograd.grad(loss, parameters, allow_unused=True)

        results = []
        if step % settings.sandwich_every == 0:
            chosen.append(space.extreme(shape, largest=False))
            largest = space.extreme(shape, largest=True)
            if settings.distillation > 0:
                results.append(self._workers.submit(gradients, largest).result())
                teacher = results[0][1].detach().softmax(dim=1)
            else:
                chosen.append(largest)
        results = [*self._workers.map(gradients, chosen), *results]
        # Added up in a fixed order, so that it does not matter which worker is done first.
        for _, _, parts in results:
            for parameter, part in zip(parameters, parts, strict=True):
                if part is not None:
                    parameter.grad = part if parameter.grad is None else parameter.grad.add_(part)
        return math.fsum(loss for loss, _, _ in results[: settings.random_per_step]) / settings.random_per_step

    def copy(self) -> Supernet:
        """The same data and settings with weights of its own, which start as these are."""
        other = copy.copy(self)
        other.weights, other._known = copy.deepcopy(self.weights), {}
        return other

    def extract(self, architecture: Architecture) -> Network:
        """The standalone network of ``architecture``, ready to use: shared weights, own statistics."""
        network = self.weights.extract(architecture)
        calibrate(network, self._images_at(architecture.resolution)[0])
        return network

    def evaluate(self, architecture: Architecture, *, images: int | None = None) -> float:
        """The accuracy of ``architecture`` on the validation images, with the shared weights.

        ``images`` takes the first so many of the settings' evaluation images alone: faster, and less exact. What was
        asked before is remembered until the weights are trained again.
        """
        return self.evaluate_all([architecture], images=images)[0]

    def evaluate_all(self, architectures: Sequence[Architecture], *, images: int | None = None) -> list[float]:
        """`evaluate` of each, as many at a time as there are processor cores."""
        count = min(images or len(self._evaluation), len(self._evaluation))
        known = self._known.setdefault(count, {})
        new = [architecture for architecture in dict.fromkeys(architectures) if architecture not in known]
        known.update(zip(new, self._workers.map(lambda each: self._evaluate(each, count), new), strict=True))
        return [known[architecture] for architecture in architectures]

    def _evaluate(self, architecture: Architecture, count: int) -> float:
        network = fold_batch_norm(self.extract(architecture))
        images = self._images_at(architecture.resolution)[1][:count]
        return accuracy(network, images, self.data.validation_labels[self._evaluation[:count]])

    def teacher(self) -> Tensor:
        """(N, classes) probabilities of the largest architecture for every training image, for distillation."""
        largest = self.space.extreme(self.data.input_shape, largest=True)
        network = fold_batch_norm(self.extract(largest))
        return probabilities(network, prepare(self.data, self.data.train_images, largest.resolution))

    def _images_at(self, resolution: int) -> tuple[Tensor, Tensor]:
        """The calibration and evaluation images at one resolution, prepared once."""
        if resolution not in self._prepared:
            self._prepared[resolution] = (
                prepare(self.data, self.data.train_images[self._calibration], resolution),
                prepare(self.data, self.data.validation_images[self._evaluation], resolution),
            )
        return self._prepared[resolution]


GRADIENT_NORM = 5.0
"""Gradients are scaled down to this length: the largest and the smallest architecture add theirs in some steps only."""


def calibrate(network: nn.Module, images: Tensor) -> None:
    """Set the batch normalizations' statistics of ``network`` to those of one batch, prepared training ``images``."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0  # the batch's statistics alone, nothing of what was there
    with torch.inference_mode():
        network.train()(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.eval()
