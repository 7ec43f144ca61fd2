"""What a layer makes its kernel do, counted: how often each of the loops runs that its cycles are spent in.

Every kernel has a function here that follows the control flow of its C or assembly, with the shapes for arguments: what
is left for the cost model to learn is how many cycles one round of each loop takes on a core. Shapes, activations and
the memory plan decide the counts, so a network is timed before it is trained; only where values decide (whether an
output has to be rounded twice, whether it has to be clamped) are they looked at, if there are any, and else taken to be
what trained networks' are.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

from devices.firmware import SOURCE_DIR
from export.graph import Activation, Graph, Operator
from export.kernels import VIEW, kernels_of, tensors_in_planes
from export.kernels.dsp_conv import inner_columns, runs_of
from export.kernels.dsp_depthwise import columns_3x3
from export.kernels.helium import block_columns, is_columns_first
from export.numerics import activation_range, is_pointwise
from export.planner import Plan
from export.schedule import row_access

MEANINGS: Mapping[str, str] = {
    "products": "rounds of the loop that multiplies, at its full width",
    "pair_products": "rounds of the narrower loop: two pixels, or two channels, at a time",
    "single_products": "rounds of the narrowest loop: one at a time",
    "rounds": "times that the loop that multiplies is entered or goes round, beyond its unrolled steps",
    "outputs": "times that the sums of the full width are turned into outputs and stored",
    "pair_outputs": "the same of the narrower width",
    "twice": "of the first, those that have to be rounded twice",
    "pair_twice": "of the second, those that have to be rounded twice",
    "gathered": "words or bytes of input that are copied at the full width",
    "runs": "stretches of input that they are copied from",
    "tails": "bytes that are left over in these, copied one by one",
    "color_blocks": "blocks of pixels of the first layer of a color image, whose windows are gathered in one go",
    "windows": "windows that are gathered one by one",
    "window_gathered": "fours of words or bytes that are copied into these",
    "window_words": "words that are left over in these, copied one by one",
    "window_runs": "stretches of input that they are copied from",
    "window_tails": "bytes that are left over in these, copied one by one",
    "filled": "words or bytes that are filled with the zero point",
    "border": "of the kernel's work by row and channel, what has to take a border into account",
    "taps": "taps, or runs of these, whose place is looked up",
    "blocks": "blocks of pixels that are computed together",
    "pair_blocks": "pairs of pixels that are computed together",
    "strips": "runs of such blocks",
    "pixels": "output pixels",
    "channel_rows": "output rows of one channel",
    "rows": "output rows, those that are computed as one counted once",
    "calls": "calls of the kernel: one for each row of a streamed layer, else one",
    "clamped": "words of the output that are clamped in a pass of their own",
}
"""What is counted, and what it means. Each kernel has those that its loops have."""

FEATURES = tuple(MEANINGS)

_EDITION = 1
"""To be raised when something is counted in another way."""

Counts = dict[str, float]


@dataclass(frozen=True, slots=True)
class LayerFeatures:
    """The physical features of one layer and the kernel that runs it."""

    kernel: str
    values: tuple[float, ...]
    """In the order of FEATURES."""

    def to_row(self) -> dict[str, object]:
        """What the measurement store keeps beside the layer's cycles: what is counted, by name."""
        counts = {name: value for name, value in zip(FEATURES, self.values, strict=True) if value}
        return {"kernel": self.kernel, "features": features_version(), "counts": counts}

    @classmethod
    def from_row(cls, row: Mapping[str, object]) -> LayerFeatures | None:
        """Read what `to_row` made; None if it is of other features, or of other kernels."""
        kernel, counts = row.get("kernel"), row.get("counts")
        if row.get("features") != features_version() or not isinstance(kernel, str) or not isinstance(counts, dict):
            return None
        if not counts.keys() <= set(FEATURES) or not all(isinstance(count, (int, float)) for count in counts.values()):
            return None
        return cls(kernel, tuple(float(counts.get(name, 0.0)) for name in FEATURES))


@cache
def features_version() -> str:
    """Tells features, and the kernels whose cycles they explain, from all others: what was measured goes with one."""
    version = hashlib.sha256(f"{_EDITION} {' '.join(FEATURES)}".encode())
    for source in sorted((SOURCE_DIR / "kernels").iterdir()):
        version.update(source.name.encode() + source.read_bytes())
    return version.hexdigest()[:16]


def layer_features(planned: Plan) -> tuple[LayerFeatures, ...]:
    """The features of every layer, in order."""
    graph, streamed = planned.graph, set(planned.streamed_layers)
    kernels = kernels_of(graph, planned.instruction_set)
    planes = tensors_in_planes(graph, kernels)
    return tuple(
        features_of(graph, operator, kernel.name, is_streamed=layer in streamed, planes=planes)
        for layer, (operator, kernel) in enumerate(zip(graph.operators, kernels, strict=True))
    )


def features_of(
    graph: Graph, operator: Operator, kernel: str, *, is_streamed: bool, planes: frozenset[int]
) -> LayerFeatures:
    """The features of one layer of ``graph``; ``planes`` are the tensors that are stored channel by channel."""
    layer = _Layer.of(graph, operator, is_streamed=is_streamed, planes=planes)
    counts = _COUNTS[kernel](layer)
    return LayerFeatures(kernel, tuple(float(counts.get(name, 0)) for name in FEATURES))


@dataclass(frozen=True, slots=True)
class _Layer:
    graph: Graph
    operator: Operator
    source: tuple[int, int, int]
    """Rows, columns and channels of the first input."""
    target: tuple[int, int, int]
    calls: int
    reads_planes: bool
    writes_planes: bool

    @classmethod
    def of(cls, graph: Graph, operator: Operator, *, is_streamed: bool, planes: frozenset[int]) -> _Layer:
        return cls(
            graph,
            operator,
            _image(graph.input_tensors(operator)[0].shape),
            _image(graph.output_tensor(operator).shape),
            row_access(graph, operator).units if is_streamed else 1,
            operator.inputs[0] in planes,
            operator.outputs[0] in planes,
        )

    @property
    def elements(self) -> int:
        return math.prod(self.target)

    @property
    def rows_a_call(self) -> int:
        return self.target[0] // self.calls

    @property
    def rounds_twice(self) -> bool:
        """Whether outputs take two roundings: what is negative can be told from what is hidden by an activation."""
        return self.operator.activation not in (Activation.RELU, Activation.RELU6)

    def rows_inside(self) -> list[int]:
        """For each output row, how many of its window's rows lie inside of the input."""
        return self._inside(0)

    def columns_inside(self) -> list[int]:
        """For each output column, how many of its window's columns lie inside of the input."""
        return self._inside(1)

    def _inside(self, axis: int) -> list[int]:
        window = self.operator.window
        assert window is not None
        inside = window.taps_inside(axis, self.source[axis], self.target[axis])
        return [int(taps) for taps in inside.sum(axis=1)]

    def clamped_words(self) -> float:
        """Words of the output, where its clamps are narrower than int8."""
        quantization = self.graph.output_tensor(self.operator).quantization
        if quantization is None:  # a trained network's range ends where its activation does
            return 0
        narrow = activation_range(self.operator.activation, quantization) != (-128, 127)
        return self.elements / 4 if narrow else 0


def _image(shape: tuple[int, ...]) -> tuple[int, int, int]:
    if len(shape) == 4:
        return shape[1], shape[2], shape[3]
    return 1, math.prod(shape[:-1]), shape[-1]


# --- dense convolutions -----------------------------------------------------------------------------------------------

_FEW_CHANNELS = 16
"""As in tn_conv_dsp_s8.c."""


def _conv_dsp(layer: _Layer) -> Counts:
    """Windows of three, or two, pixels are gathered and multiplied by pairs of channels (tn_conv_dsp_s8.c)."""
    window = layer.operator.window
    assert window is not None
    rows, columns, channels = layer.target
    runs = runs_of(layer.graph, layer.operator)
    first, last = inner_columns(layer.graph, layer.operator)
    inner = last - first
    ends_last = first == 1 and inner % 3 != 1 and inner + 2 == columns
    together = layer.rows_a_call
    if layer.writes_planes or (ends_last and inner % 3 == 0 and channels <= _FEW_CHANNELS):
        together = 1
    ends_last = ends_last and together == 1
    counts: Counter[str] = Counter()
    if is_pointwise(layer.graph, layer.operator) and together > 1:  # one long row
        strips = _Strips(layer, 0, together * columns)
        strips.convolve([1], together * columns, together * columns)
        for name, count in strips.counts.items():
            counts[name] += count * layer.calls
    else:
        inside = layer.rows_inside()
        groups = Counter(tuple(inside[start : start + together]) for start in range(0, rows, together))
        for group, times in groups.items():
            strips = _Strips(layer, first, last)
            if ends_last:
                strips.convolve_ends_last(group[0], columns)
            else:
                strips.convolve(group, columns, together * columns)
            for name, count in strips.counts.items():
                counts[name] += count * times
    pairs = -(-channels // 2)
    threes, twos = counts["blocks"], counts["pair_blocks"]
    rounds = max(1, -(-(runs.steps - 1) // 8))
    twice = pairs if layer.rounds_twice else 0
    return {
        **counts,
        "products": threes * pairs * runs.steps,
        "pair_products": twos * pairs * runs.steps,
        "rounds": (threes + twos) * pairs * rounds,
        "outputs": threes * pairs,
        "pair_outputs": twos * pairs,
        "twice": threes * twice,
        "pair_twice": twos * twice,
        "calls": layer.calls,
        "clamped": layer.clamped_words(),
    }


class _Strips:
    """The control flow of ``convolve`` in tn_conv_dsp_s8.c, over rows whose inner columns are [first, last)."""

    def __init__(self, layer: _Layer, first: int, last: int) -> None:
        window = layer.operator.window
        assert window is not None
        runs = runs_of(layer.graph, layer.operator)
        self.counts: Counter[str] = Counter()
        self._window, self._first, self._last = window, first, last
        self._channels, self._row_bytes = layer.source[2], layer.source[1] * layer.source[2]
        self._steps, self._run_bytes = runs.steps, runs.bytes
        self._words, self._tail = divmod(runs.bytes, 4)
        self._runs = runs.count // window.kernel[0]
        self._pointwise = is_pointwise(layer.graph, layer.operator)

    def convolve(self, inside: tuple[int, ...] | list[int], columns: int, pixels: int) -> None:
        """Rows that are computed as one, of whose windows' rows so many lie inside."""
        row = x = 0
        self.counts["rows"] += len(inside)
        while pixels:
            if x == columns:
                x, row = 0, row + 1
            count = 2 if pixels == 4 or pixels < 3 else 3
            if count == 3 and x >= self._first and x + 3 <= self._last:
                blocks = min(self._last - x, pixels) // 3
                if pixels - 3 * blocks == 1:
                    blocks -= 1
                self._strip(inside[row], blocks)
                x += 3 * blocks
                pixels -= 3 * blocks
                continue
            for _ in range(count):
                if x == columns:
                    x, row = 0, row + 1
                self._gather_one(inside[row], x)
                x += pixels > 1
            self.counts["blocks" if count == 3 else "pair_blocks"] += 1
            if pixels < count:
                break
            pixels -= count

    def convolve_ends_last(self, inside: int, columns: int) -> None:
        """One row, whose first and last pixel are a pair."""
        last = columns - 1
        rest = (last - 1) % 3
        self.counts["rows"] += 1
        if last > 3:
            self._strip(inside, (last - 1) // 3)
        for x in range(last - rest, last):
            self._gather_one(inside, x)
        self._gather_one(inside, 0)
        self._gather_one(inside, last)
        self.counts["pair_blocks"] += 1 + bool(rest)

    def _strip(self, inside: int, blocks: int) -> None:
        self.counts["strips"] += 1
        self.counts["blocks"] += blocks
        if inside < self._window.kernel[0]:
            self.counts["filled"] += 3 * self._steps
        if inside == 3 == self._window.kernel[0] and self._run_bytes == 9:
            self.counts["color_blocks"] += blocks
            return
        self.counts["gathered"] += blocks * inside * self._words
        self.counts["runs"] += blocks * inside
        self.counts["tails"] += blocks * inside * self._tail

    def _gather_one(self, inside: int, x: int) -> None:
        counts = self.counts
        counts["windows"] += 1
        is_inner, whole = self._first <= x < self._last, inside == self._window.kernel[0]
        if is_inner and whole and not self._tail:
            self._gather_words(inside, self._words)
            return
        counts["border"] += self._runs
        if not is_inner or not whole:
            counts["filled"] += self._steps
        offset = (x * self._window.stride[1] - self._window.padding[1]) * self._channels
        for _ in range(self._runs):
            first, last = max(0, -offset), min(self._run_bytes, self._row_bytes - offset)
            word, word_end = (first + 3) // 4, min(last // 4, self._words)
            if first < last:
                edges = int(first % 4 > 0 and word <= self._words)
                edges += last % 4 > 0 and word <= word_end < self._words
                counts["window_runs"] += edges * inside
                if word < word_end:
                    self._gather_words(inside, word_end - word)
                counts["window_tails"] += max(0, last - max(first, 4 * self._words)) * inside
            offset += self._window.dilation[1] * self._channels

    def _gather_words(self, rows: int, words: int) -> None:
        self.counts["window_runs"] += rows
        self.counts["window_gathered"] += rows * (words // 4)
        self.counts["window_words"] += rows * (words % 4)


def _conv_generic(layer: _Layer) -> Counts:
    """Windows of two pixels, or one, are copied and multiplied group by group (tn_conv_generic_s8.c)."""
    window = layer.operator.window
    assert window is not None
    rows, columns, channels = layer.target
    groups = layer.operator.groups
    depth = layer.source[2] // groups
    across = layer.columns_inside()
    apart = window.dilation[1] > 1 or groups > 1
    windows = rows * columns * groups
    inside = sum(layer.rows_inside())
    taps_inside = inside * sum(across)
    copies = taps_inside if apart else inside * sum(count > 0 for count in across)
    words = depth // 4 * taps_inside if apart else inside * sum(count * depth // 4 for count in across)
    bytes_left = taps_inside * depth - 4 * words
    all_taps = rows * columns * math.prod(window.kernel)
    return {
        **_multiplied(rows * groups, columns, math.prod(window.kernel) * depth, channels // groups),
        "windows": windows,
        "runs": rows * columns * window.kernel[0] * groups,
        "window_runs": copies * groups,
        "window_gathered": words * groups,
        "window_tails": bytes_left * groups,
        "filled": (all_taps - taps_inside) * depth * groups / 4,
        "rows": rows,
        "calls": layer.calls,
    }


def _conv_1x1(layer: _Layer) -> Counts:
    """Rows of pixels, two at a time, by pairs of channels (tn_conv_1x1_s8.c)."""
    rows, columns, channels = layer.target
    return {**_multiplied(rows, columns, layer.source[2], channels), "rows": rows, "calls": layer.calls}


def _multiplied(rows: int, columns: int, depth: int, channels: int) -> Counts:
    """Rows of pixels by channels: two by two, one channel that is left, or one pixel by four channels and by one."""
    pairs, single = rows * (columns // 2), rows * (columns % 2)
    fours, rest = depth // 4, depth % 4
    by_two, odd = channels // 2, channels % 2
    by_four, others = channels // 4, channels % 4
    return {
        "products": pairs * by_two * fours,
        "tails": pairs * by_two * rest,
        "pair_products": single * by_four * depth,
        "single_products": (2 * pairs * odd + single * others) * depth,
        "outputs": pairs * 2 * by_two,
        "pair_outputs": pairs * odd + single * channels,
        "rounds": pairs * (by_two + odd) + single * (by_four + others),
        "pair_blocks": pairs,
        "pixels": single,
    }


# --- depthwise convolutions -------------------------------------------------------------------------------------------


def _depthwise_channels(layer: _Layer) -> Counts:
    """Four channels of a pixel at a time (tn_depthwise_channels_row_dsp_s8.c)."""
    window = layer.operator.window
    assert window is not None
    rows, columns, channels = layer.target
    taps, groups, pixels = math.prod(window.kernel), -(-channels // 4), rows * columns
    return {
        "products": pixels * groups * (max(3, taps | 1) - 1) // 2,
        "outputs": pixels * groups,
        "twice": pixels * groups if layer.rounds_twice else 0,
        "taps": pixels * taps,
        "runs": pixels * window.kernel[1],
        "pixels": pixels,
        "filled": layer.calls * groups,
        "rows": rows,
        "calls": layer.calls,
        "clamped": layer.clamped_words(),
    }


_GATHERED_BYTES = 320
"""As in export/kernels/dsp_depthwise.py."""


def _depthwise_3x3(layer: _Layer) -> Counts:
    """A row of a channel at a time, by blocks of four columns (tn_depthwise_3x3_rows_dsp_s8.c)."""
    rows, _, channels = layer.target
    columns = columns_3x3(layer.graph, layer.operator)
    inside = layer.rows_inside()
    channel_rows = rows * channels
    counts: Counts = {
        "products": channel_rows * columns.blocks,
        "outputs": layer.elements,
        "tails": channel_rows * columns.tail,
        "border": sum(3 - count for count in inside) * channels + (channel_rows if columns.start else 0),
        "channel_rows": channel_rows,
        "rows": rows,
        "calls": layer.calls,
        "clamped": layer.clamped_words(),
    }
    wide = layer.source[1]
    quads = -(-wide // 4)
    at_a_time = 4 if channels >= 4 and 4 * 3 * 4 * quads <= _GATHERED_BYTES else 1
    fours, ones = divmod(channels, 4) if at_a_time == 4 <= wide else (0, channels)
    rows_inside, direct = sum(inside), 0
    if layer.reads_planes:
        # All but the last channels of the ring's last row, behind which no word may be read, are used where they lie.
        fours, ones = 0, min(channels, max(0, columns.read - 1) // wide)
        direct = 1
        if layer.calls == 1:
            rows_inside = sum(count for count, at_end in zip(inside, _at_end(layer), strict=True) if at_end)
    return counts | {
        "gathered": rows_inside * fours * quads,
        "runs": rows_inside * fours,
        "window_gathered": rows_inside * ones * (wide // 4),
        "window_tails": rows_inside * ones * (wide % 4),
        "window_runs": rows_inside * ones,
        "blocks": rows * (direct + -(-(4 * fours + ones) // at_a_time)),
    }


def _at_end(layer: _Layer) -> list[bool]:
    """For each output row, whether its window reads the input's last row."""
    window = layer.operator.window
    assert window is not None
    last = [row * window.stride[0] - window.padding[0] + window.kernel[0] - 1 for row in range(layer.target[0])]
    return [row >= layer.source[0] - 1 for row in last]


def _depthwise_dsp(layer: _Layer) -> Counts:
    """A row of a channel at a time: its columns are copied, then four windows multiplied (tn_depthwise_dsp_s8.c)."""
    window = layer.operator.window
    assert window is not None
    rows, columns, channels = layer.target
    taps, channel_rows = math.prod(window.kernel), rows * channels
    inside = sum(layer.rows_inside())
    padded = (columns - 1) * window.stride[1] + window.kernel[1]
    read = min(layer.source[1], padded - window.padding[1])
    blocks = channel_rows * -(-columns // 4)
    return {
        "products": blocks * ((taps + 2) // 4),
        "single_products": blocks if taps % 4 == 1 else 0,
        "blocks": blocks,
        "outputs": layer.elements,
        "gathered": inside * channels * (read // 4),
        "tails": inside * channels * (read % 4),
        "runs": inside * channels,
        "filled": rows * padded * window.kernel[0] / 4,
        "channel_rows": channel_rows,
        "rows": rows,
        "calls": layer.calls,
        "clamped": layer.clamped_words(),
    }


def _depthwise_generic(layer: _Layer) -> Counts:
    """Four pixels of a channel at a time, or four channels of a pixel at a border (tn_depthwise_generic_s8.c)."""
    window = layer.operator.window
    assert window is not None
    rows, columns, channels = layer.target
    taps = math.prod(window.kernel)
    across = layer.columns_inside()
    inner = sum(count == window.kernel[1] for count in across)
    fours = -(-inner // 4) if inner >= 4 else 0
    ones = columns - inner if fours else columns
    inside, multiplier = layer.rows_inside(), channels // layer.source[2]
    four_taps = sum(inside) * window.kernel[1]
    by_four = channels // 4 if multiplier == 1 else 0
    others = channels - 4 * by_four
    return {
        "products": fours * four_taps * channels,
        "runs": fours * sum(inside) * channels,
        "border": fours * (rows * taps - four_taps) * channels,
        "outputs": fours * rows * channels,
        "pair_products": ones * rows * taps * by_four,
        "taps": ones * (rows + 2 * sum(inside)) * by_four,
        "pair_outputs": ones * rows * by_four,
        "single_products": ones * rows * taps * others,
        "twice": ones * rows * others,
        "blocks": rows * fours,
        "pixels": rows * ones,
        "rows": rows,
        "calls": layer.calls,
    }


# --- all others -------------------------------------------------------------------------------------------------------


def _fully_connected_dsp(layer: _Layer) -> Counts:
    """Words of the input by six, two and one channel (tn_fully_connected_batch_dsp_s8.c)."""
    outputs, inputs = layer.graph.input_tensors(layer.operator)[1].shape
    batches = layer.graph.input_tensors(layer.operator)[0].elements // inputs
    words = -(-inputs // 4)
    sixes, twos, ones = outputs // 6, outputs % 6 // 2, outputs % 2
    return {
        "products": batches * sixes * words,
        "pair_products": batches * twos * words,
        "single_products": batches * ones * words,
        "rounds": batches * (sixes + twos + ones),
        "outputs": batches * outputs,
        "rows": batches,
        "calls": layer.calls,
        "clamped": layer.clamped_words(),
    }


def _fully_connected_generic(layer: _Layer) -> Counts:
    """Inputs by four channels, and by one (tn_fully_connected_generic_s8.c)."""
    outputs, inputs = layer.graph.input_tensors(layer.operator)[1].shape
    batches = layer.graph.input_tensors(layer.operator)[0].elements // inputs
    return {
        "products": batches * (outputs // 4) * inputs,
        "single_products": batches * (outputs % 4) * inputs,
        "rounds": batches * (outputs // 4 + outputs % 4),
        "outputs": batches * outputs,
        "rows": batches,
        "calls": layer.calls,
    }


def _elementwise_words(layer: _Layer) -> Counts:
    """Four elements at a time."""
    words, rest = divmod(layer.elements // layer.calls, 4)
    return {
        "products": words * layer.calls,
        "single_products": rest * layer.calls,
        "calls": layer.calls,
        "clamped": layer.clamped_words(),
    }


def _elementwise(layer: _Layer) -> Counts:
    return {"outputs": layer.elements, "calls": layer.calls}


def _summed(layer: _Layer) -> Counts:
    """Sums of all pixels by channel, then an output for each (tn_sum_rows_dsp_s8.c, tn_sum_rows_s8.c)."""
    rows, columns, channels = layer.source
    pixels = rows // layer.calls * columns
    fours, rest = divmod(channels, 4)
    return {
        "products": layer.calls * (pixels // 2) * fours,
        "pair_products": layer.calls * (pixels % 2) * fours,
        "single_products": layer.calls * pixels * rest,
        "runs": layer.calls * fours,
        "window_runs": layer.calls * rest,
        "outputs": channels,
        "calls": layer.calls,
    }


def _pooled(layer: _Layer) -> Counts:
    """Taps of each channel of each pixel (tn_pool_average_s8.c, tn_pool_max_s8.c)."""
    rows, columns, channels = layer.target
    inside = sum(layer.rows_inside())
    return {
        "products": inside * sum(layer.columns_inside()) * channels,
        "runs": inside * columns * channels,
        "outputs": layer.elements,
        "pixels": rows * columns,
        "rows": rows,
        "calls": layer.calls,
    }


def _averaged(layer: _Layer) -> Counts:
    """Elements that are added up, and outputs (tn_mean_generic_s8.c)."""
    return {"products": math.prod(layer.source), "outputs": layer.elements, "calls": layer.calls}


def _copied(layer: _Layer) -> Counts:
    """Pieces of the output that are copied (tn_concatenation_part_s8.c): the input's last axes, part by part."""
    (axis,) = layer.operator.axes
    graph, operator = layer.graph, layer.operator
    outer = math.prod(graph.output_tensor(operator).shape[:axis])
    pieces = [graph.tensors[index].size_bytes // outer for index in operator.inputs]
    return {
        "gathered": outer * sum(size // 4 for size in pieces),
        "tails": outer * sum(size % 4 for size in pieces),
        "runs": outer * len(pieces),
        "calls": layer.calls * len(pieces),
    }


def _padded(layer: _Layer) -> Counts:
    """Bytes that are copied and filled (tn_pad_generic_s8.c)."""
    return {
        "gathered": math.prod(layer.source) / 4,
        "filled": (layer.elements - math.prod(layer.source)) / 4,
        "pixels": layer.source[0] * layer.source[1],
        "rows": layer.target[0],
        "calls": layer.calls,
    }


def _softmax(layer: _Layer) -> Counts:
    return {"outputs": layer.elements, "rows": layer.elements // layer.target[2], "calls": layer.calls}


_LANES = 16
_SUMS_AT_A_TIME = 64
"""As in tn_conv_pixels_mve_s8.c."""


def _saturates(layer: _Layer) -> bool:
    """Whether saturation to int8 is all the clamp there is, and negative values need no care."""
    return not layer.rounds_twice and not layer.clamped_words()


def _pixels_mve(layer: _Layer, pixels: int, times: int, depth: int) -> Counts:
    """Three pixels by pairs of channels, then the pixels that are left, ``times`` times (tn_conv_pixels_mve_s8.c)."""
    channels = layer.target[2]
    if depth <= _LANES and channels >= 4 and _saturates(layer):
        fours = times * -(-channels // 4)
        return {"pair_products": fours * pixels, "pair_blocks": fours, "strips": times}
    threes, rest = divmod(pixels, 3)
    chunks, pairs, fours, first = 0, 0, 0, 0
    while first < channels:
        count = channels - first
        if count > _SUMS_AT_A_TIME:
            count = _SUMS_AT_A_TIME - (count == _SUMS_AT_A_TIME + 1)
        chunks, pairs, fours, first = chunks + 1, pairs + -(-count // 2), fours + -(-count // 4), first + count
    vectors, threes = -(-depth // _LANES), threes * times
    return {
        "products": threes * pairs * vectors,
        "rounds": threes * pairs,
        "outputs": threes * fours,
        "twice": threes * fours if layer.rounds_twice else 0,
        "blocks": threes * chunks,
        "single_products": times * pairs * vectors if rest else 0,
        "pair_outputs": times * rest * fours,
        "pair_twice": times * rest * fours if layer.rounds_twice else 0,
        "pixels": times * chunks if rest else 0,
        "strips": times * chunks,
    }


def _conv_1x1_mve(layer: _Layer) -> Counts:
    """Row by row, from where the inputs lie (tn_conv_1x1_mve_s8.c)."""
    rows, columns, _ = layer.target
    return {**_pixels_mve(layer, columns, rows, layer.source[2]), "rows": rows, "calls": layer.calls}


def _conv_mve(layer: _Layer) -> Counts:
    """The windows of a block of pixels are gathered, column by column or one by one (tn_conv_mve_s8.c)."""
    window = layer.operator.window
    assert window is not None
    rows, columns, _ = layer.target
    channels, (kernel_rows, width) = layer.source[2], window.kernel
    by_column = is_columns_first(layer.graph, layer.operator)
    at_a_time = min(columns, block_columns(layer.graph, layer.operator))
    whole, rest = divmod(columns, at_a_time)
    counts: Counter[str] = Counter()
    for pixels, times in ((at_a_time, whole * rows), (rest, rows)):
        if pixels and times:
            counts.update(_pixels_mve(layer, pixels, times, kernel_rows * width * channels))
    blocks, inside = (whole + (rest > 0)) * rows, sum(layer.rows_inside())
    bytes_each = channels if by_column or window.dilation[1] > 1 else width * channels
    across = sum(layer.columns_inside())
    if by_column:
        pieces = inside * min(layer.source[1], across)
    else:
        pieces = inside * (across if window.dilation[1] > 1 else columns)
    return {
        **counts,
        "gathered": pieces * -(-bytes_each // _LANES),
        "runs": pieces if bytes_each > _LANES else 0,
        "window_runs": inside * (whole + (rest > 0)),
        "border": sum(count < width for count in layer.columns_inside()) * rows * kernel_rows,
        "filled": (rows * kernel_rows - inside) * columns,
        "windows": blocks,
        "rows": rows,
        "calls": layer.calls,
    }


def _depthwise_mve(layer: _Layer) -> Counts:
    """Sixteen channels at a time, or as many outputs of a row that is laid out for it (tn_depthwise_mve_s8.c)."""
    window = layer.operator.window
    assert window is not None
    rows, columns, channels = layer.target
    taps, inside = math.prod(window.kernel), sum(layer.rows_inside())
    lists = window.kernel[0] * -(-window.kernel[1] // 4)
    flat = window.stride[1] == 1 and _LANES % channels == 0 and columns * channels >= _LANES
    counts: Counts = {"rows": rows, "calls": layer.calls, "runs": rows * window.kernel[0]}
    if flat:
        vectors = rows * -(-columns * channels // _LANES)
        counts |= {
            "gathered": inside * -(-layer.source[1] * channels // _LANES),
            "window_runs": inside,
            "taps": rows * taps,
            "strips": rows,
        }
    else:
        pixels = rows * columns
        inner = sum(count == window.kernel[1] for count in layer.columns_inside())
        vectors = pixels * -(-channels // _LANES)
        narrow = channels < _LANES
        looked_up = pixels if narrow else rows * (columns - inner + (inner > 0))
        counts |= {
            "windows": looked_up,
            "border": looked_up * lists,
            "window_tails": pixels * taps if narrow else 0,
            "pixels": pixels,
            "blocks": 0 if narrow else pixels * -(-taps // 4),
        }
    if taps == 9:
        return counts | {"pair_outputs": vectors, "pair_twice": 0 if _saturates(layer) else vectors}
    return counts | {
        "products": vectors * (taps // 2),
        "single_products": vectors * (taps % 2),
        "outputs": vectors,
        "twice": 0 if _saturates(layer) else vectors,
    }


def _fully_connected_mve(layer: _Layer) -> Counts:
    outputs, inputs = layer.graph.input_tensors(layer.operator)[1].shape
    batches = layer.graph.input_tensors(layer.operator)[0].elements // inputs
    return {
        "products": batches * outputs * -(-inputs // 16),
        "outputs": batches * outputs,
        "rows": batches,
        "calls": layer.calls,
    }


def _nothing(layer: _Layer) -> Counts:
    return {}


_COUNTS: Mapping[str, Callable[[_Layer], Counts]] = {
    VIEW.name: _nothing,
    "tn_conv_dsp_s8": _conv_dsp,
    "tn_conv_generic_s8": _conv_generic,
    "tn_conv_1x1_s8": _conv_1x1,
    "tn_conv_1x1_mve_s8": _conv_1x1_mve,
    "tn_conv_mve_s8": _conv_mve,
    "tn_depthwise_channels_dsp_s8": _depthwise_channels,
    "tn_depthwise_3x3_dsp_s8": _depthwise_3x3,
    "tn_depthwise_3x3_narrow_dsp_s8": _depthwise_3x3,
    "tn_depthwise_3x3_stride2_dsp_s8": _depthwise_3x3,
    "tn_depthwise_dsp_s8": _depthwise_dsp,
    "tn_depthwise_generic_s8": _depthwise_generic,
    "tn_depthwise_mve_s8": _depthwise_mve,
    "tn_fully_connected_dsp_s8": _fully_connected_dsp,
    "tn_fully_connected_generic_s8": _fully_connected_generic,
    "tn_fully_connected_mve_s8": _fully_connected_mve,
    "tn_add_dsp_s8": _elementwise_words,
    "tn_add_mve_s8": _elementwise_words,
    "tn_add_generic_s8": _elementwise,
    "tn_requantize_generic_s8": _elementwise,
    "tn_quantize_float_s8": _elementwise,
    "tn_dequantize_float_s8": _elementwise,
    "tn_mean_rows_s8": _summed,
    "tn_pool_global_s8": _summed,
    "tn_mean_generic_s8": _averaged,
    "tn_pool_average_s8": _pooled,
    "tn_pool_max_s8": _pooled,
    "tn_pad_generic_s8": _padded,
    "tn_concatenation_part_s8": _copied,
    "tn_softmax_generic_s8": _softmax,
}
