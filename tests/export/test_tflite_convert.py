"""The files of the chain: what they are made of, that they do not vary, and that nothing is printed on the way."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from conftest import NETWORKS, ROOT, Chain
from tflite_operators import operator_names
from torch import nn

from export.errors import ExportError
from export.onnx_export import export_onnx
from export.quiet import quiet
from export.tflite_convert import convert, convert_float, convert_int8

CONV, CONV6, DEPTHWISE6 = "CONV_2D", "CONV_2D+RELU6", "DEPTHWISE_CONV_2D+RELU6"
HEAD = ["MEAN", "FULLY_CONNECTED"]

OPERATORS = {
    "mobilenet": [
        CONV6,
        *[CONV6, DEPTHWISE6, CONV, "ADD"],
        *[CONV6, DEPTHWISE6, CONV],
        *[CONV6, DEPTHWISE6, CONV, "ADD"],
        *HEAD,
    ],
    "resnet": [CONV6, CONV6, CONV, CONV, "ADD+RELU", CONV6, CONV, CONV, "ADD+RELU", *HEAD],
    "grouped": [CONV6, CONV6, *HEAD],
    "large_kernels": [CONV6, DEPTHWISE6, CONV6, *HEAD],
    "window": [CONV6, *[CONV6, DEPTHWISE6, CONV, "ADD"], *[CONV6, DEPTHWISE6, CONV], *HEAD],
    # What the padding costs when it is not TensorFlow's.
    "torch_padding": ["PAD", "CONV_2D+RELU", "PAD", "MAX_POOL_2D", "PAD", "DEPTHWISE_CONV_2D", *HEAD],
    "flattened": [CONV6, "AVERAGE_POOL_2D", "RESHAPE", "FULLY_CONNECTED"],
    "adaptive": [CONV6, *HEAD],
}


def test_every_network_is_expected() -> None:
    assert set(OPERATORS) == set(NETWORKS)


@pytest.mark.parametrize("name", NETWORKS)
def test_both_files_hold_the_operators_of_the_network_and_no_more(name: str, chain: Callable[[str], Chain]) -> None:
    files = chain(name)
    assert operator_names(files.float_tflite) == OPERATORS[name]
    assert operator_names(files.int8_tflite) == OPERATORS[name]


@pytest.mark.parametrize("name", NETWORKS)
def test_int8_file_is_int8_throughout_with_a_scale_for_each_channel(name: str, chain: Callable[[str], Chain]) -> None:
    model = schema.ModelT.InitFromPackedBuf(chain(name).int8_tflite.read_bytes(), 0)
    (graph,) = model.subgraphs
    for index in (*graph.inputs, *graph.outputs):
        assert graph.tensors[index].type == schema.TensorType.INT8
    assert not [tensor.name for tensor in graph.tensors if tensor.type == schema.TensorType.FLOAT32]
    for operator in graph.operators:
        code = model.operatorCodes[operator.opcodeIndex].builtinCode
        if code in (schema.BuiltinOperator.CONV_2D, schema.BuiltinOperator.DEPTHWISE_CONV_2D):
            weights, output = graph.tensors[operator.inputs[1]], graph.tensors[operator.outputs[0]]
            assert len(weights.quantization.scale) == output.shape[-1]
            assert not np.any(weights.quantization.zeroPoint)


def test_onnx_file_is_self_contained_folded_and_free_of_this_machine(chain: Callable[[str], Chain]) -> None:
    path = chain("mobilenet").onnx
    model = onnx.load(path, load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    assert {node.op_type for node in model.graph.node} == {"Conv", "Clip", "Add", "ReduceMean", "Gemm"}
    assert not [tensor.name for tensor in model.graph.initializer if tensor.external_data]
    content = path.read_bytes()
    for secret in (str(ROOT), str(Path(torch.__file__).parent), "Bottleneck"):
        assert secret.encode() not in content


def test_exporting_leaves_the_module_as_it_was(tmp_path: Path) -> None:
    module = NETWORKS["adaptive"][0]().train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    export_onnx(module, (3, 8, 8), tmp_path / "training.onnx")
    assert all(layer.training for layer in module.modules())
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    export_onnx(module.eval(), (3, 8, 8), tmp_path / "evaluation.onnx")
    assert (tmp_path / "training.onnx").read_bytes() == (tmp_path / "evaluation.onnx").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evaluation.onnx", "training.onnx"]


def test_batch_normalization_that_cannot_be_folded_is_refused(tmp_path: Path) -> None:
    module = nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 1))
    nn.init.ones_(module[1].running_mean)
    with pytest.raises(ExportError, match="directly after a convolution"):
        export_onnx(module, (3, 8, 8), tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


def test_module_that_torch_cannot_export_is_one_clear_error(tmp_path: Path) -> None:
    class Branches(nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return inputs * 2 if inputs.sum() > 0 else inputs

    with pytest.raises(ExportError, match="exporting the network to ONNX failed"):
        export_onnx(Branches(), (3, 8, 8), tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


def test_same_input_gives_the_same_bytes_by_either_way(chain: Callable[[str], Chain], tmp_path: Path) -> None:
    files = chain("mobilenet")
    convert_float(files.onnx, tmp_path / "float.tflite")
    convert_int8(files.onnx, files.inputs, tmp_path / "int8.tflite")
    assert (tmp_path / "float.tflite").read_bytes() == files.float_tflite.read_bytes()
    assert (tmp_path / "int8.tflite").read_bytes() == files.int8_tflite.read_bytes()


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from conftest import make_chain
make_chain("grouped", Path(sys.argv[2])).agreement()
print("done")
"""


def test_chain_prints_nothing_and_does_not_vary_between_processes(
    chain: Callable[[str], Chain], tmp_path: Path
) -> None:
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(Path(__file__).parent), str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "done\n", "")
    here = chain("grouped")
    for path in (here.onnx, here.float_tflite, here.int8_tflite):
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (np.zeros((0, 16, 16, 3), np.float32), r"\[0, 16, 16, 3\]"),
        (np.zeros((2, 3, 16, 16), np.float32), r"\[2, 3, 16, 16\].*\[16, 16, 3\]"),
        (np.zeros((2, 16, 16, 3), np.float64), "float64"),
        (np.full((2, 16, 16, 3), np.nan, np.float32), "NaN"),
    ],
)
def test_unsuitable_representative_inputs_are_refused(
    inputs: np.ndarray, message: str, chain: Callable[[str], Chain], tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=message):
        convert(chain("grouped").onnx, inputs, tmp_path / "float.tflite", tmp_path / "int8.tflite")
    assert not (tmp_path / "int8.tflite").exists()


def test_file_that_cannot_be_written_is_one_clear_error(chain: Callable[[str], Chain], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match=r"cannot be written: .*choose another folder"):
        convert_float(chain("grouped").onnx, tmp_path / "file" / "a.tflite")


def test_what_a_library_printed_is_part_of_its_error(capfd: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        with quiet("converting"):
            print("from Python")
            os.write(2, b"from C++")
            raise RuntimeError("broken")

    with pytest.raises(ExportError, match="converting failed: broken; it printed: ") as caught:
        fail()
    assert "from Python" in str(caught.value)
    assert "from C++" in str(caught.value)
    print("after")
    assert capfd.readouterr() == ("after\n", "")


def test_own_errors_and_interrupts_pass_through_quietness() -> None:
    own = ExportError("mine")
    for error in (own, KeyboardInterrupt()):
        with pytest.raises(type(error)) as caught, quiet("converting"):
            raise error
        assert caught.value is error
