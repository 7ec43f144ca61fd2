import random

import numpy as np
import pytest
import torch

from tinynas import supernet as supernet_module
from tinynas.data import DataSet, load_data
from tinynas.errors import SearchError
from tinynas.network import scale_to
from tinynas.space import input_shape_at, load_space
from tinynas.supernet import Supernet, SupernetSettings
from tinynas.training import TrainingSettings, accuracy, prepare, train

SPACE = load_space("mobilenet_small")
SETTINGS = SupernetSettings(training=TrainingSettings(batch_size=16), random_per_step=1)


def make_data(folder, shape: tuple[int, int, int], count: int = 150) -> DataSet:
    """Three classes that differ in which third of the rows is bright."""
    rng = np.random.default_rng(0)
    labels = np.sort(np.arange(count) % 3)
    images = rng.integers(0, 80, (count, *shape), np.uint8)
    third = shape[0] // 3
    for index, label in enumerate(labels):
        images[index, third * label : third * label + third] += 150
    np.savez(folder / "bands.npz", x=images, y=labels)
    return load_data(str(folder / "bands.npz"))


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> DataSet:
    return make_data(tmp_path_factory.mktemp("data"), (12, 12, 1))


@pytest.fixture(scope="session")
def windows(tmp_path_factory) -> DataSet:
    return make_data(tmp_path_factory.mktemp("data"), (24, 1, 3))


@pytest.mark.parametrize("kind", ["data", "windows"])
def test_an_extracted_network_computes_what_the_supernet_does(kind, request):
    data = request.getfixturevalue(kind)
    supernet = Supernet(SPACE, data, settings=SETTINGS, seed=3)
    torch.manual_seed(0)
    for name, parameter in supernet.weights.named_parameters():
        if name.endswith((".scale", ".shift", ".bias")):
            torch.nn.init.normal_(parameter, 1, 0.2)
    height, width, channels = data.input_shape
    images = torch.randn(8, channels, height, width)
    rng = random.Random(0)
    chosen = [SPACE.extreme(data.input_shape, largest=largest) for largest in (True, False)]
    for architecture in chosen + [SPACE.sample(rng, data.input_shape) for _ in range(6)]:
        size = input_shape_at(architecture.resolution, data.input_shape)[:2]
        with torch.inference_mode():
            shared = supernet.weights(images, architecture)
            alone = supernet.weights.extract(architecture).train()(scale_to(images, size))
        torch.testing.assert_close(shared, alone, rtol=1e-4, atol=1e-5)


def test_smaller_architectures_train_a_part_of_the_largest(data):
    supernet = Supernet(SPACE, data, settings=SETTINGS)
    smallest = SPACE.extreme(data.input_shape, largest=False)
    supernet.weights(torch.randn(4, 1, 12, 12), smallest).sum().backward()
    gradient = supernet.weights.stages[0][0].depthwise.weight.grad
    outputs = supernet.weights.extract(smallest).blocks[0].depthwise.conv.weight.shape[0]
    assert gradient[:outputs, :, 2:5, 2:5].abs().min() > 0
    assert gradient[outputs:].abs().max() == 0
    assert gradient[:, :, :2].abs().max() == 0


def test_training_teaches_every_size(tmp_path):
    # So much data that what it learns does not hang on how the processor rounds.
    data = make_data(tmp_path, (12, 12, 1), count=600)
    settings = SupernetSettings(training=TrainingSettings(batch_size=32), random_per_step=1)
    supernet = Supernet(SPACE, data, settings=settings)
    sizes = [SPACE.extreme(data.input_shape, largest=largest) for largest in (True, False)]
    seen = []
    result = supernet.train(epochs=6, progress=seen.append)
    assert result.steps == 6 * (len(data.train_labels) // 32) == seen[-1].step
    assert [supernet.evaluate(architecture) > 0.8 for architecture in sizes] == [True, True]
    assert supernet.evaluate(sizes[0]) == supernet.evaluate(sizes[0])
    teacher = supernet.teacher()
    assert teacher.shape == (len(data.train_labels), 3)
    assert (teacher.argmax(1).numpy() == data.train_labels).mean() > 0.8

    # What is extracted can be trained on, and begins with what it was given.
    shared = supernet.evaluate(sizes[1])
    network = supernet.extract(sizes[1])
    images = prepare(data, data.validation_images, sizes[1].resolution)
    assert accuracy(network, images, data.validation_labels) == pytest.approx(shared, abs=0.1)
    trained = train(network, data, sizes[1].resolution, settings=settings.training, epochs=3, teacher=teacher)
    assert trained.test_accuracy > 0.8


def test_an_interrupted_training_ends_as_an_uninterrupted_one(data, tmp_path, monkeypatch):
    monkeypatch.setattr(supernet_module, "CHECKPOINT_SECONDS", 0.0)
    whole = Supernet(SPACE, data, settings=SETTINGS, seed=1)
    expected = whole.train(epochs=2)

    class InterruptedHereError(Exception):
        pass

    def interrupt(progress):
        if progress.step == 9:
            raise InterruptedHereError

    path = tmp_path / "supernet.safetensors"
    with pytest.raises(InterruptedHereError):
        Supernet(SPACE, data, settings=SETTINGS, seed=1).train(epochs=2, checkpoint=path, progress=interrupt)
    resumed = Supernet(SPACE, data, settings=SETTINGS, seed=1)
    steps = []
    result = resumed.train(epochs=2, checkpoint=path, progress=lambda progress: steps.append(progress.step))
    assert steps[0] == 9
    assert (result.steps, result.loss) == (expected.steps, expected.loss)
    for one, other in zip(whole.weights.parameters(), resumed.weights.parameters(), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(SearchError, match="other data or settings"):
        Supernet(SPACE, data, settings=SETTINGS, seed=2).train(epochs=2, checkpoint=path)


def test_a_time_limit_ends_the_training_and_none_is_refused(data):
    supernet = Supernet(SPACE, data, settings=SETTINGS)
    assert supernet.train(seconds=0.1).seconds >= 0.1
    with pytest.raises(SearchError, match="give epochs or seconds"):
        supernet.train()


def test_an_accuracy_is_remembered_until_the_weights_change(data, monkeypatch):
    supernet = Supernet(SPACE, data, settings=SETTINGS)
    asked = []
    measure = supernet._evaluate
    monkeypatch.setattr(supernet, "_evaluate", lambda *arguments: asked.append(arguments) or measure(*arguments))
    one, other = (SPACE.extreme(data.input_shape, largest=largest) for largest in (True, False))
    first = supernet.evaluate(one)
    assert supernet.evaluate_all([one, other, one])[0] == first
    assert [each[0] for each in asked] == [one, other]
    few = supernet.evaluate(one, images=4)
    assert len(asked) == 3
    assert few in (0, 0.25, 0.5, 0.75, 1)
    supernet.train(epochs=1)
    supernet.evaluate(one)
    assert len(asked) == 4


def test_calibration_images_are_not_the_first_class_alone(data):
    supernet = Supernet(SPACE, data, settings=SupernetSettings(calibration_images=30))
    assert len(set(data.train_labels[supernet._calibration].tolist())) == 3
