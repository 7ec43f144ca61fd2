import random
from pathlib import Path

import pytest

from tinynas.architecture import Architecture
from tinynas.errors import SearchError
from tinynas.halving import Rungs, SuccessiveHalving


def accuracy(architecture: Architecture) -> float:
    """The larger the input, the better."""
    return 0.5 + architecture.resolution / 250


class CurveTrainer:
    """Learning curves by formula: after n epochs, an architecture is 0.3/n short of what it will reach."""

    def __init__(self) -> None:
        self.kept: dict[Architecture, int] = {}
        self.epochs = 0

    def train(self, architecture: Architecture, until: int, rungs: Rungs) -> float:
        self.epochs += max(0, until - self.kept.get(architecture, 0))
        self.kept[architecture] = max(until, self.kept.get(architecture, 0))
        return accuracy(architecture) - 0.3 / until

    def forget(self, architecture: Architecture) -> None:
        self.kept.pop(architecture, None)


def candidates(count: int) -> list[Architecture]:
    resolutions = random.Random(0).sample(range(20, 120), count)
    return [Architecture.parse(f"space-r{resolution}-w0.5-k3e2") for resolution in resolutions]


def halving(folder: Path, trainer: CurveTrainer, seed: int = 0) -> SuccessiveHalving:
    return SuccessiveHalving(trainer, Rungs(epochs=9, eta=3), folder / "halving.json", {"seed": seed})


def test_rungs_divide_the_epochs():
    assert Rungs(9, 3).ladder == (1, 3, 9)
    assert Rungs(20, 3).ladder == (2, 6, 20)
    assert Rungs(1, 3).ladder == (1,)
    for epochs, eta in [(0, 3), (9, 1)]:
        with pytest.raises(SearchError, match="no rungs"):
            Rungs(epochs, eta)


def test_the_best_is_trained_to_the_end_and_most_are_not(tmp_path):
    trainer, chosen = CurveTrainer(), candidates(60)
    measure = halving(tmp_path, trainer)
    found = [measure(architecture) for architecture in chosen]
    best = max(chosen, key=accuracy)
    assert chosen[found.index(max(found))] == best
    assert measure.reached(best) == 9
    stopped_at_first = sum(measure.reached(architecture) == 1 for architecture in chosen)
    assert stopped_at_first >= len(chosen) / 2
    assert trainer.epochs < 9 * len(chosen) / 3
    assert not trainer.kept, "checkpoints are left behind"


def test_a_candidate_is_stopped_by_those_before_it_alone(tmp_path):
    ascending = sorted(candidates(9), key=accuracy)
    measure = halving(tmp_path, CurveTrainer())
    for architecture in ascending:
        measure(architecture)
        assert measure.reached(architecture) == 9, "each was the best so far"
    measure = halving(tmp_path / "other", CurveTrainer())
    reached = [measure(architecture) and measure.reached(architecture) for architecture in reversed(ascending)]
    assert reached == [9, 1, 1, 1, 1, 1, 1, 1, 1]


def test_a_killed_search_ends_as_an_unkilled_one(tmp_path):
    chosen = candidates(30)
    whole = halving(tmp_path / "whole", CurveTrainer())
    expected = [whole(architecture) for architecture in chosen]

    class KilledError(Exception):
        pass

    class Killed(CurveTrainer):
        def train(self, architecture: Architecture, until: int, rungs: Rungs) -> float:
            result = super().train(architecture, until, rungs)
            if architecture == chosen[17]:
                raise KilledError
            return result

    killed = Killed()
    first = halving(tmp_path, killed)
    with pytest.raises(KilledError):
        [first(architecture) for architecture in chosen]
    trainer = CurveTrainer()
    trainer.kept = killed.kept  # the disk survives
    resumed = halving(tmp_path, trainer)
    resumed.require({architecture: expected[index] for index, architecture in enumerate(chosen[:17])})
    assert [resumed(architecture) for architecture in chosen] == expected
    assert (tmp_path / "halving.json").read_bytes() == (tmp_path / "whole" / "halving.json").read_bytes()
    assert not trainer.kept


def test_another_record_a_damaged_one_or_none_is_refused(tmp_path):
    (one,) = candidates(1)
    found = halving(tmp_path, CurveTrainer())(one)
    with pytest.raises(SearchError, match="other data or settings"):
        halving(tmp_path, CurveTrainer(), seed=1)
    with pytest.raises(SearchError, match="does not hold the training"):
        halving(tmp_path / "empty", CurveTrainer()).require({one: found})
    path = tmp_path / "halving.json"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(SearchError, match="restore it"):
        halving(tmp_path, CurveTrainer())
