"""Which activations can be rescaled, and that the float function stays the same when they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from trtbuild.errors import InputError
from trtbuild.model.graph import activations
from trtbuild.model.model import Model
from trtbuild.model.scaling import Scaling, from_json, to_json
from trtbuild.rewrite.cut import with_outputs
from trtbuild.rewrite.equalize import equalized, restored
from trtbuild.rewrite.folds import Fold, folds

Arrays = Mapping[str, NDArray[Any]]
IMAGE = "float[2,4,6,6] x"
ROWS = "float[2,3,4] x"
RNG = np.random.default_rng(0)


def weight(*shape: int) -> NDArray[np.float32]:
    return RNG.standard_normal(shape).astype(np.float32)


WEIGHTS = {
    "scalar": np.asarray(0.3, np.float32),
    "vector": weight(4),
    "columns": weight(4, 1, 1),
    "whole": weight(1, 4, 6, 6),
    "positive": np.abs(weight(4)) + 0.5,
    "bias": weight(4),
    "dense": weight(5, 4, 3, 3),
    "square": weight(4, 4, 3, 3),
    "depth": weight(4, 1, 3, 3),
    "double": weight(8, 1, 3, 3),
    "halves": weight(6, 2, 3, 3),
    "up": weight(4, 5, 2, 2),
    "upsquare": weight(4, 4, 2, 2),
    "uphalves": weight(4, 3, 2, 2),
    "matrix": weight(4, 4),
    "stack": weight(3, 4, 5),
    "flat": weight(1, 4),
    "block": weight(3, 4),
    "short": np.asarray([4, 6, 6], np.int64),
}
READ_IMAGE = "y = Conv(t, dense)"
READ_ROWS = "y = MatMul(t, matrix)"


def case(body: str, *scaled: str, inputs: str = IMAGE, read: str = READ_IMAGE) -> Any:
    return pytest.param(f"{body} {read}", inputs, {*scaled, "t"}, id=f"{body} {read}")


FOLDABLE = [
    *(case(f"t = Mul(x, {name})") for name in ("scalar", "columns", "whole")),
    case("t = Mul(columns, x)"),
    case("t = Div(x, columns)"),
    case("t = Div(columns, q)", inputs="float[2,4,6,6] q"),
    case("m = Mul(x, scalar) t = Add(m, scalar)", "m"),
    case("m = Mul(x, scalar) t = Add(columns, m)", "m"),
    case("m = Mul(x, scalar) t = Sub(m, columns)", "m"),
    case("m = Mul(x, scalar) t = Sub(whole, m)", "m"),
    case("m = Mul(x, scalar) a = Add(m, scalar) r = Relu(a) t = LeakyRelu<alpha = 0.2>(r)", "m", "a", "r"),
    case("f = Reshape(x, short) m = Mul(f, scalar) t = Add(m, whole)", "m", inputs="float[1,4,6,6] x"),
    case("t = BatchNormalization(x, vector, bias, bias, positive)"),
    case("t = InstanceNormalization(x, vector, bias)"),
    case("t = Conv(x, square)"),
    case("c = Conv(x, square, bias) t = Relu(c)", "c"),
    case("c = Conv<group = 4>(x, depth, bias) t = Relu(c)", "c"),
    case("t = ConvTranspose(x, upsquare, bias)"),
    case("c = Conv<pads = [1,1,1,1]>(x, square) t = MaxPool<kernel_shape = [2,2]>(c)", "c"),
    case("c = Conv(x, square) t = AveragePool<kernel_shape = [2,2], pads = [1,1,1,1]>(c)", "c",
         read="y = Conv<pads = [1,1,1,1]>(t, dense)"),
    case("m = Mul(x, scalar) t = GlobalAveragePool(m)", "m", read="y = ConvTranspose(t, up)"),
    case("m = Mul(x, scalar) t = GlobalMaxPool(m)", "m", read="y = ConvTranspose(t, up)"),
    *(
        case("t = Mul(x, scalar)", read=read)
        for read in (
            "y = Conv<group = 4>(t, depth)",
            "y = Conv<group = 4>(t, double)",
            "y = Conv<group = 2>(t, halves)",
            "y = Conv(t, dense) z = Conv(t, square)",
            "y = ConvTranspose<group = 2>(t, uphalves)",
        )
    ),
    *(
        case(body, inputs=ROWS, read=READ_ROWS)
        for body in (
            "t = Mul(x, vector)",
            "t = MatMul(x, matrix)",
            "t = LayerNormalization(x, vector, bias)",
            "t = LayerNormalization(x, vector)",
            "t = LayerNormalization<axis = -2>(x, block)",
        )
    ),
    case("m = MatMul(x, matrix) a = Add(m, bias) t = Relu(a)", "m", "a", inputs=ROWS, read=READ_ROWS),
    case("t = Mul(x, scalar)", inputs=ROWS, read="y = MatMul(t, matrix) z = MatMul(t, matrix)"),
    case("t = Mul(x, scalar)", inputs="float[3,2,4] x", read="y = MatMul(t, stack)"),
    *(
        case(f"t = Gemm<alpha = 0.5, beta = 2.0, transB = {b}>(x, matrix{c})", inputs="float[2,4] x",
             read=f"y = Gemm<alpha = 3.0, transB = {1 - b}>(t, matrix, vector)")
        for b in (0, 1)
        for c in ("", ", vector", ", scalar", ", flat")
    ),
]  # fmt: skip
KEPT: dict[str, Any] = {
    "an input of the model": READ_IMAGE.replace("t", "x", 1),
    "another reader": "t = Mul(x, scalar) y = Conv(t, dense) z = Sigmoid(t)",
    "another reader in between": "m = Mul(x, scalar) t = Add(m, scalar) y = Conv(t, dense) z = Neg(m)",
    "a residual": "t = Mul(x, scalar) c = Conv<pads = [1,1,1,1]>(t, square) y = Add(c, t)",
    "an output": "z = Mul(x, scalar) y = Conv(z, dense)",
    "an output in between": "z = Mul(x, scalar) t = Relu(z) y = Conv(t, dense)",
    "a nonlinear op": "m = Mul(x, scalar) t = HardSwish(m) y = Conv(t, dense)",
    "another one": "m = Mul(x, scalar) t = Clip(m, scalar) y = Conv(t, dense)",
    "a transpose": "m = Mul(x, scalar) t = Transpose<perm = [0,1,3,2]>(m) y = Conv(t, dense)",
    "no constant": "s = Sigmoid(x) t = Mul(x, s) y = Conv(t, dense)",
    "two that compute": "m = Mul(x, scalar) s = Sigmoid(x) t = Add(m, s) y = Conv(t, dense)",
    "channels made by an Add": "g = ReduceMean<keepdims = 1>(x, one) m = Mul(g, scalar) t = Add(m, columns)"
    "y = Conv(t, dense)",
    "a maximum": "m = Mul(x, scalar) t = Max(m, columns) y = Conv(t, dense)",
    "a bias that is computed": "b = ReduceMean<keepdims = 0>(x, axes) t = Conv(x, square, b)"
    "y = Conv(t, dense)",
    "a reader that is no product": "t = Mul(x, scalar) y = Conv(t, dense) z = Mul(t, columns)",
    "a weight that is computed": "t = Mul(x, scalar) w = Neg(x) y = MatMul(t, w)",
    "the second operand": "t = Mul(x, scalar) y = MatMul(square, t)",
    "channels along two axes": "t = Mul(x, scalar) y = Conv(t, dense) z = MatMul(t, six)",
    "pooled along the channels": "m = Mul(x, scalar) t = AveragePool<kernel_shape = [1,1]>(m)"
    "y = MatMul(t, six)",
    "groups of a ConvTranspose": "t = ConvTranspose<group = 2>(x, upgroups) y = Conv(t, dense)",
    "a body reads it": "s = ReduceSum<keepdims = 0>(x) yes = Greater(s, scalar) t = Mul(x, scalar)"
    "y = MatMul(t, six) z = If(yes) <then_branch = a () => (float[2,4,6,3] p) { p = MatMul(t, six) },"
    "else_branch = b () => (float[2,4,6,3] q) { q = MatMul(x, six) }>",
    "normalised along another axis": "t = LayerNormalization(x, six1) y = Conv(t, dense)",
    "a Conv of other channels": "t = Conv<pads = [1,1,1,1]>(x, square) y = MatMul(t, six)",
    "a ConvTranspose of others": ("t = ConvTranspose(x, upsquare) y = MatMul(t, six)", "float[2,4,3,3] x"),
    "a product of other channels": "t = MatMul(x, six4) y = Conv(t, dense)",
    "rows for columns": ("t = Mul(x, vector) y = Gemm<transA = 1>(t, matrix)", "float[4,4] x"),
    "one channel": ("t = Mul(x, scalar) y = Conv(t, single)", "float[2,1,6,6] x"),
    "other channels than axis 1": ("t = InstanceNormalization(x, vector, bias) y = MatMul(t, matrix)",
                                   "float[2,4,4] x"),
}  # fmt: skip
MORE = {
    "six": weight(6, 3),
    "upgroups": weight(4, 2, 2, 2),
    "one": np.asarray([1], np.int64),
    "axes": np.asarray([0, 2, 3], np.int64),
    "six1": weight(6),
    "six4": weight(6, 4),
    "single": weight(3, 1, 3, 3),
}


def text(body: str, inputs: str) -> str:
    """The ONNX text of a model whose outputs y and z are of the inputs' rank."""
    shape = ",".join("abcd"[: inputs.count(",") + 1])
    outputs = ", ".join(f"float[{shape}] {name}" for name in "yz" if f"{name} = " in body)
    return f"toy ({inputs}) => ({outputs}) {{ {body} }}"


@pytest.fixture(scope="session")
def opened(open_toy: Callable[..., Model]) -> Callable[..., Model]:
    def make(body: str, inputs: str = IMAGE, weights: Arrays | None = None) -> Model:
        known = {**WEIGHTS, **MORE, **(weights or {})}
        return open_toy(text(body, inputs), {n: a for n, a in known.items() if n in body}, opset=18)

    return make


def feeds(model: Model) -> Arrays:
    rng = np.random.default_rng(1)
    return {
        spec.name: rng.standard_normal([length or 2 for length in spec.shape]).astype(np.float32)
        for spec in model.inputs
    }


def powers(fold: Fold, seed: int = 0) -> NDArray[np.float32]:
    return np.exp2(np.random.default_rng(seed).integers(-6, 7, fold.size)).astype(np.float32)


def check_same(model: Model, changed: Model, run: Callable[..., Arrays]) -> None:
    """To the bit: each activation is so many times what it was, and no output has changed."""
    names = [str(value.name) for value in activations(model.graph)]
    before = run(with_outputs(model.normalised, names), feeds(model))
    after = run(with_outputs(changed.normalised, names), feeds(model))
    for name in names:
        expected = before[name] * changed.scaled[name].array if name in changed.scaled else before[name]
        np.testing.assert_array_equal(after[name], expected, err_msg=name)
    assert not {str(value.name) for value in model.graph.outputs} & set(changed.scaled)


@pytest.mark.parametrize(("body", "inputs", "scaled"), FOLDABLE)
def test_the_function_stays_the_same_to_the_bit(
    body: str,
    inputs: str,
    scaled: set[str],
    opened: Callable[..., Model],
    run: Callable[..., Arrays],
    valid: Callable[[ir.Model], None],
) -> None:
    model = opened(body, inputs)
    (fold,) = (fold for fold in folds(model) if fold.tensor == "t")
    factors = powers(fold)
    before = ir.to_proto(model.normalised).SerializeToString()
    changed = equalized(model, {"t": factors})
    assert set(changed.scaled) == scaled
    assert all(scaling.factors == tuple(factors.tolist()) for scaling in changed.scaled.values())
    check_same(model, changed, run)
    valid(changed.normalised)
    assert ir.to_proto(model.normalised).SerializeToString() == before, "the given model changed"
    assert model.scaled == {}
    assert restored(model, from_json(to_json(changed.scaled))).scaled == changed.scaled


@pytest.mark.parametrize("why", KEPT)
def test_what_cannot_be_rescaled(why: str, opened: Callable[..., Model]) -> None:
    body, inputs = KEPT[why] if isinstance(KEPT[why], tuple) else (KEPT[why], IMAGE)
    model = opened(body, inputs)
    assert not [fold.tensor for fold in folds(model) if fold.tensor in ("t", "x", "z")]
    with pytest.raises(InputError, match="cannot be equalized by 4 factors"):
        equalized(model, {"t": np.ones(4)})


def test_what_onnx_runtime_cannot_run_is_left(open_toy: Callable[..., Model]) -> None:
    """Even where the file tells the shapes behind it."""
    body = "p = %s(x) t = Mul(p, vector) y = MatMul(t, w)"
    text = f"toy ({ROWS}) => (float[a,b,c] y) <float[2,3,4] p> {{ {body} }}"
    weights = {"vector": WEIGHTS["vector"], "w": WEIGHTS["matrix"]}
    assert not list(folds(open_toy(text % "NoSuchPlugin", weights)))
    assert list(folds(open_toy(text % "Sigmoid", weights)))


def test_depthwise_is_told(opened: Callable[..., Model]) -> None:
    def depthwise(read: str) -> bool:
        (fold,) = folds(opened(f"t = Mul(x, scalar) {read}"))
        return fold.depthwise

    assert depthwise("y = Conv<group = 4>(t, depth)")
    assert depthwise("y = Conv<group = 4>(t, double)")
    assert not depthwise("y = Conv<group = 2>(t, halves)")
    assert not depthwise("y = Conv<group = 4>(t, depth) z = Conv(t, dense)")


def test_shared_constants_are_changed_for_one_reader(
    opened: Callable[..., Model], run: Callable[..., Arrays]
) -> None:
    """`square` makes t and reads it, and makes u, which stays; `scalar` stands in two nodes."""
    body = "c = Conv(x, square) t = Add(c, scalar) d = Conv(t, square) u = Mul(d, scalar) y = Sigmoid(u)"
    model = opened(body)
    changed = equalized(model, {"t": powers(next(iter(folds(model))))})
    check_same(model, changed, run)
    assert "square" not in changed.graph.initializers
    assert "scalar" in changed.graph.initializers
    assert "square" in model.graph.initializers


def test_a_constant_that_is_an_output_stays_one(
    open_toy: Callable[..., Model], run: Callable[..., Arrays]
) -> None:
    text = "toy (float[2,4] x) => (float[2,4] y, float[4,4] w) { t = Mul(x, s) y = MatMul(t, w) }"
    model = open_toy(text, {"w": WEIGHTS["matrix"], "s": WEIGHTS["vector"]})
    changed = equalized(model, {"t": powers(next(iter(folds(model))))})
    x = feeds(model)
    before, after = run(model.normalised, x), run(changed.normalised, x)
    assert set(before) == {"y", "w"}
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array)


def test_a_weight_between_two_folds(opened: Callable[..., Model], run: Callable[..., Arrays]) -> None:
    body = "t = Mul(x, scalar) c = Conv(t, square, bias) r = Relu(c) y = Conv(r, dense)"
    model = opened(body)
    changed = equalized(model, {f.tensor: powers(f, seed) for seed, f in enumerate(folds(model))})
    assert set(changed.scaled) == {"t", "c", "r"}
    assert changed.scaled["t"] != changed.scaled["c"] == changed.scaled["r"]
    check_same(model, changed, run)


def test_equalizing_what_was_written_equalized(
    opened: Callable[..., Model], write_toy: Callable[..., Any], run: Callable[..., Arrays]
) -> None:
    """The names that were added stand in a file of ours."""
    model = opened("t = Mul(x, scalar) y = Conv(t, dense)")
    factors = {"t": powers(next(iter(folds(model))))}
    again = Model.open(write_toy(ir.to_proto(equalized(model, factors).normalised)))
    check_same(again, equalized(again, factors), run)


def test_factors_of_another_model(opened: Callable[..., Model]) -> None:
    model = opened("m = Mul(x, scalar) t = Relu(m) y = Conv(t, dense)")
    whole = equalized(model, {"t": np.asarray([1, 2, 4, 8], np.float32)}).scaled
    for wrong, name in (
        ({"t": whole["t"]}, "m"),
        ({"m": whole["m"]}, "m"),
        ({**whole, "m": Scaling(-3, (1.0, 2.0, 4.0, 4.0))}, "m"),
        ({**whole, "t": Scaling(-1, whole["t"].factors)}, "t"),
        ({**whole, "other": whole["t"]}, "other"),
    ):
        with pytest.raises(InputError, match=f"tensor '{name}' cannot be scaled as is recorded"):
            restored(model, wrong)
    assert restored(model, {}) is model


@pytest.mark.parametrize("factor", [0.0, -1.0, float("nan"), float("inf"), 1e-40, 1e39])
def test_no_factor(factor: float) -> None:
    with pytest.raises(ValueError, match="expected a float32 above 0"):
        Scaling(-1, (1.0, factor))


STEPS = {
    "mul": ("Mul({}, {})", True),
    "div": ("Div({}, {})", True),
    "add": ("Add({}, {})", True),
    "sub": ("Sub({1}, {0})", True),
    "relu": ("Relu({})", False),
    "leaky": ("LeakyRelu<alpha = 0.25>({})", False),
    "pool": ("MaxPool<kernel_shape = [2,2], strides = [1,1], pads = [0,0,1,1]>({})", False),
    "conv": ("Conv<pads = [1,1,1,1]>({}, square, bias)", False),
    "depth": ("Conv<group = 4, pads = [1,1,1,1]>({}, depth)", False),
    "norm": ("BatchNormalization({}, vector, bias, bias, positive)", False),
    "sigmoid": ("Sigmoid({})", False),
}


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(sorted(STEPS)), st.sampled_from(["scalar", "columns"])), max_size=9
    ),
    seed=st.integers(0, 1000),
    extra=st.integers(0, 9),
)
def test_any_chain(
    steps: list[tuple[str, str]],
    seed: int,
    extra: int,
    open_toy: Callable[..., Model],
    run: Callable[..., Arrays],
) -> None:
    """Whatever stands before a Conv, and with another output somewhere: the function stays, to the bit."""
    body, last = "", "x"
    for index, (step, constant) in enumerate([*steps, ("conv", "")]):
        form, takes = STEPS[step]
        body += f"v{index} = {form.format(last, constant) if takes else form.format(last)} "
        last = f"v{index}"
    body += f"y = Identity({last})"
    if extra < len(steps):
        body += f" z = Neg(v{extra})"
    weights = {name: array for name, array in WEIGHTS.items() if name in body}
    model = open_toy(text(body, IMAGE), weights, opset=18)
    changed = equalized(model, {f.tensor: powers(f, seed + i) for i, f in enumerate(folds(model))})
    check_same(model, changed, run)
