"""What ONNX Runtime cannot run is found with everything behind it, and the rest is still checked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from trtbuild.model import files
from trtbuild.model.model import Model
from trtbuild.model.runnable import unregistered_operators, unrunnable
from trtbuild.precision import rules
from trtbuild.recipe import PrecisionSection
from trtbuild.rewrite.cut import with_outputs

RNG = np.random.default_rng(0)
WEIGHT = RNG.standard_normal((4, 4)).astype(np.float32)
X = RNG.standard_normal((2, 4)).astype(np.float32)
MIDDLE = """toy (float[2,4] x) => (float[2,4] y, float[2,4] side) {
    a = MatMul(x, w) s = Softmax<axis = 1>(a) p, q = EfficientNMS_TRT<score_threshold = 0.5>(s, a)
    side = Relu(a) b = Add(p, side) y = Neg(b) }"""
END = """toy (float[2,4] x) => (float[2,1] n, float[2,9,4] boxes) {
    a = MatMul(x, w) s = Relu(a) n, boxes = EfficientNMS_TRT(s, a) }"""


@pytest.mark.parametrize("opset", [11, 17, 21])
def test_a_plugin_in_the_middle(open_toy: Callable[..., Model], run: Callable[..., Any], opset: int) -> None:
    model = open_toy(MIDDLE, {"w": WEIGHT}, opset=opset)
    assert model.unrunnable == {
        "EfficientNMS_TRT_p": "ONNX Runtime has no kernel for EfficientNMS_TRT",
        "Add_b": "comes after EfficientNMS_TRT, which ONNX Runtime cannot run",
        "Neg_y": "comes after EfficientNMS_TRT, which ONNX Runtime cannot run",
    }
    assert model.compared == ("a", "s", "side")
    assert model.checked_outputs == ("side", "s", "a")
    plugin = next(node for node in model.graph if node.op_type == "EfficientNMS_TRT")
    assert plugin.domain == ""
    assert set(model.normalised.opset_imports) == {""}
    assert len(plugin.attributes) == 1
    runnable = with_outputs(model.normalised, model.compared, cut=True)
    assert np.array_equal(run(runnable, {"x": X})["a"], X @ WEIGHT)
    given = with_outputs(files.read(model.path), model.compared, cut=True)
    for name, array in run(given, {"x": X}).items():
        assert np.array_equal(run(runnable, {"x": X})[name], array)


@pytest.mark.parametrize("opset", [11, 17])
def test_a_plugin_at_the_end(open_toy: Callable[..., Model], opset: int) -> None:
    model = open_toy(END, {"w": WEIGHT}, opset=opset)
    assert list(model.unrunnable) == ["EfficientNMS_TRT_n"]
    assert model.compared == ("a", "s")
    assert model.checked_outputs == ("s", "a")


def test_nodes_that_cannot_run_are_not_lowered_and_say_so(open_toy: Callable[..., Model]) -> None:
    text = """toy (float[2,4] x) => (float[2,4] y) {
        a = MatMul(x, w) [plugin] p = Plugin_TRT(a) [after] y = MatMul(p, w) }"""
    precisions = rules.resolve(open_toy(text, {"w": WEIGHT}), PrecisionSection(), [])
    assert precisions["MatMul_a"] == "int8"
    assert precisions["plugin"] == precisions["after"] == "fp32"
    for name in ("plugin", "after"):
        assert "ONNX Runtime" in precisions.nodes[name].reason


def test_a_plugin_of_a_domain_of_its_own(open_toy: Callable[..., Model]) -> None:
    text = "toy (float[2,4] x) => (float[2,4] y) { a = Relu(x) b = mine.Special(a) y = Neg(b) }"
    model = open_toy(text, domains="mine")
    assert list(model.unrunnable) == ["Special_b", "Neg_y"]


@pytest.mark.parametrize("opset", [11, 17])
def test_a_plugin_in_a_body_or_captured_by_one(open_toy: Callable[..., Model], opset: int) -> None:
    inside = """toy (float[2,4] x, bool c) => (float[2,4] y) {
        a = Relu(x) y = If(c) <then_branch = t () => (float[2,4] u) { u = Plugin_TRT(a) },
                               else_branch = e () => (float[2,4] v) { v = Neg(a) }> }"""
    model = open_toy(inside, opset=opset)
    assert model.unrunnable == {"If_y": "ONNX Runtime has no kernel for Plugin_TRT"}
    assert {node.op_type for node in model.graph.all_nodes()} == {"Relu", "If", "Plugin_TRT", "Neg"}
    assert {node.domain for node in model.graph.all_nodes()} == {""}
    captured = """toy (float[2,4] x, bool c) => (float[2,4] y) {
        a = Plugin_TRT(x) y = If(c) <then_branch = t () => (float[2,4] u) { u = Abs(a) },
                                     else_branch = e () => (float[2,4] v) { v = Neg(x) }> }"""
    assert list(open_toy(captured, opset=opset).unrunnable) == ["Plugin_TRT_a", "If_y"]


@pytest.mark.parametrize(
    "body",
    [
        "y = Relu(x)",
        "y = com.microsoft.Gelu(x)",
        "y = Mish(x)",  # a function of the standard, without a kernel of its own in old versions
        "k = Constant<value_float = 1.0>() y = Add(x, k)",
        "y = ai.onnx.ml.Normalizer(x)",
    ],
)
def test_what_runs_is_not_listed(
    toy: Callable[..., onnx.ModelProto], body: str, run: Callable[..., Any]
) -> None:
    proto = toy(
        f"toy (float[2,4] x) => (float[2,4] y) {{ {body} }}", opset=18, domains="com.microsoft ai.onnx.ml"
    )
    model = ir.from_proto(proto)
    assert unrunnable(model) == {}
    run(model, {"x": X})


def test_functions_of_the_model_run(toy: Callable[..., onnx.ModelProto]) -> None:
    text = """toy (float[2] x) => (float[2] y) { y = local.f(x) }
        <domain: "local", opset_import: ["": 17]> f (p) => (r) { r = Relu(p) }"""
    assert unrunnable(ir.from_proto(toy(text, domains="local"))) == {}


def test_unregistered_operators(toy: Callable[..., onnx.ModelProto]) -> None:
    text = """toy (float[2] x) => (float[2] y) {
        a = Plugin_TRT(x) b = mine.Other(a) c = Upsample(b, a) y = Relu(c) }"""
    graph = ir.from_proto(toy(text, domains="mine")).graph
    assert unregistered_operators(graph) == {"Plugin_TRT"}


def test_a_graph_that_runs_has_nothing_unrunnable(write_toy: Callable[..., Path]) -> None:
    path = write_toy("toy (float[2,4] x) => (float[2,4] y) { a = Relu(x) y = Softmax(a) }")
    assert Model.open(path).unrunnable == {}
