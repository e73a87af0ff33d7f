"""What the choices do together decides how many of them stay."""

from __future__ import annotations

import numpy as np
import pytest

from calibrators.table import Range, RangeTable
from trtbuild.precision.rules import resolve
from trtbuild.ranges.choose import Choice
from trtbuild.ranges.held_back import never_worse
from trtbuild.ranges.whole import quantized, whole_error
from trtbuild.recipe import PrecisionSection
from trtbuild.rewrite.explicit import explicit

RNG = np.random.default_rng(7)
NAMES = ("x0", "x1", "x2", "x3")
TEXT = f"""toy ({", ".join(f"float[n,8] {name}" for name in NAMES)}) => (float[n,8] y) {{
    m0 = MatMul(x0, one) m1 = MatMul(x1, one) m2 = MatMul(x2, one) m3 = MatMul(x3, one)
    y = Sum(m0, m1, m2, m3) }}"""
FLOAT = [{name: RNG.uniform(-1, 1, (1, 8)).astype(np.float32) for name in NAMES} for _ in range(5)]
WIDE = Range(20, "minmax")
GOOD, BAD = Range(1, "mse"), Range(0.01, "entropy")


@pytest.fixture(scope="module")
def model(open_toy):
    return open_toy(TEXT, {"one": np.eye(8, dtype=np.float32)})


@pytest.fixture
def judge(model, run):
    reference = [run(model.normalised, feed) for feed in FLOAT]

    def verdict(choices):
        return never_worse(model, dict.fromkeys(NAMES, WIDE), choices, FLOAT, reference)

    return verdict


def test_choices_that_are_better_together_all_stay(judge):
    found = judge({name: Choice(GOOD, 0.1) for name in NAMES})
    assert (found.kept, dict(found.ranges)) == (4, dict.fromkeys(NAMES, GOOD))
    assert found.error < found.minmax_error


def test_half_of_them_stays_those_that_gain_most_alone(judge):
    choices = {
        "x0": Choice(BAD, 0.1),
        "x1": Choice(GOOD, 0.4),
        "x2": Choice(BAD, 0.2),
        "x3": Choice(GOOD, 0.3),
    }
    found = judge(choices)
    assert (found.kept, dict(found.ranges)) == (2, {"x0": WIDE, "x1": GOOD, "x2": WIDE, "x3": GOOD})


def test_min_max_is_what_is_left_at_last(judge):
    found = judge({name: Choice(BAD, 1.0) for name in NAMES})
    assert (found.kept, dict(found.ranges)) == (0, dict.fromkeys(NAMES, WIDE))
    assert found.error == found.minmax_error > 0


def test_no_choice_at_all(judge):
    assert judge({}).kept == 0


def test_an_error_that_is_no_number_is_not_taken(open_toy, run):
    """With both ranges the output has a NaN: no better is no reason to clip."""
    model = open_toy(
        "toy (float[n,8] x) => (float[n,8] y) { h = MatMul(x, one) d = Sub(h, half) y = Log(d) }",
        {"one": np.eye(8, dtype=np.float32), "half": np.float32(0.5)},
    )
    feed = {"x": np.full((1, 8), 0.6, np.float32)}
    choices = {"x": Choice(Range(0.1, "mse"), 1.0)}
    found = never_worse(model, {"x": Range(0.2, "minmax")}, choices, [feed], [run(model.normalised, feed)])
    assert (found.kept, found.ranges["x"].method) == (0, "minmax")


def test_the_whole_model_is_the_explicit_one(model, run):
    """The same graph as is built, with every node in int8."""
    ranges = {name: Range(0.5 + index, "") for index, name in enumerate(NAMES)}
    built = explicit(model, resolve(model, PrecisionSection(), ()), RangeTable(ranges, None, 0), "simulated")
    feed, expected = FLOAT[0], run(model.normalised, FLOAT[0])["y"]
    y = run(built, feed)["y"]
    np.testing.assert_array_equal(run(quantized(model, ranges), feed)["y"], y)
    assert whole_error(model, ranges, [feed], [{"y": expected}]) == pytest.approx(
        np.square(y - expected).sum() / np.square(expected).sum(), rel=1e-5
    )


def test_other_tensors_are_quantized_wherever_they_are_read(open_toy, run):
    model = open_toy(
        "toy (float[n,8] x) => (float[n,8] y, float[n,8] h) { h = MatMul(x, one) r = Relu(h) y = Add(r, h) }",
        {"one": np.eye(8, dtype=np.float32)},
    )
    x = np.linspace(0, 1, 8, dtype=np.float32)[None]
    found = run(quantized(model, {"x": Range(1, ""), "h": Range(0.5, "")}), {"x": x})
    assert found["y"].max() == pytest.approx(1.0), "twice 0.5: both readers of h see it clipped"
    assert found["h"].max() == pytest.approx(1.0), "an output stays in float"
