"""LiteRT's reference kernels, the one oracle of what an int8 network computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert.interpreter import Interpreter, OpResolverType

Array = npt.NDArray[Any]


def run_reference(model: bytes, inputs: list[Array]) -> list[Array]:
    """Run the model once; outputs in the model's order. The optimized kernels differ, so the resolver is pinned."""
    interpreter = _invoke(model, inputs, keep_all=False)
    return [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]


def run_reference_tensors(model: bytes, inputs: list[Array]) -> dict[int, Array]:
    """Run the model once; every tensor of the main subgraph that has a value, by its index in the file."""
    interpreter = _invoke(model, inputs, keep_all=True)
    tensors = {}
    for detail in interpreter.get_tensor_details():
        try:
            tensors[detail["index"]] = interpreter.get_tensor(detail["index"])
        except ValueError:  # a temporary without data
            continue
    return tensors


def _invoke(model: bytes, inputs: list[Array], keep_all: bool) -> Interpreter:
    interpreter = Interpreter(
        model_content=model,
        experimental_op_resolver_type=OpResolverType.BUILTIN_REF,
        experimental_preserve_all_tensors=keep_all,
        num_threads=1,
    )
    interpreter.allocate_tensors()
    for detail, value in zip(interpreter.get_input_details(), inputs, strict=True):
        interpreter.set_tensor(detail["index"], np.ascontiguousarray(value))
    interpreter.invoke()
    return interpreter
