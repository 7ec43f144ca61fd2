"""Training one network, and measuring its accuracy."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from tinynas import checkpoint as checkpoints
from tinynas.data import Array, DataSet, Labels
from tinynas.effort import SMALL_DATA
from tinynas.errors import SearchError
from tinynas.network import resize
from tinynas.space import input_shape_at

EVALUATION_BATCH = 500
"""Images at a time when no gradient is kept: small enough to stay in a processor's cache."""


class TrainingSettings(BaseModel):
    """How a network is trained; the defaults are tuned for a few minutes on two processor cores."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch_size: PositiveInt = 128
    learning_rate: PositiveFloat = 0.1
    """At the peak; it rises linearly over ``warmup``, then falls along a cosine to zero."""
    warmup: float = Field(0.1, ge=0, lt=1)
    """The fraction of the training over which the learning rate rises."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Of Nesterov's stochastic gradient descent."""
    weight_decay: NonNegativeFloat = 5e-4
    """Of weights alone: biases and batch normalizations are left free."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    shift_pixels: NonNegativeInt = 1
    """Images are shifted by up to this much each way, their border repeated."""
    jitter: NonNegativeFloat = 0.1
    """Sensor windows: the standard deviation of noise, and the largest relative change of an axis' scale."""
    distillation: float = Field(0.5, ge=0, le=1)
    """The weight of a teacher's probabilities against the labels', where there is a teacher."""


def settings_for(data: DataSet) -> TrainingSettings:
    """The defaults, with smaller batches where the data are few, so that an epoch still holds enough steps.

    On the smartwatch's 2,835 windows, fifteen epochs of batches of 32 came to 87 % validation accuracy, of 128 to 81 %.
    """
    if len(data.train_labels) >= SMALL_DATA:
        return TrainingSettings()
    return TrainingSettings(batch_size=32, learning_rate=0.05)


@dataclass(frozen=True, slots=True)
class Progress:
    """What a training tells its caller every few steps."""

    fraction: float
    """Done, from 0 to 1."""
    epoch: int
    step: int
    loss: float
    images_per_second: float


@dataclass(frozen=True, slots=True)
class Epoch:
    """One line of a training's history."""

    loss: float
    validation_accuracy: float
    seconds: float
    """Since the training began, interruptions not counted."""


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a training came to."""

    validation_accuracy: float
    test_accuracy: float
    seconds: float
    images_per_second: float
    history: tuple[Epoch, ...]


ProgressCallback = Callable[[Progress], None]


def train(
    network: nn.Module,
    data: DataSet,
    resolution: int,
    *,
    settings: TrainingSettings | None = None,
    epochs: int | None = None,
    seconds: float | None = None,
    until: int | None = None,
    seed: int = 0,
    teacher: Tensor | None = None,
    checkpoint: Path | None = None,
    progress: ProgressCallback | None = None,
) -> TrainResult:
    """Train ``network`` in place on the training set, for ``epochs`` or ``seconds``, whichever ends first.

    ``resolution`` is the longest side of the network's input. ``teacher`` holds a teacher's probabilities for each
    training image, as `probabilities` returns them. With ``epochs`` alone the result depends on nothing but the
    arguments. ``until`` pauses it after so many epochs without changing them: with the same checkpoint and a later
    ``until`` it goes on as if it had not been paused. ``checkpoint`` is written after every epoch and, when it exists,
    gone on from. Several networks train fastest side by side, one to each of the threads of
    `tinynas.workers.single_core_workers`.

    Raises SearchError when neither limit is given, the loss is no longer finite, or the checkpoint cannot be used.
    """
    if until is not None and until < 1:
        raise SearchError(f"a training cannot pause after {until} epochs; give at least one")
    settings = settings or settings_for(data)
    schedule = Schedule(settings.learning_rate, settings.warmup, epochs, seconds)
    batches = Batches(data, resolution, settings, seed)
    optimizer = make_optimizer(network, settings)
    identity = {
        "data": data.fingerprint,
        "resolution": resolution,
        "settings": settings.model_dump(),
        "epochs": epochs,
        "seconds": seconds,
        "seed": seed,
        "distilled": teacher is not None,
    }
    state = checkpoints.resume(checkpoint, identity, network, optimizer) or {"history": [], "step": 0, "elapsed": 0.0}
    history = [Epoch(*cast(list[float], values)) for values in cast(list[object], state["history"])]
    step, elapsed_before = cast(int, state["step"]), cast(float, state["elapsed"])
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    validation = prepare(data, data.validation_images, resolution)
    started = time.perf_counter()
    first_step = step

    def elapsed() -> float:
        return elapsed_before + time.perf_counter() - started

    def fraction() -> float:
        return schedule.fraction(step / batches.per_epoch, elapsed())

    while fraction() < 1 and (until is None or len(history) < until):
        network.train()
        losses = []
        for images, labels, chosen in batches.epoch(len(history)):
            for group in optimizer.param_groups:
                group["lr"] = schedule.rate(fraction())
            loss = (
                F.cross_entropy(network(images), labels, label_smoothing=settings.label_smoothing)
                if (teacher is None)
                else _distilled_loss(network(images), labels, teacher[chosen], settings)
            )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                raise SearchError(
                    f"training on '{data.name}' diverged at step {step}; "
                    f"lower the learning rate of {settings.learning_rate:g}"
                )
            step += 1
            if progress is not None and step % 10 == 0:
                rate = (step - first_step) * settings.batch_size / (time.perf_counter() - started)
                progress(Progress(fraction(), len(history), step, losses[-1], rate))
            if fraction() >= 1:
                break
        epoch_loss = math.fsum(losses) / len(losses)
        history.append(Epoch(epoch_loss, accuracy(network, validation, data.validation_labels), elapsed()))
        done = {
            "history": [[epoch.loss, epoch.validation_accuracy, epoch.seconds] for epoch in history],
            "step": step,
            "elapsed": elapsed(),
        }
        checkpoints.keep(checkpoint, identity, network, optimizer, done)

    seconds_used = history[-1].seconds
    return TrainResult(
        validation_accuracy=history[-1].validation_accuracy,
        test_accuracy=accuracy(network, prepare(data, data.test_images, resolution), data.test_labels),
        seconds=seconds_used,
        images_per_second=step * batches.size / seconds_used,
        history=tuple(history),
    )


@dataclass(frozen=True, slots=True)
class Schedule:
    """When a training ends, and its learning rate until then."""

    learning_rate: float
    warmup: float
    epochs: int | None
    seconds: float | None

    def __post_init__(self) -> None:
        if self.epochs is None and self.seconds is None:
            raise SearchError("a training needs a limit; give epochs or seconds")
        if (self.epochs is not None and self.epochs < 1) or (self.seconds is not None and self.seconds <= 0):
            raise SearchError("a training's limit leaves no time to train; give at least one epoch or some seconds")

    def fraction(self, epochs: float, seconds: float) -> float:
        """How much of the training is done after so many epochs and seconds, 1 being all of it."""
        by_epochs = 0.0 if self.epochs is None else epochs / self.epochs
        by_seconds = 0.0 if self.seconds is None else seconds / self.seconds
        return min(1.0, max(by_epochs, by_seconds))

    def rate(self, fraction: float) -> float:
        """The learning rate once ``fraction`` is done: a linear rise, then a cosine's fall."""
        if fraction < self.warmup:
            return self.learning_rate * (0.05 + 0.95 * fraction / self.warmup)
        fallen = (fraction - self.warmup) / (1 - self.warmup)
        return self.learning_rate * (1 + math.cos(math.pi * fallen)) / 2


class Batches:
    """The training set in shuffled, augmented batches.

    An epoch's order and augmentation follow from the seed and the epoch's number alone, so a training that was
    interrupted sees what it would have seen.
    """

    def __init__(self, data: DataSet, resolution: int, settings: TrainingSettings, seed: int) -> None:
        shape = input_shape_at(resolution, data.input_shape)
        self._images = torch.from_numpy(resize(data.train_images, shape).copy())
        self._labels = torch.from_numpy(data.train_labels)
        self._mean = torch.tensor(data.mean, dtype=torch.float32)
        self._std = torch.tensor(data.std, dtype=torch.float32)
        self._data, self._settings, self._seed = data, settings, seed
        self.size = min(settings.batch_size, len(self._labels))
        self.per_epoch = len(self._labels) // self.size
        """Whole batches: a batch of a few images would upset the batch normalizations."""

    def epoch(self, number: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """From batch ``first`` on: images (N, C, H, W; float32, normalized), labels, and their places in the set."""
        order = torch.randperm(len(self._labels), generator=self._generator(number, -1))
        for index in range(first, self.per_epoch):
            chosen = order[index * self.size : (index + 1) * self.size]
            generator = self._generator(number, index)
            images = self._images[chosen]
            if self._data.is_window:
                images = self._jitter(self._normalize(images), generator)
            else:
                images = self._normalize(self._shift_and_flip(images, generator))
            yield images.permute(0, 3, 1, 2), self._labels[chosen], chosen

    def _generator(self, epoch: int, index: int) -> torch.Generator:
        return torch.Generator().manual_seed((self._seed * 1_000_003 + epoch) * 1_000_003 + index + 1)

    def _normalize(self, images: Tensor) -> Tensor:
        return (images.float() - self._mean) / self._std

    def _shift_and_flip(self, images: Tensor, generator: torch.Generator) -> Tensor:
        count, height, width, _ = images.shape
        reach = self._settings.shift_pixels
        shifts = torch.randint(-reach, reach + 1, (2, count, 1), generator=generator)
        rows = (torch.arange(height) + shifts[0]).clamp(0, height - 1)
        columns = (torch.arange(width) + shifts[1]).clamp(0, width - 1)
        if self._data.flips:
            mirrored = torch.rand(count, 1, generator=generator) < 0.5
            columns = torch.where(mirrored, columns.flip(1), columns)
        return images[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]

    def _jitter(self, windows: Tensor, generator: torch.Generator) -> Tensor:
        reach = self._settings.jitter
        scales = 1 + reach * (2 * torch.rand(len(windows), 1, 1, windows.shape[3], generator=generator) - 1)
        return windows * scales + reach * torch.randn(windows.shape, generator=generator)


def make_optimizer(network: nn.Module, settings: TrainingSettings) -> torch.optim.Optimizer:
    """Nesterov's stochastic gradient descent, weight decay on weights alone."""
    parameters = list(network.parameters())
    groups = [
        {
            "params": [parameter for parameter in parameters if parameter.ndim > 1],
            "weight_decay": settings.weight_decay,
        },
        {"params": [parameter for parameter in parameters if parameter.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(
        groups, lr=settings.learning_rate, momentum=settings.momentum, nesterov=settings.momentum > 0
    )


def _distilled_loss(logits: Tensor, labels: Tensor, teacher: Tensor, settings: TrainingSettings) -> Tensor:
    """Cross-entropy against labels and a teacher's probabilities (Hinton et al., 2015, at temperature 1)."""
    hard = F.cross_entropy(logits, labels, label_smoothing=settings.label_smoothing)
    soft = F.cross_entropy(logits, teacher)
    return (1 - settings.distillation) * hard + settings.distillation * soft


def prepare(data: DataSet, images: Array, resolution: int) -> Tensor:
    """``images`` of ``data`` as a network takes them: resized, normalized, (N, C, H, W) float32, channels last."""
    resized = resize(images, input_shape_at(resolution, data.input_shape))
    return torch.from_numpy(data.normalize(resized)).permute(0, 3, 1, 2)


def probabilities(network: nn.Module, images: Tensor) -> Tensor:
    """(N, classes) softmax of ``network`` in evaluation mode over prepared ``images``."""
    network.eval()
    with torch.inference_mode():
        return torch.cat([network(batch).softmax(dim=1) for batch in torch.split(images, EVALUATION_BATCH)])


def accuracy(network: nn.Module, images: Tensor, labels: Labels) -> float:
    """The fraction of prepared ``images`` that ``network`` puts in the right class, in evaluation mode."""
    predicted = probabilities(network, images).argmax(dim=1)
    return float((predicted == torch.from_numpy(labels)).double().mean())
