import math
import random

import numpy as np
import pytest
import torch

from tests.tinynas.test_supernet import SETTINGS, make_data
from tinynas.constraints import Admission, InfeasibleBudgetError, Limits
from tinynas.elastic import StageMixture
from tinynas.errors import SearchError
from tinynas.evaluation import Costs, Evaluation
from tinynas.space import SearchSpace
from tinynas.strategies import differentiable
from tinynas.strategies.additive_costs import ADDITIVE, PEAK, Layout, tabulate
from tinynas.strategies.differentiable import Differentiable
from tinynas.strategies.distribution import Distribution, ExpectedCosts
from tinynas.strategies.hardening import Budget, harden
from tinynas.strategies.learner import DifferentiableSettings, Learner
from tinynas.strategies.problem import Problem
from tinynas.strategies.sampler import SpaceExhaustedError
from tinynas.supernet import Supernet

SHAPE = (12, 12, 1)
SPACE = SearchSpace.model_validate(
    {
        "name": "few",
        "description": "A few hundred small networks",
        "block": "inverted",
        "choices": {"kernel": [3, 5], "expansion": [1, 2]},
        "resolution_scales": [0.67, 1.0],
        "widths": [0.5, 1.0],
        "channel_multiple": 4,
        "stem": {"channels": 8, "kernel": 3, "stride": 1},
        "stages": [
            {"channels": 8, "stride": 2, "depths": [1, 2]},
            {"channels": 12, "stride": 2, "depths": [1, 2]},
        ],
    }
)
FAST = DifferentiableSettings(steps=6, batch_size=8, first_shortlist=4, shortlist=2, weights="frozen", anchors=2)


def costs(architecture) -> Costs:
    """Additive but for one per cent that hangs on everything, as the compiler's are about."""
    macs, peak, flash = 1000.0, 100.0, 2000.0
    side = architecture.resolution
    for number, blocks in enumerate(architecture.stages):
        side /= 2
        for block in blocks:
            work = block["e"] * (20 * architecture.width + block["k"] ** 2) * (number + 1)
            macs += side**2 * work
            flash += 10 * work
            peak = max(peak, side**2 * block["e"] * 8 * architecture.width)
    latency = macs / 1000 * (1 + 0.01 * math.sin(macs))
    return Costs(int(macs), int(flash), int(peak), int(flash), latency, latency / 10)


EVERY = sorted(costs(each).latency_ms for each in SPACE.every(SHAPE))
MIDDLE = EVERY[len(EVERY) // 2]


@pytest.fixture(scope="module")
def supernet(tmp_path_factory):
    made = Supernet(SPACE, make_data(tmp_path_factory.mktemp("data"), SHAPE), settings=SETTINGS)
    made.train(epochs=3)
    return made


@pytest.fixture(scope="module")
def layout():
    return Layout.of(SPACE, SHAPE)


@pytest.fixture(scope="module")
def tables(layout):
    return [tabulate(layout, subspace, costs) for subspace in layout.subspaces]


def problem(supernet, objectives=("accuracy",), seed=0, **limits) -> Problem:
    admission = Admission(Limits.from_mapping(limits), costs)
    return Problem(SPACE, SHAPE, admission, objectives, 10, seed, lambda: supernet)


def learner(supernet, layout, tables, **changes) -> Learner:
    return Learner(supernet, layout, tables, costs, FAST.model_copy(update=changes), seed=0)


def test_a_mixture_of_one_is_the_architecture(supernet):
    architecture = SPACE.extreme(SHAPE, largest=True)
    one = torch.ones(())
    stages = [
        StageMixture([(len(blocks), one)], [[(block, one)] for block in blocks]) for blocks in architecture.stages
    ]
    images = torch.randn(8, 1, 12, 12)
    mixed = supernet.weights.forward_mixture(images, architecture.resolution, architecture.width, stages)
    torch.testing.assert_close(mixed, supernet.weights(images, architecture))


def test_a_mixture_of_depths_is_between_them(supernet):
    deep = SPACE.extreme(SHAPE, largest=True)
    blocks = [[(block, torch.ones(()))] for block in deep.stages[0]]
    images = torch.randn(8, 1, 12, 12)

    def run(weight: float) -> torch.Tensor:
        depths = [(1, torch.tensor(1 - weight)), (2, torch.tensor(weight))]
        rest = StageMixture([(2, torch.ones(()))], [[(block, torch.ones(()))] for block in deep.stages[1]])
        return supernet.weights.forward_mixture(
            images, deep.resolution, deep.width, [StageMixture(depths, blocks), rest]
        )

    torch.testing.assert_close(run(1.0), supernet.weights(images, deep))
    assert not torch.allclose(run(0.5), run(1.0))


@pytest.mark.parametrize("paths", ["binarized", "mixture"])
def test_gradients_reach_every_logit(paths, supernet, layout, tables):
    taught = learner(supernet, layout, tables, paths=paths)
    distribution = Distribution(layout)
    reached = [torch.zeros_like(logits, dtype=torch.bool) for logits in distribution.logits]
    for _ in range(12):
        gradients = torch.autograd.grad(
            taught.cross_entropy(distribution), distribution.logits, allow_unused=True, materialize_grads=True
        )
        reached = [seen | (gradient != 0) for seen, gradient in zip(reached, gradients, strict=True)]
    assert all(seen.all() for seen in reached)


def test_expected_costs_are_the_mean_of_all_architectures(layout, tables):
    expected = ExpectedCosts.of(layout, tables).under(Distribution(layout))
    # A uniform gene of a block that is absent weighs architectures as depth first, then blocks: so does a sample.
    weights, latencies = [], []
    for architecture in SPACE.every(SHAPE):
        weights.append(math.prod(4.0 ** -len(blocks) for blocks in architecture.stages))
        latencies.append(costs(architecture).latency_ms)
    assert expected["latency_ms"].item() == pytest.approx(np.average(latencies, weights=weights), rel=0.02)
    highest = max(costs(each).sram_bytes for each in SPACE.every(SHAPE))
    assert 0.5 * highest < expected[PEAK].item() < 1.1 * highest


@pytest.mark.parametrize("cost", ["latency_ms", "energy_mj", "sram_bytes", "flash_bytes"])
def test_a_price_moves_the_distribution_to_what_is_cheaper(cost, supernet, layout, tables):
    taught = learner(supernet, layout, tables)
    before = taught.expected(Distribution(layout))
    distribution = Distribution(layout)
    taught.learn(distribution, 25, limits={}, prices={cost: 10 / before[cost]})
    assert taught.expected(distribution)[cost] < 0.8 * before[cost]


def test_a_target_draws_the_distribution_from_both_sides(supernet, layout, tables, monkeypatch):
    """Where accuracy prefers neither: what small shared weights prefer hangs on how the processor rounds."""
    taught = learner(supernet, layout, tables)
    monkeypatch.setattr(taught, "cross_entropy", lambda distribution: torch.zeros(()))
    for target in (EVERY[len(EVERY) // 4], EVERY[-len(EVERY) // 4]):
        distribution = Distribution(layout)
        taught.learn(distribution, 60, limits={"latency_ms": target}, targets=["latency_ms"])
        assert taught.expected(distribution)["latency_ms"] == pytest.approx(target, rel=0.05)


def test_hardening_finds_the_most_probable_architecture_within_the_budget(layout, tables):
    torch.manual_seed(1)
    distribution = Distribution(layout, [torch.randn(len(gene.values)) for gene in layout.genes])
    scores = distribution.scores()
    budget = Budget({"latency_ms": MIDDLE, PEAK: 2000.0}, "latency_ms", 0.9)

    def score(architecture) -> float:
        genotype = layout.encode(architecture)
        return scores.total(layout, [0 if index is None else index for index in genotype])

    for place, subspace in enumerate(layout.subspaces):
        of_subspace = [each for each in SPACE.every(SHAPE) if layout.encode(each)[:2] == subspace]
        within = [each for each in of_subspace if budget.distance_of(costs(each)) == 0]
        found = harden(layout, tables[place], subspace, scores, budget, costs)
        if not within:
            assert found is None
            continue
        assert found in within
        better = sum(score(each) > score(found) + 1e-9 for each in within)
        assert better <= 1, (subspace, better, len(within))


@pytest.mark.parametrize("paths", ["binarized", "mixture"])
@pytest.mark.parametrize("position", [0.2, 0.5, 0.8])
def test_the_first_architecture_is_within_five_per_cent_of_its_limit(paths, position, supernet):
    limit = EVERY[int(position * len(EVERY))]
    settings = FAST.model_copy(update={"paths": paths})
    found = Differentiable(problem(supernet, max_latency_ms=limit), settings).ask()
    assert 0.95 * limit <= costs(found).latency_ms <= limit


def test_what_is_asked_is_new_and_fits_until_nothing_is_left(supernet):
    limits = {"max_latency_ms": EVERY[11], "max_sram_bytes": 1200.0, "max_flash_bytes": 4500.0}
    admission = Admission(Limits.from_mapping(limits), costs)
    fitting = {each for each in SPACE.every(SHAPE) if admission(each)}
    assert len(fitting) > 3
    strategy = Differentiable(problem(supernet, **limits), FAST)
    asked = []
    for _ in fitting:
        asked.append(strategy.ask())
        strategy.tell(Evaluation(asked[-1], costs(asked[-1]), 0.5))
    with pytest.raises(SpaceExhaustedError):
        strategy.ask()
    assert set(asked) == fitting


@pytest.mark.parametrize("objectives", [("accuracy", "latency"), ("accuracy", "sram"), ("accuracy", "flash", "energy")])
def test_asks_for_a_front_spread_over_its_costs(objectives, supernet):
    strategy = Differentiable(problem(supernet, objectives, max_latency_ms=EVERY[-5]), FAST)
    name = differentiable.COST_OF_OBJECTIVE[objectives[1]]
    values = []
    for _ in range(12):
        asked = strategy.ask()
        values.append(getattr(costs(asked), name))
        strategy.tell(Evaluation(asked, costs(asked), supernet.evaluate(asked)))
    everything = [getattr(costs(each), name) for each in SPACE.every(SHAPE)]
    assert min(values) < np.quantile(everything, 0.25)
    assert max(values) >= np.quantile(everything, 0.5)
    assert len(strategy.distributions) == FAST.anchors


def test_same_seed_same_architectures(supernet):
    def journal(seed: int) -> list[str]:
        strategy = Differentiable(problem(supernet, ("accuracy", "latency"), seed), FAST)
        asked = []
        for number in range(5):
            asked.append(strategy.ask())
            strategy.tell(Evaluation(asked[-1], costs(asked[-1]), 0.5 + 0.01 * number))
        return [str(each) for each in asked]

    assert journal(3) == journal(3)
    assert journal(3) != journal(4)


def test_what_is_told_makes_an_architecture_more_probable(supernet, layout):
    strategy = Differentiable(problem(supernet), FAST)
    strategy.ask()
    (distribution,) = strategy.distributions
    large, small = (SPACE.extreme(SHAPE, largest=largest) for largest in (True, False))

    def probability(architecture) -> float:
        everything = distribution.log_probabilities()
        return sum(everything[gene][index].item() for gene, index in enumerate(layout.encode(architecture)) if index)

    before = probability(large)
    strategy.tell(Evaluation(small, costs(small), 0.4))
    strategy.tell(Evaluation(large, costs(large), 0.8))
    assert probability(large) > before


def test_a_budget_that_nothing_fits_is_said_before_anything_is_learned(supernet):
    def never():
        raise AssertionError("the supernet was asked for")

    admission = Admission(Limits.from_mapping({"max_latency_ms": EVERY[0] / 2}), costs)
    strategy = Differentiable(Problem(SPACE, SHAPE, admission, ("accuracy",), 10, 0, never), FAST)
    with pytest.raises(InfeasibleBudgetError, match="max_latency_ms"):
        strategy.ask()


def test_without_a_supernet_it_says_so():
    with pytest.raises(SearchError, match="supernet"):
        Differentiable(Problem(SPACE, SHAPE, Admission(Limits(), costs), ("accuracy",), 10, 0))


def test_untrained_weights_learn_in_a_copy(supernet):
    untrained = Supernet(SPACE, supernet.data, settings=SETTINGS, seed=5)
    before = untrained.weights.state_dict()["classifier.weight"].clone()
    settings = FAST.model_copy(update={"weights": None, "steps": 60})
    strategy = Differentiable(problem(untrained), settings)
    asked = strategy.ask()
    assert torch.equal(before, untrained.weights.state_dict()["classifier.weight"])
    assert strategy._judged[asked] > 0.6, "three classes by the place of a bright band"


def test_a_target_out_of_reach_asks_for_what_is_best(supernet):
    strategy = Differentiable(problem(supernet, max_latency_ms=10 * EVERY[-1]), FAST)
    assert costs(strategy.ask()).latency_ms > MIDDLE


def cell_costs(architecture) -> Costs:
    """Every cell costs what its edges do, more the deeper the stage; an edge whose start carries nothing is free."""
    worth = (0, 1, 3, 4, 9)
    macs = 500.0 * architecture.resolution
    for number, cells in enumerate(architecture.stages):
        for cell in cells:
            alive = cell["a"] > 0
            edges = cell["a"], cell["b"], cell["d"], *((cell["c"], cell["e"]) if alive else ()), cell["f"]
            macs += 100 * (number + 1) * architecture.width * sum(worth[edge] for edge in edges)
    return Costs(int(macs), 100, 1000, 1000, macs / 1000, macs / 10_000)


def test_cells_share_their_genes(tmp_path):
    edges = {f"edge{edge}": [0, 1, 2, 3, 4] for edge in ("01", "02", "12", "03", "13", "23")}
    space = SearchSpace.model_validate(
        SPACE.model_dump(exclude_unset=True) | {"name": "cells", "block": "cell", "choices": edges}
    )
    net = Supernet(space, make_data(tmp_path, SHAPE), settings=SETTINGS)
    rng = random.Random(0)
    limit = sorted(cell_costs(space.sample(rng, SHAPE)).latency_ms for _ in range(100))[50]
    admission = Admission(Limits.from_mapping({"max_latency_ms": limit}), cell_costs)
    strategy = Differentiable(Problem(space, SHAPE, admission, ("accuracy",), 10, 0, lambda: net), FAST)
    asked = [strategy.ask() for _ in range(4)]
    assert 0.95 * limit <= cell_costs(asked[0]).latency_ms <= limit
    assert all(admission(each) for each in asked)
    assert len(set(asked)) == 4
    (distribution,) = strategy.distributions
    assert all(logits.abs().sum() > 0 for logits in distribution.logits), "every gene has learned"


def test_blocks_of_many_options_are_not_mixed(supernet, layout, tables, monkeypatch):
    monkeypatch.setattr("tinynas.strategies.additive_costs.MAX_JOINT_OPTIONS", 3)
    by_gene = Layout.of(SPACE, SHAPE)
    assert all(len(block) == 2 for stage in by_gene.stages for block in stage.blocks)
    separate = [tabulate(by_gene, subspace, costs) for subspace in by_gene.subspaces]
    with pytest.raises(SearchError, match="binarized"):
        learner(supernet, by_gene, separate, paths="mixture")
    learner(supernet, by_gene, separate).learn(Distribution(by_gene), 2, limits={"latency_ms": MIDDLE})
    assert len(ADDITIVE) == separate[0].items[0].shape[1]
