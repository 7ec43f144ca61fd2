"""What the compiler knows of one C kernel: which layers it runs, what memory it takes, what constants it is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from export.graph import Graph, Operator

Fields: TypeAlias = Mapping[str, object]
"""A struct's fields: numpy arrays, which become constant arrays, and C initializers (integers, or nested structs)."""


def _always(graph: Graph, operator: Operator) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Kernel:
    """A C function of ``firmware/kernels`` and the twin functions that size and fill its layer struct."""

    name: str
    struct: str
    """The C type of its layer struct."""
    fits: Callable[[Graph, Operator], bool]
    """Whether it can run a layer of these shapes."""
    scratch_bytes: Callable[[Graph, Operator], int]
    """Scratch memory, from the shapes alone."""
    fields: Callable[[Graph, Operator], Fields]
    """The layer struct, less what the memory plan adds (rings, planes). The constants must have data."""
    array_bytes: Callable[[Graph, Operator], tuple[int, ...]]
    """Bytes of each constant array in ``fields``, in order; needs no data."""
    accepts: Callable[[Graph, Operator], bool] = _always
    """Whether the layer's values allow it too; asked only when the constants have data."""
