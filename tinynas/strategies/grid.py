"""Grid search: compound scaling first, then every architecture, in an order that is even wherever it is stopped."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tinynas.architecture import Architecture
from tinynas.evaluation import Evaluation
from tinynas.space import Gene
from tinynas.strategies.problem import Problem
from tinynas.strategies.sampler import Sampler

STRIDES = 32
"""How many orders are compared."""
POINTS = 64
"""By how many of their first points."""
GOLDEN_RATIO = 11_400_714_819_323_198_485
"""Its fractional part times 2 to the power of 64; the multiples of that part, modulo 1, are spread most evenly."""


class Grid:
    """Visits the compound scalings, then the whole space, and of both what fits; the seed changes nothing.

    A compound scaling takes depths, width and resolution from their smallest to their largest values by one coefficient
    (EfficientNet, Tan and Le, ICML 2019), with the same choices in every block.
    """

    def __init__(self, problem: Problem) -> None:
        self._sampler = Sampler(problem, random.Random(0))
        self._points = map(self._sampler.decode, grid_points(self._sampler.genes))

    def ask(self) -> Architecture:
        """See ``Strategy.ask``."""
        return self._sampler.find(self._points)

    def tell(self, evaluation: Evaluation) -> None:
        """See ``Strategy.tell``; only keeps the architecture from being asked again."""
        self._sampler.mark_seen(evaluation.architecture)


def grid_points(genes: Sequence[Gene]) -> Iterator[list[int]]:
    """The compound scalings and then every genotype, which has some of them again."""
    compound = compound_points(genes)
    yield from (compound[index] for index in _walk(len(compound), _coprime(len(compound), 1)))
    sizes = [len(gene.values) for gene in genes]
    yield from (_digits(index, sizes) for index in _walk(math.prod(sizes), _even_stride(sizes)))


def compound_points(genes: Sequence[Gene]) -> CompoundPoints:
    """The genotype of every compound scaling, from the smallest coefficient to the largest."""
    scaled = [gene for gene in genes if _kind(gene) in ("resolution", "width", "depth")]
    steps = {(step + 0.5) / (len(gene.values) - 1) for gene in scaled for step in range(len(gene.values) - 1)}
    levels: dict[str, int] = {}
    for gene in genes:
        if gene not in scaled:
            levels[_kind(gene)] = max(len(gene.values), levels.get(_kind(gene), 1))
    shares = {kind: [level / max(1, count - 1) for level in range(count)] for kind, count in levels.items()}
    return CompoundPoints(tuple(genes), (0.0, *sorted(steps)), shares)


@dataclass(frozen=True)
class CompoundPoints:
    """Genotypes, made when they are asked for: a space whose blocks have many choices has very many."""

    genes: tuple[Gene, ...]
    coefficients: tuple[float, ...]
    shares: Mapping[str, list[float]]
    """Of the way from the smallest to the largest value, for each kind of choice of a block."""

    def __len__(self) -> int:
        return math.prod(self._sizes)

    def __getitem__(self, index: int) -> list[int]:
        coefficient, *levels = _digits(range(len(self))[index], self._sizes)
        share = {kind: self.shares[kind][level] for kind, level in zip(self.shares, levels, strict=True)}
        return [_value_at(gene, share.get(_kind(gene), self.coefficients[coefficient])) for gene in self.genes]

    @property
    def _sizes(self) -> list[int]:
        return [len(self.coefficients), *map(len, self.shares.values())]


def _kind(gene: Gene) -> str:
    return gene.name.rpartition(".")[2]


def _value_at(gene: Gene, share: float) -> int:
    """The index of the value that is ``share`` of the way from the gene's smallest to its largest."""
    ascending = sorted(range(len(gene.values)), key=lambda index: gene.values[index])
    return ascending[math.floor(share * (len(ascending) - 1) + 0.5 + 1e-9)]


def _walk(count: int, stride: int) -> Iterator[int]:
    """Every number below ``count`` once, each ``stride`` further on, around the end."""
    index = 0
    for _ in range(count):
        yield index
        index = (index + stride) % count


def _coprime(count: int, multiple: int) -> int:
    """Near ``multiple`` times the golden section of ``count``: a stride whose walk meets every number."""
    stride = max(1, count * (multiple * GOLDEN_RATIO % 2**64) >> 64)
    while math.gcd(stride, count) > 1:
        stride += 1
    return stride


def _even_stride(sizes: Sequence[int]) -> int:
    """The stride whose first points are the nearest to an orthogonal array: all values, and pairs, equally often.

    Nearest by the criterion J2 (Xu, Technometrics 2002): two points agree in about equally many genes, whichever two.
    """
    count = math.prod(sizes)

    def unevenness(stride: int) -> float:
        points = np.array([_digits(index, sizes) for index in itertools.islice(_walk(count, stride), POINTS)])
        agreement = (points[:, None] == points[None, :]) @ np.array(sizes)
        return float((agreement.astype(float) ** 2).sum())

    return min((_coprime(count, multiple) for multiple in range(1, STRIDES + 1)), key=unevenness)


def _digits(index: int, sizes: Sequence[int]) -> list[int]:
    """``index`` as a number whose digits count to ``sizes``, the last the units."""
    digits = []
    for size in reversed(sizes):
        index, digit = divmod(index, size)
        digits.append(digit)
    return digits[::-1]
