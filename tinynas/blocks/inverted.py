"""The inverted bottleneck of MobileNetV2."""

from __future__ import annotations

from export.graph import Activation
from tinynas.architecture import Unit
from tinynas.blocks.kind import KERNELS, BlockKind, Choice
from tinynas.graph_builder import GraphBuilder


def lower(builder: GraphBuilder, value: int, unit: Unit) -> int:
    """Expansion (left out where the ratio is 1), depthwise convolution, projection, and the addition of the input."""
    entry, channels_in, name = value, builder.channels(value), unit.name
    if unit["e"] != 1:
        value = builder.conv(value, channels_in * unit["e"], 1, 1, f"{name}.expand")
    value = builder.depthwise(value, unit["k"], unit.stride, f"{name}.depthwise")
    value = builder.conv(value, unit.channels, 1, 1, f"{name}.project", Activation.NONE)
    if unit.stride == 1 and channels_in == unit.channels:
        value = builder.add(entry, value, f"{name}.add")
    return value


INVERTED = BlockKind(
    name="inverted",
    title="inverted bottleneck",
    source="MobileNetV2 (Sandler et al., CVPR 2018); searched by ProxylessNAS, Once-for-all and MCUNet",
    choices=(
        Choice("kernel", "k", "side of the depthwise convolution", KERNELS),
        Choice("expansion", "e", "channels of the depthwise convolution, as a multiple of the input's", range(1, 17)),
    ),
    diagram="""\
input ─┬─ 1×1 convolution to e times the channels, ReLU6   left out where e is 1
       │  k×k depthwise convolution, ReLU6                 carries the stride
       │  1×1 convolution to the stage's channels
       └─ + ─ output                                       added where the stride is 1 and the channels agree""",
    lower=lower,
)
