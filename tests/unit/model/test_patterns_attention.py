"""The scores of each spelling of attention are found, with exactly their nodes; look-alikes are not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

Found = Callable[..., list[str]]

QKV = "float[N,8] q, float[8,N] k_, float[N,8] mask, bool[N,8] keep"

ATTENTION = {
    "bare": ("a = MatMul(q, k_) y = Softmax(a)", "a"),
    "scaled and masked": ("a = MatMul(q, k_) b = Mul(a, eighth) c = Add(b, mask) y = Softmax(c)", "a b c"),
    "swapped": ("a = MatMul(q, k_) b = Mul(eighth, a) c = Add(mask, b) y = Softmax(c)", "a b c"),
    "divided, Where": ("a = MatMul(q, k_) b = Div(a, two) c = Where(keep, low, b) y = Softmax(c)", "a b c"),
    "constant bias": ("a = MatMul(q, k_) c = Add(beta, a) y = Softmax(c)", "a c"),
    "subtracted mask": ("a = MatMul(q, k_) c = Sub(a, mask) y = Softmax(c)", "a c"),
    "mask that is computed": (
        "a = MatMul(q, k_) i = Sub(one, mask) j = Mul(i, low) c = Add(a, j) y = Softmax(c)",
        "a c",
    ),
    "scale from the shape": (
        "a = MatMul(q, k_) n = Shape(q) i = Slice(n, axes, axes) f = Cast<to=1>(i) r = Sqrt(f) b = Div(a, r)"
        "y = Softmax(b)",
        "a b",
    ),
    "reshaped": (
        "a = MatMul(q, k_) b = Reshape(a, shape) c = Transpose(b) d = Identity(c) e = Cast<to=1>(d)"
        "f = Unsqueeze(e, axes) g = Squeeze(f, axes) y = Softmax(g)",
        "a b c d e f g",
    ),
    "softmax written out": (
        "a = MatMul(q, k_) b = Mul(a, eighth) t = ReduceMax(b) d = Sub(b, t) e = Exp(d)"
        "s = ReduceSum(e, axes) y = Div(e, s)",
        "a b",
    ),
    "scores are an output too": ("a = MatMul(q, k_) b = Softmax(a) y = Add(a, b)", "a"),
    "content and position": (
        "a = MatMul(q, k_) b = MatMul(mask, k_) c = Add(a, b) y = Softmax(c)",
        "a b c",
    ),
}


@pytest.mark.parametrize(("body", "members"), ATTENTION.values(), ids=ATTENTION)
def test_attention_scores(found: Found, body: str, members: str) -> None:
    assert found("attention-scores", body, inputs=QKV) == [members]


@pytest.mark.parametrize(
    "body",
    [
        pytest.param("a = MatMul(q, w) y = Softmax(a)", id="constant weight"),
        pytest.param("a = MatMul(q, w) b = Add(a, beta) y = Softmax(b)", id="classifier"),
        pytest.param("t = Transpose(w) a = MatMul(q, t) y = Softmax(a)", id="computed from a constant"),
        pytest.param("a = MatMul(q, k_) b = Relu(a) y = Softmax(b)", id="an activation between"),
        pytest.param("a = MatMul(q, k_) b = Mul(a, mask) y = Softmax(b)", id="scaled by an activation"),
        pytest.param("a = MatMul(q, k_) b = Div(one, a) y = Softmax(b)", id="a divisor"),
        pytest.param("a = MatMul(q, k_) y = Sigmoid(a)", id="no softmax"),
        pytest.param("b = Softmax(q) y = MatMul(b, k_)", id="after the softmax"),
    ],
)
def test_not_attention_scores(found: Found, body: str) -> None:
    assert found("attention-scores", body, inputs=QKV) == []


def test_attention_scores_shared_by_two_softmaxes_are_one_match(found: Found) -> None:
    body = "a = MatMul(q, k_) b = Softmax(a) c = Mul(a, two) d = Softmax(c) y = Add(b, d)"
    assert found("attention-scores", body, inputs=QKV) == ["a"]
