"""ONNX to float and to full int8 TensorFlow Lite, through TensorFlow's converter."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from export.atomic import write_bytes
from export.errors import ExportError
from export.onnx_to_tensorflow import concrete_function
from export.quiet import quiet

with quiet("loading TensorFlow"):
    import tensorflow as tf


def convert_float(onnx_path: Path, out: Path) -> None:
    """Write the network of ``onnx_path`` to ``out`` as float32 TensorFlow Lite, NHWC, with a batch of 1.

    Raises ModelFormatError and UnsupportedOperatorError as `concrete_function` does, ExportError when conversion fails.
    """
    write_bytes(out, _float_model(onnx_path, concrete_function(onnx_path)))


def convert_int8(onnx_path: Path, representative: npt.NDArray[np.float32], out: Path) -> None:
    """Write the network of ``onnx_path`` to ``out`` as int8 TensorFlow Lite: weights, activations, input and output.

    ``representative`` is [N, H, W, C] float32, as the network will see it: the ranges of all activations are taken from
    it. Weights have one scale per output channel. The same arguments give the same bytes.

    Raises what `convert_float` raises, and ExportError when ``representative`` does not suit the network's input.
    """
    write_bytes(out, _int8_model(onnx_path, concrete_function(onnx_path), representative))


def convert(onnx_path: Path, representative: npt.NDArray[np.float32], float_out: Path, int8_out: Path) -> None:
    """`convert_float` and `convert_int8` of one network, from one concrete function."""
    function = concrete_function(onnx_path)
    write_bytes(float_out, _float_model(onnx_path, function))
    write_bytes(int8_out, _int8_model(onnx_path, function, representative))


def _float_model(onnx_path: Path, function: Any) -> bytes:
    with quiet(f"converting '{onnx_path}' to TensorFlow Lite"):
        return bytes(tf.lite.TFLiteConverter.from_concrete_functions([function]).convert())


def _int8_model(onnx_path: Path, function: Any, representative: npt.NDArray[np.float32]) -> bytes:
    (specification,) = function.structured_input_signature[0]
    expected = tuple(specification.shape)[1:]
    if representative.dtype != np.float32 or representative.shape[1:] != expected or len(representative) == 0:
        raise ExportError(
            f"the representative inputs are {representative.dtype} {list(representative.shape)}; "
            f"give at least one float32 input of {list(expected)} (height, width, channels)"
        )
    if not np.isfinite(representative).all():
        raise ExportError("the representative inputs hold infinities or NaN; remove them before quantizing")

    def batches() -> Iterator[list[npt.NDArray[np.float32]]]:
        for sample in representative:
            yield [sample[np.newaxis]]

    with quiet(f"quantizing '{onnx_path}' to int8"):
        converter = tf.lite.TFLiteConverter.from_concrete_functions([function])
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = batches
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = tf.int8
        converter.inference_output_type = tf.int8
        return bytes(converter.convert())
