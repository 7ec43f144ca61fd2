"""Small graphs of one layer each, one per kernel, for the scripts that measure kernels."""

from __future__ import annotations

from typing import Any

from export.graph import Activation, DType, Graph, Operator, OpKind, Quantization, Tensor, Window

Constants = tuple[tuple[tuple[int, ...], DType], ...]


def single_layer_graphs(side: int = 4, channels: int = 4) -> list[Graph]:
    """One graph per kernel, the first a RESHAPE, on inputs of ``side`` × ``side`` × ``channels``."""
    image, wide = (1, side, side, channels), (1, side, side, 2 * channels)
    half, narrow = (1, side // 2, side // 2, channels), (1, 6, 6, channels)
    padded: dict[str, Any] = {"window": Window(kernel=(3, 3), padding=(1, 1)), "activation": Activation.RELU6}
    padded_by_two: dict[str, Any] = {"window": Window((5, 5), padding=(2, 2)), "activation": Activation.RELU6}
    strided: dict[str, Any] = {"window": Window((3, 3), (2, 2)), "activation": Activation.RELU6}
    pointwise: dict[str, Any] = {"window": Window(), "activation": Activation.RELU6}
    quantization = Quantization((0.5,), (0,))
    graphs = []

    def add(
        kind: OpKind,
        shape: tuple[int, ...],
        output: tuple[int, ...],
        constants: Constants = (),
        types: tuple[str, str] = ("int8", "int8"),
        **attributes: Any,
    ) -> None:
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
        graphs.append(Graph("single", tuple(tensors), (operator,), activations, (len(tensors) - 1,)))

    def weights(*shape: int, outputs: int) -> Constants:
        return ((shape, DType.INT8), ((outputs,), DType.INT32))

    elements = side * side * channels
    add(OpKind.RESHAPE, image, (1, elements))
    add(OpKind.CONV_2D, image, wide, weights(2 * channels, 3, 3, channels, outputs=2 * channels), **padded)
    add(OpKind.CONV_2D, image, wide, weights(2 * channels, 1, 1, channels, outputs=2 * channels), **pointwise)
    add(OpKind.DEPTHWISE_CONV_2D, image, image, weights(1, 3, 3, channels, outputs=channels), **padded)
    add(OpKind.DEPTHWISE_CONV_2D, image, half, weights(1, 3, 3, channels, outputs=channels), **strided)
    add(OpKind.DEPTHWISE_CONV_2D, image, image, weights(1, 5, 5, channels, outputs=channels), **padded_by_two)
    add(OpKind.DEPTHWISE_CONV_2D, narrow, narrow, weights(1, 3, 3, channels, outputs=channels), **padded)
    add(OpKind.FULLY_CONNECTED, (1, elements), (1, channels), weights(channels, elements, outputs=channels))
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


def chain_of_relus(layers: int, side: int = 4, channels: int = 4) -> Graph:
    """So many layers of the same kernel, one after the other."""
    quantization = Quantization((0.5,), (0,))
    tensors = tuple(
        Tensor(f"value {i}", (1, side, side, channels), DType.INT8, quantization) for i in range(layers + 1)
    )
    operators = tuple(Operator(OpKind.RELU, f"layer {i}", (i,), (i + 1,)) for i in range(layers))
    return Graph("chain", tensors, operators, (0,), (layers,))
