"""Where the channels of an activation can be rescaled exactly: what makes it takes in a factor per channel,
what reads it the inverse, and everything in between lets it pass.

Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction"; Xiao et al. 2023,
"SmoothQuant".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trtbuild.model.graph import constant_shape, integer_of, is_constant, node_name
from trtbuild.model.model import Model
from trtbuild.precision.forms import Int8Form, NoForm, int8_forms

ELEMENTWISE = frozenset({"LeakyRelu", "Relu"})
POOLS = frozenset({"AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool"})
"""Positively homogeneous, each channel by itself: f(s * x) = s * f(x) for s > 0."""
NORMS = frozenset({"BatchNormalization", "InstanceNormalization"})
"""Scale and bias, one of each per channel, are inputs 1 and 2."""
SCALED, INVERTED = False, True
Channels = NDArray[np.intp]


@dataclass(frozen=True)
class Constant:
    """A constant that takes in the factors. channels: the channel that each of its elements belongs to, in a
    shape that broadcasts against it. inverse: it is divided by them."""

    node: str
    index: int
    channels: Channels
    inverse: bool


@dataclass(frozen=True)
class Fold:
    """An activation that may be rescaled, of `size` channels along `axis` (counted from the end).

    makers: the constants in front of it. readers: the weights that read it. through: the activations in
    between, which are rescaled too. depthwise: every reader makes each of its channels of a single one, so
    its own weight scales take in any factor at no loss.
    """

    tensor: str
    axis: int
    size: int
    makers: tuple[Constant, ...]
    readers: tuple[Constant, ...]
    through: tuple[str, ...]
    depthwise: bool


def folds(model: Model) -> Iterator[Fold]:
    """Every fold of a normalised graph, in graph order. No activation is in two of them."""
    forms = int8_forms(model.graph)
    for node in model.graph:
        for value in node.outputs:
            fold = _fold(value, model, forms)
            if fold is not None:
                yield fold


def _fold(value: ir.Value, model: Model, forms: Mapping[str, Int8Form]) -> Fold | None:
    uses = list(value.uses())
    if not uses or not _is_free(value, model):
        return None
    if not all(_reads_by_channel(node, index, model, forms) for node, index in uses):
        return None
    found = [_reader(node) for node, _ in uses]
    axes = {(axis, size) for axis, size, _ in found}
    ((axis, size), *others) = axes
    if others or size < 2:
        return None
    made = _makers(value, axis, size, model)
    if made is None:
        return None
    makers, through = made
    return Fold(
        tensor=str(value.name),
        axis=axis,
        size=size,
        makers=makers,
        readers=tuple(reader for _, _, reader in found),
        through=through,
        depthwise=all(_is_depthwise(node) for node, _ in uses),
    )


def _is_free(value: ir.Value, model: Model) -> bool:
    """Whether it is a float32 activation that ONNX Runtime can compute and no caller sees."""
    node = value.producer()
    return (
        node is not None
        and node.graph is model.graph
        and node.name not in model.unrunnable
        and value.dtype == ir.DataType.FLOAT
        and value.shape is not None
        and not value.is_graph_output()
    )


def _reads_by_channel(node: ir.Node, index: int, model: Model, forms: Mapping[str, Int8Form]) -> bool:
    """Whether a constant weight of the node has elements of its own for each channel of this input."""
    if node.graph is not model.graph or index != 0:
        return False
    if isinstance(forms[node_name(node)], NoForm) or len(node.inputs) < 2:
        return False
    weight = node.inputs[1]
    if node.op_type == "Gemm" and integer_of(node, "transA", 0):
        return False
    return is_constant(weight) and len(constant_shape(weight)) > 1


def _reader(node: ir.Node) -> tuple[int, int, Constant]:
    """The axis, from the end, and the number of the channels that a node reads, and its weight."""
    shape = constant_shape(node.inputs[1])
    spatial = [1] * (len(shape) - 2)
    if node.op_type == "Conv":
        groups, per_group = integer_of(node, "group", 1), shape[1]
        rows = np.arange(groups * per_group).reshape(groups, 1, per_group)
        channels = np.repeat(rows, shape[0] // groups, axis=1).reshape(*shape[:2], *spatial)
        axis, size = 1 - len(shape), groups * per_group
    elif node.op_type == "ConvTranspose":
        axis, size = 1 - len(shape), shape[0]
        channels = np.arange(size).reshape(-1, 1, *spatial)
    elif node.op_type == "Gemm" and integer_of(node, "transB", 0):
        axis, size = -1, shape[1]
        channels = np.arange(size)
    else:
        axis, size = -1, shape[-2]
        channels = np.arange(size).reshape(-1, 1)
    return axis, size, Constant(node_name(node), 1, channels, INVERTED)


def _is_depthwise(node: ir.Node) -> bool:
    return node.op_type == "Conv" and constant_shape(node.inputs[1])[1] == 1


def _makers(
    value: ir.Value, axis: int, size: int, model: Model
) -> tuple[tuple[Constant, ...], tuple[str, ...]] | None:
    """The constants in front of `value` that take in the factors, and the activations up to them."""
    makers: list[Constant] = []
    through: list[str] = []
    while _is_free(value, model) and _has_channels(value, axis, size):
        node = value.producer()
        assert node is not None
        if node.domain != "":
            return None
        at_front = value.shape is not None and len(value.shape) == 1 - axis  # channels are axis 1
        ending = _ending(node, axis, size, at_front)
        if ending is not None:
            return (*makers, *ending), tuple(through)
        passing = _passing(node, axis, size, at_front)
        if passing is None:
            return None
        value, constants = passing
        makers += constants
        through.append(str(value.name))
        if len(value.uses()) != 1:
            return None
    return None


def _has_channels(value: ir.Value, axis: int, size: int) -> bool:
    shape = value.shape
    return shape is not None and len(shape) >= -axis and shape[axis] == size


def _ending(node: ir.Node, axis: int, size: int, at_front: bool) -> tuple[Constant, ...] | None:
    """The constants of a node that takes in all of the factors; None where it does not."""
    vector = np.arange(size)
    if node.op_type in ("Mul", "Div"):
        index = _constant_operand(node)
        inverse = INVERTED if node.op_type == "Div" and index == 1 else SCALED
        return None if index is None else (Constant(node_name(node), index, _along(axis, size), inverse),)
    if node.op_type == "LayerNormalization" and axis == -1:
        return _scaled(node, {1: vector, 2: vector})
    if node.op_type in NORMS and at_front:
        return _scaled(node, {1: vector, 2: vector})
    if not is_constant(node.inputs[1] if len(node.inputs) > 1 else None):
        return None
    rank = len(constant_shape(node.inputs[1]))
    if node.op_type == "Conv" and at_front:
        return _scaled(node, {1: vector.reshape(-1, *[1] * (rank - 1)), 2: vector})
    if node.op_type == "ConvTranspose" and at_front and integer_of(node, "group", 1) == 1:
        return _scaled(node, {1: vector.reshape(-1, *[1] * (rank - 2)), 2: vector})
    if node.op_type == "Gemm":
        return _scaled(
            node, {1: vector.reshape(-1, 1) if integer_of(node, "transB", 0) else vector, 2: vector}
        )
    if node.op_type == "MatMul" and axis == -1 and rank > 1:
        return _scaled(node, {1: vector})
    return None


def _passing(
    node: ir.Node, axis: int, size: int, at_front: bool
) -> tuple[ir.Value, tuple[Constant, ...]] | None:
    """What a node computes its output from, where it lets the factors pass, and the constants that take them
    in on the way."""
    if node.op_type in ELEMENTWISE or (node.op_type in POOLS and at_front):
        value = node.inputs[0]
        return None if value is None else (value, ())
    if node.op_type not in ("Add", "Sub"):
        return None
    index = _constant_operand(node)
    value = None if index is None else node.inputs[1 - index]
    if index is None or value is None:
        return None
    return value, (Constant(node_name(node), index, _along(axis, size), SCALED),)


def _along(axis: int, size: int) -> Channels:
    return np.arange(size).reshape(-1, *[1] * (-axis - 1))


def _constant_operand(node: ir.Node) -> int | None:
    """The index of the one operand of two that is constant; None where there is none."""
    found = [index for index, value in enumerate(node.inputs) if is_constant(value)]
    return found[0] if len(found) == 1 and len(node.inputs) == 2 else None


def _scaled(node: ir.Node, channels: Mapping[int, Channels]) -> tuple[Constant, ...] | None:
    """These inputs of a node, as far as it has them; None where one is computed."""
    there = [i for i in channels if i < len(node.inputs) and node.inputs[i] is not None]
    if not all(is_constant(node.inputs[index]) for index in there):
        return None
    return tuple(Constant(node_name(node), index, channels[index], SCALED) for index in there)
