"""The generated C: the same bytes every time, no way out of its comments and strings, and bundles that build."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from export.bundle import LAYOUTS, write_bundle
from export.codegen import GeneratedModel, generate
from export.errors import ExportError
from export.graph import DType, Graph, Quantization
from export.reader import parse_tflite
from tests.devices.toy_models import need
from tests.export.graph_builder import GraphBuilder, every_kernel
from tests.export.host_build import KERNELS, MAIN, STRICT, build_kernels, build_model, host_compiler, run_program
from tests.oracles.litert import run_reference
from tests.oracles.tflite_writer import write_tflite
from tinynas.lower import lower
from tinynas.space import load_space

HOSTILE = (
    "*/ int hacked(void) { return 1; } /*",
    '"); system("true"); ("',
    "line one\nint two;\r\n#error three",
    "ends in a backslash \\",
    "??/ a trigraph ??/",
    "%s %n {{ model.name }} {% raw %}",
    "ünïcödé 名前 \u202e\x00\x07",
    "/* opened",
    "// commented",
    "",
    "*" * 300 + "/",
)


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_kernels(tmp_path_factory.mktemp("kernels"), "-O1")


def test_same_graph_gives_the_same_bytes() -> None:
    first, second = generate(every_kernel()), generate(every_kernel())
    assert first.files == second.files
    assert first.model_id == second.model_id


def test_the_same_file_read_twice_gives_the_same_bytes() -> None:
    content = write_tflite(every_kernel())
    assert generate(parse_tflite(content, "m")).files == generate(parse_tflite(content, "m")).files


def test_identifier_follows_the_weights_and_not_the_name() -> None:
    assert generate(every_kernel()).model_id != generate(every_kernel(seed=1)).model_id
    assert generate(every_kernel()).model_id == generate(every_kernel("another name")).model_id


def test_identifier_follows_the_quantization_of_the_ends() -> None:
    """It says what a host must do with the bytes, so two models that differ in it alone are different models."""

    def reshaped(scale: float) -> GeneratedModel:
        builder = GraphBuilder((1, 4, 4, 4))
        builder.tensors[0] = dataclasses.replace(builder.tensors[0], quantization=Quantization((scale,), (0,)))
        return generate(builder.finish(builder.reshape(builder.input, (1, 64))))

    assert reshaped(0.5).model_id != reshaped(0.25).model_id


def test_model_that_does_nothing_compiles(kernels: Path, tmp_path: Path) -> None:
    builder = GraphBuilder((1, 4, 4, 4))
    graph = builder.finish(builder.reshape(builder.input, (1, 64)))
    given = builder.random_input()
    (found,) = run_program(build_model(generate(graph), kernels, tmp_path), [given], graph.tensors[graph.outputs[0]])
    assert np.array_equal(found.ravel(), given.ravel())


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_names_stay_in_comments_and_strings(name: str, kernels: Path, tmp_path: Path) -> None:
    graph = every_kernel(name)
    tensors = tuple(dataclasses.replace(tensor, name=name) for tensor in graph.tensors)
    operators = tuple(dataclasses.replace(operator, name=name) for operator in graph.operators)
    model = generate(dataclasses.replace(graph, tensors=tensors, operators=operators))
    expected = generate(every_kernel())
    program = build_model(model, kernels, tmp_path)
    assert run_program(program, [], model.plan.graph.tensors[-1]) == []
    for file in ("model.c", "model.h"):
        assert model.files[file].isascii()
        assert code_alone(model.files[file]) == code_alone(expected.files[file])


def code_alone(text: str) -> str:
    """Without comments, and without the model's name."""
    without = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    return re.sub(r'(#define TN_MODEL_NAME ")[a-z0-9_]*"', r"\1", without)


@pytest.mark.parametrize("name", ["model", "2 fast", "Größe", "___", "a" * 200, "mobilenet_small r28"])
def test_short_name_fits_the_protocol(name: str) -> None:
    """The harness answers ``profile%`` with it, so it is short and has neither brackets nor spaces."""
    found = re.search(r'TN_MODEL_NAME "(.*)"', generate(every_kernel(name)).files["model.h"])
    assert found is not None
    assert re.fullmatch(r"[a-z][a-z0-9_]{0,30}", found.group(1))


def test_header_says_what_goes_in_and_out() -> None:
    graph = every_kernel()
    model = generate(graph)
    header = model.files["model.h"]
    assert f"#define TN_MODEL_ARENA_BYTES {model.plan.arena_bytes}\n" in header
    assert f"#define TN_MODEL_INPUT_BYTES {9 * 8 * 3 * 4}\n" in header
    assert "#define TN_MODEL_OUTPUT_ELEMENT_BYTES 4\n" in header
    assert f"#define TN_MODEL_LAYERS {len(graph.operators)}\n" in header


def test_untrained_candidate_is_refused() -> None:
    space, shape = load_space("mobilenet_small"), (28, 28, 1)
    with pytest.raises(ExportError, match=r"no (data|quantization)"):
        generate(lower(space.extreme(shape, largest=False), space, shape, 10))


def test_constant_without_data_is_refused() -> None:
    graph = every_kernel()
    tensors = tuple(dataclasses.replace(tensor, data=None) for tensor in graph.tensors)
    with pytest.raises(ExportError, match="has no data: a candidate must be trained"):
        generate(dataclasses.replace(graph, tensors=tensors))


def test_missing_quantization_is_refused() -> None:
    graph = every_kernel()
    tensors = tuple(dataclasses.replace(t, quantization=None) if t.dtype is DType.INT8 else t for t in graph.tensors)
    with pytest.raises(ExportError, match="has no quantization"):
        generate(dataclasses.replace(graph, tensors=tensors))


def with_biases(biases: list[int]) -> tuple[Graph, np.ndarray]:
    """A fully connected layer of zeros, and an input for it."""
    builder = GraphBuilder((1, 4))
    graph = builder.finish(builder.fully_connected(builder.input, len(biases)))
    _, weights, bias = graph.operators[0].inputs
    builder.tensors[weights] = dataclasses.replace(builder.tensors[weights], data=np.zeros((len(biases), 4), np.int8))
    builder.tensors[bias] = dataclasses.replace(builder.tensors[bias], data=np.array(biases, np.int32))
    return builder.finish(graph.outputs[0]), builder.random_input()


def test_largest_biases_compile(kernels: Path, tmp_path: Path) -> None:
    graph, value = with_biases([-(2**31) + 1, 2**31 - 1, 0])
    program = build_model(generate(graph), kernels, tmp_path)
    (found,) = run_program(program, [value], graph.tensors[graph.outputs[0]])
    (expected,) = run_reference(write_tflite(graph), [value])
    assert np.array_equal(found, expected)


def test_bias_that_c_has_no_constant_for_is_refused() -> None:
    with pytest.raises(ExportError, match="more than 32 bits hold"):
        generate(with_biases([-(2**31), 0])[0])


# --- bundles ---------------------------------------------------------------------------------------------------------

BUILD_FILES = {
    "plain": (),
    "cmake": ("CMakeLists.txt",),
    "arduino": ("library.properties", "src/tinynas_my_model.h"),
    "platformio": ("library.json",),
    "zephyr": ("zephyr/module.yml", "zephyr/CMakeLists.txt", "zephyr/Kconfig"),
    "esp-idf": ("CMakeLists.txt",),
}


@pytest.fixture(scope="module")
def model() -> GeneratedModel:
    return generate(every_kernel("my model"))


def check_program(program: Path, model: GeneratedModel) -> None:
    graph = model.plan.graph
    inputs = [np.random.default_rng(0).normal(0, 3, (1, 9, 8, 3)).astype(np.float32)]
    found = run_program(program, inputs, graph.tensors[graph.outputs[0]])
    (expected,) = run_reference(write_tflite(graph), inputs)
    assert np.array_equal(found[0], expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_bundle_has_every_file(layout: str, model: GeneratedModel, tmp_path: Path) -> None:
    files = write_bundle(model, tmp_path, layout)
    assert files == tuple(sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()))
    source = "" if layout == "plain" else "src/"
    others = ("_dsp", "_mve", "_portable")
    generic = [path.name for path in KERNELS.glob("tn_*.c") if not any(part in path.name for part in others)]
    unused = {"tn_mean_generic_s8.c", "tn_pool_global_s8.c"}
    kernels = {*generic, "tn_sum_rows_dsp_s8.c", "tn_kernels.h", "tn_internal.h"} - unused
    expected = {f"{source}{name}" for name in ("model.c", "model.h", *kernels)}
    assert set(files) == expected | set(BUILD_FILES[layout])


def test_bundle_has_what_its_kernels_call_and_nothing_else(tmp_path: Path) -> None:
    """Cross-compiled, no function is missing."""
    need("arm-none-eabi-gcc")
    builder = GraphBuilder((1, 6, 6, 4))
    graph = builder.finish(builder.add(builder.input, builder.conv(builder.input, 4, (3, 3))))
    files = write_bundle(generate(graph, "dsp"), tmp_path)
    sources = [name for name in files if name.endswith(".c")]
    assert "tn_depthwise_generic_s8.c" not in sources
    flags = ["-mcpu=cortex-m4", "-mthumb", "-mfpu=fpv4-sp-d16", "-mfloat-abi=hard", *STRICT, "-O2"]
    linked = [*flags, "-nostartfiles", "-Wl,-e,tn_model_invoke", "--specs=nosys.specs", *sources, "-o", "program.elf"]
    subprocess.run(["arm-none-eabi-gcc", *linked], check=True, cwd=tmp_path)


@pytest.mark.parametrize("layout", ["cmake", "zephyr", "esp-idf"])
def test_build_file_lists_every_source(layout: str, model: GeneratedModel, tmp_path: Path) -> None:
    files = write_bundle(model, tmp_path, layout)
    name = "zephyr/CMakeLists.txt" if layout == "zephyr" else "CMakeLists.txt"
    text = (tmp_path / name).read_text(encoding="utf-8")
    listed = re.findall(r"[\w./]+\.c\b", text)
    assert sorted((tmp_path / name).parent.joinpath(path).resolve() for path in listed) == sorted(
        (tmp_path / file).resolve() for file in files if file.endswith(".c")
    )


def test_platformio_description_is_json(model: GeneratedModel, tmp_path: Path) -> None:
    write_bundle(model, tmp_path, "platformio")
    assert json.loads((tmp_path / "library.json").read_text(encoding="utf-8"))["name"] == "tinynas_my_model"


def test_arduino_sketch_finds_the_model(model: GeneratedModel, tmp_path: Path) -> None:
    """The library's header is for C++; where there is no C++ compiler, C takes it as well."""
    write_bundle(model, tmp_path, "arduino")
    cplusplus = shutil.which("c++")
    compiler = [cplusplus] if cplusplus else [host_compiler(), "-x", "c"]
    (tmp_path / "sketch.cpp").write_text(
        "#include <tinynas_my_model.h>\nint main() { tn_model_invoke(); return tn_model_output() == 0; }\n"
    )
    objects = tmp_path / "objects"
    objects.mkdir()
    sources = [str(path) for path in sorted((tmp_path / "src").glob("*.c"))]
    subprocess.run([host_compiler(), *STRICT, "-c", *sources], check=True, cwd=objects)
    command = [*compiler, "-Wall", "-Wextra", "-Werror", f"-I{tmp_path / 'src'}", "-c", str(tmp_path / "sketch.cpp")]
    subprocess.run(command, check=True, cwd=objects)
    subprocess.run([host_compiler(), *map(str, objects.glob("*.o")), "-o", str(tmp_path / "sketch")], check=True)
    assert subprocess.run([str(tmp_path / "sketch")], check=False).returncode == 0


def test_plain_bundle_builds(model: GeneratedModel, tmp_path: Path) -> None:
    files = write_bundle(model, tmp_path)
    (tmp_path / "main.c").write_text(MAIN)
    sources = [file for file in files if file.endswith(".c")]
    command = [host_compiler(), *STRICT, "-pedantic", *sources, "main.c", "-o", "program"]
    subprocess.run(command, check=True, cwd=tmp_path)
    check_program(tmp_path / "program", model)


def test_cmake_bundle_builds(model: GeneratedModel, tmp_path: Path) -> None:
    host_compiler()
    if shutil.which("cmake") is None:
        pytest.skip("cmake is not installed")
    write_bundle(model, tmp_path / "network", "cmake")
    (tmp_path / "main.c").write_text(MAIN)
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.13)\nproject(application C)\nadd_subdirectory(network)\n"
        "add_executable(program main.c)\ntarget_link_libraries(program tinynas_my_model)\n"
    )
    for command in (["cmake", "-S", ".", "-B", "build"], ["cmake", "--build", "build"]):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    check_program(tmp_path / "build" / "program", model)


def test_unknown_layout(model: GeneratedModel, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="no layout 'bazel'; choose from plain, cmake, arduino"):
        write_bundle(model, tmp_path, "bazel")
    assert not list(tmp_path.iterdir())


def test_a_model_for_another_core_says_so_when_it_is_built(tmp_path: Path) -> None:
    """Its kernels are empty files there, so the linker's complaint would tell nobody what is wrong."""
    builder = GraphBuilder((1, 8, 8, 4))
    model = generate(builder.finish(builder.conv(builder.input, 8)), "helium")
    for name, text in model.files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    done = subprocess.run(
        [host_compiler(), f"-I{KERNELS}", "-c", "model.c"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "This model was generated for Helium" in done.stderr
    assert "#error" not in generate(model.plan.graph, "dsp").files["model.c"]
