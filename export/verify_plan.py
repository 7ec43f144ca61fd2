"""Checks a memory plan by replaying it, sharing nothing with the planner but the graph and the plan.

Every byte of a model of the arena carries a tag that says which row of which tensor wrote it last. The replay follows
the schedule row by row as the kernels do and raises when a row is read of which a byte has another tag: because it was
overwritten, or has not been computed yet.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from export.errors import PlanError
from export.graph import Operator, OpKind
from export.planner import Buffer, Plan

_WINDOWED = frozenset(
    {OpKind.CONV_2D, OpKind.DEPTHWISE_CONV_2D, OpKind.AVERAGE_POOL_2D, OpKind.MAX_POOL_2D, OpKind.PAD}
)
_ELEMENT_BY_ELEMENT = frozenset({OpKind.ADD, OpKind.RELU, OpKind.RELU6, OpKind.QUANTIZE})
_INPUT_ROW = -1
_NOBODY = -1


def verify_plan(plan: Plan) -> None:
    """Raise PlanError if a layer reads a byte that is not the one it needs, or if anything leaves the arena."""
    _Replay(plan).run()


class _Replay:
    def __init__(self, plan: Plan) -> None:
        self._graph = plan.graph
        self._plan = plan
        self._owner: npt.NDArray[np.int64] = np.full(plan.arena_bytes, _NOBODY, dtype=np.int64)
        self._buffer: dict[int, Buffer] = {}
        self._tag: dict[int, int] = {}
        """Of each tensor, the tag of its first byte; those of the others follow. A reshaped tensor keeps them."""
        self._rows: dict[int, int] = {}
        """Of each tensor, into how many equal rows it is split."""
        self._next_tag = 0
        self._done = [0] * len(self._graph.operators)
        self._received = 0
        for buffer in plan.buffers:
            if buffer.offset < 0 or buffer.offset + buffer.size_bytes > plan.arena_bytes:
                raise PlanError(f"the buffer '{buffer.name}' leaves the arena of {plan.arena_bytes} bytes")
        self._counters = self._new_tags(1)
        self._sums: dict[int, int] = {}
        """Of each reduction that has begun, the tag of its sums."""

    def run(self) -> None:
        covered = [layer for segment in self._plan.segments for layer in segment.operators]
        if covered != list(range(len(self._graph.operators))):
            raise PlanError("the segments do not cover every layer once and in order")
        streams = {layer: segment for segment in self._plan.segments for layer in segment.operators if segment.streamed}
        order = self._plan.order
        for index in self._graph.inputs:
            self._begin(index, self._height(index))
            if _INPUT_ROW not in order:
                self._write_all(index)
        if self._plan.counters is not None:  # cleared when an inference starts, with its input in place
            self._write_bytes(self._plan.counters, self._counters)
        for layer in order:
            if layer == _INPUT_ROW:
                self._write(self._graph.inputs[0], self._received)
                self._received += 1
            elif layer in streams:
                self._unit(layer)
            else:
                self._whole(layer)
        self._check_complete(streams)
        for index in self._graph.outputs:
            self._read_all(index, "the end of the inference")

    def _check_complete(self, streams: Mapping[int, object]) -> None:
        for layer, operator in enumerate(self._graph.operators):
            if layer not in streams and self._done[layer] != 1:
                raise PlanError(f"the schedule runs '{operator.name}' {self._done[layer]} times")
        source = self._graph.inputs[0]
        if _INPUT_ROW in self._plan.order and self._received != self._height(source):
            raise PlanError(f"the schedule takes {self._received} of the input's {self._height(source)} rows")

    # --- rows of tensors ---------------------------------------------------------------------------------------------

    def _height(self, tensor: int) -> int:
        shape = self._graph.tensors[tensor].shape
        return shape[1] if len(shape) == 4 else 1

    def _new_tags(self, count: int) -> int:
        self._next_tag += count
        return self._next_tag - count

    def _begin(self, tensor: int, rows: int) -> None:
        """Give the rows of a tensor that is about to be written their tags."""
        if tensor in self._tag:
            return
        try:
            self._buffer[tensor] = self._plan.buffer_of(tensor)
        except (KeyError, StopIteration):
            raise PlanError(f"the plan has no buffer for '{self._graph.tensors[tensor].name}'") from None
        self._rows[tensor] = rows
        self._tag[tensor] = self._new_tags(self._graph.tensors[tensor].size_bytes)

    def _span(self, tensor: int, row: int) -> slice:
        buffer = self._buffer[tensor]
        size = self._graph.tensors[tensor].size_bytes // self._rows[tensor]
        slot = row if buffer.ring_rows is None else row % buffer.ring_rows
        if (slot + 1) * size > buffer.size_bytes:
            raise PlanError(f"row {row} of '{self._graph.tensors[tensor].name}' leaves its buffer")
        return slice(buffer.offset + slot * size, buffer.offset + (slot + 1) * size)

    def _tags(self, tensor: int, row: int) -> npt.NDArray[np.int64]:
        size = self._graph.tensors[tensor].size_bytes // self._rows[tensor]
        return np.arange(self._tag[tensor] + row * size, self._tag[tensor] + (row + 1) * size)

    def _write(self, tensor: int, row: int) -> None:
        self._owner[self._span(tensor, row)] = self._tags(tensor, row)

    def _write_all(self, tensor: int) -> None:
        for row in range(self._rows[tensor]):
            self._write(tensor, row)

    def _read(self, tensor: int, row: int, reader: str) -> None:
        name = self._graph.tensors[tensor].name
        if tensor not in self._tag:
            raise PlanError(f"'{name}' is read by {reader} before it is computed")
        if np.any(self._owner[self._span(tensor, row)] != self._tags(tensor, row)):
            raise PlanError(f"row {row} of '{name}' is overwritten or not computed yet when {reader} reads it")

    def _read_all(self, tensor: int, reader: str) -> None:
        if tensor not in self._tag:
            self._read(tensor, 0, reader)
        for row in range(self._rows[tensor]):
            self._read(tensor, row, reader)

    # --- scratch memory and counters ---------------------------------------------------------------------------------

    def _write_bytes(self, buffer: Buffer, tag: int) -> None:
        self._owner[buffer.offset : buffer.offset + buffer.size_bytes] = tag

    def _holds(self, buffer: Buffer, tag: int) -> bool:
        return bool(np.all(self._owner[buffer.offset : buffer.offset + buffer.size_bytes] == tag))

    # --- layers ------------------------------------------------------------------------------------------------------

    def _whole(self, layer: int) -> None:
        operator = self._graph.operators[layer]
        self._done[layer] += 1
        sources, target = self._graph.activations_in(operator), operator.outputs[0]
        reader = f"'{operator.name}'"
        if operator.kind is OpKind.RESHAPE:
            self._reshape(sources[0], target, reader)
            return
        scratch = self._plan.scratch[layer]
        own = self._new_tags(1)
        if scratch is not None:
            self._write_bytes(scratch, own)
        if self._is_reduction(operator) or operator.kind in _WINDOWED:
            self._begin(target, self._height(target))
            units = self._height(sources[0]) if self._is_reduction(operator) else self._rows[target]
            for unit in range(units):
                self._row(operator, unit, last=unit + 1 == units, reader=reader)
        else:
            for source in sources:
                self._read_all(source, reader)
            self._begin(target, self._height(target))
            if operator.kind in _ELEMENT_BY_ELEMENT:
                self._check_direction(sources, target, range(1), reader, whole=True)
            self._write_all(target)
            if operator.kind not in _ELEMENT_BY_ELEMENT:  # these may read again after their first write
                for source in sources:
                    self._read_all(source, reader)
        if scratch is not None and not self._holds(scratch, own):
            raise PlanError(f"the scratch memory of {reader} overlaps its output")

    def _unit(self, layer: int) -> None:
        """The next unit of a streamed layer."""
        operator = self._graph.operators[layer]
        unit = self._done[layer]
        self._done[layer] += 1
        reader = f"'{operator.name}'"
        counters = self._plan.counters
        if counters is None or not self._holds(counters, self._counters):
            raise PlanError(f"the row counters are overwritten before {reader} reads its own")
        scratch, own = self._plan.scratch[layer], _NOBODY
        lasting = self._is_reduction(operator)
        if scratch is not None:
            if lasting and unit:
                own = self._sums[layer]
                if not self._holds(scratch, own):
                    raise PlanError(f"the sums of {reader} are overwritten before row {unit}")
            else:
                own = self._sums[layer] = self._new_tags(1)
                self._write_bytes(scratch, own)
        target = operator.outputs[0]
        self._begin(target, self._height(target))
        total = self._height(operator.inputs[0]) if lasting else self._rows[target]
        if unit >= total:
            raise PlanError(f"the schedule runs {reader} more often than it has rows")
        self._row(operator, unit, last=unit + 1 == total, reader=reader)
        if scratch is not None and not self._holds(scratch, own):
            raise PlanError(f"the scratch memory of {reader} overlaps its output")

    def _row(self, operator: Operator, unit: int, *, last: bool, reader: str) -> None:
        """One output row, or one more input row of a reduction."""
        sources, target = tuple(dict.fromkeys(self._graph.activations_in(operator))), operator.outputs[0]
        needed = [(source, row) for source in sources for row in self._rows_read(operator, source, unit)]
        for source, row in needed:
            self._read(source, row, reader)
        if self._is_reduction(operator):
            if last:  # the sums are elsewhere: nothing is read any more
                self._write(target, 0)
            return
        if operator.kind in _ELEMENT_BY_ELEMENT:
            self._check_direction(sources, target, range(unit, unit + 1), reader, whole=False)
        self._write(target, unit)
        if operator.kind not in _ELEMENT_BY_ELEMENT:
            for source, row in needed:  # within a row, reads and writes may come in any order
                self._read(source, row, reader)

    def _reshape(self, source: int, target: int, reader: str) -> None:
        self._read_all(source, reader)
        buffer = self._plan.buffer_of(target)
        if buffer.offset != self._buffer[source].offset or self._buffer[source].ring_rows is not None:
            raise PlanError(f"the output of {reader} does not lie where its input does")
        self._buffer[target], self._rows[target], self._tag[target] = buffer, self._height(target), self._tag[source]

    def _is_reduction(self, operator: Operator) -> bool:
        source = self._graph.tensors[operator.inputs[0]]
        if len(source.shape) != 4:
            return False
        if operator.kind is OpKind.MEAN:
            return set(operator.axes) == {1, 2} and source.dtype.value == "int8"
        is_pool = operator.kind is OpKind.AVERAGE_POOL_2D and operator.window is not None
        return (
            is_pool
            and operator.window is not None
            and operator.window.kernel == source.shape[1:3]
            and operator.window.padding == (0, 0)
            and self._graph.output_tensor(operator).shape[1:3] == (1, 1)
        )

    def _rows_read(self, operator: Operator, source: int, unit: int) -> list[int]:
        height = self._graph.tensors[source].shape[1]
        if operator.kind is OpKind.PAD:
            candidates = [unit - operator.pads[1][0]]
        elif operator.kind in _WINDOWED and not self._is_reduction(operator):
            window = operator.window
            assert window is not None
            top = unit * window.stride[0] - window.padding[0]
            candidates = [top + tap * window.dilation[0] for tap in range(window.kernel[0])]
        else:
            candidates = [unit]
        return [candidate for candidate in candidates if 0 <= candidate < height]

    def _check_direction(
        self, sources: tuple[int, ...], target: int, units: range, reader: str, *, whole: bool
    ) -> None:
        """Elements are handled upward, so an output may start at its input or below it, never inside it.

        Where the elements differ in size, it may not even touch it.
        """
        for source in sources:
            for unit in units:
                if whole:
                    a, b = self._extent(source), self._extent(target)
                else:
                    a, b = self._span(source, unit), self._span(target, unit)
                apart = b.stop <= a.start or a.stop <= b.start
                same_size = self._graph.tensors[source].dtype is self._graph.tensors[target].dtype
                if not apart and (not same_size or b.start > a.start):
                    name = self._graph.tensors[source].name
                    raise PlanError(f"the output of {reader} starts inside its input '{name}'")

    def _extent(self, tensor: int) -> slice:
        start = self._buffer[tensor].offset
        return slice(start, start + self._graph.tensors[tensor].size_bytes)
