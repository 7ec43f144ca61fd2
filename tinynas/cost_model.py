"""Predicts latency and energy from what each layer physically does, and learns from measurements.

A layer's zero-wait cycles are a sum of non-negative terms, one per feature of its kernel: multiply-accumulates, outputs
to requantize, input bytes to gather, pixels and rows to set up, and calls. The coefficients start from a prior per
core, so that the first prediction is usable before anything has been measured; every batch of measurements refits them.
They are stored as text with the hash of what they were fitted on.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np
from scipy.optimize import nnls

from devices.profile import DeviceProfile
from devices.store import data_folder
from export.graph import Graph, Operator, OpKind, macs
from export.kernels import kernels_of
from export.planner import Plan
from export.schedule import row_access
from tinynas.errors import SearchError
from tinynas.files import write_atomically

FEATURES = ("macs", "outputs", "gathered", "pixels", "channel_rows", "rows", "calls")
"""What a layer's cycles are made of: multiply-accumulates, output elements (each is requantized and stored), bytes of
input windows (which convolutions gather), output pixels, output rows of one channel (which depthwise layers work on),
output rows, and calls of the kernel: one for each row of a streamed layer, else one."""

_PRIOR_ERROR = 0.25
"""Relative error to expect of a prior: what real boards departed from it."""

_SMALLEST_ERROR = 0.01
_PRIOR_WEIGHT = 0.02
"""How much one coefficient's relative departure from the prior costs, against a measured network's relative error."""


@dataclass(frozen=True, slots=True)
class LayerFeatures:
    """The physical features of one layer and the kernel that runs it."""

    kernel: str
    values: tuple[float, ...]
    """In the order of FEATURES."""


@dataclass(frozen=True, slots=True)
class MeasuredNetwork:
    """One network's layers and the cycles that each took on a board."""

    layers: tuple[LayerFeatures, ...]
    cycles: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Fit:
    """How well predictions agree with measurements of whole networks."""

    networks: int
    mape: float
    """Mean absolute relative error, in per cent."""
    within_10_percent: float
    """Share of the networks, 0 to 1, predicted within ±10 %."""
    kendall_tau: float
    """Rank correlation; NaN is never reported: with fewer than two networks it is 1."""


@dataclass(frozen=True)
class CostModel:
    """Cycles per unit of each feature, per kernel."""

    core: str
    coefficients: dict[str, tuple[float, ...]]
    source: str
    """The prior's origin, or the hash of the measurements that the coefficients were fitted on."""
    relative_error: float
    """Half the width of the 90 % prediction interval, as a fraction of the prediction."""

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

    def refit(self, measured: Sequence[MeasuredNetwork]) -> CostModel:
        """New coefficients from per-layer measurements, drawn towards this model's where the data say little.

        Non-negative least squares, one problem per kernel. Each row is divided by its network's cycles, so that what is
        minimised is the relative error of whole networks.
        """
        rows: dict[str, list[list[float]]] = defaultdict(list)
        targets: dict[str, list[float]] = defaultdict(list)
        for network in measured:
            total = sum(network.cycles)
            for layer, cycles in zip(network.layers, network.cycles, strict=True):
                rows[layer.kernel].append([value / total for value in layer.values])
                targets[layer.kernel].append(cycles / total)
        coefficients = dict(self.coefficients)
        for kernel, matrix in rows.items():
            prior = np.array(self.coefficients[kernel])
            typical = np.abs(np.array(matrix)).mean(axis=0)
            # A coefficient that the prior puts at zero stays free to grow at the scale of the kernel's own cycles.
            strength = _PRIOR_WEIGHT * np.maximum(typical, 1e-12)
            design = np.vstack([np.array(matrix), np.diag(strength)])
            answer, _ = nnls(design, np.concatenate([np.array(targets[kernel]), strength * prior]))
            coefficients[kernel] = tuple(float(value) for value in answer)
        source = f"fitted on {len(measured)} networks, sha256 {_digest(measured)}"
        fitted = CostModel(self.core, coefficients, source, self.relative_error)
        errors = [abs(fitted.cycles(n.layers) / sum(n.cycles) - 1) for n in measured]
        # With few networks the residuals flatter the fit; n / (n - 1) widens the interval as a sample's spread is.
        spread = float(np.quantile(errors, 0.9)) * len(errors) / max(1, len(errors) - 1)
        return dataclasses.replace(fitted, relative_error=max(_SMALLEST_ERROR, spread))

    def fit_of(self, measured: Sequence[MeasuredNetwork]) -> Fit:
        """Compare the predictions with what was measured."""
        actual = [sum(network.cycles) for network in measured]
        return compare([self.cycles(network.layers) for network in measured], actual)

    def save(self, path: Path) -> None:
        """Write the coefficients as JSON."""
        content = dataclasses.asdict(self) | {"features": FEATURES}
        write_atomically(path, json.dumps(content, indent=2, sort_keys=True) + "\n")

    @classmethod
    def load(cls, path: Path) -> CostModel:
        """Read what `save` wrote. Raises SearchError when the file does not hold a cost model of these features."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if tuple(content["features"]) != FEATURES:
                raise ValueError(f"its features are {content['features']}")
            coefficients = {name: tuple(map(float, values)) for name, values in content["coefficients"].items()}
            return cls(content["core"], coefficients, content["source"], float(content["relative_error"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SearchError(
                f"{path} does not hold a cost model ({error}); delete it to start from the prior"
            ) from error


def compare(predicted: Sequence[float], actual: Sequence[float]) -> Fit:
    """Error and rank agreement of predictions."""
    if not actual:
        raise SearchError("nothing has been measured, so there is nothing to compare predictions with")
    errors = [abs(p - a) / a for p, a in zip(predicted, actual, strict=True)]
    return Fit(
        networks=len(actual),
        mape=100 * sum(errors) / len(errors),
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


def layer_features(planned: Plan) -> tuple[LayerFeatures, ...]:
    """The features of every layer, in order. They depend on shapes alone: a network is timed before it is trained."""
    graph, streamed = planned.graph, set(planned.streamed_layers)
    kernels = kernels_of(graph, planned.instruction_set)
    return tuple(
        features_of(graph, operator, kernel.name, is_streamed=layer in streamed)
        for layer, (operator, kernel) in enumerate(zip(graph.operators, kernels, strict=True))
    )


def features_of(graph: Graph, operator: Operator, kernel: str, *, is_streamed: bool) -> LayerFeatures:
    """The features of one layer of ``graph``."""
    output = graph.output_tensor(operator)
    work = macs(graph, operator)
    pixels = output.elements // output.shape[-1]
    rows = output.shape[1] if len(output.shape) == 4 else 1
    gathered = channel_rows = 0
    if operator.kind is OpKind.CONV_2D:
        gathered = work // output.shape[-1] * operator.groups
    elif operator.kind is OpKind.DEPTHWISE_CONV_2D:
        channel_rows = rows * output.shape[-1]
    elif not work:  # pools, means and element-wise layers touch each input element once per window that covers it
        taps = math.prod(operator.window.kernel) if operator.window else 1
        work = max(graph.input_tensors(operator)[0].elements, output.elements * taps)
    calls = row_access(graph, operator).units if is_streamed else 1
    values = (work, output.elements, gathered, pixels, channel_rows, rows, calls)
    return LayerFeatures(kernel, tuple(map(float, values)))


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
        kernel: tuple(factor * float(value) for value in values) for kernel, values in base["kernels"].items()
    }
    return CostModel(core, coefficients, entry["source"], _PRIOR_ERROR)


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
