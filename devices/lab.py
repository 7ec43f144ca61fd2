"""Work shared out over boards that run at the same time, as if one had done it after another.

Each board has a thread that takes the next job as soon as the last is done. A job that fails on one board is tried on
another, so that a loose cable costs time and no result; a board that keeps failing gets nothing more.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, Protocol, TypeVar

from devices.board import Board, Image, Measurement
from devices.errors import DeviceError

BOARDS_PER_JOB = 3
"""On how many boards a job may fail before it is given up."""
FAILURES_PER_BOARD = 2
"""A board that failed this many jobs that no other board failed too is taken out."""
HOPELESS = 3
"""When so many jobs in a row were given up and none was done meanwhile, the others are not tried."""
STOP_S = 10.0
"""How long boards may take to end what they are doing once nobody wants it any more."""

T = TypeVar("T")


class Named(Protocol):
    """What work can be shared out to: the jobs alone know what else it can do."""

    @property
    def name(self) -> str:
        """What it is called in failures."""
        ...


B = TypeVar("B", bound=Named)


@dataclass(frozen=True)
class Failure:
    """A job that a board did not do."""

    board: str
    reason: str


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """What came of one job."""

    value: T | None
    """None when no board did it."""
    board: str | None
    """The board that did it."""
    failures: tuple[Failure, ...]
    """Of the boards that it was tried on before, in order."""

    def result(self) -> T:
        """The value. Raises DeviceError, with what each board said, when there is none."""
        if self.value is None:
            raise DeviceError(self.reason)
        return self.value

    @property
    def reason(self) -> str:
        """What each board said that did not do it; empty when the first did."""
        if self.value is None and not self.failures:
            return "it was not tried, because the boards that are left failed before; see why with tinynas boards check"
        return "; ".join(f"on {failure.board}: {failure.reason}" for failure in self.failures)


@dataclass(frozen=True)
class MeasureJob:
    """One image to measure, and on what."""

    image: Image
    inputs: tuple[bytes, ...]
    runs: int | None = None
    """See Board.measure."""


def measure_many(
    jobs: Sequence[MeasureJob],
    boards: Sequence[Board],
    on_outcome: Callable[[int, Outcome[Measurement]], None] | None = None,
) -> tuple[Outcome[Measurement], ...]:
    """Flash and measure every image on one of ``boards``, which are of the platform that the images are for.

    Otherwise as `share_out`.
    """
    return share_out([partial(_measure, job) for job in jobs], boards, on_outcome)


def share_out(
    jobs: Sequence[Callable[[B], T]],
    boards: Sequence[B],
    on_outcome: Callable[[int, Outcome[T]], None] | None = None,
) -> tuple[Outcome[T], ...]:
    """Do every job on one of ``boards``, all of which work at once; what came of each, in the jobs' order.

    ``on_outcome`` is told each job's number and outcome as they come, one at a time, in a thread of its board. A
    DeviceError of a job, which otherwise returns something, counts as the board's failure. Any other exception ends
    everything and is raised here.
    """
    if not boards:
        raise DeviceError("there is no board to share the work out to; give at least one")
    if len({id(board) for board in boards}) < len(boards):
        raise DeviceError("a board is there twice, and it can do one thing at a time; give each once")
    crew = _Crew(jobs, boards, on_outcome)
    threads = [
        threading.Thread(target=crew.work, args=[position], name=f"board {board.name}", daemon=True)
        for position, board in enumerate(boards)
    ]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    except BaseException:
        # Interrupted. A board that is just being written to had better not be left halfway.
        crew.stop()
        deadline = time.monotonic() + STOP_S
        for thread in threads:
            if thread.ident is not None:
                thread.join(max(0.0, deadline - time.monotonic()))
        raise
    return crew.outcomes()


class _Crew(Generic[B, T]):
    """What the boards' threads share. Boards are known by their position: two may have the same name."""

    def __init__(
        self,
        jobs: Sequence[Callable[[B], T]],
        boards: Sequence[B],
        on_outcome: Callable[[int, Outcome[T]], None] | None,
    ) -> None:
        self._jobs = jobs
        self._boards = boards
        self._on_outcome = on_outcome
        self._changed = threading.Condition()
        self._waiting = list(range(len(jobs)))
        self._running = 0
        self._failed: list[dict[int, str]] = [{} for _ in jobs]
        """Of each job, the boards that it failed on and why."""
        self._outcomes: dict[int, Outcome[T]] = {}
        self._given_up_in_a_row = 0
        self._error: BaseException | None = None
        self._stopped = False

    def work(self, board: int) -> None:
        """Do jobs on a board until there is nothing left for it."""
        try:
            while (job := self._take(board)) is not None:
                try:
                    value = self._jobs[job](self._boards[board])
                except DeviceError as error:
                    self._fail(job, board, str(error))
                else:
                    self._succeed(job, board, value)
        except BaseException as error:  # noqa: BLE001 - it is raised again where share_out was called
            with self._changed:
                self._error = self._error or error
                self._end()

    def stop(self) -> None:
        """Let no board begin anything more."""
        with self._changed:
            self._end()

    def outcomes(self) -> tuple[Outcome[T], ...]:
        """One for each job, or the error that ended it all."""
        if self._error is not None:
            raise self._error
        return tuple(self._outcomes[job] for job in range(len(self._jobs)))

    def _take(self, board: int) -> int | None:
        """The next job for a board; waits while another board may yet fail one. None when all is settled."""
        with self._changed:
            while not self._stopped and len(self._outcomes) < len(self._jobs):
                if (job := self._next_for(board)) is not None:
                    self._waiting.remove(job)
                    self._running += 1
                    return job
                if self._running == 0 and all(self._next_for(other) is None for other in range(len(self._boards))):
                    self._give_up(max(self._waiting, key=lambda job: len(self._failed[job])))
                else:
                    self._changed.wait()
            return None

    def _next_for(self, board: int) -> int | None:
        if self._blame(board) >= FAILURES_PER_BOARD:
            return None
        return next((job for job in self._waiting if board not in self._failed[job]), None)

    def _blame(self, board: int) -> int:
        """How many jobs failed on a board for no reason of their own, as far as is known by now."""
        return sum(board in failed and not self._is_bad(job) for job, failed in enumerate(self._failed))

    def _is_bad(self, job: int) -> bool:
        """Whether the job itself is what fails: given up after more than one board."""
        outcome = self._outcomes.get(job)
        return outcome is not None and outcome.value is None and len(self._failed[job]) > 1

    def _succeed(self, job: int, board: int, value: T) -> None:
        with self._changed:
            self._given_up_in_a_row = 0
            self._settle(job, Outcome(value, self._boards[board].name, self._failures_of(job)))
            self._running -= 1

    def _fail(self, job: int, board: int, reason: str) -> None:
        with self._changed:
            self._failed[job][board] = reason
            self._waiting.insert(0, job)
            self._running -= 1
            if len(self._failed[job]) >= min(BOARDS_PER_JOB, len(self._boards)):
                self._give_up(job)
            self._changed.notify_all()

    def _give_up(self, job: int) -> None:
        self._waiting.remove(job)
        self._given_up_in_a_row += 1
        self._settle(job, Outcome(None, None, self._failures_of(job)))
        if self._given_up_in_a_row >= HOPELESS:
            for other in list(self._waiting):
                self._waiting.remove(other)
                self._settle(other, Outcome(None, None, self._failures_of(other)))

    def _settle(self, job: int, outcome: Outcome[T]) -> None:
        self._outcomes[job] = outcome
        self._changed.notify_all()
        if self._on_outcome is not None and not self._stopped:
            self._on_outcome(job, outcome)

    def _failures_of(self, job: int) -> tuple[Failure, ...]:
        return tuple(Failure(self._boards[board].name, why) for board, why in self._failed[job].items())

    def _end(self) -> None:
        self._stopped = True
        self._changed.notify_all()


def _measure(job: MeasureJob, board: Board) -> Measurement:
    board.flash(job.image)
    return board.measure(job.inputs, job.runs)
