"""Every C kernel against LiteRT's reference kernels, bit for bit, with address and undefined behaviour sanitizers."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from export.graph import Activation, DType, Graph, Operator, OpKind, Quantization, Tensor, Window, same_padding
from tests.oracles.litert import run_reference
from tests.oracles.tflite_writer import write_tflite

ROOT = Path(__file__).resolve().parents[2]
KERNELS = sorted((ROOT / "firmware" / "kernels").glob("tn_*.c"))

Array = npt.NDArray[Any]
Case = tuple[Graph, list[Array]]
ACTIVATIONS = list(Activation)


@pytest.fixture(scope="module")
def sanitized_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler on this machine")
    library = tmp_path_factory.mktemp("kernels") / "kernels.so"
    flags = ["-std=c99", "-O2", "-g", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    subprocess.run([compiler, *flags, *sanitizers, *map(str, KERNELS), "-o", str(library)], check=True)
    return library


def run_on_c(library: Path, cases: list[Case], folder: Path) -> list[dict[str, Array]]:
    """Run the cases in a process that has the address sanitizer's run-time."""
    run_time = subprocess.run(["cc", "-print-file-name=libasan.so"], check=True, capture_output=True, text=True)
    cases_path, results_path = folder / "cases", folder / "results"
    cases_path.write_bytes(pickle.dumps(cases))
    environment = {
        **os.environ,
        "LD_PRELOAD": run_time.stdout.strip(),
        "ASAN_OPTIONS": "detect_leaks=0",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "tests.oracles.c_kernels", str(library), str(cases_path), str(results_path)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    results: list[dict[str, Array]] = pickle.loads(results_path.read_bytes())
    return results


def check(library: Path, cases: list[Case], folder: Path) -> None:
    results = run_on_c(library, cases, folder)
    for (graph, inputs), result in zip(cases, results, strict=True):
        (expected,) = run_reference(write_tflite(graph), inputs)
        for layout, actual in result.items():
            different = int(np.sum(expected != actual))
            assert different == 0, (
                f"{different} of {expected.size} outputs differ, memory {layout}: {graph.operators[0]}, "
                f"{[(t.shape, t.quantization) for t in graph.tensors]}"
            )


# --- random pieces ---------------------------------------------------------------------------------------------------


def scale(rng: np.random.Generator, low: float = 0.002, high: float = 0.2) -> float:
    return float(np.float32(np.exp(rng.uniform(np.log(low), np.log(high)))))


def zero_point(rng: np.random.Generator) -> int:
    return int(rng.choice([-128, 127, 0, int(rng.integers(-128, 128))]))


def activation_tensor(
    name: str, shape: tuple[int, ...], rng: np.random.Generator, quantization: Quantization | None = None
) -> Tensor:
    return Tensor(name, shape, quantization=quantization or Quantization((scale(rng),), (zero_point(rng),)))


def int8_values(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Mostly uniform; sometimes only the extremes, which make the largest sums."""
    if rng.random() < 0.25:
        return rng.choice(np.array([-128, 127], np.int8), shape)
    return rng.integers(-128, 128, shape, dtype=np.int8)


def window(rng: np.random.Generator, size: tuple[int, int], dilated: bool) -> tuple[Window, tuple[int, int]]:
    """A window, SAME or VALID, and the output's size. SAME kernels may be larger than the input."""
    kernel = tuple(int(k) for k in rng.choice([1, 2, 3, 4, 5, 7], 2))
    stride = tuple(int(s) for s in rng.choice([1, 1, 2, 3], 2))
    dilation = tuple(int(d) for d in rng.choice([1, 2, 3], 2)) if dilated and rng.random() < 0.3 else (1, 1)
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    if rng.random() < 0.4 and all(r <= s for r, s in zip(reach, size, strict=True)):
        output = tuple((s - r) // t + 1 for s, r, t in zip(size, reach, stride, strict=True))
        return Window(kernel, stride, dilation), output
    (rows, top), (columns, left) = (same_padding(*axis) for axis in zip(size, kernel, stride, dilation, strict=True))
    return Window(kernel, stride, dilation, (top, left)), (rows, columns)


def weight_tensors(
    rng: np.random.Generator, shape: tuple[int, ...], axis: int, source: Tensor, target_spread: float
) -> tuple[list[Tensor], float]:
    """Weights, perhaps a bias, and an output scale for which outputs spread by about ``target_spread``."""
    channels = shape[axis]
    per_channel = channels if rng.random() < 0.7 else 1
    scales = tuple(scale(rng, 0.001, 0.02) for _ in range(per_channel))
    data = rng.integers(-127, 128, shape, dtype=np.int8)
    weights = Tensor("weights", shape, DType.INT8, Quantization(scales, (0,) * per_channel, axis), True, data)
    assert source.quantization is not None
    sums = 60.0 * 70.0 * np.sqrt(data.size / channels)
    tensors = [weights]
    if (axis == 0 and len(shape) == 4) or rng.random() < 0.8:  # LiteRT's int8 CONV_2D insists on a bias
        bias = rng.normal(0, sums, channels).astype(np.int32)
        accumulator = tuple(source.quantization.scale * s for s in scales)
        quantization = Quantization(accumulator, (0,) * per_channel)
        tensors.append(Tensor("bias", (channels,), DType.INT32, quantization, True, bias))
    return tensors, float(np.float32(sums * source.quantization.scale * np.mean(scales) / target_spread))


def single(kind: OpKind, sources: list[Tensor], constants: list[Tensor], target: Tensor, **attributes: Any) -> Graph:
    tensors = (*sources, *constants, target)
    last = len(tensors) - 1
    operator = Operator(kind, "layer", tuple(range(last)), (last,), **attributes)
    return Graph("single", tensors, (operator,), tuple(range(len(sources))), (last,))


def pick(rng: np.random.Generator, options: list[Any]) -> Any:
    return options[int(rng.integers(len(options)))]


def spread(rng: np.random.Generator) -> float:
    """Usual spreads, and some for which most outputs saturate or whose multiplier exceeds 1."""
    return float(pick(rng, [30.0, 60.0, 60.0, 400.0, 1e5, 1e7]))


# --- one generator per operator --------------------------------------------------------------------------------------


def conv(rng: np.random.Generator) -> Case:
    groups = int(pick(rng, [1, 1, 1, 2, 3]))
    size = (int(rng.integers(1, 10)), int(rng.integers(1, 10)))
    channels_in, channels_out = groups * int(rng.integers(1, 9)), groups * int(rng.integers(1, 7))
    shape, output = window(rng, size, dilated=True)
    return _conv_case(rng, groups, size, channels_in, channels_out, shape, output)


def pointwise(rng: np.random.Generator) -> Case:
    size = (int(rng.integers(1, 6)), int(rng.integers(1, 6)))
    return _conv_case(rng, 1, size, int(rng.integers(1, 40)), int(rng.integers(1, 12)), Window(), size)


def _conv_case(
    rng: np.random.Generator,
    groups: int,
    size: tuple[int, int],
    channels_in: int,
    channels_out: int,
    shape: Window,
    output: tuple[int, int],
) -> Case:
    source = activation_tensor("input", (1, *size, channels_in), rng)
    constants, out_scale = weight_tensors(
        rng, (channels_out, *shape.kernel, channels_in // groups), 0, source, spread(rng)
    )
    target = activation_tensor(
        "output", (1, *output, channels_out), rng, Quantization((out_scale,), (zero_point(rng),))
    )
    graph = single(
        OpKind.CONV_2D, [source], constants, target, activation=pick(rng, ACTIVATIONS), window=shape, groups=groups
    )
    return graph, [int8_values(rng, source.shape)]


def depthwise(rng: np.random.Generator) -> Case:
    size = (int(rng.integers(1, 14)), int(rng.integers(1, 14)))
    channels, multiplier = int(rng.integers(1, 9)), int(pick(rng, [1, 1, 2, 3]))
    shape, output = window(rng, size, dilated=True)
    if shape.dilation != (1, 1):  # LiteRT requires equal strides of 1 with dilation in some versions: keep to those
        shape, output = _dilated_stride_one(rng, size)
    source = activation_tensor("input", (1, *size, channels), rng)
    constants, out_scale = weight_tensors(rng, (1, *shape.kernel, channels * multiplier), 3, source, spread(rng))
    target = activation_tensor(
        "output", (1, *output, channels * multiplier), rng, Quantization((out_scale,), (zero_point(rng),))
    )
    graph = single(
        OpKind.DEPTHWISE_CONV_2D, [source], constants, target, activation=pick(rng, ACTIVATIONS), window=shape
    )
    return graph, [int8_values(rng, source.shape)]


def _dilated_stride_one(rng: np.random.Generator, size: tuple[int, int]) -> tuple[Window, tuple[int, int]]:
    kernel, dilation = (3, 3), (int(rng.integers(1, 4)), int(rng.integers(1, 4)))
    (rows, top), (columns, left) = (same_padding(*axis) for axis in zip(size, kernel, (1, 1), dilation, strict=True))
    return Window(kernel, (1, 1), dilation, (top, left)), (rows, columns)


def fully_connected(rng: np.random.Generator) -> Case:
    batches, depth, outputs = int(pick(rng, [1, 1, 3])), int(rng.integers(1, 200)), int(rng.integers(1, 20))
    source = activation_tensor("input", (batches, depth), rng)
    constants, out_scale = weight_tensors(rng, (outputs, depth), 0, source, spread(rng))
    target = activation_tensor("output", (batches, outputs), rng, Quantization((out_scale,), (zero_point(rng),)))
    graph = single(OpKind.FULLY_CONNECTED, [source], constants, target, activation=pick(rng, ACTIVATIONS))
    return graph, [int8_values(rng, source.shape)]


def fully_connected_ties(rng: np.random.Generator) -> Case:
    """Scales whose quotient is a simple fraction, and every sum around zero: halves that only a double makes."""
    sums = np.arange(-600, 600, dtype=np.int32)
    input_scale, weight_scale, output_scale = (
        float(pick(rng, [0.125, 0.25, 0.375, 0.09375, 0.6875])) for _ in range(3)
    )
    source = activation_tensor("input", (1, 1), rng, Quantization((input_scale,), (zero_point(rng),)))
    weights = Tensor(
        "weights",
        (sums.size, 1),
        quantization=Quantization((weight_scale,), (0,)),
        is_constant=True,
        data=np.zeros((sums.size, 1), np.int8),
    )
    bias_quantization = Quantization((input_scale * weight_scale,), (0,))
    bias = Tensor("bias", (sums.size,), DType.INT32, bias_quantization, True, sums)
    target = activation_tensor("output", (1, sums.size), rng, Quantization((output_scale,), (zero_point(rng),)))
    return single(OpKind.FULLY_CONNECTED, [source], [weights, bias], target), [int8_values(rng, source.shape)]


def add(rng: np.random.Generator) -> Case:
    shape = (1, int(rng.integers(1, 6)), int(rng.integers(1, 6)), int(rng.integers(1, 40)))
    sources = [activation_tensor(name, shape, rng) for name in ("a", "b")]
    graph = single(OpKind.ADD, sources, [], activation_tensor("output", shape, rng), activation=pick(rng, ACTIVATIONS))
    return graph, [int8_values(rng, shape), int8_values(rng, shape)]


def average_pool(rng: np.random.Generator) -> Case:
    return _pool(rng, OpKind.AVERAGE_POOL_2D)


def global_pool(rng: np.random.Generator) -> Case:
    size, channels = (int(rng.integers(1, 12)), int(rng.integers(1, 12))), int(rng.integers(1, 14))
    source = activation_tensor("input", (1, *size, channels), rng)
    target = activation_tensor("output", (1, 1, 1, channels), rng, source.quantization)
    whole = Window(size, tuple(int(s) for s in rng.choice([1, 2], 2)))
    graph = single(OpKind.AVERAGE_POOL_2D, [source], [], target, activation=pick(rng, ACTIVATIONS), window=whole)
    return graph, [int8_values(rng, source.shape)]


def max_pool(rng: np.random.Generator) -> Case:
    return _pool(rng, OpKind.MAX_POOL_2D)


def _pool(rng: np.random.Generator, kind: OpKind) -> Case:
    size = (int(rng.integers(1, 12)), int(rng.integers(1, 12)))
    shape, output = window(rng, size, dilated=False)
    channels = int(rng.integers(1, 9))
    source = activation_tensor("input", (1, *size, channels), rng)
    target = activation_tensor("output", (1, *output, channels), rng, source.quantization)
    graph = single(kind, [source], [], target, activation=pick(rng, ACTIVATIONS), window=shape)
    return graph, [int8_values(rng, source.shape)]


def mean(rng: np.random.Generator) -> Case:
    shape: tuple[int, ...] = (1, *(int(size) for size in rng.integers(1, 12, 3)))
    axes: tuple[int, ...] = pick(rng, [(1, 2), (1, 2), (1,), (2,), (3,), (2, 3)])
    if rng.random() < 0.3:
        shape, axes = shape[:3], (1,)
    source = activation_tensor("input", shape, rng)
    keep = rng.random() < 0.5
    reduced = tuple(1 if i in axes else n for i, n in enumerate(shape) if keep or i not in axes)
    quantization = source.quantization if rng.random() < 0.3 else None
    graph = single(OpKind.MEAN, [source], [], activation_tensor("output", reduced, rng, quantization), axes=axes)
    return graph, [int8_values(rng, shape)]


def pad(rng: np.random.Generator) -> Case:
    shape = (1, *(int(size) for size in rng.integers(1, 6, 3)))
    deepest = 3 if rng.random() < 0.3 else 1
    amounts = [(0, 0), *((int(a), int(b)) for a, b in rng.integers(0, [[4], [4], [deepest]], (3, 2)))]
    target_shape = tuple(n + before + after for n, (before, after) in zip(shape, amounts, strict=True))
    source = activation_tensor("input", shape, rng)
    target = activation_tensor("output", target_shape, rng, source.quantization)
    return single(OpKind.PAD, [source], [], target, pads=tuple(amounts)), [int8_values(rng, shape)]


def softmax(rng: np.random.Generator) -> Case:
    shape = (int(pick(rng, [1, 1, 4])), int(rng.integers(1, 30)))
    quantization = Quantization((scale(rng, 1e-4, 2.0),), (zero_point(rng),))
    source = activation_tensor("input", shape, rng, quantization)
    target = activation_tensor("output", shape, rng, Quantization((1 / 256,), (-128,)))
    beta = float(pick(rng, [1.0, 1.0, 0.1, 2.5]))
    return single(OpKind.SOFTMAX, [source], [], target, beta=beta), [int8_values(rng, shape)]


def concatenation(rng: np.random.Generator) -> Case:
    axis, count = int(rng.integers(1, 4)), int(rng.integers(2, 5))
    base = [1, *(int(size) for size in rng.integers(1, 6, 3))]
    quantization = Quantization((scale(rng),), (zero_point(rng),))
    shapes = [tuple(int(rng.integers(1, 6)) if i == axis else n for i, n in enumerate(base)) for _ in range(count)]
    sources = [activation_tensor(f"part{i}", shape, rng, quantization) for i, shape in enumerate(shapes)]
    total = sum(shape[axis] for shape in shapes)
    target_shape = tuple(total if i == axis else n for i, n in enumerate(base))
    target = activation_tensor("output", target_shape, rng, quantization)
    graph = single(OpKind.CONCATENATION, sources, [], target, axes=(axis,))
    return graph, [int8_values(rng, shape) for shape in shapes]


def requantize(rng: np.random.Generator) -> Case:
    return _elementwise(rng, OpKind.QUANTIZE)


def relu(rng: np.random.Generator) -> Case:
    return _elementwise(rng, OpKind.RELU)


def relu6(rng: np.random.Generator) -> Case:
    return _elementwise(rng, OpKind.RELU6)


TELLING_SCALES = [(1.09375, 1 / 3), (0.9375, 0.14), (1 / 9, 0.4 / 9), (5.75, 1.2666667), (1.5, 6 / 11)]
"""Their quotient in single precision (which RELU takes) gives other outputs than that in double (QUANTIZE)."""


def _elementwise(rng: np.random.Generator, kind: OpKind) -> Case:
    shape = (1, 256)
    source = activation_tensor("input", shape, rng)
    quantization = source.quantization if rng.random() < 0.2 else None
    if rng.random() < 0.4:
        first, second = (float(np.float32(value)) for value in pick(rng, TELLING_SCALES))
        source = activation_tensor("input", shape, rng, Quantization((first,), (-128,)))
        quantization = Quantization((second,), (-128,))
    graph = single(kind, [source], [], activation_tensor("output", shape, rng, quantization))
    return graph, [np.arange(-128, 128).astype(np.int8).reshape(shape)]


def quantize_float(rng: np.random.Generator) -> Case:
    shape = (1, 200)
    target = activation_tensor("output", shape, rng)
    assert target.quantization is not None
    step = np.float32(target.quantization.scale)
    values = rng.uniform(-200, 200, shape).astype(np.float32) * step
    halves = (rng.integers(-140, 140, shape) + 0.5).astype(np.float32) * step
    values = np.where(rng.random(shape) < 0.5, values, halves).astype(np.float32)
    values[0, :4] = [0.0, -0.0, 1e6, -1e6]
    return single(OpKind.QUANTIZE, [Tensor("input", shape, DType.FLOAT32)], [], target), [values]


def dequantize(rng: np.random.Generator) -> Case:
    shape = (1, 256)
    target = Tensor("output", shape, DType.FLOAT32)
    graph = single(OpKind.DEQUANTIZE, [activation_tensor("input", shape, rng)], [], target)
    return graph, [np.arange(-128, 128).astype(np.int8).reshape(shape)]


GENERATORS: list[tuple[Callable[[np.random.Generator], Case], int]] = [
    (conv, 120),
    (pointwise, 60),
    (depthwise, 150),
    (fully_connected, 80),
    (fully_connected_ties, 40),
    (add, 60),
    (average_pool, 60),
    (global_pool, 60),
    (max_pool, 60),
    (mean, 100),
    (pad, 40),
    (softmax, 80),
    (concatenation, 30),
    (requantize, 40),
    (relu, 40),
    (relu6, 40),
    (quantize_float, 20),
    (dequantize, 10),
]


@pytest.mark.parametrize(("generate", "count"), GENERATORS, ids=lambda value: getattr(value, "__name__", ""))
def test_kernel_equals_reference(
    generate: Callable[[np.random.Generator], Case], count: int, sanitized_library: Path, tmp_path: Path
) -> None:
    cases = [generate(np.random.default_rng(seed)) for seed in range(count)]
    check(sanitized_library, cases, tmp_path)
