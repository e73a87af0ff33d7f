"""The composition: candidates, choice, verdict; on samples as they are filed."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from calibrators.histogram import Histogram
from calibrators.method import amax
from calibrators.shards import ShardSet
from calibrators.table import Range, RangeTable
from trtbuild.precision.rules import resolve
from trtbuild.ranges import auto
from trtbuild.ranges.auto import METHODS, candidates, choose_ranges
from trtbuild.ranges.error import error
from trtbuild.ranges.samples import split
from trtbuild.recipe import PrecisionSection
from trtbuild.rewrite.explicit import explicit, ranges_needed

RNG = np.random.default_rng(11)


def histogram_of(array):
    histogram = Histogram()
    histogram.update(np.asarray(array, np.float32))
    return histogram


class TestCandidates:
    def test_min_max_comes_first_and_all_are_distinct(self):
        heavy = RNG.standard_t(2, 100_000)
        found = candidates(histogram_of(heavy))
        assert found[0] == Range(float(np.abs(np.float32(heavy)).max()), "minmax")
        values = [entry.amax for entry in found]
        assert len(found) == 5
        assert min(abs(a / b - 1) for a in values for b in values if a is not b) > 0.01
        for entry, method in zip(found, METHODS, strict=True):
            assert (entry.amax, entry.method) == (amax(histogram_of(heavy), method), str(method))

    @pytest.mark.parametrize("array", [[0, 0, 0], [1, -1, 1, 1], np.linspace(-1, 1, 9999)])
    def test_where_there_is_nothing_to_clip(self, array):
        found = candidates(histogram_of(array))
        assert found[0].method == "minmax"
        assert all(abs(entry.amax / found[0].amax - 1) > 0.01 for entry in found[1:])
        assert all(entry.amax > 0 for entry in found) or len(found) == 1


def proposed(model, feeds):
    return {name: candidates(histogram_of(array)) for name, array in feeds.items()}


def test_it_clips_where_that_helps_and_nowhere_else(two_outliers, write_shards, capsys):
    model, feeds = two_outliers
    found = choose_ranges(model, write_shards(model, feeds), proposed(model, feeds), {})
    assert found["a"].amax < 10
    assert found["a"].method != "minmax"
    assert found["b"] == Range(float(feeds["b"].max()), "minmax")
    said = re.search(
        r"auto: 1 of 2 tensors clip; error at the outputs on 16 held-back samples (\S+), min-max (\S+)\n",
        capsys.readouterr().err,
    )
    assert said
    assert float(said[1]) < float(said[2]) / 10


def test_the_same_every_time_however_the_samples_are_filed(two_outliers, write_shards):
    model, feeds = two_outliers
    parts = [{name: array[part] for name, array in feeds.items()} for part in (slice(5), slice(5, 24))]
    found = [
        choose_ranges(model, shards, proposed(model, feeds), {})
        for shards in (write_shards(model, feeds), write_shards(model, feeds), write_shards(model, *parts))
    ]
    assert found[0] == found[1] == found[2]


def test_too_few_samples(two_outliers, write_shards, capsys):
    model, feeds = two_outliers
    few = {name: array[:3] for name, array in feeds.items()}
    found = choose_ranges(model, write_shards(model, few), proposed(model, few), {})
    assert {entry.method for entry in found.values()} == {"minmax"}
    assert (
        "auto: min-max for every tensor: of the 4 samples, in two batches, that choosing takes there are 3"
        in (capsys.readouterr().err)
    )


def test_no_output_that_can_be_compared(open_toy, write_shards, capsys):
    model = open_toy(
        "toy (float[n,4] x) => (bfloat16[n,4] y) { h = MatMul(x, w) y = Cast<to = 16>(h) }",
        {"w": np.eye(4, dtype=np.float32)},
    )
    x = RNG.standard_t(2, (2000, 4)).astype(np.float32)
    found = choose_ranges(model, write_shards(model, {"x": x}), proposed(model, {"x": x}), {})
    assert found["x"].method == "minmax"
    assert "auto: min-max for every tensor: no output can be compared" in capsys.readouterr().err


def test_ranges_that_the_recipe_fixes_are_the_context(two_outliers, write_shards):
    """b is clipped by order: whatever a has, yb is lost, and a is judged by ya."""
    model, feeds = two_outliers
    ranges = proposed(model, feeds)
    found = choose_ranges(model, write_shards(model, feeds), {"a": ranges["a"]}, {"b": Range(1, "mse")})
    assert found.keys() == {"a"}
    assert found["a"].amax < 10


def test_with_many_tensors_fewer_samples_choose(two_outliers, write_shards, monkeypatch):
    model, feeds = two_outliers
    counts, honest = [], auto.choose

    def spy(model, choosing, *others):
        counts.append(len(choosing))
        return honest(model, choosing, *others)

    monkeypatch.setattr(auto, "choose", spy)
    shards, ranges = write_shards(model, feeds), proposed(model, feeds)
    passes = sum(map(len, ranges.values()))
    for most in (8 * passes, 4 * passes, 1):
        monkeypatch.setattr(auto, "_RUNS", most)
        choose_ranges(model, shards, ranges, {})
    assert counts == [8, 4, 2]


def test_a_model_without_a_batch_and_samples_of_several_shapes(open_toy, write_shards):
    text = "toy (float[p,t,64] x) => (float[1,t,64] y) { s = ReduceSum(x, axis) y = MatMul(s, w) }"
    model = open_toy(text, {"w": np.diag([0.0] + [1.0] * 63).astype(np.float32), "axis": np.array([0])})
    clouds = [RNG.standard_normal((points, points % 3 + 1, 64)).astype(np.float32) for points in range(5, 15)]
    for cloud in clouds:
        cloud[..., 0] = 100  # read by nobody
    shards = write_shards(model, *({"x": cloud} for cloud in clouds), may_batch=False)
    ranges = {"s": [Range(1400, "minmax"), Range(14, "mse")]}
    assert choose_ranges(model, shards, ranges, {})["s"].method == "mse"


def test_a_fixed_batch(open_toy, write_shards):
    text = "toy (float[4,64] x) => (float[4,64] y) { y = MatMul(x, w) }"
    model = open_toy(text, {"w": np.diag([0.0] + [1.0] * 63).astype(np.float32)})
    x = RNG.standard_normal((18, 64)).astype(np.float32)
    x[:, 0] = 100
    ranges = {"x": [Range(100, "minmax"), Range(4, "mse")]}
    assert choose_ranges(model, write_shards(model, {"x": x}), ranges, {})["x"].method == "mse"


MLP = """toy (float[n,32] x) => (float[n,8] y) {
    h = MatMul(x, w0) r = Relu(h) g = MatMul(r, w1) s = Sigmoid(g) m = Mul(s, g) k = MatMul(m, w2)
    y = Softmax(k) }"""


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1), tail=st.sampled_from([1.5, 3.0, 30.0]), count=st.integers(4, 40))
def test_never_worse_than_min_max_on_what_was_held_back(open_toy, run, tmp_path_factory, seed, tail, count):
    rng = np.random.default_rng(seed)
    shapes = {"w0": (32, 16), "w1": (16, 16), "w2": (16, 8)}
    weights = {name: rng.standard_t(tail, shape).astype(np.float32) for name, shape in shapes.items()}
    model = open_toy(MLP, weights)
    x = rng.standard_t(tail, (count, 32)).astype(np.float32)
    folder = tmp_path_factory.mktemp("shards")
    np.save(folder / "x.npy", x)
    shards = ShardSet.open(folder, model.inputs)
    from trtbuild.rewrite.cut import with_outputs

    seen = {"x": x, **run(with_outputs(model.normalised, ["r", "m"]), {"x": x})}
    ranges = {name: candidates(histogram_of(seen[name])) for name in ranges_needed(model)}
    found = choose_ranges(model, shards, ranges, {})

    def mean_error(table):
        built = explicit(
            model, resolve(model, PrecisionSection(), ()), RangeTable(table, None, 0), "simulated"
        )
        held = split(shards).held_back
        return np.mean([error(run(built, feed), run(model.normalised, feed)) for feed in held])

    assert mean_error(found) <= mean_error({name: entry[0] for name, entry in ranges.items()})
