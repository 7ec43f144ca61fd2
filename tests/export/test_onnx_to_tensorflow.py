"""Single ONNX operators against ONNX's own reference implementation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from tflite_operators import operator_names

from export.errors import ModelFormatError, UnsupportedOperatorError
from export.onnx_to_tensorflow import concrete_function, supported_operators
from export.tflite_convert import convert_float

RANDOM = np.random.default_rng(7)
IMAGE = (1, 4, 5, 6)


def weights(*shape: int) -> npt.NDArray[np.float32]:
    return RANDOM.normal(size=shape).astype(np.float32)


def node(kind: str, inputs: Sequence[str], output: str = "out", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, [output], name=f"the_{kind.lower()}", **attributes)


def save(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    constants: dict[str, npt.NDArray[Any]] | None = None,
    shape: Sequence[int] = IMAGE,
    opset: int = 18,
) -> Path:
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_empty_tensor_value_info(nodes[-1].output[0])],
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    onnx.save(onnx.shape_inference.infer_shapes(model), path)
    return path


def run_both(path: Path) -> tuple[npt.NDArray[Any], npt.NDArray[Any], list[str]]:
    """ONNX's output, ours as float TensorFlow Lite in ONNX's order, and the operators that ours is made of.

    Ours does not run in TensorFlow itself: its CPU kernels know no groups and few dilations, and its remapper folds a
    pad of the channels into a convolution as if it were none.
    """
    evaluator = ReferenceEvaluator(str(path))
    shape = [int(size.dim_value) for size in evaluator.proto_.graph.input[0].type.tensor_type.shape.dim]
    inputs = RANDOM.normal(size=shape).astype(np.float32)
    (expected,) = evaluator.run(None, {"x": inputs})
    converted = path.with_suffix(".tflite")
    convert_float(path, converted)
    interpreter = Interpreter(str(converted), experimental_op_resolver_type=OpResolverType.BUILTIN_REF)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], inputs.transpose(0, 2, 3, 1).copy())
    interpreter.invoke()
    actual = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    return (
        np.asarray(expected),
        actual.transpose(0, 3, 1, 2) if actual.ndim == 4 else actual,
        operator_names(converted),
    )


def ints(*values: int) -> npt.NDArray[np.int64]:
    return np.asarray(values, np.int64)


CASES: dict[str, tuple[list[onnx.NodeProto], dict[str, npt.NDArray[Any]]]] = {
    "add_channel": ([node("Add", ["x", "c"])], {"c": weights(4, 1, 1)}),
    "add_width": ([node("Add", ["c", "x"])], {"c": weights(6)}),
    "add_scalar": ([node("Add", ["x", "c"])], {"c": np.float32(3.0).reshape(())}),
    "add_itself": ([node("Add", ["x", "x"])], {}),
    "add_rank_2": (
        [node("ReduceMean", ["x", "axes"], "m", keepdims=0), node("Add", ["x", "m"])],
        {"axes": ints(0, 1)},
    ),
    "mul": ([node("Mul", ["x", "c"])], {"c": weights(1, 4, 5, 6)}),
    "average_counted": (
        [node("AveragePool", ["x"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1)],
        {},
    ),
    "average_same": ([node("AveragePool", ["x"], kernel_shape=[3, 3], pads=[1, 1, 1, 1])], {}),
    "average_valid": ([node("AveragePool", ["x"], kernel_shape=[2, 3], strides=[2, 1])], {}),
    "batch_normalization": (
        [node("BatchNormalization", ["x", "s", "b", "m", "v"], epsilon=1e-3)],
        {"s": weights(4), "b": weights(4), "m": weights(4), "v": np.abs(weights(4))},
    ),
    "clip": (
        [node("Clip", ["x", "low", "high"])],
        {"low": np.float32(0).reshape(()), "high": np.float32(6).reshape(())},
    ),
    "clip_low": ([node("Clip", ["x", "low"])], {"low": np.float32(0).reshape(())}),
    "concat_channels": ([node("Relu", ["x"], "r"), node("Concat", ["x", "r"], axis=1)], {}),
    "concat_width": ([node("Relu", ["x"], "r"), node("Concat", ["x", "r"], axis=-1)], {}),
    "constant": (
        [node("Constant", [], "c", value=numpy_helper.from_array(weights(4, 1, 1))), node("Add", ["x", "c"])],
        {},
    ),
    "conv_bias": ([node("Conv", ["x", "w", "b"])], {"w": weights(3, 4, 3, 3), "b": weights(3)}),
    "conv_same_lower": ([node("Conv", ["x", "w"], auto_pad="SAME_LOWER", strides=[2, 2])], {"w": weights(3, 4, 2, 2)}),
    "conv_same_upper": ([node("Conv", ["x", "w"], auto_pad="SAME_UPPER", strides=[2, 2])], {"w": weights(3, 4, 2, 2)}),
    "depthwise_multiplier": ([node("Conv", ["x", "w"], group=4)], {"w": weights(12, 1, 3, 3)}),
    "flatten": ([node("Flatten", ["x"])], {}),
    "flatten_0": ([node("Flatten", ["x"], axis=0)], {}),
    "flatten_2": ([node("Flatten", ["x"], axis=2)], {}),
    "flatten_linear": ([node("Flatten", ["x"], "f"), node("MatMul", ["f", "w"])], {"w": weights(120, 3)}),
    "flatten_gemm": (
        [node("Flatten", ["x"], "f"), node("Gemm", ["f", "w", "b"], transB=1, alpha=0.5, beta=2.0)],
        {"w": weights(3, 120), "b": weights(3)},
    ),
    "flatten_relu_linear": (
        [node("Flatten", ["x"], "f"), node("Relu", ["f"], "r"), node("MatMul", ["r", "w"])],
        {"w": weights(120, 3)},
    ),
    "gemm_scalar_bias": (
        [node("Flatten", ["x"], "f"), node("Gemm", ["f", "w", "b"])],
        {"w": weights(120, 3), "b": weights(1)},
    ),
    "global_average": ([node("GlobalAveragePool", ["x"])], {}),
    "global_average_flat": ([node("GlobalAveragePool", ["x"], "g"), node("Flatten", ["g"])], {}),
    "hard_sigmoid": ([node("HardSigmoid", ["x"], alpha=1 / 6, beta=0.5)], {}),
    "identity": ([node("Identity", ["x"], "i"), node("Relu", ["i"])], {}),
    "max_same": ([node("MaxPool", ["x"], kernel_shape=[3, 3], pads=[1, 1, 1, 1])], {}),
    "max_after_relu": (
        [node("Relu", ["x"], "r"), node("MaxPool", ["r"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2])],
        {},
    ),
    "max_ceil_whole": ([node("MaxPool", ["x"], kernel_shape=[3, 2], strides=[2, 2], ceil_mode=1)], {}),
    "pad": ([node("Pad", ["x", "p"])], {"p": ints(0, 0, 1, 2, 0, 0, 3, 4)}),
    "pad_channels": (
        [node("Pad", ["x", "p"], "y"), node("Conv", ["y", "w"])],
        {"p": ints(0, 1, 1, 2, 0, 1, 0, 0), "w": weights(3, 6, 3, 3)},
    ),
    "pad_axes": ([node("Pad", ["x", "p", "", "a"])], {"p": ints(1, 2, 3, 4), "a": ints(-1, 2)}),
    "pad_used_twice": (
        [node("Pad", ["x", "p"], "y"), node("Conv", ["y", "w"], "c"), node("Add", ["y", "c"])],
        {"p": ints(0, 0, 0, 1, 0, 0, 1, 1), "w": weights(4, 4, 1, 1)},
    ),
    "reduce_all": ([node("ReduceMean", ["x"], keepdims=1)], {}),
    "reduce_channel": ([node("ReduceMean", ["x", "a"], keepdims=0)], {"a": ints(1)}),
    "reduce_height": ([node("ReduceMean", ["x", "a"], keepdims=0)], {"a": ints(-2)}),
    "reduce_spatial": ([node("ReduceMean", ["x", "a"], keepdims=0)], {"a": ints(3, 2)}),
    "reduce_kept": ([node("ReduceMean", ["x", "a"])], {"a": ints(2, 3)}),
    "reshape_3": ([node("Reshape", ["x", "s"])], {"s": ints(0, -1, 10)}),
    "reshape_4": ([node("Reshape", ["x", "s"])], {"s": ints(1, 2, 10, -1)}),
    "reshape_back": (
        [node("Reshape", ["x", "s"], "y"), node("Relu", ["y"], "r"), node("Reshape", ["r", "t"])],
        {"s": ints(1, 120), "t": ints(1, 6, 5, 4)},
    ),
    "softmax_channels": ([node("Softmax", ["x"], axis=1)], {}),
    "softmax_last": ([node("Softmax", ["x"])], {}),
    "squeeze": ([node("Squeeze", ["x", "a"])], {"a": ints(0)}),
    "squeeze_all": ([node("Squeeze", ["x"])], {}),
    "transpose": ([node("Transpose", ["x"], perm=[0, 3, 1, 2])], {}),
    "transpose_reversed": ([node("Transpose", ["x"])], {}),
    "transpose_rank_3": ([node("Squeeze", ["x", "a"], "y"), node("Transpose", ["y"], perm=[2, 0, 1])], {"a": ints(0)}),
    "unsqueeze": (
        [node("Flatten", ["x"], "f"), node("Unsqueeze", ["f", "a"])],
        {"a": ints(-1, 1)},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_operator_computes_what_onnx_defines(case: str, tmp_path: Path) -> None:
    nodes, constants = CASES[case]
    expected, actual, _ = run_both(save(tmp_path / "model.onnx", nodes, constants))
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def test_every_rule_is_tested_and_documented() -> None:
    tested = {proto.op_type for nodes, _ in CASES.values() for proto in nodes}
    assert tested == set(supported_operators())
    assert all(supported_operators().values())


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_padding_stride_and_dilation_is_exact_and_explicit_only_where_needed(
    data: st.DataObject, tmp_path: Path
) -> None:
    size = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 9)), "size")
    kernel = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 5)), "kernel")
    stride = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 3)), "stride")
    dilation = data.draw(st.tuples(st.integers(1, 2), st.integers(1, 2)), "dilation")
    outside = data.draw(st.tuples(*[st.integers(0, 3)] * 4), "pads of the convolution")
    before = data.draw(st.tuples(*[st.integers(0, 2)] * 4), "pads before the convolution")
    groups = data.draw(st.sampled_from([1, 2, 4]), "groups")
    # TensorFlow's definition of SAME, from its documentation: as many outputs as strides begun, the smaller half first.
    spans = [(side - 1) * step + 1 for side, step in zip(kernel, dilation, strict=True)]
    missing = [
        max(0, (math.ceil(axis / step) - 1) * step + span - axis)
        for axis, step, span in zip(size, stride, spans, strict=True)
    ]
    same = (missing[0] // 2, missing[1] // 2, math.ceil(missing[0] / 2), math.ceil(missing[1] / 2))
    if data.draw(st.booleans(), "same"):
        before, outside = (0, 0, 0, 0), same
    total = tuple(first + second for first, second in zip(outside, before, strict=True))
    assume(all(axis + total[i] + total[i + 2] >= spans[i] for i, axis in enumerate(size)))
    top, left, bottom, right = before
    path = save(
        tmp_path / "model.onnx",
        [
            node("Pad", ["x", "p"], "y"),
            node("Conv", ["y", "w"], group=groups, pads=outside, strides=stride, dilations=dilation),
        ],
        {"p": ints(0, 0, top, left, 0, 0, bottom, right), "w": weights(8, 4 // groups, *kernel)},
        (1, 4, *size),
    )
    expected, actual, operators = run_both(path)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)
    assert ("PAD" in operators) == (any(total) and total != same)


@pytest.mark.parametrize("case", ["flatten_linear", "flatten_gemm", "global_average_flat", "reduce_spatial"])
def test_heads_need_no_transpose(case: str, tmp_path: Path) -> None:
    nodes, constants = CASES[case]
    _, _, operators = run_both(save(tmp_path / "model.onnx", nodes, constants))
    assert "TRANSPOSE" not in operators


def test_global_mean_drops_its_dimensions_by_itself(tmp_path: Path) -> None:
    nodes, constants = CASES["global_average_flat"]
    _, _, operators = run_both(save(tmp_path / "model.onnx", nodes, constants))
    assert "RESHAPE" not in operators


def test_unknown_operator_is_named_with_its_node_and_the_supported_ones(tmp_path: Path) -> None:
    path = save(tmp_path / "model.onnx", [node("Selu", ["x"])])
    with pytest.raises(UnsupportedOperatorError, match=r"Selu 'the_selu'.*Add, AveragePool.*Unsqueeze"):
        concrete_function(path)


REJECTED: dict[str, tuple[list[onnx.NodeProto], dict[str, npt.NDArray[Any]], str]] = {
    "clip_limits": ([node("Clip", ["x", "", "h"])], {"h": np.float32(1).reshape(())}, "limits are None and 1.0"),
    "max_pool_padding": (
        [node("MaxPool", ["x"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2])],
        {},
        "may be negative",
    ),
    "max_pool_ceil": ([node("MaxPool", ["x"], kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)], {}, "ceil_mode"),
    "average_padding": ([node("AveragePool", ["x"], kernel_shape=[2, 2], pads=[1, 1, 0, 0])], {}, "is not SAME"),
    "pad_mode": ([node("Pad", ["x", "p"], mode="reflect")], {"p": ints(0, 0, 1, 1, 0, 0, 1, 1)}, "mode is reflect"),
    "pad_crop": ([node("Pad", ["x", "p"])], {"p": ints(0, 0, -1, 0, 0, 0, 0, 0)}, "amounts"),
    "computed_weights": (
        [node("Conv", ["x", "x"])],
        {},
        "input 1 is computed by the network instead of constant",
    ),
    "matmul_rank": ([node("MatMul", ["x", "w"])], {"w": weights(6, 2)}, "it multiplies"),
    "gemm_transposed": (
        [node("Flatten", ["x"], "f"), node("Gemm", ["f", "w"], transA=1)],
        {"w": weights(1, 2)},
        "transA",
    ),
    "hard_sigmoid": ([node("HardSigmoid", ["x"])], {}, "alpha is 0.2"),
    "conv_1d": (
        [node("Squeeze", ["x", "a"], "y"), node("Conv", ["y", "w"])],
        {"a": ints(0), "w": weights(3, 5, 3)},
        "which is not",
    ),
}


@pytest.mark.parametrize("case", REJECTED)
def test_unsupported_form_says_what_was_found_and_what_is_supported(case: str, tmp_path: Path) -> None:
    nodes, constants, found = REJECTED[case]
    path = save(tmp_path / "model.onnx", nodes, constants)
    with pytest.raises(UnsupportedOperatorError, match=found) as caught:
        concrete_function(path)
    assert nodes[-1].name in str(caught.value)
    assert supported_operators()[nodes[-1].op_type] in str(caught.value)


def test_second_output_is_refused(tmp_path: Path) -> None:
    pool = helper.make_node("MaxPool", ["x"], ["out", "indices"], name="pool", kernel_shape=[2, 2])
    with pytest.raises(UnsupportedOperatorError, match=r"MaxPool 'pool'.*more than one output"):
        concrete_function(save(tmp_path / "model.onnx", [pool]))


def test_files_that_are_not_networks_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    with pytest.raises(ModelFormatError, match="not a readable ONNX model"):
        concrete_function(path)
    path.write_bytes(b"\x08\x0a\xff\xff\xff")
    with pytest.raises(ModelFormatError, match="not a readable ONNX model"):
        concrete_function(path)
    save(path, [node("Relu", ["x"])], shape=(1, 4))
    with pytest.raises(ModelFormatError, match=r"shape \[1, 4\]"):
        concrete_function(path)
    save(path, [node("Relu", ["x"])], opset=12)
    with pytest.raises(ModelFormatError, match="13 or newer"):
        concrete_function(path)
