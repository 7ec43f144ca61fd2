"""Work shared out over boards: the same as one at a time, whatever single boards do."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from devices.boards import open_boards
from devices.errors import DeviceError
from devices.firmware import build_firmware
from devices.lab import Failure, MeasureJob, Outcome, measure_many, share_out
from devices.profile import load_profile
from tests.devices.processes import start_program
from tests.devices.toy_models import INPUT_BYTES, write_model


@dataclass
class FakeBoard:
    """Does what the test says of it."""

    name: str
    fails: Callable[[int], bool] = lambda job: False
    done: list[int] = field(default_factory=list)


def run(boards: Sequence[FakeBoard], count: int) -> tuple[Outcome[int], ...]:
    """Jobs that square their number."""

    def job(number: int) -> Callable[[FakeBoard], int]:
        def do(board: FakeBoard) -> int:
            board.done.append(number)
            if board.fails(number):
                raise DeviceError(f"job {number} failed")
            return number * number

        return do

    return share_out([job(number) for number in range(count)], boards)


def always(job: int) -> bool:
    return True


def test_results_are_in_the_jobs_order() -> None:
    boards = [FakeBoard("a"), FakeBoard("b"), FakeBoard("c")]
    outcomes = run(boards, 50)
    assert [outcome.result() for outcome in outcomes] == [number**2 for number in range(50)]
    assert all(outcome.failures == () for outcome in outcomes)
    assert Counter(number for board in boards for number in board.done) == Counter(range(50))
    for outcome, number in zip(outcomes, range(50), strict=True):
        assert number in next(board for board in boards if board.name == outcome.board).done


def test_boards_work_at_the_same_time() -> None:
    """Each job waits for the other: one after another, they would never end."""
    barrier = threading.Barrier(3, timeout=60)
    outcomes = share_out([lambda _: barrier.wait() + 1] * 3, [FakeBoard(name) for name in "abc"])
    assert sorted(outcome.result() for outcome in outcomes) == [1, 2, 3]


def test_no_board_does_two_things_at_a_time() -> None:
    busy: dict[str, int] = Counter()

    def job(board: FakeBoard) -> bool:
        busy[board.name] += 1
        assert busy[board.name] == 1
        time.sleep(0.001)
        busy[board.name] -= 1
        return True

    assert all(outcome.value for outcome in share_out([job] * 60, [FakeBoard("a"), FakeBoard("b")]))


def test_a_job_that_failed_once_is_done_elsewhere() -> None:
    """Whatever board gets it first fails it."""
    tried: list[str] = []

    def job(board: FakeBoard) -> str:
        tried.append(board.name)
        if len(tried) == 1:
            raise DeviceError("it blinked")
        return "done"

    (outcome,) = share_out([job], [FakeBoard("a"), FakeBoard("b")])
    assert outcome == Outcome("done", tried[1], (Failure(tried[0], "it blinked"),))
    assert set(tried) == {"a", "b"}


def test_a_board_that_fails_twice_is_taken_out() -> None:
    failed_twice = threading.Event()

    def fail(job: int) -> bool:
        if len(dead.done) == 2:
            failed_twice.set()
        return True

    dead = FakeBoard("dead", fails=fail)
    slow = FakeBoard("slow", fails=lambda job: not failed_twice.wait(60))
    outcomes = run([dead, slow], 20)
    assert [outcome.value for outcome in outcomes] == [number**2 for number in range(20)]
    assert len(dead.done) == 2
    failed = [outcome for outcome in outcomes if outcome.failures]
    assert [outcome.failures for outcome in failed] == [
        (Failure("dead", f"job {n} failed"),) for n in sorted(dead.done)
    ]


def test_a_bad_job_is_not_blamed_on_the_boards() -> None:
    bad = {3, 11, 12}
    boards = [FakeBoard(name, fails=lambda job: job in bad) for name in "abcd"]
    outcomes = run(boards, 30)
    for number, outcome in enumerate(outcomes):
        if number in bad:
            assert len(outcome.failures) == 3  # no use to try it on every board of a large lab
            with pytest.raises(DeviceError, match=rf"on [abcd]: job {number} failed; on [abcd]: job"):
                outcome.result()
        else:
            assert outcome.result() == number**2
    assert max(Counter(number for board in boards for number in board.done).values()) == 3


def test_a_lab_where_nothing_works_ends_soon() -> None:
    boards = [FakeBoard(name, fails=always) for name in "ab"]
    outcomes = run(boards, 500)
    assert all(outcome.value is None for outcome in outcomes)
    assert sum(len(board.done) for board in boards) < 12
    with pytest.raises(DeviceError, match="it was not tried, because the boards that are left failed"):
        outcomes[-1].result()


def test_one_board_alone_that_fails_twice() -> None:
    board = FakeBoard("only", fails=lambda job: job >= 2)
    outcomes = run([board], 6)
    assert [outcome.value for outcome in outcomes] == [0, 1, None, None, None, None]
    assert board.done == [0, 1, 2, 3]


@pytest.mark.parametrize("seed", range(25))
def test_any_mix_of_bad_boards_and_bad_jobs_ends_with_every_job_settled(seed: int) -> None:
    rng = random.Random(seed)
    rates = [rng.choice([0, 0, 0.1, 0.5, 1]) for _ in range(rng.randint(1, 6))]
    bad = {job for job in range(40) if rng.random() < 0.05}

    def board(position: int, rate: float) -> FakeBoard:
        own = random.Random(position)
        return FakeBoard(f"b{position}", fails=lambda job: job in bad or own.random() < rate)

    boards = [board(position, rate) for position, rate in enumerate(rates)]
    outcomes = run(boards, 40)
    assert len(outcomes) == 40
    if rates.count(0) and not bad:
        assert all(outcome.value == number**2 for number, outcome in enumerate(outcomes))
    for number, outcome in enumerate(outcomes):
        assert outcome.value in (None, number**2)
        assert len({failure.board for failure in outcome.failures}) == len(outcome.failures) <= 3


def test_another_exception_ends_everything_and_is_raised() -> None:
    started: list[int] = []

    def job(board: object) -> int:
        started.append(1)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        share_out([job] * 100, [FakeBoard("a"), FakeBoard("b")])
    assert len(started) <= 2


def test_outcomes_are_told_one_at_a_time_as_they_come() -> None:
    told: dict[int, int] = {}
    inside = threading.Lock()

    def tell(number: int, outcome: Outcome[int]) -> None:
        assert inside.acquire(blocking=False)
        time.sleep(0.001)
        told[number] = outcome.result()
        inside.release()

    jobs = [lambda _, number=number: number + 1 for number in range(30)]
    share_out(jobs, [FakeBoard("a"), FakeBoard("b")], tell)
    assert told == {number: number + 1 for number in range(30)}


def test_an_exception_of_who_is_told_is_raised() -> None:
    def tell(number: int, outcome: Outcome[int]) -> None:
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="disk is full"):
        share_out([lambda _: 1] * 10, [FakeBoard("a"), FakeBoard("b")], tell)


def test_nothing_to_do_and_nobody_to_do_it() -> None:
    assert run([FakeBoard("a")], 0) == ()
    with pytest.raises(DeviceError, match="no board to share the work out to"):
        run([], 1)
    board = FakeBoard("a")
    with pytest.raises(DeviceError, match="there twice"):
        run([board, board], 1)


def test_an_interrupt_ends_it() -> None:
    program = (
        "import os, threading; from devices.lab import share_out\n"
        "class Board: name = 'a'\n"
        "def job(board):\n"
        "    os.write(1, b'working\\n'); threading.Event().wait(0.5); return 1\n"
        "try: share_out([job] * 100, [Board(), Board()])\n"
        "except KeyboardInterrupt: print('interrupted', flush=True)\n"
    )
    process, said = start_program(program)
    with process:
        assert process.stdout is not None
        assert said == "working"
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read().split()
        assert process.wait(60) == 0
    assert rest[-1] == "interrupted"
    assert rest.count("working") <= 3  # the other board's, and at most one each that was just beginning


@pytest.mark.slow
def test_ten_emulated_boards_measure_what_one_does(
    emulator: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured_alike(tmp_path, monkeypatch, boards=10, models=20)


def test_emulated_boards_measure_what_one_does(emulator: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured_alike(tmp_path, monkeypatch, boards=3, models=5)


def measured_alike(folder: Path, monkeypatch: pytest.MonkeyPatch, *, boards: int, models: int) -> None:
    """Measure on boards of boards.toml at once, and on one board one after another: the same to the cycle."""
    entry = '[[board]]\nid = "e{}"\nplatform = "stm32f405"\nemulator = true\n'
    (folder / "boards.toml").write_text("".join(entry.format(i) for i in range(boards)))
    monkeypatch.setenv("TINYNAS_BOARDS", str(folder / "boards.toml"))
    profile = load_profile("stm32f405")
    data = bytes(range(INPUT_BYTES))
    jobs = []
    for i in range(models):
        layers = [f"for (int i = 0; i < {10 * (i + 1)}; ++i) tn_arena[i & 63] += {i};", "tn_arena[0] = 1;"]
        image = build_firmware(write_model(folder / f"model{i}", layers), profile, folder / f"out{i}")
        jobs.append(MeasureJob(image, (data, data[::-1]), 2))
    with open_boards(["platform:stm32f405"]) as opened:
        assert len(opened.boards) == boards
        at_once = measure_many(jobs, opened.boards)
    with open_boards(["e0"]) as opened:
        in_turn = measure_many(jobs, opened.boards)
    assert all(outcome.failures == () for outcome in (*at_once, *in_turn))
    assert len({outcome.board for outcome in at_once}) == boards
    assert len({outcome.result().cycles for outcome in in_turn}) == models
    for one, other in zip(at_once, in_turn, strict=True):
        assert replace(one.result(), board="e0") == other.result()
