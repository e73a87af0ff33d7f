"""The verdict on differences that are given."""

import json
import math
from dataclasses import replace

import pytest

from trtbuild.golden.differ import TensorDiff
from trtbuild.golden.gate import judge
from trtbuild.golden.metrics import Difference
from trtbuild.golden.scores import MetricScores, Paired
from trtbuild.golden.verdict import Check
from trtbuild.recipe import OutputThresholds, ValidationSection

GOOD = Difference(
    count=8,
    max_abs=0.1,
    rmse=0.01,
    sqnr_db=30.0,
    cosine=0.995,
    kl=0.1,
    nonfinite_golden=0,
    nonfinite_candidate=0,
    nonfinite_unmatched=0,
)


def diff(tensor="y", problem=None, **changes):
    found = None if problem else replace(GOOD, **changes)
    return TensorDiff(tensor, f"node of {tensor}", "MatMul", "int8", found, problem)


def section(**thresholds):
    return ValidationSection(outputs=OutputThresholds(**thresholds))


def verdict(layers=None, outputs=None, metric=None, also=(), **thresholds):
    return judge(
        also,
        [diff("h")] if layers is None else layers,
        [diff()] if outputs is None else outputs,
        metric,
        section(**thresholds),
        {"NMS": "no kernel"},
    )


def failed(given):
    assert given.passed == all(check.passed for check in given.checks)
    return [check.name for check in given.checks if not check.passed]


def scores(golden, candidate, max_drop):
    return MetricScores("top1", Paired((golden,) * 10, (candidate,) * 10), max_drop)


def test_good():
    given = verdict()
    assert given.passed
    assert [check.name for check in given.checks] == [
        "every tensor compared",
        "no NaN or Inf",
        "y cosine",
        "y SQNR, dB",
    ]
    assert given.checks[-2].wanted == ">= 0.99"  # the default: neither thresholds nor a metric were given
    assert given.not_checked == {"NMS": "no kernel"}


def test_the_default_threshold_refuses():
    assert failed(verdict(outputs=[diff(cosine=0.9899)])) == ["y cosine"]


def test_a_metric_stands_for_the_default_threshold():
    assert verdict(outputs=[diff(cosine=0.5)], metric=scores(0.9, 0.9, 0)).passed


def test_thresholds_hold_beside_a_metric():
    given = verdict(outputs=[diff(cosine=0.5)], metric=scores(0.9, 0.9, 0), cosine=0.6)
    assert failed(given) == ["y cosine"]


@pytest.mark.parametrize(
    ("limit", "at", "beyond"),
    [
        ("cosine", {"cosine": 0.9}, {"cosine": 0.8999}),
        ("sqnr_db", {"sqnr_db": 0.9}, {"sqnr_db": 0.8999}),
        ("max_abs", {"max_abs": 0.9}, {"max_abs": 0.9001}),
    ],
)
def test_each_threshold_at_its_limit(limit, at, beyond):
    assert verdict(outputs=[diff(**at)], **{limit: 0.9}).passed
    (name,) = failed(verdict(outputs=[diff(**beyond)], **{limit: 0.9}))
    assert name.startswith("y ")


@pytest.mark.parametrize("limit", ["cosine", "sqnr_db", "max_abs"])
def test_nan_fails_every_threshold(limit):
    assert len(failed(verdict(outputs=[diff(**{limit: math.nan})], **{limit: 0.5}))) == 1


def test_an_infinite_sqnr_passes_and_a_negative_one_does_not():
    assert verdict(outputs=[diff(sqnr_db=math.inf)], sqnr_db=100).passed
    assert not verdict(outputs=[diff(sqnr_db=-math.inf)], sqnr_db=-100).passed


def test_every_output_is_held_to_the_thresholds():
    assert failed(verdict(outputs=[diff("y"), diff("z", cosine=0.1)])) == ["z cosine"]


@pytest.mark.parametrize(
    ("golden", "candidate", "max_drop", "passed"),
    [
        (0.75, 0.5, 0.25, True),
        (0.75, 0.5, 0.2499, False),
        (0.9875, 0.9775, 0.01, True),  # whose difference, in floats, is above 0.01
        (0.5, 0.5, 0, True),
        (0.5, 0.49999, 0, False),
        (0.5, 0.9, 0, True),
        (math.nan, 0.5, 1, False),
        (0.5, math.nan, 1, False),
    ],
)
def test_max_drop(golden, candidate, max_drop, passed):
    given = verdict(metric=scores(golden, candidate, max_drop))
    assert given.passed == passed
    assert failed(given) == ([] if passed else ["metric top1"])


@pytest.mark.parametrize("where", ["layers", "outputs"])
def test_a_tensor_that_was_not_compared(where):
    missing = diff("gone", problem="the candidate does not have this tensor")
    given = verdict(**{where: [diff("here"), missing]})
    assert "every tensor compared" in failed(given)
    check = next(check for check in given.checks if check.name == "every tensor compared")
    assert check.seen == "2 of 3; gone: the candidate does not have this tensor"


def test_an_output_that_was_not_compared_fails_its_thresholds_too():
    given = verdict(outputs=[diff(problem="gone")], cosine=0.1, sqnr_db=-100, max_abs=100)
    assert len(failed(given)) == 4
    assert all(check.seen == "not compared" for check in given.checks[-3:])


@pytest.mark.parametrize("empty", [{"layers": []}, {"outputs": []}, {"layers": [], "outputs": []}])
def test_nothing_compared_never_passes(empty):
    assert failed(verdict(metric=scores(1, 1, 0), **empty)) == ["every tensor compared"]


def test_a_stored_golden_has_no_layers_and_that_is_said():
    given = judge((), None, [diff()], None, section(), {})
    assert given.passed
    assert given.layers == ()
    assert given.checks[0].seen == "1 of 1; outputs only (stored golden)"


def test_a_stored_golden_is_no_excuse_for_outputs():
    given = judge((), None, [], None, section(), {})
    assert failed(given) == ["every tensor compared"]
    assert given.checks[0].seen == "0 of 0; outputs only (stored golden); no outputs"
    lacking = judge((), None, [diff(), diff("z", "gone")], None, section(cosine=0.1), {})
    assert failed(lacking) == ["every tensor compared", "z cosine"]
    assert lacking.checks[0].seen == "1 of 2; outputs only (stored golden); z: gone"


def test_an_output_without_a_value_was_not_compared():
    empty = diff(count=0, cosine=1.0, sqnr_db=math.inf, rmse=math.nan)
    given = verdict(outputs=[empty])
    assert failed(given) == ["every tensor compared"]
    assert "y: no values in any sample" in given.checks[0].seen
    assert verdict(layers=[empty, diff("h")]).passed


@pytest.mark.parametrize(
    ("where", "changes", "passed"),
    [
        ("layers", {"nonfinite_candidate": 1, "nonfinite_unmatched": 1}, False),
        ("layers", {"nonfinite_golden": 1, "nonfinite_unmatched": 1}, False),
        ("layers", {"nonfinite_golden": 3, "nonfinite_candidate": 3}, True),
        ("layers", {"nonfinite_golden": 3, "nonfinite_candidate": 3, "nonfinite_unmatched": 2}, False),
        ("outputs", {"nonfinite_candidate": 1, "nonfinite_unmatched": 1}, False),
        ("outputs", {"nonfinite_golden": 3, "nonfinite_candidate": 3}, False),
    ],
)
def test_nan_and_inf(where, changes, passed):
    """A mask of -inf inside is legitimate where the golden has the same; an output must be finite."""
    given = verdict(**{where: [diff("t", **changes)]})
    assert failed(given) == ([] if passed else ["no NaN or Inf"])
    if not passed:
        assert given.checks[1].seen == "t"


def test_other_checks_count_too():
    given = verdict(also=[Check("order", False, "b, a", "a, b")])
    assert failed(given) == ["order"]


def test_the_first_divergence_is_the_first_layer_in_the_graphs_order():
    layers = [diff("a"), diff("b", sqnr_db=19.9), diff("c", sqnr_db=-3.0)]
    assert verdict(layers=layers).first_divergence == "b"
    assert verdict(layers=[diff("a", sqnr_db=20.0)]).first_divergence is None
    assert verdict(layers=[diff("a", problem="gone"), *layers]).first_divergence == "b"


def test_the_document_is_json():
    given = verdict(
        layers=[diff("h", sqnr_db=math.inf), diff("g", problem="gone")], metric=scores(1, 0.5, 0.1)
    )
    document = json.loads(json.dumps(given.to_dict(), allow_nan=False))
    assert document["passed"] is False
    assert document["metric"] == {
        "name": "top1",
        "samples": 10,
        "golden": 1,
        "candidate": 0.5,
        "max_drop": 0.1,
        "drop": 0.5,
        "interval": [0.5, 0.5],
        "baseline": None,
        "ece": None,
    }
    assert document["layers"][0]["difference"]["sqnr_db"] is None
    assert document["layers"][1]["difference"] is None
    assert document["layers"][1]["problem"] == "gone"
    assert verdict().to_dict()["metric"] is None


def test_the_default_gate_sees_a_wrong_scale():
    """Ten times too small points the same way: its cosine is 1."""
    assert failed(verdict(outputs=[diff(cosine=1.0, sqnr_db=0.9)])) == ["y SQNR, dB"]
