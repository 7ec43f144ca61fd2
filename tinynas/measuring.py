"""From a graph to figures from a board: generate, build, flash, run, store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from devices.board import Board, Measurement
from devices.firmware import FirmwareImage, build_firmware
from devices.host.scratch import scratch_folder
from devices.profile import DeviceProfile
from devices.provenance import provenance
from devices.store import MeasurementStore, StoredMeasurement
from export.atomic import write_bytes
from export.codegen import generate
from export.graph import Graph
from export.planner import plan
from tinynas.cost_model import MeasuredNetwork, layer_features
from tinynas.layer_features import features_version

_INPUT_SEED = 0
_INPUTS = f"one, uniformly random, numpy's default generator with seed {_INPUT_SEED}"


def build_image(graph: Graph, profile: DeviceProfile, folder: Path, *, stream_input: bool = False) -> FirmwareImage:
    """The firmware that carries ``graph``, built in ``folder``."""
    sources = folder / "model"
    for name, text in generate(graph, profile.instruction_set, stream_input=stream_input).files.items():
        write_bytes(sources / name, text.encode())
    return build_firmware(sources, profile, folder)


def random_inputs(graph: Graph, count: int, seed: int) -> list[bytes]:
    """``count`` raw inputs for the first input of ``graph``, as `random_input` makes them."""
    tensor = graph.tensors[graph.inputs[0]]
    rng = np.random.default_rng(seed)
    return [random_input(rng, tensor.shape, np.dtype(tensor.dtype.value)) for _ in range(count)]


def random_input(rng: np.random.Generator, shape: Sequence[int], dtype: np.dtype[Any]) -> bytes:
    """One raw input: uniform over the values of an integer type, normal (mean 0, variance 1) of a floating one."""
    if np.issubdtype(dtype, np.floating):
        return rng.standard_normal(shape, dtype=np.float32).astype(dtype).tobytes()
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True).tobytes()


def measure_graph(
    graph: Graph,
    profile: DeviceProfile,
    board: Board,
    *,
    runs: int | None = None,
    store: MeasurementStore | None = None,
    stream_input: bool = False,
) -> Measurement:
    """Run ``graph``, whose constants have data, on the board; the measurement is added to ``store``.

    ``runs`` are repetitions, by default as many as the board needs. Raises DeviceError when the board is not well, and
    when the linker's arena is not the planner's.
    """
    if store is not None:
        return measure_and_store(graph, profile, board, store, runs=runs, stream_input=stream_input).measurement
    with scratch_folder() as folder:
        return _run(build_image(graph, profile, folder, stream_input=stream_input), graph, board, runs)


def measure_and_store(
    graph: Graph,
    profile: DeviceProfile,
    board: Board,
    store: MeasurementStore,
    *,
    runs: int | None = None,
    stream_input: bool = False,
    model_sha256: str = "",
    note: str = "",
) -> StoredMeasurement:
    """As ``measure_graph``; the measurement as it is in ``store`` then, with its id and where it comes from.

    ``model_sha256`` is that of the file that ``graph`` was read from, ``note`` the user's own words.
    """
    with scratch_folder() as folder:
        image = build_image(graph, profile, folder, stream_input=stream_input)
        measurement = _run(image, graph, board, runs)
        origin = provenance(board, image, inputs=_INPUTS, model_sha256=model_sha256, note=note)
    planned = plan(graph, profile.instruction_set, stream_input=stream_input)
    features = [layer.to_row() for layer in layer_features(planned)]
    added = store.add(measurement, graph.name, features, features_version=features_version(), provenance=origin)
    stored = store.get(added)
    assert stored is not None
    return stored


def _run(image: FirmwareImage, graph: Graph, board: Board, runs: int | None) -> Measurement:
    board.flash(image)
    return board.measure(random_inputs(graph, 1, _INPUT_SEED), runs)


def measured_network(graph: Graph, profile: DeviceProfile, measurement: Measurement) -> MeasuredNetwork:
    """What the cost model learns from one measurement."""
    layers = layer_features(plan(graph, profile.instruction_set))
    return MeasuredNetwork.of(layers, measurement.layer_cycles, measurement.latency_ms, profile)


@dataclass(frozen=True, slots=True)
class Comparison:
    """A board's outputs against the reference kernels'."""

    inputs: int
    identical: int
    max_abs_diff: float


def compare_with_reference(model: bytes, inputs: Sequence[bytes], outputs: Sequence[bytes]) -> Comparison:
    """Run the ``.tflite`` ``model`` with LiteRT's reference kernels on the same raw inputs."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(model_content=model, experimental_op_resolver_type=OpResolverType.BUILTIN_REF)
    interpreter.allocate_tensors()
    (source,), target = interpreter.get_input_details(), interpreter.get_output_details()[0]
    identical, largest = 0, 0.0
    for given, found in zip(inputs, outputs, strict=True):
        interpreter.set_tensor(source["index"], np.frombuffer(given, source["dtype"]).reshape(source["shape"]))
        interpreter.invoke()
        expected = interpreter.get_tensor(target["index"])
        actual = np.frombuffer(found, expected.dtype).reshape(expected.shape)
        identical += expected.tobytes() == actual.tobytes()
        difference = np.abs(expected.astype(np.float64) - actual.astype(np.float64))
        largest = max(largest, float(difference.max()))
    return Comparison(len(inputs), identical, largest)
