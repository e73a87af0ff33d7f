"""Each kind of residual block is found by its Add; look-alikes are not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

Found = Callable[..., list[str]]

RESIDUALS = {
    "block": ("a = MatMul(x, w) b = Relu(a) c = MatMul(b, w) y = Add(c, x)", ["y"]),
    "swapped": ("a = MatMul(x, w) y = Add(x, a)", ["y"]),
    "Conv": ("a = Conv(x, w) y = Add(x, a)", ["y"]),
    "ConvTranspose": ("a = ConvTranspose(x, w) y = Add(x, a)", ["y"]),
    "Gemm": ("a = Gemm(x, w, beta) y = Add(x, a)", ["y"]),
    "bias between": ("a = MatMul(x, w) b = Add(a, beta) c = Relu(b) y = Add(c, x)", ["y"]),
    "shortcut behind an Identity": ("a = MatMul(x, w) i = Identity(x) y = Add(a, i)", ["y"]),
    "projection": ("s = Conv(x, w) a = Conv(x, w) b = Relu(a) c = Conv(b, w) y = Add(c, s)", ["y"]),
    "two blocks": (
        "a = MatMul(x, w) r = Add(a, x) b = MatMul(r, w) c = Relu(b) y = Add(r, c)",
        ["r", "y"],
    ),
    "attention": (
        "n = LayerNormalization(x, gamma) q = MatMul(n, w) k_ = MatMul(n, w) v = MatMul(n, w)"
        "t = Transpose(k_) a = MatMul(q, t) s = Softmax(a) o = MatMul(s, v) p = MatMul(o, w)"
        "b = Add(p, beta) y = Add(x, b)",
        ["y"],
    ),
}


@pytest.mark.parametrize(("body", "members"), RESIDUALS.values(), ids=RESIDUALS)
def test_residual_add(found: Found, body: str, members: list[str]) -> None:
    assert found("residual-add", body) == members


@pytest.mark.parametrize(
    "body",
    [
        pytest.param("a = MatMul(x, w) y = Add(a, beta)", id="bias"),
        pytest.param("a = MatMul(x, w) b = Identity(beta) y = Add(a, b)", id="bias behind an Identity"),
        pytest.param("a = Relu(x) y = Add(a, x)", id="nothing with weights"),
        pytest.param("a = MatMul(x, w) b = Relu(a) y = Add(a, b)", id="weights only before the fork"),
        pytest.param("a = MatMul(x, w) y = Add(a, a)", id="doubled"),
        pytest.param("a = MatMul(x, w) b = MatMul(z, w) y = Add(a, b)", id="strangers"),
        pytest.param("a = MatMul(x, w) b = Sigmoid(x) y = Add(a, b)", id="another function of the input"),
        pytest.param("a = MatMul(x, w) y = Mul(a, x)", id="no Add"),
        pytest.param("n = Shape(x) f = Cast<to=1>(n) a = MatMul(x, w) y = Add(a, f)", id="a shape"),
    ],
)
def test_not_a_residual_add(found: Found, body: str) -> None:
    assert found("residual-add", body, inputs="float[N,8] x, float[N,8] z") == []


def test_the_walk_back_is_bounded(found: Found) -> None:
    steps = "".join(f"v{i + 1} = Relu(v{i}) " for i in range(300))
    assert found("residual-add", f"v0 = MatMul(x, w) {steps} y = Add(v300, x)") == []
