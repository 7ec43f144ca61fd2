from __future__ import annotations

import dataclasses

import pytest

from tests.tinynas.synthetic import SHAPE, SPACE
from tinynas.errors import SearchError
from tinynas.evaluation import Costs, Evaluation
from tinynas.objectives import OBJECTIVES, parse_objectives, point_of

COSTS = Costs(macs=1, parameters=2, sram_bytes=3, flash_bytes=4, latency_ms=5, energy_mj=6)
EVALUATION = Evaluation(SPACE.extreme(SHAPE, largest=True), COSTS, accuracy=0.75)


def test_less_is_better_in_every_coordinate() -> None:
    names = ("accuracy", "latency", "energy", "sram", "flash", "macs")
    assert tuple(OBJECTIVES) == names
    assert point_of(EVALUATION, names) == (-0.75, 5, 6, 3, 4, 1)
    assert point_of(EVALUATION, ("flash",)) == (4,)
    better = dataclasses.replace(EVALUATION, accuracy=0.8)
    assert point_of(better, ("accuracy",)) < point_of(EVALUATION, ("accuracy",))


def test_objectives_are_read_in_their_order() -> None:
    assert parse_objectives("accuracy,latency") == ("accuracy", "latency")
    assert parse_objectives(" sram , accuracy ") == ("sram", "accuracy")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("accuracy,latnecy", "no objective 'latnecy'; did you mean latency"),
        ("", "no objective ''; the objectives are accuracy, latency"),
        ("sram,accuracy,sram", "sram is given 2 times"),
    ],
)
def test_objectives_that_are_none_are_an_error(text: str, message: str) -> None:
    with pytest.raises(SearchError, match=message):
        parse_objectives(text)
