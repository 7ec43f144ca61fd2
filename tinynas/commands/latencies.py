"""Fits the cost model of phones to latencies that somebody measured."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from tinynas.errors import SearchError
from tinynas.phones.agreement import Agreement, agreement
from tinynas.phones.choosing import Rows, choose, draw
from tinynas.phones.latency_model import Floats, LatencyModel, fit, typical_phone
from tinynas.phones.spaces import PublishedSpace
from tinynas.phones.table import LatencyTable, read_latencies

_LEAST_JUDGED = 2
"""Networks that have to be left to judge by: fewer have no order."""


def calibrate(path: Path, space: PublishedSpace, samples: int, seed: int, *, at_random: bool = False) -> dict[str, Any]:
    """Fit ``samples`` networks of a table on each of its phones, and predict the others, which judge the fit.

    ``at_random`` draws the networks instead of choosing those that say most.
    """
    table = read_latencies(path, space)
    networks = len(table.architectures)
    if samples > networks - _LEAST_JUDGED:
        raise SearchError(
            f"'{path}' holds {networks} networks, and {samples} to fit leave fewer than {_LEAST_JUDGED} to judge by; "
            + (f"ask for at most {networks - _LEAST_JUDGED} --samples" if networks > _LEAST_JUDGED else "add some")
        )
    measured = draw(networks, samples, seed) if at_random else choose(space, table.amounts, samples, seed)
    unseen = np.setdiff1d(np.arange(networks), measured)
    phones = {phone: _calibrate_phone(table, space, phone, measured, unseen) for phone in table.latencies_ms}
    return {
        "latencies": str(path),
        "sha256": table.sha256,
        "space": space.value,
        "networks": networks,
        "measured": samples,
        "judged_on": len(unseen),
        "at_random": at_random,
        "seed": seed,
        "measured_architectures": [table.architectures[row] for row in measured],
        **{key: fmean(found[key] for found in phones.values()) for key in _FIGURES},
        "phones": phones,
    }


_FIGURES = (*(field.name for field in fields(Agreement)), "spearman_before", "mape_before")
"""What is told of each phone, and of all of them in the mean."""


def _calibrate_phone(
    table: LatencyTable, space: PublishedSpace, phone: str, measured: Rows, unseen: Rows
) -> dict[str, Any]:
    latencies_ms = np.array(table.latencies_ms[phone])
    step_ms = table.steps_ms[phone]
    model = fit(space, table.amounts[:, measured], latencies_ms[measured].tolist(), step_ms)
    after, before = (_judge(m, table, unseen, latencies_ms) for m in (model, typical_phone(space, step_ms)))
    return {
        **asdict(after),
        "spearman_before": before.spearman,
        "mape_before": before.mape,
        "costs_ms": model.costs_ms,
        "reading": model.reading,
        "reading_probability": model.reading_probability,
        "relative_error": model.relative_error,
        "cost_model": model.source,
    }


def _judge(model: LatencyModel, table: LatencyTable, unseen: Rows, latencies_ms: Floats) -> Agreement:
    amounts = table.amounts[:, unseen]
    return agreement(model.latencies_ms(amounts), model.intervals_ms(amounts), latencies_ms[unseen])
