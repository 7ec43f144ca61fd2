"""Which kernel runs which layer: the one choice that planner, generator, flash model and cost model share."""

from __future__ import annotations

from collections.abc import Sequence

from devices.profile import InstructionSet
from export.graph import Graph, Operator, OpKind
from export.kernels.dsp_add import ADD_DSP
from export.kernels.dsp_conv import CONV_DSP
from export.kernels.dsp_depthwise import (
    DEPTHWISE_3X3_DSP,
    DEPTHWISE_3X3_NARROW_DSP,
    DEPTHWISE_3X3_STRIDE2_DSP,
    DEPTHWISE_DSP,
)
from export.kernels.dsp_depthwise_channels import DEPTHWISE_3X3_CHANNELS_DSP, DEPTHWISE_CHANNELS_DSP
from export.kernels.dsp_fully_connected import FULLY_CONNECTED_DSP
from export.kernels.generic import GENERIC
from export.kernels.helium import ADD_MVE, CONV_1X1_MVE, CONV_MVE, DEPTHWISE_MVE, FULLY_CONNECTED_MVE
from export.kernels.kernel import Kernel

_FAMILIES: dict[InstructionSet, dict[OpKind, tuple[Kernel, ...]]] = {
    "generic": {},
    "dsp": {
        OpKind.CONV_2D: (CONV_DSP,),
        OpKind.DEPTHWISE_CONV_2D: (
            DEPTHWISE_3X3_CHANNELS_DSP,
            DEPTHWISE_3X3_NARROW_DSP,
            DEPTHWISE_3X3_DSP,
            DEPTHWISE_3X3_STRIDE2_DSP,
            DEPTHWISE_CHANNELS_DSP,
            DEPTHWISE_DSP,
        ),
        OpKind.FULLY_CONNECTED: (FULLY_CONNECTED_DSP,),
        OpKind.ADD: (ADD_DSP,),
    },
    "helium": {
        OpKind.CONV_2D: (CONV_1X1_MVE, CONV_MVE),
        OpKind.DEPTHWISE_CONV_2D: (DEPTHWISE_MVE,),
        OpKind.FULLY_CONNECTED: (FULLY_CONNECTED_MVE,),
        OpKind.ADD: (ADD_MVE,),
    },
}
"""What each instruction set has that plain C has not, the kernel to prefer first."""


def _no_kernel(graph: Graph, operator: Operator) -> int:
    return 0


VIEW = Kernel("view", "", lambda graph, operator: True, _no_kernel, lambda graph, operator: {}, lambda g, o: ())
"""Stands in for the kernel of a RESHAPE, which moves nothing."""


BUILD_REQUIREMENTS: dict[InstructionSet, tuple[str, str]] = {
    "helium": ("defined(__ARM_FEATURE_MVE)", "Helium: build with the flags of such a core, as in -mcpu=cortex-m55"),
}
"""What the preprocessor must know for an instruction set whose kernels have no portable form, and what to do where it
does not. Those for Armv7E-M have one: such a model runs everywhere, only slower."""


def candidate_kernels(kind: OpKind, instruction_set: InstructionSet) -> tuple[Kernel, ...]:
    """The kernels of an operator, the one to prefer first; they take every layer between them."""
    if kind is OpKind.RESHAPE:
        return (VIEW,)
    return (*_FAMILIES[instruction_set].get(kind, ()), *GENERIC[kind])


def all_kernels(instruction_set: InstructionSet) -> tuple[Kernel, ...]:
    """Every kernel that a model for the instruction set may use, once each."""
    kernels = [kernel for kind in OpKind for kernel in candidate_kernels(kind, instruction_set)]
    return tuple({kernel.name: kernel for kernel in kernels}.values())


def kernel_of(graph: Graph, operator: Operator, instruction_set: InstructionSet) -> Kernel:
    """The kernel that runs ``operator``. That of a candidate without data may not accept the values it will have."""
    constants = [tensor for tensor in graph.input_tensors(operator) if tensor.is_constant]
    has_data = all(tensor.data is not None for tensor in constants)
    return next(
        kernel
        for kernel in candidate_kernels(operator.kind, instruction_set)
        if kernel.fits(graph, operator) and (kernel.accepts if has_data else kernel.expects)(graph, operator)
    )


def scratch_bytes(graph: Graph, operator: Operator, instruction_set: InstructionSet) -> int:
    """Scratch memory of the layer: the most that any kernel needs that the weights' values may choose."""
    most = 0
    for kernel in candidate_kernels(operator.kind, instruction_set):
        if kernel.fits(graph, operator):
            most = max(most, kernel.scratch_bytes(graph, operator))
            if kernel.takes_any_values:
                break
    return most


def kernels_of(graph: Graph, instruction_set: InstructionSet) -> tuple[Kernel, ...]:
    """The kernel of every layer, in order."""
    return tuple(kernel_of(graph, operator, instruction_set) for operator in graph.operators)


def can_write_planes(graph: Graph, operator: Operator, kernel: Kernel) -> bool:
    """Whether a layer that ``kernel`` runs can store its output's rows channel by channel: a dense convolution.

    Where a row is one pixel there is nothing to choose.
    """
    return kernel.planes and operator.kind is OpKind.CONV_2D and graph.output_tensor(operator).shape[2] > 1


def can_read_planes(operator: Operator, kernel: Kernel) -> bool:
    """Whether a layer that ``kernel`` runs can read rows that are stored channel by channel: a depthwise one."""
    return kernel.planes and operator.kind is OpKind.DEPTHWISE_CONV_2D


def tensors_in_planes(graph: Graph, kernels: Sequence[Kernel]) -> frozenset[int]:
    """Tensors whose rows are stored channel by channel: their producer can write, and all their readers can read them.

    ``kernels`` are those of the layers.
    """
    writable = {
        operator.outputs[0]
        for operator, kernel in zip(graph.operators, kernels, strict=True)
        if can_write_planes(graph, operator, kernel)
    }
    read: set[int] = set()
    for operator, kernel in zip(graph.operators, kernels, strict=True):
        read.update(operator.inputs)
        if not can_read_planes(operator, kernel):
            writable.difference_update(operator.inputs)
    return frozenset(writable & read - set(graph.outputs))
