#!/usr/bin/env python3
"""Fits what operators cost on a typical phone, and writes tinynas/phones/priors.toml.

Every latency in the tables is used. On each phone the costs are those that make the relative errors least, with
outliers held back; costs are divided by the phone's mean latency, averaged over the phones, and stated for a phone as
fast as they are on average. A term that the tables show to cost nothing gets a small share all the same, so that a
phone on which it does cost something may say so. The fixed costs' least share is larger: where each network has six
operators, nothing can tell what is fixed from what each operator costs, and about ten calls around the cells, a tenth
of a millisecond each, are not nothing.

Usage: python -m scripts.fit_phone_priors [--tables FOLDER]     (a folder with <space>_phone_latency.csv)
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.optimize import nnls

from export.atomic import write_bytes
from tinynas.phones.latency_model import Floats
from tinynas.phones.spaces import FIXED, TERMS, PublishedSpace
from tinynas.phones.table import LatencyTable, read_latencies

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "tinynas" / "phones" / "priors.toml"
SOURCE = "HayeonLee/HELP (MIT; Lee et al., NeurIPS 2021)"
SMALLEST_SHARE, SMALLEST_FIXED_SHARE = 0.02, 0.06
"""Of the mean latency, that a term may have."""

_HOLD_BACK = 1.5
"""Errors beyond so many typical ones count less and less."""
_ROUNDS = 30


def robust_costs(work: Floats, measured: Floats) -> Floats:
    """What one of each column of ``work`` (networks, terms) costs: relative errors are least, outliers held back."""
    weights = np.ones(len(measured))
    for _ in range(_ROUNDS):
        costs, _ = nnls(work * (weights / measured)[:, None], weights)
        errors = 1 - work @ costs / measured
        typical = 1.4826 * np.median(np.abs(errors))
        weights = 1 / np.sqrt(1 + (errors / (_HOLD_BACK * typical)) ** 2)
    found: Floats = costs
    return found


def shares(table: LatencyTable, phone: str) -> Floats:
    """Each term's share of the mean latency on a phone, if every branch runs."""
    work = table.amounts[0] / table.amounts[0].mean(axis=0)
    costs = robust_costs(work, np.array(table.latencies_ms[phone]))
    return costs / costs.sum()


def typical_costs_ms(table: LatencyTable, phones: Sequence[str], space: PublishedSpace) -> dict[str, float]:
    """What one of each term costs on a phone that is the mean of ``phones``."""
    least = [SMALLEST_FIXED_SHARE if term == FIXED else SMALLEST_SHARE for term in TERMS[space]]
    mean_shares = np.maximum(np.mean([shares(table, phone) for phone in phones], axis=0), least)
    mean_ms = np.mean([np.mean(table.latencies_ms[phone]) for phone in phones])
    costs = mean_ms * mean_shares / table.amounts[0].mean(axis=0)
    return dict(zip(TERMS[space], costs.tolist(), strict=True))


def main() -> None:
    """Fit both spaces and write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tables", type=Path, default=ROOT.parent / "shared" / "data")
    folder = parser.parse_args().tables
    lines = [
        "# What one of each term of a search space costs, in milliseconds on a typical phone; proportions count.",
        "# Written by scripts/fit_phone_priors.py.",
    ]
    for space in PublishedSpace:
        table = read_latencies(folder / f"{space.value}_phone_latency.csv", space)
        phones = list(table.latencies_ms)
        costs = typical_costs_ms(table, phones, space)
        lines += [
            "",
            f"[{space.value}]",
            f'source = "{len(table.architectures):,} networks on {", ".join(phones)}: {SOURCE}"',
            f'sha256 = "{table.sha256}"',
            "",
            f"[{space.value}.costs_ms]",
            *(f"{term} = {cost:.4g}" for term, cost in costs.items()),
        ]
    write_bytes(OUT, ("\n".join(lines) + "\n").encode())


if __name__ == "__main__":
    main()
