"""Models made so that the right choice is known."""

from __future__ import annotations

import functools
from itertools import pairwise

import numpy as np
import pytest

from calibrators.histogram import Histogram
from calibrators.table import Range
from trtbuild.progress import STOP
from trtbuild.ranges import choose as choosing
from trtbuild.ranges.auto import candidates
from trtbuild.ranges.choose import choose
from trtbuild.ranges.stages import stages

RNG = np.random.default_rng(5)


@pytest.fixture(params=[1, 24], autouse=True)
def most_stages(request, monkeypatch):
    """All tensors in one stage, or each in one of its own."""
    monkeypatch.setattr(choosing, "stages", functools.partial(stages, most=request.param))


def one_by_one(feeds):
    count = len(next(iter(feeds.values())))
    return [{name: array[i : i + 1] for name, array in feeds.items()} for i in range(count)]


def proposed(arrays):
    found = {}
    for name, array in arrays.items():
        histogram = Histogram()
        histogram.update(array)
        found[name] = candidates(histogram)
    return found


def chosen(model, run, feeds, ranges):
    """What is chosen for the samples in `feeds`, by tensor; min-max is left out."""
    singles = one_by_one(feeds)
    reference = [run(model.normalised, feed) for feed in singles]
    minmax = {tensor: candidates[0] for tensor, candidates in ranges.items()}
    several = {tensor: candidates for tensor, candidates in ranges.items() if len(candidates) > 1}
    return choose(model, singles, reference, several, minmax)


def test_an_outlier_that_nobody_reads_is_clipped_and_one_that_carries_the_output_is_not(two_outliers, run):
    model, feeds = two_outliers
    ranges = proposed(feeds)
    for found in ranges.values():
        assert min(entry.amax for entry in found) < found[0].amax / 10, "both could be clipped"
    found = chosen(model, run, feeds, ranges)
    assert found.keys() == {"a"}
    assert found["a"].range.amax < 10
    assert found["a"].gain > 0


def test_a_clip_that_makes_a_nan_loses(open_toy, run):
    """log(first channel - 5), where that channel is 10 and all others are small."""
    first = np.zeros((64, 1), np.float32)
    first[0] = 1
    text = "toy (float[n,64] x) => (float[n,1] y) { h = MatMul(x, first) d = Sub(h, five) y = Log(d) }"
    model = open_toy(text, {"first": first, "five": np.float32(5)})
    x = RNG.uniform(-1, 1, (6, 64)).astype(np.float32)
    x[:, 0] = 10
    assert not chosen(model, run, {"x": x}, {"x": [Range(10, "minmax"), Range(4, "mse")]})
    found = chosen(model, run, {"x": x}, {"x": [Range(4, "minmax"), Range(10, "mse")]})
    assert found["x"].gain == np.inf, "any range gains over a NaN"


def test_what_gains_by_little_each_is_chosen(open_toy, run):
    """Eight ranges of equal harm: one alone takes an eighth of the error away."""
    names = [f"h{index}" for index in range(8)]
    steps = " ".join(f"{name} = MatMul({before}, turn)" for before, name in pairwise(["x", *names]))
    turn = np.linalg.qr(RNG.standard_normal((256, 256)))[0].astype(np.float32)
    model = open_toy(f"toy (float[n,256] x) => (float[n,256] h7) {{ {steps} }}", {"turn": turn})
    x = RNG.standard_normal((8, 256)).astype(np.float32)
    ranges = {name: [Range(20, "minmax"), Range(4, "mse")] for name in ["x", *names[:-1]]}
    found = chosen(model, run, {"x": x}, ranges)
    assert len(found) >= 7


def test_a_choice_counts_on_those_before_it(open_toy, run):
    """x in steps of eight is zero throughout: then the range of r makes no difference."""
    text = "toy (float[n,16] x) => (float[n,16] y) { r = MatMul(x, w) y = MatMul(r, w) }"
    model = open_toy(text, {"w": np.eye(16, dtype=np.float32)})
    x = RNG.uniform(0.5, 1, (4, 16)).astype(np.float32)
    r = [Range(100, "minmax"), Range(1, "mse")]
    assert chosen(model, run, {"x": x}, {"x": [Range(1, "")], "r": r}).keys() == {"r"}
    assert not chosen(model, run, {"x": x}, {"x": [Range(1000, "")], "r": r}), "x is zero throughout"


def test_a_range_is_compared_with_what_the_choices_before_it_left(open_toy, run):
    """r with its clip is better than r with min-max was before x had its clip, and worse than after."""
    text = "toy (float[n,64] x) => (float[n,64] y) { r = MatMul(x, w) y = MatMul(r, w) }"
    model = open_toy(text, {"w": np.eye(64, dtype=np.float32)})
    x = RNG.uniform(-1, 1, (6, 64)).astype(np.float32)
    ranges = {"x": [Range(60, "minmax"), Range(1, "mse")], "r": [Range(1, "minmax"), Range(10, "mse")]}
    assert chosen(model, run, {"x": x}, ranges).keys() == {"x"}


def test_of_equal_ones_min_max_stays(open_toy, run):
    """Nothing of x reaches an output."""
    text = "toy (float[n,4] x) => (float[n,4] y) { h = MatMul(x, zero) y = Relu(h) }"
    model = open_toy(text, {"zero": np.zeros((4, 4), np.float32)})
    x = RNG.standard_normal((4, 4)).astype(np.float32)
    assert not chosen(model, run, {"x": x}, {"x": [Range(9, "minmax"), Range(3, "mse"), Range(1, "entropy")]})


def test_a_tensor_that_implicit_mode_alone_quantizes(open_toy, run):
    """s is read in float by the explicit model; its range matters to y all the same."""
    text = "toy (float[n,64] x) => (float[n,64] y) { h = MatMul(x, one) s = Mul(h, k) y = Add(s, h) }"
    model = open_toy(text, {"one": np.eye(64, dtype=np.float32), "k": np.float32(2)})
    x = RNG.standard_normal((4, 64)).astype(np.float32)
    ranges = {
        "x": [Range(4, "minmax"), Range(0.5, "mse")],
        "s": [Range(8, "minmax"), Range(0.5, "mse")],
        "h": [Range(4000, "minmax"), Range(4, "mse")],
        "y": [Range(8, "minmax"), Range(1, "mse")],  # read by nobody
    }
    found = chosen(model, run, {"x": x}, ranges)
    assert {tensor: choice.range.amax for tensor, choice in found.items()} == {"h": 4}
    assert found["h"].gain > 0.99, "from all to next to nothing: s is in float meanwhile"


def test_an_interrupt_stops_it(two_outliers, run):
    model, feeds = two_outliers
    STOP.set()
    try:
        with pytest.raises(KeyboardInterrupt):
            chosen(model, run, feeds, proposed(feeds))
    finally:
        STOP.clear()
