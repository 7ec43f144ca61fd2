"""A candidate's costs are those that the compiler reports for the same graph."""

from __future__ import annotations

import dataclasses
import random

import pytest

from devices.profile import DeviceProfile, load_profile
from export.codegen import generate
from export.flash import flash_bytes
from export.graph import total_macs
from export.optimize import optimize
from export.planner import plan
from export.synthetic import with_random_weights
from tinynas.architecture import Block
from tinynas.candidate import CandidateCosts
from tinynas.cost_model import CostModel, prior
from tinynas.errors import SearchError
from tinynas.space import InputShape, load_space, space_names
from tinynas.unit_facts import parameters

SPACE = load_space("mobilenet_small")
SHAPE: InputShape = (28, 28, 1)
DEVICE = load_profile("stm32f405")
SHAPES: dict[str, InputShape] = {
    "mobilenet": (96, 96, 3),
    "mobilenet_small": (28, 28, 1),
    "resnet": (32, 32, 3),
    "sensor": (128, 1, 6),
    "nasbench201": (32, 32, 3),
}


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


@pytest.mark.parametrize("name", SHAPES)
def test_random_weights_leave_a_candidates_latency_as_it_is(name: str) -> None:
    """No layer falls back to a slower kernel, and no channel turns out to be constant."""
    costs = CandidateCosts(load_space(name), SHAPES[name], 10, DEVICE, prior(DEVICE.core))
    rng = random.Random(1)
    errors = []
    for _ in range(8):
        architecture = load_space(name).sample(rng, SHAPES[name])
        optimized = optimize(with_random_weights(costs.graph(architecture)))
        measured = prior(DEVICE.core).latency_ms(plan(optimized, DEVICE.instruction_set), DEVICE)
        errors.append(abs(costs(architecture).latency_ms / measured - 1))
    assert sorted(errors)[-2] < 0.02, errors  # a sensor's network of four channels may be the exception
    assert max(errors) < 0.2


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


# --- the filter's quick way against the compiler's --------------------------------------------------------------------

COUNTS = {"mobilenet": 12, "mobilenet_small": 12, "sensor": 12}
"""Candidates compared; networks of branches are planned whole, slowly, and 2 of each must do."""


def test_every_space_is_compared() -> None:
    assert set(SHAPES) == set(space_names())


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("device", ["stm32f405", "rp2040"])
def test_the_filter_says_what_the_compiler_says(name: str, device: str) -> None:
    profile, space = load_profile(device), load_space(name)
    costs = CandidateCosts(space, SHAPES[name], 10, profile, prior(profile.core))
    rng = random.Random(f"{name} on {device}")
    architectures = [space.sample(rng, SHAPES[name]) for _ in range(COUNTS.get(name, 2))]
    first = [costs(architecture) for architecture in architectures]
    assert first == [costs.compiled(architecture) for architecture in architectures]
    assert first == [costs(architecture) for architecture in architectures], "what is kept is not what was worked out"


def test_a_window_as_a_mobilenet_is_compared() -> None:
    costs = costs_on(DEVICE, shape=(128, 1, 6))
    for seed in range(6):
        architecture = SPACE.sample(random.Random(seed), (128, 1, 6))
        assert costs(architecture) == costs.compiled(architecture)


def test_known_units_do_not_let_strange_architectures_in() -> None:
    costs = costs_on(DEVICE)
    good = SPACE.sample(random.Random(1), SHAPE)
    costs(good)
    first, *rest = good.stages
    for stages in [(first * 9, *rest), (first, *rest, first), ((Block.parse("k9e1"),), *rest)]:
        with pytest.raises(SearchError, match="not in the space"):
            costs(dataclasses.replace(good, stages=stages))
    with pytest.raises(SearchError, match="not in the space"):
        costs(dataclasses.replace(good, space="other"))


def test_layer_by_layer_sram_by_hand() -> None:
    """Inputs, output and the residual of every layer, in bytes of int8."""
    costs = costs_on(DEVICE)
    for seed in range(8):
        architecture = SPACE.sample(random.Random(seed), SHAPE)
        graph = costs.graph(architecture)
        last = {index: layer for layer, op in enumerate(graph.operators) for index in graph.activations_in(op)}
        most, alive = 0, set(graph.inputs)
        for layer, operator in enumerate(graph.operators):
            alive |= set(operator.outputs)
            most = max(most, sum(graph.tensors[index].size_bytes for index in alive))
            alive = {index for index in alive if last.get(index, layer) > layer}
        assert costs.layer_by_layer_sram(architecture) == most
        assert costs(architecture).sram_bytes < most


def test_a_pool_gives_the_same_in_order() -> None:
    costs = costs_on(DEVICE)
    architectures = [SPACE.sample(random.Random(seed), SHAPE) for seed in range(6)]
    assert list(costs.many(architectures, processes=2)) == [costs(architecture) for architecture in architectures]
