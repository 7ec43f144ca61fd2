"""What is counted of a layer: the work that its kernel does, whatever its shape, and what the store keeps of it."""

from __future__ import annotations

import math
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.firmware import SOURCE_DIR
from devices.profile import InstructionSet
from export.graph import Activation, Graph, OpKind, macs
from export.kernels import VIEW, all_kernels, candidate_kernels, kernel_of
from export.planner import plan
from export.synthetic import with_random_weights
from scripts.single_layers import random_layers
from tests.tinynas.test_candidate import SHAPES
from tinynas import layer_features as module
from tinynas.layer_features import (
    FEATURES,
    MEANINGS,
    LayerFeatures,
    features_of,
    features_version,
    layer_features,
)
from tinynas.lower import lower
from tinynas.space import load_space, space_names

INSTRUCTION_SETS: tuple[InstructionSet, ...] = ("generic", "dsp", "helium")


def counts(layer: LayerFeatures) -> dict[str, float]:
    return dict(zip(FEATURES, layer.values, strict=True))


def alone(graph: Graph, instruction_set: InstructionSet, *, streamed: bool = False) -> LayerFeatures:
    """The features of a graph's one layer."""
    (operator,) = graph.operators
    kernel = kernel_of(graph, operator, instruction_set)
    return features_of(graph, operator, kernel.name, is_streamed=streamed, planes=frozenset())


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
def test_every_kernel_is_counted_by_features_that_have_a_meaning(instruction_set: InstructionSet) -> None:
    rng, met = random.Random(1), set()
    for graph in [graph for _ in range(6) for graph in random_layers(rng)]:
        (operator,) = graph.operators
        # Those that a layer's values may keep from running it, too.
        kernels = {k.name for k in candidate_kernels(operator.kind, instruction_set) if k.fits(graph, operator)}
        for kernel in kernels:
            layer = features_of(graph, operator, kernel, is_streamed=False, planes=frozenset())
            assert all(value >= 0 and math.isfinite(value) for value in layer.values)
            assert sum(layer.values) > 0
        met |= kernels
    assert all(meaning and name.isidentifier() for name, meaning in MEANINGS.items())
    assert met == {kernel.name for kernel in all_kernels(instruction_set)} - {VIEW.name}


@given(seed=st.integers(0, 2**16), streamed=st.booleans())
def test_the_rounds_of_the_loops_add_up_to_the_work(seed: int, streamed: bool) -> None:
    """Every pixel is computed, in threes or twos; at most one is computed twice, and runs are padded to words."""
    for graph in random_layers(random.Random(seed))[:5]:
        (operator,) = graph.operators
        output = graph.output_tensor(operator)
        layer = alone(graph, "dsp", streamed=streamed)
        if layer.kernel != "tn_conv_dsp_s8":
            continue
        found = counts(layer)
        pixels = output.elements // output.shape[-1]
        calls = output.shape[1] if streamed else 1
        assert found["calls"] == calls
        assert 0 <= 3 * found["blocks"] + 2 * found["pair_blocks"] - pixels <= calls
        computed = 24 * found["products"] + 16 * found["pair_products"]
        assert computed >= macs(graph, operator)
        assert found["outputs"] == found["blocks"] * -(-output.shape[-1] // 2)
        assert found["windows"] + 3 * found["blocks"] >= pixels
        assert found["twice"] == (0 if operator.activation is Activation.RELU6 else found["outputs"])


@given(seed=st.integers(0, 2**16))
def test_kernels_of_plain_c_multiply_what_there_is_to_multiply(seed: int) -> None:
    for graph in random_layers(random.Random(seed))[:6]:
        (operator,) = graph.operators
        found = counts(alone(graph, "generic"))
        by_two = 4 * (4 * found["products"] + found["tails"])
        by_four_or_one = 4 * found["pair_products"] + found["single_products"]
        assert by_two + by_four_or_one == macs(graph, operator)


@pytest.mark.parametrize("name", space_names())
@pytest.mark.parametrize("instruction_set", ["dsp", "helium"])
def test_networks_are_counted_before_they_have_weights(name: str, instruction_set: InstructionSet) -> None:
    space, shape = load_space(name), SHAPES[name]
    graph = lower(space.sample(random.Random(2), shape), space, shape, 10)
    without = layer_features(plan(graph, instruction_set))
    assert len(without) == len(graph.operators)
    filled = with_random_weights(graph)
    weighted = layer_features(plan(filled, instruction_set))
    position = FEATURES.index("clamped")
    for layer, operator, before, after in zip(range(len(without)), filled.operators, without, weighted, strict=True):
        if before.kernel == after.kernel and instruction_set == "dsp":
            assert before == replace(after, values=(*after.values[:position], 0.0, *after.values[position + 1 :])), (
                f"layer {layer}, {operator.kind}"
            )


def test_a_clamp_within_int8_is_a_pass_of_its_own() -> None:
    """A trained network's outputs end where its activation does; those of random weights may not."""
    graph = next(g for g in random_layers(random.Random(0)) if g.operators[0].activation is Activation.RELU6)
    filled = with_random_weights(graph)
    output = filled.operators[0].outputs[0]

    def clamped(scale: float) -> float:
        tensors = list(filled.tensors)
        quantization = tensors[output].quantization
        assert quantization is not None
        tensors[output] = replace(tensors[output], quantization=replace(quantization, scales=(scale,)))
        return counts(alone(replace(filled, tensors=tuple(tensors)), "dsp"))["clamped"]

    assert clamped(6 / 255) == 0
    assert clamped(1.0) == filled.tensors[output].elements / 4


def test_rows_stored_by_channel_need_not_be_gathered() -> None:
    graph = next(
        g
        for seed in range(20)
        for g in random_layers(random.Random(seed))
        if kernel_of(g, g.operators[0], "dsp").name == "tn_depthwise_3x3_dsp_s8" and g.tensors[0].shape[-1] >= 4
    )
    (operator,) = graph.operators
    rows, planes = (
        counts(features_of(graph, operator, "tn_depthwise_3x3_dsp_s8", is_streamed=False, planes=frozenset(of)))
        for of in ((), graph.inputs)
    )
    assert rows["runs"] > 0 == planes["runs"]
    assert rows["outputs"] == planes["outputs"]


def test_streaming_changes_the_calls_and_not_the_products() -> None:
    for graph in random_layers(random.Random(4)):
        (operator,) = graph.operators
        if operator.kind not in (OpKind.DEPTHWISE_CONV_2D, OpKind.AVERAGE_POOL_2D, OpKind.MAX_POOL_2D):
            continue
        whole, streamed = (counts(alone(graph, "dsp", streamed=each)) for each in (False, True))
        if "pool_global" not in alone(graph, "dsp").kernel:
            assert whole["products"] == streamed["products"]
        assert whole["calls"] == 1 <= streamed["calls"]


@given(st.lists(st.floats(0, 1e9), min_size=len(FEATURES), max_size=len(FEATURES)))
def test_the_store_gives_back_what_it_was_given(values: list[float]) -> None:
    layer = LayerFeatures("tn_conv_dsp_s8", tuple(values))
    assert LayerFeatures.from_row(layer.to_row()) == layer


@pytest.mark.parametrize(
    "change",
    [
        {"features": "0123456789abcdef"},
        {"features": None},
        {"kernel": 3},
        {"counts": [1, 2]},
        {"counts": {"products": "many"}},
        {"counts": {"wishes": 1.0}},
    ],
)
def test_rows_of_other_features_are_told_apart(change: dict[str, object]) -> None:
    row = LayerFeatures("tn_conv_dsp_s8", (1.0,) * len(FEATURES)).to_row()
    assert LayerFeatures.from_row(row | change) is None
    # As the first versions of tinynas stored them.
    assert LayerFeatures.from_row({"kernel": "tn_conv_dsp_s8", "values": [1, 2, 3]}) is None


def test_another_kernel_is_another_version(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shutil.copytree(SOURCE_DIR / "kernels", tmp_path / "kernels")
    monkeypatch.setattr(module, "SOURCE_DIR", tmp_path)
    version = features_version.__wrapped__
    assert version() == features_version()
    changed = tmp_path / "kernels" / "tn_conv_dsp_s8.c"
    changed.write_text(changed.read_text().replace("x += 3 * blocks", "x += 3u * blocks"))
    assert version() != features_version()
