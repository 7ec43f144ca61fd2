"""ONNX to TensorFlow, channels last, with the operators that TensorFlow Lite fuses best.

One rule decides the layout: an activation of rank 4 is held as NHWC, whatever else has ONNX's own order. A padded
convolution becomes SAME or VALID exactly when its amounts are what TensorFlow would use for that shape, because an
explicit PAD is one more tensor in SRAM; any other padding stays explicit, and correct.

The exporter's habits are undone where it costs nothing: a pad belongs to the convolution after it, a flattened map is
read by permuted weights instead of being transposed, and a global mean drops its dimensions by itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import numpy_helper

from export.errors import ModelFormatError, UnsupportedOperatorError
from export.graph import same_padding
from export.quiet import quiet

with quiet("loading TensorFlow"):
    import tensorflow as tf

Array = npt.NDArray[Any]
Pair = tuple[int, int]
Pads = tuple[Pair, Pair]
"""(before, after) of the height and of the width."""

_OLDEST_OPSET = 13
"""Softmax and the axes of Squeeze mean something else before it."""

_NHWC_FROM_NCHW = (0, 2, 3, 1)
_NCHW_FROM_NHWC = (0, 3, 1, 2)


@dataclass(frozen=True, slots=True, eq=False)
class Activation:
    """A computed tensor, and what it was made from where the next operator can do better with that."""

    tensor: Any
    """NHWC if of rank 4, else in ONNX's order."""
    unpadded: tuple[Any, Pads] | None = None
    """The NHWC tensor that zeros were added to, and how many."""
    flattened: Any | None = None
    """The NHWC tensor that this one holds in NCHW order, one row per batch element."""
    averaged: Any | None = None
    """The NHWC tensor whose global mean this is."""
    non_negative: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape in ONNX's order."""
        held = tuple(int(size) for size in self.tensor.shape)
        return tuple(held[axis] for axis in _NCHW_FROM_NHWC) if len(held) == 4 else held


Operand = Activation | Array | None


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """One ONNX operator with its operands looked up; a constant operand is an array, a missing one is None."""

    kind: str
    name: str
    operands: tuple[Operand, ...]
    attributes: Mapping[str, Any]

    def unsupported(self, found: str) -> UnsupportedOperatorError:
        return UnsupportedOperatorError(
            f"the ONNX operator {self.kind} '{self.name}' cannot be converted: {found}; supported: {support(self.kind)}"
        )

    def activation(self, index: int = 0) -> Activation:
        operand = self._operand(index)
        if not isinstance(operand, Activation):
            raise self.unsupported(f"input {index} is {'missing' if operand is None else 'a constant'}")
        return operand

    def image(self, index: int = 0) -> Activation:
        """An activation of rank 4."""
        activation = self.activation(index)
        if len(activation.shape) != 4:
            raise self.unsupported(f"input {index} has the shape {list(activation.shape)}, which is not [N, C, H, W]")
        return activation

    def constant(self, index: int) -> Array:
        operand = self.optional_constant(index)
        if operand is None:
            raise self.unsupported(f"input {index} is missing")
        return operand

    def optional_constant(self, index: int) -> Array | None:
        operand = self._operand(index)
        if isinstance(operand, Activation):
            raise self.unsupported(f"input {index} is computed by the network instead of constant")
        return operand

    def integers(self, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(int(value) for value in self.attributes.get(name, default))

    def integer_list(self, name: str, index: int) -> tuple[int, ...] | None:
        """A list that older opsets keep in the attribute ``name``, newer ones in the constant input ``index``."""
        if name in self.attributes:
            return self.integers(name, ())
        operand = self.optional_constant(index)
        return None if operand is None else tuple(int(value) for value in operand.ravel())

    def _operand(self, index: int) -> Operand:
        return self.operands[index] if index < len(self.operands) else None


def concrete_function(path: Path) -> Any:
    """The network of an ONNX file as a TensorFlow concrete function, float32 [1, H, W, C] to the network's own output.

    Raises ModelFormatError when the file is not a network of one float32 image input and one output, and
    UnsupportedOperatorError when there is no rule for one of its operators.
    """
    model = _load(path)
    graph = model.graph
    constants: dict[str, Array] = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    if len(inputs) != 1 or len(graph.output) != 1:
        raise ModelFormatError(
            f"'{path}' has {len(inputs)} inputs and {len(graph.output)} outputs; export a network with one of each"
        )
    (entry,), (exit_,) = inputs, graph.output
    shape = tuple(int(dimension.dim_value) for dimension in entry.type.tensor_type.shape.dim)
    if len(shape) != 4 or shape[0] != 1 or min(shape) < 1 or entry.type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
        raise ModelFormatError(
            f"the input '{entry.name}' of '{path}' has the shape {list(shape)}; export it as float32 [1, C, H, W]"
        )

    def network(image: Any) -> Any:
        values: dict[str, Operand] = {**constants, entry.name: Activation(image)}
        for number, proto in enumerate(graph.node):
            # The converter orders layers by name; these keep them in this order, whatever their number.
            with tf.name_scope(f"layer{number:05d}"):
                values[proto.output[0]] = _convert(proto, values)
        result = values[exit_.name]
        if not isinstance(result, Activation):
            raise ModelFormatError(f"the output of '{path}' does not depend on its input; there is nothing to convert")
        return tf.identity(result.tensor, name=exit_.name)

    signature = tf.TensorSpec([shape[axis] for axis in _NHWC_FROM_NCHW], tf.float32, name=entry.name)
    with quiet(f"converting '{path}' to TensorFlow"):
        # Without autograph, errors keep their type and the loop above runs as plain Python.
        return tf.function(network, input_signature=[signature], autograph=False).get_concrete_function()


def supported_operators() -> dict[str, str]:
    """What each ONNX operator may look like, by name: the table that errors and documentation are made from."""
    return {kind: support(kind) for kind in sorted(_RULES)}


def support(kind: str) -> str:
    """The sentence that says what is supported of one operator."""
    return " ".join((_RULES[kind].__doc__ or "").split()).rstrip(".")


def _load(path: Path) -> onnx.ModelProto:
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except (OSError, DecodeError, onnx.checker.ValidationError) as error:
        raise ModelFormatError(f"'{path}' is not a readable ONNX model: {error}; export it again") from error
    opsets = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    if min(opsets, default=0) < _OLDEST_OPSET:
        raise ModelFormatError(f"'{path}' uses the operator set {opsets}; export it with {_OLDEST_OPSET} or newer")
    return model


def _convert(proto: onnx.NodeProto, values: Mapping[str, Operand]) -> Operand:
    rule = _RULES.get(proto.op_type) if proto.domain in ("", "ai.onnx") else None
    if rule is None:
        raise UnsupportedOperatorError(
            f"the ONNX operator {proto.op_type} '{proto.name}' cannot be converted; "
            f"build the network from {', '.join(sorted(_RULES))}"
        )
    if any(proto.output[1:]):
        raise UnsupportedOperatorError(
            f"the ONNX operator {proto.op_type} '{proto.name}' cannot be converted: it has more than one output; "
            "remove what uses the others"
        )
    attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in proto.attribute}
    operands = tuple(values[name] if name else None for name in proto.input)
    return rule(Node(proto.op_type, proto.name or proto.output[0], operands, attributes))


def _convolution(node: Node) -> Activation:
    """Two-dimensional, with constant weights and bias; any stride, dilation, padding and number of groups."""
    image, weights, bias = node.image(), node.constant(1), node.optional_constant(2)
    outputs, _, height, width = weights.shape
    groups = int(node.attributes.get("group", 1))
    window = _Window.of(node, (height, width), image.shape[2:])
    tensor = image.tensor
    if image.unpadded is not None:
        tensor, inner = image.unpadded
        size = (int(tensor.shape[1]), int(tensor.shape[2]))
        window = replace(window, size=size, pads=_add_pads(window.pads, inner))
    tensor, padding = window.apply(tensor)
    kernel = weights.transpose(2, 3, 1, 0)
    # A single input channel is an ordinary convolution, and so is one group.
    if groups > 1 and groups == image.shape[1]:
        kernel = kernel.reshape(height, width, groups, outputs // groups)
        # The operator itself: tf.nn's wrapper refuses unequal strides and surrounds dilation with SPACE_TO_BATCH.
        result = tf.raw_ops.DepthwiseConv2dNative(
            input=tensor,
            filter=tf.constant(kernel),
            strides=[1, *window.stride, 1],
            padding=padding,
            dilations=[1, *window.dilation, 1],
        )
    else:
        result = tf.nn.conv2d(tensor, tf.constant(kernel), window.stride, padding, dilations=window.dilation)
    return Activation(result if bias is None else tf.nn.bias_add(result, tf.constant(bias)))


def _gemm(node: Node) -> Activation:
    """A fully connected layer: [N, K] times constant weights, plus a constant bias, without transposing the input."""
    if node.attributes.get("transA", 0):
        raise node.unsupported("transA is set")
    weights, bias = node.constant(1), node.optional_constant(2)
    if node.attributes.get("transB", 0):
        weights = weights.T
    result = _fully_connected(node, weights * np.float32(node.attributes.get("alpha", 1.0)))
    if bias is not None:
        scaled = bias * np.float32(node.attributes.get("beta", 1.0))
        result = tf.nn.bias_add(result, tf.constant(np.broadcast_to(scaled.ravel(), weights.shape[1:])))
    return Activation(result)


def _matmul(node: Node) -> Activation:
    """A fully connected layer: [N, K] times constant weights [K, M]."""
    return Activation(_fully_connected(node, node.constant(1)))


def _fully_connected(node: Node, weights: Array) -> Any:
    activation = node.activation()
    if len(activation.shape) != 2 or weights.ndim != 2:
        raise node.unsupported(f"it multiplies {list(activation.shape)} by {list(weights.shape)}")
    tensor = activation.tensor
    if activation.flattened is not None:
        _, height, width, channels = (int(size) for size in activation.flattened.shape)
        rows = weights.reshape(channels, height, width, -1).transpose(1, 2, 0, 3)
        weights = rows.reshape(weights.shape)
        tensor = tf.reshape(activation.flattened, activation.shape)
    return tf.matmul(tensor, tf.constant(weights))


def _add(node: Node) -> Activation:
    """Of two activations, or of an activation and a constant, broadcast as NumPy does."""
    first, second, non_negative = _broadcast(node)
    return Activation(tf.add(first, second), non_negative=non_negative)


def _multiply(node: Node) -> Activation:
    """Of two activations, or of an activation and a constant, broadcast as NumPy does."""
    first, second, non_negative = _broadcast(node)
    return Activation(tf.multiply(first, second), non_negative=non_negative)


def _broadcast(node: Node) -> tuple[Any, Any, bool]:
    operands = [operand for operand in node.operands if operand is not None]
    rank = max(len(operand.shape) for operand in operands)
    tensors, non_negative = [], True
    for operand in operands:
        shape = (1,) * (rank - len(operand.shape)) + operand.shape
        if isinstance(operand, Activation):
            tensors.append(_reshape(operand, shape).tensor)
            non_negative &= operand.non_negative
        else:
            # A scalar stays one: the converter folds it better.
            shaped = operand.reshape(shape) if operand.ndim else operand
            tensors.append(tf.constant(shaped.transpose(_NHWC_FROM_NCHW) if shaped.ndim == 4 else shaped))
            non_negative &= bool((operand >= 0).all())
    first, second = tensors
    return first, second, non_negative


def _batch_normalization(node: Node) -> Activation:
    """In inference form, on [N, C, H, W], with constant parameters."""
    image = node.image()
    scale, offset, mean, variance = (node.constant(index).astype(np.float64) for index in range(1, 5))
    factor = scale / np.sqrt(variance + float(node.attributes.get("epsilon", 1e-5)))
    scaled = tf.multiply(image.tensor, tf.constant(factor.astype(np.float32)))
    return Activation(tf.add(scaled, tf.constant((offset - mean * factor).astype(np.float32))))


def _relu(node: Node) -> Activation:
    """Any activation."""
    return Activation(tf.nn.relu(node.activation().tensor), non_negative=True)


def _clip(node: Node) -> Activation:
    """As ReLU6 (0 to 6) or ReLU (0 without an upper limit), with constant limits."""
    low, high = (_limit(node, name, index) for index, name in ((1, "min"), (2, "max")))
    tensor = node.activation().tensor
    if (low, high) == (0.0, 6.0):
        return Activation(tf.nn.relu6(tensor), non_negative=True)
    if low == 0.0 and (high is None or high >= np.finfo(np.float32).max):
        return Activation(tf.nn.relu(tensor), non_negative=True)
    raise node.unsupported(f"the limits are {low} and {high}")


def _limit(node: Node, name: str, index: int) -> float | None:
    if name in node.attributes:
        return float(node.attributes[name])
    operand = node.optional_constant(index)
    return None if operand is None else float(operand.item())


def _hard_sigmoid(node: Node) -> Activation:
    """With alpha 1/6 and beta 1/2, PyTorch's form."""
    alpha, beta = float(node.attributes.get("alpha", 0.2)), float(node.attributes.get("beta", 0.5))
    if not math.isclose(alpha, 1 / 6, rel_tol=1e-6) or beta != 0.5:
        raise node.unsupported(f"alpha is {alpha:g} and beta is {beta:g}")
    gate = tf.nn.relu6(tf.add(node.activation().tensor, np.float32(3))) * np.float32(1 / 6)
    return Activation(gate, non_negative=True)


def _global_average_pool(node: Node) -> Activation:
    """Any [N, C, H, W]."""
    return _global_mean(node.image(), keep_dimensions=True)


def _reduce_mean(node: Node) -> Activation:
    """Over constant axes."""
    activation = node.activation()
    rank = len(activation.shape)
    axes = node.integer_list("axes", 1)
    if not axes:
        if node.attributes.get("noop_with_empty_axes", 0):
            return activation
        axes = tuple(range(rank))
    axes = tuple(sorted(axis % rank for axis in axes))
    keep = bool(node.attributes.get("keepdims", 1))
    if rank == 4 and axes == (2, 3):
        return _global_mean(activation, keep_dimensions=keep)
    mean = tf.reduce_mean(activation.tensor, [_held_axis(axis, rank) for axis in axes], keepdims=True)
    kept = Activation(mean, non_negative=activation.non_negative)
    if keep:
        return kept
    return _reshape(kept, tuple(size for axis, size in enumerate(activation.shape) if axis not in axes))


def _global_mean(image: Activation, *, keep_dimensions: bool) -> Activation:
    mean = tf.reduce_mean(image.tensor, [1, 2], keepdims=keep_dimensions)
    averaged = image.tensor if keep_dimensions else None
    return Activation(mean, averaged=averaged, non_negative=image.non_negative)


def _average_pool(node: Node) -> Activation:
    """Two-dimensional without dilation; padding is counted, or else is what TensorFlow's SAME uses."""
    image, window = _pool_window(node)
    if window.dilation != (1, 1):
        raise node.unsupported(f"the dilation is {list(window.dilation)}")
    tensor, padding = image.tensor, window.implicit_padding()
    if node.attributes.get("count_include_pad", 0) and padding != "VALID":
        tensor, padding = tf.pad(tensor, [(0, 0), *window.pads, (0, 0)]), "VALID"
    if padding is None:
        raise node.unsupported(f"the padding {list(window.pads)} is not counted and is not SAME")
    pooled = tf.nn.avg_pool2d(tensor, window.kernel, window.stride, padding)
    return Activation(pooled, non_negative=image.non_negative)


def _max_pool(node: Node) -> Activation:
    """Two-dimensional without dilation; padding is what TensorFlow's SAME uses, or the input follows a ReLU."""
    image, window = _pool_window(node)
    if window.dilation != (1, 1):
        raise node.unsupported(f"the dilation is {list(window.dilation)}")
    if window.implicit_padding() is None and not image.non_negative:
        # ONNX pads with minus infinity, which has no int8 form; zeros change nothing only where nothing is below them.
        raise node.unsupported(f"the padding {list(window.pads)} is not SAME and the input may be negative")
    tensor, padding = window.apply(image.tensor)
    return Activation(tf.nn.max_pool2d(tensor, window.kernel, window.stride, padding), non_negative=image.non_negative)


def _pool_window(node: Node) -> tuple[Activation, _Window]:
    image = node.image()
    window = _Window.of(node, node.integers("kernel_shape", ()), image.shape[2:])
    if node.attributes.get("ceil_mode", 0) and any(window.remainders()):
        raise node.unsupported("ceil_mode adds a partial window; choose a kernel and stride that divide the input")
    return image, window


def _pad(node: Node) -> Activation:
    """With constant, non-negative amounts of zeros."""
    activation = node.activation()
    rank = len(activation.shape)
    amounts = node.integer_list("pads", 1)
    mode = node.attributes.get("mode", b"constant")
    value = _limit(node, "value", 2) or 0.0
    if amounts is None or mode != b"constant" or value != 0.0 or min(amounts, default=0) < 0:
        raise node.unsupported(f"the mode is {mode.decode()}, the value {value:g}, the amounts {list(amounts or ())}")
    listed = node.optional_constant(3)
    axes = range(rank) if listed is None else [int(axis) % rank for axis in listed.ravel()]
    by_axis = dict.fromkeys(range(rank), (0, 0))
    by_axis.update(zip(axes, zip(amounts[: len(axes)], amounts[len(axes) :], strict=True), strict=True))
    held = [by_axis[axis] for axis in _NHWC_FROM_NCHW] if rank == 4 else [by_axis[axis] for axis in range(rank)]
    padded = Activation(tf.pad(activation.tensor, held), non_negative=activation.non_negative)
    if rank == 4 and by_axis[0] == by_axis[1] == (0, 0):
        return replace(padded, unpadded=(activation.tensor, (by_axis[2], by_axis[3])))
    return padded


def _flatten(node: Node) -> Activation:
    """At any axis."""
    activation = node.activation()
    axis = int(node.attributes.get("axis", 1)) % (len(activation.shape) + 1)
    return _reshape(activation, (math.prod(activation.shape[:axis]), math.prod(activation.shape[axis:])))


def _reshape_node(node: Node) -> Activation:
    """To a constant shape."""
    activation = node.activation()
    target = [int(size) for size in node.constant(1).ravel()]
    if not node.attributes.get("allowzero", 0):
        target = [activation.shape[axis] if size == 0 else size for axis, size in enumerate(target)]
    if -1 in target:
        known = math.prod(size for size in target if size != -1)
        target[target.index(-1)] = math.prod(activation.shape) // known
    return _reshape(activation, tuple(target))


def _squeeze(node: Node) -> Activation:
    """Over constant axes."""
    activation = node.activation()
    axes = node.integer_list("axes", 1)
    rank = len(activation.shape)
    dropped = {axis % rank for axis in axes} if axes else {axis for axis in range(rank) if activation.shape[axis] == 1}
    return _reshape(activation, tuple(size for axis, size in enumerate(activation.shape) if axis not in dropped))


def _unsqueeze(node: Node) -> Activation:
    """Over constant axes."""
    activation = node.activation()
    axes = node.integer_list("axes", 1) or ()
    rank = len(activation.shape) + len(axes)
    added = {axis % rank for axis in axes}
    sizes = iter(activation.shape)
    return _reshape(activation, tuple(1 if axis in added else next(sizes) for axis in range(rank)))


def _reshape(activation: Activation, target: tuple[int, ...]) -> Activation:
    """The same elements in ONNX's order under another shape (given in ONNX's order)."""
    source = activation.shape
    if target == source:
        return activation
    tensor = activation.tensor
    if activation.averaged is not None and target == source[:2]:
        return _global_mean(replace(activation, tensor=activation.averaged), keep_dimensions=False)
    flattened = None
    if len(source) == 4 and not _same_order(source):
        flattened = tensor if len(target) == 2 and target[0] == source[0] else None
        tensor = tf.transpose(tensor, _NCHW_FROM_NHWC)
    if len(target) != 4:
        tensor = tf.reshape(tensor, target)
    elif _same_order(target):
        tensor = tf.reshape(tensor, [target[axis] for axis in _NHWC_FROM_NCHW])
    else:
        tensor = tf.transpose(tf.reshape(tensor, target), _NHWC_FROM_NCHW)
    return Activation(tensor, flattened=flattened, non_negative=activation.non_negative)


def _same_order(shape: tuple[int, ...]) -> bool:
    """Whether NCHW and NHWC store this shape (in NCHW) in the same order."""
    _, channels, height, width = shape
    return channels == 1 or height * width == 1


def _transpose(node: Node) -> Activation:
    """Any permutation."""
    activation = node.activation()
    rank = len(activation.shape)
    order = node.integers("perm", tuple(reversed(range(rank))))
    if rank == 4:
        order = tuple(_held_axis(order[axis], 4) for axis in _NHWC_FROM_NCHW)
    if order == tuple(range(rank)):
        return activation
    return Activation(tf.transpose(activation.tensor, order), non_negative=activation.non_negative)


def _concat(node: Node) -> Activation:
    """Of activations of one rank, along any axis."""
    activations = [node.activation(index) for index in range(len(node.operands))]
    rank = len(activations[0].shape)
    axis = _held_axis(int(node.attributes["axis"]) % rank, rank)
    joined = tf.concat([activation.tensor for activation in activations], axis)
    return Activation(joined, non_negative=all(activation.non_negative for activation in activations))


def _softmax(node: Node) -> Activation:
    """Along any axis."""
    activation = node.activation()
    rank = len(activation.shape)
    axis = _held_axis(int(node.attributes.get("axis", -1)) % rank, rank)
    return Activation(tf.nn.softmax(activation.tensor, axis), non_negative=True)


def _identity(node: Node) -> Operand:
    """Anything."""
    return node.operands[0]


def _constant(node: Node) -> Operand:
    """Of tensors and numbers."""
    for name in ("value_float", "value_floats"):
        if name in node.attributes:
            return np.asarray(node.attributes[name], np.float32)
    for name in ("value_int", "value_ints"):
        if name in node.attributes:
            return np.asarray(node.attributes[name], np.int64)
    if "value" not in node.attributes:
        raise node.unsupported(f"it holds {', '.join(node.attributes)}")
    return numpy_helper.to_array(node.attributes["value"])


def _held_axis(axis: int, rank: int) -> int:
    """Where an axis of ONNX's order is in the tensor that is held."""
    return _NHWC_FROM_NCHW.index(axis) if rank == 4 else axis


@dataclass(frozen=True, slots=True)
class _Window:
    """A sliding window over an image; everything is given as (height, width)."""

    size: Pair
    kernel: Pair
    stride: Pair
    dilation: Pair
    pads: Pads

    @classmethod
    def of(cls, node: Node, kernel: tuple[int, ...], size: tuple[int, ...]) -> _Window:
        if len(kernel) != 2 or len(size) != 2:
            raise node.unsupported(f"the kernel is {list(kernel)} on an image of {list(size)}")
        stride, dilation = _pair(node.integers("strides", (1, 1))), _pair(node.integers("dilations", (1, 1)))
        top, left, bottom, right = node.integers("pads", (0, 0, 0, 0))
        window = cls(_pair(size), _pair(kernel), stride, dilation, ((top, bottom), (left, right)))
        match node.attributes.get("auto_pad", b"NOTSET"):
            case b"SAME_UPPER":
                return replace(window, pads=window.same_pads())
            case b"SAME_LOWER":
                vertical, horizontal = window.same_pads()
                return replace(window, pads=(vertical[::-1], horizontal[::-1]))
        return window

    def same_pads(self) -> Pads:
        """The amounts of TensorFlow's SAME."""
        vertical, horizontal = (
            _same_pads(*axis) for axis in zip(self.size, self.kernel, self.stride, self.dilation, strict=True)
        )
        return vertical, horizontal

    def implicit_padding(self) -> str | None:
        """TensorFlow's name for this padding; None when it has none."""
        if self.pads == ((0, 0), (0, 0)):
            return "VALID"
        return "SAME" if self.pads == self.same_pads() else None

    def apply(self, tensor: Any) -> tuple[Any, str]:
        """The tensor to slide over, zeros added where TensorFlow has no name for the padding, and the name to use."""
        padding = self.implicit_padding()
        if padding is not None:
            return tensor, padding
        return tf.pad(tensor, [(0, 0), *self.pads, (0, 0)]), "VALID"

    def remainders(self) -> tuple[int, ...]:
        """Rows and columns after the last whole window."""
        return tuple(
            (size + sum(pads) - (kernel - 1) * dilation - 1) % stride
            for size, kernel, stride, dilation, pads in zip(
                self.size, self.kernel, self.stride, self.dilation, self.pads, strict=True
            )
        )


def _pair(values: tuple[int, ...]) -> Pair:
    first, second = values
    return first, second


def _same_pads(size: int, kernel: int, stride: int, dilation: int) -> Pair:
    output, before = same_padding(size, kernel, stride, dilation)
    return before, max(0, (output - 1) * stride + (kernel - 1) * dilation + 1 - size) - before


def _add_pads(first: Pads, second: Pads) -> Pads:
    (top, bottom), (left, right) = first
    (more_top, more_bottom), (more_left, more_right) = second
    return (top + more_top, bottom + more_bottom), (left + more_left, right + more_right)


_RULES: Mapping[str, Callable[[Node], Operand]] = {
    "Add": _add,
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_normalization,
    "Clip": _clip,
    "Concat": _concat,
    "Constant": _constant,
    "Conv": _convolution,
    "Flatten": _flatten,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_average_pool,
    "HardSigmoid": _hard_sigmoid,
    "Identity": _identity,
    "MatMul": _matmul,
    "MaxPool": _max_pool,
    "Mul": _multiply,
    "Pad": _pad,
    "ReduceMean": _reduce_mean,
    "Relu": _relu,
    "Reshape": _reshape_node,
    "Softmax": _softmax,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
