"""The latency model: what it learns, what it keeps, and what it says of files that are damaged."""

from __future__ import annotations

import json
import math
import random
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau

from devices.profile import device_names, load_profile
from export.kernels import VIEW, all_kernels
from export.planner import plan
from tinynas.cost_model import (
    FEATURES,
    PRIOR_ERROR,
    CostModel,
    LayerFeatures,
    MeasuredNetwork,
    calibrated_path,
    compare,
    current_cost_model,
    kendall_tau,
    layer_features,
    prior,
)
from tinynas.errors import SearchError
from tinynas.layer_features import features_version
from tinynas.lower import lower
from tinynas.space import load_space

SPACE = load_space("mobilenet_small")
SHAPE = (28, 28, 1)
M4 = prior("cortex-m4")


def networks(true: CostModel, count: int, seed: int = 0) -> list[MeasuredNetwork]:
    """Random architectures and the cycles that ``true`` gives their layers."""
    rng = random.Random(seed)
    layers = [layer_features(plan(lower(SPACE.sample(rng, SHAPE), SPACE, SHAPE, 10))) for _ in range(count)]
    return [MeasuredNetwork(each, tuple(true.layer_cycles(layer) for layer in each)) for each in layers]


def scaled(model: CostModel, seed: int) -> CostModel:
    """Another core: every kernel slower or faster by a factor of its own."""
    rng = random.Random(seed)
    factors = {name: rng.uniform(0.3, 3) for name in model.coefficients}
    coefficients = {name: tuple(factors[name] * v for v in values) for name, values in model.coefficients.items()}
    return CostModel("true", coefficients, "synthetic", 0.25)


@pytest.mark.parametrize("seed", range(3))
def test_a_refit_finds_the_coefficients_that_made_the_measurements(seed: int) -> None:
    true = scaled(M4, seed)
    refitted = M4.refit(networks(true, 30, seed))
    unseen = networks(true, 20, seed + 100)
    assert refitted.fit_of(unseen).mape < 1.0
    assert refitted.fit_of(unseen).within_10_percent == 1.0
    assert M4.fit_of(unseen).mape > 10 * refitted.fit_of(unseen).mape
    # One by one only where the data can tell the terms apart: the multiplications of the kernels with most of the work.
    products = FEATURES.index("products")
    for kernel in ("tn_conv_1x1_s8", "tn_depthwise_generic_s8"):
        assert refitted.coefficients[kernel][products] == pytest.approx(true.coefficients[kernel][products], rel=0.1)


def test_a_few_measurements_are_better_than_none() -> None:
    true = scaled(M4, 5)
    unseen = networks(true, 20, 200)
    errors = [M4.fit_of(unseen).mape, *(M4.refit(networks(true, n)).fit_of(unseen).mape for n in (2, 30))]
    assert all(later < earlier for earlier, later in pairwise(errors))


@settings(max_examples=20)
@given(seed=st.integers(0, 2**16), noise=st.floats(0, 3))
def test_no_coefficient_is_ever_negative(seed: int, noise: float) -> None:
    rng = random.Random(seed)
    wild = [
        MeasuredNetwork(n.layers, tuple(c * math.exp(rng.gauss(0, noise)) for c in n.cycles))
        for n in networks(M4, 3, seed)
    ]
    refitted = M4.refit(wild)
    assert all(value >= 0 for values in refitted.coefficients.values() for value in values)
    assert refitted.relative_error >= 0.01


def test_kernels_that_were_not_measured_keep_their_prior() -> None:
    refitted = M4.refit(networks(M4, 5))
    seen = {layer.kernel for network in networks(M4, 5) for layer in network.layers}
    unseen = M4.coefficients.keys() - seen
    assert "tn_pool_max_s8" in unseen
    assert all(refitted.coefficients[kernel] == pytest.approx(M4.coefficients[kernel]) for kernel in unseen)
    assert refitted.unmeasured == unseen - {VIEW.name}


def test_a_slower_board_is_slower_in_kernels_that_were_not_measured_too() -> None:
    slow = CostModel("slow", {name: tuple(1.2 * v for v in values) for name, values in M4.coefficients.items()}, "", 0)
    refitted = M4.refit(networks(slow, 5))
    assert refitted.coefficients["tn_pool_max_s8"] == pytest.approx(slow.coefficients["tn_pool_max_s8"])


def test_the_interval_is_as_wide_as_a_priors_for_kernels_that_were_not_measured() -> None:
    refitted = M4.refit(networks(M4, 12))
    known = networks(M4, 1)[0].layers
    unknown = LayerFeatures("tn_pool_max_s8", (1.0,) * len(FEATURES))
    assert refitted.error_of(known) == pytest.approx(refitted.relative_error)
    assert refitted.relative_error < 0.02
    assert refitted.error_of([unknown]) == pytest.approx(PRIOR_ERROR)
    assert refitted.relative_error < refitted.error_of([*known, unknown]) < PRIOR_ERROR
    assert M4.error_of([unknown]) == M4.error_of(known) == PRIOR_ERROR


@pytest.mark.parametrize("count", [6, 20])
def test_nine_of_ten_unseen_networks_lie_within_the_interval(count: int) -> None:
    """Where every layer is off by an error of its own, and its kernel by one of the network's."""
    covered = asked = 0
    for seed in range(5):
        rng = random.Random(seed)
        true = scaled(M4, seed)

        def noisy(network: MeasuredNetwork, rng: random.Random = rng) -> MeasuredNetwork:
            by_kernel = {layer.kernel: math.exp(rng.gauss(0, 0.05)) for layer in network.layers}
            cycles = [c * by_kernel[n.kernel] for n, c in zip(network.layers, network.cycles, strict=True)]
            return MeasuredNetwork(network.layers, tuple(c * math.exp(rng.gauss(0, 0.02)) for c in cycles))

        model = M4.refit([noisy(network) for network in networks(true, count, seed)])
        for network in map(noisy, networks(true, 25, seed + 100)):
            predicted = model.cycles(network.layers)
            covered += abs(sum(network.cycles) / predicted - 1) <= model.error_of(network.layers)
            asked += 1
    assert 0.82 < covered / asked <= 1


def test_nothing_measured_is_nothing_to_fit_to() -> None:
    with pytest.raises(SearchError, match="nothing has been measured"):
        M4.refit([])


def test_networks_are_judged_by_fits_to_others() -> None:
    measured = networks(scaled(M4, 3), 4)
    outlier = MeasuredNetwork(measured[0].layers, tuple(3 * cycles for cycles in measured[0].cycles))
    left_out = M4.left_out_predictions([outlier, *measured[1:]])
    assert left_out[0] == pytest.approx(sum(measured[0].cycles), rel=0.2)
    assert len(M4.left_out_predictions(networks(M4, 23))) == 23
    assert M4.left_out_predictions(measured[:1]) == [M4.cycles(measured[0].layers)]
    judged = compare(M4.left_out_predictions(measured), [sum(network.cycles) for network in measured])
    assert M4.refit_and_judge(measured) == (M4.refit(measured), judged)


def test_a_real_boards_latency_is_predicted_though_it_counts_wait_states() -> None:
    profile = load_profile("stm32f405")
    assert profile.stall_factor > 1
    layers = networks(M4, 1)[0].layers
    network = MeasuredNetwork.of(layers, [1000.0] * len(layers), 12.5, profile)
    assert profile.latency_ms(sum(network.cycles)) == pytest.approx(12.5)
    assert len(set(network.cycles)) == 1


def test_a_refit_says_what_it_was_fitted_on() -> None:
    measured = networks(M4, 4)
    assert M4.refit(measured) == M4.refit(measured)
    assert M4.refit(measured).source != M4.refit(measured[:3]).source
    assert "4 networks" in M4.refit(measured).source


def test_a_saved_model_is_read_as_it_was(tmp_path: Path) -> None:
    model = M4.refit(networks(scaled(M4, 2), 5))
    model.save(tmp_path / "model.json")
    assert CostModel.load(tmp_path / "model.json") == model


def damaged_files() -> list[str]:
    whole = {
        "core": "cortex-m4",
        "coefficients": {"view": {}},
        "source": "",
        "relative_error": 0.1,
        "unmeasured": [],
        "features": features_version(),
    }
    return [
        "",
        "[]",
        "null",
        '{"core": ',
        json.dumps({name: value for name, value in whole.items() if name != "features"}),
        json.dumps(whole | {"coefficients": {"view": ["a lot"]}}),
        json.dumps(whole | {"coefficients": {"view": {"products": "a lot"}}}),
        json.dumps(whole | {"coefficients": {"view": {"wishes": 1.0}}}),
        json.dumps(whole | {"relative_error": None}),
        json.dumps(whole | {"unmeasured": None}),
    ]


@pytest.mark.parametrize("version", ["0123456789abcdef", ["macs", "outputs"]])
def test_a_model_of_other_features_or_kernels_is_told_in_one_sentence(version: object, tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    M4.save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"features": version}))
    with pytest.raises(SearchError) as raised:
        CostModel.load(path)
    assert str(raised.value) == (
        f"{path} was fitted for other kernels or features than this version of tinynas has; run tinynas calibrate "
        "again, or delete it to start from the prior"
    )


@pytest.mark.parametrize("text", damaged_files())
def test_a_damaged_model_is_an_error_that_names_the_file(text: str, tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    path.write_text(text)
    with pytest.raises(SearchError, match=r"model\.json does not hold a cost model .*; delete it"):
        CostModel.load(path)


def test_a_model_that_is_not_text_or_not_there_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_bytes(b"\xff\xfe\x00\x80")
    for name in ("model.json", "none.json"):
        with pytest.raises(SearchError, match="does not hold a cost model"):
            CostModel.load(tmp_path / name)


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=2, max_size=12))
def test_kendall_tau_is_scipys(pairs: list[tuple[int, int]]) -> None:
    first, second = [float(a) for a, _ in pairs], [float(b) for _, b in pairs]
    expected = kendalltau(first, second).statistic
    if not math.isnan(expected):
        assert kendall_tau(first, second) == pytest.approx(expected)
    assert not math.isnan(kendall_tau(first, second))


def test_comparing() -> None:
    fit = compare([105, 100, 130], [100, 100, 100])
    assert (fit.networks, fit.within_10_percent) == (3, pytest.approx(2 / 3))
    assert fit.within_5_percent == pytest.approx(2 / 3)
    assert fit.mape == pytest.approx(35 / 3)
    with pytest.raises(SearchError, match="nothing has been measured"):
        compare([], [])


@pytest.mark.parametrize("device", device_names())
def test_every_device_has_a_prior_for_every_kernel(device: str) -> None:
    profile = load_profile(device)
    model = prior(profile.core)
    assert model.coefficients.keys() >= {kernel.name for kernel in all_kernels(profile.instruction_set)}
    for values in model.coefficients.values():
        assert len(values) == len(FEATURES)
        assert all(value >= 0 for value in values)
    busy = model.coefficients.keys() - {VIEW.name}
    assert all(sum(model.coefficients[kernel]) > 0 for kernel in busy)


def test_a_core_or_a_kernel_without_a_prior_is_an_error() -> None:
    with pytest.raises(SearchError, match=r"no latency prior for the core 'z80'; known are .*cortex-m4"):
        prior("z80")
    with pytest.raises(SearchError, match="knows no kernel 'tn_fft'"):
        M4.layer_cycles(LayerFeatures("tn_fft", (1.0,) * len(FEATURES)))


def test_the_calibrated_model_is_used_once_there_is_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    profile = load_profile("stm32f405")
    assert current_cost_model(profile) == M4
    calibrated = M4.refit(networks(scaled(M4, 3), 4))
    calibrated_path(profile.name).parent.mkdir(parents=True)
    calibrated.save(calibrated_path(profile.name))
    assert current_cost_model(profile) == calibrated
    assert current_cost_model(load_profile("stm32f412")) == M4
