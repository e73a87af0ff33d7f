"""The metric on each sample: of the build in production too, and with the confidence of predictions."""

import numpy as np
import pytest

from trtbuild.errors import InputError
from trtbuild.golden.metric_file import Metric
from trtbuild.golden.outputs import diff_outputs
from trtbuild.golden.scoring import Baseline
from trtbuild.recipe import ValidationSection
from trtbuild.targets.sides import as_given

RNG = np.random.default_rng(2)
W = RNG.standard_normal((4, 4)).astype(np.float32)
ONE_OUTPUT = "toy (float[n,4] x) => (float[n,4] y) { h = MatMul(x, w) y = Relu(h) }"
TWO_OUTPUTS = (
    "toy (float[n,4] x) => (float[n,4] y, float[n,4] z) { h = MatMul(x, w) y = Relu(h) z = Sigmoid(h) }"
)


def samples(count):
    return RNG.standard_normal((count, 4)).astype(np.float32)


class TestTheBaseline:
    """The build in production, a model of its own, scored on the same samples."""

    TEXT = (
        "toy (float[n,4] x) => (float[n,4] y, float[n,4] z) { h = MatMul(x, w) y = Relu(h) z = Sigmoid(h) }"
    )

    @pytest.fixture
    def case(self, open_toy, shard_set, case_of):
        model = open_toy(TWO_OUTPUTS, {"w": W})
        return case_of(model, shard_set(model, {"x": samples(12)}), default="fp32")

    def diff(self, case, in_production, function, seed=0, **section):
        labels = {f"0:{i}": i for i in range(12)}
        wanted = ValidationSection.model_construct(
            **{**dict(ValidationSection()), "max_drop": 0.5, **section}
        )
        baseline = Baseline("0123abcd", as_given(in_production))
        metric = Metric("m", function, labels)
        return diff_outputs(
            case.golden, case.side(), ["y", "z"], case.shards, metric, wanted, baseline, seed
        ).scores

    def test_it_is_scored_on_its_own_outputs(self, case, open_toy):
        half = open_toy(TWO_OUTPUTS, {"w": W / 2})
        scores = self.diff(case, half, lambda outputs, label: outputs["y"].sum())
        assert scores.golden > 0
        assert scores.candidate == pytest.approx(scores.golden)
        assert scores.baseline.mean == pytest.approx(scores.golden / 2)
        assert scores.baseline.paired.drop == pytest.approx(-scores.golden / 2)
        assert scores.baseline.build == "0123abcd"
        assert scores.baseline.paired.interval[1] < 0

    def test_its_tolerance(self, case):
        def tolerance(**section):
            return self.diff(case, case.model, lambda *_: 1, **section).baseline.tolerance

        assert tolerance() == 0.5
        assert tolerance(baseline_drop=0.25) == 0.25
        assert tolerance(baseline_drop=0) == 0

    def test_the_same_seed_the_same_figures(self, case, open_toy):
        half = open_toy(TWO_OUTPUTS, {"w": W / 2})

        def figures(seed):
            return self.diff(case, half, lambda outputs, label: outputs["y"].sum() * label, seed).to_dict()

        assert figures(0) == figures(0)
        assert figures(0)["baseline"]["interval"] != figures(1)["baseline"]["interval"]

    @pytest.mark.parametrize(
        ("function", "words"),
        [
            (lambda outputs, label: outputs["z"].sum(), "metric m raised KeyError on sample 0:0: 'z'"),
            (lambda outputs, label: float("nan") if len(outputs) < 2 else 1, "metric m returned nan"),
        ],
    )
    def test_it_lacks_an_output_that_the_metric_needs(self, case, open_toy, function, words):
        with pytest.raises(InputError) as caught:
            self.diff(case, open_toy(ONE_OUTPUT, {"w": W}), function)
        assert str(caught.value).startswith(f"baseline 0123abcd, which has no output z: {words}")

    def test_one_that_the_metric_does_not_need(self, case, open_toy):
        scores = self.diff(case, open_toy(ONE_OUTPUT, {"w": W}), lambda outputs, label: outputs["y"].sum())
        assert scores.baseline.mean == pytest.approx(scores.golden)

    def test_it_cannot_be_run(self, case, open_toy):
        other = open_toy("toy (float[n,5] x) => (float[n,5] y) { y = Relu(x) }")
        with pytest.raises(InputError, match=r"baseline 0123abcd: .*running 0:0 failed"):
            self.diff(case, other, lambda *_: 1)


class TestConfidence:
    def check(self, open_toy, shard_set, case_of, function, **section):
        model = open_toy(ONE_OUTPUT, {"w": W})
        case = case_of(model, shard_set(model, {"x": samples(4)}), default="fp32")
        metric = Metric("sure", function, {f"0:{i}": i for i in range(4)})
        return case.check(metric=metric, max_drop=0.0, **section)

    def test_its_calibration_error_is_of_both_sides(self, open_toy, shard_set, case_of):
        verdict = self.check(open_toy, shard_set, case_of, lambda _, label: (label % 2, 0.75))
        assert verdict.to_dict()["metric"]["ece"] == {"golden": 0.25, "candidate": 0.25, "bins": 15}
        assert verdict.checks[-1].name == "metric sure", "no threshold, no check"

    def test_a_limit_makes_a_check(self, open_toy, shard_set, case_of):
        calls = iter(range(8))

        def surer(outputs, label):
            """The golden comes first, and is half as sure."""
            return 0.5, 1.0 if next(calls) % 2 else 0.5

        verdict = self.check(open_toy, shard_set, case_of, surer, max_ece_rise=0.49)
        assert [check.name for check in verdict.checks if not check.passed] == ["calibration error of sure"]
        assert verdict.checks[-1].seen == "0.5000, golden 0.0000, rise 0.5000"

    def test_a_limit_and_no_confidence(self, open_toy, shard_set, case_of):
        with pytest.raises(InputError, match="metric sure returned no confidence for sample 0:0, and valid"):
            self.check(open_toy, shard_set, case_of, lambda *_: 1, max_ece_rise=0.1)

    @pytest.mark.parametrize("given", [{0, 1}, {0, 2, 3}, {3}])
    def test_a_confidence_for_some_samples(self, open_toy, shard_set, case_of, given):
        with pytest.raises(InputError, match="returned a confidence for some samples only"):
            self.check(open_toy, shard_set, case_of, lambda _, label: (1, 0.5) if label in given else 1)

    def test_a_confidence_of_one_side(self, open_toy, shard_set, case_of):
        calls = iter(range(8))
        with pytest.raises(InputError, match="for some samples only, as sample 0:0 shows"):
            self.check(open_toy, shard_set, case_of, lambda *_: 1 if next(calls) % 2 else (1, 0.5))
