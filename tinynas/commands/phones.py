"""What ``measure`` and ``verify`` do on a phone, whose runtime takes the model's file as it is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from devices.board import Board, Measurement, OperatorTime
from devices.errors import DeviceError
from devices.phone.adb_board import AdbBoard
from devices.phone.model import phone_model
from devices.profile import DeviceProfile
from devices.provenance import provenance
from devices.store import MeasurementStore, StoredMeasurement
from export.errors import ExportError
from export.graph import Graph, macs
from export.reader import read_tflite
from tinynas import output
from tinynas.measuring import compare_with_reference, random_input

_INPUTS = "benchmark_model's own, at random"
KERNEL_UNITS = 47
"""By which XNNPACK's kernels were seen to differ from the reference's in an output of 256 values: they round elsewhere,
and every layer adds to it. The optimized kernels of TensorFlow Lite differ by up to 31."""


def configure(board: Board, given: Mapping[str, Any]) -> AdbBoard:
    """The phone, with the options that were typed in place of the lab's. Raises DeviceError for another board."""
    if not isinstance(board, AdbBoard):
        raise DeviceError(f"the board {board.name} is no phone; leave out --device, or name its own profile")
    board.options = replace(board.options, **{name: value for name, value in given.items() if value is not None})
    return board


def measure_on_phone(
    path: Path, board: AdbBoard, profile: DeviceProfile, store: MeasurementStore, runs: int | None, note: str
) -> StoredMeasurement:
    """Run the model on the phone, and keep the measurement."""
    image = phone_model(path, profile.name)
    board.flash(image)
    measurement = board.measure([b""], runs)
    if "warnings" in measurement.conditions:
        output.say(f"warning: {measurement.conditions['warnings']}")
    origin = provenance(board, image, inputs=_INPUTS, model_sha256=image.sha256, note=note)
    stored = store.get(store.add(measurement, path.stem, provenance=origin))
    assert stored is not None
    return stored


def phone_figures(path: Path, measurement: Measurement) -> dict[str, Any]:
    """What ``measure`` says of the model and its layers; None is what a phone, or this model, does not tell."""
    graph = _graph(path)
    total = None if graph is None else sum(macs(graph, operator) for operator in graph.operators)
    return {
        "model": path.stem,
        "macs": total,
        "live_macs": total,  # a phone's runtime runs the network as it is
        "sram_bytes": measurement.sram_bytes or None,
        "code_bytes": None,
        "layers": [
            {
                "name": operator.name,
                "kind": operator.kind,
                "latency_ms": operator.latency_ms,
                "macs": _macs(graph, operator),
                "cycles": None,
            }
            for operator in measurement.operators
        ],
    }


def verify_on_phone(path: Path, board: AdbBoard, profile: DeviceProfile, count: int, seed: int) -> dict[str, Any]:
    """Run random inputs on the phone and on the reference kernels, which its kernels follow within KERNEL_UNITS."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    image = phone_model(path, profile.name)
    content = path.read_bytes()
    try:
        interpreter = Interpreter(model_content=content, experimental_op_resolver_type=OpResolverType.BUILTIN_REF)
        details = interpreter.get_input_details()
        (target,) = interpreter.get_output_details()
        (source,) = details
    except (ValueError, RuntimeError) as error:
        raise DeviceError(
            f"the outputs of '{path}' cannot be compared: {error}; give a model with one input and one output"
        ) from error
    rng = np.random.default_rng(seed)
    inputs = [random_input(rng, source["shape"], np.dtype(source["dtype"])) for _ in range(count)]
    board.flash(replace(image, input_shape=tuple(int(size) for size in source["shape"])))
    outputs: list[bytes] = []
    with output.progress("verifying") as update:
        for done, given in enumerate(inputs, start=1):
            outputs += board.outputs([given])
            update(done, count, "inputs")
    size = int(np.prod(target["shape"])) * np.dtype(target["dtype"]).itemsize
    if any(len(found) != size for found in outputs):
        raise DeviceError(f"the phone {board.name} wrote outputs of another size than {size} bytes; see its model")
    comparison = compare_with_reference(content, inputs, outputs)
    tolerance = float(KERNEL_UNITS)
    if np.issubdtype(target["dtype"], np.floating):
        values = np.concatenate([np.frombuffer(found, target["dtype"]) for found in outputs])
        tolerance = KERNEL_UNITS / 255 * float(np.ptp(values))
    return {
        "model": path.stem,
        "board": board.name,
        "inputs": comparison.inputs,
        "identical": comparison.identical,
        "max_abs_diff": comparison.max_abs_diff,
        "tolerance": tolerance,
        "within_tolerance": comparison.max_abs_diff <= tolerance,
    }


def _graph(path: Path) -> Graph | None:
    """The model's layers; None of a model that runs on phones only, whose MACs are not counted then."""
    try:
        return read_tflite(path)
    except ExportError as error:
        output.say(f"the MACs of {path.name} are not counted: {error}")
        return None


def _macs(graph: Graph | None, operator: OperatorTime) -> int | None:
    """Those of the layer that an operator is; None of one that stands for several. A name ends in the layer's place."""
    place = re.search(r":(\d+)$", operator.name)
    if graph is None or place is None or int(place[1]) >= len(graph.operators):
        return None
    layer = graph.operators[int(place[1])]
    return macs(graph, layer) if layer.kind.value.upper() == operator.kind.upper() else None
