from __future__ import annotations

import math

import pytest

from devices.profile import DeviceProfile, Reserved
from tests.tinynas.synthetic import SHAPE, SPACE
from tinynas.constraints import CONSTRAINTS, Admission, Limits
from tinynas.errors import SearchError
from tinynas.evaluation import Costs, Evaluation

COSTS = Costs(1_000_000, 10_000, sram_bytes=151_040, flash_bytes=90_000, latency_ms=12.5, energy_mj=0.5)


def test_a_violation_says_which_limit_and_by_how_much() -> None:
    limits = Limits(max_sram_bytes=126_464, max_latency_ms=10, max_flash_bytes=90_000)
    assert [str(violation) for violation in limits.violations(COSTS)] == [
        "SRAM 151,040 B exceeds the limit of 126,464 B by 24,576 B (19 %)",
        "latency 12.5 ms exceeds the limit of 10 ms by 2.5 ms (25 %)",
    ]


def test_every_constraint_of_the_table_is_checked() -> None:
    for name, constraint in CONSTRAINTS.items():
        limit = constraint.cost(COSTS)
        assert not Limits.from_mapping({name: limit}).violations(COSTS)
        (violation,) = Limits.from_mapping({name: limit * 0.99}).violations(COSTS)
        assert violation.constraint == name
        assert constraint.label in str(violation)


@pytest.mark.parametrize(
    ("misspelt", "nearest"),
    [("latencyms", "max_latency_ms"), ("max_sram", "max_sram_bytes"), ("max_energy_mJ", "max_energy_mj")],
)
def test_an_unknown_constraint_is_an_error_with_the_nearest(misspelt: str, nearest: str) -> None:
    with pytest.raises(SearchError, match=f"did you mean {nearest}") as caught:
        Limits.from_mapping({misspelt: 5})
    assert all(name in str(caught.value) for name in CONSTRAINTS)


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, "5", True])
def test_a_limit_is_a_positive_number(value: object) -> None:
    with pytest.raises(SearchError, match="not a positive number of ms"):
        Limits.from_mapping({"max_latency_ms": value})


def test_the_device_sets_what_the_user_leaves_out() -> None:
    profile = DeviceProfile(
        name="part",
        kind="mcu",
        description="one of 64 KiB and 256 KiB",
        core="cortex-m4",
        clock_hz=100_000_000,
        sram_bytes=65_536,
        flash_bytes=262_144,
        reserved=Reserved(sram_bytes=5_536, flash_bytes=0, source="none"),
        active_power_mw=50,
        sources=dict.fromkeys(("active_power_mw", "clock_hz", "flash_bytes", "sram_bytes", "stall_factor"), "none"),
    )
    limits = Limits.for_device(profile, {"max_latency_ms": 20})
    assert limits == Limits(60_000, 262_144, 20, None)
    assert Limits.for_device(profile, {"max_sram_bytes": 1000}).max_sram_bytes == 1000
    with pytest.raises(SearchError, match="60,001 is more than the 60,000 B that part has"):
        Limits.for_device(profile, {"max_sram_bytes": 60_001})


def test_costs_and_accuracies_that_mean_nothing_are_refused() -> None:
    with pytest.raises(SearchError, match="latency_ms = nan"):
        Costs(1, 1, 1, 1, math.nan, 1)
    with pytest.raises(SearchError, match="accuracy nan"):
        Evaluation(SPACE.extreme(SHAPE, largest=True), COSTS, math.nan)


def test_admission_counts_what_it_turns_away_and_keeps_the_nearest() -> None:
    asked = []

    def costs(architecture: object) -> Costs:
        asked.append(architecture)
        large = architecture == SPACE.extreme(SHAPE, largest=True)
        return Costs(1, 1, 3000 if large else 1500, 1, 2 if large else 1, 1)

    admission = Admission(Limits(max_sram_bytes=1000, max_latency_ms=1), costs)
    large, small = (SPACE.extreme(SHAPE, largest=largest) for largest in (True, False))
    assert [admission(each) for each in (small, large, large)] == [False] * 3
    assert asked == [small, large]
    rejections = admission.rejections
    assert rejections.count == 3
    assert rejections.by_constraint == {"max_sram_bytes": 3, "max_latency_ms": 2}
    assert rejections.nearest is not None
    assert rejections.nearest.architecture == small
    assert rejections.nearest.distance == 0.5
    admission.forget_rejections()
    assert (admission.rejections.count, admission.rejections.nearest) == (0, None)
