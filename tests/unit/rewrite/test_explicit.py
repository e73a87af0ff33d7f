"""The explicit model: a Q/DQ pair per int8 edge, nothing else changed, every number accounted for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from calibrators.scale import fake_quantize, scale_of
from calibrators.table import RangeTable
from trtbuild.errors import InputError
from trtbuild.model import files
from trtbuild.model.model import Model
from trtbuild.precision import rules
from trtbuild.precision.map import PrecisionMap
from trtbuild.recipe import PrecisionSection
from trtbuild.rewrite.cut import with_outputs
from trtbuild.rewrite.explicit import explicit, ranges_needed

Open = Callable[..., Model]
Resolve = Callable[..., PrecisionMap]
MakeTable = Callable[..., RangeTable]
RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


SHARED = """toy (float[2,4] x) => (float[2,4] y, float[2,4] a) {
    a = Relu(x) [m1] b = MatMul(a, w) [m2] c = MatMul(a, w) [g] d = Gemm<transB = 1>(a, w)
    e = Add(b, c) y = Add(e, d) }"""
BLOCK = """toy (float[N,4,8,8] image) => (float[N,4,8,8] out, float[N,4,8,8] inner) {
    [c1] inner = Conv<pads = [1,1,1,1]>(image, w, bias) [relu] b = Relu(inner)
    [c2] c = Conv<pads = [1,1,1,1]>(b, w) [add] d = Add(c, image) [soft] out = Softmax(d) }"""


@pytest.fixture(scope="module")
def shared(open_toy: Open) -> Model:
    return open_toy(SHARED, {"w": normal(4, 4)})


@pytest.fixture(scope="module")
def block(open_toy: Open) -> Model:
    return open_toy(BLOCK, {"w": normal(4, 4, 3, 3), "bias": normal(4)})


@pytest.fixture(scope="module")
def int8(resolve: Resolve, table: MakeTable) -> Callable[..., ir.Model]:
    """A model rendered with the default int8, under pins."""

    def render(model: Model, *pins: str, **amax: Any) -> ir.Model:
        return explicit(model, resolve(model, *pins), table(model, **amax), "simulated")

    return render


def initializer(model: ir.Model, name: str) -> np.ndarray:
    return np.asarray(model.graph.initializers[name].const_value.numpy())


def test_every_consumer_edge_has_its_own_pair(shared: Model, int8: Callable[..., ir.Model]) -> None:
    model = int8(shared)
    pairs = [node for node in model.graph if node.op_type == "QuantizeLinear"]
    edges = {f"{name}::{index}" for name in ("m1", "m2", "g") for index in (0, 1)}
    assert {str(node.name).removesuffix("::q") for node in pairs} == edges
    for node in model.graph:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        assert len(node.outputs[0].uses()) == 1
        edge = str(node.name).rpartition("::")[0]
        assert [value.name for value in node.inputs[1:]] == [f"{edge}::scale", f"{edge}::zero_point"]
    for name in ("m1", "m2", "g"):
        node = next(node for node in model.graph if node.name == name)
        assert [value.name for value in node.inputs] == [f"{name}::0::float", f"{name}::1::float"]


def test_one_weight_has_the_axis_of_each_of_its_readers(shared: Model, int8: Callable[..., ir.Model]) -> None:
    model, weight = int8(shared), initializer(shared.normalised, "w")
    nodes = {node.name: node for node in model.graph}
    for edge, axis, others in (("m1::1", 1, 0), ("g::1", 0, 1)):
        for kind in ("q", "dq"):
            assert nodes[f"{edge}::{kind}"].attributes["axis"].as_int() == axis
        scale = initializer(model, f"{edge}::scale")
        assert scale.dtype == np.float32
        assert np.array_equal(scale, scale_of(np.abs(weight).max(axis=others)))
        assert np.array_equal(initializer(model, f"{edge}::zero_point"), np.zeros(4, np.int8))
    assert "axis" not in nodes["m1::0::q"].attributes
    assert initializer(model, "m1::0::scale").shape == ()
    assert initializer(model, "m1::0::zero_point").dtype == np.int8


def test_a_pinned_neighbour_reads_the_float_tensor(
    shared: Model, int8: Callable[..., ir.Model], paths: Callable[..., Any]
) -> None:
    found = paths(shared, int8(shared, "m1"))
    assert found[("m1", 0)] == ("a", ())
    assert found[("m1", 1)] == ("w", ())
    assert found[("m2", 0)] == ("a", ("int8",))
    assert found[("g", 1)] == ("w", ("int8",))
    assert found[("", 1)] == ("a", ())


def test_the_residual_branch_is_quantized_for_the_add_only(
    block: Model, int8: Callable[..., ir.Model], paths: Callable[..., Any]
) -> None:
    found = paths(block, int8(block))
    assert found[("add", 0)] == ("c", ())
    assert found[("add", 1)] == ("image", ("int8",))
    assert found[("soft", 0)] == ("d", ())
    assert found[("c1", 2)] == ("bias", ())
    released = paths(block, int8(block, "c2"))
    assert released[("add", 1)] == ("image", ())
    assert released[("c1", 0)] == ("image", ("int8",))


@pytest.mark.parametrize("rendering", ["typed", "simulated"])
@pytest.mark.parametrize("default", ["int8", "fp16", "fp32"])
def test_rendering_leaves_the_model_alone(
    block: Model, resolve: Resolve, table: MakeTable, default: str, rendering: Any
) -> None:
    before = ir.to_proto(block.normalised).SerializeToString()
    precisions = resolve(block, default=default, fallback="fp16")
    first = explicit(block, precisions, table(block), rendering)
    assert ir.to_proto(block.normalised).SerializeToString() == before
    second = explicit(block, precisions, table(block), rendering)
    assert ir.to_proto(first).SerializeToString() == ir.to_proto(second).SerializeToString()


def test_weights_are_recoverable_bit_for_bit(
    block: Model, int8: Callable[..., ir.Model], tmp_path: Any
) -> None:
    files.save(int8(block), tmp_path / "explicit.onnx")
    saved = onnx.load(tmp_path / "explicit.onnx")
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in saved.graph.initializer}
    for name, value in block.graph.initializers.items():
        assert stored[name].dtype == np.float32
        assert np.array_equal(stored[name].view(np.uint8), value.const_value.numpy().view(np.uint8))


@pytest.mark.parametrize("rendering", ["typed", "simulated"])
@pytest.mark.parametrize(
    ("default", "fallback"), [("int8", "fp32"), ("int8", "fp16"), ("fp16", "fp32"), ("fp32", "fp32")]
)
def test_inputs_outputs_and_validity(
    block: Model,
    resolve: Resolve,
    table: MakeTable,
    valid: Callable[..., None],
    default: str,
    fallback: str,
    rendering: Any,
) -> None:
    model = explicit(block, resolve(block, default=default, fallback=fallback), table(block), rendering)
    valid(model)
    for before, after in (
        (block.graph.inputs, model.graph.inputs),
        (block.graph.outputs, model.graph.outputs),
    ):
        assert [(v.name, v.dtype, v.shape) for v in before] == [(v.name, v.dtype, v.shape) for v in after]
    kept = {str(value.name) for node in model.graph for value in node.outputs}
    if rendering == "typed":  # a half that only halves read has no float tensor of its name
        kept = {name.removesuffix("::raw") for name in kept}
    assert set(block.compared) <= kept


def test_all_pinned_is_the_original_bit_for_bit(
    block: Model, int8: Callable[..., ir.Model], run: Callable[..., Any]
) -> None:
    model = int8(block, "glob:*")
    assert ir.to_proto(model).SerializeToString() == ir.to_proto(block.normalised).SerializeToString()
    feeds = {"image": normal(2, 4, 8, 8)}
    shown = with_outputs(model, block.compared)
    golden = with_outputs(files.read(block.path), block.compared)
    for name, array in run(golden, feeds).items():
        assert np.array_equal(run(shown, feeds)[name], array)


def test_a_missing_range_is_the_users_error(shared: Model, resolve: Resolve, table: MakeTable) -> None:
    without = RangeTable({}, None, 1)
    for ranges in (None, without):
        with pytest.raises(InputError, match="no calibrated range for tensor 'a'; calibrate"):
            explicit(shared, resolve(shared), ranges, "simulated")
    explicit(shared, resolve(shared, "glob:*"), None, "simulated")


def test_ranges_needed_do_not_depend_on_pins(block: Model, shared: Model) -> None:
    assert ranges_needed(block) == ("image", "b")
    assert ranges_needed(shared) == ("a",)


def test_ranges_needed_end_before_what_cannot_run(open_toy: Open) -> None:
    text = "toy (float[2,4] x) => (float[2,4] y) { a = MatMul(x, w) p = Plugin_TRT(a) y = MatMul(p, w) }"
    assert ranges_needed(open_toy(text, {"w": normal(4, 4)})) == ("x",)


def test_the_order_of_the_operands_is_kept(
    open_toy: Open, int8: Callable[..., ir.Model], run: Callable[..., Any]
) -> None:
    weight = normal(2, 3)
    model = open_toy("toy (float[3,5] x) => (float[2,5] y) { [m] y = MatMul(w, x) }", {"w": weight})
    x = normal(3, 5)
    rendered = int8(model)
    assert initializer(rendered, "m::0::scale").shape == ()
    expected = fake_quantize(weight, scale_of(np.abs(weight).max())) @ fake_quantize(x, scale_of(4.0))
    np.testing.assert_allclose(run(rendered, {"x": x})["y"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("amax", [4.0, 1.0, 0.01, 1e30])
def test_the_numbers_are_those_of_the_calibrators(
    open_toy: Open, int8: Callable[..., ir.Model], run: Callable[..., Any], amax: float
) -> None:
    weight = normal(4, 6) * np.asarray([1e-3, 1, 10, 0, 1, 1], np.float32)
    model = open_toy("toy (float[2,4] x) => (float[2,6] y) { [m] y = MatMul(x, w) }", {"w": weight})
    x = normal(2, 4) * 2
    shown = with_outputs(int8(model, amax=amax), ["m::0::float", "m::1::float", "y"])
    outputs = run(shown, {"x": x})
    expected = fake_quantize(x, scale_of(amax))
    assert np.array_equal(outputs["m::0::float"], expected)
    columns = fake_quantize(weight, scale_of(np.abs(weight).max(axis=0)), axis=1)
    assert np.array_equal(outputs["m::1::float"], columns)
    np.testing.assert_allclose(outputs["y"], expected @ columns, rtol=1e-5, atol=1e-6)


def test_ties_round_to_even_and_ends_saturate(
    open_toy: Open, int8: Callable[..., ir.Model], run: Callable[..., Any]
) -> None:
    model = open_toy(
        "toy (float[1,8] x) => (float[1,8] y) { [m] y = MatMul(x, w) }", {"w": np.eye(8, dtype=np.float32)}
    )
    x = np.asarray([[0.5, 1.5, 2.5, -0.5, 127.4, 1e9, -127.6, -1e9]], np.float32)
    shown = with_outputs(int8(model, amax=127.0), ["m::0::float"])
    expected = [[0, 2, 2, 0, 127, 127, -128, -128]]
    assert np.array_equal(run(shown, {"x": x})["m::0::float"], np.asarray(expected, np.float32))


def test_zero_ranges_and_zero_channels_keep_positive_scales(
    open_toy: Open, int8: Callable[..., ir.Model], run: Callable[..., Any]
) -> None:
    weight = normal(4, 6)
    weight[:, 2] = 0
    weight[:, 3] = 1e-45  # the smallest denormal
    model = open_toy("toy (float[2,4] x) => (float[2,6] y) { [m] y = MatMul(x, w) }", {"w": weight})
    rendered = int8(model, amax=0.0)
    for edge in ("m::0", "m::1"):
        scale = initializer(rendered, f"{edge}::scale")
        assert np.all(scale >= np.finfo(np.float32).tiny)
    assert np.all(np.isfinite(run(rendered, {"x": np.zeros((2, 4), np.float32)})["y"]))


def test_an_empty_weight_renders(open_toy: Open, int8: Callable[..., ir.Model]) -> None:
    model = open_toy(
        "toy (float[2,0] x) => (float[2,4] y) { [m] y = MatMul(x, w) }", {"w": np.zeros((0, 4), np.float32)}
    )
    assert np.all(initializer(int8(model), "m::1::scale") > 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_weight_without_a_range_is_named(open_toy: Open, int8: Callable[..., ir.Model], bad: float) -> None:
    weight = normal(4, 4)
    weight[1, 1] = bad
    model = open_toy("toy (float[2,4] x) => (float[2,4] y) { [m] y = MatMul(x, kernel) }", {"kernel": weight})
    with pytest.raises(InputError, match="weight 'kernel': amax"):
        int8(model)


def test_a_model_with_its_own_qdq_comes_back_as_it_is(open_toy: Open, resolve: Resolve) -> None:
    text = """toy (float[2,4] x) => (float[2,4] y) <float s = {0.1}> {
        q = QuantizeLinear(x, s) d = DequantizeLinear(q, s) a = MatMul(d, w) y = Relu(a) }"""
    model = open_toy(text, {"w": normal(4, 4)})
    same = explicit(model, resolve(model), None, "typed")
    assert ir.to_proto(same).SerializeToString() == ir.to_proto(model.normalised).SerializeToString()
    assert same is not model.normalised


def test_a_model_that_was_rendered_before_is_refused(open_toy, write_toy):
    text = "toy (float[N,4] x) => (float[N,4] y) { a = Relu(x) y = MatMul(a, w) }"
    model = open_toy(text, {"w": np.eye(4, dtype=np.float32)})
    half = rules.resolve(model, PrecisionSection.model_validate({"default": "fp16"}), [])
    again = Model.open(write_toy(ir.to_proto(explicit(model, half, None, "simulated"))))
    with pytest.raises(InputError, match="build from the original model"):
        explicit(again, rules.resolve(again, PrecisionSection(), []), None, "simulated")
