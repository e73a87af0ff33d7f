"""The golden check over engines, which ONNX Runtime stands in for with all the bad manners of TensorRT."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import onnx_ir as ir
import pytest

from tests.targets.engine_double import Engines
from trtbuild.errors import InputError
from trtbuild.golden.layers import diff_layers
from trtbuild.golden.metric_file import Metric
from trtbuild.model import files
from trtbuild.recipe import InputSection
from trtbuild.rewrite.explicit import explicit

TOY = """toy (float[n,4] x) => (float[n,3] y, float[n,4] z) {
    h = MatMul(x, w1) r = Relu(h) y = MatMul(r, w2) z = Sigmoid(h)
}"""
RNG = np.random.default_rng(0)
WEIGHTS = {name: RNG.standard_normal((4, k)).astype(np.float32) for name, k in (("w1", 4), ("w2", 3))}
SAMPLES = RNG.standard_normal((6, 4)).astype(np.float32)


@pytest.fixture
def case(open_toy, shard_set, case_of):
    model = open_toy(TOY, WEIGHTS)
    return case_of(model, shard_set(model, {"x": SAMPLES[:4]}, {"x": SAMPLES[4:]}))


def golden_of(case, engines=None, **options):
    return (engines or Engines()).side("golden", case.model, files.read(case.model.path), **options)


def candidate_of(case, engines=None, built=None, **options):
    return (engines or Engines()).side("candidate", case.model, built or case.candidate, **options)


def failed(verdict):
    assert not verdict.passed
    return [f"{check.name}: {check.seen}" for check in verdict.checks if not check.passed]


def value(model, name):
    return next(v for node in model.graph for v in node.outputs if v.name == name)


def edited(case, edit):
    built = case.candidate.clone()
    edit(built)
    return candidate_of(case, built=built)


def through(built, tensor, op, attributes=None, dtype=ir.DataType.FLOAT):
    """Have every reader of `tensor`, and the caller, see op(tensor) under its name."""
    old = value(built, tensor)
    new = ir.Value(name=tensor, type=ir.TensorType(dtype))
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    old.name = f"{tensor}::old"
    built.graph.append(ir.node(op, [old], attributes or {}, outputs=[new], name=f"{tensor}::wrong"))
    built.graph.sort()


def test_two_engines_agree_as_two_onnx_runtimes_do(case):
    verdict = case.check_sides(golden_of(case), candidate_of(case))
    expected = case.check()
    assert verdict.passed
    assert [diff.tensor for diff in verdict.layers] == ["h", "r", "y", "z"]
    assert [diff.tensor for diff in verdict.outputs] == ["y", "z"]
    for found, reference in zip(verdict.layers, expected.layers, strict=True):
        np.testing.assert_allclose(found.difference.rmse, reference.difference.rmse, rtol=1e-3)


def test_the_gate_looks_at_the_engine_that_ships(case):
    """Outputs come from a plan with nothing marked, on both sides."""
    engines = Engines()
    case.check_sides(golden_of(case, engines), candidate_of(case, engines))
    assert engines.opened == [("z", "y"), ("z", "y"), ("z", "y", "r", "h"), ("z", "y", "r", "h")]
    assert engines.active == 0


def test_every_sample_counts_although_arrays_are_reused(case):
    """The same run twice over reused arrays would compare a sample with its neighbour."""
    labels = {f"{i // 4}:{i % 4}": row for i, row in enumerate(SAMPLES @ WEIGHTS["w1"])}
    seen = []

    def metric(outputs, label):
        seen.append(outputs["z"])
        return 1.0

    verdict = case.check_sides(
        golden_of(case), candidate_of(case), Metric("kept", metric, labels), max_drop=0.0
    )
    assert verdict.passed
    expected = 1 / (1 + np.exp(-np.array(list(labels.values()))))
    np.testing.assert_allclose(np.concatenate(seen[::2]), expected, rtol=1e-5)


def through_int(built):
    """A marked tensor that is no float any more, read by the rest as before."""
    old = value(built, "r")
    new = ir.Value(name="r", type=ir.TensorType(ir.DataType.INT32))
    old.name = "r::old"
    built.graph.append(ir.node("Cast", [old], {"to": 6}, outputs=[new], name="r::wrong"))


WRONG = {
    "lacks a layer": ("r: the candidate does not have", lambda m: setattr(value(m, "r"), "name", "other")),
    "lacks an output": ("z: the candidate does not have", lambda m: m.graph.outputs.pop()),
    "renames an output": ("y: the candidate does not have", lambda m: setattr(value(m, "y"), "name", "y_0")),
    "has one more output": ("outputs of the model", lambda m: m.graph.outputs.append(value(m, "h"))),
    "NaN in an output": ("no NaN or Inf: y", lambda m: through(m, "y", "Sqrt")),
    "NaN in a layer": ("no NaN or Inf: h", lambda m: through(m, "h", "Log")),
    "shape": ("y: shape (3,)", lambda m: through(m, "y", "Squeeze")),
    "same size, other shape": (
        "z: shape (4, 1)",
        lambda m: through(m, "z", "Transpose", {"perm": [1, 0]}),
    ),
    "float16": (
        "y: dtype float16",
        lambda m: through(m, "y", "Cast", {"to": 10}, ir.DataType.FLOAT16),
    ),
    "int32": ("r: dtype int32", through_int),
    "sign": ("y cosine: -", lambda m: through(m, "y", "Neg")),
}


@pytest.mark.parametrize("how", WRONG)
def test_a_wrong_engine_never_passes(case, how):
    what, spoil = WRONG[how]
    found = failed(case.check_sides(golden_of(case), edited(case, spoil)))
    assert any(what in line for line in found), found


@pytest.mark.parametrize("tensor", ["h", "r", "y", "z"])
def test_a_tensor_that_the_engine_loses_fails_the_gate(case, tensor):
    for sides in (
        (golden_of(case), candidate_of(case, Engines(lost=[tensor]))),
        (golden_of(case, Engines(lost=[tensor])), candidate_of(case)),
    ):
        assert any(f"{tensor}: the " in line for line in failed(case.check_sides(*sides)))


def test_an_order_of_tensorrts_own_is_no_failure(case):
    """Callers of an engine go by the names."""

    def reverse(model):
        model.graph.outputs[:] = list(reversed(model.graph.outputs))

    assert case.check_sides(golden_of(case), edited(case, reverse)).passed


def test_layers_that_only_halves_read(case, case_of):
    """The typed explicit model, as strongly typed TensorRT builds it: h and r exist in float16 alone."""
    case = case_of(case.model, case.shards, default="fp16")
    typed = explicit(case.model, case.precisions, None, "typed")
    names = {str(v.name) for node in typed.graph for v in node.outputs}
    assert {"h::raw", "r::raw"} <= names
    assert not names & {"h", "r"}
    verdict = case.check_sides(golden_of(case), candidate_of(case, built=typed))
    assert verdict.passed
    assert [diff.tensor for diff in verdict.layers] == ["h", "r", "y", "z"]
    assert all(0 < diff.difference.rmse < 0.01 for diff in verdict.layers)


def test_int64_outputs(open_toy, shard_set, case_of):
    model = open_toy(
        "toy (float[n,4] x) => (int64[n] y) { h = MatMul(x, w1) y = ArgMax<axis = 1, keepdims = 0>(h) }",
        {"w1": 10 * WEIGHTS["w1"]},
    )
    case = case_of(model, shard_set(model, {"x": SAMPLES}), default="fp32")
    for golden in (golden_of(case), case.golden):
        verdict = case.check_sides(golden, candidate_of(case))
        assert verdict.passed
        assert verdict.outputs[0].difference.count == 6


def test_a_fixed_batch(open_toy, shard_set, case_of):
    """`per_sample` runs the golden a second time, which overwrites the arrays of the first."""
    text = "toy (float[4,4] x) => (float[4,4] y) { h = MatMul(x, w) y = Relu(h) }"
    model = open_toy(text, {"w": np.eye(4, dtype=np.float32)})
    x = RNG.standard_normal((7, 4)).astype(np.float32)
    case = case_of(model, shard_set(model, {"x": x}), default="fp32")
    seen = []
    labels = {f"0:{i}": row for i, row in enumerate(x)}
    metric = Metric("kept", lambda outputs, label: float(not seen.append(outputs["y"])), labels)
    assert case.check_sides(golden_of(case), candidate_of(case), metric, max_drop=0.0).passed
    np.testing.assert_array_equal(np.concatenate(seen[::2]), np.maximum(x, 0))


class TestGroups:
    def test_marked_tensors_in_groups_that_fit(self, case, capsys):
        engines = Engines()
        verdict = case.check_sides(golden_of(case), candidate_of(case, engines, layer_bytes=32))
        whole = case.check_sides(golden_of(case), candidate_of(case))
        assert engines.opened == [("z", "y"), ("z", "y", "r", "h"), ("z", "y")]
        assert verdict == whole
        assert "comparing layers (part 1 of 2), samples: 6" in capsys.readouterr().err

    def test_each_tensor_alone(self, case):
        engines = Engines()
        verdict = case.check_sides(golden_of(case), candidate_of(case, engines, layer_bytes=1))
        assert len(engines.opened) == 4 + 1
        assert [diff.tensor for diff in verdict.layers] == ["h", "r", "y", "z"]
        assert verdict.passed

    def test_one_bad_group_is_enough(self, case):
        engines = Engines(lost=["z"])
        assert failed(case.check_sides(golden_of(case), candidate_of(case, engines, layer_bytes=1)))

    def test_onnx_runtime_needs_no_groups(self, case, capsys):
        assert case.check().passed
        assert "comparing layers, samples: 6" in capsys.readouterr().err


class TestFused:
    def sides(self, case, golden=("h", "r", "y", "z"), candidate=("h", "r", "y", "z"), lost=()):
        g, c = Engines(unfused=golden), Engines(unfused=candidate, lost=lost)
        one = golden_of(case, g, debug=lambda: files.serialize(files.read(case.model.path)))
        return one, candidate_of(case, c, debug=lambda: files.serialize(case.candidate))

    def test_what_is_fused_away_is_listed_and_no_failure(self, case):
        verdict = case.check_sides(*self.sides(case, candidate=("h",)))
        assert verdict.passed
        assert [diff.tensor for diff in verdict.layers] == ["h", "y", "z"]
        assert verdict.not_checked == {
            "r": "fused: in the engine of the candidate it exists only inside a layer"
        }

    def test_fused_in_the_golden(self, case):
        verdict = case.check_sides(*self.sides(case, golden=("r",)))
        assert verdict.passed
        assert list(verdict.not_checked) == ["h"]
        assert "golden" in verdict.not_checked["h"]

    def test_an_output_is_never_fused_away(self, case):
        found = failed(case.check_sides(*self.sides(case, lost=["y"])))
        assert any("y: the candidate does not have this tensor" in line for line in found)

    def test_a_marked_engine_beside_a_watched_one(self, case):
        golden, _ = self.sides(case, golden=("h", "r"))
        assert failed(case.check_sides(golden, candidate_of(case, Engines(lost=["r"]))))

    def test_no_layer_at_all_never_passes(self, open_toy, shard_set, case_of):
        text = (
            "toy (float[n,4] x) => (int64[n] y) { h = MatMul(x, w1) y = ArgMax<axis = 1, keepdims = 0>(h) }"
        )
        model = open_toy(text, {"w1": WEIGHTS["w1"]})
        case = case_of(model, shard_set(model, {"x": SAMPLES}), default="fp32")
        found = failed(case.check_sides(*self.sides(case, candidate=())))
        assert found == ["every tensor compared: 0 of 1; no layers"]


class TestProfiles:
    def test_samples_that_do_not_fit_are_told_before_anything_is_built(self, case):
        engines = Engines()
        profiles = {"x": InputSection(min=(2, 4), opt=(8, 4), max=(8, 4))}
        sides = golden_of(case, engines, profiles=profiles), candidate_of(case, engines, profiles=profiles)
        with pytest.raises(InputError, match=r"golden: samples are run one at a time, .* of shape \[1, 4\]"):
            case.check_sides(*sides)
        with pytest.raises(InputError, match="candidate: samples are run one at a time"):
            case.check_sides(golden_of(case, engines), sides[1])
        assert engines.opened == []


def test_a_layer_that_shows_in_the_first_sample_only(case):
    golden, candidate = TestFused().sides(case)
    with_all = candidate._open_engine

    @contextmanager
    def forgetful(plan, name, debug=()):
        with with_all(plan, name, debug) as active:
            yield Forgetful(active)

    candidate._open_engine = forgetful
    (differ,), fused = diff_layers(golden, candidate, [("h", "r")], case.shards, 3)
    assert fused == {}
    problems = {diff.tensor: diff.problem for diff in differ.results(case.model, case.precisions)}
    assert problems == {"h": None, "r": "the candidate does not have this tensor (sample 0:1)"}


class Forgetful:
    """An engine that shows r in its first run only."""

    def __init__(self, active):
        self._active, self._runs = active, 0
        self.inputs, self.outputs = active.inputs, active.outputs

    def infer(self, feeds):
        self._runs += 1
        shown = self._active.infer(feeds)
        return {name: array for name, array in shown.items() if name != "r" or self._runs == 1}
