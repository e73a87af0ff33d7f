"""Which biases there are, and that subtracting from them subtracts from the outputs."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from trtbuild.errors import InputError
from trtbuild.model.model import Model
from trtbuild.ranges.weights import fold_weights
from trtbuild.rewrite.biases import Bias, biases, from_json, to_json, with_biases
from trtbuild.rewrite.explicit import explicit

RNG = np.random.default_rng(7)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


IMAGE = "float[n,4,5,5] x"
CASES: dict[str, tuple[str, str, dict[str, np.ndarray], Bias]] = {
    "a conv": (
        IMAGE,
        "[c] y = Conv(x, w, b)",
        {"w": normal(3, 4, 3, 3), "b": normal(3)},
        Bias("c", "c", "y", 1, 3),
    ),
    "without a bias": (IMAGE, "[c] y = Conv(x, w)", {"w": normal(3, 4, 3, 3)}, Bias("c", "c", "y", 1, 3)),
    "depthwise": (
        *(IMAGE, "[c] y = Conv<group=4>(x, w, b)", {"w": normal(4, 1, 3, 3), "b": normal(4)}),
        Bias("c", "c", "y", 1, 4),
    ),
    "grouped": (IMAGE, "[c] y = Conv<group=2>(x, w)", {"w": normal(6, 2, 3, 3)}, Bias("c", "c", "y", 1, 6)),
    "transposed": (
        IMAGE,
        "[c] y = ConvTranspose(x, w)",
        {"w": normal(4, 3, 3, 3)},
        Bias("c", "c", "y", 1, 3),
    ),
    "transposed and grouped": (
        *(IMAGE, "[c] y = ConvTranspose<group=2>(x, w, b)", {"w": normal(4, 3, 2, 2), "b": normal(6)}),
        Bias("c", "c", "y", 1, 6),
    ),
    "a gemm": (
        "float[n,4] x",
        "[c] y = Gemm(x, w, b)",
        {"w": normal(4, 3), "b": normal(3)},
        Bias("c", "c", "y", -1, 3),
    ),
    "a gemm with a scalar": (
        *("float[n,4] x", "[c] y = Gemm<beta=-2.0>(x, w, b)", {"w": normal(4, 3), "b": normal(1)}),
        Bias("c", "c", "y", -1, 3),
    ),
    "a gemm of its own way": (
        *("float[4,n] x", "[c] y = Gemm<transA=1, transB=1, alpha=0.5>(x, w)", {"w": normal(3, 4)}),
        Bias("c", "c", "y", -1, 3),
    ),
    "a product": (
        *("float[n,2,4] x", "[p] h = MatMul(x, w) [c] y = Add(b, h)", {"w": normal(4, 3), "b": normal(3)}),
        Bias("c", "p", "y", -1, 3),
    ),
    "a product and a scalar": (
        *(
            "float[n,2,4] x",
            "[p] h = MatMul(x, w) [c] y = Add(h, b)",
            {"w": normal(4, 3), "b": np.float32(2)},
        ),
        Bias("c", "p", "y", -1, 3),
    ),
    "a product of one channel": (
        *("float[n,2,4] x", "[p] h = MatMul(x, w) [c] y = Add(h, b)", {"w": normal(4, 1), "b": normal(2, 1)}),
        Bias("c", "p", "y", -1, 1),
    ),
}
Toy = Callable[..., Model]
Run = Callable[..., dict[str, Any]]


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, open_toy: Toy) -> tuple[Model, Bias]:
    inputs, body, weights, bias = CASES[request.param]
    others = {4: f"n,{bias.size},p,q", 3: f"n,2,{bias.size}", 2: f"n,{bias.size}"}[inputs.count(",") + 1]
    return open_toy(f"toy ({inputs}) => (float[{others}] y) {{ {body} }}", weights), bias


def fed(model: Model) -> dict[str, np.ndarray]:
    return {spec.name: normal(*(length or 2 for length in spec.shape)) for spec in model.inputs}


def along(correction: np.ndarray, bias: Bias, rank: int) -> np.ndarray:
    return correction.reshape(-1, *[1] * ((-1 - bias.axis) % rank))


@pytest.mark.parametrize("rendering", ["typed", "simulated"])
@pytest.mark.parametrize("folded", [False, True])
def test_it_is_taken_from_every_channel(
    case: tuple[Model, Bias], resolve: Any, table: Any, run: Run, rendering: Any, folded: bool
) -> None:
    model, bias = case
    assert list(biases(model.graph)) == [bias]
    written = explicit(model, resolve(model), table(model), rendering)
    if folded:
        fold_weights(written.graph)
    correction = normal(bias.size)
    feeds = fed(model)
    (before,) = run(written, feeds).values()
    (after,) = run(with_biases(written, {bias.node: correction}), feeds).values()
    expected = before - along(correction, bias, before.ndim)
    np.testing.assert_allclose(after, expected, atol=1e-5)
    assert before.shape[bias.axis] == bias.size
    np.testing.assert_array_equal(run(written, feeds)["y"], before, err_msg="the model itself has changed")


NONE = {
    "a product alone": ("y = MatMul(x, w)", {"w": normal(4, 4)}),
    "a product that others read": (
        "h = MatMul(x, w) a = Add(h, b) y = Mul(a, h)",
        {"w": normal(4, 4), "b": normal(4)},
    ),
    "two products": (
        "h = MatMul(x, w) g = MatMul(x, v) y = Add(h, g)",
        {"w": normal(4, 4), "v": normal(4, 4)},
    ),
    "a product on the left": ("h = MatMul(w, x) y = Add(h, b)", {"w": normal(4, 4), "b": normal(4)}),
    "a vector": ("h = MatMul(x, w) y = Add(h, b)", {"w": normal(4), "b": normal(4)}),
    "an add that makes channels": ("h = MatMul(x, w) y = Add(h, b)", {"w": normal(4, 1), "b": normal(4)}),
    "a computed bias": ("s = ReduceSum<keepdims=0>(x) y = Gemm(x, w, s)", {"w": normal(4, 4)}),
    "a bias that does not count": ("y = Gemm<beta=0.0>(x, w, b)", {"w": normal(4, 4), "b": normal(4)}),
    "a product of activations": ("h = MatMul(x, x) y = Add(h, b)", {"b": normal(4)}),
    "something else": ("h = Mul(x, w) y = Add(h, b)", {"w": normal(4, 4), "b": normal(4)}),
}


@pytest.mark.parametrize("name", NONE)
def test_where_there_is_none(open_toy: Toy, name: str) -> None:
    body, weights = NONE[name]
    model = open_toy(f"toy (float[4,4] x) => (float y) {{ {body} }}", weights)
    assert list(biases(model.graph)) == []


def test_a_product_that_is_an_output(open_toy: Toy) -> None:
    text = "toy (float[n,4] x) => (float h, float y) { h = MatMul(x, w) y = Add(h, b) }"
    assert list(biases(open_toy(text, {"w": normal(4, 4), "b": normal(4)}).graph)) == []


def test_a_body_that_adds(open_toy: Toy) -> None:
    text = """toy (float[n,4] x, bool c) => (float y) { h = MatMul(x, w)
        y = If (c) <then_branch = yes () => (float[n,4] a) { a = Add(h, b) },
                    else_branch = no () => (float[n,4] d) { d = Identity(b) }> }"""
    assert list(biases(open_toy(text, {"w": normal(4, 4), "b": normal(4)}).graph)) == []


def test_another_reader_of_the_same_constant_keeps_it(
    open_toy: Toy, resolve: Any, table: Any, run: Run
) -> None:
    """A Conv, an Add and a pinned Conv share theirs."""
    text = f"""toy ({IMAGE}) => (float y, float z, float s) {{
        [c] y = Conv(x, w, b) [d] z = Conv(x, w, b) [e] s = Mul(b, b) }}"""
    model = open_toy(text, {"w": normal(3, 4, 3, 3), "b": normal(3)})
    written = explicit(model, resolve(model, "d"), table(model), "simulated")
    feeds, correction = fed(model), normal(3)
    before = run(written, feeds)
    after = run(with_biases(written, {"c": correction}), feeds)
    np.testing.assert_allclose(after["y"], before["y"] - correction.reshape(-1, 1, 1), atol=1e-5)
    np.testing.assert_array_equal(after["z"], before["z"])
    np.testing.assert_array_equal(after["s"], before["s"])


def test_names_and_weights_stay_and_nothing_unread_is_left(open_toy: Toy, resolve: Any, table: Any) -> None:
    model = open_toy(
        f"toy ({IMAGE}) => (float y) {{ [c] y = Conv(x, w, b) }}", {"w": normal(3, 4, 3, 3), "b": normal(3)}
    )
    written = explicit(model, resolve(model), table(model), "simulated")
    found = with_biases(written, {"c": normal(3)})
    assert [(node.name, node.op_type) for node in found.graph] == [(n.name, n.op_type) for n in written.graph]
    assert found.graph.initializers.keys() ^ written.graph.initializers.keys() == {"b", "c::2::corrected"}
    assert found.graph.initializers["w"].const_value is written.graph.initializers["w"].const_value


@pytest.mark.parametrize("rendering", ["typed", "simulated"])
@pytest.mark.parametrize("half", ["fp16", "bf16"])
def test_an_add_in_half(
    open_toy: Toy, resolve: Any, table: Any, valid: Any, run: Run, rendering: Any, half: str
) -> None:
    """Its bias comes through Casts, which others may share."""
    text = """toy (float[n,4] x) => (float[n,4] y, float[n,4] z) {
        [p] h = MatMul(x, w) [c] y = Add(h, b) [d] z = Mul(x, b) }"""
    model = open_toy(text, {"w": normal(4, 3)[:, [0, 1, 2, 0]], "b": normal(4)})
    written = explicit(model, resolve(model, fallback=half), table(model), rendering)
    found = with_biases(written, {"c": np.float32([4, 0, -8, 0])})
    valid(found)
    (add,) = (node for node in found.graph if node.name == "c")
    assert {value.dtype for value in add.inputs} == {add.outputs[0].dtype}
    if (rendering, half) == ("typed", "bf16"):
        return  # ONNX Runtime has no kernel for it
    feeds = fed(model)
    before, after = run(written, feeds), run(found, feeds)
    np.testing.assert_allclose(after["y"], before["y"] - np.float32([4, 0, -8, 0]), atol=0.1)
    if rendering == "simulated":  # of typed halves ONNX Runtime leaves out a rounding where it can
        np.testing.assert_array_equal(after["y"][:, 1], before["y"][:, 1])
    np.testing.assert_array_equal(after["z"], before["z"])


def test_the_casts_of_a_bias_go_with_it(open_toy: Toy, resolve: Any, table: Any) -> None:
    text = "toy (float[n,4] x) => (float y) { [p] h = MatMul(x, w) [c] y = Add(h, b) }"
    model = open_toy(text, {"w": normal(4, 4), "b": normal(4)})
    written = explicit(model, resolve(model, fallback="fp16"), table(model), "simulated")
    found = with_biases(written, {"c": normal(4)})
    read = {value for node in found.graph for value in node.inputs}
    unread = [v for n in found.graph for v in n.outputs if v not in read and not v.is_graph_output()]
    assert unread == []
    assert "b" not in found.graph.initializers


@pytest.mark.parametrize(
    ("pins", "correction"),
    [
        ((), {"no such node": 3}),
        ((), {"r": 3}),
        ((), {"c": 4}),
        (("c",), {"c": 3}),
        ((), {"e": 3}),
    ],
    ids=["no node", "no product", "other channels", "pinned", "an add of nothing int8"],
)
def test_what_cannot_be_corrected(
    open_toy: Toy, resolve: Any, table: Any, pins: tuple[str, ...], correction: dict[str, int]
) -> None:
    text = f"toy ({IMAGE}) => (float y) {{ [c] a = Conv(x, w, b) [r] h = Relu(a) [e] y = Add(h, s) }}"
    model = open_toy(text, {"w": normal(3, 4, 3, 3), "b": normal(3), "s": normal(3, 1, 1)})
    written = explicit(model, resolve(model, *pins), table(model), "simulated")
    ((name, size),) = correction.items()
    with pytest.raises(
        InputError, match=rf"node '{name}' holds no bias of an int8 node with {size} channels"
    ):
        with_biases(written, {name: normal(size)})


def test_a_node_in_half_is_no_int8_node(open_toy: Toy, resolve: Any, table: Any) -> None:
    model = open_toy(f"toy ({IMAGE}) => (float y) {{ [c] y = Conv(x, w) }}", {"w": normal(3, 4, 3, 3)})
    written = explicit(model, resolve(model, "c=fp16"), table(model), "simulated")
    with pytest.raises(InputError, match="holds no bias"):
        with_biases(written, {"c": normal(3)})


def test_json_keeps_every_bit() -> None:
    corrections = {"c": normal(5), "d": np.float32([1e-40, -0.0, 3e38])}
    found = from_json(json.loads(json.dumps(to_json(corrections))))
    assert found.keys() == corrections.keys()
    for name, array in found.items():
        assert array.dtype == np.float32
        assert array.tobytes() == corrections[name].tobytes()


@pytest.mark.parametrize("values", [[[1.0]], ["a"], [float("nan")], 3.0, None, [None]])
def test_json_that_is_none(values: Any) -> None:
    with pytest.raises(ValueError, match=r"no list of finite|could not convert"):
        from_json({"c": values})


def test_the_graph_stays_valid(case: tuple[Model, Bias], resolve: Any, table: Any, valid: Any) -> None:
    model, bias = case
    found: ir.Model = with_biases(
        explicit(model, resolve(model), table(model), "simulated"), {bias.node: normal(bias.size)}
    )
    valid(found)
