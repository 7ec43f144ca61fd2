"""Models for Armv7E-M on the host: the plain C forms of its kernels, on the same packed constants, against LiteRT."""

from __future__ import annotations

import dataclasses
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from export.bundle import write_bundle
from export.codegen import generate
from export.graph import Activation, Graph, Quantization
from export.kernels import kernels_of
from tests.export.graph_builder import GraphBuilder
from tests.export.host_build import KERNELS, SANITIZED, STRICT, build_kernels, build_model, host_compiler, run_program
from tests.oracles.litert import run_reference
from tests.oracles.tflite_writer import write_tflite

INPUTS = 6
EXTENSIONS = ("__ARM_FEATURE_DSP", "__ARM_FP")
DEFINITION = re.compile(r"^(?:__attribute__\(\(naked\)\) )?void (tn_\w+)\([^;{]*\) \{", re.MULTILINE)
ACTIVATIONS = (Activation.NONE, Activation.RELU, Activation.RELU6)


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_kernels(tmp_path_factory.mktemp("kernels"), "-O1", *SANITIZED)


def assert_litert_s(graph: Graph, kernels: Path, folder: Path, *, stream_input: bool = False) -> None:
    """Random inputs and both extremes, bit for bit; every layer runs on a kernel for Armv7E-M."""
    names = {kernel.name for kernel in kernels_of(graph, "dsp")}
    assert all(name.endswith("_dsp_s8") for name in names), names
    shape = graph.tensors[graph.inputs[0]].shape
    inputs = [np.full(shape, value, np.int8) for value in (-128, 127)]
    rng = np.random.default_rng(0)
    inputs += [rng.integers(-128, 128, shape, dtype=np.int8) for _ in range(INPUTS)]
    program = build_model(generate(graph, "dsp", stream_input=stream_input), kernels, folder, *SANITIZED)
    found = run_program(program, inputs, graph.tensors[graph.outputs[0]])
    content = write_tflite(graph)
    for value, output in zip(inputs, found, strict=True):
        np.testing.assert_array_equal(output, run_reference(content, [value])[0])


def per_tensor(graph: Graph) -> Graph:
    """The graph with one scale for all channels of each layer's weights."""
    tensors = list(graph.tensors)
    for operator in graph.operators:
        weights = tensors[operator.inputs[1]]
        assert weights.quantization is not None
        one = Quantization((weights.quantization.scales[0],), (0,))
        tensors[operator.inputs[1]] = dataclasses.replace(weights, quantization=one)
    return dataclasses.replace(graph, tensors=tuple(tensors))


@pytest.mark.parametrize("whole", [False, True], ids=["per channel", "per tensor"])
@pytest.mark.parametrize(
    ("batches", "sizes"), [(1, (4, 5, 6, 1)), (1, (7, 8, 9)), (1, (33, 15, 13)), (3, (5, 17, 4)), (2, (130, 12))]
)
def test_fully_connected(batches: int, sizes: tuple[int, ...], whole: bool, kernels: Path, tmp_path: Path) -> None:
    builder = GraphBuilder((batches, sizes[0]), seed=sum(sizes))
    value = builder.input
    for index, outputs in enumerate(sizes[1:]):
        value = builder.fully_connected(value, outputs, ACTIVATIONS[index % 3])
    graph = builder.finish(value)
    assert_litert_s(per_tensor(graph) if whole else graph, kernels, tmp_path)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("stream_input", [False, True])
@pytest.mark.parametrize("seed", [15, 18, 52])  # the kernel takes the scales, and outputs reach the clamps of RELU6
def test_add(activation: Activation, stream_input: bool, seed: int, kernels: Path, tmp_path: Path) -> None:
    builder = GraphBuilder((1, 7, 3, 5), seed)
    first = builder.add(builder.input, builder.input)
    graph = builder.finish(builder.add(first, builder.input, activation))
    assert_litert_s(graph, kernels, tmp_path, stream_input=stream_input)


WINDOWS = [
    (1, (3, 1), (1, 1)),
    (1, (7, 1), (2, 1)),
    (1, (1, 1), (1, 1)),
    (2, (3, 3), (1, 1)),
    (2, (3, 3), (2, 2)),
    (2, (2, 2), (1, 1)),
    (5, (5, 4), (3, 2)),
]


@pytest.mark.parametrize("stream_input", [False, True])
@pytest.mark.parametrize(("columns", "kernel", "stride"), WINDOWS)
@pytest.mark.parametrize("channels", [4, 5, 6, 7, 8, 9])
def test_depthwise(
    columns: int,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    channels: int,
    stream_input: bool,
    kernels: Path,
    tmp_path: Path,
) -> None:
    """Two layers: the first rounds twice unless its zero point is -128, the second mostly once."""
    builder = GraphBuilder((1, 11, columns, channels), seed=channels)
    value = builder.depthwise(builder.input, kernel, stride)
    graph = builder.finish(builder.depthwise(value, kernel, activation=Activation.RELU6))
    assert_litert_s(graph, kernels, tmp_path, stream_input=stream_input)


@pytest.mark.parametrize("stream_input", [False, True])
@pytest.mark.parametrize("seed", [2, 3, 8])
def test_residual_block(seed: int, stream_input: bool, kernels: Path, tmp_path: Path) -> None:
    builder = GraphBuilder((1, 20, 2, 6), seed)
    value = builder.depthwise(builder.input, activation=Activation.RELU6)
    graph = builder.finish(builder.add(builder.input, builder.depthwise(value), Activation.RELU))
    assert_litert_s(graph, kernels, tmp_path, stream_input=stream_input)


@pytest.mark.parametrize("chosen", [[], [EXTENSIONS[0]], [EXTENSIONS[1]], list(EXTENSIONS)])
def test_every_function_is_defined_once_whatever_the_core_has(chosen: list[str], tmp_path: Path) -> None:
    (tmp_path / "arm_acle.h").write_text("")  # Arm's compilers have it
    sources = sorted(KERNELS.glob("tn_*.c"))
    flags = [f"-I{tmp_path}", *(f"-U{name}" for name in EXTENSIONS), *(f"-D{name}=1" for name in chosen)]
    texts = [
        subprocess.run(
            [host_compiler(), *STRICT, *flags, "-E", "-P", str(path)], check=True, capture_output=True
        ).stdout
        for path in sources
    ]
    found = [name for text in texts for name in DEFINITION.findall(text.decode())]
    portable = [name for path in KERNELS.glob("*_portable_s8.c") for name in DEFINITION.findall(path.read_text())]
    assert portable
    for name in (*portable, "tn_sum_rows_s8"):
        assert found.count(name) == 1, name


def test_a_bundle_has_both_forms(tmp_path: Path) -> None:
    builder = GraphBuilder((1, 9, 1, 6))
    value = builder.add(builder.input, builder.depthwise(builder.input, (3, 1)))
    graph = builder.finish(builder.fully_connected(builder.reshape(value, (1, 54)), 3))
    files = write_bundle(generate(graph, "dsp"), tmp_path)
    for family in ("add", "depthwise_channels", "fully_connected"):
        assert {f"tn_{family}_dsp_s8.c", f"tn_{family}_portable_s8.c"} <= set(files)
    sources = [name for name in files if name.endswith(".c")]
    subprocess.run(
        [host_compiler(), *STRICT, "-shared", "-fPIC", "-Wl,-z,defs", *sources, "-o", "model.so"],
        check=True,
        cwd=tmp_path,
    )
