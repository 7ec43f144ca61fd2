"""Convolutions along time, for motion sensors and audio."""

from __future__ import annotations

from tinynas.architecture import Unit
from tinynas.blocks.kind import KERNELS, BlockKind, Choice
from tinynas.graph_builder import GraphBuilder


def lower(builder: GraphBuilder, value: int, unit: Unit) -> int:
    """One convolution, or a depthwise and a 1×1 one."""
    if not unit["s"]:
        return builder.conv(value, unit.channels, unit["k"], unit.stride, f"{unit.name}.conv")
    value = builder.depthwise(value, unit["k"], unit.stride, f"{unit.name}.depthwise")
    return builder.conv(value, unit.channels, 1, 1, f"{unit.name}.pointwise")


CONV1D = BlockKind(
    name="conv1d",
    title="1-D convolution",
    source='the convolutions of keyword spotting and activity recognition (Zhang et al., "Hello Edge", 2017)',
    choices=(
        Choice("kernel", "k", "samples that the convolution sees", KERNELS),
        Choice("separable", "s", "0: one convolution, 1: a depthwise and a 1×1 one", (0, 1), is_larger_cheaper=True),
    ),
    diagram="""\
s0: input ─ k×1 convolution to the stage's channels, ReLU6 ─ output        carries the stride
s1: input ─ k×1 depthwise convolution, ReLU6                               carries the stride
          ─ 1×1 convolution to the stage's channels, ReLU6 ─ output""",
    lower=lower,
)
