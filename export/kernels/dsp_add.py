"""Additions on Armv7E-M: one line through both inputs, compared with LiteRT's arithmetic for every pair of inputs.

LiteRT scales both inputs to a common scale with 20 more bits, adds them, and scales the sum, with up to four roundings.
``(a * factor_a + b * factor_b + offset) >> 20`` rounds elsewhere, yet gives the same 65,536 results once the offset is
chosen for it; that is computed, not assumed.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from export.graph import Graph, Operator, OpKind
from export.kernels.kernel import Fields, Kernel
from export.numerics import INT8_MAX, INT8_MIN, AddParameters, add_parameters, quantization_of

Int64Array = npt.NDArray[np.int64]

_FRACTION_BITS = 20
"""Of the kernel's sums."""
_FACTOR_BITS = 8
"""Fraction bits that a factor has more than the sums."""
_HEADROOM_BITS = 20
_INT8 = np.arange(INT8_MIN, INT8_MAX + 1, dtype=np.int64)


def _fits(graph: Graph, operator: Operator) -> bool:
    return operator.kind is OpKind.ADD


def _accepts(graph: Graph, operator: Operator) -> bool:
    tensors = (*graph.input_tensors(operator), graph.output_tensor(operator))
    if any(tensor.quantization is None for tensor in tensors):
        return True  # a candidate's; an addition has no constants that would tell
    return _line(graph, operator) is not None


def _fields(graph: Graph, operator: Operator) -> Fields:
    line = _line(graph, operator)
    assert line is not None, "the kernel was chosen for a layer that it does not accept"
    factor_a, factor_b, offset = line
    parameters = add_parameters(graph, operator)
    return {
        "elements": graph.output_tensor(operator).elements,
        "factors": (factor_a, factor_b),
        "offset": offset,
        "minimum": parameters.minimum,
        "maximum": parameters.maximum,
    }


ADD_DSP = Kernel(
    name="tn_add_dsp_s8",
    struct="tn_add_dsp_layer",
    fits=_fits,
    scratch_bytes=lambda graph, operator: 0,
    fields=_fields,
    array_bytes=lambda graph, operator: (),
    accepts=_accepts,
    header="tn_add_dsp.h",
)


def _line(graph: Graph, operator: Operator) -> tuple[int, int, int] | None:
    """Factors and offset that give LiteRT's output for all pairs of inputs; None if none were found."""
    scale_a, scale_b = (quantization_of(tensor).scale for tensor in graph.input_tensors(operator))
    output_scale = quantization_of(graph.output_tensor(operator)).scale
    one = 1 << (_FRACTION_BITS + _FACTOR_BITS)
    factors = round(scale_a / output_scale * one), round(scale_b / output_scale * one)
    parameters = add_parameters(graph, operator)
    exact = litert_outputs(parameters)
    is_open_below, is_open_above = exact > parameters.minimum, exact < parameters.maximum
    least_sums = exact << _FRACTION_BITS
    for factor_a, factor_b in _neighbours(*factors):
        products = ((_INT8 * factor_a) >> _FACTOR_BITS)[:, np.newaxis] + ((_INT8 * factor_b) >> _FACTOR_BITS)
        # What each pair demands of the offset. Sums beyond a clamp may lie as far beyond as they like.
        least_offsets = least_sums - products
        least = int(least_offsets.max(initial=-(1 << 31), where=is_open_below))
        most = int(least_offsets.min(initial=1 << 31, where=is_open_above)) + (1 << _FRACTION_BITS) - 1
        offset = (least + most) >> 1
        extremes = int(products.min()) + offset, int(products.max()) + offset, offset, factor_a, factor_b
        if least <= most and max(map(abs, extremes)) < 1 << 31:
            return factor_a, factor_b, offset
    return None


def _neighbours(factor_a: int, factor_b: int) -> Iterator[tuple[int, int]]:
    """The factors, then slightly larger ones, which carry ties away from zero, then others close by."""
    yield factor_a, factor_b
    for exponent in range(24, 18, -1):
        yield factor_a + (factor_a >> exponent), factor_b + (factor_b >> exponent)
    for step in (2, 8, 32, 128):
        for signed in (step, -step):
            yield factor_a + signed, factor_b
            yield factor_a, factor_b + signed


def litert_outputs(parameters: AddParameters) -> Int64Array:
    """LiteRT's output for every pair of inputs: [256 values of the first, 256 of the second], from -128 up."""
    first, second = (
        _scaled((_INT8 - zero_point) << _HEADROOM_BITS, multiplier, shift)
        for zero_point, multiplier, shift in zip(
            parameters.zero_points, parameters.multipliers, parameters.shifts, strict=True
        )
    )
    sums = first[:, np.newaxis] + second
    outputs = _scaled(sums, parameters.output_multiplier, parameters.output_shift) + parameters.output_zero_point
    return np.clip(outputs, parameters.minimum, parameters.maximum)


def _scaled(values: Int64Array, multiplier: int, shift: int) -> Int64Array:
    """Multiply by multiplier / 2^31 * 2^shift, shift not positive, with the two roundings of ``tn_round_shift``."""
    high = (values * multiplier + (1 << 30)) >> 31
    if shift == 0:
        return high
    rounded: Int64Array = (((high + (high >> 63)) >> (-shift - 1)) + 1) >> 1
    return rounded
