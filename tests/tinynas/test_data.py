import gzip
import importlib.util
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinynas import data as data_module
from tinynas.data import TEST_SUBJECTS, VALIDATION_SUBJECTS, load_data
from tinynas.errors import SearchError


def write_idx(path: Path, array: np.ndarray) -> None:
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes()))


@pytest.fixture
def fashion_folder(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for prefix, count in (("train", 120), ("t10k", 20)):
        write_idx(tmp_path / f"{prefix}-images-idx3-ubyte.gz", rng.integers(0, 256, (count, 28, 28), np.uint8))
        write_idx(tmp_path / f"{prefix}-labels-idx1-ubyte.gz", (np.arange(count) % 10).astype(np.uint8))
    monkeypatch.setattr(data_module, "FASHION_MNIST_FOLDER", tmp_path)
    return tmp_path


def test_fashion_mnist_is_split_evenly_and_always_alike(fashion_folder):
    data, again = load_data("fashion-mnist"), load_data("fashion-mnist")
    assert data.input_shape == (28, 28, 1)
    assert len(data.classes) == 10
    assert data.train_images.shape == (110, 28, 28, 1)
    assert data.train_images.dtype == np.uint8
    assert np.bincount(data.validation_labels).tolist() == [1] * 10
    assert len(data.test_labels) == 20
    assert data.fingerprint == again.fingerprint
    assert data.flips
    # Nothing of the validation set is left in the training set.
    training = {image.tobytes() for image in data.train_images}
    assert not training & {image.tobytes() for image in data.validation_images}


def test_normalized_training_images_have_mean_0_and_deviation_1(fashion_folder):
    data = load_data("fashion-mnist")
    normalized = data.normalize(data.train_images)
    assert normalized.dtype == np.float32
    assert normalized.mean() == pytest.approx(0, abs=1e-4)
    assert normalized.std() == pytest.approx(1, abs=1e-4)


def test_limit_keeps_so_many_of_each_set_and_changes_the_fingerprint(fashion_folder):
    data = load_data("fashion-mnist", limit=7)
    assert [len(data.train_labels), len(data.validation_labels), len(data.test_labels)] == [7, 7, 7]
    assert data.fingerprint != load_data("fashion-mnist").fingerprint
    with pytest.raises(SearchError, match="leaves no data"):
        load_data("fashion-mnist", limit=0)


@pytest.mark.parametrize(
    "content", [b"", b"not gzip", gzip.compress(b"\0\0\x08\x03\0\0", mtime=0), gzip.compress(b"abcd", mtime=0)]
)
def test_damaged_fashion_mnist_names_the_file(fashion_folder, content):
    (fashion_folder / "train-images-idx3-ubyte.gz").write_bytes(content)
    with pytest.raises(SearchError, match=r"train-images-idx3-ubyte\.gz.*reinstall"):
        load_data("fashion-mnist")


def test_truncated_fashion_mnist_names_the_file(fashion_folder):
    path = fashion_folder / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(SearchError, match="t10k-images"):
        load_data("fashion-mnist")


def test_real_fashion_mnist():
    if not data_module.FASHION_MNIST_FOLDER.is_dir():
        pytest.skip("the Debian package dataset-fashion-mnist is not installed")
    data = load_data("fashion-mnist")
    assert (len(data.train_labels), len(data.validation_labels), len(data.test_labels)) == (55_000, 5_000, 10_000)
    assert np.bincount(data.test_labels).tolist() == [1000] * 10


def test_smartwatch_windows_are_split_by_subject():
    if importlib.util.find_spec("seglearn") is None:
        pytest.skip("seglearn is not installed")
    data = load_data("smartwatch")
    assert data.input_shape == (100, 1, 6)
    assert data.is_window
    assert not data.flips
    assert len(data.classes) == 7
    assert data.train_images.dtype == np.float32
    assert len(data.mean) == len(data.std) == 6
    assert not set(VALIDATION_SUBJECTS) & set(TEST_SUBJECTS)
    for labels in (data.train_labels, data.validation_labels, data.test_labels):
        assert np.bincount(labels, minlength=7).min() > 50


def test_smartwatch_without_seglearn_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SearchError, match="pip install seglearn"):
        load_data("smartwatch")


def test_unknown_name_lists_the_names():
    with pytest.raises(SearchError, match="fashion-mnist, smartwatch"):
        load_data("fashion-minst")


def make_folder(root: Path, classes: dict[str, int], size=(12, 8), mode="RGB") -> None:
    rng = np.random.default_rng(0)
    for name, count in classes.items():
        (root / name).mkdir(parents=True)
        for index in range(count):
            shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
            Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(root / name / f"{index}.png")


def test_folder_of_images(tmp_path):
    make_folder(tmp_path / "pets", {"cat": 20, "dog": 30})
    Image.new("RGB", (300, 200)).save(tmp_path / "pets" / "cat" / "odd.png")
    data = load_data(str(tmp_path / "pets"))
    assert data.name == "pets"
    assert data.classes == ("cat", "dog")
    assert data.input_shape == (8, 12, 3)
    counts = [np.bincount(labels).tolist() for labels in (data.train_labels, data.validation_labels, data.test_labels)]
    assert np.sum(counts, axis=0).tolist() == [21, 30]
    assert min(min(count) for count in counts) >= 1


def test_folder_that_is_already_split_keeps_its_split_and_grey_stays_grey(tmp_path):
    make_folder(tmp_path / "train", {"a": 12, "b": 12}, mode="L")
    make_folder(tmp_path / "test", {"a": 3, "b": 4}, mode="L")
    data = load_data(str(tmp_path))
    assert data.input_shape == (8, 12, 1)
    assert np.bincount(data.test_labels).tolist() == [3, 4]


def test_large_images_are_scaled_down(tmp_path):
    make_folder(tmp_path, {"a": 4, "b": 4}, size=(200, 100))
    assert load_data(str(tmp_path)).input_shape == (48, 96, 3)


def test_folder_errors(tmp_path):
    with pytest.raises(SearchError, match="0 subfolders"):
        load_data(str(tmp_path))
    make_folder(tmp_path, {"a": 3, "b": 3})
    (tmp_path / "empty").mkdir()
    with pytest.raises(SearchError, match="empty holds no image"):
        load_data(str(tmp_path))
    (tmp_path / "empty" / "x.png").write_bytes((tmp_path / "a" / "0.png").read_bytes()[:80])
    with pytest.raises(SearchError, match=r"x\.png cannot be read"):
        load_data(str(tmp_path))


def test_npz_with_and_without_a_test_set(tmp_path):
    rng = np.random.default_rng(0)
    images, labels = rng.random((60, 10, 10), np.float32), np.array(["no", "yes", "no"] * 20)
    np.savez(tmp_path / "one.npz", x=images, y=labels)
    data = load_data(str(tmp_path / "one.npz"))
    assert data.input_shape == (10, 10, 1)
    assert data.classes == ("no", "yes")
    assert len(data.train_labels) + len(data.validation_labels) + len(data.test_labels) == 60

    windows = rng.random((30, 20, 1, 3))
    targets = np.arange(30) % 3
    np.savez(
        tmp_path / "two.npz", x_train=windows, y_train=targets, x_test=windows, y_test=targets, classes=["p", "q", "r"]
    )
    data = load_data(str(tmp_path / "two.npz"))
    assert data.input_shape == (20, 1, 3)
    assert data.is_window
    assert data.classes == ("p", "q", "r")
    assert data.test_labels.tolist() == targets.tolist()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": np.zeros(3)}, "it needs x and y"),
        ({"x": np.zeros((4, 5)), "y": np.zeros(4, int)}, "are no images"),
        ({"x": np.zeros((4, 5, 5)), "y": np.zeros(3, int)}, "do not go with 4 images"),
        ({"x": np.zeros((9, 5, 5)), "y": np.arange(9) % 3, "classes": np.array(["a", "b"])}, "the label 2 is not one"),
        ({"x": np.full((40, 5, 5), np.nan), "y": np.arange(40) % 2}, "not finite"),
        ({"x": np.zeros((40, 5, 5)), "y": np.zeros(40, int)}, "has 1 class"),
        ({"x": np.array([{}]), "y": np.zeros(1, int)}, "plain arrays"),
    ],
)
def test_npz_errors(tmp_path, arrays, message):
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(SearchError, match=message):
        load_data(str(tmp_path / "bad.npz"))


def test_damaged_npz(tmp_path):
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(SearchError, match=r"cannot be read as an \.npz"):
        load_data(str(tmp_path / "bad.npz"))
