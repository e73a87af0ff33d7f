"""The verdict on scores that are given: against the golden, a baseline, and on confidence."""

import math

import pytest

from trtbuild.golden.calibration_error import CalibrationError
from trtbuild.golden.differ import TensorDiff
from trtbuild.golden.gate import judge
from trtbuild.golden.metrics import Difference
from trtbuild.golden.scores import BaselineScores, MetricScores, Paired
from trtbuild.recipe import ValidationSection

EQUAL = TensorDiff("y", "node", "MatMul", "int8", Difference(8, 0.0, 0.0, math.inf, 1.0, 0.0, 0, 0, 0), None)


def verdict(metric, max_ece_rise=None):
    section = ValidationSection.model_construct(max_ece_rise=max_ece_rise)
    given = judge((), [EQUAL], [EQUAL], metric, section, {})
    assert given.passed == all(check.passed for check in given.checks)
    assert all(check.passed for check in given.checks[:2])
    return given


class TestAgainstTheGolden:
    def test_the_interval_is_shown_and_does_not_decide(self):
        """One of ten lost: the mean decides, noise or not."""
        metric = MetricScores("top1", Paired((1.0,) * 10, (0.0,) + (1.0,) * 9), 0.1)
        given = verdict(metric=metric)
        assert given.passed
        assert given.checks[-1].seen == "0.9000, golden 1.0000, drop 0.1000 (95 %: -0.2085 to 0.4085)"
        assert given.to_dict()["metric"]["interval"] == pytest.approx([-0.2085, 0.4085], abs=1e-4)

    def test_one_sample_has_no_interval(self):
        given = verdict(metric=MetricScores("top1", Paired((1.0,), (1.0,)), 0))
        assert given.passed
        assert given.checks[-1].seen == "1.0000, golden 1.0000, drop 0.0000"
        assert given.to_dict()["metric"]["interval"] is None


class TestAgainstABaseline:
    def check(self, in_production, candidate, tolerance):
        paired = Paired(tuple(candidate), tuple(candidate))
        against = BaselineScores("0123abcd", Paired(tuple(in_production), tuple(candidate)), tolerance)
        given = verdict(metric=MetricScores("top1", paired, 0, baseline=against))
        assert given.passed == given.checks[-1].passed
        assert given.checks[-1].name == "metric top1 against 0123abcd"
        assert given.checks[-1].wanted == f"drop <= {tolerance:g}, at 95 % confidence"
        return given.checks[-1], given.to_dict()["metric"]["baseline"]

    def test_the_same_scores(self):
        check, document = self.check([1.0, 0.0] * 20, [1.0, 0.0] * 20, 0.1)
        assert check.passed
        assert check.seen == "0.5000, baseline 0.5000, drop 0.0000 (95 %: -0.0881 to 0.0881): not worse"
        assert document == {
            "build": "0123abcd",
            "mean": 0.5,
            "drop": 0.0,
            "interval": pytest.approx([-0.0881, 0.0881], abs=1e-4),
            "tolerance": 0.1,
            "outcome": "not worse",
        }

    def test_a_loss_of_just_the_tolerance(self):
        check, _ = self.check([0.3] * 20, [0.2] * 20, 0.1)  # whose difference, in floats, is below 0.1
        assert check.passed
        assert self.check([0.9875] * 20, [0.9775] * 20, 0.01)[0].passed  # and here above

    def test_worse(self):
        check, document = self.check([1.0] * 40, [0.0] * 20 + [1.0] * 20, 0.1)
        assert not check.passed
        assert check.seen.endswith(": worse")
        assert (document["drop"], document["outcome"]) == (0.5, "worse")

    def test_noise_does_not_decide(self):
        """Two of a hundred lost, two won: no drop at all, yet 4 % might be."""
        in_production = [1.0] * 98 + [0.0] * 2
        candidate = [0.0] * 2 + [1.0] * 98
        check, document = self.check(in_production, candidate, 0.01)
        assert not check.passed
        assert (document["drop"], document["outcome"]) == (0.0, "undecided")
        assert check.seen == (
            "0.9800, baseline 0.9800, drop 0.0000 (95 %: -0.0400 to 0.0400): undecided, "
            "about 1600 samples would decide"
        )
        enough = self.check(in_production * 16, candidate * 16, 0.01)
        assert enough[0].passed
        assert enough[1]["outcome"] == "not worse"

    def test_no_number_of_samples_helps_at_this_drop(self):
        check, document = self.check([1.0] * 40, [0.0] * 2 + [1.0] * 38, 0.04)
        assert not check.passed
        assert document["outcome"] == "undecided"
        assert check.seen.endswith("undecided, and at this drop no number of samples will pass")

    def test_one_sample_decides_nothing(self):
        check, document = self.check([1.0], [1.0], 0.5)
        assert not check.passed
        assert check.seen.endswith("undecided, one sample tells nothing of the others")
        assert (document["interval"], document["outcome"]) == (None, "undecided")


class TestCalibrationError:
    def verdict(self, golden, candidate, limit):
        paired = Paired((1.0,) * 3, (1.0,) * 3)
        return verdict(MetricScores("top1", paired, 0, CalibrationError(golden, candidate)), limit)

    @pytest.mark.parametrize(
        ("golden", "candidate", "limit", "passed"),
        [
            (0.02, 0.05, 0.03, True),  # whose difference, in floats, is above 0.03
            (0.02, 0.0501, 0.03, False),
            (0.3, 0.1, 0.0, True),
            (0.1, math.nan, 0.5, False),
        ],
    )
    def test_the_rise_has_a_limit(self, golden, candidate, limit, passed):
        given = self.verdict(golden, candidate, limit)
        assert given.passed == given.checks[-1].passed == passed
        assert given.checks[-1].name == "calibration error of top1"
        assert given.checks[-1].wanted == f"rise <= {limit:g}"

    def test_a_limit_on_what_was_not_measured_fails(self):
        paired = Paired((1.0,) * 3, (1.0,) * 3)
        assert not verdict(MetricScores("top1", paired, 0), 1.0).passed

    def test_without_a_limit_it_is_shown_alone(self):
        given = self.verdict(0.1, 0.9, None)
        assert given.passed
        assert given.to_dict()["metric"]["ece"] == {"golden": 0.1, "candidate": 0.9, "bins": 15}
