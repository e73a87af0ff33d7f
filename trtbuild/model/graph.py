"""Questions about an onnx-ir graph that several modules ask."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE})
NO_TENSOR = "trtbuild.no_tensor"  # in a value's meta: a sequence, an optional or a map
QDQ = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})


def is_constant(value: ir.Value | None) -> bool:
    """Whether the value is an initializer with data that no caller can feed."""
    return value is not None and value.is_initializer() and not value.is_graph_input()


def node_name(node: ir.Node) -> str:
    """The node's name; every node of a normalised graph has one."""
    assert node.name, "the graph was not normalised"
    return node.name


def is_float_tensor(value: ir.Value) -> bool:
    """Whether the value is a tensor of floats, as far as shape inference could tell."""
    return isinstance(value.type, ir.TensorType) and value.dtype in FLOATS


def may_be_float(value: ir.Value) -> bool:
    """As `is_float_tensor`, or nobody knows: behind an operator that ONNX cannot infer the type of."""
    return is_float_tensor(value) or (value.type is None and NO_TENSOR not in value.meta)


def has_floats(node: ir.Node) -> bool:
    """Whether the node computes any float tensor at all."""
    return any(is_float_tensor(value) for value in node.outputs)


def activations(graph: ir.Graph) -> Iterator[ir.Value]:
    """Every named output of a main-graph node, in graph order."""
    for node in graph:
        for value in node.outputs:
            if value.name:
                yield value


def fed_values(graph: ir.Graph) -> set[ir.Value]:
    """The values that depend on a graph input: everything that is not constant."""
    fed = {value for value in graph.inputs if not value.is_initializer()}
    for node in graph:
        if any(value in fed for value in _reads(node)):
            fed.update(node.outputs)
    return fed


def _reads(node: ir.Node) -> Iterator[ir.Value]:
    """The inputs of a node, and for If/Loop/Scan what their bodies capture from outside."""
    for inner in with_bodies(node):
        yield from (value for value in inner.inputs if value is not None)


def with_bodies(node: ir.Node) -> Iterator[ir.Node]:
    """The node itself, then the nodes inside it, at any depth."""
    yield node
    for body in bodies_of(node):
        yield from body.all_nodes()


def bodies_of(node: ir.Node) -> Iterator[ir.Graph]:
    """The graphs inside a node: the bodies of If, Loop and Scan."""
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()


def downstream(graph: ir.Graph, start: set[ir.Node]) -> set[ir.Node]:
    """`start` and every node that reads, directly or not, what those nodes produce."""
    reached = set(start)
    tainted = {value for node in start for value in node.outputs}
    for node in graph:
        if node in reached or any(value in tainted for value in _reads(node)):
            reached.add(node)
            tainted.update(node.outputs)
    return reached


def integer_of(node: ir.Node, name: str, default: int) -> int:
    """An integer attribute, or its default."""
    attribute = node.attributes.get(name)
    return attribute.as_int() if attribute is not None else default


def constant_shape(value: ir.Value | None) -> tuple[int, ...]:
    """Of an input that is there and constant."""
    assert value is not None
    assert value.const_value is not None
    return tuple(value.const_value.shape.numpy())
