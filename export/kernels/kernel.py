"""What the compiler knows of one C kernel: which layers it runs, what memory it takes, what constants it is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from export.graph import Graph, Operator

Fields: TypeAlias = Mapping[str, object]
"""A struct's fields: numpy arrays, which become constant arrays, and C initializers: integers, floats, tuples, and
nested structs as mappings. An array of no elements becomes a null pointer."""


def _always(graph: Graph, operator: Operator) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Kernel:
    """A C function of ``firmware/kernels`` and the twin functions that size and fill its layer struct.

    A kernel whose layer is windowed, or a reduction, is called with whole buffers and the rows to compute, and its
    struct has ``input_ring`` and ``output_ring``; every other one is called with pointers to what it reads and writes.
    """

    name: str
    struct: str
    """The C type of its layer struct."""
    fits: Callable[[Graph, Operator], bool]
    """Whether it can run a layer of these shapes."""
    scratch_bytes: Callable[[Graph, Operator], int]
    """Scratch memory, from the shapes alone. A kernel that takes none has no parameter for it."""
    fields: Callable[[Graph, Operator], Fields]
    """The layer struct, less what the memory plan adds (rings, planes). The constants must have data. For a streamed
    layer of a kernel that is called with pointers, the graph's activations are one row high."""
    array_bytes: Callable[[Graph, Operator], tuple[int, ...]]
    """Bytes of each constant array in ``fields``, in order; needs no data."""
    accepts: Callable[[Graph, Operator], bool] = _always
    """Whether the layer's values allow it too; asked only when the constants have data."""
    expects: Callable[[Graph, Operator], bool] = _always
    """Whether it is likely to accept the values that the layer will have; asked only when its constants have none."""
    row_pointers: bool = False
    """It is called with pointers to rows although its layer is windowed: a pointwise convolution."""
    planes: bool = False
    """Its struct says whether a convolution's output, or a depthwise layer's input, is stored as planes."""
    header: str = "tn_kernels.h"
    """Declares the function and its struct."""

    @property
    def takes_any_values(self) -> bool:
        """Whether the shapes alone decide."""
        return self.accepts is _always
