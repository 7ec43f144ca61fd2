"""Statistics of repeated measurements: intervals hold what they promise, and what is wrong with a board is told."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from devices.errors import DeviceError
from devices.statistics import RepeatPolicy, is_steady, median_interval, repeat_until_steady, summarize

Draw = Callable[[np.random.Generator, int], np.ndarray]
DISTRIBUTIONS: dict[str, tuple[Draw, float]] = {
    "normal": (lambda rng, n: 1 + 0.02 * rng.standard_normal(n), 1.0),
    "lognormal": (lambda rng, n: np.exp(0.05 * rng.standard_normal(n)), 1.0),
    "exponential": (lambda rng, n: 1 + 0.03 * rng.exponential(size=n), 1 + 0.03 * np.log(2)),
    "uniform": (lambda rng, n: 1 + 0.1 * rng.random(n), 1.05),
    "stragglers": (
        lambda rng, n: 1 + 0.01 * rng.standard_normal(n) * np.where(rng.random(n) < 0.1, 20, 1),
        1.0,
    ),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize("count", [6, 15, 40])
def test_the_interval_holds_the_true_median_as_often_as_it_says(name: str, count: int) -> None:
    draw, true = DISTRIBUTIONS[name]
    rng = np.random.default_rng(count)
    trials = 600
    held = 0
    for _ in range(trials):
        interval = median_interval(draw(rng, count).tolist())
        assert interval is not None
        held += interval[0] <= true <= interval[1]
    # 600 trials of an interval that held 95 % would fall below .925 once in 400 times, and the seed is fixed.
    assert held / trials >= 0.925
    # Nor is it wider than it must be: the next narrower pair of values would hold less than 95 %.
    assert held / trials <= 0.995


@pytest.mark.parametrize("count", [6, 7, 9, 20, 55, 100, 999])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_the_interval_lies_between_the_values_that_the_binomial_distribution_names(
    count: int, confidence: float
) -> None:
    interval = median_interval([float(value) for value in range(1, count + 1)], RepeatPolicy(confidence=confidence))
    narrowest = max(
        (k for k in range(1, count // 2 + 1) if 1 - 2 * binom.cdf(k - 1, count, 0.5) >= confidence), default=None
    )
    assert interval == (None if narrowest is None else (narrowest, count + 1 - narrowest))


def test_fewer_than_six_values_have_no_interval_of_95_percent() -> None:
    assert median_interval([1.0, 1.1, 1.2, 1.3, 1.4]) is None
    assert median_interval([1.0, 1.1, 1.2, 1.3, 1.4, 1.5]) == (1.0, 1.5)
    found = summarize([1.0, 1.001, 1.0])
    assert (found.low, found.high, found.half_width, found.is_steady) == (None, None, None, False)
    assert any("3 timings tell too little" in warning for warning in found.warnings)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_repeating_until_the_interval_is_narrow_keeps_its_promise(name: str) -> None:
    draw, true = DISTRIBUTIONS[name]
    rng = np.random.default_rng(7)
    policy = RepeatPolicy(at_most=100_000)
    trials, held, close = 400, 0, 0
    for _ in range(trials):
        values = repeat_until_steady(lambda: float(draw(rng, 1)[0]), policy)
        interval = median_interval(values, policy)
        assert interval is not None
        held += interval[0] <= true <= interval[1]
        close += abs(float(np.median(values)) / true - 1) <= policy.half_width
    assert held / trials >= 0.92
    assert close / trials >= 0.945


def _replay(values: Sequence[float]) -> Callable[[], float]:
    stream: Iterator[float] = iter(values)
    return lambda: next(stream)


def test_warm_ups_are_left_out_and_order_is_kept() -> None:
    assert repeat_until_steady(_replay([9.0, 8.0, *[2.0] * 10]), RepeatPolicy(warmups=2)) == (2.0,) * 5


def test_identical_values_are_done_at_the_least_number() -> None:
    for at_least in (1, 2, 5, 9):
        values = repeat_until_steady(lambda: 1.5, RepeatPolicy(at_least=at_least))
        assert values == (1.5,) * at_least
        assert summarize(values, RepeatPolicy(at_least=at_least)).half_width == 0.0


def test_values_that_differ_go_on_until_there_is_an_interval() -> None:
    close = [1.0, 1.001, 0.999, 1.002, 0.998, 1.0005, 0.9995, 1.0, 1.0]
    assert len(repeat_until_steady(_replay([1.0, *close]))) == 7  # six have one, and it has to last for another value


def test_the_cap_ends_what_never_becomes_steady() -> None:
    values = repeat_until_steady(_replay([1.0, 2.0] * 50), RepeatPolicy(at_most=30))
    assert len(values) == 30
    assert any("±1.0% was asked for" in warning for warning in summarize(values).warnings)


def test_the_time_ends_it_but_never_before_the_least_number() -> None:
    seconds = itertools.count(step=10)
    wild = itertools.cycle([1.0, 2.0])
    policy = RepeatPolicy(at_least=5, at_most_s=45.0)
    # The clock is read once at the start, then after each value from the fifth on: at 10, 20, 30, 40 and 50 seconds.
    assert len(repeat_until_steady(lambda: next(wild), policy, clock=lambda: next(seconds))) == 9
    jump = iter([0, 1_000_000])
    assert len(repeat_until_steady(lambda: next(wild), policy, clock=lambda: next(jump))) == 5


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_what_is_no_duration_is_refused(value: float) -> None:
    with pytest.raises(DeviceError, match=r"repetition 2 took .* no duration"):
        repeat_until_steady(_replay([1.0, 1.0, value]))
    with pytest.raises(DeviceError, match=r"repetition 2 took .* no duration"):
        summarize([1.0, value])


def test_nothing_cannot_be_summed_up() -> None:
    with pytest.raises(DeviceError, match="no repetition"):
        summarize([])


@pytest.mark.parametrize(
    "wrong",
    [{"at_least": 0}, {"at_most": 4}, {"warmups": -1}, {"half_width": 0.0}, {"confidence": 1.0}, {"at_most_s": 0}],
)
def test_a_policy_that_nothing_can_follow_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(DeviceError, match="cannot be repeated"):
        RepeatPolicy(**wrong)  # type: ignore[arg-type]


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=60))
def test_any_durations_have_a_summary_that_agrees_with_numpy(values: list[float]) -> None:
    found = summarize(values)
    assert found.count == len(values)
    assert found.median == pytest.approx(np.median(values))
    assert found.mean == pytest.approx(np.mean(values))
    assert found.deviation == pytest.approx(np.std(values, ddof=1) if len(values) > 1 else 0.0, abs=1e-9)
    assert found.is_steady == is_steady(values)
    assert (found.low is None) == (found.high is None) == (found.half_width is None)
    if found.low is not None and found.high is not None:
        assert min(values) <= found.low <= found.median <= found.high <= max(values)
    assert all(0 <= position < len(values) for position in found.outliers)


@given(st.lists(st.floats(0.1, 10), min_size=6, max_size=40), st.sampled_from([1e-3, 0.5, 1024.0]))
def test_the_unit_does_not_matter(values: list[float], factor: float) -> None:
    found, scaled = summarize(values), summarize([value * factor for value in values])
    assert (found.count, found.throttled, found.is_steady) == (scaled.count, scaled.throttled, scaled.is_steady)
    assert found.drift is not None
    assert scaled.drift is not None
    assert found.drift.relative == pytest.approx(scaled.drift.relative, abs=1e-9)


def test_outliers_are_named_and_kept() -> None:
    values = [1.0, 1.002, 0.999, 1.001, 3.1, 1.0, 0.998, 1.003, 1.001, 0.999]
    found = summarize(values)
    assert found.outliers == (4,)
    assert found.count == 10
    assert found.mean == pytest.approx(np.mean(values))
    (warning,) = found.warnings
    assert "1 run took more than 10% off the median, the worst of them run 5, at 3.10 times" in warning


def test_outliers_where_most_values_are_identical() -> None:
    assert summarize([1.0] * 9 + [1.5]).outliers == (9,)
    assert summarize([1.0] * 9 + [1.001]).outliers == ()  # within the precision that was asked for


QUIET: dict[str, Draw] = {
    **{name: draw for name, (draw, _) in DISTRIBUTIONS.items()},
    "whole milliseconds": lambda rng, n: np.round(20 * (1 + 0.05 * rng.standard_normal(n))),
}


@pytest.mark.parametrize("name", QUIET)
@pytest.mark.parametrize("count", [8, 30])
def test_a_board_that_is_well_is_hardly_ever_accused(name: str, count: int) -> None:
    rng = np.random.default_rng(11)
    found = [summarize(QUIET[name](rng, count).tolist()) for _ in range(100)]
    assert sum(summary.throttled for summary in found) <= 4
    assert sum(any("from the first to the last" in w for w in summary.warnings) for summary in found) <= 4
    assert sum(any("two groups" in w for w in summary.warnings) for summary in found) <= 4


@pytest.mark.parametrize(
    ("count", "slow", "by", "noise"),
    [(10, 5, 0.10, 0.01), (50, 25, 0.05, 0.01), (50, 8, 0.10, 0.02), (100, 20, 0.12, 0.03), (1000, 600, 0.05, 0.03)],
)
def test_throttling_is_found_where_it_begins(count: int, slow: int, by: float, noise: float) -> None:
    rng = np.random.default_rng(5)
    trials, found, placed = 40, 0, 0
    for _ in range(trials):
        values = 1 + noise * rng.standard_normal(count)
        values[-slow:] *= 1 + by
        summary = summarize(values.tolist())
        found += summary.throttled
        placed += any(
            f"the last {runs} runs took" in warning
            for warning in summary.warnings
            for runs in range(slow - max(3, slow // 5), slow + max(3, slow // 5) + 1)
        )
    assert found >= 0.95 * trials
    assert placed >= 0.85 * trials


def test_throttling_says_by_how_much_and_what_to_do() -> None:
    (*_, warning) = summarize([10.0] * 20 + [11.2] * 10).warnings
    assert warning == (
        "the last 10 runs took 12% longer than those before: the board throttles; cool it and charge it, fix its "
        "clock, or lower --runs"
    )


def test_a_board_that_only_becomes_faster_lacked_warm_up() -> None:
    found = summarize([11.2] * 10 + [10.0] * 20)
    assert not found.throttled
    assert found.warnings[-1].startswith("the first 10 runs took 12% longer than those after: the board was still warm")


@pytest.mark.parametrize(("rise", "word"), [(0.025, "slower"), (-0.03, "faster")])
def test_drift_is_found_and_measured(rise: float, word: str) -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        values = (1 + 0.005 * rng.standard_normal(60)) * (1 + rise * np.linspace(0, 1, 60))
        summary = summarize(values.tolist())
        assert summary.drift is not None
        assert summary.drift.relative == pytest.approx(rise, abs=0.008)
        assert summary.drift.p_value < 0.01
        assert any(f"{word} from the first to the last" in warning for warning in summary.warnings)


def test_stragglers_are_no_drift() -> None:
    values = [1.0, 1.001, 0.999, 1.0, 1.002, 0.998] * 5
    values[-1] = values[-2] = 4.0
    summary = summarize(values)
    assert not summary.throttled
    assert not any("from the first to the last" in warning for warning in summary.warnings)


def test_two_clocks_are_told_apart() -> None:
    rng = np.random.default_rng(9)
    values = (1 + 0.005 * rng.standard_normal(40)) * np.where(rng.random(40) < 0.4, 1.3, 1.0)
    warnings = summarize(values.tolist()).warnings
    assert any("two groups" in warning and "about 1.3" in warning for warning in warnings)
