from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.tinynas.synthetic import SHAPE, SPACE, accuracy, costs, run, settings, tiny_space
from tinynas.architecture import Architecture
from tinynas.constraints import Admission, InfeasibleBudgetError, Limits
from tinynas.errors import SearchError
from tinynas.evaluation import Evaluation
from tinynas.events import CostModelRefitted, EvaluationFinished, StageDone, StudyStarted
from tinynas.strategies import STRATEGIES, make_strategy
from tinynas.strategies.problem import Problem
from tinynas.study import JOURNAL_FILE, SETTINGS_FILE, Progress, Study, search

ROOT = Path(__file__).parents[2]

SEARCHER = """
import os, sys, time
from pathlib import Path
from tests.tinynas.synthetic import accuracy, run, settings

folder, calls, trials = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])

def slow_accuracy(architecture):
    time.sleep(0.003)
    with open(calls, "a") as file:
        file.write(f"{architecture}\\n")
    return accuracy(architecture)

run(folder, settings(trials), slow_accuracy)
"""


JOURNAL_OF = """
import sys
from pathlib import Path
from tests.tinynas.synthetic import run, settings

run(Path(sys.argv[1]), settings(40, strategy=sys.argv[2]))
"""


def start_search(folder: Path, calls: Path, trials: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", SEARCHER, str(folder), str(calls), str(trials)], cwd=ROOT, stderr=subprocess.PIPE
    )


def finished(folder: Path) -> list[Evaluation]:
    return list(Study.read(folder).evaluations)


def whole_lines(journal: Path) -> int:
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


def test_a_search_killed_again_and_again_ends_as_one_that_was_not(tmp_path: Path) -> None:
    trials, rounds = 160, 8
    expected = run(tmp_path / "uninterrupted", settings(trials)).evaluations
    folder, calls = tmp_path / "killed", tmp_path / "calls"
    rng = random.Random(1)
    kills = 0
    for _ in range(rounds):
        before = finished(folder) if whole_lines(folder / JOURNAL_FILE) else []
        process = start_search(folder, calls, trials)
        target = whole_lines(folder / JOURNAL_FILE) + rng.randrange(1, 10)
        while process.poll() is None and whole_lines(folder / JOURNAL_FILE) < target:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.006))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
        after = finished(folder)
        assert after[: len(before)] == before
        assert after == list(expected[: len(after)])
    assert kills > rounds // 2, "the searches ended before they could be killed"
    assert start_search(folder, calls, trials).wait() == 0
    assert finished(folder) == list(expected)
    # Only what was under way when a kill came may have been computed twice.
    evaluated = calls.read_text().splitlines()
    assert len(evaluated) <= trials + kills
    assert len(set(evaluated)) == trials


def journal_without_times(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) | {"time": None} for line in (folder / JOURNAL_FILE).read_text().splitlines()]


@pytest.mark.parametrize("strategy", [name for name in STRATEGIES if name != "differentiable"])
def test_two_runs_give_the_same_journal_and_so_does_one_that_was_resumed(tmp_path: Path, strategy: str) -> None:
    """In processes that hash strings differently: no order of a set or of a dictionary's hashes decides anything."""
    journals = []
    for hash_seed in ("1", "2"):
        folder = tmp_path / hash_seed
        environment = os.environ | {"PYTHONHASHSEED": hash_seed}
        command = [sys.executable, "-c", JOURNAL_OF, str(folder), strategy]
        subprocess.run(command, cwd=ROOT, env=environment, check=True)
        journals.append(journal_without_times(folder))
    assert journals[0] == journals[1]
    assert len(journals[0]) == 1 + 40
    journal = tmp_path / "1" / JOURNAL_FILE
    for kept in (1, 2, 9, 30):
        journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:kept]))
        run(tmp_path / "1", settings(40, strategy=strategy))
        assert journal_without_times(tmp_path / "1") == journals[1]


def test_a_kill_while_a_study_is_being_created(tmp_path: Path) -> None:
    expected = run(tmp_path / "uninterrupted", settings(5)).evaluations
    rng = random.Random(2)
    for attempt in range(3):
        folder = tmp_path / f"killed{attempt}"
        process = start_search(folder, tmp_path / "calls", 5)
        while process.poll() is None and not folder.exists():
            time.sleep(0.0002)
        time.sleep(rng.uniform(0, 0.003))
        process.kill()
        process.communicate()
        assert run(folder, settings(5)).evaluations == expected


def test_a_journal_cut_anywhere_resumes_to_the_same_end(tmp_path: Path) -> None:
    """Every moment at which a kill may come leaves a prefix of the journal."""
    expected = run(tmp_path / "whole", settings(12)).evaluations
    content = (tmp_path / "whole" / JOURNAL_FILE).read_bytes()
    toml = (tmp_path / "whole" / SETTINGS_FILE).read_bytes()
    line_ends = [index + 1 for index, byte in enumerate(content) if byte == ord("\n")]
    around = {end + shift for end in line_ends for shift in (-1, 0, 1)}
    for length in sorted((around | set(range(0, len(content), 97))) - {len(content) + 1}):
        folder = tmp_path / f"cut{length}"
        folder.mkdir()
        (folder / SETTINGS_FILE).write_bytes(toml)
        (folder / JOURNAL_FILE).write_bytes(content[:length])
        evaluated: list[Architecture] = []

        def counted(architecture: Architecture, evaluated: list[Architecture] = evaluated) -> float:
            evaluated.append(architecture)
            return accuracy(architecture)

        kept = sum(end <= length for end in line_ends)
        assert run(folder, settings(12), counted).evaluations == expected
        assert finished(folder) == list(expected)
        assert len(evaluated) == 12 - max(0, kept - 1)


def test_a_torn_last_line_is_removed_and_said(tmp_path: Path) -> None:
    run(tmp_path / "study", settings(4))
    journal = tmp_path / "study" / JOURNAL_FILE
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"type":"evaluation_finished","archit')
    assert len(Study.read(tmp_path / "study").evaluations) == 4
    with Study.open(tmp_path / "study") as study:
        assert study.note is not None
        assert "(37 bytes)" in study.note
        assert len(study.evaluations) == 4
    assert journal.read_bytes() == whole


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{}", "type"),
        (b'{"type": "evaluation_fin', "JSON"),
        (b'{"type": "unheard_of"}', "unheard_of"),
        (b"\xff\xfe", "JSON"),
        (b'{"type": "exported", "architecture": "nonsense"}', "nonsense"),
    ],
)
def test_any_other_malformed_line_is_an_error_that_names_it(tmp_path: Path, line: bytes, reason: str) -> None:
    run(tmp_path / "study", settings(3))
    journal = tmp_path / "study" / JOURNAL_FILE
    lines = journal.read_bytes().splitlines(keepends=True)
    damaged = b"".join([*lines[:2], line + b"\n", *lines[2:]])
    journal.write_bytes(damaged)
    for open_study in (Study.open, Study.read):
        with pytest.raises(SearchError, match="line 3 of") as caught:
            open_study(tmp_path / "study")
        assert reason in str(caught.value)
    assert journal.read_bytes() == damaged


def test_a_second_process_is_told_who_has_the_study(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    with Study.open(folder, settings(1_000)):
        process = start_search(folder, tmp_path / "calls", 1_000)
        _, stderr = process.communicate()
        assert process.returncode == 1
        assert f"is in use by process {os.getpid()}".encode() in stderr
        assert Study.read(folder).evaluations == ()
    Study.open(folder, settings(1_000)).close()


def test_other_settings_are_refused_with_the_differences(tmp_path: Path) -> None:
    run(tmp_path / "study", settings(3))
    with pytest.raises(SearchError) as caught:
        Study.open(tmp_path / "study", settings(5, limits={"max_latency_ms": 9}, training={"epochs": 2}))
    message = str(caught.value)
    for difference in (
        "trials was 3, now 5",
        "limits.max_latency_ms was 1.2, now 9.0",
        "limits.max_sram_bytes was 20000.0, now not set",
        "training.epochs was not set, now 2",
        "choose another folder",
    ):
        assert difference in message
    assert "device" not in message
    # What was refused did not keep the lock.
    Study.open(tmp_path / "study").close()


def test_settings_survive_the_file(tmp_path: Path) -> None:
    odd = settings(3, data='C:\\odd "path"\n\x7f ünï', training={"epochs": 3, "rate": 0.1, "mixup": True, "note": "x"})
    Study.open(tmp_path / "study", odd).close()
    assert Study.read(tmp_path / "study").settings == odd


def test_settings_with_an_unknown_constraint_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SearchError, match="did you mean max_latency_ms"):
        settings(3, limits={"max_latencyms": 5})
    Study.open(tmp_path / "study", settings(3)).close()
    toml = tmp_path / "study" / SETTINGS_FILE
    toml.write_text(toml.read_text().replace("max_latency_ms", "max_latencyms"))
    with pytest.raises(SearchError, match=r"study\.toml' does not hold .*did you mean max_latency_ms"):
        Study.open(tmp_path / "study")


def test_only_a_study_or_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(SearchError, match="not a study and not empty"):
        Study.open(tmp_path / "mine", settings())
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]
    with pytest.raises(SearchError, match="is a file"):
        Study.open(tmp_path / "mine" / "thesis.tex", settings())
    for open_study in (Study.open, Study.read):
        with pytest.raises(SearchError, match="there is no study"):
            open_study(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("fails", ["write", "fsync"])
def test_a_full_disk_stops_the_search_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    expected = run(tmp_path / "uninterrupted", settings(10)).evaluations
    folder = tmp_path / "study"
    real_write, real_fsync = os.write, os.fsync
    written = 0

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def write_the_half_that_fits(descriptor: int, data: bytes) -> int:
        nonlocal written
        written += len(data)
        return real_write(descriptor, data[: len(data) // 2]) if len(data) > 200 else full()

    def fill_the_disk(progress: Progress) -> None:
        if progress.done == 4:
            if fails == "write":
                monkeypatch.setattr(os, "write", write_the_half_that_fits)
            else:
                # The cut that follows a failed fsync is itself synced; by then there is room again.
                monkeypatch.setattr(os, "fsync", lambda _: monkeypatch.setattr(os, "fsync", real_fsync) or full())

    with pytest.raises(SearchError, match=r"the disk is full: '.*journal\.jsonl'.*free some space"):
        run(folder, settings(10), on_progress=fill_the_disk)
    monkeypatch.undo()
    content = (folder / JOURNAL_FILE).read_bytes()
    assert content.endswith(b"\n")
    assert len(content.splitlines()) == 1 + 4
    assert run(folder, settings(10)).evaluations == expected


def test_a_full_disk_at_the_start_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(SearchError, match="the disk is full"):
            Study.open(tmp_path / "study", settings(3))
    assert len(run(tmp_path / "study", settings(3)).evaluations) == 3


def test_an_infeasible_budget_stops_the_search(tmp_path: Path) -> None:
    with pytest.raises(InfeasibleBudgetError, match="raise max_sram_bytes"):
        run(tmp_path / "study", settings(3, limits={"max_sram_bytes": 100}))
    assert Study.read(tmp_path / "study").evaluations == ()


def test_an_exhausted_space_ends_the_search_with_a_note_every_time(tmp_path: Path) -> None:
    space = tiny_space()

    def search_tiny() -> int:
        chosen = settings(100, space="tiny")
        admission = Admission(Limits.from_mapping(chosen.limits), lambda _: costs(SPACE.extreme(SHAPE, largest=False)))
        problem = Problem(space, SHAPE, admission, chosen.objectives, trials=100, seed=1)
        strategy = make_strategy("random", problem)
        with Study.open(tmp_path / "study", chosen) as study:
            outcome = search(study, strategy, admission, lambda _: 0.5)
        assert outcome.note is not None
        assert "no more architectures" in outcome.note
        return len(outcome.evaluations)

    assert search_tiny() == search_tiny() == 24


def test_costs_that_changed_keep_what_was_finished_and_say_so(tmp_path: Path) -> None:
    chosen = settings(20)
    with Study.open(tmp_path / "study", chosen) as study:
        for architecture in (SPACE.extreme(SHAPE, largest=largest) for largest in (True, False)):
            study.append(EvaluationFinished(architecture=architecture, costs=costs(architecture), accuracy=0.5))
        before = study.evaluations
    outcome = run(tmp_path / "study", chosen)
    assert outcome.evaluations[:2] == before
    assert len({each.architecture for each in outcome.evaluations}) == 20
    assert outcome.note is not None
    assert "have changed" in outcome.note


def test_rejections_are_counted_once_and_explained(tmp_path: Path) -> None:
    # Little fits, so that rejections come before every evaluation.
    tight = settings(6, limits={"max_sram_bytes": 1_500}, strategy="random")
    outcome = run(tmp_path / "study", tight)
    lines = Study.read(tmp_path / "study").events_of(EvaluationFinished)
    assert outcome.rejected == sum(line.rejected for line in lines)
    assert all(line.rejected for line in lines)
    line = lines[0]
    assert line.rejected == line.rejected_by_constraint["max_sram_bytes"]
    assert line.nearest_rejected is not None
    assert "exceeds the limit of 1,500 B by" in line.nearest_rejected.reasons[0]

    journal = tmp_path / "study" / JOURNAL_FILE
    content = journal_without_times(tmp_path / "study")
    journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:4]))
    assert run(tmp_path / "study", tight).rejected == outcome.rejected
    assert journal_without_times(tmp_path / "study") == content


def test_progress(tmp_path: Path) -> None:
    seen: list[Progress] = []
    run(tmp_path / "study", settings(3), on_progress=seen.append)
    assert [(each.done, each.trials, each.resumed) for each in seen] == [(1, 3, 0), (2, 3, 0), (3, 3, 0)]
    run(tmp_path / "study", settings(3), on_progress=seen.append)
    assert len(seen) == 3


def test_an_accuracy_that_is_none_is_an_error_and_is_not_recorded(tmp_path: Path) -> None:
    with pytest.raises(SearchError, match="accuracy nan"):
        run(tmp_path / "study", settings(3), lambda _: float("nan"))
    assert Study.read(tmp_path / "study").evaluations == ()


def test_events_of_every_kind_come_back_as_they_were(tmp_path: Path) -> None:
    stage = StageDone(stage="supernet", seconds=1.5, files=("checkpoints/supernet.safetensors",), figures={"loss": 0.1})
    refit = CostModelRefitted(board="emulator", measurements=8, mape_before=12.5, mape_after=4.0)
    with Study.open(tmp_path / "study", settings()) as study:
        study.append(stage)
        study.append(refit)
    read = Study.read(tmp_path / "study")
    assert read.events[1:] == (stage, refit)
    assert read.events_of(StageDone) == (stage,)
    assert read.events_of(StudyStarted)[0].versions["python"] == sys.version.split()[0]
    with pytest.raises(SearchError, match="not open for writing"):
        read.append(stage)
