"""Small graphs of one layer each, one per kernel or of random sizes, for the scripts that measure kernels."""

from __future__ import annotations

import random
from typing import Any

from export.graph import Activation, DType, Graph, Operator, OpKind, Quantization, Tensor, Window, same_padding

Constants = tuple[tuple[tuple[int, ...], DType], ...]

_ACTIVATIONS = (Activation.RELU6, Activation.NONE)


def single_layer(
    kind: OpKind,
    shape: tuple[int, ...],
    output: tuple[int, ...],
    constants: Constants = (),
    types: tuple[str, str] = ("int8", "int8"),
    **attributes: Any,
) -> Graph:
    """The graph of one layer; ADD and CONCATENATION take two inputs of the same shape."""
    quantization = Quantization((0.5,), (0,))
    tensors = [Tensor("input", shape, DType(types[0]), quantization)]
    inputs = [0]
    if kind in (OpKind.ADD, OpKind.CONCATENATION):
        tensors.append(Tensor("second", shape, DType.INT8, quantization))
        inputs.append(1)
    for constant_shape, dtype in constants:
        inputs.append(len(tensors))
        tensors.append(Tensor("constant", constant_shape, dtype, is_constant=True))
    tensors.append(Tensor("output", output, DType(types[1])))
    operator = Operator(kind, "layer", tuple(inputs), (len(tensors) - 1,), **attributes)
    activations = tuple(index for index in inputs if not tensors[index].is_constant)
    return Graph("single", tuple(tensors), (operator,), activations, (len(tensors) - 1,))


def _weights(*shape: int, outputs: int) -> Constants:
    return ((shape, DType.INT8), ((outputs,), DType.INT32))


def single_layer_graphs(side: int = 4, channels: int = 4) -> list[Graph]:
    """One graph per kernel, the first a RESHAPE, on inputs of ``side`` × ``side`` × ``channels``."""
    image, wide = (1, side, side, channels), (1, side, side, 2 * channels)
    half, narrow = (1, side // 2, side // 2, channels), (1, 6, 6, channels)
    padded: dict[str, Any] = {"window": Window(kernel=(3, 3), padding=(1, 1)), "activation": Activation.RELU6}
    padded_by_two: dict[str, Any] = {"window": Window((5, 5), padding=(2, 2)), "activation": Activation.RELU6}
    strided: dict[str, Any] = {"window": Window((3, 3), (2, 2)), "activation": Activation.RELU6}
    pointwise: dict[str, Any] = {"window": Window(), "activation": Activation.RELU6}
    graphs = []

    def add(*arguments: Any, **attributes: Any) -> None:
        graphs.append(single_layer(*arguments, **attributes))

    elements = side * side * channels
    add(OpKind.RESHAPE, image, (1, elements))
    add(OpKind.CONV_2D, image, wide, _weights(2 * channels, 3, 3, channels, outputs=2 * channels), **padded)
    add(OpKind.CONV_2D, image, wide, _weights(2 * channels, 1, 1, channels, outputs=2 * channels), **pointwise)
    add(OpKind.DEPTHWISE_CONV_2D, image, image, _weights(1, 3, 3, channels, outputs=channels), **padded)
    add(OpKind.DEPTHWISE_CONV_2D, image, half, _weights(1, 3, 3, channels, outputs=channels), **strided)
    add(OpKind.DEPTHWISE_CONV_2D, image, image, _weights(1, 5, 5, channels, outputs=channels), **padded_by_two)
    add(OpKind.DEPTHWISE_CONV_2D, narrow, narrow, _weights(1, 3, 3, channels, outputs=channels), **padded)
    add(OpKind.FULLY_CONNECTED, (1, elements), (1, channels), _weights(channels, elements, outputs=channels))
    add(OpKind.ADD, image, image)
    add(OpKind.AVERAGE_POOL_2D, image, half, window=Window((2, 2), (2, 2)))
    add(OpKind.MAX_POOL_2D, image, half, window=Window((2, 2), (2, 2)))
    add(OpKind.AVERAGE_POOL_2D, image, (1, 1, 1, channels), window=Window((side, side), (side, side)))
    add(OpKind.MEAN, image, (1, channels), axes=(1, 2))
    add(OpKind.MEAN, image, (1, side, side), axes=(3,))
    add(OpKind.PAD, image, (1, side + 2, side + 2, channels), pads=((0, 0), (1, 1), (1, 1), (0, 0)))
    add(OpKind.SOFTMAX, (1, channels), (1, channels))
    add(OpKind.CONCATENATION, image, wide, axes=(3,))
    add(OpKind.RELU, image, image)
    add(OpKind.QUANTIZE, image, image, types=("float32", "int8"))
    add(OpKind.DEQUANTIZE, image, image, types=("int8", "float32"))
    return graphs


def random_layers(rng: random.Random) -> list[Graph]:
    """Layers of random sizes, of every kind that networks are made of: what tells the kernels' loops apart."""
    return [
        _conv(rng, (1, 1)),
        _conv(rng, (1, 1)),
        _conv(rng, (3, 3)),
        _conv(rng, (rng.choice((4, 5, 10)), rng.choice((2, 4, 5)))),
        _conv(rng, (rng.choice((3, 5, 9)), 1), columns=1),
        _conv(rng, (rng.choice((1, 3)),) * 2, groups=rng.choice((2, 4))),
        _depthwise(rng, (3, 3), columns=rng.randint(8, 30)),
        _depthwise(rng, (3, 3), columns=rng.randint(5, 7), stride=1),
        _depthwise(rng, (3, 3), columns=rng.randint(1, 4)),
        _depthwise(rng, (3, 3), columns=rng.randint(8, 30), stride=2),
        _depthwise(rng, rng.choice(((5, 5), (7, 7), (3, 5), (2, 4))), columns=rng.randint(7, 24)),
        _depthwise(rng, (rng.choice((3, 5, 9)), 1), columns=1),
        _depthwise(rng, (3, 3), columns=rng.randint(3, 12), multiplier=rng.choice((2, 3))),
        _fully_connected(rng),
        _fully_connected(rng),
        _pool(rng, OpKind.AVERAGE_POOL_2D),
        _pool(rng, OpKind.MAX_POOL_2D),
        *_others(rng),
    ]


def fallback_layers(rng: random.Random) -> list[Graph]:
    """Layers that no kernel of the DSP extension or of Helium takes, in random sizes: plain C runs them everywhere."""
    return [
        _conv(rng, (1, 1), outputs=1),
        _conv(rng, (1, 1), columns=1, outputs=1),
        _conv(rng, (3, 3), outputs=1),
        _conv(rng, (rng.choice((1, 3, 5)),) * 2, groups=rng.choice((2, 4))),
        _conv(rng, (3, 3), groups=2, outputs=2),
        _depthwise(rng, (rng.choice((3, 5)),) * 2, columns=rng.randint(3, 12), multiplier=rng.choice((2, 3))),
    ]


def scarce_layers(rng: random.Random) -> list[Graph]:
    """Layers that the search spaces' networks have few or none of, in random sizes, beyond those of `random_layers`."""
    others = [graph for graph in _others(rng) if graph.operators[0].kind in (OpKind.AVERAGE_POOL_2D, OpKind.PAD)]
    return [*others, _conv(rng, (1, 1), columns=1), _conv(rng, (1, 1), columns=rng.choice((3, 5, 7)))]


def _image(rng: random.Random, columns: int | None = None) -> tuple[int, int, int]:
    if columns is None:
        columns = rng.randint(2, 24)
    rows = rng.randint(3, 60) if columns == 1 else rng.randint(3, 16)
    return rows, columns, rng.choice((1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 40))


def _conv(
    rng: random.Random,
    kernel: tuple[int, int],
    *,
    columns: int | None = None,
    groups: int = 1,
    outputs: int | None = None,
) -> Graph:
    rows, columns, channels = _image(rng, columns)
    channels = max(1, channels // groups) * groups
    if outputs is None:
        outputs = max(1, rng.choice((1, 2, 3, 4, 6, 7, 8, 10, 12, 16, 24, 33, 48)) // groups) * groups
    strides = (rng.choice((1, 1, 2)),) * 2
    size, padding = _same((rows, columns), kernel, strides)
    return single_layer(
        OpKind.CONV_2D,
        (1, rows, columns, channels),
        (1, *size, outputs),
        _weights(outputs, *kernel, channels // groups, outputs=outputs),
        window=Window(kernel, strides, padding=padding),
        activation=rng.choice(_ACTIVATIONS),
        groups=groups,
    )


def _depthwise(
    rng: random.Random, kernel: tuple[int, int], *, columns: int, stride: int | None = None, multiplier: int = 1
) -> Graph:
    rows, columns, channels = _image(rng, columns)
    strides = (stride or rng.choice((1, 1, 2)),) * 2
    size, padding = _same((rows, columns), kernel, strides)
    outputs = channels * multiplier
    return single_layer(
        OpKind.DEPTHWISE_CONV_2D,
        (1, rows, columns, channels),
        (1, *size, outputs),
        _weights(1, *kernel, outputs, outputs=outputs),
        window=Window(kernel, strides, padding=padding),
        activation=rng.choice(_ACTIVATIONS),
    )


def _same(
    sizes: tuple[int, int], kernel: tuple[int, int], strides: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    (rows, above), (columns, left) = (
        same_padding(size, side, stride) for size, side, stride in zip(sizes, kernel, strides, strict=True)
    )
    return (rows, columns), (above, left)


def _fully_connected(rng: random.Random) -> Graph:
    inputs, outputs = rng.randint(4, 300), rng.randint(2, 60)
    return single_layer(OpKind.FULLY_CONNECTED, (1, inputs), (1, outputs), _weights(outputs, inputs, outputs=outputs))


def _pool(rng: random.Random, kind: OpKind) -> Graph:
    rows, columns, channels = _image(rng)
    side = rng.choice((2, 3))
    strides = (rng.choice((1, side)),) * 2
    size, padding = _same((rows, columns), (side, side), strides)
    window = Window((side, side), strides, padding=padding)
    return single_layer(kind, (1, rows, columns, channels), (1, *size, channels), window=window)


def _others(rng: random.Random) -> list[Graph]:
    """Layers whose output follows from the shape of their input."""
    rows, columns, channels = _image(rng)
    image = (1, rows, columns, channels)
    left, right = rng.randint(0, 2), rng.randint(0, 2)
    padded = (1, rows + 1, columns + left + right, channels)
    classes = rng.randint(2, 40)
    return [
        single_layer(OpKind.ADD, image, image),
        single_layer(OpKind.MEAN, image, (1, channels), axes=(1, 2)),
        single_layer(OpKind.MEAN, image, (1, rows, columns), axes=(3,)),
        single_layer(
            OpKind.AVERAGE_POOL_2D, image, (1, 1, 1, channels), window=Window((rows, columns), (rows, columns))
        ),
        single_layer(OpKind.PAD, image, padded, pads=((0, 0), (1, 0), (left, right), (0, 0))),
        single_layer(OpKind.SOFTMAX, (1, classes), (1, classes)),
        single_layer(OpKind.CONCATENATION, image, (1, rows, columns, 2 * channels), axes=(3,)),
        single_layer(OpKind.RELU, image, image),
        single_layer(OpKind.QUANTIZE, image, image, types=("float32", "int8")),
        single_layer(OpKind.DEQUANTIZE, image, image, types=("int8", "float32")),
    ]


def chain_of_relus(layers: int, side: int = 4, channels: int = 4) -> Graph:
    """So many layers of the same kernel, one after the other."""
    quantization = Quantization((0.5,), (0,))
    tensors = tuple(
        Tensor(f"value {i}", (1, side, side, channels), DType.INT8, quantization) for i in range(layers + 1)
    )
    operators = tuple(Operator(OpKind.RELU, f"layer {i}", (i,), (i + 1,)) for i in range(layers))
    return Graph("chain", tensors, operators, (0,), (layers,))
