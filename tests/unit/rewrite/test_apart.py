"""Layers apart: each computes from what is fed in place of its neighbours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from trtbuild.model.model import Model
from trtbuild.rewrite.apart import FED, apart

RNG = np.random.default_rng(0)
F32 = np.dtype(np.float32)
WEIGHT = RNG.standard_normal((4, 4)).astype(np.float32)
X, A, B = RNG.standard_normal((3, 2, 4)).astype(np.float32)
TEXT = """toy (float[n,4] x) => (float[n,4] y, float[n,4] a) {
    a = MatMul(x, w) b = Relu(a) c = Add(b, a) y = Exp(c) }"""


@pytest.fixture(scope="module")
def model(open_toy: Callable[..., Model]) -> ir.Model:
    return open_toy(TEXT, {"w": WEIGHT}).normalised


def inputs(model: ir.Model) -> list[str]:
    return [str(value.name) for value in model.graph.inputs]


def fed(**arrays: Any) -> dict[str, Any]:
    return {name + FED: array for name, array in arrays.items()}


def test_each_layer_computes_from_what_is_fed(model: ir.Model, run: Callable[..., Any]) -> None:
    copy = apart(model, ["a", "b", "c"], {"a": F32, "b": F32, "c": F32})
    assert inputs(copy) == ["x", "a::fed", "b::fed"]  # nobody that is left reads c
    outputs = run(copy, {"x": X, **fed(a=A, b=B)})
    assert list(outputs) == ["a", "b", "c"]
    assert np.array_equal(outputs["a"], X @ WEIGHT)
    assert np.array_equal(outputs["b"], np.maximum(A, 0))
    assert np.array_equal(outputs["c"], B + A)


def test_what_is_not_cut_is_computed(model: ir.Model, run: Callable[..., Any]) -> None:
    copy = apart(model, ["y"], {"a": F32})
    assert inputs(copy) == ["x", "a::fed"]
    assert [node.op_type for node in copy.graph] == ["Relu", "Add", "Exp"]
    outputs = run(copy, {"x": X, **fed(a=A)})
    assert np.array_equal(
        outputs["y"], run(apart(model, ["y"], {"c": F32}), {"x": X, **fed(c=np.maximum(A, 0) + A)})["y"]
    )


def test_any_shape_can_be_fed(model: ir.Model, run: Callable[..., Any]) -> None:
    copy = apart(model, ["b"], {"a": F32})
    assert run(copy, {"x": X, **fed(a=np.repeat(A, 3, axis=0))})["b"].shape == (6, 4)


def test_the_model_stays_as_it_was_and_weights_are_shared(model: ir.Model) -> None:
    before = ir.to_proto(model).SerializeToString()
    copy = apart(model, ["a", "b"], {"a": F32})
    assert ir.to_proto(model).SerializeToString() == before
    assert copy.graph.initializers["w"].const_value is model.graph.initializers["w"].const_value


def test_tensors_that_the_model_lacks_are_left_out(model: ir.Model) -> None:
    copy = apart(model, ["nope", "b"], {"a": F32, "nope": F32, "x": F32})
    assert [value.name for value in copy.graph.outputs] == ["b"]
    assert inputs(copy) == ["x", "a::fed"]


def test_integers_in_between_are_computed_from_what_is_fed(
    open_toy: Callable[..., Model], run: Callable[..., Any]
) -> None:
    model = open_toy(
        """toy (float[n,4] x) => (float[p,q] y) {
            a = Exp(x) s = Shape(a) f = Flatten<axis = 0>(a) b = Reshape(f, s) y = Relu(b) }"""
    ).normalised
    copy = apart(model, ["a", "f", "b", "y"], {"a": F32, "f": F32, "b": F32})
    outputs = run(copy, {"x": X, **fed(a=A[:1], f=A[1:], b=B)})
    assert np.array_equal(outputs["b"], A[1:])
    assert np.array_equal(outputs["f"], A[:1])
    assert np.array_equal(outputs["y"], np.maximum(B, 0))


IF = """toy (float[2,4] x, bool c) => (float[2,4] y) {
    a = Exp(x)
    y = If(c) <then_branch = t () => (float[2,4] u) { u = Neg(a) },
               else_branch = e () => (float[2,4] v) {
                   v = If(c) <then_branch = tt () => (float[2,4] p) { p = Abs(a) },
                              else_branch = ee () => (float[2,4] q) { q = Relu(a) }> }> }"""
LOOP = """toy (float[2,4] x) => (float[2,4] y) {
    a = Exp(x) n = Constant<value = int64 {3}>() go = Constant<value = bool {1}>()
    y = Loop(n, go, x) <body = l (int64 i, bool g, float[2,4] s) => (bool h, float[2,4] t)
        { h = Identity(g) t = Add(s, a) }> }"""
SCAN = """toy (float[2,4] x) => (float[4] y, float[2,4] z) {
    a = Exp(x) k = Constant<value = float[4] {0, 0, 0, 0}>() d = ReduceSum<keepdims = 0>(a)
    y, z = Scan <num_scan_inputs = 1, body = l (float[4] s, float[4] r) => (float[4] t, float[4] u)
        { t = Add(s, r) u = Mul(r, d) }> (k, x) }"""


@pytest.mark.parametrize("c", [True, False])
def test_branches_read_what_is_fed(open_toy: Callable[..., Model], run: Callable[..., Any], c: bool) -> None:
    copy = apart(open_toy(IF).normalised, ["a", "y"], {"a": F32})
    outputs = run(copy, {"x": X, "c": np.array(c), **fed(a=A)})
    assert np.array_equal(outputs["y"], -A if c else np.maximum(A, 0))


def test_bodies_of_loops_read_what_is_fed(open_toy: Callable[..., Model], run: Callable[..., Any]) -> None:
    outputs = run(apart(open_toy(LOOP).normalised, ["a", "y"], {"a": F32}), {"x": X, **fed(a=A)})
    assert np.array_equal(outputs["y"], X + A + A + A)
    assert np.allclose(outputs["a"], np.exp(X))
    model = apart(open_toy(SCAN).normalised, ["y", "z"], {"a": F32, "d": F32})
    assert inputs(model) == ["x", "d::fed"]
    assert np.array_equal(run(model, {"x": X, **fed(d=np.full(4, 3, np.float32))})["z"], X * 3)


@pytest.mark.parametrize(("dtype", "text"), [(np.float16, "float16"), (np.float64, "double")])
def test_other_floats(open_toy: Callable[..., Model], run: Callable[..., Any], dtype: Any, text: str) -> None:
    model = open_toy(f"toy ({text}[n,4] x) => ({text}[n,4] y) {{ a = Neg(x) y = Abs(a) }}").normalised
    outputs = run(
        apart(model, ["y"], {"a": np.dtype(dtype)}), {"x": X.astype(dtype), **fed(a=A.astype(dtype))}
    )
    assert outputs["y"].dtype == dtype
    assert np.array_equal(outputs["y"], np.abs(A.astype(dtype)))
