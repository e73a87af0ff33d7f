"""What holds for every pattern: order, robustness, and that the model is only read."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir
import pytest

from trtbuild.model import patterns

Parse = Callable[..., ir.Graph]


def test_the_public_names() -> None:
    assert set(patterns.PATTERNS) == {
        "layernorm",
        "softmax",
        "logsoftmax",
        "attention-scores",
        "gelu",
        "residual-add",
    }


def test_an_unknown_name_is_an_error_that_lists_the_known(parse: Parse) -> None:
    with pytest.raises(ValueError, match=r"'layer-norm'.*layernorm, softmax"):
        patterns.find("layer-norm", parse("y = Relu(x)"))


@pytest.mark.parametrize("name", patterns.PATTERNS)
def test_an_empty_graph_has_none(name: str) -> None:
    assert patterns.find(name, ir.Graph([], [], nodes=[], opset_imports={"": 17})) == []


@pytest.mark.parametrize("name", patterns.PATTERNS)
def test_bodies_of_control_flow_are_left_alone(parse: Parse, name: str) -> None:
    body = "a = MatMul(x, x) s = Softmax(a) l = LogSoftmax(s) n = Gelu(l) o = Add(n, x)"
    branch = f"g () => (float[N,8] o) {{ {body} }}"
    graph = parse(
        f"y = If (c) <then_branch = {branch}, else_branch = {branch}>",
        inputs="bool c, float[N,8] x",
        opset=20,
    )
    assert patterns.find(name, graph) == []


@pytest.mark.parametrize("name", patterns.PATTERNS)
def test_absent_and_surplus_inputs_are_no_error(name: str) -> None:
    x = ir.Value(name="x")
    nodes = []
    for op_type in ("Add", "Mul", "Div", "Sub", "Pow", "Max", "MatMul", "Where"):
        for inputs in ([None, None], [x, None], [x], [x, x, x]):
            nodes.append(ir.node(op_type, inputs))
            value = nodes[-1].outputs[0]
            nodes += [ir.node("Erf", [value]), ir.node("Div", [x, value]), ir.node("Softmax", [value])]
    nodes += [ir.node(op, [None]) for op in ("Softmax", "Log", "Exp", "Erf", "Tanh", "Sigmoid", "Identity")]
    graph = ir.Graph([x], [], nodes=nodes, opset_imports={"": 17})
    assert isinstance(patterns.find(name, graph), list)


@pytest.mark.parametrize("name", patterns.PATTERNS)
def test_the_model_is_not_changed(parse: Parse, name: str) -> None:
    graph = parse(
        "two_ = Constant<value_float=2.0>() m = ReduceMean<axes=[-1]>(x) d = Sub(x, m) p = Pow(d, two_)"
        "v = ReduceMean<axes=[-1]>(p) e = Add(v, eps) s = Sqrt(e) y = Div(d, s)"
    )
    before = ir.to_proto(graph).SerializeToString(deterministic=True)
    patterns.find(name, graph)
    assert ir.to_proto(graph).SerializeToString(deterministic=True) == before


CHAINS = {
    "Add": [("Add", 2)],
    "Add, Relu": [("Add", 2), ("Relu", 1)],
    "MatMul, Add": [("MatMul", 2), ("Add", 2)],
    "Mul, Tanh": [("Mul", 2), ("Mul", 2), ("Tanh", 1)],
    "Softmax": [("Add", 2), ("Sub", 2), ("Softmax", 1)],
    "Identity": [("Identity", 1)],
}


@pytest.mark.parametrize("kinds", CHAINS.values(), ids=CHAINS)
@pytest.mark.parametrize("doubled", [False, True], ids=["with the input", "with itself"])
def test_a_long_chain_ends(kinds: list[tuple[str, int]], doubled: bool) -> None:
    x = value = ir.Value(name="x")
    nodes = []
    for index in range(5000):
        op_type, count = kinds[index % len(kinds)]
        nodes.append(ir.node(op_type, [value, value if doubled else x][:count]))
        value = nodes[-1].outputs[0]
    graph = ir.Graph([x], [value], nodes=nodes, opset_imports={"": 17})
    for name in patterns.PATTERNS:
        matched = [node for match in patterns.find(name, graph) for node in match]
        assert len(matched) == len(set(matched))
