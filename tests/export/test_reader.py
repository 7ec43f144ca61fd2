"""Reading ``.tflite`` files: the reference models, what is refused and how, and damaged files."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from export.codegen import generate
from export.errors import ExportError, ModelFormatError, PlanError, UnsupportedOperatorError
from export.graph import Activation, Graph, OpKind, Quantization, macs
from export.reader import parse_tflite, read_tflite
from export.supported import SUPPORTED, operators_page
from tests.export.graph_builder import GraphBuilder
from tests.oracles.tflite_writer import write_tflite

ROOT = Path(__file__).resolve().parents[2]


# --- the reference models --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected_macs", "published_parameters", "operators"),
    [
        ("vww", 7_489_664, 210_850, 31),
        ("ic", 12_501_632, 77_706, 16),
        ("kws", 2_656_768, 22_604, 13),
        ("ad", 264_192, 265_864, 10),
    ],
)
def test_reference_models(
    references: Path, name: str, expected_macs: int, published_parameters: int, operators: int
) -> None:
    graph = read_tflite(references / "models" / f"{name}.tflite")
    parameters = sum(
        graph.tensors[index].elements
        for operator in graph.operators
        for index in operator.inputs
        if graph.tensors[index].is_constant
    )
    assert graph.name == name
    assert sum(macs(graph, operator) for operator in graph.operators) == expected_macs
    assert parameters == published_parameters
    assert len(graph.operators) == operators


# --- models that are built wrong -------------------------------------------------------------------------------------


def small_graph() -> Graph:
    builder = GraphBuilder((1, 6, 6, 4), name="small")
    value = builder.conv(builder.input, 8, (3, 3), activation=Activation.RELU6)
    value = builder.depthwise(value)
    return builder.finish(builder.fully_connected(builder.mean(value), 5))


def edited(edit: Callable[[Any], None], graph: Graph | None = None) -> bytes:
    """The small model's file after ``edit`` has changed its schema objects."""
    model = schema.ModelT.InitFromPackedBuf(write_tflite(graph or small_graph()), 0)
    edit(model)
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def refusal(content: bytes, kind: type[ExportError] = UnsupportedOperatorError) -> str:
    with pytest.raises(kind) as caught:
        parse_tflite(content, "small")
    assert type(caught.value) is kind
    return str(caught.value)


def test_edited_models_are_read() -> None:
    """Or the refusals below would prove nothing."""
    assert len(parse_tflite(edited(lambda model: None), "small").operators) == 4


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelFormatError, match=r"cannot read the model .*none\.tflite: No such file"):
        read_tflite(tmp_path / "none.tflite")


@pytest.mark.parametrize("content", [b"", b"TFL3", b"PK\x03\x04 a zip file, not a model", bytes(100)])
def test_not_a_tflite(content: bytes) -> None:
    assert "'small' is not a TensorFlow Lite model" in refusal(content, ModelFormatError)


def set_code(model: Any, name: str, custom: str | None = None) -> None:
    code = model.operatorCodes[0]
    code.builtinCode = getattr(schema.BuiltinOperator, name)
    code.deprecatedBuiltinCode = min(code.builtinCode, 127)
    code.customCode = custom


def test_unsupported_operator() -> None:
    message = refusal(edited(lambda model: set_code(model, "TANH")))
    assert "TANH" in message
    assert "'conv_2d_0'" in message
    assert all(kind.value in message for kind in OpKind)


def test_operator_beyond_the_old_codes() -> None:
    assert "GELU" in refusal(edited(lambda model: set_code(model, "GELU")))


def test_custom_operator() -> None:
    assert "CUSTOM 'MyOperator'" in refusal(edited(lambda model: set_code(model, "CUSTOM", "MyOperator")))


def test_unsupported_fused_activation() -> None:
    def edit(model: Any) -> None:
        model.subgraphs[0].operators[0].builtinOptions.fusedActivationFunction = schema.ActivationFunctionType.TANH

    assert "the fused activation TANH" in refusal(edited(edit))


def test_dynamic_shape() -> None:
    def edit(model: Any) -> None:
        model.subgraphs[0].tensors[0].shapeSignature = [-1, -1, -1, 4]

    assert "no fixed shape" in refusal(edited(edit), ModelFormatError)


def test_free_batch_is_fine() -> None:
    def edit(model: Any) -> None:
        model.subgraphs[0].tensors[0].shapeSignature = [-1, 6, 6, 4]

    assert parse_tflite(edited(edit), "small").tensors[0].shape == (1, 6, 6, 4)


def test_batch_of_two() -> None:
    builder = GraphBuilder((2, 6, 6, 4))
    output = builder.elementwise(OpKind.RELU, builder.input)
    builder.tensors[output] = dataclasses.replace(builder.tensors[output], shape=(2, 6, 6, 4))
    assert "[2, 6, 6, 4]" in refusal(write_tflite(builder.finish(output)))


def test_float_model() -> None:
    def edit(model: Any) -> None:
        for tensor in model.subgraphs[0].tensors:
            tensor.quantization = None
            if tensor.type == schema.TensorType.INT8:
                tensor.type = schema.TensorType.FLOAT32
                if tensor.buffer:
                    buffer = model.buffers[tensor.buffer]
                    buffer.data = np.frombuffer(buffer.data.astype(np.float32).tobytes(), np.uint8)

    assert "float32" in refusal(edited(edit))


def test_16_bit_model() -> None:
    def edit(model: Any) -> None:
        model.subgraphs[0].tensors[0].type = schema.TensorType.INT16

    assert "INT16" in refusal(edited(edit))


def test_int8_without_a_scale() -> None:
    def edit(model: Any) -> None:
        model.subgraphs[0].tensors[0].quantization = None

    assert "'input' has no scale" in refusal(edited(edit), ModelFormatError)


def test_several_subgraphs() -> None:
    message = refusal(edited(lambda model: model.subgraphs.append(model.subgraphs[0])), ModelFormatError)
    assert "has 2 subgraphs" in message


def test_several_inputs() -> None:
    builder = GraphBuilder((1, 4, 4, 4), name="two")
    other = builder._tensor("other", (1, 4, 4, 4), builder.quantization())
    graph = builder.finish(builder.add(builder.input, other))
    content = write_tflite(dataclasses.replace(graph, inputs=(builder.input, other)))
    assert "2 inputs and 1 outputs" in refusal(content, ExportError)


def test_several_outputs() -> None:
    graph = small_graph()
    both = (graph.operators[0].outputs[0], *graph.outputs)
    assert "1 inputs and 2 outputs" in refusal(write_tflite(dataclasses.replace(graph, outputs=both)), ExportError)


def test_layers_out_of_order() -> None:
    def edit(model: Any) -> None:
        model.subgraphs[0].operators.reverse()

    assert "before any layer has computed it" in refusal(edited(edit), ModelFormatError)


@pytest.mark.parametrize("index", [-1, -2, 99])
@pytest.mark.parametrize("where", ["inputs", "outputs"])
def test_tensors_that_do_not_exist(index: int, where: str) -> None:
    """Negative ones above all, which Python would count from the end."""

    def edit_layer(model: Any) -> None:
        setattr(model.subgraphs[0].operators[2], where, [index])

    def edit_model(model: Any) -> None:
        setattr(model.subgraphs[0], where, [index])

    refusal(edited(edit_layer), ModelFormatError)
    refusal(edited(edit_model), ModelFormatError)


def test_sparse_weights() -> None:
    def edit(model: Any) -> None:
        model.subgraphs[0].tensors[1].sparsity = schema.SparsityParametersT()

    assert "'weights' is sparse" in refusal(edited(edit))


def test_unknown_padding() -> None:
    def edit(model: Any) -> None:
        model.subgraphs[0].operators[0].builtinOptions.padding = 7

    assert "neither SAME nor VALID" in refusal(edited(edit), ModelFormatError)


def test_output_of_another_size() -> None:
    def edit(model: Any) -> None:
        model.subgraphs[0].operators[0].builtinOptions.padding = schema.Padding.VALID

    assert "should have the output size 4" in refusal(edited(edit), ModelFormatError)


def test_concatenation_with_an_activation() -> None:
    builder = GraphBuilder((1, 4, 4, 4))
    graph = builder.finish(builder.concatenate([builder.input, builder.input]))

    def edit(model: Any) -> None:
        model.subgraphs[0].operators[0].builtinOptions.fusedActivationFunction = schema.ActivationFunctionType.RELU

    assert "fused with RELU" in refusal(edited(edit, graph))


def test_pad_amounts_of_64_bits() -> None:
    builder = GraphBuilder((1, 4, 4, 4))
    graph = builder.finish(builder.pad(builder.input, [(1, 1), (1, 1), (0, 0)]))

    def edit(model: Any) -> None:
        paddings = model.subgraphs[0].tensors[-1]
        paddings.type = schema.TensorType.INT64
        model.buffers[paddings.buffer].data = np.frombuffer(
            model.buffers[paddings.buffer].data.view(np.int32).astype(np.int64).tobytes(), np.uint8
        )

    assert "int32 constant" in refusal(edited(edit, graph))


def test_constant_input_of_a_layer() -> None:
    def edit(model: Any) -> None:
        operator = model.subgraphs[0].operators[3]
        operator.inputs = [operator.inputs[1], *operator.inputs[1:]]

    assert "is a constant" in refusal(edited(edit))


def replaced(graph: Graph, tensor: int, **changes: Any) -> Graph:
    tensors = list(graph.tensors)
    tensors[tensor] = dataclasses.replace(tensors[tensor], **changes)
    return dataclasses.replace(graph, tensors=tuple(tensors))


@pytest.mark.parametrize(
    ("tensor", "quantization", "expected"),
    [
        (0, Quantization((0.1,), (200,)), "the zero point 200"),
        (0, Quantization((0.1,) * 4, (0,) * 4, 3), "4 scales"),
        (0, Quantization((1e-38,), (0,)), "the scale 1e-38"),
        (1, Quantization((0.1,) * 8, (0,) * 8, 3), "axis 3"),
        (1, Quantization((0.1,) * 3, (0,) * 3), "3 scales for 8 channels"),
        (1, Quantization((0.1,), (1,)), "zero point other than 0"),
        (1, Quantization((1e20,), (0,)), "the multiplier is"),
    ],
)
def test_quantization_without_a_kernel(tensor: int, quantization: Quantization, expected: str) -> None:
    assert expected in refusal(write_tflite(replaced(small_graph(), tensor, quantization=quantization)))


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_scale_that_is_no_scale(scale: float) -> None:
    content = write_tflite(replaced(small_graph(), 0, quantization=Quantization((scale,), (0,))))
    assert "not a positive number" in refusal(content, ModelFormatError)


def test_addition_that_broadcasts() -> None:
    builder = GraphBuilder((1, 4, 4, 4))
    pooled = builder.pool(builder.input, (4, 4), (4, 4))
    graph = builder.finish(builder.add(builder.input, pooled))
    assert "no broadcasting" in refusal(write_tflite(graph))


def test_every_constraint_is_a_sentence() -> None:
    for constraints in SUPPORTED.values():
        for constraint in constraints:
            assert constraint.__doc__ is not None
            assert constraint.__doc__.endswith(".")
            assert "\n" not in constraint.__doc__


def test_operators_page_is_up_to_date() -> None:
    """Run ``python -m export.supported > docs/operators.md`` when this fails."""
    assert (ROOT / "docs" / "operators.md").read_text(encoding="utf-8") == operators_page()


# --- damaged files ---------------------------------------------------------------------------------------------------


def graph_or_error(content: bytes) -> bool:
    """Whether the file is read, and then compiled; every failure must be one of ours, and none the planner's."""
    try:
        graph = parse_tflite(content, "damaged")
    except ExportError:
        return False
    try:
        generate(graph)
    except PlanError:
        raise
    except ExportError:
        pass
    return True


@pytest.fixture(scope="module")
def kws(references: Path) -> bytes:
    return (references / "models" / "kws.tflite").read_bytes()


@pytest.mark.parametrize("content", [write_tflite(small_graph())], ids=["small"])
def test_truncated_anywhere(content: bytes) -> None:
    for length in range(0, len(content), 7):
        with pytest.raises(ExportError):
            parse_tflite(content[:length], "damaged")


def test_truncated_reference_model(kws: bytes) -> None:
    for length in np.linspace(0, len(kws) - 64, 60, dtype=int):
        with pytest.raises(ModelFormatError):
            parse_tflite(kws[:length], "damaged")


def test_random_bytes_after_a_valid_header() -> None:
    rng = np.random.default_rng(0)
    for size in rng.integers(0, 4000, 200):
        start = int(rng.integers(8, 64)).to_bytes(4, "little") + b"TFL3"
        assert not graph_or_error(start + rng.bytes(int(size)))


def repeated(tensors: int, shape: int, subgraphs: int = 1) -> bytes:
    """A file in which every list points at the same few bytes again and again."""
    builder = flatbuffers.Builder(1 << 16)
    schema.TensorStartShapeVector(builder, shape)
    for _ in range(shape):
        builder.PrependInt32(1)
    sizes = builder.EndVector()
    schema.TensorStart(builder)
    schema.TensorAddShape(builder, sizes)
    tensor = schema.TensorEnd(builder)
    schema.SubGraphStartTensorsVector(builder, tensors)
    for _ in range(tensors):
        builder.PrependUOffsetTRelative(tensor)
    records = builder.EndVector()
    schema.SubGraphStart(builder)
    schema.SubGraphAddTensors(builder, records)
    subgraph = schema.SubGraphEnd(builder)
    schema.ModelStartSubgraphsVector(builder, subgraphs)
    for _ in range(subgraphs):
        builder.PrependUOffsetTRelative(subgraph)
    graphs = builder.EndVector()
    schema.ModelStart(builder)
    schema.ModelAddSubgraphs(builder, graphs)
    builder.Finish(schema.ModelEnd(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (repeated(100_000, 100_000), "more than 2000 operators or 10000 tensors"),
        (repeated(9_000, 100_000), "its lists overlap"),
        (repeated(50_000, 4, subgraphs=50_000), "50000 subgraphs"),
    ],
    ids=["tensors", "shapes", "subgraphs"],
)
def test_small_files_that_unfold_into_billions_of_elements(content: bytes, expected: str) -> None:
    assert expected in refusal(content, ModelFormatError)


def test_flipped_bytes_anywhere(kws: bytes) -> None:
    rng = np.random.default_rng(1)
    for _ in range(60):
        damaged = bytearray(kws)
        for position in rng.integers(0, len(kws), rng.integers(1, 40)):
            damaged[position] = int(rng.integers(256))
        graph_or_error(bytes(damaged))


def test_flipped_bytes_in_the_tables(kws: bytes) -> None:
    """Where the file says what it holds: most other bytes are weights, of which any value is fine."""
    values = np.frombuffer(kws, np.uint8)
    tables = np.flatnonzero(np.convolve(values == 0, np.ones(8), "same") >= 4)
    rng = np.random.default_rng(2)
    read = 0
    for _ in range(200):
        damaged = bytearray(kws)
        for position in rng.choice(tables, rng.integers(1, 4)):
            damaged[position] = int(rng.choice([0, 1, 2, 4, 127, 128, 255, int(rng.integers(256))]))
        read += graph_or_error(bytes(damaged))
    assert 10 < read < 190


def test_flipped_bytes_of_a_small_model() -> None:
    """Every byte of a file without large tensors."""
    content = write_tflite(small_graph())
    rng = np.random.default_rng(3)
    for position in range(0, len(content), 11):
        damaged = bytearray(content)
        damaged[position] = int(rng.choice([0, 1, 128, 255, int(rng.integers(256))]))
        graph_or_error(bytes(damaged))
