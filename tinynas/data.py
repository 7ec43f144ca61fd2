"""Data sets: Fashion-MNIST, the smartwatch exercises, and the user's own image folder or ``.npz``.

Every loader returns the same value: a training, a validation and a test set of NHWC arrays. The validation set is cut
from the training set with a fixed seed and is all that a search may look at; the test set is for the final figure.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import math
import pickle
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from tinynas.errors import SearchError
from tinynas.space import InputShape

Array = npt.NDArray[np.generic]
Labels = npt.NDArray[np.int64]

SPLIT_SEED = 2020
VALIDATION_FRACTION = 1 / 12
"""Of the training set; 5,000 of Fashion-MNIST's 60,000 images."""
TEST_FRACTION = 0.15
"""Of a user's data when it comes without a test set."""
LARGEST_FOLDER_SIDE = 96
"""Images of a folder are scaled down to this longest side, that of MLPerf Tiny's person-detection task."""

FASHION_MNIST_FOLDER = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's dataset-fashion-mnist keeps its files."""
FASHION_MNIST_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

WINDOW_SAMPLES = 100
"""Two seconds of the smartwatch's 50 Hz."""
WINDOW_STEP_SAMPLES = 50
VALIDATION_SUBJECTS = (4, 7)
TEST_SUBJECTS = (2, 9)

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".webp", ".tif", ".tiff"})


@dataclass(frozen=True, slots=True, eq=False)
class DataSet:
    """Images (or sensor windows) with labels, split in three."""

    name: str
    input_shape: InputShape
    """Height, width and channels; a sensor window is (samples, 1, axes)."""
    classes: tuple[str, ...]
    train_images: Array
    """(N, H, W, C), uint8 or float32, not normalized."""
    train_labels: Labels
    validation_images: Array
    validation_labels: Labels
    test_images: Array
    test_labels: Labels
    mean: tuple[float, ...]
    """Of the training set, one per channel, in the images' own units (0 to 255 for uint8)."""
    std: tuple[float, ...]
    """Of the training set, one per channel. Networks are fed ``(image - mean) / std`` as float32."""
    flips: bool
    """Whether an image mirrored left to right is still one of its class, so that training may mirror it."""
    fingerprint: str
    """SHA-256 of every array and class name: the identity that a study records."""

    @property
    def is_window(self) -> bool:
        """Whether the inputs are sensor windows rather than images."""
        return self.input_shape[1] == 1

    def normalize(self, images: Array) -> npt.NDArray[np.float32]:
        """``images`` as a network takes them, still NHWC: float32, ``(image - mean) / std``."""
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        return np.asarray((images.astype(np.float32) - mean) / std, dtype=np.float32)


def some(count: int, wanted: int) -> npt.NDArray[np.int64]:
    """At most ``wanted`` of ``count`` places, ascending, always the same ones: the data may be sorted by class."""
    return np.sort(np.random.default_rng(0).permutation(count)[:wanted])


@dataclass(frozen=True, slots=True)
class _Split:
    """One set's images and labels."""

    images: Array
    labels: Labels


def data_names() -> tuple[str, ...]:
    """The data sets that are known by name."""
    return tuple(_SOURCES)


def load_data(name_or_path: str, *, limit: int | None = None) -> DataSet:
    """Read a data set by name, or from a folder with one subfolder of images per class, or from an ``.npz``.

    A folder may instead hold ``train``, ``test`` and optionally ``validation`` folders laid out that way. An ``.npz``
    holds ``x`` and ``y``, or ``x_train``, ``y_train``, ``x_test`` and ``y_test``, and optionally ``classes``; its
    images are (N, H, W) or (N, H, W, C), its sensor windows (N, samples, 1, axes).

    With ``limit``, each of the three sets keeps that many entries at most, drawn with a fixed seed. Raises SearchError
    when there is no such data set, or a file of it is missing or damaged.
    """
    if limit is not None and limit < 1:
        raise SearchError(f"the limit of {limit} leaves no data of '{name_or_path}'; give 1 or more")
    if name_or_path in _SOURCES:
        return _SOURCES[name_or_path](limit)
    path = Path(name_or_path)
    if path.is_dir():
        return _load_folder(path, limit)
    if path.suffix == ".npz" and path.is_file():
        return _load_npz(path, limit)
    raise SearchError(
        f"there is no data set '{name_or_path}'; choose from {', '.join(data_names())}, "
        "or give the path of an image folder or of an .npz file"
    )


def _load_fashion_mnist(limit: int | None) -> DataSet:
    if FASHION_MNIST_FOLDER.is_dir():
        train, test = _read_idx_pair("train"), _read_idx_pair("t10k")
    else:
        train, test = _fashion_mnist_from_keras()
    return _assemble("fashion-mnist", FASHION_MNIST_CLASSES, train, None, test, flips=True, limit=limit)


def _read_idx_pair(prefix: str) -> _Split:
    images = _read_idx(FASHION_MNIST_FOLDER / f"{prefix}-images-idx3-ubyte.gz")
    labels = _read_idx(FASHION_MNIST_FOLDER / f"{prefix}-labels-idx1-ubyte.gz")
    return _Split(images[..., np.newaxis], labels.astype(np.int64))


def _fashion_mnist_from_keras() -> tuple[_Split, _Split]:
    try:
        from tensorflow.keras.datasets import fashion_mnist

        (train_x, train_y), (test_x, test_y) = fashion_mnist.load_data()
    except Exception as error:  # a failed download is a bare Exception in keras
        raise SearchError(
            f"Fashion-MNIST is not on this machine (no {FASHION_MNIST_FOLDER}) and keras cannot fetch it ({error}); "
            "install it with 'apt-get install dataset-fashion-mnist'"
        ) from error
    train = _Split(train_x[..., np.newaxis], train_y.astype(np.int64))
    return train, _Split(test_x[..., np.newaxis], test_y.astype(np.int64))


def _read_idx(path: Path) -> npt.NDArray[np.uint8]:
    """A gzipped array of unsigned bytes in the format of the MNIST files."""
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise SearchError(f"{path} cannot be read ({error}); reinstall the package dataset-fashion-mnist") from error
    # Two zero bytes, the element type (8: unsigned byte), the rank, then each size as a big-endian 32-bit integer.
    header = 4 + 4 * content[3] if len(content) > 3 else 4
    if content[:3] == b"\x00\x00\x08" and len(content) >= header:
        sizes = [int(size) for size in np.frombuffer(content[4:header], ">u4")]
        if len(content) == header + math.prod(sizes):
            return np.frombuffer(content, np.uint8, offset=header).reshape(sizes)
    raise SearchError(f"{path} is not a complete idx file; reinstall the package dataset-fashion-mnist")


def _load_smartwatch(limit: int | None) -> DataSet:
    """Windows of two seconds, half overlapping, split by subject; Burns et al. 2018, https://arxiv.org/abs/1802.01489."""
    spec = importlib.util.find_spec("seglearn")
    if spec is None or spec.origin is None:
        raise SearchError("the smartwatch data comes with the package seglearn; install it with 'pip install seglearn'")
    path = Path(spec.origin).parent / "data" / "watch_dataset.npy"
    try:
        # The file is a pickle, of the package that was installed on purpose; no user's file is ever unpickled.
        content = np.load(path, allow_pickle=True).item()
        series, targets, subjects = content["X"], content["y"], content["subject"]
        classes = tuple(str(name) for name in content["y_labels"])
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, pickle.UnpicklingError) as error:
        raise SearchError(f"{path} cannot be read ({error}); reinstall the package seglearn") from error

    def windows_of(chosen: Callable[[int], bool]) -> _Split:
        images, labels = [], []
        for values, target, subject in zip(series, targets, subjects, strict=True):
            if chosen(int(subject)):
                starts = range(0, len(values) - WINDOW_SAMPLES + 1, WINDOW_STEP_SAMPLES)
                images += [values[start : start + WINDOW_SAMPLES, np.newaxis, :] for start in starts]
                labels += [target] * len(starts)
        return _Split(np.asarray(images, np.float32), np.asarray(labels, np.int64))

    train = windows_of(lambda subject: subject not in VALIDATION_SUBJECTS + TEST_SUBJECTS)
    validation = windows_of(lambda subject: subject in VALIDATION_SUBJECTS)
    test = windows_of(lambda subject: subject in TEST_SUBJECTS)
    return _assemble("smartwatch", classes, train, validation, test, flips=False, limit=limit)


_SOURCES: dict[str, Callable[[int | None], DataSet]] = {
    "fashion-mnist": _load_fashion_mnist,
    "smartwatch": _load_smartwatch,
}


def _load_folder(folder: Path, limit: int | None) -> DataSet:
    parts = {entry.name: entry for entry in sorted(folder.iterdir()) if entry.is_dir()}
    is_split = {"train", "test"} <= parts.keys() <= {"train", "validation", "test"}
    roots = list(parts.values()) if is_split else [folder]
    files = {root: _class_files(root) for root in roots}
    first_root = parts["train"] if is_split else folder
    classes = tuple(files[first_root])
    for root, found in files.items():
        if tuple(found) != classes:
            raise SearchError(
                f"{root} has the classes {', '.join(found)} and {first_root} has {', '.join(classes)}; "
                "give both the same subfolders"
            )
    size, mode = _common_size([path for found in files.values() for paths in found.values() for path in paths])

    def read(root: Path) -> _Split:
        labelled = [(path, label) for label, name in enumerate(classes) for path in files[root][name]]
        images = np.stack([_read_image(path, size, mode) for path, _ in labelled])
        return _Split(images, np.asarray([label for _, label in labelled], np.int64))

    if is_split:
        validation = read(parts["validation"]) if "validation" in parts else None
        train, test = read(parts["train"]), read(parts["test"])
    else:
        validation = None
        train, test = _cut(read(folder), TEST_FRACTION)
    return _assemble(folder.name, classes, train, validation, test, flips=False, limit=limit)


def _class_files(folder: Path) -> dict[str, list[Path]]:
    """Every image of every class folder, sorted."""
    found = {
        entry.name: sorted(path for path in entry.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
        for entry in sorted(folder.iterdir())
        if entry.is_dir()
    }
    if len(found) < 2:
        raise SearchError(f"{folder} has {len(found)} subfolders; an image folder needs one per class, at least 2")
    for name, paths in found.items():
        if not paths:
            raise SearchError(f"the class folder {folder / name} holds no image; add some or remove it")
    return found


def _common_size(paths: Sequence[Path]) -> tuple[tuple[int, int], str]:
    """The most frequent (width, height), scaled to the largest side allowed, and whether all images are grey."""
    sizes: Counter[tuple[int, int]] = Counter()
    is_grey = True
    for path in paths:
        with _open_image(path) as image:
            sizes[image.size] += 1
            is_grey = is_grey and image.mode in ("1", "L", "LA", "I;16")
    # The smaller size wins a tie, so the order of the files does not matter.
    (width, height), _ = min(sizes.items(), key=lambda item: (-item[1], item[0]))
    scale = min(1.0, LARGEST_FOLDER_SIDE / max(width, height))
    # A width of 1 means a sensor window everywhere else.
    return (max(2, round(width * scale)), max(2, round(height * scale))), "L" if is_grey else "RGB"


def _open_image(path: Path) -> Image.Image:
    try:
        return Image.open(path)
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise SearchError(f"the image {path} cannot be read ({error}); repair or remove it") from error


def _read_image(path: Path, size: tuple[int, int], mode: str) -> npt.NDArray[np.uint8]:
    with _open_image(path) as image:
        try:
            converted = image.convert(mode).resize(size, Image.Resampling.BILINEAR)
        except (OSError, ValueError, SyntaxError) as error:  # Pillow reports a damaged PNG as a SyntaxError
            raise SearchError(f"the image {path} cannot be read ({error}); repair or remove it") from error
    return np.asarray(converted, np.uint8).reshape(size[1], size[0], -1)


def _load_npz(path: Path, limit: int | None) -> DataSet:
    try:
        with np.load(path, allow_pickle=False) as archive:
            content = {name: archive[name] for name in archive.files}
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise SearchError(f"{path} cannot be read as an .npz of plain arrays ({error}); write it again") from error
    if {"x_train", "y_train", "x_test", "y_test"} <= content.keys():
        parts = {part: (content[f"x_{part}"], content[f"y_{part}"]) for part in ("train", "test")}
    elif {"x", "y"} <= content.keys():
        parts = {"": (content["x"], content["y"])}
    else:
        raise SearchError(
            f"{path} holds {', '.join(sorted(content)) or 'nothing'}; it needs x and y, "
            "or x_train, y_train, x_test and y_test"
        )
    classes = tuple(str(name) for name in np.ravel(content["classes"])) if "classes" in content else None
    if classes is None:
        values = np.unique(np.concatenate([np.ravel(labels) for _, labels in parts.values()])).tolist()
        classes = tuple(str(value) for value in values)
    elif all(labels.dtype.kind in "iu" for _, labels in parts.values()):
        values = list(range(len(classes)))
    else:
        values = list(classes)
    splits = [
        _Split(_check_images(path, images), _label_indices(path, images, labels, values))
        for images, labels in parts.values()
    ]
    train, test = splits if len(splits) == 2 else _cut(splits[0], TEST_FRACTION)
    return _assemble(path.stem, classes, train, None, test, flips=False, limit=limit)


def _check_images(path: Path, images: Array) -> Array:
    if images.ndim == 3:
        images = images[..., np.newaxis]
    if images.ndim != 4 or images.size == 0 or images.dtype.kind not in "uif":
        raise SearchError(
            f"{path}: images of shape {images.shape} and type {images.dtype} are no images; "
            "give numbers of shape (N, H, W), (N, H, W, C) or, for sensor windows, (N, samples, 1, axes)"
        )
    return images if images.dtype == np.uint8 else images.astype(np.float32)


def _label_indices(path: Path, images: Array, labels: Array, values: list[int] | list[str]) -> Labels:
    """The place in ``values`` of each label."""
    if labels.shape not in ((len(images),), (len(images), 1)) or labels.dtype.kind not in "iuU":
        raise SearchError(
            f"{path}: labels of shape {labels.shape} and type {labels.dtype} do not go with {len(images)} images; "
            "give one integer or name for each"
        )
    indices = {value: index for index, value in enumerate(values)}
    given = labels.reshape(-1).tolist()
    unknown = sorted(set(given) - indices.keys())
    if unknown:
        raise SearchError(f"{path}: the label {unknown[0]} is not one of its {len(values)} classes; name every class")
    return np.asarray([indices[label] for label in given], np.int64)


def _assemble(
    name: str,
    classes: tuple[str, ...],
    train: _Split,
    validation: _Split | None,
    test: _Split,
    *,
    flips: bool,
    limit: int | None,
) -> DataSet:
    """The common end of every loader: checks, the validation split, normalization and fingerprint."""
    if len(classes) < 2:
        raise SearchError(f"the data set '{name}' has {len(classes)} class; a classifier needs 2 or more")
    if validation is None:
        train, validation = _cut(train, VALIDATION_FRACTION)
    splits = {"training": train, "validation": validation, "test": test}
    for what, split in splits.items():
        if len(split.images) == 0:
            raise SearchError(f"the {what} set of '{name}' is empty; give more images of each class")
        if len(split.images) != len(split.labels):
            raise SearchError(
                f"the {what} set of '{name}' has {len(split.images)} images and {len(split.labels)} labels"
                "; give one label for each image"
            )
        if split.images.shape[1:] != train.images.shape[1:] or split.images.dtype != train.images.dtype:
            raise SearchError(
                f"the {what} set of '{name}' has images of {split.images.shape[1:]} {split.images.dtype} and the "
                f"training set of {train.images.shape[1:]} {train.images.dtype}; give both the same shape and type"
            )
        if not np.isfinite(split.images).all():
            raise SearchError(f"the {what} set of '{name}' holds values that are not finite; remove them")
        if split.labels.min() < 0 or split.labels.max() >= len(classes):
            raise SearchError(f"the {what} set of '{name}' has labels outside 0 to {len(classes) - 1}; correct them")
    if limit is not None:
        train, validation, test = (_take(split, limit) for split in (train, validation, test))
    pixels = train.images.reshape(-1, train.images.shape[-1])
    mean, std = pixels.mean(axis=0, dtype=np.float64), pixels.std(axis=0, dtype=np.float64)
    digest = hashlib.sha256(repr((name, classes, flips)).encode())
    for split in (train, validation, test):
        for array in (split.images, split.labels):
            digest.update(f"{array.shape}{array.dtype}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    height, width, channels = train.images.shape[1:]
    return DataSet(
        name=name,
        input_shape=(height, width, channels),
        classes=classes,
        train_images=train.images,
        train_labels=train.labels,
        validation_images=validation.images,
        validation_labels=validation.labels,
        test_images=test.images,
        test_labels=test.labels,
        mean=tuple(float(value) for value in mean),
        # A channel that never changes carries nothing; it is centred and left at its scale.
        std=tuple(float(value) if value > 0 else 1.0 for value in std),
        flips=flips,
        fingerprint=digest.hexdigest(),
    )


def _cut(split: _Split, fraction: float) -> tuple[_Split, _Split]:
    """``split`` without a ``fraction`` of every class, and that fraction, chosen with the fixed seed.

    A class with two or more entries lends at least one and keeps at least one.
    """
    rng = np.random.default_rng(SPLIT_SEED)
    lent = np.zeros(len(split.labels), bool)
    for label in np.unique(split.labels):
        members = rng.permutation(np.flatnonzero(split.labels == label))
        count = min(max(1, round(len(members) * fraction)), len(members) - 1)
        lent[members[:count]] = True
    return _Split(split.images[~lent], split.labels[~lent]), _Split(split.images[lent], split.labels[lent])


def _take(split: _Split, limit: int) -> _Split:
    chosen = np.sort(np.random.default_rng(SPLIT_SEED).permutation(len(split.labels))[:limit])
    return _Split(split.images[chosen], split.labels[chosen])
