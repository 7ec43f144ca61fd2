"""What LiteRT prepares before it runs: known values, exactness, and the four reference models layer by layer."""

from __future__ import annotations

import ctypes
import math
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from export import numerics
from export.errors import ExportError
from export.graph import Activation, Graph, Operator, OpKind, Quantization, Tensor
from export.reader import parse_tflite
from tests.oracles.c_kernels import LayerRunner
from tests.oracles.litert import run_reference_tensors

KERNELS = sorted((Path(__file__).resolve().parents[2] / "firmware" / "kernels").glob("tn_*.c"))


@pytest.mark.parametrize(
    ("real", "expected"),
    [
        (0.0, (0, 0)),
        (1.0, (1 << 30, 1)),
        (0.5, (1 << 30, 0)),
        (0.75, (3 << 29, 0)),
        (5.0, (5 << 28, 3)),
        (1.0 - 2.0**-33, (1 << 30, 1)),  # the fraction rounds up to 1
        (2.0**-32, (1 << 30, -31)),
        (2.0**-33, (0, 0)),  # would need a shift of 32
    ],
)
def test_quantize_multiplier(real: float, expected: tuple[int, int]) -> None:
    assert numerics.quantize_multiplier(real) == expected


@given(st.floats(2.0**-30, 2.0**20))
def test_quantized_multiplier_is_close(real: float) -> None:
    multiplier, shift = numerics.quantize_multiplier(real)
    assert 1 << 30 <= multiplier < 1 << 31
    assert math.isclose(multiplier * 2.0 ** (shift - 31), real, rel_tol=2.0**-31)


@pytest.mark.parametrize(("value", "expected"), [(0.5, 1), (-0.5, -1), (2.5, 3), (-2.5, -3), (2.4999, 2), (0.0, 0)])
def test_halves_are_rounded_away_from_zero(value: float, expected: int) -> None:
    assert numerics.round_half_away(value) == expected


@pytest.mark.parametrize(
    ("activation", "zero_point", "expected"),
    [
        (Activation.NONE, 5, (-128, 127)),
        (Activation.RELU, -100, (-100, 127)),
        (Activation.RELU6, -128, (-128, -68)),
        (Activation.RELU6, 100, (100, 127)),
        (Activation.RELU_N1_TO_1, 0, (-10, 10)),
    ],
)
def test_activation_range(activation: Activation, zero_point: int, expected: tuple[int, int]) -> None:
    assert numerics.activation_range(activation, Quantization((0.1,), (zero_point,))) == expected


def test_folded_bias_moves_the_input_offset() -> None:
    weights = np.array([[1, -2, 3], [127, 127, 127]], np.int8)
    inputs = np.array([-128, 5, 127])
    folded = numerics.fold_input_offset(np.array([10, -20], np.int32), weights, -7)
    expected = np.array([10, -20]) + weights.astype(np.int64) @ (inputs + 7)
    assert np.array_equal(folded + weights.astype(np.int64) @ inputs, expected)


def test_bias_that_could_overflow_is_refused() -> None:
    with pytest.raises(ExportError, match="more than 32 bits hold"):
        numerics.fold_input_offset(np.array([2**31 - 1], np.int32), np.ones((1, 4), np.int8), 0)


def test_bias_of_a_dead_channel_may_be_the_largest() -> None:
    folded = numerics.fold_input_offset(np.array([2**31 - 1], np.int32), np.zeros((1, 4), np.int8), -128)
    assert folded.tolist() == [2**31 - 1]


def test_depthwise_weights_become_one_row_per_channel() -> None:
    weights = np.arange(2 * 3 * 4, dtype=np.int8).reshape(1, 2, 3, 4)
    operator = Operator(OpKind.DEPTHWISE_CONV_2D, "layer", (0, 1), (2,))
    assert numerics.kernel_weights(operator, weights)[1].tolist() == [1, 5, 9, 13, 17, 21]


@given(scales=st.tuples(*[st.floats(2.0**-13, 1.0, width=32)] * 3))
def test_wide_multiplier_is_the_double(scales: tuple[float, float, float]) -> None:
    tensors = tuple(
        Tensor(name, (1, 1), quantization=Quantization((scale,), (0,)), is_constant=name == "weights")
        for name, scale in zip(("input", "weights", "output"), scales, strict=True)
    )
    operator = Operator(OpKind.FULLY_CONNECTED, "layer", (0, 1), (2,))
    wide = numerics.fully_connected_requantization(Graph("single", tensors, (operator,), (0,), (2,)), operator)
    multiplier = (int(wide.high[0]) << 31) + int(wide.low[0])
    assert math.ldexp(multiplier, -31 - int(wide.shifts[0])) == scales[0] * scales[1] / scales[2]


@pytest.mark.parametrize(("scale", "beta"), [(0.1, 1.0), (0.001, 1.0), (1.5, 2.0)])
def test_softmax_table_is_the_exponential(scale: float, beta: float) -> None:
    exps = numerics.softmax_exps(float(np.float32(scale)), beta) / 2.0**31
    expected = np.exp(-np.arange(len(exps)) * scale * beta)
    assert np.max(np.abs(exps - expected)) < 1e-6
    assert len(exps) == 256 or expected[-1] < 2.0**-16


def test_every_layer_of_the_reference_models(reference_model: Path, tmp_path: Path) -> None:
    """Each layer on LiteRT's own intermediate tensors, so that one wrong layer cannot hide behind another."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler on this machine")
    library = tmp_path / "kernels.so"
    flags = ["-std=c99", "-O2", "-ffp-contract=off", "-shared", "-fPIC"]
    subprocess.run([compiler, *flags, *map(str, KERNELS), "-o", str(library)], check=True)
    content = reference_model.read_bytes()
    graph = parse_tflite(content, reference_model.stem)
    rng = np.random.default_rng(1)
    for _ in range(3):
        inputs = [rng.integers(-128, 128, graph.tensors[index].shape, dtype=np.int8) for index in graph.inputs]
        values = run_reference_tensors(content, inputs)
        for operator in graph.operators:
            if operator.kind is OpKind.RESHAPE:
                continue
            activations = graph.activations_in(operator)
            single = Graph(operator.name, graph.tensors, (operator,), activations, operator.outputs)
            actual = LayerRunner(ctypes.CDLL(str(library)), single).run([values[index] for index in activations])
            expected = values[operator.outputs[0]]
            different = int(np.sum(actual != expected))
            assert different == 0, f"{different} of {expected.size} outputs of {operator.name} differ"
