"""Normalising changes no number and no tensor name; nodes get stable, unique names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnx_ir as ir
import pytest

from calibrators.table import Range, RangeTable
from trtbuild.errors import InputError
from trtbuild.model import files
from trtbuild.model.model import Model
from trtbuild.model.normalise import ORIGINAL_NAME
from trtbuild.precision import rules
from trtbuild.recipe import Pin, PrecisionSection
from trtbuild.rewrite.explicit import explicit

RNG = np.random.default_rng(0)
OPSETS = (9, 11, 12, 13, 17, 18, 21)
IMAGE = "float[2,3,4,4] x"
ANY = "float[a,b,c,d] y"


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.fixture(scope="module")
def check(write_toy: Callable[..., Path], run: Callable[..., Any]) -> Callable[..., Model]:
    """Normalise a model; outputs, their types and every kept activation must be bit-identical."""

    def same(
        model: str | onnx.ModelProto,
        weights: dict[str, np.ndarray] | None = None,
        feeds: dict[str, np.ndarray] | None = None,
        **options: Any,
    ) -> Model:
        path = write_toy(model, weights, **options)
        opened = Model.open(path)
        feeds = feeds or {s.name: normal(*(d or 2 for d in s.shape)).astype(s.dtype) for s in opened.inputs}
        given = files.read(path)
        for node in given.graph:
            node.name = ""  # ONNX Runtime refuses names that repeat
        assert [v.name for v in given.graph.inputs if not v.is_initializer()] == list(feeds)
        assert [v.name for v in given.graph.outputs] == [v.name for v in opened.graph.outputs]
        before, after = run(given, feeds), run(opened.normalised, feeds)
        for name, expected in before.items():
            assert after[name].dtype == expected.dtype
            assert np.array_equal(after[name].view(np.uint8), expected.view(np.uint8)), name
        assert not opened.unrunnable
        names = [node.name for node in opened.graph.all_nodes()]
        assert all(names)
        assert len(set(names)) == len(names)
        return opened

    return same


CHANGED_OVER_TIME = {
    "Softmax over the axes from 1": (
        range(9, 22),
        "float[2,3,4] x",
        "y = Softmax<axis = 1>(x)",
        "float[2,3,4] y",
    ),
    "Softmax, default axis": (range(9, 22), "float[2,3,4] x", "y = Softmax(x)", "float[2,3,4] y"),
    "LogSoftmax": (range(9, 22), "float[2,3,4] x", "y = LogSoftmax<axis = 1>(x)", "float[2,3,4] y"),
    "Dropout": (range(9, 12), IMAGE, "d = Dropout<ratio = 0.5>(x) y = Relu(d)", ANY),
    "Dropout with a ratio": (range(12, 22), IMAGE, "d = Dropout(x, half) y = Relu(d)", ANY),
    "Upsample nearest": (range(9, 10), IMAGE, 'u = Upsample<mode = "nearest">(x, twice) y = Relu(u)', ANY),
    "Upsample linear": (range(9, 10), IMAGE, 'u = Upsample<mode = "linear">(x, twice) y = Relu(u)', ANY),
    "Upsample is the output": (range(9, 10), IMAGE, 'y = Upsample<mode = "linear">(x, twice)', ANY),
    "two Upsamples": (
        range(9, 10),
        IMAGE,
        'a = Upsample<mode = "linear">(x, twice) b = Upsample<mode = "nearest">(a, twice) y = Relu(b)',
        ANY,
    ),
    "Resize of opset 10": (range(10, 11), IMAGE, 'y = Resize<mode = "linear">(x, twice)', ANY),
    "Resize": (range(11, 22), IMAGE, 'y = Resize<mode = "linear">(x, roi, twice)', ANY),
    "Squeeze axes": (
        range(9, 13),
        "float[2,1,4] x",
        "s = Squeeze<axes = [1]>(x) u = Unsqueeze<axes = [0]>(s) y = Relu(u)",
        "float[a,b,c] y",
    ),
    "Squeeze input": (range(13, 22), "float[2,1,4] x", "s = Squeeze(x, one) y = Relu(s)", "float[a,b] y"),
    "ReduceMean axes": (range(9, 18), IMAGE, "y = ReduceMean<axes = [2,3]>(x)", ANY),
    "ReduceMean input": (range(18, 22), IMAGE, "y = ReduceMean(x, one)", ANY),
    "ReduceSum axes": (range(9, 13), IMAGE, "y = ReduceSum<axes = [1], keepdims = 0>(x)", "float[a,b,c] y"),
    "BatchNormalization": (range(9, 22), IMAGE, "y = BatchNormalization(x, scale, bias, bias, scale)", ANY),
    "Clip attributes": (range(9, 11), IMAGE, "y = Clip<min = -0.5, max = 0.7>(x)", ANY),
    "Clip inputs": (range(11, 22), IMAGE, "y = Clip(x, zero, half)", ANY),
    "Pad attributes": (range(9, 11), IMAGE, "y = Pad<pads = [0,0,1,1,0,0,2,2], value = 2.0>(x)", ANY),
    "Pad inputs": (range(11, 22), IMAGE, "y = Pad(x, pads, half)", ANY),
    "Split attribute": (
        range(9, 13),
        "float[2,6] x",
        "s, y = Split<axis = 1, split = [2,4]>(x)",
        "float[a,b] y",
    ),
    "TopK": (range(10, 22), IMAGE, "y, i = TopK(x, one)", ANY),
    "Slice attributes": (range(9, 10), IMAGE, "y = Slice<axes = [2], starts = [1], ends = [3]>(x)", ANY),
    "LayerNormalization": (range(17, 22), "float[2,3] x", "y = LayerNormalization(x, scale)", "float[2,3] y"),
}
CONSTANTS = """float half = {0.5}, float zero = {0}, float[4] twice = {1,1,2,2}, int64[1] one = {1},
    float[0] roi = {}, float[3] scale = {1,2,3}, float[3] bias = {0.5,-1,0.25},
    int64[8] pads = {0,0,1,1,0,0,2,2}"""
CASES = [
    pytest.param(opset, *rest, id=f"{name}, opset {opset}")
    for name, (opsets, *rest) in CHANGED_OVER_TIME.items()
    for opset in (*OPSETS, 10)
    if opset in opsets
]


@pytest.mark.parametrize(("opset", "inputs", "body", "outputs"), CASES)
def test_raising_the_opset_changes_no_bit(
    check: Callable[..., Model], opset: int, inputs: str, body: str, outputs: str
) -> None:
    model = check(f"toy ({inputs}) => ({outputs}) <{CONSTANTS}> {{ {body} }}", opset=opset)
    assert model.normalisation.opset_before == opset
    assert model.normalised.opset_imports[""] == (opset if opset >= 17 else 18)
    assert model.normalisation.opset_after == model.normalised.opset_imports[""]
    assert set(model.removed) <= {"d"}  # a Dropout does nothing


@pytest.mark.parametrize("scale", [1.5, 2.0, 2.6, 3.0])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_a_resize_of_opset_10_keeps_its_coordinates(
    check: Callable[..., Model], mode: str, scale: float
) -> None:
    body = f'y = Resize<mode = "{mode}">(x, s)'
    check(f"toy ({IMAGE}) => ({ANY}) <float[4] s = {{1,1,{scale},{scale}}}> {{ {body} }}", opset=10)


def test_names_and_tensors_of_an_upsample_stay(open_toy: Callable[..., Model]) -> None:
    text = f"toy ({IMAGE}) => ({ANY}) <{CONSTANTS}> {{ [up] u = Upsample(x, twice) [act] y = Relu(u) }}"
    model = open_toy(text, opset=9)
    assert [node.name for node in model.graph] == ["up", "act"]
    assert model.compared == ("u", "y")


def test_an_opset_that_cannot_be_raised(open_toy: Callable[..., Model]) -> None:
    with pytest.raises(
        InputError, match=r"model\.onnx: cannot raise .* opset 1 to 18.*export it with opset 17"
    ):
        open_toy('toy (int64[2] x) => (float[2] y) { y = Cast<to = "FLOAT">(x) }', opset=1)


NAMING = """toy (float[2,4] x) => (float[2,4] y{output}) {{
    a = MatMul(x, w) {between} [kept] b = Relu(a) n = MatMul(b, w) l = Softmax<axis = 0>(n) y = Add(l, n)
}}"""


@pytest.mark.parametrize("opset", OPSETS)
def test_names_do_not_change_when_an_unrelated_node_is_inserted(
    open_toy: Callable[..., Model], opset: int
) -> None:
    weights = {"w": normal(4, 4)}
    before = open_toy(NAMING.format(output="", between=""), weights, opset=opset)
    inserted = NAMING.format(output=", float[2,4] q", between="p = Neg(a) q = Softmax<axis = 0>(p)")
    after = open_toy(inserted, weights, opset=opset)
    names = {str(node.outputs[0].name): node.name for node in before.graph}
    assert names["a"] == "MatMul_a"
    assert names["b"] == "kept"
    assert before.normalisation.named == 4
    changed = {str(node.outputs[0].name): node.name for node in after.graph}
    for tensor in "abnly":
        assert changed[tensor] == names[tensor]


def test_repeated_names_become_unique_and_rules_match_either(
    check: Callable[..., Model], toy: Callable[..., onnx.ModelProto]
) -> None:
    text = """toy (float[2,4] x) => (float[2,4] y) {
        [m] a = MatMul(x, w) [taken] b = Relu(a) [m] c = MatMul(b, w) [m] y = MatMul(c, w) }"""
    proto = toy(text, {"w": normal(4, 4)})
    proto.graph.node[1].name = "m#2"
    model = check(proto)
    assert [node.name for node in model.graph] == ["m", "m#2", "m#3", "m#4"]
    assert model.normalisation.renamed == ("m#3", "m#4")
    assert [node.metadata_props.get(ORIGINAL_NAME) for node in model.graph] == [None, None, "m", "m"]
    pins = [Pin(name="m", to="fp32"), Pin(name="m#4", to="int8")]
    precisions = rules.resolve(model, PrecisionSection(), pins)
    assert [rule.matched for rule in precisions.rules] == [3, 1]
    assert [precisions[name] for name in ("m", "m#3", "m#4")] == ["fp32", "fp32", "int8"]


@pytest.mark.parametrize("opset", [11, 13, 17])
def test_repeated_names_survive_what_the_passes_do(check: Callable[..., Model], opset: int) -> None:
    """ONNX's converter drops metadata, onnxscript's folder numbers repeated names itself."""
    text = f"""toy (float[2,3,4,4] x) => ({ANY}) <{CONSTANTS}> {{
        [n] a = Relu(x) [n] b = Neg(a) [f] c = Add(half, half) [n] y = Mul(b, c) }}"""
    model = check(text, opset=opset)
    assert [(node.name, node.metadata_props.get(ORIGINAL_NAME)) for node in model.graph] == [
        ("n", None),
        ("n#2", "n"),
        ("n#3", "n"),
    ]


def test_names_in_bodies_do_not_take_names_of_the_graph(check: Callable[..., Model]) -> None:
    text = f"""toy (float[2,4] x, bool c) => (float[2,4] y) <{CONSTANTS}> {{
        [i] a = If(c) <then_branch = t () => (float[2,4] u) {{ [n] u = Relu(x) }},
                       else_branch = e () => (float[2,4] v) {{ [n] v = Neg(x) }}>
        [f] k = Add(half, half) [n] y = Mul(a, k) }}"""
    model = check(text, feeds={"x": normal(2, 4), "c": np.asarray(False)})
    assert [node.name for node in model.graph] == ["i", "n"]
    assert model.normalisation.renamed == ()


def test_initializers_listed_as_inputs_become_constants(
    check: Callable[..., Model], toy: Callable[..., onnx.ModelProto]
) -> None:
    weight = normal(4, 4)
    proto = toy(
        "toy (float[2,4] x) => (float[2,4] y) { y = MatMul(x, w) }", {"w": weight}, ir_version=3, opset=9
    )
    proto.graph.input.append(onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [4, 4]))
    model = check(proto, feeds={"x": normal(2, 4)})
    assert [spec.name for spec in model.inputs] == ["x"]
    assert np.array_equal(model.graph.initializers["w"].const_value.numpy(), weight)
    assert rules.resolve(model, PrecisionSection(), []).lowerable == 1


WEIGHTS_BEHIND = {
    "Identity": ("v = Identity(w)", normal(4, 4)),
    "Transpose": ("v = Transpose(w)", normal(4, 4)),
    "Reshape": ("v = Reshape(w, shape)", normal(16)),
    "Cast": ("v = Cast<to = 1>(w)", normal(4, 4).astype(np.float16)),
    "a chain": (
        "a = Cast<to = 1>(w) b = Reshape(a, shape) c = Transpose(b) v = Identity(c)",
        normal(16).astype("f2"),
    ),
}


@pytest.mark.parametrize(("body", "weight"), WEIGHTS_BEHIND.values(), ids=WEIGHTS_BEHIND)
@pytest.mark.parametrize("opset", [11, 17])
def test_a_weight_behind_a_view_is_folded(
    check: Callable[..., Model], body: str, weight: np.ndarray, opset: int
) -> None:
    text = f"toy (float[2,4] x) => (float[2,4] y) <int64[2] shape = {{4,4}}> {{ {body} y = MatMul(x, v) }}"
    model = check(text, {"w": weight}, opset=opset)
    assert [node.op_type for node in model.graph] == ["MatMul"]
    assert model.graph[0].inputs[1].is_initializer()
    assert set(model.compared) == {"y"}
    assert not model.removed  # weights are not activations


def test_constants_of_every_kind_become_initializers(check: Callable[..., Model]) -> None:
    text = """toy (float[2,4] x) => (float[2,4] y) {
        a = Constant<value = float[1,4] {1,2,3,4}>() b = Constant<value_float = 2.0>()
        i = Constant<value_ints = [2,4]>() c = Add(x, a) d = Mul(c, b) y = Reshape(d, i) }"""
    model = check(text)
    assert not [node for node in model.graph if node.op_type == "Constant"]
    assert all(value.is_initializer() for node in model.graph for value in node.inputs[1:])


def test_functions_are_inlined_and_their_nodes_named(check: Callable[..., Model]) -> None:
    text = """toy (float[2,4] x) => (float[2,4] y) { [one] a = local.twice(x) [two] y = local.twice(a) }
        <domain: "local", opset_import: ["": 17, "local": 1]>
        twice (p) => (r) { q = Relu(p) r = local.inner(q) }
        <domain: "local", opset_import: ["": 17]> inner (p) => (r) { [named] t = Neg(p) r = Exp(t) }"""
    model = check(text, domains="local")
    assert not model.normalised.functions
    assert [node.op_type for node in model.graph] == ["Relu", "Neg", "Exp"] * 2
    names = [str(node.name) for node in model.graph]
    assert names[:3] == ["Relu_q", "named", "Exp_r"]
    assert len(set(names)) == 6
    assert model.compared == ("a", "y")


@pytest.mark.parametrize("opset", [11, 13, 17, 21])
def test_a_body_keeps_reading_outer_values(check: Callable[..., Model], opset: int) -> None:
    text = """toy (float[2,4] x, bool c) => (float[2,4] y) {
        a = MatMul(x, w)
        b = If(c) <then_branch = t () => (float[2,4] u) { k = Constant<value = float {2}>() u = Mul(a, k) },
                   else_branch = e () => (float[2,4] v) { v = MatMul(a, w) }>
        y = Relu(b) }"""
    for condition in (True, False):
        feeds = {"x": normal(2, 4), "c": np.asarray(condition)}
        model = check(text, {"w": normal(4, 4)}, feeds, opset=opset)
        assert [node.op_type for node in model.graph] == ["MatMul", "If", "Relu"]
        assert model.compared == ("a", "b", "y")


def test_a_loop_keeps_reading_outer_values(check: Callable[..., Model]) -> None:
    text = """toy (float[2,4] x, int64 n) => (float[2,4] y) <bool go = {1}> {
        a = Exp(x)
        b = Loop(n, go, a) <body = l (int64 i, bool g, float[2,4] s) => (bool h, float[2,4] t)
                                   { h = Identity(g) t = Add(s, a) }>
        y = Relu(b) }"""
    model = check(text, feeds={"x": normal(2, 4), "n": np.asarray(3)})
    assert [node.op_type for node in model.graph] == ["Exp", "Loop", "Relu"]
    assert model.compared == ("a", "b", "y")


def test_several_inputs_of_several_types_and_dynamic_axes(check: Callable[..., Model]) -> None:
    text = """toy (int64[N,S] ids, float[N,S,4] x, bool[N,S] m) => (float[N,S,4] y, int64[N,S] z) {
        e = Gather(w, ids) a = Add(e, x) ax = Constant<value_ints = [-1]>() u = Unsqueeze(m, ax)
        k = Constant<value_float = 0.0>() y = Where(u, a, k) z = Abs(ids) }"""
    feeds = {
        "ids": RNG.integers(0, 7, (2, 5)),
        "x": normal(2, 5, 4),
        "m": RNG.integers(0, 2, (2, 5)).astype(bool),
    }
    model = check(text, {"w": normal(7, 4)}, feeds)
    assert [(spec.name, spec.dtype, spec.shape) for spec in model.inputs] == [
        ("ids", np.dtype(np.int64), (None, None)),
        ("x", np.dtype(np.float32), (None, None, 4)),
        ("m", np.dtype(np.bool_), (None, None)),
    ]
    assert model.compared == ("e", "a", "y")


QAT = """toy (float[2,4] x) => (float[2,4] y) <float s = {0.1}, int8 z = {0}, float t = {0.02}> {
    xq = QuantizeLinear(x, s, z) xd = DequantizeLinear(xq, s, z)
    wq = QuantizeLinear(w, t, z) wd = DequantizeLinear(wq, t, z)
    a = MatMul(xd, wd) y = Relu(a) }"""


@pytest.mark.parametrize("opset", [13, 17, 21])
def test_the_models_own_qdq_stays(check: Callable[..., Model], opset: int) -> None:
    model = check(QAT, {"w": normal(4, 4)}, opset=opset)
    assert model.quantized
    assert [node.op_type for node in model.graph].count("QuantizeLinear") == 2
    assert [node.op_type for node in model.graph].count("DequantizeLinear") == 2


def test_int8_weights_behind_a_dequantize_stay(check: Callable[..., Model]) -> None:
    text = """toy (float[2,4] x) => (float[2,4] y) <float s = {0.1}> {
        v = DequantizeLinear(w, s) y = MatMul(x, v) }"""
    model = check(text, {"w": RNG.integers(-9, 9, (4, 4)).astype(np.int8)})
    assert model.quantized
    assert [node.op_type for node in model.graph] == ["DequantizeLinear", "MatMul"]


def test_a_wrong_annotation_does_not_hide_the_types(check: Callable[..., Model]) -> None:
    """Exporters leave stale shapes behind; strict inference would give up on the whole graph."""
    model = check("toy (float[2,4] x) => (float[1] y) { a = MatMul(x, w) y = Relu(a) }", {"w": normal(4, 4)})
    assert model.graph[0].outputs[0].dtype == ir.DataType.FLOAT
    assert model.compared == ("a", "y")
    assert rules.resolve(model, PrecisionSection(), []).lowerable == 1


def test_constant_outputs_stay_outputs(check: Callable[..., Model]) -> None:
    text = """toy (float[2,3] x) => (float[2,3] y, float[2] c, float[2] w, int64[2] s, float[2,3] i)
        <float[2] w = {1,2}> { y = Relu(x) c = Neg(w) s = Shape(x) i = Identity(x) }"""
    model = check(text)
    assert model.compared == ("y", "i")
    assert model.checked_outputs == ("y", "c", "w", "s", "i")


def test_an_invalid_model_is_the_users_error(open_toy: Callable[..., Model]) -> None:
    loop = """toy (float[2] x) => (float[2] y) { y = local.f(x) }
        <domain: "local", opset_import: ["": 17]> f (p) => (r) { r = local.f(p) }"""
    with pytest.raises(InputError, match=r"model\.onnx: the model is invalid"):
        open_toy(loop, domains="local")
    mixed = """toy (float[2] x) => (float[2] y) { y = local.f(x) }
        <domain: "local", opset_import: ["": 11]> f (p) => (r) { r = Relu(p) }"""
    with pytest.raises(InputError, match=r"the model is invalid.*[Oo]pset mismatch"):
        open_toy(mixed, domains="local")


SEQUENCES = {
    "made and read": "s = SequenceConstruct(a, a) y = SequenceAt(s, zero)",
    "through Identity": "s = SequenceConstruct(a, a) t = Identity(s) y = SequenceAt(t, zero)",
    "out of an If": """ok = Cast<to = 9>(one)
        s = If(ok) <then_branch = g1 () => (t) { t = SequenceConstruct(a) },
                    else_branch = g2 () => (e) { e = SequenceConstruct(a, a) }>
        y = SequenceAt(s, zero)""",
}


@pytest.mark.parametrize("body", SEQUENCES.values(), ids=SEQUENCES)
@pytest.mark.parametrize("default", ["fp32", "int8", "fp16"])
def test_a_sequence_is_no_tensor(
    open_toy: Callable[..., Model], run: Callable[..., Any], body: str, default: str
) -> None:
    """onnx-ir's shape inference gives sequences the type of a tensor, which ONNX Runtime refuses."""
    constants = {"w": np.eye(4, dtype=np.float32), "zero": np.array(0), "one": np.array(1)}
    model = open_toy(f"toy (float[N,4] x) => (float[N,4] y) {{ a = MatMul(x, w) {body} }}", constants)
    precisions = rules.resolve(model, PrecisionSection.model_validate({"default": default}), [])
    table = RangeTable({"x": Range(4.0, "minmax")}, None, 1)
    x = np.array([[4, 2, -4, 0]], np.float32)  # exact in int8 and fp16, but for 2
    seen = run(explicit(model, precisions, table, "simulated"), {"x": x})["y"]
    assert np.allclose(seen, x, atol=0.02)


@pytest.mark.parametrize("scale", [0.6, 0.5, 1.7, 2.0])
def test_an_old_nearest_resize_keeps_its_rounding(check: Callable[..., Model], scale: float) -> None:
    scales = np.array([1, 1, scale, scale], np.float32)
    text = 'toy (float[1,2,10,10] x) => (float[a,b,c,d] y) { r = Relu(x) y = Resize<mode = "nearest">(r, s) }'
    check(text, {"s": scales}, opset=10)


def test_an_old_resize_both_ways_is_refused(open_toy: Callable[..., Model]) -> None:
    text = 'toy (float[1,2,10,10] x) => (float[a,b,c,d] y) { y = Resize<mode = "nearest">(x, s) }'
    with pytest.raises(InputError, match="shrinks one axis and stretches another"):
        open_toy(text, {"s": np.array([1, 1, 0.5, 2], np.float32)}, opset=10)
