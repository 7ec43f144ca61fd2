"""How far the stages of the export agree: PyTorch, ONNX, float TensorFlow Lite, int8, and whatever runs after them.

Inputs are [N, H, W, C] float32 everywhere, outputs [N, classes]; each stage turns the layout for itself.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from onnx.reference import ReferenceEvaluator

from export.errors import ExportError
from export.quiet import quiet

FloatArray = npt.NDArray[np.float32]
Int8Array = npt.NDArray[np.int8]

_TORCH_BATCH = 256
_CHANNELS_FIRST = (0, 3, 1, 2)
_FAR = np.float32(1024)
"""More steps than any zero point brings back into int8."""


@dataclass(frozen=True, slots=True)
class StageAgreement:
    """One stage against the reference, on the same inputs."""

    stage: str
    accuracy: float
    """Share of the inputs whose largest output is that of the label."""
    top1_agreement: float
    """Share of the inputs whose largest output is the reference's."""
    max_abs_diff: float
    """Largest difference of any output, in the network's own units (logits)."""
    mean_abs_diff: float


@dataclass(frozen=True, slots=True)
class Agreement:
    """Every stage against the first one."""

    inputs: int
    reference: str
    stages: tuple[StageAgreement, ...]

    @property
    def accuracy(self) -> dict[str, float]:
        """Accuracy by stage."""
        return {stage.stage: stage.accuracy for stage in self.stages}

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries, lists and numbers."""
        return asdict(self) | {"stages": [asdict(stage) for stage in self.stages]}


@dataclass(frozen=True, slots=True, eq=False)
class Int8Outputs:
    """What an int8 network says, as it says it, with the scale that gives the numbers their meaning."""

    values: Int8Array
    scale: float
    zero_point: int

    def dequantized(self) -> FloatArray:
        return dequantize_output(self.values, self.scale, self.zero_point)


def run_stages(
    module: torch.nn.Module, onnx_path: Path, float_path: Path, int8_path: Path, inputs: FloatArray
) -> dict[str, FloatArray]:
    """Outputs [N, classes] of the stages ``torch``, ``onnx``, ``tflite`` and ``int8`` on ``inputs`` [N, H, W, C].

    What runs after them (the C code, a board) is added by the caller before `compare`. Raises ExportError when a stage
    does not run.
    """
    return {
        "torch": run_torch(module, inputs),
        "onnx": run_onnx(onnx_path, inputs),
        "tflite": run_float(float_path, inputs),
        "int8": run_int8(int8_path, inputs).dequantized(),
    }


def compare(outputs: Mapping[str, FloatArray], labels: npt.NDArray[np.integer[Any]]) -> Agreement:
    """Compare the outputs [N, classes] of each stage, in order; the first is the reference. ``labels`` is [N].

    Raises ExportError when there are no inputs, or a stage's outputs have another shape than the reference's.
    """
    reference, expected = next(iter(outputs.items()))
    if expected.ndim != 2 or len(labels) != len(expected) or len(labels) == 0:
        raise ExportError(
            f"stage '{reference}' gave outputs of {list(expected.shape)} for {len(labels)} labels; "
            "give one label for each input, and at least one"
        )
    top = expected.argmax(axis=1)
    stages = []
    for name, actual in outputs.items():
        if actual.shape != expected.shape:
            raise ExportError(
                f"stage '{name}' gave outputs of {list(actual.shape)}, stage '{reference}' of {list(expected.shape)}; "
                "export all files again from one network"
            )
        difference = np.abs(actual.astype(np.float64) - expected)
        winners = actual.argmax(axis=1)
        stages.append(
            StageAgreement(
                stage=name,
                accuracy=float((winners == labels).mean()),
                top1_agreement=float((winners == top).mean()),
                max_abs_diff=float(difference.max()),
                mean_abs_diff=float(difference.mean()),
            )
        )
    return Agreement(len(labels), reference, tuple(stages))


def run_torch(module: torch.nn.Module, inputs: FloatArray) -> FloatArray:
    """Outputs [N, classes] of the PyTorch network in evaluation mode; the module itself is left as it is."""
    frozen = copy.deepcopy(module).cpu().eval()
    images = torch.from_numpy(np.ascontiguousarray(inputs.transpose(_CHANNELS_FIRST)))
    with torch.inference_mode():
        parts = [frozen(batch) for batch in torch.split(images, _TORCH_BATCH)]
    return np.asarray(torch.cat(parts).flatten(1).numpy(), np.float32)


def run_onnx(path: Path, inputs: FloatArray) -> FloatArray:
    """Outputs [N, classes] of the ONNX file under ONNX's own reference implementation, one input at a time."""
    with quiet(f"loading '{path}'"):
        evaluator = ReferenceEvaluator(str(path))
    (name,) = evaluator.input_names
    images = np.ascontiguousarray(inputs.transpose(_CHANNELS_FIRST))
    rows = []
    for image in images:
        (output,) = evaluator.run(None, {name: image[np.newaxis]})
        rows.append(np.asarray(output).reshape(-1))
    return np.asarray(rows, np.float32)


def run_float(path: Path, inputs: FloatArray) -> FloatArray:
    """Outputs [N, classes] of the float TensorFlow Lite file under LiteRT."""
    interpreter = _interpreter(path, np.float32, OpResolverType.AUTO, inputs)
    return np.asarray(_invoke(interpreter, inputs), np.float32)


def run_int8(path: Path, inputs: FloatArray) -> Int8Outputs:
    """Outputs of the int8 TensorFlow Lite file under LiteRT's reference kernels, from float ``inputs`` [N, H, W, C].

    The reference kernels are pinned: the optimized ones differ from them, and the C code is compared to these.
    """
    interpreter = _interpreter(path, np.int8, OpResolverType.BUILTIN_REF, inputs)
    scale, zero_point = interpreter.get_input_details()[0]["quantization"]
    values = np.asarray(_invoke(interpreter, quantize_input(inputs, scale, zero_point)), np.int8)
    output_scale, output_zero_point = interpreter.get_output_details()[0]["quantization"]
    return Int8Outputs(values, float(output_scale), int(output_zero_point))


def quantize_input(inputs: npt.NDArray[np.floating[Any]], scale: float, zero_point: int) -> Int8Array:
    """float32 to int8 as TensorFlow Lite's QUANTIZE does: x ÷ scale in float32, half away from zero, clamped.

    Raises ExportError for infinities and NaN, which have no int8 form.
    """
    if not np.isfinite(inputs).all():
        raise ExportError("the inputs hold infinities or NaN, which int8 cannot; remove them first")
    with np.errstate(over="ignore"):
        steps = np.clip(inputs.astype(np.float32) / np.float32(scale), -_FAR, _FAR)
    whole = np.trunc(steps)
    # steps - whole is exact, where adding a half to steps could round up to the next whole number.
    rounded = whole + np.where(np.abs(steps - whole) >= 0.5, np.sign(steps), 0)
    return np.asarray(np.clip(rounded + np.float32(zero_point), -128, 127), np.int8)


def dequantize_output(values: Int8Array, scale: float, zero_point: int) -> FloatArray:
    """int8 to float32 as TensorFlow Lite's DEQUANTIZE does."""
    return np.asarray((values.astype(np.int32) - zero_point) * np.float64(scale), np.float32)


def _interpreter(path: Path, dtype: type, resolver: OpResolverType, inputs: FloatArray) -> Any:
    with quiet(f"loading '{path}'"):
        interpreter = Interpreter(str(path), experimental_op_resolver_type=resolver, num_threads=1)
        interpreter.allocate_tensors()
    (details,) = interpreter.get_input_details()
    if details["dtype"] is not dtype or tuple(details["shape"][1:]) != inputs.shape[1:]:
        raise ExportError(
            f"'{path}' takes {np.dtype(details['dtype'])} inputs of {list(details['shape'][1:])}, "
            f"expected {np.dtype(dtype)} of {list(inputs.shape[1:])}; export it again"
        )
    return interpreter


def _invoke(interpreter: Any, inputs: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    source, target = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    rows = []
    for sample in inputs:
        interpreter.set_tensor(source, sample[np.newaxis])
        interpreter.invoke()
        rows.append(interpreter.get_tensor(target).reshape(-1))
    return rows
