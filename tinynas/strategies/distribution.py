"""A probability distribution over a search space, one categorical to a gene, and the costs to expect under it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tinynas.strategies.additive_costs import ADDITIVE, PEAK, Floats, Item, Layout, SubspaceCosts
from tinynas.strategies.hardening import Scores

SMOOTHNESS = 0.02
"""Of the highest peak, the scale on which the maximum over the units is smoothed."""
SMALLEST_SHARE = 0.05
"""Of the base's costs, what the expectation is at least: differences alone could make it negative."""


class Distribution:
    """Independent categoricals over the values of each gene: the architecture parameters of a differentiable search."""

    def __init__(self, layout: Layout, logits: Sequence[Tensor] | None = None) -> None:
        self.layout = layout
        start = logits or [torch.zeros(len(gene.values)) for gene in layout.genes]
        self.logits = [values.detach().clone().requires_grad_() for values in start]

    def copy(self) -> Distribution:
        """An independent distribution with the same logits."""
        return Distribution(self.layout, self.logits)

    def log_probabilities(self) -> list[Tensor]:
        """(values,) of each gene."""
        return [torch.log_softmax(logits, 0) for logits in self.logits]

    def item_scores(self, log_probabilities: Sequence[Tensor]) -> list[Tensor]:
        """(options,) log-probabilities for each of ``Layout.items()``."""
        return [_item_scores(item, log_probabilities) for _, _, item in self.layout.items()]

    def subspace_scores(self, log_probabilities: Sequence[Tensor]) -> Tensor:
        """(sub-spaces,) log-probabilities."""
        resolution = log_probabilities[self.layout.resolution_gene]
        width = log_probabilities[self.layout.width_gene]
        return (resolution[:, None] + width[None, :]).flatten()

    def scores(self) -> Scores:
        """The log-probabilities as the hardening takes them."""
        with torch.no_grad():
            everything = self.log_probabilities()
            depths = tuple(everything[stage.depth_gene].double().numpy() for stage in self.layout.stages)
            return Scores(depths, tuple(scores.double().numpy() for scores in self.item_scores(everything)))

    def most_likely(self) -> list[int]:
        """The genotype of the highest probability, whatever it costs."""
        return [int(logits.argmax()) for logits in self.logits]

    def entropy(self) -> Tensor:
        """The sum of the genes' entropies, in nats."""
        return torch.stack([-(values.exp() * values).sum() for values in self.log_probabilities()]).sum()

    def reinforce(self, genotype: Sequence[int | None], step: float) -> None:
        """Move the logits by ``step`` along the gradient of the log-probability of ``genotype`` (a score function)."""
        with torch.no_grad():
            for logits, value in zip(self.logits, genotype, strict=True):
                if value is not None:
                    change = -torch.softmax(logits, 0)
                    change[value] += 1
                    logits += step * change


def perturbed(scores: Scores, random: np.random.Generator) -> Scores:
    """``scores`` with Gumbel noise: their best is a sample of the distribution (Papandreou and Yuille, ICCV 2011)."""
    return Scores(
        tuple(values + random.gumbel(size=values.shape) for values in scores.depths),
        tuple(values + random.gumbel(size=values.shape) for values in scores.items),
    )


def _item_scores(item: Item, log_probabilities: Sequence[Tensor]) -> Tensor:
    options = torch.tensor(item.options)
    parts = [log_probabilities[gene][options[:, column]] for column, gene in enumerate(item.genes)]
    return torch.stack(parts).sum(dim=0)


@dataclass
class ExpectedCosts:
    """The tabulated costs of every sub-space as tensors, for expectations that can be differentiated."""

    layout: Layout
    base: Tensor
    """(sub-spaces, costs)"""
    base_peak: Tensor
    """(sub-spaces,)"""
    items: list[Tensor]
    """(sub-spaces, options, costs) for each of ``Layout.items()``."""
    peaks: list[Tensor]
    """(sub-spaces, options) likewise."""
    correction: dict[str, float]
    """Exact over tabulated cost, where the search currently is."""

    @classmethod
    def of(cls, layout: Layout, tables: Sequence[SubspaceCosts]) -> ExpectedCosts:
        """From the tables of every sub-space, in the layout's order."""

        def stack(values: Sequence[Floats] | Sequence[float]) -> Tensor:
            return torch.from_numpy(np.stack([np.asarray(value) for value in values])).float()

        count = len(tables[0].items)
        return cls(
            layout,
            stack([table.base for table in tables]),
            stack([table.base_peak for table in tables]),
            [stack([table.items[place] for table in tables]) for place in range(count)],
            [stack([table.peaks[place] for table in tables]) for place in range(count)],
            dict.fromkeys((*ADDITIVE, PEAK), 1.0),
        )

    def correct(self, exact: Mapping[str, float], tabulated: Mapping[str, float]) -> None:
        """Scale the expectations so that they agree at an architecture whose costs are ``exact``."""
        self.correction = {name: exact[name] / max(1e-12, tabulated[name]) for name in self.correction}

    def under(self, distribution: Distribution) -> dict[str, Tensor]:
        """Each cost, by its name in ``Costs``: the expectation of what adds up, and a smooth maximum of the peaks."""
        log_probabilities = distribution.log_probabilities()
        scores = distribution.item_scores(log_probabilities)
        total = self.base
        highest = torch.stack([peaks.max() for peaks in self.peaks]).max()
        scale = SMOOTHNESS * highest
        raised = torch.exp((self.base_peak - highest) / scale)
        for place, (number, index, _) in enumerate(self.layout.items()):
            stage = self.layout.stages[number]
            deeper = torch.tensor([depth > index for depth in stage.depths])
            presence = log_probabilities[stage.depth_gene].exp()[deeper].sum()
            probabilities = scores[place].exp()
            total = total + presence * (self.items[place] * probabilities[None, :, None]).sum(dim=1)
            raised = raised + presence * (torch.exp((self.peaks[place] - highest) / scale) @ probabilities)
        subspaces = distribution.subspace_scores(log_probabilities).exp()
        expected = subspaces @ torch.maximum(total, SMALLEST_SHARE * self.base)
        values = {name: expected[column] for column, name in enumerate(ADDITIVE)}
        values[PEAK] = subspaces @ (highest + scale * torch.log(raised.clamp_min(1e-30)))
        return {name: value * self.correction[name] for name, value in values.items()}
