"""The planner's SRAM and the flash model against what the linker reports."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from devices.firmware import FirmwareImage, build_firmware
from devices.profile import device_names, load_profile
from export.atomic import write_bytes
from export.codegen import GeneratedModel, generate
from export.flash import code_bytes, constant_bytes, flash_bytes
from export.graph import Activation, Graph
from export.planner import plan
from export.reader import read_tflite
from export.synthetic import with_random_weights
from tests.devices.toy_models import need
from tests.export.graph_builder import GraphBuilder, every_kernel
from tinynas.lower import lower
from tinynas.measuring import build_image
from tinynas.space import load_space

ROOT = Path(__file__).resolve().parents[2]
TOLERANCE = 0.01


@pytest.fixture(scope="module")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cross compiler, and a cache for these tests alone in which the kernels are built once."""
    need("arm-none-eabi-gcc", "make")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def candidate(space_name: str, seed: int) -> Graph:
    space = load_space(space_name)
    shape = {"mobilenet": (96, 96, 3), "mobilenet_small": (28, 28, 1)}[space_name]
    return lower(space.sample(random.Random(seed), shape), space, shape, 10)


def check(graph: Graph, candidate: Graph, device: str, folder: Path) -> None:
    """``graph`` is built, ``candidate`` is what the search knew of it."""
    profile = load_profile(device)
    image = build_image(graph, profile, folder)
    planned = plan(candidate, profile.instruction_set)
    assert planned.arena_bytes == image.arena_bytes
    predicted = flash_bytes(planned, profile)
    assert abs(predicted - image.flash_bytes) <= TOLERANCE * image.flash_bytes, (predicted, image.flash_bytes)


@pytest.mark.parametrize("device", ["stm32f405", "mps2-an385", "mps3-an547"])
@pytest.mark.parametrize("seed", [0, 7])
def test_small_candidates(seed: int, device: str, tmp_path: Path, compiler: None) -> None:
    """The untrained candidate's figures are those of the image with weights."""
    graph = candidate("mobilenet_small", seed)
    check(with_random_weights(graph, seed), graph, device, tmp_path)


def test_candidate_for_sensor_windows(tmp_path: Path, compiler: None) -> None:
    space, shape = load_space("mobilenet_small"), (100, 1, 6)
    graph = lower(space.sample(random.Random(7), shape), space, shape, 7)
    check(with_random_weights(graph), graph, "stm32f405", tmp_path)


def test_reference_models(reference_model: Path, tmp_path: Path, compiler: None) -> None:
    graph = read_tflite(reference_model)
    check(graph, graph, "stm32f405", tmp_path)


@pytest.mark.parametrize("device", sorted(name for name in device_names() if load_profile(name).emulator is not None))
def test_every_kernel(device: str, tmp_path: Path, compiler: None) -> None:
    graph = every_kernel()
    check(graph, graph, device, tmp_path)


def streamed_model() -> GeneratedModel:
    """A bottleneck and a mean for Armv7E-M, whose input arrives row by row."""
    builder = GraphBuilder((1, 20, 16, 3))
    value = builder.conv(builder.input, 8, (3, 3), (2, 2), activation=Activation.RELU6)
    value = builder.conv(value, 16, activation=Activation.RELU6)
    value = builder.conv(builder.depthwise(value, activation=Activation.RELU6), 8)
    return generate(builder.finish(builder.mean(value)), "dsp", stream_input=True)


def test_streamed_input(tmp_path: Path, compiler: None) -> None:
    model, profile = streamed_model(), load_profile("stm32f405")
    image = built(model, tmp_path)
    assert model.plan.streamed_layers
    assert model.plan.arena_bytes == image.arena_bytes
    assert flash_bytes(model.plan, profile) == pytest.approx(image.flash_bytes, rel=TOLERANCE)


def test_two_runs_give_the_same_files_and_image(tmp_path: Path, compiler: None) -> None:
    """Runs of Python that order their sets in different ways, and builds in different folders."""
    script = "import hashlib; from tests.export.test_flash import streamed_model as m\n"
    script += "print(hashlib.sha256(repr(sorted(m().files.items())).encode()).hexdigest())"
    command = [sys.executable, "-c", script]
    hashes = {
        subprocess.run(
            command, env={**os.environ, "PYTHONHASHSEED": seed}, cwd=ROOT, check=True, capture_output=True
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(hashes) == 1
    model = streamed_model()
    first, second = built(model, tmp_path / "first"), built(model, tmp_path / "second")
    assert first.elf.read_bytes() == second.elf.read_bytes()


def built(model: GeneratedModel, folder: Path) -> FirmwareImage:
    for name, text in model.files.items():
        write_bytes(folder / "model" / name, text.encode())
    return build_firmware(folder / "model", load_profile("stm32f405"), folder)


def test_large_candidate(tmp_path: Path, compiler: None) -> None:
    graph = candidate("mobilenet", 1)
    check(with_random_weights(graph), graph, "mps2-an386", tmp_path)


def test_constants_are_counted_to_the_byte() -> None:
    """A fully connected layer's weights, biases and three arrays of multipliers, each padded to words."""
    builder = GraphBuilder((1, 10))
    layer = builder.fully_connected(builder.input, 3)
    one = builder.finish(layer)
    two = builder.finish(builder.fully_connected(layer, 5))
    quantization = two.input_tensors(two.operators[1])[1].quantization
    assert quantization is not None
    scales = len(quantization.scales)
    arrays = 16 + 4 * 5 + 2 * 4 * scales + (8 if scales == 5 else 4)
    struct = constant_bytes(plan(two)) - constant_bytes(plan(one)) - arrays
    assert struct == 36  # three counts, two pointers, three pointers, and five bytes and a half-word with their padding


def test_a_kernel_is_counted_once() -> None:
    builder = GraphBuilder((1, 8, 8, 4))
    graphs = [builder.finish(builder.conv(builder.input, 4))]
    for _ in range(2):
        graphs.append(builder.finish(builder.conv(graphs[-1].outputs[0], 4)))
    one, two, three = (code_bytes(plan(graph, streams=False)) for graph in graphs)
    assert two - one == three - two
    assert 0 < two - one < 64 < one
