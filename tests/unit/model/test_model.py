"""An opened model: its inputs, what is compared and what normalising took away."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from trtbuild.errors import InputError
from trtbuild.model.model import Model

RNG = np.random.default_rng(0)
WEIGHT = RNG.standard_normal((4, 4)).astype(np.float32)


def test_float_activations_are_compared_in_graph_order(open_toy: Callable[..., Model]) -> None:
    text = """toy (float[2,4] x, int64[2] i) => (float[2,4] y) {
        a = MatMul(x, w) s = Shape(a) f = Cast<to = 1>(i) m, k = TopK(a, one) b = Cast<to = 10>(a)
        c = Greater(a, x) d = Cast<to = 1>(b) e = Cast<to = 11>(i) y = Add(a, d) } """
    text = text.replace("=> (float[2,4] y)", "=> (float[2,4] y) <int64[1] one = {1}>")
    model = open_toy(text, {"w": WEIGHT})
    # s, k and c are no floats; what nobody reads goes away
    assert model.given == ("a", "f", "m", "b", "d", "e", "y")
    assert model.compared == ("a", "b", "d", "y")
    assert model.removed == ("f", "m", "e")


def test_integers_are_never_compared(open_toy: Callable[..., Model]) -> None:
    model = open_toy(
        "toy (int64[2] x) => (int64[2] y, float[2] z) { a = Abs(x) y = Neg(a) z = Cast<to = 1>(y) }"
    )
    assert model.compared == ("z",)
    assert model.checked_outputs == ("y", "z")


def test_what_depends_on_no_input_is_not_compared(open_toy: Callable[..., Model]) -> None:
    text = """toy (float[2,4] x) => (float[2,4] y) {
        t = Transpose(w) n = Neg(t) y = MatMul(x, n) }"""
    model = open_toy(text, {"w": WEIGHT})
    assert model.given == model.compared == ("y",)
    assert model.removed == ()


def test_what_only_normalising_made_is_not_compared(open_toy: Callable[..., Model]) -> None:
    model = open_toy("toy (float[2,3,4] x) => (float[2,3,4] y) { y = Softmax<axis = 1>(x) }", opset=11)
    assert len(model.graph) > 1
    assert model.compared == model.given == ("y",)


def test_folded_activations_are_listed_as_removed(open_toy: Callable[..., Model]) -> None:
    text = """toy (float[2,3,4] x) => (float[2,3,4] y) {
        s = Shape(x) f = Cast<to = 1>(s) m = ReduceProd<keepdims = 0>(f) y = Div(x, m) }"""
    model = open_toy(text)
    assert model.removed == ("f", "m")
    assert model.compared == ("y",)


def test_every_given_activation_is_compared_or_accounted_for(open_toy: Callable[..., Model]) -> None:
    text = """toy (float[2,4] x) => (float[2,4] y) {
        a = MatMul(x, w) b = Identity(a) c = Dropout(b) p = Plugin_TRT(c) d = Relu(c) y = Add(d, p) }"""
    model = open_toy(text, {"w": WEIGHT})
    behind = {
        str(value.name) for node in model.graph if node.name in model.unrunnable for value in node.outputs
    }
    assert set(model.given) <= {*model.compared, *model.removed, *behind}


def test_inputs(open_toy: Callable[..., Model]) -> None:
    text = "toy (float[N,3,?] x, float16 h) => (float[N,3,?] y) { f = Cast<to = 1>(h) y = Mul(x, f) }"
    x, h = open_toy(text).inputs
    assert (x.name, x.dtype, x.shape) == ("x", np.dtype(np.float32), (None, 3, None))
    assert (h.name, h.dtype, h.shape) == ("h", np.dtype(np.float16), ())


def test_a_length_of_zero_is_dynamic(
    toy: Callable[..., onnx.ModelProto], open_toy: Callable[..., Model]
) -> None:
    proto = toy("toy (float[2,4] x) => (float[2,4] y) { y = Relu(x) }")
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 0
    assert open_toy(proto).inputs[0].shape == (None, 4)


@pytest.mark.parametrize("kind", ["no type", "no rank", "sequence"])
def test_inputs_that_cannot_be_fed(
    toy: Callable[..., onnx.ModelProto], open_toy: Callable[..., Model], kind: str
) -> None:
    proto = toy("toy (float[2] x) => (float[2] y) { y = Relu(x) }")
    value = proto.graph.input[0]
    if kind == "no type":
        value.ClearField("type")
    elif kind == "no rank":
        value.type.tensor_type.ClearField("shape")
    else:
        value.type.sequence_type.elem_type.tensor_type.elem_type = 1
    with pytest.raises(InputError, match="input 'x' is not a tensor of known type and rank"):
        _ = open_toy(proto).inputs


def test_the_hash_is_of_the_content(write_toy: Callable[..., Path]) -> None:
    text = "toy (float[2,4] x) => (float[2,4] y) { y = MatMul(x, w) }"
    one, same, other = (Model.open(write_toy(text, {"w": w})).sha256 for w in (WEIGHT, WEIGHT, WEIGHT + 1))
    assert one == same != other
    assert len(one) == 64


@pytest.mark.parametrize("text", ["a = QuantizeLinear(x, s) y = DequantizeLinear(a, s)", "y = Relu(x)"])
def test_quantized(open_toy: Callable[..., Model], text: str) -> None:
    model = open_toy(f"toy (float[2] x) => (float[2] y) <float s = {{1}}> {{ {text} }}")
    assert model.quantized == ("Quantize" in text)


def test_opening_writes_nothing(write_toy: Callable[..., Path], capfd: pytest.CaptureFixture[str]) -> None:
    """The ONNX libraries warn on every model of an old opset, and on every odd one."""
    path = write_toy(
        "toy (float[2,3] x) => (float[9] y) { a = Softmax(x) p = Plugin_TRT(a) y = Relu(p) }", opset=9
    )
    Model.open(path)
    assert capfd.readouterr() == ("", "")


def test_what_onnx_cannot_type_is_compared_too(open_toy):
    """ONNX Runtime's own operators have no type inference in ONNX: nobody knows, so it is looked at."""
    text = """toy (float[N,4] x) => (float[N,4] y) {
        a = MatMul(x, w) b = com.microsoft.Gelu(a) c = MatMul(b, w) y = Relu(c) }"""
    model = open_toy(text, {"w": np.eye(4, dtype=np.float32)}, domains="com.microsoft")
    assert model.compared == ("a", "b", "c", "y")


def test_bfloat16_is_hidden_from_the_comparison(open_toy):
    text = "toy (float[N,4] x) => (float[N,4] y) { h = Cast<to = 16>(x) b = Identity(h) y = Cast<to = 1>(b) }"
    model = open_toy(text)
    assert set(model.hidden) <= {"h", "b"}
    assert model.hidden
    assert model.compared == ("y",)
