"""The command line in a home of its own, and small things to give it."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.synthetic import with_random_weights
from tests.export.graph_builder import GraphBuilder
from tests.oracles.tflite_writer import write_tflite
from tinynas import cli
from tinynas.lower import lower
from tinynas.space import load_space


@dataclass(frozen=True)
class Answer:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one JSON object on stdout; nothing else may be there."""
        answer = json.loads(self.out)
        assert isinstance(answer, dict)
        return answer

    @property
    def error(self) -> str:
        """The message of a stated failure: one line, after whatever progress there was."""
        assert self.code == 1, self
        assert "Traceback" not in self.err
        last = self.err.rstrip("\n").split("\n")[-1]
        assert last.startswith("tinynas: ")
        return last.removeprefix("tinynas: ")


Tinynas = Callable[..., Answer]


@pytest.fixture(scope="session")
def firmware_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiled kernels are the same for every test."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def home(firmware_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder; what tinynas keeps for the user is under it, nothing of this machine's user is seen."""
    for name in ("DATA", "CONFIG"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / f"xdg-{name.lower()}"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(firmware_cache))
    monkeypatch.setenv("TINYNAS_STORE", str(tmp_path / "measurements.sqlite"))
    monkeypatch.delenv("TINYNAS_BOARDS", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def tinynas(home: Path, capsys: pytest.CaptureFixture[str]) -> Tinynas:
    """Runs a command in this process."""

    def run(*arguments: object) -> Answer:
        capsys.readouterr()
        code = cli._run([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return Answer(code, said.out, said.err)

    return run


def start(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    """A command in a process group of its own."""
    command = [sys.executable, "-m", "tinynas.cli", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    root = Path(cli.__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root), "COLUMNS": "200"}
    return subprocess.Popen(command, text=True, start_new_session=True, env=environment, **(pipes | options))


def finish(process: subprocess.Popen[str]) -> Answer:
    """Its answer, once it has ended."""
    out, err = process.communicate(timeout=240)
    return Answer(process.returncode, out, err)


@pytest.fixture
def spawn(home: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """`start`, and no process is left behind."""
    started: list[subprocess.Popen[str]] = []

    def begin(*arguments: object, **options: Any) -> subprocess.Popen[str]:
        started.append(start(*arguments, **options))
        return started[-1]

    yield begin
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


@pytest.fixture(scope="session")
def model_bytes() -> bytes:
    """An int8 model that fits any device."""
    space = load_space("mobilenet_small")
    return write_tflite(with_random_weights(lower(space.extreme((16, 16, 1), largest=False), space, (16, 16, 1), 3)))


@pytest.fixture
def model(home: Path, model_bytes: bytes) -> Path:
    (home / "small.tflite").write_bytes(model_bytes)
    return Path("small.tflite")


@pytest.fixture
def large_model(home: Path) -> Path:
    """An int8 model that fits no stm32f405."""
    space, shape = load_space("mobilenet"), (224, 224, 3)
    architecture = replace(space.sample(random.Random(0), shape), resolution=224)
    (home / "large.tflite").write_bytes(write_tflite(with_random_weights(lower(architecture, space, shape, 10))))
    return Path("large.tflite")


@pytest.fixture
def wasteful_model(home: Path) -> Path:
    """An int8 model of which half of the first layer is constant, and whose RESHAPE does nothing."""
    builder = GraphBuilder((1, 12, 12, 3), name="wasteful")
    first = builder.conv(builder.input, 8, (3, 3))
    weights = builder.tensors[builder.operators[0].inputs[1]].data
    assert weights is not None
    weights[4:] = 0
    second = builder.reshape(builder.conv(first, 6), (1, 12, 12, 6))
    (home / "wasteful.tflite").write_bytes(write_tflite(builder.finish(builder.mean(second))))
    return Path("wasteful.tflite")


@pytest.fixture
def image_model(home: Path) -> Path:
    """An int8 model whose input is the largest of its tensors."""
    builder = GraphBuilder((1, 24, 24, 3), name="image")
    value = builder.depthwise(builder.conv(builder.input, 8, (3, 3), (2, 2)), (3, 3), (2, 2))
    (home / "image.tflite").write_bytes(write_tflite(builder.finish(builder.mean(builder.conv(value, 10)))))
    return Path("image.tflite")


def write_tiny_data(path: Path) -> Path:
    """400 images of 16×16, whose bright third tells the class."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 400)
    images = rng.integers(0, 60, (400, 16, 16), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[:, 5 * label : 5 * label + 5] += 120
    np.savez(path, x=images, y=labels)
    return path


@pytest.fixture
def data(home: Path) -> Path:
    return write_tiny_data(home / "tiny.npz")


def little(data: Path, study: Path | str, trials: int = 5) -> list[str]:
    """The options of a study that takes seconds."""
    effort = ["--supernet-epochs", "1", "--finalists", "1", "--final-epochs", "1"]
    return ["--data", str(data), "--trials", str(trials), *effort, "-o", str(study)]
