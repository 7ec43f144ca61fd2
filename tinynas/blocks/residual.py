"""The bottleneck of ResNet, with grouped convolutions as in ResNeXt."""

from __future__ import annotations

from export.graph import Activation
from tinynas.architecture import Unit
from tinynas.blocks.kind import KERNELS, BlockKind, Choice
from tinynas.graph_builder import GraphBuilder

GROUPS = (1, 2, 4)


def hidden_channels(unit: Unit) -> int:
    """Channels between the 1×1 convolutions: ``b`` quarters of the output's, to a multiple that all groups divide."""
    multiple = max(GROUPS)
    return -(-unit.channels * unit["b"] // (4 * multiple)) * multiple


def lower(builder: GraphBuilder, value: int, unit: Unit) -> int:
    """1×1, grouped k×k, 1×1, and the addition of the input, by way of a 1×1 convolution where its shape is another."""
    entry, hidden, name = value, hidden_channels(unit), unit.name
    value = builder.conv(entry, hidden, 1, 1, f"{name}.reduce")
    value = builder.conv(value, hidden, unit["k"], unit.stride, f"{name}.spatial", groups=unit["g"])
    value = builder.conv(value, unit.channels, 1, 1, f"{name}.expand", Activation.NONE)
    if unit.stride != 1 or builder.channels(entry) != unit.channels:
        entry = builder.conv(entry, unit.channels, 1, unit.stride, f"{name}.shortcut", Activation.NONE)
    return builder.add(value, entry, f"{name}.add", Activation.RELU6)


RESIDUAL = BlockKind(
    name="residual",
    title="ResNet bottleneck",
    source="ResNet (He et al., CVPR 2016), with the groups of ResNeXt (Xie et al., CVPR 2017); ReLU6 in place of ReLU",
    choices=(
        Choice("kernel", "k", "side of the middle convolution", KERNELS),
        Choice("bottleneck", "b", "channels of the middle convolution, in quarters of the output's", range(1, 9)),
        Choice("groups", "g", "groups of the middle convolution", GROUPS, is_larger_cheaper=True),
    ),
    diagram="""\
input ─┬─ 1×1 convolution to b/4 of the stage's channels, ReLU6
       │  k×k convolution in g groups, ReLU6                 carries the stride
       │  1×1 convolution to the stage's channels
       └─ + ─ ReLU6 ─ output                                 what is added goes through a 1×1 convolution with
                                                             the stride where the shape changes""",
    lower=lower,
)
