"""Each spelling of a layer norm is found, with exactly its nodes; look-alikes are not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

Found = Callable[..., list[str]]

MEAN = "m = ReduceMean<axes=[-1]>(x) d = Sub(x, m) "
VARIANCE = "p = Pow(d, two) v = ReduceMean<axes=[-1]>(p) e = Add(v, eps) "

LAYERNORMS = {
    "plain": (MEAN + VARIANCE + "s = Sqrt(e) y = Div(d, s)", "m d p v e s y"),
    "gamma and beta": (
        MEAN + VARIANCE + "s = Sqrt(e) n = Div(d, s) g = Mul(n, gamma) y = Add(g, beta)",
        "m d p v e s n g y",
    ),
    "every operand swapped": (
        MEAN + "p = Mul(d, d) v = ReduceMean<axes=[-1]>(p) e = Add(eps, v) s = Sqrt(e) n = Div(d, s)"
        "g = Mul(gamma, n) y = Add(beta, g)",
        "m d p v e s n g y",
    ),
    "two Sub nodes": (
        MEAN + "d2 = Sub(x, m) p = Pow(d2, two) v = ReduceMean<axes=[-1]>(p) e = Add(v, eps) s = Sqrt(e)"
        "y = Div(d, s)",
        "m d d2 p v e s y",
    ),
    "two means and two Sub nodes": (
        MEAN + "m2 = ReduceMean<axes=[-1]>(x) d2 = Sub(x, m2) p = Pow(d2, two) v = ReduceMean<axes=[-1]>(p)"
        "e = Add(v, eps) s = Sqrt(e) y = Div(d, s)",
        "m d m2 d2 p v e s y",
    ),
    "reciprocal": (MEAN + VARIANCE + "s = Sqrt(e) r = Reciprocal(s) y = Mul(d, r)", "m d p v e s r y"),
    "one over": (MEAN + VARIANCE + "s = Sqrt(e) r = Div(one, s) y = Mul(r, d)", "m d p v e s r y"),
    "powers": (MEAN + VARIANCE + "r = Pow(e, minus_half) y = Mul(d, r)", "m d p v e r y"),
    "power one half": (MEAN + VARIANCE + "s = Pow(e, half) y = Div(d, s)", "m d p v e s y"),
    "gamma inside": (
        MEAN + VARIANCE + "s = Sqrt(e) r = Reciprocal(s) g = Mul(r, gamma) n = Mul(d, g) y = Add(n, beta)",
        "m d p v e s r g n y",
    ),
    "gamma inside, a power": (
        MEAN + VARIANCE + "r = Pow(e, minus_half) g = Mul(gamma, r) y = Mul(d, g)",
        "m d p v e r g y",
    ),
    "single pass, as JAX writes it": (
        "m1 = ReduceSum(x, axes) m = Mul(m1, eighth) d = Sub(x, m) p = Mul(x, x) q = ReduceSum(p, axes)"
        "pm = Mul(q, eighth) mm = Mul(m, m) v = Sub(pm, mm) c = Max(zero, v) e = Add(c, eps) s = Sqrt(e)"
        "y = Div(d, s)",
        "m1 m d p q pm mm v c e s y",
    ),
    "casts and identities between": (
        "x0 = Identity(x) m = ReduceMean<axes=[-1]>(x0) d = Sub(x, m) h = Cast<to=1>(d) p = Pow(h, two)"
        "v = ReduceMean<axes=[-1]>(p) e = Add(v, eps) s = Sqrt(e) n = Div(d, s) i = Identity(n)"
        "g0 = Identity(gamma) y = Mul(i, g0)",
        "m d h p v e s n i y",
    ),
    "root mean square": (
        "p = Pow(x, two) v = ReduceMean<axes=[-1]>(p) e = Add(v, eps) s = Sqrt(e) n = Div(x, s)"
        "y = Mul(n, gamma)",
        "p v e s n y",
    ),
    "operator": ("y = LayerNormalization<axis=-1>(x, gamma, beta)", "y"),
    "SkipLayerNormalization": ("y = com.microsoft.SkipLayerNormalization(x, x, gamma, beta)", "y"),
    "SimplifiedLayerNormalization": ("y = SimplifiedLayerNormalization(x, gamma)", "y"),
}


@pytest.mark.parametrize(("body", "members"), LAYERNORMS.values(), ids=LAYERNORMS)
def test_layernorm(found: Found, body: str, members: str) -> None:
    assert found("layernorm", body) == [members]


def test_layernorm_with_axes_as_an_input_and_constants_from_nodes(found: Found) -> None:
    body = (
        "two_ = Constant<value_float=2.0>() eps_ = Constant<value_floats=[1e-5]>()"
        "gamma_ = Constant<value=float[8] {1,1,1,1,1,1,1,1}>()"
        "m = ReduceMean(x, axes) d = Sub(x, m) p = Pow(d, two_) v = ReduceMean(p, axes) e = Add(v, eps_)"
        "s = Sqrt(e) n = Div(d, s) y = Mul(n, gamma_)"
    )
    assert found("layernorm", body, opset=18) == ["m d p v e s n y"]


def test_rms_normalization_operator(found: Found) -> None:
    assert found("layernorm", "y = RMSNormalization(x, gamma)", opset=23) == ["y"]


def test_layernorm_whose_variance_is_used_elsewhere(found: Found) -> None:
    body = MEAN + VARIANCE + "s = Sqrt(e) n = Div(d, s) u = Relu(v) y = Mul(n, u)"
    assert found("layernorm", body) == ["m d p v e s n"]


def test_two_layernorms_in_order(found: Found) -> None:
    def spelled(x: str, y: str, tag: str) -> str:
        return (
            f"m{tag} = ReduceMean<axes=[-1]>({x}) d{tag} = Sub({x}, m{tag}) p{tag} = Pow(d{tag}, two)"
            f"v{tag} = ReduceMean<axes=[-1]>(p{tag}) e{tag} = Add(v{tag}, eps) s{tag} = Sqrt(e{tag})"
            f"{y} = Div(d{tag}, s{tag})"
        )

    body = spelled("x", "n", "1") + spelled("n", "y", "2")
    assert found("layernorm", body) == ["m1 d1 p1 v1 e1 s1 n", "m2 d2 p2 v2 e2 s2 y"]


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(MEAN + VARIANCE + "s = Sqrt(e) y = Div(s, d)", id="upside down"),
        pytest.param(MEAN + VARIANCE + "s = Sqrt(e) o = Relu(x) y = Div(o, s)", id="divides something else"),
        pytest.param(MEAN + VARIANCE + "s = Sqrt(e) r = Div(two, s) y = Mul(d, r)", id="two over"),
        pytest.param(MEAN + "p = Pow(d, three) v = ReduceMean(p) e = Add(v, eps) s = Sqrt(e) y = Div(d, s)",
                     id="third moment"),
        pytest.param(MEAN + "p = Pow(d, two) v = ReduceSum(p) e = Add(v, eps) s = Sqrt(e) y = Div(d, s)",
                     id="a length, not a mean"),
        pytest.param(MEAN + VARIANCE + "y = Div(d, e)", id="no root"),
        pytest.param("y = InstanceNormalization(x, gamma, beta)", id="instance norm"),
    ],
)  # fmt: skip
def test_not_a_layernorm(found: Found, body: str) -> None:
    assert found("layernorm", body) == []
