#!/usr/bin/env python3
"""How well latencies on phones are predicted from a few that were measured, beside ridge regression and the ceiling.

Each phone is predicted with a prior that was fitted on the other phones alone, so that no row of it is known before it
is measured; with the prior that comes with tinynas, which knows all of them, figures stand apart. Means of 20 draws;
every network that was not fitted judges.

- chosen, random: ours, from networks that it chooses or from random ones.
- ridge: on the counts of operators, of relative errors as the figures are, from random networks.
- ceiling: several families of models, each fitted on four fifths of all networks and judged on the last fifth, in turn;
  the best of them says what can be known. What their errors are tells why: of something about the networks, the errors
  on two phones would be alike; of a phone that is busy or hot for a while, those of neighbouring rows are.

Usage: python -m benchmarks.phone_latency [--tables FOLDER] [--draws N] [--json]     (five minutes on one core)
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from statistics import fmean

import numpy as np
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold

from benchmarks.bootstrap import interval
from scripts.fit_phone_priors import robust_costs, typical_costs_ms
from tinynas.phones.agreement import Agreement, agreement
from tinynas.phones.choosing import Rows, choose, draw
from tinynas.phones.latency_model import Floats, LatencyModel, fit, typical_phone
from tinynas.phones.spaces import PublishedSpace
from tinynas.phones.table import LatencyTable, read_latencies

TABLES = Path(__file__).resolve().parents[2] / "shared" / "data"
SAMPLES, RIDGE_SAMPLES = (10, 20, 100), (10, 900)
FOLDS = 5

_RIDGE_ALPHA = 1e-4
"""The best of 1e-4 to 10 for Spearman from 10 networks."""

Costs = dict[str, float] | None
Family = Callable[[Floats, Floats, Floats], Floats]
"""Predictions for networks, from others' columns and latencies: (work, measured, asked) -> predicted."""


@dataclass(frozen=True, slots=True)
class Row:
    """One way to predict one phone, in the mean of all draws."""

    space: str
    phone: str
    method: str
    samples: int
    spearman: float
    spearman_interval: tuple[float, float]
    """95 % of the mean, over the draws."""
    kendall_tau: float
    within_10_percent: float
    mape: float
    interval_coverage: float | None
    """None where the method gives no intervals."""


@dataclass(frozen=True, slots=True)
class Noise:
    """What the errors are like that the space's terms leave, fitted on all networks."""

    space: str
    between_phones: float
    """The largest correlation, in absolute value, of the errors on two phones."""
    between_rows: dict[str, float]
    """On each phone, the correlation of the errors with those of the next row."""


@dataclass(frozen=True)
class Bench:
    """One space's table."""

    space: PublishedSpace
    table: LatencyTable
    draws: int

    def rows(self) -> Iterator[Row]:
        """Every method on every phone."""
        for phone in self.table.latencies_ms:
            blind = typical_costs_ms(
                self.table, [name for name in self.table.latencies_ms if name != phone], self.space
            )
            model = typical_phone(self.space, self.table.steps_ms[phone], blind)
            nothing = np.arange(0)
            yield self._row(phone, "typical phone", 0, [self._judge(model, phone, nothing)])
            for samples in SAMPLES:
                for method, prior, at_random in (
                    ("chosen", blind, False),
                    ("random", blind, True),
                    ("chosen, prior knows the phone", None, False),
                ):
                    found = [self._ours(phone, samples, seed, prior, at_random=at_random) for seed in range(self.draws)]
                    yield self._row(phone, method, samples, found)
            for samples in RIDGE_SAMPLES:
                found = [self._ridge(phone, samples, seed) for seed in range(self.draws)]
                yield self._row(phone, "ridge on counts", samples, found, has_intervals=False)
            for name, (columns, family) in self._families().items():
                found = [self._cross_validated(phone, columns, family)]
                yield self._row(phone, f"ceiling: {name}", self._networks * (FOLDS - 1) // FOLDS, found, False)

    def noise(self) -> Noise:
        """Of the errors that the terms leave."""
        work = self.table.amounts[0]
        errors = {}
        for phone, latencies in self.table.latencies_ms.items():
            measured = np.array(latencies)
            errors[phone] = np.log(measured / (work @ robust_costs(work, measured)))
        return Noise(
            space=self.space.value,
            between_phones=max(abs(_correlation(a, b)) for a, b in combinations(errors.values(), 2)),
            between_rows={phone: _correlation(found[:-1], found[1:]) for phone, found in errors.items()},
        )

    @property
    def _networks(self) -> int:
        return len(self.table.architectures)

    def _row(self, phone: str, method: str, samples: int, found: list[Agreement], has_intervals: bool = True) -> Row:
        spearman = [one.spearman for one in found]
        return Row(
            space=self.space.value,
            phone=phone,
            method=method,
            samples=samples,
            spearman=fmean(spearman),
            spearman_interval=interval(spearman),
            kendall_tau=fmean(one.kendall_tau for one in found),
            within_10_percent=fmean(one.within_10_percent for one in found),
            mape=fmean(one.mape for one in found),
            interval_coverage=fmean(one.interval_coverage for one in found) if has_intervals else None,
        )

    def _ours(self, phone: str, samples: int, seed: int, prior: Costs, *, at_random: bool) -> Agreement:
        amounts, measured = self.table.amounts, np.array(self.table.latencies_ms[phone])
        drawn = draw(self._networks, samples, seed)
        fitted = drawn if at_random else choose(self.space, amounts, samples, seed, prior)
        model = fit(self.space, amounts[:, fitted], measured[fitted].tolist(), self.table.steps_ms[phone], prior)
        return self._judge(model, phone, fitted)

    def _judge(self, model: LatencyModel, phone: str, fitted: Rows) -> Agreement:
        unseen = np.setdiff1d(np.arange(self._networks), fitted)
        amounts = self.table.amounts[:, unseen]
        measured = np.array(self.table.latencies_ms[phone])[unseen]
        return agreement(model.latencies_ms(amounts), model.intervals_ms(amounts), measured)

    def _ridge(self, phone: str, samples: int, seed: int) -> Agreement:
        fitted = draw(self._networks, samples, seed)
        unseen = np.setdiff1d(np.arange(self._networks), fitted)
        measured, counts = np.array(self.table.latencies_ms[phone]), self._counts()
        predicted = _ridge(counts[fitted], measured[fitted], counts[unseen])
        return agreement(predicted, (predicted, predicted), measured[unseen])

    def _cross_validated(self, phone: str, columns: Floats, family: Family) -> Agreement:
        measured = np.array(self.table.latencies_ms[phone])
        predicted = np.empty(self._networks)
        for fitted, asked in KFold(FOLDS, shuffle=True, random_state=0).split(columns):
            predicted[asked] = family(columns[fitted], measured[fitted], columns[asked])
        return agreement(predicted, (predicted, predicted), measured)

    def _families(self) -> dict[str, tuple[Floats, Family]]:
        work, places = self.table.amounts[0], self._places()
        both = np.hstack([work, places])
        return {
            "our terms": (work, _robust),
            "ridge on counts": (self._counts(), _ridge),
            "each operator in each place": (np.hstack([np.ones((len(places), 1)), places]), _robust),
            "forest": (both, _forest),
            "gradient boosting": (both, _boosting),
            "boosting on top of our terms": (both, lambda w, m, a: _boosted_terms(w, m, a, work.shape[1])),
        }

    def _operators(self) -> np.ndarray:
        """(networks, places), the names."""
        split = (
            (lambda text: [part.split("~")[0] for part in text.replace("+", "").split("|") if part])
            if self.space is PublishedSpace.NASBENCH201
            else str.split
        )
        return np.array([split(text) for text in self.table.architectures])

    def _counts(self) -> Floats:
        operators = self._operators()
        return np.stack([(operators == name).sum(axis=1) for name in np.unique(operators)], axis=1).astype(float)

    def _places(self) -> Floats:
        """(networks, places × operators), 1 where an operator is in a place."""
        operators = self._operators()
        return np.hstack([(operators == name).astype(float) for name in np.unique(operators)])


def _correlation(first: Floats, second: Floats) -> float:
    return float(np.corrcoef(first, second)[0, 1])


def _robust(work: Floats, measured: Floats, asked: Floats) -> Floats:
    return asked @ robust_costs(work, measured)


def _ridge(work: Floats, measured: Floats, asked: Floats) -> Floats:
    model = Ridge(alpha=_RIDGE_ALPHA).fit(work, measured, sample_weight=1 / measured**2)
    predicted: Floats = model.predict(asked)
    return predicted


def _forest(work: Floats, measured: Floats, asked: Floats) -> Floats:
    model = RandomForestRegressor(100, min_samples_leaf=3, random_state=0)
    predicted: Floats = model.fit(work, measured).predict(asked)
    return predicted


def _boosting(work: Floats, measured: Floats, asked: Floats) -> Floats:
    model = HistGradientBoostingRegressor(
        loss="absolute_error", max_iter=150, learning_rate=0.05, max_leaf_nodes=15, random_state=0
    )
    predicted: Floats = np.exp(model.fit(work, np.log(measured)).predict(asked))
    return predicted


def _boosted_terms(work: Floats, measured: Floats, asked: Floats, terms: int) -> Floats:
    """Boosting of what the first columns, our terms, leave."""
    costs = robust_costs(work[:, :terms], measured)
    return (asked[:, :terms] @ costs) * _boosting(work, measured / (work[:, :terms] @ costs), asked)


def show(rows: list[Row], noises: list[Noise]) -> None:
    """Print the tables."""
    for row in rows:
        if row.method == "typical phone":
            heading = f"{row.space}, {row.phone}"
            print(f"\n{heading:<38} {'from':>6}  {'Spearman  (95 %)':<24} tau    within 10 %  error  in interval")
        low, high = row.spearman_interval
        covered = "" if row.interval_coverage is None else f"{row.interval_coverage:.0%}"
        print(
            f"{row.method:<38} {row.samples:>6}  {row.spearman:.4f}  ({low:.4f} to {high:.4f})  {row.kendall_tau:.3f}  "
            f"{row.within_10_percent:>11.1%}  {row.mape:>4.1f}%  {covered:>11}"
        )
    print()
    for noise in noises:
        rows_alike = ", ".join(f"{phone} {value:.2f}" for phone, value in noise.between_rows.items())
        print(
            f"{noise.space}: errors on two phones correlate by at most {noise.between_phones:.2f}, "
            f"those of neighbouring rows by {rows_alike}"
        )


def main() -> None:
    """Predict, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tables", type=Path, default=TABLES, help="a folder with <space>_phone_latency.csv")
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    rows, noises = [], []
    for space in PublishedSpace:
        table = read_latencies(arguments.tables / f"{space.value}_phone_latency.csv", space)
        bench = Bench(space, table, arguments.draws)
        for row in bench.rows():
            rows.append(row)
            print(
                f"{row.space} {row.phone} {row.method} {row.samples}: {row.spearman:.4f}", file=sys.stderr, flush=True
            )
        noises.append(bench.noise())
    if arguments.json:
        print(json.dumps({"rows": list(map(asdict, rows)), "noise": list(map(asdict, noises))}))
    else:
        show(rows, noises)


if __name__ == "__main__":
    main()
