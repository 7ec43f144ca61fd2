"""The shared weights of every kind of block against the networks that take their part of them."""

from __future__ import annotations

import random

import pytest
import torch

from tinynas.elastic import SupernetWeights
from tinynas.modules.conv import ConvUnit, ElasticConv
from tinynas.network import build_network, scale_to
from tinynas.space import InputShape, input_shape_at, load_space, space_names

IMAGE: InputShape = (16, 16, 3)
WINDOW: InputShape = (32, 1, 3)
CASES = [(name, IMAGE) for name in space_names() if name not in ("mobilenet", "sensor")]
CASES += [("sensor", WINDOW), ("mobilenet_small", WINDOW)]


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_an_extracted_network_computes_what_the_shared_weights_do(name: str, shape: InputShape) -> None:
    space, rng = load_space(name), random.Random(0)
    torch.manual_seed(0)
    weights = SupernetWeights(space, shape, 5)
    for parameter_name, parameter in weights.named_parameters():
        if parameter_name.endswith((".scale", ".shift", ".bias")):
            torch.nn.init.normal_(parameter, 1, 0.2)
    images = torch.randn(8, shape[2], *shape[:2])
    chosen = [space.extreme(shape, largest=largest) for largest in (True, False)]
    for architecture in chosen + [space.sample(rng, shape) for _ in range(8)]:
        size = input_shape_at(architecture.resolution, shape)[:2]
        with torch.inference_mode():
            shared = weights(images, architecture)
            alone = weights.extract(architecture).train()(scale_to(images, size))
        assert shared.std() > 0
        torch.testing.assert_close(shared, alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "shape"), [("nasbench201", IMAGE), ("sensor", WINDOW)])
def test_every_shared_weight_is_trained_by_some_architecture(name: str, shape: InputShape) -> None:
    space, rng = load_space(name), random.Random(1)
    weights = SupernetWeights(space, shape, 5)
    images = torch.randn(4, shape[2], *shape[:2])
    missing = {parameter_name for parameter_name, _ in weights.named_parameters()}
    for _ in range(300):
        weights(images, space.sample(rng, shape)).sum().backward()
        missing -= {name for name, parameter in weights.named_parameters() if parameter.grad is not None}
        if not missing:
            return
        weights.zero_grad()
    assert not missing


def test_groups_are_squares_on_the_diagonal() -> None:
    elastic = ElasticConv(8, 8, (5, 5), activation=True)
    unit = ConvUnit(4, 4, (3, 3), groups=2)
    with torch.no_grad():
        elastic.copy_part_to(unit)
    dense = elastic.weight[:4, :4, 1:4, 1:4]
    assert unit.conv.weight.shape == (4, 2, 3, 3)
    assert torch.equal(unit.conv.weight[:2], dense[:2, :2])
    assert torch.equal(unit.conv.weight[2:], dense[2:, 2:])


def test_the_same_seed_gives_the_same_network() -> None:
    space = load_space("resnet")
    architecture = space.sample(random.Random(0), IMAGE)
    one, other = (torch.manual_seed(3) and build_network(architecture, space, IMAGE, 5).state_dict() for _ in range(2))
    assert all(torch.equal(one[key], other[key]) for key in one)
