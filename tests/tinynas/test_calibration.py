"""Calibrating: which networks are measured, what of the store counts, and that any space is predicted afterwards."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from devices.board import Board, Measurement
from devices.emulator import EmulatedBoard
from devices.profile import DeviceProfile, load_profile
from devices.provenance import EMULATED
from devices.store import MeasurementStore, Provenance
from export.graph import Graph
from export.planner import plan
from tests.devices.toy_models import need
from tinynas import calibration
from tinynas.calibration import Calibration, PoolMember, Uncertainty, calibrate, make_pool, stored_networks
from tinynas.cost_model import CostModel, MeasuredNetwork, layer_features, prior
from tinynas.errors import SearchError
from tinynas.space import space_names

PROFILE = load_profile("stm32f405")
PRIOR = prior(PROFILE.core)


def another_core(seed: int, spread: float = 0.4) -> CostModel:
    """Like the prior, but every kernel is faster or slower, and each of its loops a little more or less so."""
    rng = random.Random(seed)
    coefficients = {}
    for kernel, values in PRIOR.coefficients.items():
        factor = math.exp(rng.uniform(-spread, spread))
        coefficients[kernel] = tuple(factor * value * rng.uniform(0.85, 1.15) for value in values)
    return CostModel("true", coefficients, "synthetic", 0.0)


class Bench:
    """Boards that take the cycles of a model that is true of them; measurements go to a store as real ones do."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, true: CostModel, folder: Path) -> None:
        self.true, self.store = true, MeasurementStore(folder / "store.sqlite")
        self.kind, self.stall = EMULATED, PROFILE.stall_factor
        self.names: list[str] = []
        monkeypatch.setattr(calibration, "measure_graph", self._measure)
        monkeypatch.setattr(calibration, "kind_of", lambda board: self.kind)

    def calibrate(self, samples: int, seed: int = 0) -> Calibration:
        return calibrate(PROFILE, [_Board()], self.store, samples, seed)

    def _measure(self, graph: Graph, profile: DeviceProfile, board: Board, *, store: MeasurementStore) -> Measurement:
        layers = layer_features(plan(graph, profile.instruction_set))
        zero_wait = [self.true.layer_cycles(layer) for layer in layers]
        counted = [round(cycles * (1 if self.kind == EMULATED else self.stall)) for cycles in zero_wait]
        measurement = Measurement(
            board=board.name,
            device=profile.name,
            model_id=graph.name,
            latency_ms=sum(zero_wait) * self.stall / profile.clock_hz * 1e3,
            cycles=sum(counted),
            instructions=None,
            layer_cycles=tuple(counted),
            runs=1,
            clock_hz=profile.clock_hz,
            sram_bytes=1,
            flash_bytes=1,
            code_bytes=1,
            firmware_sha256="0" * 64,
            toolchain="none",
        )
        rows = [layer.to_row() for layer in layers]
        store.add(measurement, graph.name, rows, provenance=Provenance(board_kind=self.kind))
        self.names.append(graph.name)
        return measurement


class _Board:
    """Takes part in name only."""

    name = "bench"

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *arguments, **options: None


@cache
def far_pool() -> list[PoolMember]:
    """Networks of all spaces that no calibration of a small seed has measured."""
    return make_pool(PROFILE, PRIOR, 39, seed=999)


def unseen(true: CostModel) -> list[MeasuredNetwork]:
    """The same, as they take on a board that ``true`` is true of."""
    pool = far_pool()
    return [MeasuredNetwork(m.layers, tuple(true.layer_cycles(layer) for layer in m.layers)) for m in pool]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Bench:
    return Bench(monkeypatch, another_core(1), tmp_path)


def test_a_dozen_networks_are_enough_to_predict_every_space(bench: Bench) -> None:
    result = bench.calibrate(12)
    assert result.measured == len(bench.names) == len(set(bench.names)) == len(result.networks) == 12
    assert len(result.spaces) >= 4
    assert set(result.spaces) <= set(space_names())
    judges = unseen(bench.true)
    before, after = PRIOR.fit_of(judges), result.model.fit_of(judges)
    assert before.within_10_percent < 0.6
    assert (after.within_5_percent, after.within_10_percent) >= (0.95, 0.99)
    assert after.kendall_tau >= 0.98
    # What it says of itself is of networks that were left out of the fit.
    assert result.before.mape > 10 > result.after.mape
    assert result.after.mape >= result.model.fit_of(result.networks).mape
    assert "12 networks" in result.model.source


def test_what_was_measured_before_counts_and_is_not_measured_again(bench: Bench) -> None:
    first = bench.calibrate(4)
    second = bench.calibrate(4)
    assert (first.measured, second.measured) == (4, 4)
    assert (len(first.networks), len(second.networks)) == (4, 8)
    assert len({network.layers for network in second.networks}) == 8
    assert second.ignored == 0


def test_the_same_seed_and_store_give_the_same_networks(bench: Bench, tmp_path: Path) -> None:
    bench.calibrate(4)
    bench.store = MeasurementStore(tmp_path / "other.sqlite")
    bench.calibrate(4)
    assert bench.names[:4] == bench.names[4:]


def test_what_other_kernels_took_is_left_out_and_told(bench: Bench) -> None:
    bench.calibrate(2)
    measured = bench.store.all(PROFILE.name)[0]
    rows = [dict(row) | {"features": "0123456789abcdef"} for row in measured.layer_features]
    bench.store.add(measured.measurement, "old", rows, provenance=Provenance(board_kind=EMULATED))
    bench.store.add(measured.measurement, "without features", (), provenance=Provenance(board_kind=EMULATED))
    result = bench.calibrate(2)
    assert (len(result.networks), result.ignored) == (4, 1)


def test_real_and_emulated_boards_do_not_mix(bench: Bench) -> None:
    bench.calibrate(3)
    bench.kind = "serial"
    real = bench.calibrate(2)
    assert len(real.networks) == 2
    bench.kind = EMULATED
    assert len(bench.calibrate(2).networks) == 5


def test_a_real_boards_latency_is_what_is_predicted(bench: Bench) -> None:
    """It counts wait states, and more of them than its profile expects."""
    bench.kind, bench.stall = "serial", 1.3
    model = bench.calibrate(8).model
    for network in unseen(bench.true):
        latency_ms = sum(network.cycles) * 1.3 / PROFILE.clock_hz * 1e3
        assert PROFILE.latency_ms(model.cycles(network.layers)) == pytest.approx(latency_ms, rel=0.08)


def test_the_last_measurement_of_a_network_counts(bench: Bench) -> None:
    bench.calibrate(2)
    rows = bench.store.all(PROFILE.name)
    networks, ignored = stored_networks([*rows, rows[0]], PROFILE, emulated=True)
    assert (len(networks), ignored) == (2, 0)


def test_a_network_that_was_measured_is_no_longer_uncertain() -> None:
    pool = far_pool()
    uncertainty = Uncertainty(PRIOR, [member.layers for member in pool])
    first = pool[uncertainty.largest([member.layers for member in pool])]
    before = [uncertainty.of(member.layers) for member in pool]
    assert max(before) == uncertainty.of(first.layers) > 0.05
    cycles = tuple(PRIOR.layer_cycles(layer) for layer in first.layers)
    uncertainty.measured(MeasuredNetwork(first.layers, cycles))
    after = [uncertainty.of(member.layers) for member in pool]
    assert uncertainty.of(first.layers) < 0.02
    assert all(later <= earlier + 1e-9 for earlier, later in zip(before, after, strict=True))


def test_the_pool_fits_the_device_and_is_of_all_its_spaces() -> None:
    pool = make_pool(PROFILE, PRIOR, 13, seed=0)
    assert {member.costs.space.name for member in pool} == set(space_names())
    assert len({member.layers for member in pool}) == len(pool)
    assert all(member.costs(member.architecture).sram_bytes <= PROFILE.model_sram_bytes for member in pool)
    known = [MeasuredNetwork(member.layers, (1.0,) * len(member.layers)) for member in pool[:5]]
    again = make_pool(PROFILE, PRIOR, 13, 0, known)
    assert not {network.layers for network in known} & {member.layers for member in again}


def test_a_device_that_nothing_fits_is_an_error(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "make_pool", lambda *arguments: [])
    with pytest.raises(SearchError, match="no network of any search space fits stm32f405"):
        bench.calibrate(2)


def test_an_emulated_board_is_predicted_within_five_per_cent(tmp_path: Path) -> None:
    need("qemu-system-arm", "arm-none-eabi-gcc", "make", "cc")
    profile = load_profile("mps2-an386")
    with EmulatedBoard(profile) as board:
        result = calibrate(profile, [board], MeasurementStore(tmp_path / "store.sqlite"), 5, seed=1)
    assert result.measured == 5
    # The prior was fitted on this very board.
    assert result.before.within_5_percent == 1
    assert result.after.within_5_percent == 1
