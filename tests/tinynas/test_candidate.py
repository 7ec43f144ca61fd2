"""A candidate's costs are those that the compiler reports for the same graph."""

from __future__ import annotations

import random

import pytest

from devices.profile import DeviceProfile, load_profile
from export.codegen import generate
from export.flash import flash_bytes
from export.graph import total_macs
from export.synthetic import with_random_weights
from tinynas.candidate import CandidateCosts, parameters
from tinynas.cost_model import CostModel, prior
from tinynas.errors import SearchError
from tinynas.space import InputShape, load_space

SPACE = load_space("mobilenet_small")
SHAPE: InputShape = (28, 28, 1)
DEVICE = load_profile("stm32f405")


def costs_on(device: DeviceProfile, model: CostModel | None = None, shape: InputShape = SHAPE) -> CandidateCosts:
    return CandidateCosts(SPACE, shape, 10, device, model or prior(device.core))


@pytest.mark.parametrize("seed", range(4))
def test_costs_are_the_compilers(seed: int) -> None:
    architecture = SPACE.sample(random.Random(seed), SHAPE)
    costs = costs_on(DEVICE)(architecture)
    graph = with_random_weights(costs_on(DEVICE).graph(architecture))
    model = generate(graph, DEVICE.instruction_set)
    assert costs.sram_bytes == model.plan.arena_bytes
    assert f"TN_MODEL_ARENA_BYTES {costs.sram_bytes}" in model.files["model.h"]
    assert costs.flash_bytes == flash_bytes(model.plan, DEVICE)
    assert costs.energy_mj == DEVICE.energy_mj(costs.latency_ms)


def test_macs_and_parameters_of_the_smallest() -> None:
    """Counted by hand from the space: the stem, one block a stage, and the classifier."""
    smallest = SPACE.extreme(SHAPE, largest=False)
    graph = costs_on(DEVICE).graph(smallest)
    side = -(-smallest.resolution // SPACE.stem.stride)
    channels = SPACE.channels(SPACE.stem.channels, smallest.width)
    taps = SPACE.stem.kernel**2
    macs, weights = side**2 * channels * taps, channels * taps + channels
    for stage, (block,) in zip(SPACE.stages, smallest.stages, strict=True):
        hidden, out = channels * block["e"], SPACE.channels(stage.channels, smallest.width)
        if block["e"] > 1:
            macs += side**2 * channels * hidden
            weights += channels * hidden + hidden
        side = -(-side // stage.stride)
        macs += side**2 * hidden * (block["k"] ** 2 + out)
        weights += hidden * block["k"] ** 2 + hidden + hidden * out + out
        channels = out
    macs, weights = macs + channels * 10, weights + channels * 10 + 10
    assert total_macs(graph) == macs
    assert parameters(graph) == weights


def test_the_device_and_the_cost_model_decide_the_latency_alone() -> None:
    architecture = SPACE.sample(random.Random(1), SHAPE)
    slow, other = costs_on(DEVICE)(architecture), costs_on(load_profile("stm32f746"))(architecture)
    assert slow.sram_bytes == other.sram_bytes
    assert slow.macs == other.macs
    assert slow.latency_ms > other.latency_ms


def test_an_architecture_of_another_data_set_is_an_error() -> None:
    architecture = SPACE.sample(random.Random(1), SHAPE)
    with pytest.raises(SearchError, match="resolution"):
        costs_on(DEVICE, shape=(200, 1, 6))(architecture)
