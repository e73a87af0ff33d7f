"""The reference: what the float model makes, and how far off something is."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from calibrators.shards import ShardSet
from tests.unit.tune.conftest import FEEDS, Case
from trtbuild.model.model import Model
from trtbuild.ranges.error import error
from trtbuild.tune.reference import Reference

Write = Callable[..., ShardSet]
IDENTITY = "toy (float[n,3,4] x) => (float[n,3,4] y) { y = Identity(x) }"
RNG = np.random.default_rng(6)


def softmax(x: NDArray[Any]) -> NDArray[Any]:
    powers = np.exp(x.astype(np.float64) - x.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def divergence(golden: NDArray[Any], seen: NDArray[Any]) -> float:
    """The textbook's, of rows of probabilities."""
    return float((golden * np.log(golden / seen)).sum(axis=-1).mean())


@pytest.fixture
def of_outputs(open_toy: Callable[..., Model], write_shards: Write) -> Callable[..., Reference]:
    """The reference of a model that makes just what it is fed."""

    def make(*arrays: NDArray[Any], axis: int = -1) -> Reference:
        model = open_toy(IDENTITY)
        return Reference.of(model, write_shards(model, *({"x": array} for array in arrays)), {"y": axis})

    return make


def test_it_has_a_feed_of_each_sample(make_case: Callable[[str], Case]) -> None:
    reference = make_case("products").reference
    assert [feed.names for feed in reference.feeds] == [(f"{index:03}:0",) for index in range(FEEDS)]
    assert all(len(feed.feeds["x"]) == 1 for feed in reference.feeds)
    assert reference.judged == ("u", "w"), "in front of the softmax, and the output itself"
    assert reference.outputs == ("p",)
    assert reference.tensors == ("u", "w", "p")


def test_what_the_float_model_makes_is_no_error(
    make_case: Callable[[str], Case], run: Callable[..., Any]
) -> None:
    case = make_case("transposed")
    for index, feed in enumerate(case.reference.feeds):
        seen = run(case.model.normalised, feed.feeds)
        assert case.reference.nsr(index, seen) == 0
        assert case.reference.kl(index, seen) == pytest.approx(0, abs=1e-12)
        seen["y"] = seen["y"] * np.float32(0.5)
        assert case.reference.nsr(index, seen) == pytest.approx(0.25 / 2), "the mean over the outputs"
        assert case.reference.kl(index, {**seen, "y": seen["y"] * 0}) > 0.1


def test_nsr_looks_at_what_is_judged_alone(of_outputs: Callable[..., Reference]) -> None:
    x = RNG.standard_normal((1, 3, 4)).astype(np.float32)
    reference = of_outputs(x)
    seen = {"y": x + 0.1, "other": x * np.nan}
    assert reference.nsr(0, seen) == error({"y": x + 0.1}, {"y": x})
    assert math.isinf(reference.nsr(0, {"y": x * np.inf}))


@pytest.mark.parametrize("scale", [1, 1e-3, 30])
def test_kl_of_logits_is_the_textbooks(of_outputs: Callable[..., Reference], scale: float) -> None:
    x, y = (scale * RNG.standard_normal((2, 1, 3, 4)) + 3).astype(np.float32)
    expected = divergence(softmax(x), softmax(y))
    assert of_outputs(x).kl(0, {"y": y}) == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_kl_of_probabilities_is_the_textbooks(of_outputs: Callable[..., Reference]) -> None:
    x, y = (softmax(RNG.standard_normal((1, 3, 4))).astype(np.float32) for _ in range(2))
    expected = divergence(x.astype(np.float64), y.astype(np.float64))
    assert of_outputs(x).kl(0, {"y": y}) == pytest.approx(expected, rel=1e-5)
    uniform = np.full_like(y, 1 / 4)
    expected = divergence(x.astype(np.float64), uniform)
    for seen in (uniform, np.zeros_like(y), -uniform):
        assert of_outputs(x).kl(0, {"y": seen}) == pytest.approx(expected, rel=1e-5), "nothing is told apart"
    none = np.where(np.arange(4) == 0, 0, 1 / 3).astype(np.float32) * np.ones_like(y)
    assert of_outputs(x).kl(0, {"y": none}) > 1, "a class without a share costs much, and is a number"


def test_rows_of_sum_1_with_a_negative_number_are_logits(of_outputs: Callable[..., Reference]) -> None:
    x = np.asarray([[[-1, 1, 2, -1]] * 3], np.float32)
    y = x[..., ::-1].copy()
    assert of_outputs(x).kl(0, {"y": y}) == pytest.approx(divergence(softmax(x), softmax(y)), rel=1e-6)


def test_kl_along_another_axis(of_outputs: Callable[..., Reference]) -> None:
    x, y = RNG.standard_normal((2, 1, 3, 4)).astype(np.float32)
    expected = divergence(*(softmax(np.moveaxis(array, 1, -1)) for array in (x, y)))
    assert of_outputs(x, axis=1).kl(0, {"y": y}) == pytest.approx(expected, rel=1e-6)
    assert of_outputs(x, axis=-2).kl(0, {"y": y}) == pytest.approx(expected, rel=1e-6)


def test_kl_of_classes_that_the_golden_is_sure_of(of_outputs: Callable[..., Reference]) -> None:
    """Those without a share are left out, and cost no NaN."""
    x = np.asarray([[[0, 100, -np.float32(3e38), 0]] * 3], np.float32)
    y = np.asarray([[[0, 1, 0, 0]] * 3], np.float32)
    assert of_outputs(x).kl(0, {"y": y}) == pytest.approx(
        divergence(np.asarray([1.0]), softmax(y)[0, :, 1:2])
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_kl_of_what_is_not_finite_is_infinite(of_outputs: Callable[..., Reference], bad: float) -> None:
    x = RNG.standard_normal((1, 3, 4)).astype(np.float32)
    seen = x.copy()
    seen[0, 0, 0] = bad
    assert of_outputs(x).kl(0, {"y": seen}) == math.inf
    assert of_outputs(x).kl(0, {"y": x[:, :2]}) == math.inf


@pytest.mark.parametrize("axis", [3, -4])
def test_no_kl_where_there_is_no_such_axis(of_outputs: Callable[..., Reference], axis: int) -> None:
    x = RNG.standard_normal((1, 3, 4)).astype(np.float32)
    assert of_outputs(x, axis=axis).kl(0, {"y": x}) is None


def test_the_first_feeds(of_outputs: Callable[..., Reference]) -> None:
    arrays = [RNG.standard_normal((1, 3, 4)).astype(np.float32) for _ in range(3)]
    whole = of_outputs(*arrays)
    some = whole.first(2)
    assert some.feeds == whole.feeds[:2]
    assert (some.judged, some.outputs, some.tensors) == (whole.judged, whole.outputs, whole.tensors)
    assert some.nsr(1, {"y": arrays[0]}) == whole.nsr(1, {"y": arrays[0]}) > 0
    with pytest.raises(IndexError):
        some.nsr(2, {"y": arrays[0]})
