"""Additions for Armv7E-M: the kernel's line through both inputs, for every pair of inputs, against LiteRT."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from export.graph import Activation, DType, Graph, Operator, OpKind, Quantization, Tensor
from export.kernels.dsp_add import ADD_DSP
from export.numerics import add_parameters
from tests.oracles.litert import run_reference
from tests.oracles.tflite_writer import write_tflite

ALL_PAIRS = (1, 256, 256, 1)


def add_graph(
    scales: tuple[float, float, float], zero_points: tuple[int, int, int], activation: Activation = Activation.NONE
) -> Graph:
    tensors = tuple(
        Tensor(name, ALL_PAIRS, DType.INT8, Quantization((float(np.float32(scale)),), (zero_point,)))
        for name, scale, zero_point in zip("abc", scales, zero_points, strict=True)
    )
    return Graph("add", tensors, (Operator(OpKind.ADD, "add", (0, 1), (2,), activation),), (0, 1), (2,))


def kernel_outputs(fields: Any, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """What ``tn_add_dsp.h`` says."""
    factor_a, factor_b = fields["factors"]
    sums = (a.astype(np.int64) * factor_a >> 8) + (b.astype(np.int64) * factor_b >> 8) + fields["offset"]
    assert np.all(np.abs(sums) < 2**31)
    return np.asarray(np.clip(sums >> 20, fields["minimum"], fields["maximum"]))


def assert_exact(graph: Graph) -> None:
    (operator,) = graph.operators
    assert ADD_DSP.fits(graph, operator)
    assert ADD_DSP.accepts(graph, operator)
    values = np.arange(-128, 128, dtype=np.int8)
    a, b = (pairs.reshape(ALL_PAIRS) for pairs in np.meshgrid(values, values, indexing="ij"))
    (expected,) = run_reference(write_tflite(graph), [a, b])
    assert np.array_equal(kernel_outputs(ADD_DSP.fields(graph, operator), a, b), expected)


@pytest.mark.parametrize("seed", range(24))
def test_every_pair_of_inputs_gives_what_litert_gives(seed: int) -> None:
    rng = np.random.default_rng(seed)
    output = np.exp(rng.uniform(-5, -1))
    first, second = output * np.exp(rng.uniform(-1.5, 1, 2))
    a, b, c = (int(value) for value in rng.choice([-128, 127, 0, int(rng.integers(-128, 128))], 3))
    activation = list(Activation)[seed % len(Activation)]
    assert_exact(add_graph((first, second, output), (a, b, c), activation))


@pytest.mark.parametrize("zero_points", [(0, 0, 0), (5, -7, 3), (-128, -128, -128), (127, 127, 127)])
@pytest.mark.parametrize("ratios", [(0.5, 0.5), (1.0, 1.0), (0.25, 0.5), (0.125, 0.5), (1 / 6, 1 / 6), (0.375, 0.625)])
def test_ties_are_carried_away_from_zero(ratios: tuple[float, float], zero_points: tuple[int, int, int]) -> None:
    assert_exact(add_graph((ratios[0] / 32, ratios[1] / 32, 1 / 32), zero_points))


@pytest.mark.parametrize("scales", [(20.0, 1.0, 1.0), (9.0, 9.0, 1.0)])
def test_sums_beyond_32_bits_are_refused(scales: tuple[float, float, float]) -> None:
    graph = add_graph(scales, (0, 0, 0))
    add_parameters(graph, graph.operators[0])  # the kernel in plain C takes them
    assert not ADD_DSP.accepts(graph, graph.operators[0])


def test_a_candidate_is_not_judged_by_its_values() -> None:
    tensors = tuple(Tensor(name, (1, 4, 4, 8)) for name in "abc")
    graph = Graph("add", tensors, (Operator(OpKind.ADD, "add", (0, 1), (2,)),), (0, 1), (2,))
    assert ADD_DSP.fits(graph, graph.operators[0])
    assert ADD_DSP.accepts(graph, graph.operators[0])
    assert ADD_DSP.array_bytes(graph, graph.operators[0]) == ()
