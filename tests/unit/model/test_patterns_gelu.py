"""Each spelling of GELU is found, with exactly its nodes; look-alikes are not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

Found = Callable[..., list[str]]

ERF = "a = Div(x, root2) f = Erf(a) b = Add(f, one) "
CUBE = "p = Pow(x, three) q = Mul(p, c3) r = Add(x, q) s = Mul(r, k) f = Tanh(s) b = Add(f, one) "

GELUS = {
    "operator": ("y = Gelu(x)", "y"),
    "com.microsoft.Gelu": ("y = com.microsoft.Gelu(x)", "y"),
    "FastGelu": ("y = com.microsoft.FastGelu(x, beta)", "y"),
    "BiasGelu": ("y = com.microsoft.BiasGelu(x, beta)", "y"),
    "QuickGelu": ("y = com.microsoft.QuickGelu<alpha=1.702>(x)", "y"),
    "x (1 + erf), halved": (ERF + "c = Mul(x, b) y = Mul(c, half)", "a f b c y"),
    "halved by Div": (ERF + "c = Mul(x, b) y = Div(c, two)", "a f b c y"),
    "x / 2 first": (ERF + "c = Mul(half, x) y = Mul(c, b)", "a f b c y"),
    "(1 + erf) / 2 first": (ERF + "c = Mul(b, half) y = Mul(x, c)", "a f b c y"),
    "swapped, multiplied by the inverse": (
        "a = Mul(rsqrt2, x) f = Erf(a) b = Add(one, f) c = Mul(b, x) y = Mul(half, c)",
        "a f b c y",
    ),
    "distributed": (
        "a = Div(x, root2) f = Erf(a) b = Mul(f, half) c = Add(b, half) y = Mul(x, c)",
        "a f b c y",
    ),
    "identities between": (
        "x0 = Identity(x) a = Div(x0, root2) f = Erf(a) b = Add(f, one) i = Identity(b) c = Mul(x, i)"
        "y = Mul(c, half)",
        "a f b i c y",
    ),
    "tanh": (CUBE + "c = Mul(x, b) y = Mul(c, half)", "p q r s f b c y"),
    "tanh, x / 2 first": (CUBE + "c = Mul(half, x) y = Mul(b, c)", "p q r s f b c y"),
    "tanh, products for the power": (
        "p = Mul(x, x) p3 = Mul(p, x) q = Mul(c3, p3) r = Add(q, x) s = Mul(k, r) f = Tanh(s) b = Add(one, f)"
        "c = Mul(half, b) y = Mul(x, c)",
        "p p3 q r s f b c y",
    ),
    "tanh, factored": (
        "p = Mul(x, x) q = Mul(p, kc3) r = Add(q, k) s = Mul(x, r) f = Tanh(s) b = Add(f, one)"
        "c = Mul(x, b) y = Mul(c, half)",
        "p q r s f b c y",
    ),
    "sigmoid": ("a = Mul(x, quick) f = Sigmoid(a) y = Mul(x, f)", "a f y"),
    "sigmoid, swapped": ("a = Mul(quick, x) f = Sigmoid(a) y = Mul(f, x)", "a f y"),
    "of a product": (
        "z = Mul(x, gamma) a = Div(z, root2) f = Erf(a) b = Add(f, one) c = Mul(z, b) y = Mul(c, half)",
        "a f b c y",
    ),
    "gated": (ERF + "c = Mul(x, b) g = Mul(c, half) h = Relu(x) y = Mul(g, h)", "a f b c g"),
    "argument used elsewhere": (
        ERF + "c = Mul(x, b) g = Mul(c, half) h = Relu(a) y = Add(g, h)",
        "a f b c g",
    ),
}


@pytest.mark.parametrize(("body", "members"), GELUS.values(), ids=GELUS)
def test_gelu(found: Found, body: str, members: str) -> None:
    assert found("gelu", body, opset=20) == [members]


@pytest.mark.parametrize(
    "body",
    [
        pytest.param("f = Sigmoid(x) y = Mul(x, f)", id="SiLU"),
        pytest.param("a = Mul(x, one) f = Sigmoid(a) y = Mul(x, f)", id="SiLU, as Paddle writes it"),
        pytest.param("a = Mul(x, quick) f = Sigmoid(a) z = Relu(x) y = Mul(z, f)", id="times something else"),
        pytest.param("y = com.microsoft.QuickGelu<alpha=1.0>(x)", id="SiLU as QuickGelu"),
        pytest.param("f = Erf(x) b = Add(f, one) c = Mul(x, b) y = Mul(c, half)", id="no root of two"),
        pytest.param(ERF + "y = Mul(x, b)", id="not halved"),
        pytest.param("f = Tanh(x) b = Add(f, one) c = Mul(x, b) y = Mul(c, half)", id="tanh alone"),
        pytest.param("a = Softplus(x) f = Tanh(a) y = Mul(x, f)", id="Mish"),
    ],
)
def test_not_a_gelu(found: Found, body: str) -> None:
    assert found("gelu", body) == []
