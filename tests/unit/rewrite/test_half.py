"""Halves in two renderings: the same nodes, rounded at the same points; and they do round."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from trtbuild.model.graph import has_floats
from trtbuild.model.model import Model
from trtbuild.precision.map import PrecisionMap
from trtbuild.rewrite.cut import with_outputs
from trtbuild.rewrite.explicit import explicit

Open = Callable[..., Model]
Resolve = Callable[..., PrecisionMap]
RNG = np.random.default_rng(0)
HALVES = {"fp16": np.float16, "bf16": ml_dtypes.bfloat16}


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


NETWORK = """toy (float[1,4,8,8] x) => (float[1,4,8,8] y, float[1,4,8,8] b, int64[4] shape)
    <float[4] s = {1,2,3,4}> {
    [c1] a = Conv<pads = [1,1,1,1]>(x, w) [bn] n = BatchNormalization(a, s, s, s, s) [r] b = Relu(n)
    [sh] shape = Shape(b) [c2] c = Conv<pads = [1,1,1,1]>(b, w) [add] d = Add(c, x)
    [cat] e = Concat<axis = 3>(d, b, d) [sm] f = Softmax(e) [rs] g = Resize(f, , , sizes)
    [mm] h = MatMul(g, m) [mul] y = Mul(h, d) }"""
PINS = {
    "nothing": ["glob:*=fp32"],
    "everything": ["glob:*=fp16"],
    "int8 and fp16": ["glob:*=fp16", "c1=int8", "c2=int8", "mm=int8"],
    "islands": ["glob:*=fp32", "r=fp16", "sm=fp16", "mul=fp16"],
    "holes": ["glob:*=fp16", "r=fp32", "glob:s*=fp32"],
    "two halves": ["glob:*=fp16", "add=bf16", "sm=bf16", "c2=int8"],
}


@pytest.fixture(scope="module")
def network(open_toy: Open) -> Model:
    weights = {"w": normal(4, 4, 3, 3), "m": normal(8, 8), "sizes": np.asarray([1, 4, 8, 8])}
    return open_toy(NETWORK, weights, opset=22, ir_version=10)


@pytest.mark.parametrize("pins", PINS.values(), ids=PINS)
def test_both_renderings_round_at_the_same_points(
    network: Model,
    resolve: Resolve,
    table: Callable[..., Any],
    paths: Callable[..., Any],
    valid: Callable[..., None],
    run: Callable[..., Any],
    pins: list[str],
) -> None:
    precisions = resolve(network, *pins)
    typed, simulated = (
        explicit(network, precisions, table(network), kind) for kind in ("typed", "simulated")
    )
    assert paths(network, typed) == paths(network, simulated)
    for rendered in (typed, simulated):
        valid(rendered)
    types = {"fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}
    for node in typed.graph:
        if node.name in precisions.nodes and has_floats(node):
            wanted = types.get(precisions[str(node.name)], ir.DataType.FLOAT)
            assert node.outputs[0].dtype == wanted
    for node in simulated.graph:
        if node.name in precisions.nodes and has_floats(node):
            assert node.outputs[0].dtype == ir.DataType.FLOAT
            raw = str(node.outputs[0].name).endswith("::raw")
            assert raw == (precisions[str(node.name)] in types)
    outputs = run(simulated, {"x": normal(1, 4, 8, 8)})
    assert all(np.all(np.isfinite(array)) for array in outputs.values())
    assert outputs["y"].dtype == np.float32


def test_a_resizes_sizes_and_a_normalisations_statistics_stay_float(
    network: Model, resolve: Resolve, paths: Callable[..., Any]
) -> None:
    found = paths(network, explicit(network, resolve(network, "glob:*=fp16"), None, "typed"))
    assert found[("rs", 0)] == ("f", ("fp16",))
    assert found[("rs", 3)] == ("sizes", ())
    assert [found[("bn", index)][1] for index in range(5)] == [("fp16",), (), (), (), ()]


def test_typed_halves_in_a_row_need_no_casts_between(open_toy: Open, resolve: Resolve) -> None:
    model = open_toy("toy (float[4] x) => (float[4] y) { a = Relu(x) b = Exp(a) y = Neg(b) }")
    typed = explicit(model, resolve(model, default="fp16"), None, "typed")
    assert [node.op_type for node in typed.graph] == ["Cast", "Relu", "Exp", "Neg", "Cast"]


def test_one_cast_serves_all_readers(open_toy: Open, resolve: Resolve) -> None:
    model = open_toy(
        "toy (float[4] x) => (float[4] y) { a = Relu(x) b = Exp(x) c = Add(a, b) y = Mul(c, x) }"
    )
    typed = explicit(model, resolve(model, default="fp16"), None, "typed")
    assert [node.op_type for node in typed.graph].count("Cast") == 2


@pytest.mark.parametrize("half", HALVES)
def test_every_tensor_of_a_half_is_rounded(
    open_toy: Open, resolve: Resolve, run: Callable[..., Any], half: str
) -> None:
    text = "toy (float[64] x) => (float[64] y) { a = Relu(x) b = Abs(x) c = Add(a, b) y = Mul(c, w) }"
    weight, x = normal(64), normal(64) * 1000
    model = open_toy(text, {"w": weight}, opset=22, ir_version=10)
    rendered = explicit(model, resolve(model, default=half), None, "simulated")
    outputs = run(with_outputs(rendered, model.compared), {"x": x})

    def rounded(array: np.ndarray) -> np.ndarray:
        return array.astype(HALVES[half]).astype(np.float32)

    expected = {"a": rounded(np.maximum(rounded(x), 0)), "b": rounded(np.abs(x))}
    expected["c"] = rounded(expected["a"] + expected["b"])
    expected["y"] = rounded(expected["c"] * rounded(weight))
    for name, array in expected.items():
        assert np.array_equal(outputs[name], array), name
    assert not np.array_equal(expected["y"], (np.maximum(x, 0) + np.abs(x)) * weight)


@pytest.mark.parametrize(("half", "overflows"), [("fp16", True), ("bf16", False), ("fp32", False)])
def test_what_overflows_is_inf(
    open_toy: Open, resolve: Resolve, run: Callable[..., Any], half: str, overflows: bool
) -> None:
    """60000 + 60000, halved again: fp16 must not come back with 60000."""
    text = "toy (float[2] x) => (float[2] y) <float half = {0.5}> { a = Add(x, x) y = Mul(a, half) }"
    model = open_toy(text, opset=22, ir_version=10)
    rendered = explicit(model, resolve(model, default=half), None, "simulated")
    (y,) = run(rendered, {"x": np.asarray([60000, 1], np.float32)}).values()
    assert y[1] == 1
    assert np.isinf(y[0]) == overflows
    if not overflows:
        assert y[0] == pytest.approx(60000, rel=2**-8)


def test_weights_are_rounded_too(open_toy: Open, resolve: Resolve, run: Callable[..., Any]) -> None:
    weight = np.diag([1e-9, 1e6, 1 + 2**-12, 1]).astype(np.float32)
    model = open_toy("toy (float[1,4] x) => (float[1,4] y) { y = MatMul(x, w) }", {"w": weight})
    rendered = explicit(model, resolve(model, default="fp16"), None, "simulated")
    with np.errstate(invalid="ignore"):
        (y,) = run(rendered, {"x": np.asarray([[1, 0, 1, 1]], np.float32)}).values()
    assert np.isnan(y[0, 1])  # 0 * Inf
    assert (y[0, 0], y[0, 2], y[0, 3]) == (0.0, 1.0, 1.0)


@pytest.mark.parametrize("rendering", ["typed", "simulated"])
def test_a_body_reads_what_its_float_neighbours_read(
    open_toy: Open, resolve: Resolve, valid: Callable[..., None], run: Callable[..., Any], rendering: Any
) -> None:
    text = """toy (float[4] x, bool c) => (float[4] y, float[4] z) {
        [a] a = Relu(x) [i] y = If(c) <then_branch = t () => (float[4] u) { u = Neg(a) },
                                       else_branch = e () => (float[4] v) { v = Abs(a) }> [z] z = Abs(a) }"""
    model = open_toy(text)
    rendered = explicit(model, resolve(model, "a=fp16", default="fp32"), None, rendering)
    valid(rendered)
    x = np.asarray([1 + 2**-12, 2, 3, 70000], np.float32)
    for condition in (True, False) if rendering == "simulated" else ():
        outputs = run(rendered, {"x": x, "c": np.asarray(condition)})
        rounded = np.asarray([1, 2, 3, np.inf], np.float32)
        assert np.array_equal(outputs["z"], rounded)
        assert np.array_equal(outputs["y"], -rounded if condition else rounded)


def test_a_node_that_reads_one_tensor_twice(
    open_toy: Open, resolve: Resolve, valid: Callable[..., None]
) -> None:
    model = open_toy("toy (float[4] x) => (float[4] y) { y = Mul(x, x) }")
    for rendering in ("typed", "simulated"):
        rendered = explicit(model, resolve(model, default="fp16"), None, rendering)
        valid(rendered)
        node = next(node for node in rendered.graph if node.op_type == "Mul")
        assert node.inputs[0] is node.inputs[1]


def test_an_output_read_again_keeps_its_name_and_type(
    open_toy: Open, resolve: Resolve, valid: Callable[..., None]
) -> None:
    model = open_toy("toy (float[4] x) => (float[4] a, float[4] y) { a = Relu(x) y = Exp(a) }")
    for rendering in ("typed", "simulated"):
        rendered = explicit(model, resolve(model, default="fp16"), None, rendering)
        valid(rendered)
        outputs = [(value.name, value.dtype) for value in rendered.graph.outputs]
        assert outputs == [("a", ir.DataType.FLOAT), ("y", ir.DataType.FLOAT)]
