"""Both sides over real samples: which rows count, and which batches they come in."""

import numpy as np
import pytest

from trtbuild.errors import InputError
from trtbuild.golden.differ import Differ
from trtbuild.golden.layers import diff_layers
from trtbuild.golden.metric_file import Metric
from trtbuild.golden.outputs import run_outputs
from trtbuild.recipe import OutputThresholds, Pin

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
    found = list(run_outputs(case.golden, case.side(), ["y"], case.shards))
    rows = [row for batch in found for row in batch.rows()]
    assert [name for name, _, _ in rows] == ["0:0", "0:1", "1:0", "1:1", "1:2"]
    for row, (_, golden, candidate) in zip(x, rows, strict=True):
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
