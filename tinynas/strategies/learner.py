"""Learns a distribution over a search space by gradients through shared weights.

The loss is the cross-entropy on validation images plus what is expected of latency, energy, SRAM and flash, each
relative to its limit. Two ways to the gradient of the cross-entropy: ProxylessNAS's binarized paths (Cai et al., ICLR
2019), where each step samples two options of every block, lets one of them through and takes the gradient of both
gates; and DARTS's mixtures (Liu et al., ICLR 2019), where every option runs and their sum is weighted by the
probabilities. Depth is a pair of gates, or a mixture, over where a stage ends. Resolution and width change the shapes:
each step samples two pairs of them and weighs the two losses by the pairs' probabilities.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from tinynas.architecture import Architecture, Block
from tinynas.data import DataSet
from tinynas.elastic import StageMixture
from tinynas.errors import SearchError
from tinynas.evaluation import CostFunction
from tinynas.strategies.additive_costs import ADDITIVE, MAX_JOINT_OPTIONS, PEAK, Layout, SubspaceCosts
from tinynas.strategies.distribution import Distribution, ExpectedCosts
from tinynas.supernet import GRADIENT_NORM, Supernet
from tinynas.training import Batches, Schedule, make_optimizer
from tinynas.workers import on_one_core

CORRECT_EVERY = 20
"""Steps between corrections of the expected costs by the exact ones of the most likely architecture."""
MULTIPLIER_STEP = 0.05
"""How far a limit's multiplier moves in one step for each e-fold that the expectation is off."""
PULL = 0.5
"""The weight of the square of what an expectation is off, in e-folds."""


class DifferentiableSettings(BaseModel):
    """How the distribution is learned, and how architectures are taken from it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    paths: Literal["binarized", "mixture"] = "binarized"
    """Two sampled options of each block in every step (ProxylessNAS), or all of them (DARTS)."""
    weights: Literal["frozen", "trained"] | None = None
    """The shared weights stay as they are; or a copy of them learns, at first alone and then in turn with the
    distribution, from architectures that it samples. None: whichever they need, trained already or not."""
    alone_epochs: NonNegativeInt = 1
    """How long weights learn alone, from uniform samples, where they learn."""
    weight_steps: PositiveInt = 8
    """Of the weights before each one of the distribution, where they learn."""
    steps: PositiveInt = 200
    """Of the distribution; those of a front share them."""
    batch_size: PositiveInt = 64
    learning_rate: PositiveFloat = 0.05
    """Of Adam on the logits."""
    weights_learning_rate: PositiveFloat = 0.1
    """Of the weights, at its peak, where they learn."""
    first_shortlist: PositiveInt = 32
    """Samples of the distribution that the shared weights judge before the first architecture is returned."""
    shortlist: PositiveInt = 6
    """And before each one after it."""
    anchors: PositiveInt = 4
    """Distributions along a front, each for its own target."""
    closeness: float = Field(0.95, ge=0, lt=1)
    """The share of a latency or energy limit that the first architecture reaches at least."""
    evaluation_step: NonNegativeFloat = 0.1
    """How far an evaluation moves the logits when it is one standard deviation above the mean."""


class Learner:
    """Takes gradient steps on distributions, and on a copy of the shared weights where these learn too."""

    def __init__(
        self,
        supernet: Supernet,
        layout: Layout,
        tables: Sequence[SubspaceCosts],
        costs: CostFunction,
        settings: DifferentiableSettings,
        seed: int,
    ) -> None:
        """``tables`` are those of every sub-space of ``layout``, in its order.

        Raises SearchError when the blocks have too many options to mix and mixtures are asked for.
        """
        if settings.paths == "mixture" and any(len(block) > 1 for stage in layout.stages for block in stage.blocks):
            raise SearchError(
                f"a block of the space '{layout.space.name}' has more than {MAX_JOINT_OPTIONS} options, and each would "
                "run in every step; choose binarized paths"
            )
        learns = settings.weights == "trained" or (settings.weights is None and not supernet.trained)
        self.supernet = supernet.copy() if learns else supernet
        """The shared weights that the distributions are learned with."""
        if learns and settings.alone_epochs:
            self.supernet.train(epochs=settings.alone_epochs)
        self._layout, self._costs, self._settings = layout, costs, settings
        self._tables = dict(zip(layout.subspaces, tables, strict=True))
        self._expected = ExpectedCosts.of(layout, tables)
        self._generator = torch.Generator().manual_seed(seed)
        self._validation = _validation_batches(supernet.data, settings.batch_size, self._generator)
        self._trainer = _WeightsTrainer(self.supernet, settings, seed) if learns else None
        self._blocks: dict[tuple[int, int, tuple[int, ...]], Block] = {}

    def expected(self, distribution: Distribution) -> dict[str, float]:
        """What each cost, by its name in ``Costs``, comes to under ``distribution``."""
        self._correct(distribution)
        with torch.no_grad():
            return {name: value.item() for name, value in self._expected.under(distribution).items()}

    def learn(
        self,
        distribution: Distribution,
        steps: int,
        *,
        limits: Mapping[str, float],
        targets: Sequence[str] = (),
        prices: Mapping[str, float] | None = None,
    ) -> None:
        """Take ``steps`` steps on ``distribution``.

        ``limits`` are kept in expectation, by multipliers that rise while one is broken; those among ``targets`` are
        also drawn up to. ``prices`` is what one unit of a cost is worth in nats of cross-entropy. All are by the
        names of ``Costs``.
        """
        with on_one_core():
            optimizer = torch.optim.Adam(distribution.logits, lr=self._settings.learning_rate)
            multipliers = dict.fromkeys(limits, 0.0)
            for step in range(steps):
                if self._trainer is not None:
                    for _ in range(self._settings.weight_steps):
                        self._trainer.step(self._layout.decode(self._sample(distribution)), step / steps)
                if step % CORRECT_EVERY == 0:
                    self._correct(distribution)
                costs = self._expected.under(distribution)
                loss = self.cross_entropy(distribution)
                for name, price in (prices or {}).items():
                    loss = loss + price * costs[name]
                for name, limit in limits.items():
                    excess = torch.log(costs[name] / limit)
                    loss = loss + multipliers[name] * excess
                    loss = loss + PULL * (excess if name in targets else F.relu(excess)) ** 2
                    multipliers[name] = max(0.0, multipliers[name] + MULTIPLIER_STEP * excess.item())
                for logits, gradient in zip(
                    distribution.logits, torch.autograd.grad(loss, distribution.logits), strict=True
                ):
                    logits.grad = gradient
                optimizer.step()

    def cross_entropy(self, distribution: Distribution) -> Tensor:
        """Of the next validation images, with gradients to every gene's logits."""
        images, labels = next(self._validation)
        weights = self.supernet.weights
        log_probabilities = distribution.log_probabilities()
        scores = distribution.item_scores(log_probabilities)
        subspaces = distribution.subspace_scores(log_probabilities)
        losses = []
        chosen = self._pair([subspaces])
        for (subspace,) in chosen:
            resolution, width = self._layout.subspaces[subspace]
            logits = weights.forward_mixture(
                images,
                int(self._layout.genes[self._layout.resolution_gene].values[resolution]),
                float(self._layout.genes[self._layout.width_gene].values[width]),
                self._mixtures(log_probabilities, scores),
            )
            losses.append(F.cross_entropy(logits, labels))
        shares = torch.softmax(torch.stack([subspaces[subspace] for (subspace,) in chosen]), 0)
        return (shares * torch.stack(losses)).sum()

    def _mixtures(self, log_probabilities: Sequence[Tensor], scores: Sequence[Tensor]) -> list[StageMixture]:
        mixtures, place = [], 0
        drawn: dict[tuple[tuple[int, ...], ...], list[tuple[tuple[int, ...], Tensor]]] = {}
        for number, stage in enumerate(self._layout.stages):
            depths = [
                (stage.depths[option], weight)
                for (option,), weight in self._weighted([log_probabilities[stage.depth_gene]])
            ]
            deepest = max(depth for depth, _ in depths)
            blocks = []
            for index, items in enumerate(stage.blocks):
                own = scores[place : place + len(items)]
                place += len(items)
                if index < deepest:
                    genes = tuple(item.genes for item in items)
                    weighted = drawn.get(genes) or self._weighted(own)  # blocks that share genes share the gates
                    drawn[genes] = weighted
                    blocks.append([(self._block(number, index, options), weight) for options, weight in weighted])
            mixtures.append(StageMixture(depths, blocks))
        return mixtures

    def _weighted(self, scores: Sequence[Tensor]) -> list[tuple[tuple[int, ...], Tensor]]:
        """What runs of independent choices with these log-probabilities, and the weights, which carry the gradients."""
        if self._settings.paths == "mixture":
            (alone,) = scores
            return [((option,), probability) for option, probability in enumerate(alone.exp())]
        pair = self._pair(scores)
        joint = torch.stack(
            [
                torch.stack([values[option] for values, option in zip(scores, options, strict=True)]).sum()
                for options in pair
            ]
        )
        soft = torch.softmax(joint, 0)
        open_gate = torch.multinomial(soft.detach(), 1, generator=self._generator)
        hard = F.one_hot(open_gate[0], len(pair)).float()
        return list(zip(pair, hard + soft - soft.detach(), strict=True))

    def _pair(self, scores: Sequence[Tensor]) -> list[tuple[int, ...]]:
        """Two different samples of independent choices with these log-probabilities; one when there is no other."""
        probabilities = [values.detach().exp().clamp_min(1e-6) for values in scores]
        several = [place for place, values in enumerate(probabilities) if len(values) > 1]
        samples = [
            torch.multinomial(values, min(2, len(values)), generator=self._generator).tolist()
            for values in probabilities
        ]
        first = tuple(sample[0] for sample in samples)
        if not several:
            return [first]
        differing = several[int(torch.randint(len(several), (1,), generator=self._generator))]
        second = tuple(
            sample[1]
            if place == differing
            else int(torch.multinomial(probabilities[place], 1, generator=self._generator))
            for place, sample in enumerate(samples)
        )
        return [first, second]

    def _block(self, number: int, index: int, options: tuple[int, ...]) -> Block:
        key = number, index, options
        if key not in self._blocks:
            stage = self._layout.stages[number]
            genotype = [0] * len(self._layout.genes)
            genotype[stage.depth_gene] = stage.depths.index(max(stage.depths))
            for item, option in zip(stage.blocks[index], options, strict=True):
                for gene, value in zip(item.genes, item.options[option], strict=True):
                    genotype[gene] = value
            self._blocks[key] = self._layout.decode(genotype).stages[number][index]
        return self._blocks[key]

    def _sample(self, distribution: Distribution) -> list[int]:
        with torch.no_grad():
            return [
                int(torch.multinomial(values.exp(), 1, generator=self._generator))
                for values in distribution.log_probabilities()
            ]

    def _correct(self, distribution: Distribution) -> None:
        genotype = distribution.most_likely()
        exact = self._costs(self._layout.decode(genotype))
        subspace = genotype[self._layout.resolution_gene], genotype[self._layout.width_gene]
        total, peak = self._tables[subspace].predict(self._layout, genotype)
        tabulated = dict(zip(ADDITIVE, total.tolist(), strict=True)) | {PEAK: peak}
        self._expected.correct({name: getattr(exact, name) for name in tabulated}, tabulated)


class _WeightsTrainer:
    """Trains shared weights on the training images, one architecture at a time."""

    def __init__(self, supernet: Supernet, settings: DifferentiableSettings, seed: int) -> None:
        training = supernet.settings.training.model_copy(update={"learning_rate": settings.weights_learning_rate})
        self._weights = supernet.weights
        self._optimizer = make_optimizer(self._weights, training)
        self._schedule = Schedule(training.learning_rate, training.warmup, 1, None)
        self._batches = _forever(Batches(supernet.data, max(supernet.data.input_shape[:2]), training, seed))

    def step(self, architecture: Architecture, fraction: float) -> None:
        """One batch, at the learning rate of ``fraction`` of the training."""
        images, labels = next(self._batches)
        for group in self._optimizer.param_groups:
            group["lr"] = self._schedule.rate(fraction)
        self._optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(self._weights(images, architecture), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._weights.parameters(), GRADIENT_NORM)
        self._optimizer.step()


def _forever(batches: Batches) -> Iterator[tuple[Tensor, Tensor]]:
    for number in itertools.count():
        for images, labels, _ in batches.epoch(number):
            yield images, labels


def _validation_batches(data: DataSet, size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffled validation images as the shared weights take them, again and again, and their labels."""
    labels = torch.from_numpy(data.validation_labels)
    size = min(size, len(labels))
    while True:
        order = torch.randperm(len(labels), generator=generator)
        for first in range(0, len(labels) - size + 1, size):
            chosen = order[first : first + size]
            images = torch.from_numpy(data.normalize(data.validation_images[chosen.numpy()]))
            yield images.permute(0, 3, 1, 2), labels[chosen]
