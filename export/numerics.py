"""The arithmetic that LiteRT's reference kernels prepare before they run, figure by figure.

Everything here is derived from a graph's scales and zero points, so that the C kernels of ``firmware/kernels`` give the
same integers as LiteRT (``OpResolverType.BUILTIN_REF``); each function names the LiteRT routine that it agrees with. A
real multiplier becomes ``multiplier / 2**31 * 2**shift``; a positive shift is to the left, as in LiteRT.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from export.errors import ExportError
from export.graph import Activation, Graph, Operator, OpKind, Quantization, Tensor

Int8Array = npt.NDArray[np.int8]
Int32Array = npt.NDArray[np.int32]

INT8_MIN, INT8_MAX = -128, 127

_ADD_HEADROOM_BITS = 20
_SOFTMAX_INTEGER_BITS = 5
_LIMITS: dict[Activation, tuple[float | None, float | None]] = {
    Activation.NONE: (None, None),
    Activation.RELU: (0.0, None),
    Activation.RELU_N1_TO_1: (-1.0, 1.0),
    Activation.RELU6: (0.0, 6.0),
}


@dataclass(frozen=True, slots=True, eq=False)
class Requantization:
    """Requantization with two roundings, one multiplier and shift per output channel (``tn_requantization``)."""

    multipliers: Int32Array
    shifts: Int8Array
    output_zero_point: int
    minimum: int
    maximum: int


@dataclass(frozen=True, slots=True, eq=False)
class WideRequantization:
    """Requantization with one rounding of 62-bit multipliers: one, or one per channel (``tn_wide_requantization``)."""

    high: npt.NDArray[np.uint32]
    low: npt.NDArray[np.uint32]
    shifts: npt.NDArray[np.uint8]
    per_channel: bool
    output_zero_point: int
    minimum: int
    maximum: int


@dataclass(frozen=True, slots=True)
class AddParameters:
    """``tn_add_layer`` without its element count."""

    zero_points: tuple[int, int]
    multipliers: tuple[int, int]
    shifts: tuple[int, int]
    output_multiplier: int
    output_shift: int
    output_zero_point: int
    minimum: int
    maximum: int


@dataclass(frozen=True, slots=True)
class MeanParameters:
    """``tn_mean_layer``: the input seen as [outer, reduced, inner]."""

    outer: int
    reduced: int
    inner: int
    input_zero_point: int
    output_zero_point: int
    multiplier: int
    shift: int


@dataclass(frozen=True, slots=True)
class RequantizeParameters:
    """``tn_requantize_layer`` without its element count."""

    input_zero_point: int
    output_zero_point: int
    multiplier: int
    shift: int
    minimum: int
    maximum: int


def quantize_multiplier(real: float) -> tuple[int, int]:
    """Split a non-negative real multiplier into (multiplier, shift). LiteRT's QuantizeMultiplier."""
    if real == 0.0:
        return 0, 0
    fraction, shift = math.frexp(real)
    multiplier = round_half_away(fraction * (1 << 31))
    if multiplier == 1 << 31:
        multiplier //= 2
        shift += 1
    if shift < -31:
        return 0, 0
    return multiplier, shift


def round_half_away(value: float) -> int:
    """C's round(): to nearest, halves away from zero. Exact while ``value + 0.5`` is, as it is everywhere here."""
    return int(math.copysign(math.floor(abs(value) + 0.5), value))


def activation_range(activation: Activation, output: Quantization) -> tuple[int, int]:
    """The int8 clamps (minimum, maximum) of a fused activation. LiteRT's CalculateActivationRangeQuantized."""
    low, high = _LIMITS[activation]
    minimum = INT8_MIN if low is None else max(INT8_MIN, _quantize_float(low, output))
    maximum = INT8_MAX if high is None else min(INT8_MAX, _quantize_float(high, output))
    return minimum, maximum


def _quantize_float(value: float, quantization: Quantization) -> int:
    """The unclamped integer for ``value``, divided in single precision as LiteRT does."""
    return quantization.zero_point + round_half_away(float(np.float32(value) / np.float32(quantization.scale)))


def conv_requantization(graph: Graph, operator: Operator) -> Requantization:
    """Parameters of CONV_2D and DEPTHWISE_CONV_2D. LiteRT's PopulateConvolutionQuantizationParams."""
    output = graph.output_tensor(operator)
    pairs = [quantize_multiplier(real) for real in effective_scales(graph, operator)]
    if len(pairs) == 1:
        pairs *= output.shape[-1]
    quantization = quantization_of(output)
    minimum, maximum = activation_range(operator.activation, quantization)
    return Requantization(
        multipliers=np.array([multiplier for multiplier, _ in pairs], np.int32),
        shifts=np.array([shift for _, shift in pairs], np.int8),
        output_zero_point=quantization.zero_point,
        minimum=minimum,
        maximum=maximum,
    )


def fully_connected_requantization(graph: Graph, operator: Operator) -> WideRequantization:
    """Parameters of FULLY_CONNECTED, whose reference kernel computes ``round(acc * scale)`` in double precision.

    The multiplier holds all 53 bits of the scale's double, so that the kernel can round as the double product does.
    Raises ExportError for a scale of 2^30 or more.
    """
    output = graph.output_tensor(operator)
    quantization = quantization_of(output)
    scales = effective_scales(graph, operator)
    high, low, shifts = [], [], []
    for scale in scales:
        fraction, exponent = math.frexp(scale)
        if exponent > 30:
            raise ExportError(
                f"the layer '{operator.name}' multiplies its sums by {scale:g}, which no kernel can: check its scales"
            )
        wide = int(fraction * (1 << 53)) << 9 if exponent >= -32 else 0  # less than 2^-32 turns every sum into 0
        high.append(wide >> 31)
        low.append(wide & 0x7FFFFFFF)
        shifts.append(min(31 - exponent, 63))
    minimum, maximum = activation_range(operator.activation, quantization)
    return WideRequantization(
        high=np.array(high, np.uint32),
        low=np.array(low, np.uint32),
        shifts=np.array(shifts, np.uint8),
        per_channel=len(scales) > 1,
        output_zero_point=quantization.zero_point,
        minimum=minimum,
        maximum=maximum,
    )


def effective_scales(graph: Graph, operator: Operator) -> list[float]:
    """Input scale × weight scale / output scale, in double precision and this order; one, or one per channel."""
    source, weights = graph.input_tensors(operator)[:2]
    output_scale = quantization_of(graph.output_tensor(operator)).scale
    return [quantization_of(source).scale * scale / output_scale for scale in quantization_of(weights).scales]


def fold_input_offset(bias: Int32Array | None, weights: Int8Array, input_zero_point: int) -> Int32Array:
    """The bias for kernels that multiply raw inputs: ``bias - input_zero_point * sum(weights)``.

    ``weights`` are those of `kernel_weights`. Raises ExportError if an accumulator could leave 32 bits, where LiteRT's
    result is undefined too.
    """
    rows = weights.astype(np.int64)
    start = np.zeros(len(rows), np.int64) if bias is None else bias.astype(np.int64)
    folded = start - input_zero_point * rows.sum(axis=1)
    bounds: npt.NDArray[np.int64] = np.abs(folded) + 128 * np.abs(rows).sum(axis=1)
    if np.any(bounds >= 2**31):
        channel = int(np.argmax(bounds))
        raise ExportError(
            f"the sum of output channel {channel} can reach {int(bounds[channel])}, more than 32 bits hold: "
            "quantize the model again, its bias is out of proportion to its weights"
        )
    return np.asarray(folded, np.int32)


def accumulator_range(
    weights: Int8Array, folded_bias: Int32Array
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The least and the greatest accumulator of each channel, over all int8 inputs.

    ``weights`` are those of `kernel_weights`, ``folded_bias`` is that of `fold_input_offset`.
    """
    rows, start = weights.astype(np.int64), folded_bias.astype(np.int64)
    least = start + np.minimum(rows * INT8_MIN, rows * INT8_MAX).sum(axis=1)
    most = start + np.maximum(rows * INT8_MIN, rows * INT8_MAX).sum(axis=1)
    return least, most


def kernel_weights(operator: Operator, weights: Int8Array) -> Int8Array:
    """Weights in the order of the kernels: one row per output channel. ``weights`` is OHWI, 1HWO (depthwise) or OI."""
    if operator.kind is OpKind.DEPTHWISE_CONV_2D:
        weights = np.moveaxis(weights[0], -1, 0)
    return np.ascontiguousarray(weights.reshape(weights.shape[0], -1))


def add_parameters(graph: Graph, operator: Operator) -> AddParameters:
    """Parameters of ADD. LiteRT's add::Prepare for int8. Raises ExportError for scales that LiteRT refuses as well."""
    first, second = (quantization_of(tensor) for tensor in graph.input_tensors(operator))
    output = quantization_of(graph.output_tensor(operator))
    twice_largest = 2.0 * max(first.scale, second.scale)
    real_output = twice_largest / (float(1 << _ADD_HEADROOM_BITS) * output.scale)
    if real_output >= 1.0:
        raise ExportError(f"the scales of the ADD '{operator.name}' differ by more than 2^19: quantize the model again")
    pairs = [quantize_multiplier(quantization.scale / twice_largest) for quantization in (first, second)]
    output_multiplier, output_shift = quantize_multiplier(real_output)
    minimum, maximum = activation_range(operator.activation, output)
    return AddParameters(
        zero_points=(first.zero_point, second.zero_point),
        multipliers=(pairs[0][0], pairs[1][0]),
        shifts=(pairs[0][1], pairs[1][1]),
        output_multiplier=output_multiplier,
        output_shift=output_shift,
        output_zero_point=output.zero_point,
        minimum=minimum,
        maximum=maximum,
    )


def mean_parameters(graph: Graph, operator: Operator) -> MeanParameters:
    """Parameters of MEAN over adjacent axes, with 1/count in the multiplier. LiteRT's QuantizedMeanOrSum."""
    (source,), target = graph.input_tensors(operator), graph.output_tensor(operator)
    first, last = min(operator.axes), max(operator.axes)
    if sorted(operator.axes) != list(range(first, last + 1)):
        raise ExportError(f"the MEAN '{operator.name}' reduces the axes {list(operator.axes)}, which are not adjacent")
    reduced = math.prod(source.shape[first : last + 1])
    multiplier, shift = quantize_multiplier(quantization_of(source).scale / quantization_of(target).scale)
    count_bits = min(reduced.bit_length() - 1, 32, 31 + shift)
    return MeanParameters(
        outer=math.prod(source.shape[:first]),
        reduced=reduced,
        inner=math.prod(source.shape[last + 1 :]),
        input_zero_point=quantization_of(source).zero_point,
        output_zero_point=quantization_of(target).zero_point,
        multiplier=(multiplier << count_bits) // reduced,
        shift=shift - count_bits,
    )


def requantize_parameters(graph: Graph, operator: Operator) -> RequantizeParameters:
    """Parameters of QUANTIZE from int8, RELU and RELU6. LiteRT divides the scales of the latter in single precision."""
    source, target = quantization_of(graph.input_tensors(operator)[0]), quantization_of(graph.output_tensor(operator))
    real = source.scale / target.scale
    minimum, maximum = INT8_MIN, INT8_MAX
    if operator.kind is not OpKind.QUANTIZE:
        real = float(np.float32(source.scale) / np.float32(target.scale))
        minimum, maximum = activation_range(Activation(operator.kind.value), target)
    multiplier, shift = quantize_multiplier(real)
    return RequantizeParameters(source.zero_point, target.zero_point, multiplier, shift, minimum, maximum)


def softmax_exps(input_scale: float, beta: float) -> Int32Array:
    """exp(-difference × scale × beta) with 31 fraction bits, by difference from the row's largest element.

    At most 256 elements; larger differences give a probability of zero. LiteRT's reference softmax evaluates gemmlowp's
    fixed point ``exp_on_negative_values`` for each element; its argument has 256 values at most, so it is a table here.
    Exponentials below 2^-20 are left out: they round to zero in the sum, which keeps 19 bits, and in every output.
    """
    fraction_bits = 31 - _SOFTMAX_INTEGER_BITS
    real = min(float(np.float32(beta)) * input_scale * (1 << fraction_bits), 2.0**31 - 1.0)
    multiplier, shift = quantize_multiplier(real)
    if real <= 1.0:
        raise ExportError(
            f"a SOFTMAX has an input scale of {input_scale:g}, too small for its kernel: quantize it again"
        )
    largest = math.floor(((1 << _SOFTMAX_INTEGER_BITS) - 1) * (1 << fraction_bits) / (1 << shift))
    differences = range(min(largest, INT8_MAX - INT8_MIN) + 1)
    exps = (_exp(_high_multiply(-(d << shift), multiplier)) for d in differences)
    return np.array([exp for exp in exps if exp >= 1 << 11], np.int32)


_EXP_FACTORS = (1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242)
"""exp(-1/4), exp(-1/2), exp(-1), ... exp(-16) with 31 fraction bits."""


def _exp(value: int) -> int:
    """Evaluate gemmlowp's exp_on_negative_values: ``value`` has 26 fraction bits, the result 31.

    The argument is split into multiples of 1/4, which are looked up bit by bit, and a rest, which a Taylor expansion
    around -1/8 evaluates.
    """
    if value == 0:
        return 2**31 - 1
    quarter = 1 << 24
    rest = (value & (quarter - 1)) - quarter
    x = (rest << _SOFTMAX_INTEGER_BITS) + (1 << 28)
    x2 = _high_multiply(x, x)
    x3, x4 = _high_multiply(x2, x), _high_multiply(x2, x2)
    tail = _round_shift(_high_multiply(_round_shift(x4, 2) + x3, 715827883) + x2, 1)
    exp_of_eighth = 1895147668
    result = exp_of_eighth + _high_multiply(exp_of_eighth, x + tail)
    for bit, factor in enumerate(_EXP_FACTORS):
        if (rest - value) & (quarter << bit):
            result = _high_multiply(result, factor)
    return result


def _high_multiply(a: int, b: int) -> int:
    """Round a × b / 2^31 to nearest, as ``tn_high_multiply`` does."""
    return (a * b + (1 << 30)) >> 31


def _round_shift(value: int, exponent: int) -> int:
    """Round value / 2^exponent, halves away from zero, as ``tn_round_shift`` does."""
    return (value + (1 << (exponent - 1)) - (value < 0)) >> exponent


def is_pointwise(graph: Graph, operator: Operator) -> bool:
    """Whether a CONV_2D is for ``tn_conv_1x1_s8``: a 1×1 kernel, stride 1, one group."""
    window = operator.window
    assert window is not None
    source, target = graph.input_tensors(operator)[0], graph.output_tensor(operator)
    plain = window.kernel == (1, 1) and window.stride == (1, 1) and window.padding == (0, 0) and operator.groups == 1
    return plain and source.shape[1:3] == target.shape[1:3]


def quantization_of(tensor: Tensor) -> Quantization:
    """The quantization of an int8 tensor. Raises ExportError when it has none."""
    if tensor.quantization is None:
        raise ExportError(f"the tensor '{tensor.name}' has no quantization: convert the model to int8 first")
    return tensor.quantization
