"""Choosing outputs: in order, on a copy that shares the weights, with or without the rest of the graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from trtbuild.model.model import Model
from trtbuild.rewrite.cut import with_outputs

RNG = np.random.default_rng(0)
WEIGHT = RNG.standard_normal((4, 4)).astype(np.float32)
X = RNG.standard_normal((2, 4)).astype(np.float32)
TEXT = """toy (float[2,4] x, float[2,4] z) => (float[2,4] y, float[4,4] c) {
    a = MatMul(x, w) b = Relu(a) p = Plugin_TRT(b) q = Add(p, z) y = MatMul(q, v) c = Transpose(w) }"""


@pytest.fixture(scope="module")
def model(open_toy: Callable[..., Model]) -> ir.Model:
    return open_toy(TEXT, {"w": WEIGHT, "v": WEIGHT + 1}).normalised


def names(values: Any) -> list[str]:
    return [str(value.name) for value in values]


@pytest.mark.parametrize("outputs", [["b", "a"], ["a", "b"], ["b"], ["a", "y"], []])
def test_outputs_come_in_the_order_asked_for(model: ir.Model, outputs: list[str]) -> None:
    assert names(with_outputs(model, outputs).graph.outputs) == outputs


def test_unknown_tensors_are_left_out(model: ir.Model) -> None:
    assert names(with_outputs(model, ["nope", "b", ""]).graph.outputs) == ["b"]


def test_inputs_and_constants_can_be_shown(model: ir.Model, run: Callable[..., Any]) -> None:
    shown = with_outputs(model, ["x", "c", "a"], cut=True)
    outputs = run(shown, {"x": X, "z": X})
    assert np.array_equal(outputs["x"], X)
    assert np.array_equal(outputs["c"], WEIGHT.T)


def test_without_cut_everything_stays(model: ir.Model) -> None:
    shown = with_outputs(model, ["a"])
    assert [n.op_type for n in shown.graph] == [n.op_type for n in model.graph]


def test_cut_removes_the_rest_but_no_input(model: ir.Model, run: Callable[..., Any]) -> None:
    shown = with_outputs(model, ["b", "a"], cut=True)
    assert [node.op_type for node in shown.graph] == ["MatMul", "Relu"]
    assert list(shown.graph.initializers) == ["w"]
    assert names(shown.graph.inputs) == ["x", "z"]
    outputs = run(shown, {"x": X, "z": X})
    assert np.array_equal(outputs["a"], X @ WEIGHT)
    assert list(outputs) == ["b", "a"]


def test_weights_are_shared_and_the_model_stays(model: ir.Model) -> None:
    before = ir.to_proto(model).SerializeToString()
    shown = with_outputs(model, ["a"], cut=True)
    assert shown.graph.initializers["w"].const_value is model.graph.initializers["w"].const_value
    assert ir.to_proto(model).SerializeToString() == before
