"""Costs of a candidate before anything is trained: the compiler's own planner, the flash model and the cost model."""

from __future__ import annotations

from dataclasses import dataclass

from devices.profile import DeviceProfile
from export.flash import flash_bytes
from export.graph import Graph, total_macs
from export.optimize import optimize
from export.planner import plan
from tinynas.architecture import Architecture
from tinynas.cost_model import CostModel
from tinynas.evaluation import Costs
from tinynas.lower import lower
from tinynas.space import InputShape, SearchSpace


@dataclass(frozen=True)
class CandidateCosts:
    """Computes the costs of architectures on one device; call it with an architecture.

    SRAM and flash are what the linker will report, not an estimate: the same planner compiles the exported model.
    """

    space: SearchSpace
    input_shape: InputShape
    classes: int
    profile: DeviceProfile
    cost_model: CostModel

    def graph(self, architecture: Architecture) -> Graph:
        """The graph that the exported int8 model will have once it is optimized.

        Less what the weights' values allow: channels that turn out to be constant are left out of the real one.
        """
        return optimize(lower(architecture, self.space, self.input_shape, self.classes))

    def __call__(self, architecture: Architecture) -> Costs:
        graph = self.graph(architecture)
        planned = plan(graph, self.profile.instruction_set)
        latency_ms = self.cost_model.latency_ms(planned, self.profile)
        return Costs(
            macs=total_macs(graph),
            parameters=parameters(graph),
            sram_bytes=planned.arena_bytes,
            flash_bytes=flash_bytes(planned, self.profile),
            latency_ms=latency_ms,
            energy_mj=self.profile.energy_mj(latency_ms),
        )


def parameters(graph: Graph) -> int:
    """Weights and biases."""
    return sum(tensor.elements for tensor in graph.tensors if tensor.is_constant)
