"""Calibrates the cost model of a board: measures the networks that it is least sure of, and refits it to all there is.

Networks are chosen from a pool of random ones of all search spaces, for inputs of several kinds, that fit the device.
What is believed of a kernel's coefficients is a normal distribution around the prior; a network's uncertainty is what
that leaves of its predicted latency (Bayesian linear regression; the choice of the most uncertain is that of MacKay,
1992). It depends on what has been measured, not on what came out: the same store and seed give the same networks.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from devices.board import Board
from devices.lab import share_out
from devices.profile import DeviceProfile
from devices.provenance import EMULATED, kind_of
from devices.store import MeasurementStore, StoredMeasurement
from export.planner import plan
from export.synthetic import with_random_weights
from tinynas import output
from tinynas.architecture import Architecture
from tinynas.candidate import CandidateCosts
from tinynas.constraints import Limits
from tinynas.cost_model import (
    Belief,
    CostModel,
    Fit,
    FloatArray,
    LayerFeatures,
    MeasuredNetwork,
    layer_errors,
    layer_features,
    prior,
)
from tinynas.errors import SearchError
from tinynas.measuring import measure_graph, measured_network
from tinynas.space import InputShape, load_space

POOL_INPUTS: tuple[tuple[str, InputShape], ...] = (
    ("mobilenet_small", (28, 28, 1)),
    ("mobilenet_small", (32, 32, 3)),
    ("mobilenet_small", (49, 10, 1)),
    ("mobilenet", (64, 64, 3)),
    ("mobilenet", (96, 96, 3)),
    ("resnet", (28, 28, 1)),
    ("resnet", (32, 32, 3)),
    ("resnet", (64, 64, 3)),
    ("nasbench201", (28, 28, 1)),
    ("nasbench201", (32, 32, 3)),
    ("sensor", (100, 1, 6)),
    ("sensor", (128, 1, 1)),
    ("sensor", (49, 1, 10)),
)
"""Where the pool's networks come from: grey and color images, spectrograms, motion sensors and audio."""
CLASSES = 10

_POOL_SHARE = 4
"""So many networks are looked at for one that is measured."""
_ATTEMPTS = 20
"""Architectures that are tried for one that fits the device."""
_LONGEST_MS = 1000.0
"""Networks that take longer are left out: they would take up the board, and say no more than others."""


@dataclass(frozen=True)
class Calibration:
    """What came of it."""

    model: CostModel
    networks: tuple[MeasuredNetwork, ...]
    """All that the model was fitted to."""
    spaces: dict[str, int]
    """How many networks of each space were measured now."""
    ignored: int
    """Measurements of this device in the store that are of other kernels or features."""
    before: Fit
    """Of the prior."""
    after: Fit
    """Of fits to others: no network is predicted by a model that has seen it."""

    @property
    def measured(self) -> int:
        """Networks that were measured now."""
        return sum(self.spaces.values())


def calibrate(
    profile: DeviceProfile, boards: Sequence[Board], store: MeasurementStore, samples: int, seed: int
) -> Calibration:
    """Measure up to ``samples`` networks and fit the core's prior to them and to what the store holds of this device.

    Several ``boards``, all emulated or all real, measure as many networks at a time. Raises SearchError when no network
    fits the device, DeviceError when the boards fail; what was measured until then is in the store, and counts the next
    time.
    """
    kinds = {kind_of(board) == EMULATED for board in boards}
    if len(kinds) != 1:
        raise SearchError("a cost model is of emulated boards or of real ones, whose cycles differ; give one kind")
    model = prior(profile.core)
    networks, ignored = stored_networks(store.all(profile.name), profile, emulated=kinds.pop())
    pool = make_pool(profile, model, samples * _POOL_SHARE, seed, networks)
    uncertainty = Uncertainty(model, [candidate.layers for candidate in pool])
    for network in networks:
        uncertainty.measured(network)
    spaces: Counter[str] = Counter()
    with output.progress("measuring") as update:
        while pool and spaces.total() < samples:
            chosen = uncertainty.choose(pool, min(len(boards), samples - spaces.total()))
            jobs = [partial(_measure, candidate, profile, store) for candidate in chosen]
            for candidate, outcome in zip(chosen, share_out(jobs, boards), strict=True):
                network = outcome.result()
                uncertainty.measured(network)
                networks.append(network)
                spaces[candidate.costs.space.name] += 1
            update(spaces.total(), samples, "networks")
    if not networks:
        raise SearchError(f"no network of any search space fits {profile.name}, so there is nothing to measure")
    refitted, after = model.refit_and_judge(networks)
    return Calibration(
        model=refitted,
        networks=tuple(networks),
        spaces=dict(sorted(spaces.items())),
        ignored=ignored,
        before=model.fit_of(networks),
        after=after,
    )


def _measure(candidate: PoolMember, profile: DeviceProfile, store: MeasurementStore, board: Board) -> MeasuredNetwork:
    graph = with_random_weights(candidate.costs.graph(candidate.architecture))
    return measured_network(graph, profile, measure_graph(graph, profile, board, store=store))


def stored_networks(
    rows: Iterable[StoredMeasurement], profile: DeviceProfile, *, emulated: bool
) -> tuple[list[MeasuredNetwork], int]:
    """What ``rows`` say of emulated boards, or of real ones; and how many rows are unusable.

    Of a network that was measured several times the last measurement counts. Other kernels, or other features, make a
    row unusable: its cycles are no longer those of the layers that it tells of.
    """
    found: dict[tuple[LayerFeatures, ...], MeasuredNetwork] = {}
    ignored = 0
    for row in rows:
        measurement = row.measurement
        if (row.provenance.board_kind == EMULATED) != emulated or not row.layer_features:
            continue
        layers = tuple(map(LayerFeatures.from_row, row.layer_features))
        known = tuple(layer for layer in layers if layer is not None)
        if len(known) < len(layers) or not any(measurement.layer_cycles):
            ignored += 1
            continue
        # Emulated boards count zero-wait cycles, whatever stall factor the profile had then.
        counted = measurement.cycles if emulated else None
        latency_ms = measurement.latency_ms if counted is None else profile.latency_ms(counted)
        found[known] = MeasuredNetwork.of(known, measurement.layer_cycles, latency_ms, profile)
    return list(found.values()), ignored


@dataclass(frozen=True)
class PoolMember:
    """A network that may be measured."""

    costs: CandidateCosts
    architecture: Architecture
    layers: tuple[LayerFeatures, ...]


def make_pool(
    profile: DeviceProfile, model: CostModel, size: int, seed: int, known: Sequence[MeasuredNetwork] = ()
) -> list[PoolMember]:
    """About ``size`` random networks of all search spaces that fit the device and are not ``known``."""
    seen = {network.layers for network in known}
    each = -(-size // len(POOL_INPUTS))
    pool: list[PoolMember] = []
    with output.progress("choosing") as update:
        for number, (name, shape) in enumerate(POOL_INPUTS):
            space, rng = load_space(name), random.Random(f"{seed} {name} {shape}")
            costs = CandidateCosts(space, shape, CLASSES, profile, model)
            limits = Limits.for_device(profile, {"max_latency_ms": _LONGEST_MS})
            found = 0
            for _ in range(_ATTEMPTS * each):
                architecture = space.sample(rng, shape)
                if limits.violations(costs(architecture)):
                    continue
                layers = layer_features(plan(costs.graph(architecture), profile.instruction_set))
                if layers in seen:
                    continue
                seen.add(layers)
                pool.append(PoolMember(costs, architecture, layers))
                found += 1
                if found == each:
                    break
            update(number + 1, len(POOL_INPUTS), "kinds of network")
    return pool


class Uncertainty:
    """What is not known of a model's coefficients, as the share of a network's cycles that it leaves open."""

    def __init__(self, model: CostModel, networks: Iterable[tuple[LayerFeatures, ...]]) -> None:
        """``networks`` say how much terms may come to whose coefficient is zero."""
        self._model = model
        layers: dict[str, list[tuple[float, ...]]] = defaultdict(list)
        for network in networks:
            for layer in network:
                layers[layer.kernel].append(layer.values)
        self._beliefs = {
            kernel: _Known(Belief.of(model.coefficients[kernel], np.array(values)))
            for kernel, values in layers.items()
            if any(map(any, values))
        }

    def measured(self, network: MeasuredNetwork) -> None:
        """Learn which layers have been measured."""
        errors = layer_errors(network)
        for kernel, belief in self._beliefs.items():
            chosen = [index for index, layer in enumerate(network.layers) if layer.kernel == kernel]
            if chosen:
                values = np.array([network.layers[index].values for index in chosen])
                self._beliefs[kernel] = _Known(belief.belief.after(values, np.array([errors[i] for i in chosen])))

    def of(self, layers: tuple[LayerFeatures, ...]) -> float:
        """The standard deviation of the network's cycles, as a fraction of the prediction."""
        sums: dict[str, FloatArray] = {}
        for layer in layers:
            if layer.kernel in self._beliefs:
                sums[layer.kernel] = sums.get(layer.kernel, 0.0) + np.array(layer.values)
        variance = sum(float(values @ self._beliefs[kernel].covariance @ values) for kernel, values in sums.items())
        return float(np.sqrt(variance)) / self._model.cycles(layers)

    def choose(self, pool: list[PoolMember], count: int) -> list[PoolMember]:
        """Take the ``count`` networks from ``pool`` to measure next, each as if the ones before were as predicted."""
        supposed = copy(self)
        supposed._beliefs = dict(self._beliefs)
        chosen: list[PoolMember] = []
        while pool and len(chosen) < count:
            chosen.append(pool.pop(supposed.largest([candidate.layers for candidate in pool])))
            cycles = tuple(self._model.layer_cycles(layer) for layer in chosen[-1].layers)
            supposed.measured(MeasuredNetwork(chosen[-1].layers, cycles))
        return chosen

    def largest(self, networks: Sequence[tuple[LayerFeatures, ...]]) -> int:
        """Which of ``networks`` the model is least sure of."""
        return int(np.argmax([self.of(network) for network in networks]))


@dataclass(frozen=True)
class _Known:
    """A belief, and the covariance of its coefficients."""

    belief: Belief

    @cached_property
    def covariance(self) -> FloatArray:
        return np.asarray(np.linalg.inv(self.belief.precision), np.float64)
