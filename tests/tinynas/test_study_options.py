"""What a search is told: a sub-space, a space of one's own, objectives, and how accuracies are found."""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path

import pytest

from tests.tinynas.conftest import Tinynas, little
from tinynas.architecture import Architecture
from tinynas.events import CandidateTrained, EvaluationFinished, SpaceNarrowed, StageDone
from tinynas.journal import read_journal
from tinynas.narrowing import best_sub_space
from tinynas.space import load_space
from tinynas.stages import finalists, without_twins
from tinynas.study import Study
from tinynas.workspace import Workspace

STUDY = Path("study")
JOURNAL = STUDY / "journal.jsonl"


def evaluations() -> list[EvaluationFinished]:
    return [event for event in read_journal(JOURNAL)[0] if isinstance(event, EvaluationFinished)]


def test_narrowing(tinynas: Tinynas, data: Path) -> None:
    options = [*little(data, STUDY, trials=4), "--narrow", "--narrow-samples", "20", "--max-latency-ms", "4"]
    first = tinynas("search", *options, "--json").json
    started, event, *others = read_journal(JOURNAL)[0]
    assert isinstance(event, SpaceNarrowed)
    best = best_sub_space(event.sub_spaces)
    assert best is not None
    assert (event.resolution, event.width) == (best.resolution, best.width)
    assert all(s.sampled == 20 for s in event.sub_spaces)
    assert any(0 < s.fitting.count < 20 for s in event.sub_spaces), "the limit cuts nothing: a test of nothing"
    found = [e.architecture for e in others if isinstance(e, EvaluationFinished)]
    assert len(found) == 4
    assert {(a.resolution, a.width) for a in found} == {(event.resolution, event.width)}
    assert first["narrowed"] == {"resolution": event.resolution, "width": event.width}

    # It is in the journal, so a study that was killed right after it does not do it again, and finds the same.
    whole = JOURNAL.read_bytes().splitlines(keepends=True)
    JOURNAL.write_bytes(b"".join(whole[:2]))
    assert tinynas("search", *options, "--json").json["front"] == first["front"]
    assert JOURNAL.read_bytes().splitlines(keepends=True)[:2] == whole[:2]
    assert [type(e) for e in read_journal(JOURNAL)[0]].count(SpaceNarrowed) == 1
    assert started == read_journal(JOURNAL)[0][0]

    page = Path(tinynas("report", STUDY, "--json").json["path"]).read_text()
    assert f"r{event.resolution}-w{event.width:g}" in page
    assert "--narrow --narrow-samples 20" in page


def write_space(path: Path, kernels: list[int]) -> Path:
    text = (resources.files("tinynas") / "spaces" / "mobilenet_small.toml").read_text()
    text = text.replace("mobilenet_small", "my_space").replace("kernel = [3, 5, 7]", f"kernel = {kernels}")
    assert tomllib.loads(text)["choices"]["kernel"] == kernels
    path.write_text(text)
    return path


def test_a_space_of_ones_own(tinynas: Tinynas, data: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = write_space(Path("mine.toml"), [3])
    options = [*little(data, STUDY, trials=3), "--space", mine]
    front = tinynas("search", *options, "--json").json["front"]
    assert all(candidate["architecture"].startswith("my_space-") for candidate in front)
    assert {block["k"] for e in evaluations() for stage in e.architecture.stages for block in stage} == {3}
    # A comment is no other space, and other choices are.
    mine.write_text("# the same\n" + mine.read_text())
    assert tinynas("search", *options, "--json").json["front"] == front
    write_space(mine, [3, 5])
    assert "was started with other settings: space_sha256 was" in tinynas("search", *options).error
    # The study has a copy of its own, and needs the file no more to be looked at or exported.
    mine.unlink()
    (home / "elsewhere").mkdir()
    monkeypatch.chdir(home / "elsewhere")
    assert tinynas("report", home / STUDY).code == 0
    exported = tinynas("export", home / STUDY, "-o", "out", "--json")
    assert exported.json["architecture"].startswith("my_space-")


def test_accuracy_alone(tinynas: Tinynas, data: Path) -> None:
    options = [*little(data, STUDY, trials=6), "--objective", "accuracy"]
    front = tinynas("search", *options, "--json").json["front"]
    accuracies = sorted((e.accuracy for e in evaluations()), reverse=True)
    assert {candidate["accuracy"] for candidate in front} == {accuracies[0]}
    chosen = finalists(Workspace.read(STUDY))
    assert {e.accuracy for e in evaluations() if e.architecture in chosen} == {accuracies[0]}
    assert "objectives was accuracy, now accuracy,sram" in tinynas("search", *options[:-1], "accuracy,sram").error


def test_finalists_come_from_the_next_front_where_the_first_is_short(tinynas: Tinynas, data: Path) -> None:
    options = little(data, STUDY, trials=6)
    options[options.index("--finalists") + 1] = "4"
    assert tinynas("search", *options, "--objective", "accuracy").code == 0
    workspace = Workspace.read(STUDY)
    best_first = sorted(evaluations(), key=lambda evaluation: -evaluation.accuracy)
    genotypes = {e.architecture: workspace.space.encode(e.architecture, workspace.data.input_shape) for e in best_first}
    accuracy = {e.architecture: e.accuracy for e in best_first}
    chosen = [accuracy[architecture] for architecture in finalists(workspace)]
    assert chosen == [accuracy[architecture] for architecture in without_twins(genotypes, 4)]


def test_finalists_are_no_twins_unless_nothing_else_is_left() -> None:
    space, shape = load_space("mobilenet_small"), (28, 28, 1)
    texts = ["k3e1-k3e2-k3e2-k3e2", "k5e1-k3e2-k3e2-k3e2", "k5e2-k5e4-k5e4-k5e4", "k3e1-k3e2-k3e2-k3e3"]
    ordered = [Architecture.parse(f"mobilenet_small-r20-w0.25-{text}") for text in texts]
    genotypes = {architecture: space.encode(architecture, shape) for architecture in ordered}
    first, twin, other, another_twin = ordered
    assert without_twins(genotypes, 1) == [first]
    assert without_twins(genotypes, 2) == [first, other]
    assert without_twins(genotypes, 3) == [first, other, twin]
    assert without_twins(genotypes, 9) == [first, other, twin, another_twin]


def test_accuracies_from_scratch(tinynas: Tinynas, data: Path) -> None:
    options = [*little(data, STUDY, trials=4), "--accuracy", "scratch", "--scratch-epochs", "3"]
    front = tinynas("search", *options, "--json").json["front"]
    with Study.open(STUDY) as study:
        assert not study.events_of(StageDone), "a supernet was trained that nobody asks"
        assert not study.events_of(CandidateTrained)
    assert tinynas("search", *options, "--json").json["front"] == front
    page = Path(tinynas("report", STUDY, "--json").json["path"]).read_text()
    assert "by training from scratch, stopped early" in page


def test_a_predictor_chooses_what_is_measured(tinynas: Tinynas, data: Path) -> None:
    options = [*little(data, STUDY, trials=12), "--accuracy", "predictor"]
    assert tinynas("search", *options, "--json").json["trials"] == 12
    journal = JOURNAL.read_bytes().splitlines(keepends=True)
    JOURNAL.write_bytes(b"".join(journal[:-2]))
    assert tinynas("search", *options, "--json").json["trials"] == 12
    again = [e.architecture for e in evaluations()]
    assert len(set(again)) == 12
