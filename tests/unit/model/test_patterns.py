"""Each spelling that exporters use is found, with exactly its nodes; look-alikes are not."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import onnx
import onnx.parser
import onnx_ir as ir
import pytest

from trtbuild.model import patterns


def parse(body: str, *, inputs: str = "float[N,8] x", opset: int = 17) -> ir.Graph:
    """A graph from ONNX text; every model knows the constants below, `w` is a weight and `y` the output."""
    text = f"""
    <ir_version: 8, opset_import: ["": {opset}, "com.microsoft": 1]>
    toy ({inputs}) => (float[N,8] y)
    <float eps = {{1e-5}}, float zero = {{0}}, float half = {{0.5}}, float[1] one = {{1}}, float two = {{2}},
     float three = {{3}}, float eighth = {{0.125}}, float root2 = {{1.4142135}}, float rsqrt2 = {{0.7071068}},
     float c3 = {{0.044715}}, float k = {{0.7978845}}, float kc3 = {{0.0356774}}, float quick = {{1.702}},
     float minus_half = {{-0.5}}, float[8] gamma = {{1,1,1,1,1,1,1,1}}, float[8] beta = {{0,0,0,0,0,0,0,0}},
     float[1,8] w = {{1,1,1,1,1,1,1,1}}, float low = {{-3.4e38}}, int64[1] axes = {{-1}},
     int64[2] shape = {{-1, 8}}> {{ {body} }}"""
    return ir.from_proto(onnx.parser.parse_model(text)).graph


def found(name: str, graph: ir.Graph) -> list[str]:
    """The matches, each as the first outputs of its nodes."""
    return [" ".join(str(node.outputs[0].name) for node in match) for match in patterns.find(name, graph)]


# --- layernorm --------------------------------------------------------------------------------------

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
def test_layernorm(body: str, members: str) -> None:
    assert found("layernorm", parse(body)) == [members]


def test_layernorm_with_axes_as_an_input_and_constants_from_nodes() -> None:
    body = (
        "two_ = Constant<value_float=2.0>() eps_ = Constant<value_floats=[1e-5]>()"
        "gamma_ = Constant<value=float[8] {1,1,1,1,1,1,1,1}>()"
        "m = ReduceMean(x, axes) d = Sub(x, m) p = Pow(d, two_) v = ReduceMean(p, axes) e = Add(v, eps_)"
        "s = Sqrt(e) n = Div(d, s) y = Mul(n, gamma_)"
    )
    assert found("layernorm", parse(body, opset=18)) == ["m d p v e s n y"]


def test_rms_normalization_operator() -> None:
    assert found("layernorm", parse("y = RMSNormalization(x, gamma)", opset=23)) == ["y"]


def test_layernorm_whose_variance_is_used_elsewhere() -> None:
    body = MEAN + VARIANCE + "s = Sqrt(e) n = Div(d, s) u = Relu(v) y = Mul(n, u)"
    assert found("layernorm", parse(body)) == ["m d p v e s n"]


def test_two_layernorms_in_order() -> None:
    def spelled(x: str, y: str, tag: str) -> str:
        return (
            f"m{tag} = ReduceMean<axes=[-1]>({x}) d{tag} = Sub({x}, m{tag}) p{tag} = Pow(d{tag}, two)"
            f"v{tag} = ReduceMean<axes=[-1]>(p{tag}) e{tag} = Add(v{tag}, eps) s{tag} = Sqrt(e{tag})"
            f"{y} = Div(d{tag}, s{tag})"
        )

    graph = parse(spelled("x", "n", "1") + spelled("n", "y", "2"))
    assert found("layernorm", graph) == ["m1 d1 p1 v1 e1 s1 n", "m2 d2 p2 v2 e2 s2 y"]


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
def test_not_a_layernorm(body: str) -> None:
    assert found("layernorm", parse(body)) == []


# --- softmax, logsoftmax ----------------------------------------------------------------------------

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
def test_softmax(body: str, members: str) -> None:
    assert found("softmax", parse(body)) == [members]


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
def test_not_a_softmax(body: str) -> None:
    assert found("softmax", parse(body)) == []


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
def test_logsoftmax(body: str, members: str) -> None:
    assert found("logsoftmax", parse(body)) == [members]


@pytest.mark.parametrize(
    "body",
    [
        pytest.param("y = Softmax(x)", id="softmax"),
        pytest.param("n = Sigmoid(x) y = Log(n)", id="logsigmoid"),
        pytest.param("l = ReduceLogSumExp<axes=[-1]>(x) y = Sub(l, x)", id="upside down"),
        pytest.param("r = Relu(x) l = ReduceLogSumExp<axes=[-1]>(x) y = Sub(r, l)", id="something else"),
    ],
)
def test_not_a_logsoftmax(body: str) -> None:
    assert found("logsoftmax", parse(body)) == []


# --- attention scores -------------------------------------------------------------------------------

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
def test_attention_scores(body: str, members: str) -> None:
    assert found("attention-scores", parse(body, inputs=QKV)) == [members]


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
def test_not_attention_scores(body: str) -> None:
    assert found("attention-scores", parse(body, inputs=QKV)) == []


def test_attention_scores_shared_by_two_softmaxes_are_one_match() -> None:
    body = "a = MatMul(q, k_) b = Softmax(a) c = Mul(a, two) d = Softmax(c) y = Add(b, d)"
    assert found("attention-scores", parse(body, inputs=QKV)) == ["a"]


# --- gelu -------------------------------------------------------------------------------------------

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
def test_gelu(body: str, members: str) -> None:
    assert found("gelu", parse(body, opset=20)) == [members]


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
def test_not_a_gelu(body: str) -> None:
    assert found("gelu", parse(body)) == []


# --- residual additions -----------------------------------------------------------------------------

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
def test_residual_add(body: str, members: list[str]) -> None:
    assert found("residual-add", parse(body)) == members


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
def test_not_a_residual_add(body: str) -> None:
    assert found("residual-add", parse(body, inputs="float[N,8] x, float[N,8] z")) == []


def test_the_walk_back_is_bounded() -> None:
    steps = "".join(f"v{i + 1} = Relu(v{i}) " for i in range(300))
    assert found("residual-add", parse(f"v0 = MatMul(x, w) {steps} y = Add(v300, x)")) == []


# --- find -------------------------------------------------------------------------------------------


def test_the_public_names() -> None:
    assert set(patterns.PATTERNS) == {
        "layernorm",
        "softmax",
        "logsoftmax",
        "attention-scores",
        "gelu",
        "residual-add",
    }


def test_an_unknown_name_is_an_error_that_lists_the_known() -> None:
    with pytest.raises(ValueError, match=r"'layer-norm'.*layernorm, softmax"):
        patterns.find("layer-norm", parse("y = Relu(x)"))


@pytest.mark.parametrize("name", patterns.PATTERNS)
def test_an_empty_graph_has_none(name: str) -> None:
    assert patterns.find(name, ir.Graph([], [], nodes=[], opset_imports={"": 17})) == []


@pytest.mark.parametrize("name", patterns.PATTERNS)
def test_bodies_of_control_flow_are_left_alone(name: str) -> None:
    body = "a = MatMul(x, x) s = Softmax(a) l = LogSoftmax(s) n = Gelu(l) o = Add(n, x)"
    branch = f"g () => (float[N,8] o) {{ {body} }}"
    graph = parse(
        f"y = If (c) <then_branch = {branch}, else_branch = {branch}>",
        inputs="bool c, float[N,8] x",
        opset=20,
    )
    assert patterns.find(name, graph) == []


@pytest.mark.parametrize("name", patterns.PATTERNS)
def test_absent_and_surplus_inputs_are_no_error(name: str) -> None:
    nodes = [ir.node(op, [None, None]) for op in ("Add", "Mul", "Div", "Sub", "Pow", "MatMul", "Where")]
    nodes += [ir.node(op, [None]) for op in ("Softmax", "Log", "Exp", "Erf", "Tanh", "Sigmoid", "Identity")]
    graph = ir.Graph([], [], nodes=nodes, opset_imports={"": 17})
    assert isinstance(patterns.find(name, graph), list)


@pytest.mark.parametrize("name", patterns.PATTERNS)
def test_the_model_is_not_changed(name: str) -> None:
    body = (
        "two_ = Constant<value_float=2.0>() "
        + MEAN
        + VARIANCE.replace("two", "two_")
        + "s = Sqrt(e) y = Div(d, s)"
    )
    graph = parse(body)
    before = ir.to_proto(graph).SerializeToString(deterministic=True)
    patterns.find(name, graph)
    assert ir.to_proto(graph).SerializeToString(deterministic=True) == before


CHAINS = {
    "Add": [("Add", 2)],
    "Add, Relu": [("Add", 2), ("Relu", 1)],
    "MatMul, Add": [("MatMul", 2), ("Add", 2)],
    "Mul, Tanh": [("Mul", 2), ("Mul", 2), ("Tanh", 1)],
    "Softmax": [("Add", 2), ("Sub", 2), ("Softmax", 1)],
    "Identity": [("Identity", 1)],
}


@pytest.mark.parametrize("kinds", CHAINS.values(), ids=CHAINS)
@pytest.mark.parametrize("doubled", [False, True], ids=["with the input", "with itself"])
def test_a_long_chain_ends(kinds: list[tuple[str, int]], doubled: bool) -> None:
    x = value = ir.Value(name="x")
    nodes = []
    for index in range(5000):
        op_type, count = kinds[index % len(kinds)]
        nodes.append(ir.node(op_type, [value, value if doubled else x][:count]))
        value = nodes[-1].outputs[0]
    graph = ir.Graph([x], [value], nodes=nodes, opset_imports={"": 17})
    for name in patterns.PATTERNS:
        matched = [node for match in patterns.find(name, graph) for node in match]
        assert len(matched) == len(set(matched))


# --- real models ------------------------------------------------------------------------------------


def packaged(package: str, path: str) -> ir.Graph:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"{package} is not installed")
    file = Path(spec.submodule_search_locations[0]) / path
    if not file.is_file():
        pytest.skip(f"this version of {package} has no {path}")
    return ir.load(file).graph


def kinds(name: str, graph: ir.Graph) -> list[str]:
    return [" ".join(node.op_type for node in match) for match in patterns.find(name, graph)]


def names(name: str, graph: ir.Graph) -> list[list[str | None]]:
    return [[node.name for node in match] for match in patterns.find(name, graph)]


def test_ppocr_v4_rec() -> None:
    graph = packaged("rapidocr_onnxruntime", "models/ch_PP-OCRv4_rec_infer.onnx")
    assert kinds("layernorm", graph) == ["ReduceMean Sub Pow ReduceMean Add Sqrt Div Mul Add"] * 5
    assert names("softmax", graph) == [["p2o.Softmax.0"], ["p2o.Softmax.1"], ["p2o.Softmax.2"]]
    assert names("attention-scores", graph) == [["p2o.MatMul.2"], ["p2o.MatMul.14"]]
    assert names("residual-add", graph) == [[f"p2o.Add.{n}"] for n in (240, 250, 260, 270)]
    assert patterns.find("gelu", graph) == []  # its swishes are sigmoid(1.0 x)
    assert patterns.find("logsoftmax", graph) == []


def test_magika() -> None:
    graph = packaged("magika", "models/standard_v3_3/model.onnx")  # JAX by way of tf2onnx
    layernorms = kinds("layernorm", graph)
    assert len(layernorms) == 2
    for match in layernorms:  # mean(x * x) - mean(x) ** 2, reshaped and expanded to the shape of x
        assert sorted(match.split()) == sorted(
            ["ReduceSum", "Mul"] * 2 + ["Mul"] * 2 + ["Sub", "Max", "Add", "Sqrt", "Reciprocal"]
            + ["Reshape", "Expand"] * 2 + ["Sub", "Mul", "Mul", "Add"]
        )  # fmt: skip
    assert kinds("softmax", graph) == ["ReduceMax Max Reshape Expand Sub Exp ReduceSum Reshape Expand Div"]
    assert kinds("gelu", graph) == ["Mul Mul Mul Add Mul Tanh Add Mul Mul"] * 2
    for absent in ("logsoftmax", "attention-scores", "residual-add"):
        assert patterns.find(absent, graph) == []
