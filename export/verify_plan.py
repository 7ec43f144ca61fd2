"""Checks a memory plan by replaying it, sharing nothing with the planner but the graph and the plan.

Every byte of a model of the arena carries a tag that says which row of which tensor wrote it last. The replay goes
through the layers row by row as the kernels do and raises when a row is read of which a byte has another tag.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from export.errors import PlanError
from export.graph import Operator, OpKind
from export.planner import Plan

_ROW_BY_ROW = frozenset(
    {OpKind.CONV_2D, OpKind.DEPTHWISE_CONV_2D, OpKind.AVERAGE_POOL_2D, OpKind.MAX_POOL_2D, OpKind.PAD}
)
_ELEMENT_BY_ELEMENT = frozenset({OpKind.ADD, OpKind.RELU, OpKind.RELU6, OpKind.QUANTIZE})


def verify_plan(plan: Plan) -> None:
    """Raise PlanError if any layer reads a byte after another value has overwritten it, or leaves the arena."""
    _Replay(plan).run()


class _Replay:
    def __init__(self, plan: Plan) -> None:
        self._graph = plan.graph
        self._owner: npt.NDArray[np.int64] = np.full(plan.arena_bytes, -1, dtype=np.int64)
        self._scratch = {b.first_step: (b.offset, b.size_bytes) for b in plan.buffers if b.tensor is None}
        self._offset: dict[int, int] = {b.tensor: b.offset for b in plan.buffers if b.tensor is not None}
        self._rows: dict[int, int] = {}
        self._tag: dict[int, int] = {}
        self._next_tag = 0
        self._plan = plan
        for buffer in plan.buffers:
            if buffer.offset < 0 or buffer.offset + buffer.size_bytes > plan.arena_bytes:
                raise PlanError(f"the buffer '{buffer.name}' leaves the arena of {plan.arena_bytes} bytes")

    def run(self) -> None:
        covered = [index for segment in self._plan.segments for index in segment.operators]
        if covered != list(range(len(self._graph.operators))):
            raise PlanError("the segments do not cover every layer once and in order")
        for tensor in self._graph.inputs:
            self._begin(tensor, self._split(tensor))
            self._write_all(tensor)
        for step, operator in enumerate(self._graph.operators):
            self._layer(step, operator)
        for tensor in self._graph.outputs:
            self._read_all(tensor, "the end of the inference")

    def _split(self, tensor: int) -> int:
        """Into how many equal rows a tensor is replayed: its height, or one."""
        shape = self._graph.tensors[tensor].shape
        return shape[1] if len(shape) == 4 else 1

    def _begin(self, tensor: int, rows: int) -> None:
        if tensor not in self._offset:
            raise PlanError(f"the plan has no buffer for '{self._graph.tensors[tensor].name}'")
        self._rows[tensor] = rows
        self._tag[tensor] = self._next_tag
        self._next_tag += rows

    def _span(self, tensor: int, row: int) -> slice:
        size = self._graph.tensors[tensor].size_bytes // self._rows[tensor]
        start = self._offset[tensor] + row * size
        return slice(start, start + size)

    def _write(self, tensor: int, row: int) -> None:
        self._owner[self._span(tensor, row)] = self._tag[tensor] + row

    def _write_all(self, tensor: int) -> None:
        for row in range(self._rows[tensor]):
            self._write(tensor, row)

    def _read(self, tensor: int, row: int, reader: str) -> None:
        if np.any(self._owner[self._span(tensor, row)] != self._tag[tensor] + row):
            name = self._graph.tensors[tensor].name
            raise PlanError(f"row {row} of '{name}' is overwritten before {reader} has read it")

    def _read_all(self, tensor: int, reader: str) -> None:
        for row in range(self._rows[tensor]):
            self._read(tensor, row, reader)

    def _layer(self, step: int, operator: Operator) -> None:
        sources = self._graph.activations_in(operator)
        target = operator.outputs[0]
        reader = f"'{operator.name}'"
        if operator.kind is OpKind.RESHAPE:
            (source,) = sources
            self._read_all(source, reader)
            self._offset[target], self._rows[target], self._tag[target] = (
                self._offset[source],
                self._rows[source],
                self._tag[source],
            )
            return
        if step in self._scratch:
            offset, size = self._scratch[step]
            self._owner[offset : offset + size] = -1
        if operator.kind in _ROW_BY_ROW:
            self._row_by_row(operator, sources[0], target, reader)
        else:
            for source in sources:
                self._read_all(source, reader)
                if operator.kind in _ELEMENT_BY_ELEMENT:
                    self._check_direction(source, target, reader)
            self._begin(target, self._split(target))
            self._write_all(target)
            if operator.kind not in _ELEMENT_BY_ELEMENT:  # these may read again after their first write
                for source in sources:
                    self._read_all(source, reader)
        if step in self._scratch and np.any(self._owner[offset : offset + size] != -1):
            raise PlanError(f"the scratch memory of {reader} overlaps its output")

    def _row_by_row(self, operator: Operator, source: int, target: int, reader: str) -> None:
        if self._rows[source] != self._split(source):
            self._retag(source)
        self._begin(target, self._split(target))
        for row in range(self._rows[target]):
            needed = self._window_rows(operator, source, row)
            for source_row in needed:
                self._read(source, source_row, reader)
            self._write(target, row)
            for source_row in needed:  # within a row, reads and writes may come in any order
                self._read(source, source_row, reader)

    def _retag(self, tensor: int) -> None:
        """Give a reshaped tensor tags for the rows of its new shape."""
        self._read_all(tensor, "its reshape")
        self._begin(tensor, self._split(tensor))
        self._write_all(tensor)

    def _window_rows(self, operator: Operator, source: int, row: int) -> list[int]:
        height = self._graph.tensors[source].shape[1]
        if operator.kind is OpKind.PAD:
            candidates = [row - operator.pads[1][0]]
        else:
            window = operator.window
            assert window is not None
            top = row * window.stride[0] - window.padding[0]
            candidates = [top + tap * window.dilation[0] for tap in range(window.kernel[0])]
        return [candidate for candidate in candidates if 0 <= candidate < height]

    def _check_direction(self, source: int, target: int, reader: str) -> None:
        """Elements are handled upward, so an output may start at its input or below it, never inside it."""
        start, end = self._offset[source], self._offset[source] + self._graph.tensors[source].size_bytes
        if start < self._offset[target] < end:
            raise PlanError(f"the output of {reader} starts inside its input '{self._graph.tensors[source].name}'")
