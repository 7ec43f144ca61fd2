import json
import math
import random
import subprocess
import sys

import numpy as np
import pytest
from scipy.optimize import approx_fprime
from scipy.stats import kendalltau

from tinynas.architecture import Architecture
from tinynas.errors import SearchError
from tinynas.evaluation import Costs
from tinynas.predictor import AccuracyPredictor, Features, _loss
from tinynas.space import SearchSpace, load_space

SHAPE = (28, 28, 1)
SPACE = load_space("mobilenet_small")


def costs(architecture: Architecture) -> Costs:
    """The largest part of the real ones: the number of blocks, their width and the resolution."""
    blocks = sum(map(len, architecture.stages))
    macs = 1000 * blocks * architecture.resolution**2 * architecture.width**2
    return Costs(int(macs), int(3000 * blocks * architecture.width**2), 1, 1, macs / 1e6, macs / 1e7)


def accuracy(architecture: Architecture) -> float:
    """Grows with the size, and with the kernels of the last stage."""
    kernels = sum(block["k"] for block in architecture.stages[-1]) / len(architecture.stages[-1])
    return 0.7 + 0.02 * math.log(costs(architecture).macs) / 2 + 0.004 * kernels


FEATURES = Features(SPACE, SHAPE, costs)


def architectures(count: int, seed: int, space: SearchSpace = SPACE) -> list[Architecture]:
    rng = random.Random(seed)
    return list({space.sample(rng, SHAPE): None for _ in range(2 * count)})[:count]


@pytest.fixture(scope="module")
def predictor() -> AccuracyPredictor:
    noise = np.random.default_rng(0).normal(0, 0.002, 120)
    chosen = architectures(120, seed=1)
    return AccuracyPredictor(FEATURES, {a: accuracy(a) + float(n) for a, n in zip(chosen, noise, strict=True)})


def test_it_ranks_what_it_has_not_seen(predictor):
    unseen = [a for a in architectures(100, seed=2) if a not in predictor.measured]
    expected, deviations = predictor.predict(unseen)
    truth = np.array([accuracy(architecture) for architecture in unseen])
    assert kendalltau(expected, truth).statistic > 0.8
    # The deviations are those that were met: two of three within one, and nearly all within three.
    errors = np.abs(expected - truth) / deviations
    assert np.mean(errors < 3) > 0.95
    assert deviations.min() > 0.0005


def test_the_fit_follows_the_gradient_of_its_loss():
    generator = np.random.default_rng(0)
    choices, sizes = FEATURES(architectures(30, seed=1))
    distances = np.stack([(values[:, None] - values) ** 2 for values in np.hstack([choices, sizes]).T])
    targets = generator.normal(size=30)
    hyperparameters = generator.normal(-1, 0.5, 3 + len(distances))
    arguments = (choices @ choices.T / choices.shape[1], distances, targets)
    _, gradient = _loss(hyperparameters, *arguments)
    numeric = approx_fprime(hyperparameters, lambda values: _loss(values, *arguments)[0], 1e-6)
    np.testing.assert_allclose(gradient, numeric, rtol=1e-3, atol=1e-3)


def test_it_is_less_sure_of_what_is_unlike_what_it_knows():
    small = SPACE.restricted(SHAPE, width=min(SPACE.widths))
    predictor = AccuracyPredictor(FEATURES, {a: accuracy(a) for a in architectures(60, seed=3, space=small)})
    _, alike = predictor.predict(architectures(40, seed=4, space=small))
    _, unlike = predictor.predict(architectures(40, 5, SPACE.restricted(SHAPE, width=max(SPACE.widths))))
    assert np.median(unlike) > 1.5 * np.median(alike)


def test_the_same_measurements_give_the_same_predictor(predictor):
    again = AccuracyPredictor(FEATURES, predictor.measured)
    unseen = architectures(20, seed=2)
    assert [values.tolist() for values in again.predict(unseen)] == [
        values.tolist() for values in predictor.predict(unseen)
    ]


def test_a_saved_predictor_predicts_the_same(predictor, tmp_path):
    path = tmp_path / "predictor.json"
    predictor.save(path)
    loaded = AccuracyPredictor.load(path, FEATURES)
    unseen = architectures(20, seed=2)
    np.testing.assert_array_equal(loaded.predict(unseen)[0], predictor.predict(unseen)[0])
    saved = json.loads(path.read_text())
    assert saved["training_set_sha256"] == predictor.training_set_sha256

    first = next(iter(saved["accuracies"]))
    for change, message in [
        ({"accuracies": {**saved["accuracies"], first: 0.99}}, "training set or the space changed"),
        ({"space": "other"}, "predicts for 'other'"),
        ({"version": 1}, "holds no accuracy predictor"),
    ]:
        path.write_text(json.dumps(saved | change))
        with pytest.raises(SearchError, match=message):
            AccuracyPredictor.load(path, FEATURES)


def test_too_few_measurements_are_refused():
    with pytest.raises(SearchError, match="measure more first"):
        AccuracyPredictor(FEATURES, {a: accuracy(a) for a in architectures(5, seed=0)})


def test_equal_accuracies_are_no_trouble():
    expected, deviations = AccuracyPredictor(FEATURES, dict.fromkeys(architectures(20, seed=0), 0.5)).predict(
        architectures(5, seed=1)
    )
    np.testing.assert_allclose(expected, 0.5, atol=1e-6)
    assert np.isfinite(deviations).all()


def test_it_needs_no_torch():
    code = "import sys, tinynas.predictor, tinynas.accuracy; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
