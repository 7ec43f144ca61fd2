"""Lowers an architecture to the graph that its exported int8 ``.tflite`` will have, constants without data.

Needs no torch: this is what the search filters on, thousands of times a second.
"""

from __future__ import annotations

from export.graph import Graph
from tinynas.architecture import Architecture, Unit
from tinynas.blocks import KINDS
from tinynas.blocks.cell import lower_reduction
from tinynas.graph_builder import GraphBuilder
from tinynas.space import InputShape, SearchSpace, input_shape_at


def lower(architecture: Architecture, space: SearchSpace, input_shape: InputShape, classes: int) -> Graph:
    """The network of ``architecture`` for inputs of ``input_shape`` and ``classes`` outputs.

    Raises SearchError if the architecture is not in the space.
    """
    space.check(architecture, input_shape)
    shape = input_shape_at(architecture.resolution, input_shape)
    # An image stays an image, even where its feature maps become one column wide.
    builder = GraphBuilder(str(architecture), shape, is_window=input_shape[1] == 1)
    value = builder.input
    for unit in space.units(architecture, input_shape, classes):
        value = lower_unit(builder, value, unit)
    return builder.finish(value)


def lower_unit(builder: GraphBuilder, value: int, unit: Unit) -> int:
    """Append the layers of ``unit`` after tensor ``value``; returns the index of the unit's output."""
    if unit.kind == "stem":
        return builder.conv(value, unit.channels, unit.kernel, unit.stride, unit.name)
    if unit.kind == "head":
        return builder.linear(builder.mean(value, "pool"), unit.channels, "classifier")
    if unit.kind == "reduction":
        return lower_reduction(builder, value, unit)
    return KINDS[unit.kind].lower(builder, value, unit)
