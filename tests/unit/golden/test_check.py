"""Candidates that are wrong in every way that was thought of: none passes, and each names the tensor."""

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from trtbuild.errors import InputError
from trtbuild.golden.metric_file import Metric
from trtbuild.recipe import OutputThresholds, Pin

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


def value(model, name):
    return next(v for node in model.graph for v in node.outputs if v.name == name)


def constant(model, name, array):
    tensor = ir.tensor(array, name=name)
    result = ir.Value(
        name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    model.graph.register_initializer(result)
    return result


def through(candidate, tensor, op, operand=None, attributes=None, dtype=ir.DataType.FLOAT):
    """Have every reader of `tensor`, and the caller, see op(tensor, operand) under its name."""
    model = candidate.clone()
    old = value(model, tensor)
    new = ir.Value(name=tensor, type=ir.TensorType(dtype))
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    number = len(model.graph)
    old.name = f"{tensor}::old{number}"
    inputs = [old] if operand is None else [old, constant(model, f"{tensor}::operand{number}", operand)]
    model.graph.append(ir.node(op, inputs, attributes or {}, outputs=[new], name=f"{tensor}::wrong{number}"))
    model.graph.sort()
    return model


def renamed(candidate, tensor, name):
    model = candidate.clone()
    value(model, tensor).name = name
    return model


def without(candidate, tensor):
    """An output that nobody can ask for any more."""
    model = candidate.clone()
    model.graph.outputs.remove(value(model, tensor))
    model.graph.remove(value(model, tensor).producer(), safe=True)
    return model


def swapped(candidate):
    """y and z under each other's names, one of them cut to the shape that is asked for."""
    model = candidate.clone()
    y, z = value(model, "y"), value(model, "z")
    y.name, z.name = "z", "y"
    model.graph.outputs[:] = [z, y]
    return model


def reordered(candidate):
    model = candidate.clone()
    model.graph.outputs[:] = list(reversed(model.graph.outputs))
    return model


def test_an_honest_candidate_passes(case):
    verdict = case.check()
    assert verdict.passed
    assert [diff.tensor for diff in verdict.layers] == ["h", "r", "y", "z"]
    assert [diff.tensor for diff in verdict.outputs] == ["y", "z"]
    assert [diff.precision for diff in verdict.layers] == ["int8", "fp32", "int8", "fp32"]
    assert all(0 < diff.difference.rmse < 0.1 for diff in verdict.outputs)
    assert [check.name for check in verdict.checks][-4::2] == ["y cosine", "z cosine"]


ZERO, ONE, HUNDRED = np.array([0, 1, 100], np.float32)[:, None]  # arrays, not scalars: those NumPy 1 widens
WRONG = {
    "lacks a layer": ("r", lambda c: renamed(c, "r", "other")),
    "lacks an output": ("z", lambda c: without(c, "z")),
    "renames an output": ("y", lambda c: renamed(c, "y", "y_0")),
    "renames an output to almost the same": ("y", lambda c: renamed(c, "y", "Y")),
    "reorders the outputs": ("z, y", reordered),
    "swaps the outputs": ("y", swapped),
    "NaN in an output": ("y", lambda c: through(c, "y", "Mul", np.float32(np.nan) * ONE)),
    "Inf in an output": ("z", lambda c: through(c, "z", "Div", ZERO)),
    "NaN in a layer": ("r", lambda c: through(c, "r", "Div", ZERO)),
    "shape": ("y", lambda c: through(c, "y", "Unsqueeze", np.array([0]))),
    "shape that broadcasts": ("y", lambda c: through(c, "y", "ReduceSum", np.array([1]))),
    "same size, other shape": ("z", lambda c: through(c, "z", "Transpose", attributes={"perm": [1, 0]})),
    "float16": ("y", lambda c: through(c, "y", "Cast", None, {"to": 10}, ir.DataType.FLOAT16)),
    "float64": ("z", lambda c: through(c, "z", "Cast", None, {"to": 11}, ir.DataType.DOUBLE)),
    "zeros": ("y", lambda c: through(c, "y", "Mul", ZERO)),
    "constant": ("y", lambda c: through(through(c, "y", "Mul", ZERO), "y", "Add", ONE)),
    "constant that looks like it": ("y", lambda c: through(c, "y", "Max", HUNDRED)),
    "sign": ("y", lambda c: through(c, "y", "Neg")),
    "sign of a layer": ("y", lambda c: through(c, "r", "Neg")),
    "another sample": (
        "y",
        lambda c: through(c, "y", "Add", RNG.standard_normal(3).astype(np.float32) * 20),
    ),
}


@pytest.mark.parametrize("how", WRONG)
@pytest.mark.parametrize("gate", ["default", "thresholds", "metric and thresholds"])
def test_a_wrong_candidate_never_passes(case, how, gate):
    tensor, spoil = WRONG[how]
    section = {} if gate == "default" else {"outputs": OutputThresholds(cosine=0.9)}
    metric = None
    if gate.startswith("metric"):
        metric = Metric(
            "generous", lambda outputs, label: 1.0, {f"{s}:{i}": 0 for s in (0, 1) for i in range(4)}
        )
        section["max_drop"] = 0.0
    verdict = case.check(spoil(case.candidate), metric, **section)
    assert not verdict.passed
    failed = [check for check in verdict.checks if not check.passed]
    assert any(tensor in f"{check.name} {check.seen}" for check in failed), failed


def test_what_is_missing_is_said(case):
    verdict = case.check(renamed(case.candidate, "r", "other"))
    (check,) = [check for check in verdict.checks if not check.passed]
    assert check.seen == "5 of 6; r: the candidate does not have this tensor (sample 0:0)"


def test_what_has_another_shape_is_said(case):
    verdict = case.check(through(case.candidate, "y", "Unsqueeze", np.array([0])))
    problem = next(diff.problem for diff in verdict.outputs if diff.tensor == "y")
    assert problem == "shape (1, 1, 3) where the golden has (1, 3) (sample 0:0)"


def test_no_score_for_a_candidate_that_lacks_an_output(case):
    metric = Metric(
        "strict", lambda outputs, label: float(outputs["z"][0, 0]), {f"0:{i}": 0 for i in range(4)}
    )
    verdict = case.check(without(case.candidate, "z"), metric, max_drop=0.5)
    assert verdict.metric is None
    assert not verdict.passed


def test_the_metric_is_scored_on_each_side(case):
    """The label is what the golden says, so the golden scores 1 and its negative 0."""
    classes = (SAMPLES @ WEIGHTS["w1"]).argmax(axis=1).tolist()
    labels = {f"{i // 4}:{i % 4}": label for i, label in enumerate(classes)}
    metric = Metric("top1", lambda outputs, label: float(outputs["z"].argmax() == label), labels)
    honest = case.check(metric=metric, max_drop=0.5)
    assert (honest.metric.golden, honest.metric.samples, honest.passed) == (1, 6, True)
    wrong = case.check(through(case.candidate, "z", "Neg"), metric, max_drop=0.5)
    assert (wrong.metric.golden, wrong.metric.candidate, wrong.metric.drop) == (1, 0, 1)
    assert [check.name for check in wrong.checks if not check.passed] == ["metric top1"]


def test_a_wrong_layer_is_where_to_look_first(case):
    verdict = case.check(through(case.candidate, "r", "Neg"))
    assert verdict.first_divergence == "r"


def test_an_error_that_shows_in_one_sample_only(case, open_toy, shard_set):
    """The samples after the first `layer_samples` are seen by the outputs."""
    candidate = through(case.candidate, "y", "Clip", np.float32(-1.5) * ONE)
    golden = case.check(layer_samples=1)
    assert golden.passed
    clipped = case.check(candidate, layer_samples=1, outputs=OutputThresholds(max_abs=0.3))
    assert not clipped.passed
    assert clipped.layers[0].difference.count == 4  # h of one sample
    assert clipped.outputs[0].difference.count == 6 * 3


class TestTheGoldenIsTheFile:
    """A normaliser that changes what the model computes stands on one side only."""

    def wrong(self, model, edit):
        altered = model.normalised.clone()
        edit(altered)
        return replace(model, normalised=altered)

    def test_changed_weights(self, open_toy, shard_set, case_of):
        model = open_toy(TOY, WEIGHTS)
        shards = shard_set(model, {"x": SAMPLES})

        def scale(altered):
            weight = altered.graph.initializers["w2"]
            weight.const_value = ir.tensor(weight.const_value.numpy()[:, ::-1].copy(), name="w2")

        verdict = case_of(self.wrong(model, scale), shards, default="fp32").check()
        assert not verdict.passed
        assert verdict.first_divergence == "y"
        assert [check.name for check in verdict.checks if not check.passed] == ["y cosine", "y SQNR, dB"]

    def test_a_changed_operator(self, open_toy, shard_set, case_of):
        model = open_toy(TOY, WEIGHTS)
        shards = shard_set(model, {"x": SAMPLES})

        def identity(altered):
            value(altered, "r").producer().op_type = "Identity"

        verdict = case_of(self.wrong(model, identity), shards, default="fp32").check()
        assert not verdict.passed
        assert verdict.first_divergence == "r"

    def test_a_renamed_output(self, open_toy, shard_set, case_of):
        model = open_toy(TOY, WEIGHTS)
        shards = shard_set(model, {"x": SAMPLES})

        def rename(altered):
            value(altered, "y").name = "output"

        verdict = case_of(self.wrong(model, rename), shards, default="fp32").check()
        assert not verdict.passed


def test_an_opset_that_is_raised_changes_nothing(open_toy, shard_set, case_of):
    model = open_toy(
        "toy (float[n,4] x) => (float[n,4] y) { h = MatMul(x, w1) y = Softmax<axis = 1>(h) }",
        {"w1": WEIGHTS["w1"]},
        opset=11,
    )
    assert model.normalisation.opset_before == 11
    assert model.normalisation.opset_after == 18
    case = case_of(model, shard_set(model, {"x": SAMPLES}), Pin(type="MatMul"))
    verdict = case.check()
    assert verdict.passed
    assert verdict.outputs[0].difference.max_abs == 0


def test_a_model_that_cannot_be_run_at_all(open_toy, shard_set, case_of):
    model = open_toy("toy (float[n,4] x) => (float[n,4] y) { y = EfficientNMS_TRT(x) }")
    shards = shard_set(model, {"x": SAMPLES})
    with pytest.raises(InputError, match="ONNX Runtime can run no part"):
        case_of(model, shards).check()


def test_what_comes_before_a_plugin_is_checked(open_toy, shard_set, case_of):
    model = open_toy(
        "toy (float[n,4] x) => (float[n,4] y) { h = MatMul(x, w1) r = Relu(h) y = EfficientNMS_TRT(r) }",
        {"w1": WEIGHTS["w1"]},
    )
    verdict = case_of(model, shard_set(model, {"x": SAMPLES})).check()
    assert verdict.passed
    assert [diff.tensor for diff in verdict.outputs] == ["r"]
    assert list(verdict.not_checked) == ["EfficientNMS_TRT_y"]


def test_outputs_that_are_no_floats(open_toy, shard_set, case_of):
    model = open_toy(
        "toy (float[n,4] x) => (int64[n] y) { h = MatMul(x, w1) y = ArgMax<axis = 1, keepdims = 0>(h) }",
        {"w1": 10 * WEIGHTS["w1"]},
    )
    case = case_of(model, shard_set(model, {"x": SAMPLES}), default="fp32")
    assert case.check(outputs=OutputThresholds(max_abs=0)).passed
    flipped = through(case.candidate, "h", "Neg")
    assert not case.check(flipped, outputs=OutputThresholds(max_abs=0)).passed


def test_an_output_of_text_cannot_be_compared(open_toy, shard_set, case_of):
    model = open_toy(
        """toy (float[n,4] x) => (float[n,4] y, string[n,4] s) {
            h = MatMul(x, w1) y = Relu(h) s = Cast<to = 8>(h)
        }""",
        {"w1": WEIGHTS["w1"]},
    )
    verdict = case_of(model, shard_set(model, {"x": SAMPLES}), default="fp32").check()
    assert not verdict.passed
    assert "cannot be compared as numbers" in verdict.outputs[1].problem


def test_a_constant_output(open_toy, shard_set, case_of):
    model = open_toy(
        """toy (float[n,4] x) => (float[n,4] y, float[2] c) {
            h = MatMul(x, w1) y = Relu(h) c = Constant<value = float[2] {1, 2}>()
        }""",
        {"w1": WEIGHTS["w1"]},
    )
    assert case_of(model, shard_set(model, {"x": SAMPLES})).check().passed


def test_an_output_that_is_an_input(open_toy, shard_set, case_of):
    model = open_toy(
        "toy (float[n,4] x) => (float[n,4] y, float[n,4] x) { h = MatMul(x, w1) y = Relu(h) }",
        {"w1": WEIGHTS["w1"]},
    )
    assert case_of(model, shard_set(model, {"x": SAMPLES})).check().passed


def test_a_file_that_repeats_node_names_can_be_checked(open_toy, shard_set, case_of):
    """ONNX Runtime refuses it as it stands; the names mean nothing to the golden."""
    text = "toy (float[n,4] x) => (float[n,4] y) { [same] a = MatMul(x, w) [same] y = Relu(a) }"
    model = open_toy(text, {"w": np.eye(4, dtype=np.float32)})
    assert case_of(model, shard_set(model, {"x": SAMPLES})).check().passed
