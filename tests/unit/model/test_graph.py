"""What is fed, what is downstream, what is an activation; bodies count by what they capture."""

from __future__ import annotations

from collections.abc import Callable

import onnx
import onnx_ir as ir
import pytest

from trtbuild.model.graph import (
    activations,
    downstream,
    fed_values,
    has_floats,
    is_constant,
    is_float_tensor,
    node_name,
    with_bodies,
)
from trtbuild.model.infer import infer_types

BODY = """toy (float[2] x, float[2] q, bool c) => (float[2] y) <float[2] w = {1,2}> {
    a = Relu(x) k = Neg(w) b = Exp(q) s = Shape(a) r = RandomNormal<shape = [2]>()
    i = If(c) <then_branch = t () => (float[2] u) {
                   j = If(c) <then_branch = tt () => (float[2] uu) { uu = Abs(a) },
                              else_branch = ee () => (float[2] vv) { vv = Neg(w) }>
                   u = Relu(j) },
               else_branch = e () => (float[2] v) { v = Neg(w) }>
    g = LessOrEqual(k, w)
    z = If(g) <then_branch = t2 () => (float[2] u2) { u2 = Neg(b) },
               else_branch = e2 () => (float[2] v2) { v2 = Neg(w) }>
    y = Add(i, k) }"""


@pytest.fixture
def graph(toy: Callable[..., onnx.ModelProto]) -> ir.Graph:
    model = ir.from_proto(toy(BODY))
    infer_types(model)
    return model.graph


def named(values: set[ir.Value]) -> set[str]:
    return {str(value.name) for value in values}


def test_fed_values_follow_inputs_into_bodies(graph: ir.Graph) -> None:
    assert named(fed_values(graph)) == {"x", "q", "c", "a", "b", "s", "i", "z", "y"}


def test_an_initializer_listed_as_input_is_not_fed(toy: Callable[..., onnx.ModelProto]) -> None:
    proto = toy(
        "toy (float[2] x) => (float[2] y) <float[2] w = {1,2}> { a = Neg(w) y = Add(x, a) }", ir_version=3
    )
    proto.graph.input.append(onnx.helper.make_tensor_value_info("w", 1, [2]))
    graph = ir.from_proto(proto).graph
    assert named(fed_values(graph)) == {"x", "y"}
    assert not is_constant(graph.initializers["w"])  # a caller may feed it


def test_downstream_follows_captures(graph: ir.Graph) -> None:
    by_output = {str(node.outputs[0].name): node for node in graph}
    reached = downstream(graph, {by_output["b"]})
    assert {str(node.outputs[0].name) for node in reached} == {"b", "z"}
    reached = downstream(graph, {by_output["a"]})
    assert {str(node.outputs[0].name) for node in reached} == {"a", "s", "i", "y"}
    assert downstream(graph, set()) == set()


def test_bodies_are_walked_at_any_depth(graph: ir.Graph) -> None:
    node = next(node for node in graph if node.outputs[0].name == "i")
    assert sorted(inner.op_type for inner in with_bodies(node)) == ["Abs", "If", "If", "Neg", "Neg", "Relu"]


def test_floats(graph: ir.Graph) -> None:
    floats = {str(value.name) for value in activations(graph) if is_float_tensor(value)}
    assert floats == {"a", "k", "b", "r", "i", "z", "y"}
    assert {str(node.outputs[0].name) for node in graph if not has_floats(node)} == {"s", "g"}


@pytest.mark.parametrize(
    ("onnx_type", "is_float"), [(1, True), (10, True), (11, True), (16, True), (7, False)]
)
def test_every_float_type_is_a_float(onnx_type: int, is_float: bool) -> None:
    value = ir.Value(name="v", type=ir.TensorType(ir.DataType(onnx_type)))
    assert is_float_tensor(value) is is_float


def test_a_sequence_is_no_tensor() -> None:
    assert not is_float_tensor(ir.Value(name="v", type=ir.SequenceType(ir.TensorType(ir.DataType.FLOAT))))
    assert not is_float_tensor(ir.Value(name="v"))


def test_constants(graph: ir.Graph) -> None:
    assert is_constant(graph.initializers["w"])
    assert not is_constant(graph.inputs[0])
    assert not is_constant(graph[0].outputs[0])
    assert not is_constant(None)


def test_a_node_without_a_name_was_not_normalised(graph: ir.Graph) -> None:
    with pytest.raises(AssertionError, match="not normalised"):
        node_name(graph[0])
