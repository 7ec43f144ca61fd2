import numpy as np
import pytest
from scipy.stats import kendalltau

from benchmarks.ranking import SCRATCH_COUNT, SCRATCH_FILE, SCRATCH_SEEDS, read_scratch, tau_of
from tinynas.space import load_space


def test_tau_lies_in_its_interval_which_narrows_with_agreement():
    generator = np.random.default_rng(1)
    ours = generator.normal(size=30)
    close, far = (tau_of(ours, ours + generator.normal(0, noise, 30)) for noise in (0.1, 1.0))
    for found in (close, far):
        assert found.low < found.tau < found.high
    assert close.high - close.low < far.high - far.low
    same = tau_of(ours, ours)
    assert (same.low, same.tau, same.high) == (pytest.approx(1), pytest.approx(1), pytest.approx(1))


def test_ties_count_as_scipy_counts_them():
    ours, theirs = np.array([1.0, 1, 2, 3, 3, 4]), np.array([1.0, 2, 2, 3, 5, 4])
    assert tau_of(ours, theirs).tau == kendalltau(ours, theirs).statistic


def test_what_was_trained_from_scratch_is_in_the_space():
    space = load_space("mobilenet_small")
    architectures, reached = read_scratch(SCRATCH_FILE, "validation_accuracy")
    _, early = read_scratch(SCRATCH_FILE, "after_1")
    assert reached.shape == early.shape == (SCRATCH_SEEDS, SCRATCH_COUNT)
    assert ((early > 0.5) & (early < reached) & (reached < 1)).all()
    for architecture in architectures:
        space.check(architecture, (28, 28, 1))
