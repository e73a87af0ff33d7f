"""Both sides over real samples: which rows count, and which batches they come in."""

import numpy as np
import onnx_ir as ir
import pytest

from calibrators.errors import CalibratorError
from trtbuild.errors import InputError, as_trtbuild_error
from trtbuild.golden.differ import Differ
from trtbuild.golden.layers import diff_layers
from trtbuild.golden.metric_file import Metric
from trtbuild.golden.shipped import run_outputs
from trtbuild.recipe import OutputSection, OutputThresholds, Pin

RNG = np.random.default_rng(1)
W = RNG.standard_normal((4, 4)).astype(np.float32)


def samples(count):
    return RNG.standard_normal((count, 4)).astype(np.float32)


def linear(batch="n", opset=17):
    return f"toy (float[{batch},4] x) => (float[{batch},4] y) {{ h = MatMul(x, w) y = Relu(h) }}"


class Counting:
    """A metric that remembers what it was given."""

    def __init__(self, names):
        self.seen = []
        self.metric = Metric("counting", self, dict.fromkeys(names))

    def __call__(self, outputs, label):
        self.seen.append({name: array.copy() for name, array in outputs.items()})
        return 1.0


def test_each_sample_is_scored_once_with_its_own_rows(open_toy, shard_set, case_of):
    x = samples(5)
    model = open_toy(linear(), {"w": W})
    case = case_of(model, shard_set(model, {"x": x[:2]}, {"x": x[2:]}), default="fp32")
    found = list(run_outputs((case.golden, case.side()), ["y"], case.shards, "running"))
    rows = [row for batch in found for row in batch.rows()]
    assert [name for name, _ in rows] == ["0:0", "0:1", "1:0", "1:1", "1:2"]
    for row, (_, (golden, candidate)) in zip(x, rows, strict=True):
        assert golden["y"].shape == (1, 4)
        np.testing.assert_allclose(golden["y"], np.maximum(row @ W, 0)[None], rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(candidate["y"], golden["y"])


def test_a_fixed_batch_scores_exactly_the_samples(open_toy, shard_set, case_of):
    x = samples(10)
    model = open_toy(linear(4), {"w": W})
    case = case_of(model, shard_set(model, {"x": x[:7]}, {"x": x[7:]}), default="fp32")
    names = [f"0:{i}" for i in range(7)] + [f"1:{i}" for i in range(3)]
    counting = Counting(names)
    verdict = case.check(metric=counting.metric, max_drop=0.0)
    assert verdict.passed
    assert verdict.metric.samples == 10
    assert verdict.outputs[0].difference.count == 10 * 4
    assert len(counting.seen) == 20  # golden and candidate
    for row, outputs in zip(np.repeat(x, 2, axis=0), counting.seen, strict=True):
        np.testing.assert_allclose(outputs["y"], np.maximum(row @ W, 0)[None], rtol=1e-5, atol=1e-6)


def test_a_fixed_batch_whose_outputs_have_no_rows(open_toy, shard_set, case_of):
    model = open_toy(
        """toy (float[4,4] x) => (float y) {
            h = MatMul(x, w) y = ReduceMean<keepdims = 0>(h)
        }""",
        {"w": W},
    )
    case = case_of(model, shard_set(model, {"x": samples(10)}), default="fp32")
    assert case.check().passed  # compared whole
    with pytest.raises(InputError, match=r"output 'y' of shape \(\) has no row per sample"):
        case.check(metric=Counting([f"0:{i}" for i in range(10)]).metric, max_drop=0.0)


def test_an_output_as_long_as_the_batch_by_chance_has_no_rows(open_toy, shard_set, case_of):
    """Time-major: its first axis is four steps, not four samples."""
    text = "toy (float[4,4,4] x) => (float[4,4,4] y) { y = Transpose<perm = [1,0,2]>(x) }"
    model = open_toy(text)
    case = case_of(model, shard_set(model, {"x": samples(8).reshape(2, 4, 4)}), default="fp32")
    assert case.check().outputs[0].difference.count == 64
    with pytest.raises(InputError, match="has no row per sample"):
        case.check(metric=Counting(["0:0", "0:1"]).metric, max_drop=0.0)


def test_a_model_without_a_batch(open_toy, shard_set, case_of):
    model = open_toy(
        "toy (float[3,4] x, float k) => (float[3,4] y) { h = MatMul(x, w) y = Mul(h, k) }", {"w": W}
    )
    feeds = [{"x": samples(3), "k": np.float32(k)} for k in (1, 2, 3)]
    case = case_of(model, shard_set(model, *feeds), default="fp32")
    counting = Counting(["0:0", "1:0", "2:0"])
    verdict = case.check(metric=counting.metric, max_drop=0.0)
    assert verdict.passed
    assert verdict.metric.samples == 3
    for index, outputs in enumerate(counting.seen[::2]):
        expected = feeds[index]["x"] @ W * feeds[index]["k"]
        np.testing.assert_allclose(outputs["y"], expected, rtol=1e-5, atol=1e-6)


def test_layers_over_the_first_samples_only(open_toy, shard_set, case_of):
    model = open_toy(linear(), {"w": W})
    case = case_of(model, shard_set(model, {"x": samples(5)}))
    for limit, count in ((1, 4), (3, 12), (99, 20)):
        (differ,), fused = diff_layers(case.golden, case.side(), [model.compared], case.shards, limit)
        layers = differ.results(model, case.precisions)
        assert {diff.difference.count for diff in layers} == {count}
        assert fused == {}


def test_samples_of_several_shapes(open_toy, shard_set, case_of):
    model = open_toy("toy (float[n,t,4] x) => (float[n,t,4] y) { y = MatMul(x, w) }", {"w": W})
    x = samples(6)
    case = case_of(model, shard_set(model, {"x": x[None]}, {"x": x[None, :2]}))
    verdict = case.check()
    assert verdict.passed
    assert verdict.outputs[0].difference.count == (6 + 2) * 4


def test_an_output_that_is_empty_in_every_sample(open_toy, shard_set, case_of):
    model = open_toy(
        """toy (float[n,4] x) => (float[n,4] y, float[n,k] e) <int64[1] zero = {0}, int64[1] one = {1}> {
            y = MatMul(x, w) e = Slice(y, zero, zero, one)
        }""",
        {"w": W},
    )
    verdict = case_of(model, shard_set(model, {"x": samples(3)}), default="fp32").check()
    assert not verdict.passed
    assert any("e: no values in any sample" in check.seen for check in verdict.checks)


def test_a_mask_of_infinities_is_no_fault(open_toy, shard_set, case_of):
    model = open_toy(
        """toy (float[n,4] x) => (float[n,4] y) {
            h = MatMul(x, w) m = Where(seen, h, low) y = Softmax(m)
        }""",
        {"w": W, "seen": np.array([True, True, True, False]), "low": np.float32(-np.inf)},
    )
    case = case_of(model, shard_set(model, {"x": samples(3)}), Pin(type="MatMul"))
    verdict = case.check()
    assert verdict.passed
    (masked,) = [diff for diff in verdict.layers if diff.tensor == "m"]
    assert masked.difference.nonfinite_golden == masked.difference.nonfinite_candidate == 3


def test_one_problem_is_enough_and_the_first_is_told():
    differ = Differ(["y"])
    good = {"y": np.ones((1, 2), np.float32)}
    assert differ.complete
    differ.update("a", good, good)
    assert differ.complete
    differ.update("b", good, {})
    differ.update("c", good, {"y": np.ones((2, 1), np.float32)})
    differ.update("d", good, good)
    assert not differ.complete


def test_an_output_without_thresholds_or_kinds(open_toy, shard_set, case_of):
    """bool outputs are compared too."""
    model = open_toy(
        "toy (float[n,4] x) => (bool[n,4] y) <float zero = {0}> { h = MatMul(x, w) y = Greater(h, zero) }",
        {"w": W},
    )
    case = case_of(model, shard_set(model, {"x": samples(8)}), default="fp32")
    assert case.check(outputs=OutputThresholds(max_abs=0)).passed


def test_a_candidate_that_does_not_load(open_toy, shard_set, case_of):
    model = open_toy(linear(), {"w": W})
    case = case_of(model, shard_set(model, {"x": samples(2)}))
    broken = case.candidate.clone()
    next(node for node in broken.graph if node.op_type == "Relu").op_type = "Reluu"
    with pytest.raises(Exception, match="ONNX Runtime refuses the model"):
        case.check(broken)


class TestClassScores:
    """The argmax of each row of each sample, as the outputs of the two sides have it."""

    def classes(self, case, candidate=None, **section):
        return {diff.tensor: diff.classes for diff in case.check(candidate, **section).outputs}

    def test_rows_are_counted_over_all_samples(self, open_toy, shard_set, case_of):
        model = open_toy("toy (float[n,3,4] x) => (float[n,3,4] y) { y = MatMul(x, w) }", {"w": W})
        x = samples(15).reshape(5, 3, 4)
        case = case_of(model, shard_set(model, {"x": x[:2]}, {"x": x[2:]}), default="fp32")
        honest = self.classes(case)["y"]
        assert (honest.rows, honest.argmax_changed, honest.unranked, honest.kl) == (15, 0, 0, 0)
        wrong = case.candidate.clone()
        wrong.graph.initializers["w"].const_value = ir.tensor(-W, name="w")
        found = self.classes(case, wrong)["y"]
        changed = (x @ W).argmax(-1) != (x @ -W).argmax(-1)
        assert (found.rows, found.argmax_changed) == (15, pytest.approx(changed.mean()))
        assert found.kl > 1

    def test_along_the_axis_that_the_recipe_says(self, open_toy, shard_set, case_of):
        model = open_toy("toy (float[n,3,4] x) => (float[n,3,4] y) { y = Relu(x) }")
        case = case_of(model, shard_set(model, {"x": samples(15).reshape(5, 3, 4)}), default="fp32")
        for axis, rows in ((-1, 15), (2, 15), (1, 20), (-2, 20)):
            assert self.classes(case, output={"y": OutputSection(class_axis=axis)})["y"].rows == rows
        for none in (0, -3, 3, -4):
            assert self.classes(case, output={"y": OutputSection(class_axis=none)})["y"] is None

    def test_outputs_without_classes(self, open_toy, shard_set, case_of):
        """One column, whole numbers, and one number for a sample."""
        model = open_toy(
            """toy (float[n,4] x) => (float[n,4] y, float[n,1] one, int64[n,4] index, float[n] each) {
                y = Relu(x) one = ReduceSum<keepdims = 1>(x, axis) index = Cast<to = 7>(x)
                each = ReduceSum<keepdims = 0>(x, axis)
            }""",
            {"axis": np.array([1])},
        )
        case = case_of(model, shard_set(model, {"x": samples(3)}), default="fp32")
        found = self.classes(case)
        assert found["y"].rows == 3
        assert [found[name] for name in ("one", "index", "each")] == [None] * 3

    def test_the_batch_is_no_class_axis(self, open_toy, shard_set, case_of):
        """A fixed batch of four: one number for a sample is no row of four classes."""
        model = open_toy(
            """toy (float[4,4] x) => (float[4,4] y, float[4] each) {
                y = Relu(x) each = ReduceSum<keepdims = 0>(x, axis)
            }""",
            {"axis": np.array([1])},
        )
        case = case_of(model, shard_set(model, {"x": samples(6)}), default="fp32")
        found = self.classes(case)
        assert found["y"].rows == 6
        assert found["each"] is None

    def test_agreement_is_gated(self, open_toy, shard_set, case_of):
        model = open_toy(linear(), {"w": W})
        case = case_of(model, shard_set(model, {"x": samples(20)}), default="fp32")
        assert case.check(outputs=OutputThresholds(argmax_agreement=1)).passed
        wrong = case.candidate.clone()
        wrong.graph.initializers["w"].const_value = ir.tensor(W[:, ::-1].copy(), name="w")
        verdict = case.check(wrong, outputs=OutputThresholds(argmax_agreement=0.9))
        assert [check.name for check in verdict.checks if not check.passed] == ["y argmax agreement"]
        assert verdict.to_dict()["outputs"][0]["classes"]["rows"] == 20
        assert verdict.to_dict()["layers"][0]["classes"] is None

    def test_none_of_an_output_that_was_not_compared(self, open_toy, shard_set, case_of):
        model = open_toy("toy (float[n,t,4] x) => (float[n,t,4] y) { y = Relu(x) }")
        x = samples(6)
        case = case_of(model, shard_set(model, {"x": x[None, :2]}, {"x": x[None]}), default="fp32")
        cut = case.candidate.clone()
        relu = next(iter(cut.graph))
        relu.outputs[0].name = "whole"
        ends = [
            ir.Value(name=name, const_value=ir.tensor(np.array([end]), name=name))
            for name, end in (("from", 0), ("to", 2), ("axis", 1))
        ]
        for end in ends:
            cut.graph.register_initializer(end)
        output = ir.Value(name="y", type=ir.TensorType(ir.DataType.FLOAT))
        cut.graph.append(ir.node("Slice", [relu.outputs[0], *ends], outputs=[output]))
        cut.graph.outputs[:] = [output]
        assert self.classes(case, cut) == {"y": None}  # although the first sample could be compared


@pytest.mark.parametrize("arrays", [[], [{"x": samples(0)}], [{"x": samples(2)}, {"x": samples(0)}]])
def test_no_validation_samples(open_toy, shard_set, arrays):
    """Told by the shards themselves: one line, exit code 2."""
    model = open_toy(linear(), {"w": W})
    with pytest.raises(CalibratorError, match=r"no (shards|samples) in it") as caught:
        shard_set(model, *arrays)
    told = as_trtbuild_error(caught.value)
    assert type(told) is InputError
    assert "\n" not in str(told)
