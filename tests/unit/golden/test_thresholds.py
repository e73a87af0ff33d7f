"""Thresholds of one output, of its classes, and of layers."""

import math
from dataclasses import replace

import pytest

from trtbuild.errors import ExitCode, InputError
from trtbuild.golden.classes import ClassDifference
from trtbuild.golden.differ import TensorDiff
from trtbuild.golden.gate import judge
from trtbuild.golden.metrics import Difference
from trtbuild.golden.scores import MetricScores, Paired
from trtbuild.golden.scoring import Baseline
from trtbuild.golden.thresholds import check_asked
from trtbuild.recipe import ValidationSection
from trtbuild.targets.sides import as_given

GOOD = Difference(8, 0.1, 0.01, 30.0, 0.995, 0.1, 0, 0, 0)
METRIC = MetricScores("top1", Paired((1.0, 1.0), (1.0, 1.0)), 0)


def diff(tensor="y", problem=None, classes=None, **changes):
    found = None if problem else replace(GOOD, **changes)
    return TensorDiff(tensor, f"node of {tensor}", "MatMul", "int8", found, problem, classes=classes)


def checks(section, outputs=None, layers=None, metric=None):
    """name -> check, of those that come from thresholds."""
    layers = [diff("h")] if layers is None else layers
    outputs = [diff()] if outputs is None else outputs
    given = judge((), layers or None, outputs, metric, ValidationSection(**section), {})
    assert given.passed == all(check.passed for check in given.checks)
    found = {check.name: check for check in given.checks}
    assert len(found) == len(given.checks)
    return {name: found[name] for name in list(found)[2 : None if metric is None else -1]}


def failed(found):
    return [name for name, check in found.items() if not check.passed]


class TestOutputs:
    def test_one_output_has_its_own(self):
        section = {"output": {"y": {"cosine": 0.9}, "z": {"sqnr_db": 20}}}
        found = checks(section, [diff("y", cosine=0.95), diff("z", cosine=0.95, sqnr_db=19.0)])
        assert {name: check.wanted for name, check in found.items()} == {
            "y cosine": ">= 0.9",
            "z SQNR, dB": ">= 20",
        }
        assert failed(found) == ["z SQNR, dB"]

    def test_it_goes_before_that_of_every_output(self):
        section = {"outputs": {"cosine": 0.99, "max_abs": 1}, "output": {"y": {"cosine": 0.5}}}
        found = checks(section, [diff("y", cosine=0.6), diff("z", cosine=0.6)])
        assert list(found) == ["y cosine", "y max abs", "z cosine", "z max abs"]
        assert found["y cosine"].wanted == ">= 0.5"
        assert failed(found) == ["z cosine"]

    def test_an_output_without_any_has_the_default(self):
        section = {"output": {"y": {"max_abs": 1}}}
        assert list(checks(section, [diff("y"), diff("z")])) == ["y max abs", "z cosine", "z SQNR, dB"]
        assert list(checks(section, [diff("y"), diff("z")], metric=METRIC)) == ["y max abs"]

    def test_an_axis_is_no_threshold(self):
        assert list(checks({"output": {"y": {"class_axis": 1}}})) == ["y cosine", "y SQNR, dB"]

    def test_one_that_was_not_compared_does_not_pass(self):
        """As where ONNX Runtime cannot run what makes it."""
        found = checks({"output": {"boxes": {"cosine": 0.9}}})
        assert failed(found) == ["boxes of [validation.output]"]


def classes(changed, rows=1000):
    return ClassDifference(rows, changed, 0, 0.01, False)


class TestArgmaxAgreement:
    @pytest.mark.parametrize(
        ("changed", "limit", "passed"),
        [(0.0, 1, True), (0.001, 1, False), (0.07, 0.93, True), (0.0701, 0.93, False), (1.0, 0, True)],
    )
    def test_at_its_limit(self, changed, limit, passed):
        """1 - 0.07 is, in floats, below 0.93."""
        found = checks({"outputs": {"argmax_agreement": limit}}, [diff(classes=classes(changed))])
        assert failed(found) == ([] if passed else ["y argmax agreement"])

    def test_what_is_shown(self):
        (check,) = checks({"outputs": {"argmax_agreement": 0.9}}, [diff(classes=classes(0.25))]).values()
        assert (check.seen, check.wanted) == ("0.75 of 1000 rows", ">= 0.9")

    def test_an_output_without_classes_fails_and_says_why(self):
        section = {"outputs": {"argmax_agreement": 0}, "output": {"z": {"class_axis": 1}}}
        found = checks(section, [diff("y"), diff("z"), diff("gone", problem="gone")])
        assert failed(found) == ["y argmax agreement", "z argmax agreement", "gone argmax agreement"]
        assert [check.seen for check in found.values()] == [
            "no class scores: they are floats, several along axis -1",
            "no class scores: they are floats, several along axis 1",
            "not compared",
        ]

    def test_nan_fails(self):
        found = checks({"outputs": {"argmax_agreement": 0}}, [diff(classes=classes(math.nan))])
        assert failed(found) == ["y argmax agreement"]


LAYERS = [diff("a", cosine=0.999), diff("b", cosine=0.9, max_abs=3.0), diff("c", cosine=0.95)]


class TestLayers:
    def test_only_on_request(self):
        assert not checks({}, layers=LAYERS, metric=METRIC)

    def test_one_check_per_threshold_that_holds(self):
        thresholds = {"cosine": 0.9, "sqnr_db": 30, "max_abs": 3}
        found = checks({"layers": thresholds}, layers=LAYERS, metric=METRIC)
        assert not failed(found)
        assert {name: (check.seen, check.wanted) for name, check in found.items()} == {
            "layers, cosine": ("0.9 at worst, b", ">= 0.9"),
            "layers, SQNR, dB": ("30 at worst, a", ">= 30"),
            "layers, max abs": ("3 at worst, b", "<= 3"),
        }

    def test_one_check_per_layer_that_fails(self):
        found = checks({"layers": {"cosine": 0.96, "max_abs": 2.9}}, layers=LAYERS, metric=METRIC)
        assert list(found) == failed(found) == ["layer b cosine", "layer c cosine", "layer b max abs"]
        assert found["layer b cosine"].seen == "0.9, node node of b"

    def test_what_is_undefined_or_was_not_compared_fails(self):
        layers = [diff("a", cosine=math.nan), diff("b", problem="gone"), diff("c")]
        found = checks({"layers": {"cosine": -1}}, layers=layers, metric=METRIC)
        assert failed(found) == ["layer a cosine", "layer b cosine"]
        assert found["layer b cosine"].seen == "not compared, node node of b"

    def test_a_layer_without_finite_values_is_held_to_none(self):
        """A tensor may be empty in every sample, a mask be -inf everywhere."""
        empty = diff("e", count=0, cosine=math.nan, sqnr_db=math.nan)
        assert not failed(checks({"layers": {"cosine": 0.9}}, layers=[empty, diff("h")], metric=METRIC))
        found = checks({"layers": {"cosine": 0.9}}, layers=[empty], metric=METRIC)
        assert failed(found) == ["layers, cosine"]

    def test_a_stored_golden_has_no_layers_to_hold(self):
        found = checks({"layers": {"cosine": 0.9, "max_abs": 1}}, layers=[], metric=METRIC)
        assert failed(found) == ["layers, cosine", "layers, max abs"]
        assert found["layers, cosine"].seen == "not compared: a stored golden has none"

    def test_layers_of_an_infinite_sqnr(self):
        found = checks({"layers": {"sqnr_db": 99}}, layers=[diff("a", sqnr_db=math.inf)], metric=METRIC)
        assert not failed(found)


class TestWhatIsAsked:
    def asked(self, output=(), outputs=("logits", "boxes"), baseline=None):
        section = ValidationSection(output={name: {"cosine": 0.9} for name in output})
        check_asked(section, outputs, None, baseline)

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("logit", "[validation.output] 'logit': the model has no such output; nearest: logits"),
            ("xyz", "[validation.output] 'xyz': the model has no such output; it has logits, boxes"),
            ("Boxes", "[validation.output] 'Boxes': the model has no such output; nearest: boxes"),
        ],
    )
    def test_an_unknown_output(self, name, words):
        with pytest.raises(InputError) as caught:
            self.asked(["boxes", name])
        assert str(caught.value) == words
        assert caught.value.exit_code == ExitCode.INPUT

    def test_known_outputs(self):
        self.asked()
        self.asked(["boxes", "logits"])

    def test_a_baseline_without_a_metric(self, open_toy):
        side = as_given(open_toy("toy (float[n,4] x) => (float[n,4] y) { y = Relu(x) }"))
        with pytest.raises(
            InputError, match="baseline 0123 is compared by the task metric, and there is none"
        ):
            self.asked(baseline=Baseline("0123", side))
