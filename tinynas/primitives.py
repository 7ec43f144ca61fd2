"""What a layer costs by the textbook: multiply-accumulates and parameters of the operations that networks consist of.

The formulas are those of MIT 6.5940 (Han, "TinyML and Efficient Deep Learning Computing"), with biases. They are for
reading and for tests, which hold them against `export.graph.macs`: that is what counts the layers of a network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

DIMENSIONS: dict[str, str] = {
    "c_i": "channels of the input",
    "c_o": "channels of the output",
    "k_h": "height of the kernel",
    "k_w": "width of the kernel",
    "h_o": "height of the output",
    "w_o": "width of the output",
    "g": "groups",
}
"""The letters of the formulas."""


@dataclass(frozen=True, slots=True)
class Formula:
    """A product of dimensions, what it is divided by, and another product added to that."""

    product: str = ""
    """Names of dimensions with spaces between them; empty for 0."""
    divisor: str = ""
    added: str = ""

    def __str__(self) -> str:
        terms = [product.replace(" ", "·") for product in (self.product, self.added) if product]
        if self.divisor:
            terms[0] += f" / {self.divisor}"
        return " + ".join(terms) or "0"

    def __call__(self, dimensions: Mapping[str, int]) -> int:
        """The value for these dimensions, by name."""

        def product(names: str) -> int:
            return math.prod(dimensions[name] for name in names.split()) if names else 0

        first = product(self.product)
        return (first // dimensions[self.divisor] if self.divisor else first) + product(self.added)


@dataclass(frozen=True, slots=True)
class Primitive:
    """One operation."""

    name: str
    macs: Formula
    parameters: Formula
    """Weights and biases."""
    additions: Formula = Formula()
    """Operations that are no multiply-accumulates: what pooling compares or adds, and what a skip adds."""


PRIMITIVES: tuple[Primitive, ...] = (
    Primitive("fully connected", Formula("c_o c_i"), Formula("c_o c_i", added="c_o")),
    Primitive("convolution 1-D", Formula("c_o c_i k_w w_o"), Formula("c_o c_i k_w", added="c_o")),
    Primitive("convolution 2-D", Formula("c_o c_i k_h k_w h_o w_o"), Formula("c_o c_i k_h k_w", added="c_o")),
    Primitive(
        "grouped convolution",
        Formula("c_o c_i k_h k_w h_o w_o", divisor="g"),
        Formula("c_o c_i k_h k_w", divisor="g", added="c_o"),
    ),
    Primitive("depthwise convolution", Formula("c_o k_h k_w h_o w_o"), Formula("c_o k_h k_w", added="c_o")),
    Primitive("pooling", Formula(), Formula(), Formula("c_o k_h k_w h_o w_o")),
    Primitive("skip", Formula(), Formula(), Formula("c_o h_o w_o")),
)


def primitive(name: str) -> Primitive:
    """The operation of this name. Raises KeyError when there is none."""
    return {each.name: each for each in PRIMITIVES}[name]
