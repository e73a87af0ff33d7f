"""A graph as the matchers ask about it: what is static, and which operators lie behind a value.

Static is what is computed from constants and shapes alone; every other value is an activation. The
questions about a value look through the casts and reshapes behind it. They answer with a `Part`: the
nodes that were recognised and the value these start from, or None where the graph is something else.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

Nodes = frozenset[ir.Node]
NO_NODES: Nodes = frozenset()

MICROSOFT = "com.microsoft"

# Keep the values and change at most their type or shape: exporters put them between the operations.
PLUMBING = ("Identity", "Cast", "Reshape", "Expand", "Squeeze", "Unsqueeze")
PLUMBING_STEPS = 8

_COMMUTATIVE = ("Add", "Mul", "Max")
_CONSTANT_NUMBERS = ("value_float", "value_floats", "value_int", "value_ints")
_SUBGRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


class Part(NamedTuple):
    """Nodes that were recognised, and the value that they start from."""

    source: ir.Value
    nodes: Nodes

    def plus(self, nodes: Nodes) -> Part:
        return Part(self.source, self.nodes | nodes)


class Binary(NamedTuple):
    """A node of two operands (with the plumbing behind it), and these."""

    left: ir.Value
    right: ir.Value
    nodes: Nodes


class View:
    """A graph with the order of its nodes and which values are static."""

    def __init__(self, graph: ir.Graph) -> None:
        self.order = {node: index for index, node in enumerate(graph)}
        self._static: set[ir.Value] = set()
        for node in graph:
            if self._computes_static(node):
                self._static.update(node.outputs)

    def _computes_static(self, node: ir.Node) -> bool:
        if is_op(node, "Constant", "Shape", "Size"):
            return True
        # A body reads outer values that are not among the inputs; no inputs may mean a random generator.
        has_body = any(attribute.type in _SUBGRAPHS for attribute in node.attributes.values())
        return bool(node.inputs) and not has_body and all(map(self.is_static, node.inputs))

    def is_static(self, value: ir.Value | None) -> bool:
        if value is None or value in self._static:
            return True
        return value.is_initializer() or value.const_value is not None

    def activations(self, values: Iterable[ir.Value | None]) -> list[ir.Value]:
        """The present values that are not static."""
        return [value for value in values if value is not None and not self.is_static(value)]

    def activation_operand(self, node: ir.Node) -> ir.Value | None:
        """x of x * static, static + x, x / static and so on; not of static / x."""
        for value, other in operand_orders(node):
            if self.is_static(other) and not self.is_static(value):
                return value
        return None

    def scalar(self, value: ir.Value) -> float | None:
        """The number that a one-element constant holds."""
        return _number(self.strip(value).source)

    def producer(self, value: ir.Value) -> ir.Node | None:
        node = value.producer()
        return node if node in self.order else None

    def users(self, value: ir.Value) -> list[ir.Node]:
        users = {user for user, _ in value.uses() if user in self.order}
        return sorted(users, key=self.order.__getitem__)

    def strip(self, value: ir.Value) -> Part:
        """The value behind casts and reshapes, and those nodes."""
        passed = []
        for _ in range(PLUMBING_STEPS):
            node = self.producer(value)
            if node is None or not is_op(node, *PLUMBING) or node.inputs[0] is None:
                break
            passed.append(node)
            value = node.inputs[0]
        return Part(value, frozenset(passed))

    def same(self, left: ir.Value, right: ir.Value) -> bool:
        return self.strip(left).source is self.strip(right).source

    def behind(self, value: ir.Value, *op_types: str) -> Part | None:
        """x of a(b(x)): follow the first operands of operators of exactly these types, outermost first."""
        nodes = NO_NODES
        for op_type in op_types:
            step = self._made_by(value, (op_type,))
            if step is None or step[0].inputs[0] is None:
                return None
            value = step[0].inputs[0]
            nodes |= step[1]
        return Part(value, nodes)

    def beside_static(self, value: ir.Value, *op_types: str) -> Part | None:
        """x of `activation_operand`, for an operator of one of these types."""
        step = self._made_by(value, op_types)
        operand = self.activation_operand(step[0]) if step else None
        return Part(operand, step[1]) if step and operand else None

    def binary(self, value: ir.Value, op_type: str) -> Binary | None:
        """Both operands of an operator of this type."""
        step = self._made_by(value, (op_type,))
        pair = _two_operands(step[0]) if step else None
        return Binary(*pair, step[1]) if step and pair else None

    def _made_by(self, value: ir.Value, op_types: tuple[str, ...]) -> tuple[ir.Node, Nodes] | None:
        """The node of one of these types that computes the value; the same with the plumbing behind it."""
        origin, passed = self.strip(value)
        node = self.producer(origin)
        if node is None or not is_op(node, *op_types):
            return None
        return node, passed | {node}


def is_op(node: ir.Node, *op_types: str) -> bool:
    """Whether the node is one of these operators of ONNX itself."""
    return node.op_type in op_types and node.domain == ""


def operand_orders(node: ir.Node) -> list[tuple[ir.Value, ir.Value]]:
    """The two operands, in each order that computes the same; nothing if there are not two."""
    pair = _two_operands(node)
    if pair is None:
        return []
    return [pair, pair[::-1]] if is_op(node, *_COMMUTATIVE) else [pair]


def _two_operands(node: ir.Node) -> tuple[ir.Value, ir.Value] | None:
    if len(node.inputs) != 2 or node.inputs[0] is None or node.inputs[1] is None:
        return None
    return node.inputs[0], node.inputs[1]


def _number(value: ir.Value) -> float | None:
    # Not ir.convenience.get_const_tensor: that renames the tensor inside the Constant node.
    tensor = value.const_value
    node = value.producer()
    if tensor is None and node is not None and is_op(node, "Constant"):
        attribute = next(iter(node.attributes.values()), None)
        if attribute is not None and attribute.type == ir.AttributeType.TENSOR:
            tensor = attribute.as_tensor()
        elif attribute is not None and attribute.name in _CONSTANT_NUMBERS:
            numbers = np.ravel(attribute.value)
            return float(numbers[0]) if numbers.size == 1 else None
    if tensor is None or tensor.size != 1:
        return None
    if not (tensor.dtype.is_floating_point() or tensor.dtype.is_integer()):
        return None
    return float(np.asarray(tensor.numpy()).item())
