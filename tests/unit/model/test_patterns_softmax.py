"""Each spelling of softmax and log-softmax is found, with exactly its nodes; look-alikes are not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

Found = Callable[..., list[str]]

SHIFT = "t = ReduceMax<axes=[-1]>(x) d = Sub(x, t) "

SOFTMAXES = {
    "operator": ("y = Softmax<axis=-1>(x)", "y"),
    "plain": ("e = Exp(x) s = ReduceSum(e, axes) y = Div(e, s)", "e s y"),
    "shifted": (SHIFT + "e = Exp(d) s = ReduceSum(e, axes) y = Div(e, s)", "t d e s y"),
    "shifted by something else": (
        "d = Sub(x, gamma) e = Exp(d) s = ReduceSum(e, axes) y = Div(e, s)",
        "e s y",
    ),
    "reciprocal": ("e = Exp(x) s = ReduceSum(e, axes) r = Reciprocal(s) y = Mul(r, e)", "e s r y"),
    "broadcast, as JAX writes it": (
        "t = ReduceMax<axes=[-1]>(x) f = Max(low, t) b = Reshape(f, shape) d = Sub(x, b) e = Exp(d)"
        "s = ReduceSum(e, axes) b2 = Reshape(s, shape) b3 = Expand(b2, shape) y = Div(e, b3)",
        "t f b d e s b2 b3 y",
    ),
    "exponential used elsewhere": (
        "e = Exp(x) s = ReduceSum(e, axes) n = Div(e, s) r = Relu(e) y = Add(n, r)",
        "e s n",
    ),
}


@pytest.mark.parametrize(("body", "members"), SOFTMAXES.values(), ids=SOFTMAXES)
def test_softmax(found: Found, body: str, members: str) -> None:
    assert found("softmax", body) == [members]


@pytest.mark.parametrize(
    "body",
    [
        pytest.param("e = Exp(x) y = Div(e, gamma)", id="no sum"),
        pytest.param("e = Exp(x) s = ReduceSum(x, axes) y = Div(e, s)", id="sum of something else"),
        pytest.param("e = Exp(x) g = Exp(gamma) s = ReduceSum(g, axes) y = Div(e, s)", id="other exp"),
        pytest.param("e = Exp(x) s = ReduceSum(e, axes) y = Div(s, e)", id="upside down"),
        pytest.param("y = LogSoftmax(x)", id="logsoftmax"),
        pytest.param("y = com.microsoft.Softmax(x)", id="another domain"),
    ],
)
def test_not_a_softmax(found: Found, body: str) -> None:
    assert found("softmax", body) == []


LOGSOFTMAXES = {
    "operator": ("y = LogSoftmax<axis=-1>(x)", "y"),
    "log of the operator": ("n = Softmax<axis=-1>(x) y = Log(n)", "n y"),
    "log of the formula": ("e = Exp(x) s = ReduceSum(e, axes) n = Div(e, s) y = Log(n)", "e s n y"),
    "identity between": ("n = Softmax<axis=-1>(x) i = Identity(n) y = Log(i)", "n i y"),
    "shifted": (SHIFT + "e = Exp(d) s = ReduceSum(e, axes) l = Log(s) y = Sub(d, l)", "t d e s l y"),
    "not shifted": ("e = Exp(x) s = ReduceSum(e, axes) l = Log(s) y = Sub(x, l)", "e s l y"),
    "ReduceLogSum": ("e = Exp(x) l = ReduceLogSum<axes=[-1]>(e) y = Sub(x, l)", "e l y"),
    "ReduceLogSumExp": ("l = ReduceLogSumExp<axes=[-1]>(x) y = Sub(x, l)", "l y"),
}


@pytest.mark.parametrize(("body", "members"), LOGSOFTMAXES.values(), ids=LOGSOFTMAXES)
def test_logsoftmax(found: Found, body: str, members: str) -> None:
    assert found("logsoftmax", body) == [members]


@pytest.mark.parametrize(
    "body",
    [
        pytest.param("y = Softmax(x)", id="softmax"),
        pytest.param("n = Sigmoid(x) y = Log(n)", id="logsigmoid"),
        pytest.param("l = ReduceLogSumExp<axes=[-1]>(x) y = Sub(l, x)", id="upside down"),
        pytest.param("r = Relu(x) l = ReduceLogSumExp<axes=[-1]>(x) y = Sub(r, l)", id="something else"),
    ],
)
def test_not_a_logsoftmax(found: Found, body: str) -> None:
    assert found("logsoftmax", body) == []
