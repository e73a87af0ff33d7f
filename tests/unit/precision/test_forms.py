"""What each operator can run in, and on which edges its int8 form puts Q/DQ."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from trtbuild.model import normalise
from trtbuild.model.model import Model
from trtbuild.precision.forms import Edge, HalfForm, NoForm, fused_conv, half_form, int8_forms

Open = Callable[..., Model]
RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


PRODUCTS = {
    "Conv": ("float[1,4,8,8] x", "[n] y = Conv(x, w)", normal(6, 4, 3, 3), [(0, "x", None), (1, "w", 0)]),
    "grouped Conv": (
        "float[1,4,8,8] x",
        "[n] y = Conv<group = 2>(x, w)",
        normal(6, 2, 3, 3),
        [(0, "x", None), (1, "w", 0)],
    ),
    "depthwise Conv": (
        "float[1,4,8,8] x",
        "[n] y = Conv<group = 4>(x, w)",
        normal(4, 1, 3, 3),
        [(0, "x", None), (1, "w", 0)],
    ),
    "Conv of one axis": (
        "float[1,4,8] x",
        "[n] y = Conv(x, w)",
        normal(6, 4, 3),
        [(0, "x", None), (1, "w", 0)],
    ),
    "Conv with bias": (
        "float[1,4,8,8] x",
        "[n] y = Conv(x, w, b)",
        normal(6, 4, 3, 3),
        [(0, "x", None), (1, "w", 0)],
    ),
    "ConvTranspose": (
        "float[1,4,8,8] x",
        "[n] y = ConvTranspose(x, w)",
        normal(4, 6, 3, 3),
        [(0, "x", None), (1, "w", 1)],
    ),
    "grouped ConvTranspose": (
        "float[1,4,8,8] x",
        "[n] y = ConvTranspose<group = 2>(x, w)",
        normal(4, 3, 3, 3),
        [(0, "x", None), (1, "w", 1)],
    ),
    "Gemm": ("float[2,4] x", "[n] y = Gemm(x, w)", normal(4, 6), [(0, "x", None), (1, "w", 1)]),
    "Gemm, transB = 0": (
        "float[2,4] x",
        "[n] y = Gemm<transB = 0>(x, w)",
        normal(4, 6),
        [(0, "x", None), (1, "w", 1)],
    ),
    "Gemm, transB = 1": (
        "float[2,4] x",
        "[n] y = Gemm<transB = 1>(x, w, b)",
        normal(6, 4),
        [(0, "x", None), (1, "w", 0)],
    ),
    "Gemm, weight left": (
        "float[6,2] x",
        "[n] y = Gemm(w, x)",
        normal(4, 6),
        [(0, "w", None), (1, "x", None)],
    ),
    "Gemm of activations": (
        "float[4,4] x",
        "[n] y = Gemm(x, x)",
        normal(1),
        [(0, "x", None), (1, "x", None)],
    ),
    "MatMul": ("float[2,4] x", "[n] y = MatMul(x, w)", normal(4, 6), [(0, "x", None), (1, "w", 1)]),
    "MatMul, weight left": (
        "float[4,2] x",
        "[n] y = MatMul(w, x)",
        normal(6, 4),
        [(0, "w", None), (1, "x", None)],
    ),
    "MatMul, batched weight": (
        "float[3,2,4] x",
        "[n] y = MatMul(x, w)",
        normal(3, 4, 6),
        [(0, "x", None), (1, "w", 2)],
    ),
    "MatMul, batched activation": (
        "float[3,2,4] x",
        "[n] y = MatMul(x, w)",
        normal(4, 6),
        [(0, "x", None), (1, "w", 1)],
    ),
    "MatMul, weight of one axis": (
        "float[2,4] x",
        "[n] y = MatMul(x, w)",
        normal(4),
        [(0, "x", None), (1, "w", None)],
    ),
    "MatMul of activations": (
        "float[4,4] x",
        "t = Transpose(x) [n] y = MatMul(x, t)",
        normal(1),
        [(0, "x", None), (1, "t", None)],
    ),
}


@pytest.mark.parametrize(("inputs", "body", "weight", "edges"), PRODUCTS.values(), ids=PRODUCTS)
def test_products(
    open_toy: Open, inputs: str, body: str, weight: np.ndarray, edges: list[tuple[int, str, int | None]]
) -> None:
    model = open_toy(f"toy ({inputs}) => (float y) {{ {body} }}", {"w": weight, "b": normal(6)})
    expected = tuple(Edge("n", index, tensor, tensor == "w", axis) for index, tensor, axis in edges)
    assert int8_forms(model.graph)["n"] == expected


NO_PRODUCTS = {
    "computed Conv weight": (
        "float[6,4,3,3] x, float[1,4,8,8] z",
        "[n] y = Conv(z, x)",
        "its weight is computed",
    ),
    "integers": ("int64[2,2] x", "[n] y = MatMul(x, x)", "int64, int64, not float32"),
    "float16": ("float16[2,2] x", "[n] y = MatMul(x, x)", "float16, float16, not float32"),
    "double": ("double[2,2] x", "[n] y = MatMul(x, x)", "double, double, not float32"),
    "Relu": ("float[2] x", "[n] y = Relu(x)", "Relu has no int8 form"),
    "Add": ("float[2] x", "[n] y = Add(x, x)", "Add has no int8 form"),
    "another domain": ("float[2,2] x", "[n] y = mine.MatMul(x, x)", "MatMul has no int8 form"),
    "unknown type": (
        "float[2,2] x",
        "p = mine.P(x) [n] y = MatMul(x, p)",
        "float, of unknown type, not float32",
    ),
}


@pytest.mark.parametrize(("inputs", "body", "reason"), NO_PRODUCTS.values(), ids=NO_PRODUCTS)
def test_what_has_no_int8_form(open_toy: Open, inputs: str, body: str, reason: str) -> None:
    element = inputs.partition("[")[0]
    model = open_toy(f"toy ({inputs}) => ({element} y) {{ {body} }}", domains="mine")
    form = int8_forms(model.graph)["n"]
    assert isinstance(form, NoForm)
    assert reason in form.reason


def test_a_product_of_constants_has_no_int8_form(toy: Callable[..., onnx.ModelProto]) -> None:
    """Normalising folds it, unless it is too large to."""
    proto = toy(
        "toy (float[4,4] x) => (float[4,4] y) { [n] a = MatMul(w, v) y = Add(a, x) }",
        {"w": normal(4, 4), "v": normal(4, 4)},
    )
    graph = ir.from_proto(proto).graph
    graph[1].name = "add"
    form = int8_forms(graph)["n"]
    assert isinstance(form, NoForm)
    assert "both of its operands are constant" in form.reason


def test_a_float16_model_has_no_int8_form(open_toy: Open) -> None:
    text = "toy (float16[2,4] x) => (float16[2,4] y) { a = MatMul(x, w) y = MatMul(a, w) }"
    model = open_toy(text, {"w": normal(4, 4).astype(np.float16)})
    assert all(isinstance(form, NoForm) for form in int8_forms(model.graph).values())


BLOCK = "toy (float[1,4,8,8] x) => (float[1,4,8,8] y{outputs}) <float[4] s = {{1,2,3,4}}> {{ {body} }}"
PADS = "<pads = [1,1,1,1]>"
RESIDUALS = {
    "Conv": (f"a = Conv{PADS}(x, w) [add] y = Add(a, x)", (1, "x")),
    "Conv, the other way round": (f"a = Conv{PADS}(x, w) [add] y = Add(x, a)", (0, "x")),
    "through BatchNormalization": (
        f"a = Conv{PADS}(x, w) b = BatchNormalization(a, s, s, s, s) [add] y = Add(b, x)",
        (1, "x"),
    ),
    "projection": (f"p = Conv{PADS}(x, w) a = Conv{PADS}(x, w) [add] y = Add(a, p)", (0, "a")),
    "through Relu": (f"a = Conv{PADS}(x, w) b = Relu(a) [add] y = Add(b, x)", None),
    "MatMul": ("a = MatMul(x, v) [add] y = Add(a, x)", None),
    "no residual": (f"a = Conv{PADS}(x, w) [add] y = Add(a, s4)", None),
    "Conv read twice": (f"a = Conv{PADS}(x, w) r = Relu(a) q = Add(a, x) [add] y = Mul(q, r)", None),
    "Conv weight computed": (f"q = Expand(x, six) a = Conv{PADS}(x, q) [add] y = Add(a, x)", None),
}


@pytest.mark.parametrize(("body", "edge"), RESIDUALS.values(), ids=RESIDUALS)
def test_a_residual_add_quantizes_the_branch_that_is_not_the_conv(
    open_toy: Open, body: str, edge: tuple[int, str] | None
) -> None:
    weights = {
        "w": normal(4, 4, 3, 3),
        "v": normal(8, 8),
        "s4": normal(4, 1, 1),
        "six": np.asarray([4, 4, 8, 8]),
    }
    model = open_toy(BLOCK.format(body=body, outputs=""), weights)
    form = int8_forms(model.graph)["add"]
    if edge is None:
        assert isinstance(form, NoForm)
    else:
        assert form == (Edge("add", *edge, constant=False, axis=None),)


@pytest.mark.parametrize("shown", ["a", "b"])
def test_an_add_cannot_fuse_with_a_tensor_that_the_model_shows(open_toy: Open, shown: str) -> None:
    body = f"a = Conv{PADS}(x, w) b = BatchNormalization(a, s, s, s, s) [add] y = Add(b, x)"
    model = open_toy(BLOCK.format(body=body, outputs=f", float[1,4,8,8] {shown}"), {"w": normal(4, 4, 3, 3)})
    add = next(node for node in model.graph if node.name == "add")
    assert fused_conv(add) is None
    assert isinstance(int8_forms(model.graph)["add"], NoForm)


CONSTANTS = """float[4] s = {1,2,3,4}, float half = {0.5}, float[4] twice = {1,1,2,2}, float[0] roi = {},
    float two = {2}, int64[1] k = {2},
    int64[8] pads = {0,0,0,0,0,0,1,1}, int64[2] flat = {4,-1}, float[1,4] on = {0,1,0,1}"""
Y = "float[a,b,c,d] y"
HALF_FORMS = {
    "Relu": (Y, "[n] y = Relu(x)", ((0,), (0,))),
    "Add": (Y, "[n] y = Add(x, half)", ((0, 1), (0,))),
    "Conv": (Y, "[n] y = Conv(x, w, s)", ((0, 1, 2), (0,))),
    "Concat": (Y, "[n] y = Concat<axis = 1>(x, x, x, x)", ((0, 1, 2, 3), (0,))),
    "Resize: roi and scales stay": (Y, "[n] y = Resize(x, roi, twice)", ((0,), (0,))),
    "Clip": (Y, "[n] y = Clip(x, half, two)", ((0, 1, 2), (0,))),
    "Clip without min": (Y, "[n] y = Clip(x, , two)", ((0, 2), (0,))),
    "Pow: the exponent has a type of its own": (Y, "[n] y = Pow(x, two)", ((0,), (0,))),
    "BatchNormalization: statistics stay": (Y, "[n] y = BatchNormalization(x, s, s, s, s)", ((0,), (0,))),
    "LayerNormalization": (Y, "[n] y = LayerNormalization(x, s, s)", ((0, 1, 2), (0,))),
    "LayerNormalization: its mean stays": (
        "float[a,b,c,d] y, float[e,f,g,h] m",
        "[n] y, m = LayerNormalization(x, s)",
        ((0, 1), (0,)),
    ),
    "Where": (Y, "c = Greater(x, half) [n] y = Where(c, x, half)", ((1, 2), (0,))),
    "TopK: indices stay": ("float[a,b,c,d] y, int64[e,f,g,h] i", "[n] y, i = TopK(x, k)", ((0,), (0,))),
    "Reshape": (Y, "[n] y = Reshape(x, flat)", ((0,), (0,))),
    "Pad": (Y, "[n] y = Pad(x, pads, half)", ((0, 2), (0,))),
    "Gather": (Y, "[n] y = Gather(x, k)", ((0,), (0,))),
    "Split": (
        "float[a,b,c,d] y, float[e,f,g,h] z",
        "[n] y, z = Split<axis = 1, num_outputs = 2>(x)",
        ((0,), (0, 1)),
    ),
    "MatMul": (Y, "[n] y = MatMul(x, x)", ((0, 1), (0,))),
    "Einsum": (Y, '[n] y = Einsum<equation = "abcd->abdc">(x)', ((0,), (0,))),
}


@pytest.mark.parametrize("half", ["fp16", "bf16"])
@pytest.mark.parametrize(("outputs", "body", "form"), HALF_FORMS.values(), ids=HALF_FORMS)
def test_half_forms_follow_the_schema(
    open_toy: Open, half: str, outputs: str, body: str, form: tuple[tuple[int, ...], tuple[int, ...]]
) -> None:
    text = f"toy (float[1,4,4,4] x) => ({outputs}) <{CONSTANTS}> {{ {body} }}"
    model = open_toy(text, {"w": normal(4, 4, 1, 1)}, opset=22)  # where bf16 is as complete as fp16
    node = next(node for node in model.graph if node.name == "n")
    found = half_form(node, half, 22)
    if half == "bf16" and node.op_type in ("TopK", "Einsum"):
        assert isinstance(found, NoForm)
    else:
        assert found == HalfForm(*form)


def test_bf16_came_later_than_fp16(open_toy: Open) -> None:
    text = "toy (float[1,4,4,4] x) => (float[1,4,4,4] y) { [n] y = Conv(x, w) }"
    model = open_toy(text, {"w": normal(4, 4, 1, 1)}, opset=18)
    assert half_form(model.graph[0], "fp16", 18) == HalfForm((0, 1), (0,))
    assert isinstance(half_form(model.graph[0], "bf16", 18), NoForm)


NO_HALF_FORMS = {
    "Cast": ("int64[2] x", "[n] y = Cast<to = 1>(x)", "part of the model"),
    "Range": ("float x", "[n] y = Range(x, two, half)", "no fp16 form"),
    "Shape": ("float[N] x", "[n] s0 = Shape(x) y = Cast<to = 1>(s0)", "no fp16 form"),
    "Greater": ("float[2] x", "[n] g = Greater(x, half) y = Cast<to = 1>(g)", "no fp16 form"),
    "Equal": ("float[2] x", "[n] g = Equal(x, half) y = Cast<to = 1>(g)", "no fp16 form"),
    "ArgMax": ("float[2] x", "[n] g = ArgMax(x) y = Cast<to = 1>(g)", "no fp16 form"),
    "integers": ("int64[2] x", "[n] a = Add(x, x) y = Cast<to = 1>(a)", "no fp16 form"),
    "ConstantOfShape": ("int64[2] x", "[n] y = ConstantOfShape(x)", "part of the model"),
    "RandomNormalLike": ("float[2] x", "[n] y = RandomNormalLike(x)", "no fp16 form"),
    "QuantizeLinear": (
        "float[2] x",
        "q = QuantizeLinear(x, half) [n] y = DequantizeLinear(q, half)",
        "part of the model",
    ),
    "another domain": ("float[2] x", "[n] y = com.microsoft.Gelu(x)", "no standard ONNX operator"),
    "a plugin": ("float[2] x", "[n] y = Plugin_TRT(x)", "no standard ONNX operator"),
    "newer than the model": ("float[2] x", "[n] y = Gelu(x)", "no standard ONNX operator"),
    "double": ("double[2] x", "[n] a = Relu(x) y = Cast<to = 1>(a)", "no fp16 form"),
    "float16": ("float16[2] x", "[n] a = Relu(x) y = Cast<to = 1>(a)", "no fp16 form"),
    "If": (
        "float[2] x, bool c",
        """[n] y = If(c) <then_branch = t () => (float[2] u) { u = Relu(x) },
                          else_branch = e () => (float[2] v) { v = Neg(x) }>""",
        "the body of a If stays in float",
    ),
}


@pytest.mark.parametrize(("inputs", "body", "reason"), NO_HALF_FORMS.values(), ids=NO_HALF_FORMS)
def test_what_has_no_half_form(open_toy: Open, inputs: str, body: str, reason: str) -> None:
    model = open_toy(
        f"toy ({inputs}) => (float[a] y) <{CONSTANTS}> {{ {body} }}", opset=18, domains="com.microsoft"
    )
    node = next(node for node in model.graph if node.name == "n")
    form = half_form(node, "fp16", model.normalised.opset_imports[""])
    assert isinstance(form, NoForm)
    assert reason in form.reason


def test_a_half_weight_of_any_size_is_a_weight(open_toy, monkeypatch):
    """Stored as float16 and cast: above the limit on folding it was taken for an activation."""
    monkeypatch.setattr(normalise, "FOLDED_ELEMENTS", 4)
    text = "toy (float[N,4] x) => (float[N,6] y) { [cast] w = Cast<to = 1>(h) [fc] y = MatMul(x, w) }"
    model = open_toy(text, {"h": np.ones((4, 6), np.float16)})
    edges = int8_forms(model.graph)["fc"]
    assert [(edge.constant, edge.axis) for edge in edges] == [(False, None), (True, 1)]


def test_a_constant_that_was_not_folded_is_no_activation(open_toy, monkeypatch):
    monkeypatch.setattr(normalise, "FOLDED_ELEMENTS", 4)
    text = "toy (float[N,4] x) => (float[N,6] y) { [abs] w = Abs(h) [fc] y = MatMul(x, w) }"
    model = open_toy(text, {"h": np.ones((4, 6), np.float32)})
    assert int8_forms(model.graph)["fc"] == NoForm("it reads a constant that was not folded")
