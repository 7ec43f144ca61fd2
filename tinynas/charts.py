"""The report's charts as SVG elements, coloured by the page's style sheet so that they follow light, dark and print.

A chart that needs the room is drawn twice, wide and narrow, and the style sheet shows the one that fits: text in a
scaled-down picture would be too small on a phone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from xml.etree.ElementTree import Element, SubElement, tostring

from markupsafe import Markup

from tinynas.narrowing import SubSpace, ranking
from tinynas.report_data import ArenaBuffer, Calibration, MemoryMap, Narrowing, ReportCandidate, ReportData

WIDE_PX = 860
NARROW_PX = 380
_LIMIT_ROOM = 1.6
"""A limit further than this from the data is told in words: drawing it would squeeze the data into a corner."""
_CHAR_PX = 6.2
"""Width of an average character of an 11 px label; errs on the wide side."""


def kib(size_bytes: float) -> str:
    """Bytes as KiB with one decimal, or none from 1000 KiB on."""
    value = size_bytes / 1024
    return f"{value:,.0f}" if value >= 1000 or value == int(value) else f"{value:.1f}"


def percent(fraction: float) -> str:
    """A fraction from 0 to 1 as a percentage with one decimal."""
    return f"{fraction * 100:.1f}"


def significant(value: float) -> str:
    """Three significant digits without an exponent."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}".rstrip(".")


@dataclass(frozen=True, slots=True)
class _Axis:
    """A linear scale from values to pixels."""

    low: float
    high: float
    start_px: float
    end_px: float

    def px(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return self.start_px + share * (self.end_px - self.start_px)

    def ticks(self, most: int) -> list[float]:
        """At most ``most`` + 1 round values (1, 2 or 5 times a power of ten apart) within the axis."""
        raw = (self.high - self.low) / most
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [index * step for index in range(first, last + 1)]


def front_charts(data: ReportData) -> tuple[Markup, Markup]:
    """Accuracy against latency, wide and narrow. At least one candidate must have an accuracy."""
    return _front_chart(data, WIDE_PX, 470), _front_chart(data, NARROW_PX, 430)


def memory_charts(memory: MemoryMap) -> tuple[Markup, Markup]:
    """The arena's buffers over the layers, wide and narrow. There must be at least one buffer."""
    return _memory_chart(memory, WIDE_PX, 430), _memory_chart(memory, NARROW_PX, 400)


def history_charts(history: Sequence[float]) -> tuple[Markup, Markup]:
    """The best accuracy so far over the evaluations, wide and narrow. There must be at least one evaluation."""
    return _history_chart(history, WIDE_PX, 260), _history_chart(history, NARROW_PX, 260)


def narrowing_charts(narrowing: Narrowing) -> tuple[Markup, Markup]:
    """The distributions of multiply-accumulates, wide and narrow. At least one sub-space must have a fitting sample."""
    return _narrowing_chart(narrowing, WIDE_PX, 430), _narrowing_chart(narrowing, NARROW_PX, 400)


def sub_space_name(sub_space: SubSpace) -> str:
    """A sub-space as the text of its architectures has it."""
    return f"r{sub_space.resolution}-w{sub_space.width:g}"


def fit_chart(calibration: Calibration) -> Markup:
    """Predicted against measured latency, before and after the refit. There must be at least one pair."""
    width, height = 440, 420
    pairs = calibration.pairs
    top = 1.06 * max(max(p.measured_ms, p.predicted_before_ms, p.predicted_after_ms) for p in pairs)
    svg = _svg(
        width, height, f"Predicted against measured latency of {len(pairs)} networks, before and after the refit."
    )
    x, y = _Axis(0, top, 46, width - 12), _Axis(0, top, height - 48, 28)
    band = [(0.0, 0.0), (top, 0.9 * top), (top, top), (top / 1.1, top)]
    _add(svg, "polygon", "band", points=" ".join(f"{x.px(a):.1f},{y.px(b):.1f}" for a, b in band))
    _grid(svg, x, y, 6, "Measured, ms", "Predicted, ms")
    _line(svg, "diagonal", x.px(0), y.px(0), x.px(top), y.px(top))
    for pair in pairs:
        at = x.px(pair.measured_ms)
        before, after = y.px(pair.predicted_before_ms), y.px(pair.predicted_after_ms)
        _line(svg, "stem", at, before, at, after)
        tip = (
            f"{pair.label}\nmeasured {significant(pair.measured_ms)} ms"
            f"\npredicted before {significant(pair.predicted_before_ms)} ms, "
            f"after {significant(pair.predicted_after_ms)} ms"
        )
        _add(svg, "rect", "before", x=at - 4, y=before - 4, width=8, height=8, data_tip=tip)
        _add(svg, "circle", "after", cx=at, cy=after, r=4.5, data_tip=tip)
    return _markup(svg)


def _front_chart(data: ReportData, width: int, height: int) -> Markup:
    known = [candidate for candidate in data.candidates if candidate.best_known_accuracy is not None]
    slowest = max(candidate.latency_ms for candidate in known)
    limit_ms = data.limits.latency_ms
    limit_drawn = limit_ms is not None and limit_ms <= _LIMIT_ROOM * slowest
    right = max(slowest, limit_ms) if limit_drawn and limit_ms is not None else slowest
    low, high = _accuracy_range(known)
    below = sum(1 for candidate in known if (candidate.best_known_accuracy or 0.0) * 100 < low)
    largest = max(1, *(candidate.sram_bytes for candidate in known))

    svg = _svg(width, height, f"Accuracy against latency of {len(known)} candidates; the front is in the table below.")
    x, y = _Axis(0, 1.06 * right, 46, width - 14), _Axis(low, high, height - 84, 34)
    _grid(svg, x, y, 10 if width == WIDE_PX else 5, "Latency, ms", "Accuracy, %")
    if limit_ms is not None and limit_drawn:
        _line(svg, "limit", x.px(limit_ms), y.start_px, x.px(limit_ms), y.end_px)
        _text(svg, "limit-label", x.px(limit_ms), y.end_px - 6, f"limit {limit_ms:g} ms", "middle")
    elif limit_ms is not None:
        _text(svg, "limit-label", x.end_px, 15, f"limit {limit_ms:g} ms, right of this chart →", "end")
    if below:
        _text(svg, "note", x.start_px, y.start_px + 36, f"{below} more below {low:g} %", "start")

    def place(candidate: ReportCandidate, accuracy: float) -> tuple[float, float, float]:
        return x.px(candidate.latency_ms), y.px(accuracy * 100), _radius(candidate.sram_bytes, largest)

    _front_lines(svg, data.front, x, y)
    # The small markers come last so that the large ones never hide them.
    for candidate in sorted(known, key=lambda c: -c.sram_bytes):
        accuracy = candidate.search_accuracy
        if accuracy is not None and accuracy * 100 >= low:
            cx, cy, r = place(candidate, accuracy)
            plain_front = candidate.is_front and candidate.trained_accuracy is None
            style = "front" if plain_front else "candidate"
            _add(svg, "circle", style, cx=cx, cy=cy, r=r, data_tip=_tip(candidate))
    labels = _Labels(x.start_px, x.end_px)
    marked = sorted((c for c in known if c.is_front or c.is_winner), key=lambda c: not c.is_winner)
    for candidate in known:
        accuracy = candidate.trained_accuracy
        if accuracy is not None:
            cx, cy, r = place(candidate, accuracy)
            if candidate.search_accuracy is not None:
                _line(svg, "stem", cx, cy, cx, min(y.start_px, y.px(candidate.search_accuracy * 100)))
            style = "front" if candidate.is_front else "trained"
            _add(svg, "circle", style, cx=cx, cy=cy, r=r, data_tip=_tip(candidate))
    for candidate in marked:
        cx, cy, r = place(candidate, candidate.best_known_accuracy or 0.0)
        if candidate.is_winner:
            _add(svg, "circle", "winner", cx=cx, cy=cy, r=r, data_tip=_tip(candidate))
            _add(svg, "circle", "winner-ring", cx=cx, cy=cy, r=r + 4)
            labels.place(svg, "winner-label", cx - r - 5, cy - r - 5, f"winner {candidate.candidate_id}")
        else:
            labels.place(svg, "front-label", cx - r - 1, cy - r - 3, candidate.candidate_id)
    _size_legend(svg, x.start_px, height - 18, largest)
    return _markup(svg)


def _accuracy_range(known: Sequence[ReportCandidate]) -> tuple[float, float]:
    """Percentages that the axis spans: the front, what was trained, and all but the worst 5 % of the rest."""
    shown = sorted(candidate.search_accuracy for candidate in known if candidate.search_accuracy is not None)
    must = [c.best_known_accuracy or 0.0 for c in known if c.is_front or c.trained_accuracy is not None]
    values = [*shown[len(shown) // 20 :], *must]
    low, high = 100 * min(values), 100 * max(values)
    room = max(0.5, 0.06 * (high - low))
    return max(0.0, math.floor(low - room)), min(100.0, high + 2 * room)


def _front_lines(svg: Element, front: Sequence[ReportCandidate], x: _Axis, y: _Axis) -> None:
    """Connect the front once per kind of accuracy: accuracies of the search and trained ones are not comparable."""
    trained = [(c.latency_ms, c.trained_accuracy) for c in front if c.trained_accuracy is not None]
    if trained:
        _polyline(svg, "front-line", trained, x, y)
    if len(trained) < len(front):
        shared = [(c.latency_ms, c.search_accuracy) for c in front if c.search_accuracy is not None]
        _polyline(svg, "search-line" if trained else "front-line", shared, x, y)


def _polyline(svg: Element, style: str, points: Sequence[tuple[float, float]], x: _Axis, y: _Axis) -> None:
    path = " ".join(f"{x.px(latency_ms):.1f},{y.px(accuracy * 100):.1f}" for latency_ms, accuracy in points)
    _add(svg, "polyline", style, points=path)


def _tip(candidate: ReportCandidate) -> str:
    accuracies = [
        f"{name} {percent(value)} %"
        for name, value in (
            ("search", candidate.search_accuracy),
            ("validation", candidate.validation_accuracy),
            ("test", candidate.test_accuracy),
        )
        if value is not None
    ]
    kind = "measured" if candidate.measured_ms is not None else "predicted"
    return (
        f"{candidate.candidate_id}  {candidate.architecture}\n{', '.join(accuracies)}"
        f"\n{significant(candidate.latency_ms)} ms {kind}, {significant(candidate.energy_mj)} mJ"
        f"\n{kib(candidate.sram_bytes)} KiB of SRAM, {kib(candidate.flash_bytes)} KiB of flash"
    )


def _radius(sram_bytes: float, largest: float) -> float:
    """A marker's area is proportional to SRAM, down to the smallest that can be seen and pointed at."""
    return max(2.5, 9.5 * math.sqrt(sram_bytes / largest))


def _size_legend(svg: Element, left: float, centre_y: float, largest: int) -> None:
    _text(svg, "note", left, centre_y + 4, "SRAM", "start")
    at = left + 44
    step, *larger = _Axis(0, largest / 1024, 0, 1).ticks(3)[1:]
    for size_kib in (step / 4, step, *larger):
        radius = _radius(size_kib * 1024, largest)
        label = f"{size_kib:g} KiB"
        _add(svg, "circle", "candidate", cx=at + radius, cy=centre_y, r=radius)
        _text(svg, "note", at + 2 * radius + 5, centre_y + 4, label, "start")
        at += 2 * radius + 15 + _CHAR_PX * len(label)


class _Labels:
    """Places labels beside points, within the chart's sides, leaving out those that would cover an earlier one."""

    def __init__(self, leftmost: float, rightmost: float) -> None:
        self._leftmost, self._rightmost = leftmost, rightmost
        self._boxes: list[tuple[float, float, float, float]] = []

    def place(self, svg: Element, style: str, x: float, base: float, text: str) -> None:
        """Write ``text`` so that it ends at ``x``, with its base line at ``base``."""
        length = _CHAR_PX * len(text)
        left = max(self._leftmost, min(x - length, self._rightmost - length))
        box = (left, base - 11, left + length, base + 2)
        if any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in self._boxes):
            return
        self._boxes.append(box)
        _text(svg, style, left + length, base, text, "end")


def _history_chart(history: Sequence[float], width: int, height: int) -> Markup:
    count, best = len(history), list(accumulate(history, max))
    shown = sorted(history)[count // 20 :]
    low, high = 100 * shown[0], 100 * best[-1]
    room = max(0.5, 0.08 * (high - low))
    svg = _svg(width, height, f"Best accuracy after each of {count} evaluations; it ends at {percent(best[-1])} %.")
    x = _Axis(0, max(count, 2), 46, width - 14)
    y = _Axis(max(0.0, math.floor(low - room)), min(100.0, high + 2 * room), height - 48, 28)
    _grid(svg, x, y, 10 if width == WIDE_PX else 5, "Evaluations", "Accuracy, %")
    for index, accuracy in enumerate(history, start=1):
        if 100 * accuracy >= y.low:
            _add(svg, "circle", "candidate", cx=x.px(index), cy=y.px(100 * accuracy), r=2.5)
    steps, last = [], None
    for index, accuracy in enumerate(best, start=1):
        at = y.px(100 * max(accuracy, y.low / 100))
        if last is not None:
            steps.append(f"{x.px(index):.1f},{last:.1f}")
        steps.append(f"{x.px(index):.1f},{at:.1f}")
        last = at
    _add(svg, "polyline", "front-line", points=" ".join(steps))
    return _markup(svg)


def _narrowing_chart(narrowing: Narrowing, width: int, height: int) -> Markup:
    """One line per sub-space: what share of its fitting samples has at most so many multiply-accumulates."""
    drawn = [sub_space for sub_space in narrowing.sub_spaces if sub_space.fitting.macs]
    most = max(sub_space.fitting.macs[-1] for sub_space in drawn)
    svg = _svg(
        width,
        height,
        f"Cumulative distribution of multiply-accumulates of the samples that fit, for {len(drawn)} sub-spaces.",
    )
    x, y = _Axis(0, 1.02 * max(most, 1) / 1e6, 46, width - 14), _Axis(0, 100, height - 48, 28)
    _grid(svg, x, y, 10 if width == WIDE_PX else 5, "Multiply-accumulates, million", "Share of the fitting samples, %")
    ours = [sub_space for sub_space in ranking(narrowing.sub_spaces) if sub_space.fitting.macs]
    theirs = ranking(narrowing.sub_spaces, layer_by_layer=True)[0]
    styles = dict.fromkeys(ours[1:3], "runner-up")
    if theirs.fitting.macs:
        styles[theirs] = "layer-by-layer"
    if narrowing.chosen is not None:
        styles[narrowing.chosen] = "chosen"
    # The coloured ones come last so that no grey one hides them.
    order = ["sub-space", "runner-up", "layer-by-layer", "chosen"]
    labels = _Labels(x.start_px, x.end_px)
    for sub_space in sorted(drawn, key=lambda s: order.index(styles.get(s, "sub-space"))):
        style, macs = styles.get(sub_space, "sub-space"), sub_space.fitting.macs
        points = [(x.px(value / 1e6), y.px(100 * step / (len(macs) - 1))) for step, value in enumerate(macs)]
        tip = (
            f"{sub_space_name(sub_space)}\n{sub_space.fitting.count} of {sub_space.sampled} samples fit"
            f"\nmean {significant(sub_space.fitting.mean_macs / 1e6)} M multiply-accumulates"
        )
        line = " ".join(f"{px:.1f},{py:.1f}" for px, py in points)
        _add(svg, "polyline", f"cdf {style}", points=line, data_tip=tip)
    for style, share in (("chosen", 0.5), ("layer-by-layer", 0.3), ("runner-up", 0.7)):
        for sub_space in ours:
            if styles.get(sub_space) == style:
                macs = sub_space.fitting.macs
                step = round(share * (len(macs) - 1))
                at = x.px(macs[step] / 1e6) - 6, y.px(100 * step / (len(macs) - 1)) + 4
                labels.place(svg, f"{style}-label", *at, sub_space_name(sub_space))
    return _markup(svg)


def _memory_chart(memory: MemoryMap, width: int, height: int) -> Markup:
    layers = max(len(memory.layer_names), 1 + max(buffer.last_layer for buffer in memory.buffers))
    limit_drawn = memory.sram_limit_bytes <= _LIMIT_ROOM * memory.arena_bytes
    top = 1.08 * max(memory.sram_limit_bytes if limit_drawn else memory.arena_bytes, memory.lower_bound_bytes, 1) / 1024
    svg = _svg(width, height, f"Arena of {memory.arena_bytes} bytes over {layers} layers, one rectangle per tensor.")
    x, y = _Axis(0, layers, 46, width - 14), _Axis(0, top, height - 48, 44)
    _grid(svg, x, y, 8, "Layer (numbers as in the table below)", "Address in the arena, KiB", x_ticks=False)
    every = _Axis(0, layers, 0, 1).ticks(20 if width == WIDE_PX else 8)
    step = max(1, round(every[1] - every[0])) if len(every) > 1 else 1
    for layer in range(0, layers, step):
        _text(svg, "tick", x.px(layer + 0.5), y.start_px + 17, str(layer), "middle")
    for buffer in memory.buffers:
        _buffer(svg, buffer, x, y)
    for buffer in memory.buffers:
        _buffer_label(svg, buffer, x, y)
    for style, size_bytes, text, at_end in _memory_levels(memory, limit_drawn):
        level = y.px(size_bytes / 1024)
        _line(svg, style, x.start_px, level, x.end_px, level)
        if text:
            _text(
                svg,
                f"{style}-label",
                x.end_px if at_end else x.start_px + 4,
                level - 5,
                text,
                "end" if at_end else "start",
            )
    if not limit_drawn:
        text = f"SRAM limit {kib(memory.sram_limit_bytes)} KiB, above this chart ↑"
        _text(svg, "limit-label", x.end_px, 34, text, "end")
    return _markup(svg)


def _memory_levels(memory: MemoryMap, limit_drawn: bool) -> Iterable[tuple[str, int, str, bool]]:
    """The horizontal lines: style, height, label, and whether the label is at the right end."""
    arena, bound = memory.arena_bytes, memory.lower_bound_bytes
    if arena == bound:
        yield "arena", arena, f"arena {kib(arena)} KiB = lower bound", True
    else:
        yield "bound", bound, f"lower bound {kib(bound)} KiB", False
        yield "arena", arena, f"arena {kib(arena)} KiB", True
    if limit_drawn:
        yield "limit", memory.sram_limit_bytes, f"SRAM limit {kib(memory.sram_limit_bytes)} KiB", False


def _buffer(svg: Element, buffer: ArenaBuffer, x: _Axis, y: _Axis) -> None:
    left, right = x.px(buffer.first_layer), x.px(buffer.last_layer + 1)
    bottom, top = y.px(buffer.offset_bytes / 1024), y.px((buffer.offset_bytes + buffer.size_bytes) / 1024)
    width, height = right - left, bottom - top
    end = buffer.offset_bytes + buffer.size_bytes
    tip = (
        f"{buffer.tensor}\n{buffer.size_bytes:,} bytes, at {buffer.offset_bytes:,} to {end:,}"
        f"\nalive in layers {buffer.first_layer} to {buffer.last_layer}"
        + ("\nalive at the peak" if buffer.at_peak else "")
    )
    style = "buffer peak" if buffer.at_peak else "buffer"
    _add(svg, "rect", style, x=left, y=top, width=max(width, 1), height=max(height, 1), data_tip=tip)


def _buffer_label(svg: Element, buffer: ArenaBuffer, x: _Axis, y: _Axis) -> None:
    """The tensor's name, else its size, flat or upright: the first that fits into its rectangle."""
    left, right = x.px(buffer.first_layer), x.px(buffer.last_layer + 1)
    bottom, top = y.px(buffer.offset_bytes / 1024), y.px((buffer.offset_bytes + buffer.size_bytes) / 1024)
    width, height = right - left, bottom - top
    for text in (buffer.tensor, f"{kib(buffer.size_bytes)} KiB", kib(buffer.size_bytes)):
        length = _CHAR_PX * len(text) + 8
        middle_x, middle_y = (left + right) / 2, (top + bottom) / 2
        if length <= width and height >= 14:
            _text(svg, "buffer-label", middle_x, middle_y + 4, text, "middle")
            return
        if length <= height and width >= 14:
            turned = _text(svg, "buffer-label", middle_x + 4, middle_y, text, "middle")
            turned.set("transform", f"rotate(-90 {middle_x + 4:.1f} {middle_y:.1f})")
            return


def _grid(svg: Element, x: _Axis, y: _Axis, most: int, x_title: str, y_title: str, x_ticks: bool = True) -> None:
    """Grid lines, tick labels and axis titles; the y title is set flat above the axis, where it can be read."""
    for tick in y.ticks(6):
        _line(svg, "grid", x.start_px, y.px(tick), x.end_px, y.px(tick))
        _text(svg, "tick", x.start_px - 7, y.px(tick) + 4, f"{tick:g}", "end")
    if x_ticks:
        for tick in x.ticks(most):
            _line(svg, "grid", x.px(tick), y.start_px, x.px(tick), y.end_px)
            _text(svg, "tick", x.px(tick), y.start_px + 17, f"{tick:g}", "middle")
    _line(svg, "axis", x.start_px, y.start_px, x.end_px, y.start_px)
    _text(svg, "axis-title", x.end_px, y.start_px + 36, x_title, "end")
    _text(svg, "axis-title", 4, 15, y_title, "start")


def _svg(width: int, height: int, description: str) -> Element:
    return Element("svg", {"viewBox": f"0 0 {width} {height}", "role": "img", "aria-label": description})


def _add(parent: Element, tag: str, style: str, **attributes: float | str) -> Element:
    texts = {
        name.replace("_", "-"): value if isinstance(value, str) else f"{value:.1f}"
        for name, value in attributes.items()
    }
    return SubElement(parent, tag, {"class": style, **texts})


def _line(parent: Element, style: str, x1: float, y1: float, x2: float, y2: float) -> None:
    _add(parent, "line", style, x1=x1, y1=y1, x2=x2, y2=y2)


def _text(parent: Element, style: str, x: float, y: float, text: str, anchor: str) -> Element:
    element = _add(parent, "text", style, x=x, y=y, text_anchor=anchor)
    element.text = text
    return element


def _markup(svg: Element) -> Markup:
    # ElementTree has escaped every text and attribute, so the page may take it as it is.
    return Markup(tostring(svg, encoding="unicode", short_empty_elements=False))
