import numpy as np
import pytest
import torch

from tinynas.architecture import Architecture
from tinynas.data import DataSet, load_data
from tinynas.errors import SearchError
from tinynas.network import Network, build_network
from tinynas.space import load_space
from tinynas.training import Batches, Schedule, TrainingSettings, accuracy, prepare, probabilities, train

ARCHITECTURE = Architecture.parse("mobilenet_small-r12-w0.5-k3e1-k3e2-k3e2-k3e2")
SETTINGS = TrainingSettings(batch_size=16)


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> DataSet:
    """Three kinds of 12×12 images that differ in where they are bright."""
    rng = np.random.default_rng(0)
    labels = np.arange(240) % 3
    images = rng.integers(0, 80, (240, 12, 12), np.uint8)
    for index, label in enumerate(labels):
        images[index, 4 * label : 4 * label + 4] += 150
    path = tmp_path_factory.mktemp("data") / "bands.npz"
    np.savez(path, x=images, y=labels)
    return load_data(str(path))


def network(data: DataSet, seed: int = 0) -> Network:
    torch.manual_seed(seed)
    return build_network(ARCHITECTURE, load_space("mobilenet_small"), data.input_shape, len(data.classes))


def same_weights(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    return all(
        torch.equal(one, other)
        for one, other in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


def test_training_learns_what_can_be_learned(data):
    seen = []
    result = train(network(data), data, 12, settings=SETTINGS, epochs=6, progress=seen.append)
    assert result.validation_accuracy > 0.9
    assert result.test_accuracy > 0.9
    assert len(result.history) == 6
    assert result.history[-1].loss < result.history[0].loss
    assert seen[-1].fraction <= 1
    assert [progress.step for progress in seen] == sorted(progress.step for progress in seen)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(data):
    nets = [network(data) for _ in range(3)]
    for net, seed in zip(nets, (1, 1, 2), strict=True):
        train(net, data, 12, settings=SETTINGS, epochs=1, seed=seed)
    assert same_weights(nets[0], nets[1])
    assert not same_weights(nets[0], nets[2])


def test_an_interrupted_training_ends_as_an_uninterrupted_one(data, tmp_path):
    whole = network(data)
    expected = train(whole, data, 12, settings=SETTINGS, epochs=4)

    class InterruptedHereError(Exception):
        pass

    def interrupt(progress):
        if progress.step >= 30:
            raise InterruptedHereError

    path = tmp_path / "checkpoints" / "net.safetensors"
    with pytest.raises(InterruptedHereError):
        train(network(data), data, 12, settings=SETTINGS, epochs=4, checkpoint=path, progress=interrupt)
    resumed = network(data, seed=5)
    result = train(resumed, data, 12, settings=SETTINGS, epochs=4, checkpoint=path)
    assert same_weights(whole, resumed)
    assert result.test_accuracy == expected.test_accuracy
    assert [epoch.loss for epoch in result.history] == [epoch.loss for epoch in expected.history]

    # A finished one is only loaded.
    loaded = network(data, seed=6)
    steps = []
    train(loaded, data, 12, settings=SETTINGS, epochs=4, checkpoint=path, progress=steps.append)
    assert steps == []
    assert same_weights(whole, loaded)


def test_a_paused_training_goes_on_as_if_it_had_not_been(data, tmp_path):
    whole, path = network(data), tmp_path / "net.safetensors"
    expected = train(whole, data, 12, settings=SETTINGS, epochs=3)
    paused = train(network(data), data, 12, settings=SETTINGS, epochs=3, until=1, checkpoint=path)
    assert paused.history[0].loss == expected.history[0].loss
    assert len(paused.history) == 1
    resumed = network(data, seed=5)
    assert len(train(resumed, data, 12, settings=SETTINGS, epochs=3, until=3, checkpoint=path).history) == 3
    assert same_weights(whole, resumed)
    with pytest.raises(SearchError, match="at least one"):
        train(network(data), data, 12, settings=SETTINGS, epochs=3, until=0)


def test_a_checkpoint_of_other_work_or_a_damaged_one_is_refused(data, tmp_path):
    path = tmp_path / "net.safetensors"
    train(network(data), data, 12, settings=SETTINGS, epochs=1, checkpoint=path)
    with pytest.raises(SearchError, match="other data or settings"):
        train(network(data), data, 12, settings=SETTINGS, epochs=2, checkpoint=path)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(SearchError, match="cannot be read"):
        train(network(data), data, 12, settings=SETTINGS, epochs=1, checkpoint=path)


def test_a_time_limit_ends_the_training(data):
    result = train(network(data), data, 12, settings=SETTINGS, seconds=0.2)
    assert result.seconds >= 0.2
    with pytest.raises(SearchError, match="give epochs or seconds"):
        train(network(data), data, 12, settings=SETTINGS)
    with pytest.raises(SearchError, match="no time"):
        train(network(data), data, 12, settings=SETTINGS, epochs=0)


def test_divergence_is_reported(data):
    with pytest.raises(SearchError, match="lower the learning rate"):
        train(network(data), data, 12, settings=TrainingSettings(batch_size=16, learning_rate=1e30), epochs=2)


def test_a_teacher_is_followed(data):
    # A teacher that calls everything class 1 outweighs the labels when distillation is 1.
    teacher = torch.zeros(len(data.train_labels), 3)
    teacher[:, 1] = 1
    net = network(data)
    train(net, data, 12, settings=TrainingSettings(batch_size=16, distillation=1.0), epochs=2, teacher=teacher)
    assert (probabilities(net, prepare(data, data.test_images, 12)).argmax(1) == 1).all()


def test_schedule_rises_and_falls_by_whichever_limit_is_nearer():
    schedule = Schedule(0.4, 0.25, epochs=10, seconds=100.0)
    assert schedule.fraction(5, 20) == 0.5
    assert schedule.fraction(1, 90) == 0.9
    assert schedule.fraction(11, 0) == 1
    rates = [schedule.rate(fraction) for fraction in (0, 0.125, 0.25, 0.6, 0.9, 1)]
    assert rates[0] < rates[1] < rates[2] == pytest.approx(0.4)
    assert rates[2] > rates[3] > rates[4] > rates[5] == pytest.approx(0)


def test_epochs_visit_every_image_once_in_whole_batches(data):
    batches = Batches(data, 12, SETTINGS, seed=3)
    places = torch.cat([chosen for _, _, chosen in batches.epoch(0)])
    assert len(places) == batches.per_epoch * 16
    assert len(set(places.tolist())) == len(places)
    assert places.tolist() != torch.cat([chosen for _, _, chosen in batches.epoch(1)]).tolist()
    late = next(batches.epoch(0, first=4))
    assert torch.equal(late[0], list(batches.epoch(0))[4][0])


def test_augmentation_moves_images_by_no_more_than_asked(data):
    still = Batches(data, 12, TrainingSettings(batch_size=16, shift_pixels=0), seed=0)
    images, labels, chosen = next(still.epoch(0))
    assert torch.equal(images, prepare(data, data.train_images[chosen.numpy()], 12))
    assert labels.tolist() == data.train_labels[chosen.numpy()].tolist()
    moved, _, _ = next(Batches(data, 12, SETTINGS, seed=0).epoch(0))
    for before, after in zip(images, moved, strict=True):
        padded = torch.nn.functional.pad(before[None], (1, 1, 1, 1), mode="replicate")[0]
        offsets = [(row, column) for row in range(3) for column in range(3)]
        assert any(torch.equal(after, padded[:, r : r + 12, c : c + 12]) for r, c in offsets)


def test_accuracy_counts_the_right_answers(data):
    class Constant(torch.nn.Module):
        def forward(self, images):
            return torch.tensor([[0.0, 1.0, 0.0]]).expand(len(images), 3)

    assert accuracy(Constant(), prepare(data, data.test_images, 12), data.test_labels) == pytest.approx(1 / 3)
