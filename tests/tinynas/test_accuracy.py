import numpy as np
import pytest

from tests.tinynas.synthetic import costs
from tinynas.accuracy import ACCURACY, RECORD, ScratchTrainer, make_accuracy, screened
from tinynas.constraints import Admission, Limits
from tinynas.data import DataSet, load_data
from tinynas.errors import SearchError
from tinynas.evaluation import Evaluation
from tinynas.halving import Rungs
from tinynas.screening import Screened
from tinynas.space import load_space
from tinynas.strategies import make_strategy
from tinynas.strategies.problem import Problem
from tinynas.supernet import Supernet

SPACE = load_space("mobilenet_small")
RUNGS = Rungs(epochs=4, eta=2)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> DataSet:
    """Three kinds of 12×12 images that differ in where they are bright."""
    rng = np.random.default_rng(0)
    labels = np.arange(240) % 3
    images = rng.integers(0, 80, (240, 12, 12), np.uint8)
    for index, label in enumerate(labels):
        images[index, 4 * label : 4 * label + 4] += 100
    path = tmp_path_factory.mktemp("data") / "bands.npz"
    np.savez(path, x=images, y=labels)
    return load_data(str(path))


def no_supernet() -> Supernet:
    raise AssertionError("the supernet was asked for")


def test_training_from_scratch_pauses_at_rungs_and_leaves_its_record_alone(data, tmp_path):
    smallest, largest = (SPACE.extreme(data.input_shape, largest=each) for each in (False, True))
    arguments = {"space": SPACE, "data": data, "seed": 0, "supernet": no_supernet, "folder": tmp_path, "rungs": RUNGS}
    measure = make_accuracy("scratch", **arguments)
    found = {architecture: measure(architecture) for architecture in (smallest, largest)}
    assert [path.name for path in tmp_path.iterdir()] == [RECORD]
    # The first is always trained to the end, and in pieces comes to what it does in one.
    trainer = ScratchTrainer(SPACE, data, 0, tmp_path / "other")
    assert trainer.train(smallest, 4, RUNGS) == found[smallest]
    assert trainer.train(smallest, 4, RUNGS) == found[smallest], "it was there already"
    at_two = trainer.train(smallest, 2, RUNGS)
    trainer.forget(smallest)
    assert trainer.train(smallest, 2, RUNGS) == at_two

    evaluated = [Evaluation(architecture, costs(architecture), accuracy) for architecture, accuracy in found.items()]
    again = make_accuracy("scratch", **arguments, evaluated=evaluated)
    assert [again(architecture) for architecture in found] == list(found.values())
    (tmp_path / RECORD).unlink()
    with pytest.raises(SearchError, match="does not hold the training"):
        make_accuracy("scratch", **arguments, evaluated=evaluated)


def test_the_supernet_is_loaded_once_and_when_it_is_needed(data, tmp_path):
    loaded = []

    def supernet() -> Supernet:
        loaded.append(Supernet(SPACE, data))
        return loaded[-1]

    for name in ("supernet", "predictor"):
        loaded.clear()
        measure = make_accuracy(name, space=SPACE, data=data, seed=0, supernet=supernet, folder=tmp_path, rungs=RUNGS)
        assert not loaded
        smallest = SPACE.extreme(data.input_shape, largest=False)
        assert measure(smallest) == measure(smallest) == loaded[0].evaluate(smallest)
        assert len(loaded) == 1


def test_the_predictor_screens_the_strategy_and_others_leave_it_alone(data):
    problem = Problem(SPACE, data.input_shape, Admission(Limits(), costs), ("accuracy",), trials=10, seed=0)
    strategy = make_strategy("random", problem)
    assert isinstance(screened("predictor", strategy, problem), Screened)
    assert all(screened(name, strategy, problem) is strategy for name in ACCURACY if name != "predictor")
    with pytest.raises(SearchError, match="choose from supernet, predictor, scratch"):
        screened("oracle", strategy, problem)
