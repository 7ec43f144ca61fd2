"""Predicts latency and energy from what each layer physically does, and learns from measurements.

A layer's zero-wait cycles are a sum of non-negative terms, one for each of the loops that its kernel runs (see
`tinynas.layer_features`). The coefficients, cycles per round, start from a prior per core, so that the first prediction
is usable before anything has been measured; every batch of measurements refits them. They are stored as text with the
hash of what they were fitted on.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

from devices.profile import DeviceProfile
from devices.store import data_folder
from export.planner import Plan
from tinynas.errors import SearchError
from tinynas.files import write_atomically
from tinynas.layer_features import FEATURES as FEATURES
from tinynas.layer_features import LayerFeatures as LayerFeatures
from tinynas.layer_features import features_of as features_of
from tinynas.layer_features import features_version
from tinynas.layer_features import layer_features as layer_features

FloatArray = npt.NDArray[np.float64]

PRIOR_ERROR = 0.25
"""Relative error to expect of a prior: what real boards departed from it."""
CONFIDENCE = 0.9
"""Of the networks, so many are to lie within the prediction interval."""

_SMALLEST_ERROR = 0.01
_FOLDS = 10
"""With more networks than these, errors are found for a tenth of them at a time, else one by one."""
_KERNEL_SPREAD = 0.5
"""How far all coefficients of a kernel may be expected to be off together, as a fraction of themselves."""
_COEFFICIENT_SPREAD = 0.2
"""How far each may be off by itself."""
_DEPARTURES = (0.05, 0.25, 1.0)
"""Shares of these spreads, of which a refit takes the one that predicts left-out networks best: an emulated board is
one that the prior was fitted on, a real one may be far from it."""
_ZERO_SPREAD = 0.05
"""How much of a layer's cycles a term may come to that the prior puts at zero."""
_LAYER_ERROR, _NETWORK_ERROR = 0.01, 0.0005
"""What no coefficients explain, as a fraction of a layer's cycles, and of its network's."""


@dataclass(frozen=True, slots=True)
class MeasuredNetwork:
    """One network's layers and the zero-wait cycles that each took on a board."""

    layers: tuple[LayerFeatures, ...]
    cycles: tuple[float, ...]

    @classmethod
    def of(
        cls,
        layers: tuple[LayerFeatures, ...],
        layer_cycles: Sequence[float],
        latency_ms: float,
        profile: DeviceProfile,
    ) -> MeasuredNetwork:
        """From what a board says: the layers' shares of the latency.

        A real board counts wait states too, which the profile's ``stall_factor`` stands for, and both kinds spend some
        time between the layers. The sum is what `DeviceProfile.latency_ms` turns into the latency again.
        """
        total = latency_ms / profile.latency_ms(1.0)
        share = total / sum(layer_cycles)
        return cls(layers, tuple(share * cycles for cycles in layer_cycles))


@dataclass(frozen=True, slots=True)
class Fit:
    """How well predictions agree with measurements of whole networks."""

    networks: int
    mape: float
    """Mean absolute relative error, in per cent."""
    within_5_percent: float
    """Share of the networks, 0 to 1, predicted within ±5 %."""
    within_10_percent: float
    """Share of the networks, 0 to 1, predicted within ±10 %."""
    kendall_tau: float
    """Rank correlation; NaN is never reported: with fewer than two networks it is 1."""


@dataclass(frozen=True)
class CostModel:
    """Cycles per unit of each feature, per kernel."""

    core: str
    coefficients: dict[str, tuple[float, ...]]
    """In the order of FEATURES, by the kernel's name."""
    source: str
    """The prior's origin, or the hash of the measurements that the coefficients were fitted on."""
    relative_error: float
    """Half the width of the 90 % prediction interval, as a fraction of the prediction."""
    unmeasured: frozenset[str] = frozenset()
    """Kernels that no measurement told anything of: their layers are as uncertain as a prior's."""

    def layer_cycles(self, layer: LayerFeatures) -> float:
        """Zero-wait cycles of one layer."""
        weights = self.coefficients.get(layer.kernel)
        if weights is None:
            raise SearchError(f"the cost model of {self.core} knows no kernel '{layer.kernel}'")
        return sum(weight * value for weight, value in zip(weights, layer.values, strict=True))

    def cycles(self, layers: Iterable[LayerFeatures]) -> float:
        """Zero-wait cycles of a whole network."""
        return sum(self.layer_cycles(layer) for layer in layers)

    def latency_ms(self, planned: Plan, profile: DeviceProfile) -> float:
        """Predicted latency of a planned network on the part."""
        return profile.latency_ms(self.cycles(layer_features(planned)))

    def error_of(self, layers: Iterable[LayerFeatures]) -> float:
        """Half the width of a network's 90 % prediction interval, as a fraction of the prediction."""
        known = unknown = 0.0
        for layer in layers:
            cycles = self.layer_cycles(layer)
            if layer.kernel in self.unmeasured:
                unknown += cycles
            else:
                known += cycles
        total = known + unknown
        return (known * self.relative_error + unknown * PRIOR_ERROR) / total if total else self.relative_error

    def refit(self, measured: Sequence[MeasuredNetwork]) -> CostModel:
        """New coefficients from per-layer measurements, drawn towards this model's where the data say little.

        The interval is found from networks that are left out, each predicted by a fit to others. Raises SearchError
        when there is nothing to fit to.
        """
        return self.refit_and_judge(measured)[0]

    def refit_and_judge(self, measured: Sequence[MeasuredNetwork]) -> tuple[CostModel, Fit]:
        """The same, and how well the networks that are left out were predicted."""
        if not measured:
            raise SearchError("nothing has been measured, so there is nothing to fit the cost model to")
        actual = [sum(network.cycles) for network in measured]
        departure, left_out = self._judged(measured)
        fitted = self._fitted(measured, departure)
        errors = [abs(p - a) / p for p, a in zip(left_out, actual, strict=True)]
        error = max(_SMALLEST_ERROR, _upper_quantile(errors, CONFIDENCE))
        return dataclasses.replace(fitted, relative_error=error), compare(left_out, actual)

    def left_out_predictions(self, measured: Sequence[MeasuredNetwork]) -> list[float]:
        """Cycles of each network, predicted by this model once it was refitted to others alone."""
        return self._judged(measured)[1]

    def _judged(self, measured: Sequence[MeasuredNetwork]) -> tuple[float, list[float]]:
        """The departure from this model that predicts left-out networks best, and what it predicts."""
        actual = [sum(network.cycles) for network in measured]
        predictions = {departure: self._left_out(measured, departure) for departure in _DEPARTURES}
        best = min(_DEPARTURES, key=lambda departure: compare(predictions[departure], actual).mape)
        return best, predictions[best]

    def _left_out(self, measured: Sequence[MeasuredNetwork], departure: float) -> list[float]:
        folds = len(measured) if len(measured) <= _FOLDS else _FOLDS
        predictions = [0.0] * len(measured)
        for fold in range(folds):
            others = [network for index, network in enumerate(measured) if index % folds != fold]
            model = self._fitted(others, departure) if others else self
            for index in range(fold, len(measured), folds):
                predictions[index] = model.cycles(measured[index].layers)
        return predictions

    def fit_of(self, measured: Sequence[MeasuredNetwork]) -> Fit:
        """Compare the predictions with what was measured."""
        actual = [sum(network.cycles) for network in measured]
        return compare([self.cycles(network.layers) for network in measured], actual)

    def _fitted(self, measured: Sequence[MeasuredNetwork], departure: float) -> CostModel:
        """The most probable non-negative coefficients, kernel by kernel, where so much of a departure is expected.

        Kernels that were not measured are scaled as the whole networks ask for.
        """
        board = float(np.median([sum(network.cycles) / self.cycles(network.layers) for network in measured]))
        coefficients = {
            kernel: tuple(board * value for value in values) for kernel, values in self.coefficients.items()
        }
        rows: dict[str, list[tuple[float, ...]]] = defaultdict(list)
        cycles: dict[str, list[float]] = defaultdict(list)
        errors: dict[str, list[float]] = defaultdict(list)
        for network in measured:
            for layer, count, error in zip(network.layers, network.cycles, layer_errors(network), strict=True):
                rows[layer.kernel].append(layer.values)
                cycles[layer.kernel].append(count)
                errors[layer.kernel].append(error)
        for kernel, values in rows.items():
            if any(map(any, values)):
                belief = Belief.of(coefficients[kernel], np.array(values), departure)
                answer = belief.most_probable(np.array(values), np.array(cycles[kernel]), np.array(errors[kernel]))
                coefficients[kernel] = tuple(map(float, answer))
        source = f"fitted on {len(measured)} networks, sha256 {_digest(measured)}"
        busy = {kernel for kernel, weights in self.coefficients.items() if any(weights)}
        return CostModel(self.core, coefficients, source, self.relative_error, frozenset(busy - rows.keys()))

    def save(self, path: Path) -> None:
        """Write the coefficients as JSON, by name; what is zero is left out."""
        content = {
            "core": self.core,
            "source": self.source,
            "relative_error": self.relative_error,
            "unmeasured": sorted(self.unmeasured),
            "features": features_version(),
            "coefficients": {
                kernel: {name: value for name, value in zip(FEATURES, weights, strict=True) if value}
                for kernel, weights in self.coefficients.items()
            },
        }
        write_atomically(path, json.dumps(content, indent=2, sort_keys=True) + "\n")

    @classmethod
    def load(cls, path: Path) -> CostModel:
        """Read what `save` wrote.

        Raises SearchError when the file does not hold a cost model, or one that other kernels were measured for.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            version = content["features"]
            if version == features_version():
                coefficients = {name: by_feature(weights) for name, weights in content["coefficients"].items()}
                error, unmeasured = float(content["relative_error"]), frozenset(map(str, content["unmeasured"]))
                return cls(content["core"], coefficients, content["source"], error, unmeasured)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise SearchError(
                f"{path} does not hold a cost model ({error}); delete it to start from the prior"
            ) from error
        raise SearchError(
            f"{path} was fitted for other kernels or features than this version of tinynas has; run tinynas calibrate "
            "again, or delete it to start from the prior"
        )


@dataclass(frozen=True)
class Belief:
    """What is believed of one kernel's coefficients, before or after it was measured: a normal distribution."""

    mean: FloatArray
    precision: FloatArray
    """[features, features], the inverse of the covariance."""

    @classmethod
    def of(cls, coefficients: Sequence[float], layers: FloatArray, departure: float = 1.0) -> Belief:
        """Around ``coefficients``: all may be off together, and each by itself, by ``departure`` times the usual.

        ``layers`` are the features of layers [layers, features] that say how much a term may come to whose coefficient
        is zero.
        """
        mean = np.array(coefficients)
        cycles = layers @ mean
        typical = layers.mean(axis=0)
        room = departure * _ZERO_SPREAD * max(float(cycles.mean()), 1.0) / np.maximum(typical, 1e-9)
        # A term that no layer has can be anything; it must only not make the matrix singular.
        apart = np.where(
            typical > 0, np.maximum(departure * _COEFFICIENT_SPREAD * mean, np.where(mean > 0, 0, room)), 1.0
        )
        covariance = np.diag(apart**2) + (departure * _KERNEL_SPREAD) ** 2 * np.outer(mean, mean)
        return cls(mean, np.asarray(np.linalg.inv(covariance), np.float64))

    def most_probable(self, layers: FloatArray, cycles: FloatArray, errors: FloatArray) -> FloatArray:
        """The non-negative coefficients after ``cycles`` [layers] were measured, which are off by ``errors``."""
        root = np.linalg.cholesky(self.precision).T
        design = np.vstack([layers / errors[:, np.newaxis], root])
        target = np.concatenate([cycles / errors, root @ self.mean])
        return non_negative_least_squares(design, target)

    def after(self, layers: FloatArray, errors: FloatArray) -> Belief:
        """The belief, less its mean, once layers like these have been measured."""
        weighted = layers / errors[:, np.newaxis]
        return Belief(self.mean, self.precision + weighted.T @ weighted)


def non_negative_least_squares(design: FloatArray, target: FloatArray) -> FloatArray:
    """The non-negative coefficients of the columns of ``design`` [rows, columns] that come closest to ``target``."""
    # Columns of like size, for the solver's tolerances are absolute.
    size = np.maximum(np.linalg.norm(design, axis=0), 1e-12)
    answer, _ = nnls(design / size, target)
    return np.asarray(answer / size, np.float64)


def layer_errors(network: MeasuredNetwork) -> list[float]:
    """How far each layer's cycles may be from any that coefficients can explain."""
    total = sum(network.cycles)
    return [_LAYER_ERROR * cycles + _NETWORK_ERROR * total for cycles in network.cycles]


def _upper_quantile(errors: Sequence[float], share: float) -> float:
    """What a new error will not exceed with the probability ``share``: split conformal prediction (Vovk et al., 2005).

    With too few errors for that, the largest, and a quarter more for every error that there are too few.
    """
    place = math.ceil(share * (len(errors) + 1))
    ordered = sorted(errors)
    if place <= len(ordered):
        return ordered[place - 1]
    return ordered[-1] * (1 + 0.25 * (place - len(ordered)))


def compare(predicted: Sequence[float], actual: Sequence[float]) -> Fit:
    """Error and rank agreement of predictions."""
    if not actual:
        raise SearchError("nothing has been measured, so there is nothing to compare predictions with")
    errors = [abs(p - a) / a for p, a in zip(predicted, actual, strict=True)]
    return Fit(
        networks=len(actual),
        mape=100 * sum(errors) / len(errors),
        within_5_percent=sum(error <= 0.05 for error in errors) / len(errors),
        within_10_percent=sum(error <= 0.1 for error in errors) / len(errors),
        kendall_tau=kendall_tau(predicted, actual),
    )


def kendall_tau(first: Sequence[float], second: Sequence[float]) -> float:
    """Kendall's tau-b of two rankings (Kendall, 1945); 1 when there are fewer than two items to rank."""
    concordant = discordant = ties_first = ties_second = 0
    for i in range(len(first)):
        for j in range(i):
            a, b = first[i] - first[j], second[i] - second[j]
            concordant += a * b > 0
            discordant += a * b < 0
            ties_first += a == 0
            ties_second += b == 0
    pairs = len(first) * (len(first) - 1) // 2
    denominator = math.sqrt((pairs - ties_first) * (pairs - ties_second))
    return (concordant - discordant) / denominator if denominator else 1.0


@cache
def prior(core: str) -> CostModel:
    """The cost model of a core before anything has been measured."""
    text = (resources.files("tinynas") / "cost_priors.toml").read_text(encoding="utf-8")
    table = tomllib.loads(text)
    entry = table["cores"].get(core)
    if entry is None:
        raise SearchError(f"there is no latency prior for the core '{core}'; known are {', '.join(table['cores'])}")
    base = table["cores"][entry["like"]] if "like" in entry else entry
    factor = entry.get("factor", 1.0)
    coefficients = {
        kernel: tuple(factor * value for value in by_feature(weights)) for kernel, weights in base["kernels"].items()
    }
    return CostModel(core, coefficients, entry["source"], PRIOR_ERROR)


def by_feature(weights: Mapping[str, float]) -> tuple[float, ...]:
    """Coefficients in the order of FEATURES. Raises ValueError for a name that is none of them."""
    if unknown := weights.keys() - set(FEATURES):
        raise ValueError(f"there is no feature '{min(unknown)}'")
    return tuple(float(weights.get(name, 0.0)) for name in FEATURES)


def calibrated_path(device: str) -> Path:
    """Where `tinynas calibrate` leaves the cost model of a device."""
    return data_folder() / "cost_models" / f"{device}.json"


def current_cost_model(profile: DeviceProfile) -> CostModel:
    """The calibrated cost model of the device if there is one, else its core's prior."""
    path = calibrated_path(profile.name)
    return CostModel.load(path) if path.exists() else prior(profile.core)


def _digest(measured: Sequence[MeasuredNetwork]) -> str:
    text = json.dumps([[[(layer.kernel, layer.values) for layer in m.layers], m.cycles] for m in measured])
    return hashlib.sha256(text.encode()).hexdigest()[:16]
