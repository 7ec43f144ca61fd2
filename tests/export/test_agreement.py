"""The stages on the same inputs, and the numbers that say how far they agree."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from conftest import NETWORKS, Chain
from hypothesis import given
from hypothesis import strategies as st

from export.agreement import compare, dequantize_output, quantize_input, run_float, run_int8, run_torch
from export.errors import ExportError
from export.onnx_to_tensorflow import concrete_function
from export.quiet import quiet


@pytest.mark.parametrize("name", NETWORKS)
def test_stages_agree(name: str, chain: Callable[[str], Chain]) -> None:
    agreement = chain(name).agreement()
    by_stage = {stage.stage: stage for stage in agreement.stages}
    assert list(by_stage) == ["torch", "onnx", "tflite", "int8"]
    assert by_stage["torch"].max_abs_diff == 0
    for stage in ("onnx", "tflite"):
        assert by_stage[stage].max_abs_diff < 1e-5
        assert by_stage[stage].top1_agreement == 1
    # A wrong layout or a shifted window would put int8 as far from torch as torch's outputs are from each other.
    spread = float(run_torch(chain(name).module, chain(name).inputs).std())
    assert by_stage["int8"].mean_abs_diff < 0.05 * spread
    assert by_stage["int8"].top1_agreement > 0.9


def test_comparison_counts_what_it_says() -> None:
    reference = np.asarray([[1, 0], [0, 1], [3, 0], [0, 1]], np.float32)
    other = np.asarray([[1, 0], [2, 1], [3, 0], [0, 1.5]], np.float32)
    agreement = compare({"torch": reference, "c": other}, np.asarray([0, 0, 1, 1]))
    first, second = agreement.stages
    assert (first.accuracy, first.top1_agreement, first.max_abs_diff, first.mean_abs_diff) == (0.5, 1, 0, 0)
    assert (second.accuracy, second.top1_agreement, second.max_abs_diff) == (0.75, 0.75, 2)
    assert second.mean_abs_diff == pytest.approx(2.5 / 8)
    assert agreement.accuracy == {"torch": 0.5, "c": 0.75}
    assert json.loads(json.dumps(agreement.to_json())) == agreement.to_json()
    assert agreement.to_json()["inputs"] == 4


def test_stages_of_different_networks_are_refused() -> None:
    labels = np.zeros(2, np.int64)
    with pytest.raises(ExportError, match=r"stage 'int8' gave outputs of \[2, 4\]"):
        compare({"torch": np.zeros((2, 3), np.float32), "int8": np.zeros((2, 4), np.float32)}, labels)
    with pytest.raises(ExportError, match="for 2 labels"):
        compare({"torch": np.zeros((3, 3), np.float32)}, labels)
    with pytest.raises(ExportError, match="at least one"):
        compare({"torch": np.zeros((0, 3), np.float32)}, labels[:0])


def test_wrong_or_damaged_files_are_refused(chain: Callable[[str], Chain], tmp_path: Path) -> None:
    files = chain("grouped")
    with pytest.raises(ExportError, match="takes float32 inputs"):
        run_int8(files.float_tflite, files.inputs)
    with pytest.raises(ExportError, match=r"expected float32 of \[8, 8, 3\]"):
        run_float(files.float_tflite, files.inputs[:, :8, :8])
    (tmp_path / "damaged.tflite").write_bytes(files.int8_tflite.read_bytes()[:200])
    with pytest.raises(ExportError, match=r"loading .* failed"):
        run_int8(tmp_path / "damaged.tflite", files.inputs)


@given(
    # Powers of two, so that a half step is a half step in float32 too.
    scale=st.integers(-20, 10).map(lambda exponent: 2.0**exponent),
    zero_point=st.integers(-128, 127),
    steps=st.lists(st.integers(-300, 300).map(lambda half: half / 2), min_size=1),
)
def test_quantization_rounds_halves_away_from_zero_and_clamps(
    scale: float, zero_point: int, steps: list[float]
) -> None:
    inputs = np.asarray(steps, np.float32) * np.float32(scale)
    exact = [min(127, max(-128, int(abs(step) + 0.5) * (1 if step > 0 else -1) + zero_point)) for step in steps]
    assert quantize_input(inputs, scale, zero_point).tolist() == exact


def test_quantization_is_that_of_the_reference_kernel(chain: Callable[[str], Chain]) -> None:
    """A model that takes floats begins with QUANTIZE and ends with DEQUANTIZE: LiteRT's own on the same numbers."""
    files = chain("grouped")
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete_function(files.onnx)])
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([sample[np.newaxis]] for sample in files.inputs)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    with quiet("converting"):
        content = converter.convert()
    interpreter = Interpreter(
        model_content=content,
        experimental_op_resolver_type=OpResolverType.BUILTIN_REF,
        experimental_preserve_all_tensors=True,
    )
    interpreter.allocate_tensors()
    tensors = {int(detail["index"]): detail for detail in interpreter.get_tensor_details()}
    operators = interpreter._get_ops_details()
    quantize, dequantize = operators[0], operators[-1]
    assert (quantize["op_name"], dequantize["op_name"]) == ("QUANTIZE", "DEQUANTIZE")
    quantized, values = int(quantize["outputs"][0]), int(dequantize["inputs"][0])
    scale, zero_point = tensors[quantized]["quantization"]
    # Around every half step, where a rounding rule shows.
    halves = (np.arange(-280, 280) / 2 * np.float32(scale)).astype(np.float32)
    near = np.concatenate([halves, np.nextafter(halves, np.float32(9)), np.nextafter(halves, np.float32(-9))])
    inputs = np.resize(near, (3, 16, 16, 3))
    for sample in inputs:
        interpreter.set_tensor(int(quantize["inputs"][0]), sample[np.newaxis])
        interpreter.invoke()
        np.testing.assert_array_equal(interpreter.get_tensor(quantized)[0], quantize_input(sample, scale, zero_point))
        raw = interpreter.get_tensor(values)
        expected = interpreter.get_tensor(int(dequantize["outputs"][0]))
        np.testing.assert_array_equal(dequantize_output(raw, *tensors[values]["quantization"]), expected)


def test_quantization_refuses_what_has_no_int8_form() -> None:
    for value in (np.nan, np.inf, -np.inf):
        with pytest.raises(ExportError, match="infinities or NaN"):
            quantize_input(np.asarray([0.0, value], np.float32), 0.1, 0)
    assert quantize_input(np.asarray([3e38, -3e38], np.float32), 1e-3, 5).tolist() == [127, -128]
