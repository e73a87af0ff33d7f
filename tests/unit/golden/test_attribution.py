"""Whose error it is: what a layer adds on golden inputs, what it hands on, and what is rounding."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from calibrators.shards import ShardSet
from trtbuild.golden.attribution import Attribution, attribute
from trtbuild.golden.layers import diff_layers
from trtbuild.golden.scope import scope_of
from trtbuild.model.model import Model
from trtbuild.recipe import Pin
from trtbuild.targets.sides import EngineSide, OnnxRuntimeSide

CHAIN = """toy (float[n,4] x) => (float[n,4] y) {
    a = MatMul(x, w1) b = Relu(a) c = MatMul(b, w2) d = Tanh(c) e = MatMul(d, w3) y = Softmax(e) }"""
RNG = np.random.default_rng(0)
WEIGHTS = {name: RNG.standard_normal((4, 4)).astype(np.float32) for name in ("w1", "w2", "w3")}
SAMPLES = RNG.standard_normal((6, 4)).astype(np.float32)


@pytest.fixture
def chain(open_toy, shard_set, case_of):
    """`make(*pins)`: the chain with these nodes pinned."""
    model = open_toy(CHAIN, WEIGHTS)
    shards = shard_set(model, {"x": SAMPLES})
    return lambda *pins, **section: case_of(model, shards, *(Pin.parse(pin) for pin in pins), **section)


def attributed(case, candidate=None, groups=None, samples=6):
    golden, side = case.golden, case.side(candidate)
    groups = [scope_of(case.model, golden, side).layers] if groups is None else groups
    return attribute(golden, side, groups, case.shards, samples)


def erroneous(found, what):
    """The activations that have any such error."""
    return [tensor for tensor, figures in found.items() if getattr(figures, what).max_abs]


def node(model, tensor):
    return next(node for node in model.graph if node.outputs[0].name == tensor)


def negated(model, tensor):
    """All see the negative of what makes `tensor`."""
    copy = model.clone()
    maker = node(copy, tensor)
    old, new = maker.outputs[0], ir.Value(name=tensor, type=ir.TensorType(ir.DataType.FLOAT))
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    old.name = f"{tensor}::old"
    copy.graph.insert_after(maker, ir.node("Neg", [old], outputs=[new], name=f"{tensor}::neg"))
    return copy


def test_all_in_fp32_adds_and_inherits_nothing(chain):
    found = attributed(chain(default="fp32"))
    assert list(found) == ["a", "b", "c", "d", "e", "y"]
    assert erroneous(found, "own") == erroneous(found, "inherited") == []
    assert all(figures.own.count == figures.noise.count == 24 for figures in found.values())
    assert all(figures.noise.max_abs < 1e-5 for figures in found.values())


def test_one_quantized_node_is_the_only_one_with_an_error_of_its_own(chain):
    found = attributed(chain("MatMul_a", "MatMul_e"))
    assert erroneous(found, "own") == ["c"]
    assert erroneous(found, "inherited") == ["d", "e", "y"]
    assert 20 < found["c"].own.sqnr_db < 60


def test_the_difference_is_the_own_error_where_nothing_is_inherited(chain):
    case = chain("MatMul_a", "MatMul_e")
    found = attributed(case)
    (differ,), _ = diff_layers(case.golden, case.side(), [list(found)], case.shards, 6)
    difference = {diff.tensor: diff.difference for diff in differ.results(case.model, case.precisions)}
    assert found["c"].own == difference["c"]
    assert [found[tensor].inherited for tensor in "dey"] == [difference[tensor] for tensor in "dey"]


@pytest.mark.parametrize("section", [{}, {"default": "fp16"}, {"default": "fp32"}])
@pytest.mark.parametrize("tensor", ["a", "c", "d"])
def test_a_sign_flip_is_the_own_error_of_its_layer_alone(chain, tensor, section):
    case = chain(**section)
    honest, found = attributed(case), attributed(case, negated(case.candidate, tensor))
    assert found[tensor].own.cosine < -0.99
    assert found[tensor].own.sqnr_db == pytest.approx(-6.02, abs=0.1)
    assert {t: f.own for t, f in found.items() if t != tensor} == {
        t: f.own for t, f in honest.items() if t != tensor
    }
    assert found[tensor].inherited == honest[tensor].inherited
    assert found["y"].inherited.sqnr_db < 15


def test_halves_add_their_own_rounding(chain):
    found = attributed(chain("MatMul_c=fp16", default="fp32"))
    assert erroneous(found, "own") == ["c"]
    assert 50 < found["c"].own.sqnr_db < 90


def test_noise_is_of_the_candidate_against_itself(chain):
    """Far below the difference, which quantization makes."""
    found = attributed(chain())
    assert all(figures.noise.sqnr_db > 100 for figures in found.values())
    assert found["y"].inherited.sqnr_db < 60


def test_only_the_first_samples_are_run_and_each_counts(chain):
    found = attributed(chain(), samples=4)
    assert {f.count for figures in found.values() for f in vars(figures).values()} == {16}


def test_groups_change_nothing(chain):
    """What a group's layers read of other groups is shown beside it."""
    case = chain()
    whole = attributed(case)
    for groups in (
        [["a", "b", "c"], ["d", "e", "y"]],
        [[tensor] for tensor in "abcdey"],
        [["y", "c"], ["a", "b", "d", "e"]],
    ):
        parts = attributed(case, groups=groups)
        assert {t: (f.own, f.inherited) for t, f in parts.items()} == {
            t: (f.own, f.inherited) for t, f in whole.items()
        }


def test_a_tensor_that_the_candidate_lacks_stops_nothing(chain):
    case = chain("MatMul_a", "MatMul_e")
    candidate = case.candidate.clone()
    node(candidate, "d").outputs[0].name = "other"
    found = attributed(case, candidate)
    assert found["d"] == Attribution(None, None, None)
    assert erroneous({t: f for t, f in found.items() if t != "d"}, "own") == ["c"]
    assert erroneous({t: f for t, f in found.items() if t != "d"}, "inherited") == ["e", "y"]


def seen_through(model, tensor, forth, back, operand=None, to=None):
    """`tensor` shows forth(what it was), and its readers read back(that): they know nothing of it."""
    copy = model.clone()
    maker = node(copy, tensor)
    old, new, undone = maker.outputs[0], ir.Value(name=tensor), ir.Value(name=f"{tensor}::back")
    old.replace_all_uses_with(undone)
    old.name = f"{tensor}::old"
    extra = []
    if operand is not None:
        extra.append(ir.Value(name="operand", const_value=ir.tensor(operand, name="operand")))
        copy.graph.register_initializer(extra[0])
    nodes = [
        ir.node(forth, [old, *extra], {"to": to} if to else {}, outputs=[new]),
        ir.node(back, [new, *extra], {"to": 1} if to else {}, outputs=[undone]),
    ]
    copy.graph.insert_after(maker, nodes)
    return copy


OTHER = {
    "shape": {"forth": "Unsqueeze", "back": "Squeeze", "operand": np.array([0])},
    "dtype": {"forth": "Cast", "back": "Cast", "to": 11},
    "integers": {"forth": "Cast", "back": "Cast", "to": 7},
}


@pytest.mark.parametrize("how", OTHER)
def test_a_tensor_of_another_kind_stops_nothing(chain, how):
    case = chain(default="fp32")
    found = attributed(case, seen_through(case.candidate, "d", **OTHER[how]))
    assert found["d"] == Attribution(None, None, None)
    rest = {tensor: figures for tensor, figures in found.items() if tensor != "d"}
    assert len(rest) == 5
    lossy = how == "integers"
    assert erroneous(rest, "own") == (["e"] if lossy else [])  # the layers of e begin behind c
    assert erroneous(rest, "inherited") == (["y"] if lossy else [])


BRANCH = """toy (float[n,4] x, bool c) => (float[n,4] y) {
    a = MatMul(x, w1) b = MatMul(a, w2)
    y = If(c) <then_branch = t () => (float[n,4] u) { u = Add(a, b) },
               else_branch = e () => (float[n,4] v) { v = Sub(a, b) }> }"""
LOOP = """toy (float[n,4] x) => (float[n,4] y) {
    a = MatMul(x, w1) m = Constant<value = int64 {3}>() go = Constant<value = bool {1}>() s0 = Relu(x)
    l = Loop(m, go, s0) <body = l (int64 i, bool g, float[n,4] s) => (bool h, float[n,4] t)
        { h = Identity(g) t = Add(s, a) }> y = Relu(l) }"""


def test_branches_that_capture(open_toy, shard_set, case_of):
    model = open_toy(BRANCH, WEIGHTS)
    shards = shard_set(
        model, *({"x": row, "c": np.array(index % 2 == 0)} for index, row in enumerate(SAMPLES[:, None]))
    )
    found = attributed(case_of(model, shards, Pin.parse("MatMul_b")))
    assert erroneous(found, "own") == ["a"]
    assert erroneous(found, "inherited") == ["b", "y"]


def test_bodies_of_loops_that_capture(open_toy, shard_set, case_of):
    model = open_toy(LOOP, WEIGHTS)
    found = attributed(case_of(model, shard_set(model, {"x": SAMPLES})))
    assert erroneous(found, "own") == ["a"]
    assert erroneous(found, "inherited") == ["l", "y"]


def test_weights_among_the_inputs_of_the_file(open_toy, shard_set, case_of):
    """As files from before ONNX's IR version 4 have them; nobody feeds them."""
    model = open_toy(CHAIN.replace("x)", "x, float[4,4] w1)", 1), WEIGHTS)
    found = attributed(case_of(model, shard_set(model, {"x": SAMPLES}), Pin.parse("MatMul_e")))
    assert erroneous(found, "own") == ["a", "c"]
    assert erroneous(found, "inherited") == ["b", "c", "d", "e", "y"]


def test_integers_and_hidden_floats_between(open_toy, shard_set, case_of):
    """A shape computed from a compared tensor, and a bfloat16 that nobody can hand out."""
    model = open_toy(
        """toy (float[n,4] x) => (float[n,4] y) {
            a = MatMul(x, w1) s = Shape(a) h = Cast<to = 16>(a) f = Cast<to = 1>(h) r = Reshape(f, s)
            k = ArgMax<axis = 1, keepdims = 1>(r) m = Cast<to = 1>(k) y = Mul(m, r) }""",
        WEIGHTS,
    )
    case = case_of(model, shard_set(model, {"x": SAMPLES}))
    assert case.model.hidden == ("h",)
    found = attributed(case)
    assert list(found) == ["a", "f", "r", "m", "y"]
    assert erroneous(found, "own") == ["a"]
    assert found["f"].inherited.max_abs > 0


@pytest.mark.parametrize(
    ("dtype", "text", "limit"), [(np.float16, "float16", 1e-3), (np.float64, "double", 0)]
)
def test_models_of_other_floats(open_toy, shard_set, case_of, dtype, text, limit):
    """Between two nodes in float16 without kernels ONNX Runtime keeps float32; what is fed is rounded."""
    model = open_toy(f"toy ({text}[n,4] x) => ({text}[n,4] y) {{ a = Exp(x) b = Neg(a) y = Tanh(b) }}")
    case = case_of(model, shard_set(model, {"x": SAMPLES.astype(dtype)}), default="fp32")
    found = attributed(case, negated_as(case.candidate, "b", dtype))
    assert found["a"].own.max_abs == 0
    assert found["b"].own.cosine < -0.99
    assert found["y"].own.rmse <= limit
    assert found["y"].inherited.cosine < -0.99


def negated_as(model, tensor, dtype):
    copy = negated(model, tensor)
    value = node(copy, tensor).outputs[0]
    value.type = ir.TensorType(ir.DataType.from_numpy(np.dtype(dtype)))
    return copy


def test_a_part_that_cannot_be_run_is_left_away(open_toy, shard_set, case_of):
    model = open_toy(
        "toy (float[n,4] x) => (float[n,4] y) { a = MatMul(x, w1) b = Relu(a) y = EfficientNMS_TRT(b) }",
        WEIGHTS,
    )
    found = attributed(case_of(model, shard_set(model, {"x": SAMPLES})))
    assert list(found) == ["a", "b"]
    assert erroneous(found, "own") == ["a"]
    assert all(figures.noise.sqnr_db > 100 or not figures.noise.max_abs for figures in found.values())


def test_a_batch_that_the_model_fixes_counts_whole(open_toy, shard_set, case_of):
    text = CHAIN.replace("[n,4]", "[2,4]")
    model = open_toy(text, WEIGHTS)
    found = attributed(case_of(model, shard_set(model, {"x": SAMPLES})), samples=3)
    assert {f.count for figures in found.values() for f in vars(figures).values()} == {2 * 8}


def test_shapes_that_depend_on_the_numbers(open_toy, shard_set, case_of):
    """Of the first sample, all zeros, both sides keep nothing; of the others the negative keeps the rest."""
    model = open_toy(
        """toy (float[n,4] x) => (float[p] y, float[n,4] z) {
            a = Neg(x) s = Greater(a, t) k = Reshape(s, one) y = Compress(a, k) z = Exp(a) }""",
        {"t": np.array(0, np.float32), "one": np.array([-1])},
    )
    samples = np.concatenate([np.zeros((1, 4), np.float32), np.abs(SAMPLES)])
    case = case_of(model, shard_set(model, {"x": samples}), default="fp32")
    found = attributed(case, negated(case.candidate, "a"), samples=7)
    assert found["a"].own.max_abs > 0
    assert found["z"].own.max_abs == found["y"].own.max_abs == 0
    assert found["z"].inherited.max_abs > 0
    assert found["y"].inherited is None


class Refused(OnnxRuntimeSide):
    """A side whose layers run together but, ONNX Runtime objects, not apart."""

    def layerwise(self, tensors, fed):
        return super().layerwise(tensors, {tensor: np.dtype(np.int64) for tensor in fed})


def test_what_is_refused_is_said_and_leaves_the_rest(chain, capsys):
    case = chain(default="fp32")
    found = attribute(case.golden, Refused("candidate", case.candidate), [["a", "b", "c"]], case.shards, 2)
    assert [figures.own for figures in found.values()] == [None] * 3
    assert all(figures.inherited.max_abs == 0 and figures.noise is not None for figures in found.values())
    assert "note: the own errors of these layers are not told: ONNX Runtime" in capsys.readouterr().err


def test_what_fails_in_a_later_sample_is_said_and_leaves_the_rest(open_toy, shard_set, case_of, capsys):
    """What the candidate shows a hundredfold points nowhere in the golden's table."""
    model = open_toy(
        "toy (float[n,4] x) => (float[n,4] y) { a = Relu(x) k = Cast<to = 7>(a) y = Gather(w, k) }",
        {"w": np.arange(4, dtype=np.float32)},
    )
    case = case_of(model, shard_set(model, {"x": np.float32([[0] * 4, [2] * 4, [0] * 4])}), default="fp32")
    candidate = seen_through(case.candidate, "a", "Mul", "Div", np.float32([100]))
    found = attributed(case, candidate, samples=3)
    assert [figures.inherited for figures in found.values()] == [None] * 2
    assert [(figures.own.max_abs, figures.own.count) for figures in found.values()] == [(198, 12), (2, 12)]
    err = capsys.readouterr().err
    assert (
        err.count("note: the inherited errors of these layers are not told: golden: running 0:1 failed") == 1
    )


def test_engines_have_no_layers_to_run_apart(chain):
    case = chain()

    def refuse(*_):
        raise AssertionError("nothing is built")

    engine = EngineSide("candidate", case.model, refuse, refuse, refuse)
    found = attribute(case.golden, engine, [["a"], ["y"]], case.shards, 2)
    assert found == {"a": Attribution(None, None, None), "y": Attribution(None, None, None)}


def test_noise_is_what_another_optimisation_level_rounds(open_toy, shard_set, case_of):
    """With its activation not shown, the batch normalisation is folded into the convolution's weights."""
    model = open_toy(
        """toy (float[n,3,8,8] x) => (float[n,4,8,8] y) {
            c = Conv<pads = [1,1,1,1]>(x, w) b = BatchNormalization(c, s, o, m, v) y = Relu(b) }""",
        {
            "w": RNG.standard_normal((4, 3, 3, 3)).astype(np.float32),
            **{name: RNG.uniform(0.3, 3, 4).astype(np.float32) for name in "somv"},
        },
    )
    case = case_of(
        model, shard_set(model, {"x": RNG.standard_normal((3, 3, 8, 8)).astype(np.float32)}), default="fp32"
    )
    found = attributed(case, groups=[["c"], ["b", "y"]], samples=3)
    assert erroneous(found, "own") == erroneous(found, "inherited") == []
    assert 90 < found["b"].noise.sqnr_db < 170


def test_a_real_model(prepare, case_of):
    """A text recogniser with attention and squeeze-and-excite: every error is of an int8 node."""
    folder = prepare(
        "ocr-rec",
        *("--calibration", "4", "--validation", "2"),
        needs=("PIL", "rapidocr_onnxruntime", "font_roboto", "font_source_sans_pro", "font_source_serif_pro"),
    )
    model = Model.open(folder / "model.onnx")
    case = case_of(model, ShardSet.open(folder / "shards", model.inputs))
    found = attributed(case, samples=1)
    makers = {value.name: node.name for node in model.graph for value in node.outputs}
    int8 = [tensor for tensor in found if case.precisions[makers[tensor]] == "int8"]
    assert (len(found), len(int8)) == (403, 51)
    assert erroneous(found, "own") == int8
    (differ,), _ = diff_layers(case.golden, case.side(), [list(found)], case.shards, 1)
    for diff in differ.results(model, case.precisions):
        figures = found[diff.tensor]
        if diff.tensor in int8:
            assert figures.own.sqnr_db > 10
        else:
            assert figures.inherited == diff.difference
