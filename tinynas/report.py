"""The report of a study: one HTML page that holds everything it shows and asks the network for nothing.

``ReportData`` is all the page knows; ``render_report`` turns it into HTML and touches nothing else. The charts are SVG
drawn by ``tinynas.charts`` rather than by plotly: plotly's script alone is 4.8 MB; this page takes some 30 kB and 2 kB
per candidate, prints, and is readable with scripts off.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tinynas import charts
from tinynas.files import write_atomically
from tinynas.narrowing import SubSpace, ranking
from tinynas.report_data import Narrowing, ReportCandidate, ReportData

RANKED_SUB_SPACES = 10
"""How many of each ranking the page lists."""


def render_report(data: ReportData) -> str:
    """The page as HTML. Every text in ``data`` is escaped."""
    environment = Environment(
        loader=PackageLoader("tinynas", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        kib=charts.kib,
        percent=charts.percent,
        ms=charts.significant,
        count=_count,
        megamacs=_megamacs,
        limit="{:g}".format,
        sub_space=charts.sub_space_name,
        link=_link,
    )
    prominent = _prominent(data)
    memory = data.winner_memory if data.winner_memory is not None and data.winner_memory.buffers else None
    chosen = set(prominent)
    return environment.get_template("report.html.j2").render(
        data=data,
        winner=data.winner,
        headline=_headline(data),
        prominent=prominent,
        others=tuple(candidate for candidate in data.candidates if candidate not in chosen),
        front_charts=charts.front_charts(data) if _plottable(data.candidates) else (),
        history_charts=charts.history_charts(data.history) if data.history else (),
        narrowing_charts=_narrowing_charts(data.narrowing),
        rankings=_rankings(data.narrowing),
        fit_chart=charts.fit_chart(data.calibration) if data.calibration and data.calibration.pairs else None,
        memory=memory,
        memory_charts=charts.memory_charts(memory) if memory else (),
        slowest_cycles=max((layer.cycles for layer in data.winner_layers), default=0.0),
        total_cycles=sum(layer.cycles for layer in data.winner_layers),
        total_macs=sum(layer.macs for layer in data.winner_layers),
    )


def write_report(data: ReportData, path: Path) -> None:
    """Write the page to ``path``, which holds either the old page or the whole new one. Raises SearchError."""
    write_atomically(path, render_report(data))


def _headline(data: ReportData) -> str:
    """What the study found, in one sentence."""
    winner = data.winner
    if winner is None:
        if not data.candidates:
            return f"No architecture fits {data.device.name} within the limits so far"
        fit = (
            "1 architecture fits" if len(data.candidates) == 1 else f"{_count(len(data.candidates))} architectures fit"
        )
        return f"{fit} {data.device.name}; no winner has been chosen yet"
    if winner.test_accuracy is not None:
        accuracy = f"{charts.percent(winner.test_accuracy)} % test accuracy"
    elif winner.best_known_accuracy is not None:
        accuracy = f"{charts.percent(winner.best_known_accuracy)} % validation accuracy"
    else:
        accuracy = "One architecture"
    latency = charts.significant(winner.latency_ms)
    return f"{accuracy} at {latency} ms on {data.device.name}, in {charts.kib(winner.sram_bytes)} KiB of SRAM"


def _prominent(data: ReportData) -> tuple[ReportCandidate, ...]:
    """The candidates of the first table: the winner, the front, then what else was trained, measured or exported."""
    shown = (c for c in data.candidates if c.is_winner or c.is_front or _worked_on(c))
    return tuple(sorted(shown, key=lambda c: (not c.is_winner, not c.is_front, c.latency_ms)))


def _worked_on(candidate: ReportCandidate) -> bool:
    return bool(candidate.files) or candidate.measured_ms is not None or candidate.trained_accuracy is not None


def _plottable(candidates: Sequence[ReportCandidate]) -> bool:
    return any(candidate.best_known_accuracy is not None for candidate in candidates)


def _narrowing_charts(narrowing: Narrowing | None) -> tuple[Markup, ...]:
    if narrowing is None or not any(sub_space.fitting.count for sub_space in narrowing.sub_spaces):
        return ()
    return charts.narrowing_charts(narrowing)


def _rankings(narrowing: Narrowing | None) -> tuple[tuple[SubSpace, SubSpace], ...]:
    """The best of both rankings side by side, ours first, as far as something fits."""
    if narrowing is None:
        return ()
    ours = ranking(narrowing.sub_spaces)[:RANKED_SUB_SPACES]
    theirs = ranking(narrowing.sub_spaces, layer_by_layer=True)[:RANKED_SUB_SPACES]
    pairs = zip(ours, theirs, strict=True)
    return tuple((one, other) for one, other in pairs if one.fitting.count or other.layer_by_layer.count)


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _megamacs(macs: float) -> str:
    return charts.significant(macs / 1e6)


def _link(relative_path: str) -> str:
    """A path as a link that stays below the page: quoting and ``./`` leave no scheme and no host to name."""
    return "./" + quote(relative_path)
