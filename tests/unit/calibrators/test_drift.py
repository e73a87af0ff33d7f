"""PSI and KL over deciles, and what chance can do."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibrators.drift import FLOOR, SignedHistogram, bin_counts, by_chance, kl, psi
from calibrators.errors import CalibratorError

RNG = np.random.default_rng(0)


def seen(*arrays) -> SignedHistogram:
    histogram = SignedHistogram()
    for array in arrays:
        histogram.update(np.asarray(array, np.float32))
    return histogram


def drifted(a, b) -> float:
    limits = seen(a).limits()
    return psi(*(bin_counts(np.asarray(x, np.float32), limits) for x in (a, b)))


def test_bins_are_the_deciles_of_signed_values():
    x = RNG.normal(2, 3, 100_000).astype(np.float32)
    limits = seen(x[:3], x[3:]).limits()
    assert limits[1:-1] == pytest.approx(np.quantile(x, np.arange(1, 10) / 10), abs=0.01)
    counts = bin_counts(x, limits)
    assert counts[0] == counts[-1] == 0
    assert counts[1:-1] / x.size == pytest.approx(np.full(10, 0.1), abs=0.002)


def test_psi_and_kl_by_hand():
    a, b = np.array([50, 50, 0]), np.array([20, 70, 10])
    total = 1 + FLOOR
    p, q = [0.5 / total, 0.5 / total, FLOOR / total], [0.2, 0.7, 0.1]
    assert psi(a, b) == pytest.approx(sum((y - x) * math.log(y / x) for x, y in zip(p, q, strict=True)))
    assert kl(a, b) == pytest.approx(sum(y * math.log(y / x) for x, y in zip(p, q, strict=True)))
    assert psi(a, b) == pytest.approx(psi(b, a))
    assert kl(a, b) != pytest.approx(kl(b, a))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 10**9), min_size=2, max_size=12), st.integers(1, 1000))
def test_the_same_shares_are_no_drift(counts, times):
    a = np.array([*counts, 1])
    assert psi(a, a * times) == pytest.approx(0, abs=1e-12)
    assert kl(a, a * times) == pytest.approx(0, abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 999), st.integers(0, 999)), min_size=1, max_size=12))
def test_neither_is_negative_or_infinite(pairs):
    a, b = (np.array([*column, 1]) for column in zip(*pairs, strict=True))
    for value in (psi(a, b), kl(a, b)):
        assert 0 <= value < 50


@pytest.mark.parametrize(
    ("a", "b", "low", "high"),
    [
        ("relu", "relu", 0, 0.001),
        ("relu", "shifted relu", 0.25, 5),
        ("one-hot", "one-hot", 0, 0.001),
        ("one-hot", "denser", 0.1, 1),
        ("constant", "constant", 0, 0),
        ("constant", "almost", 0, 0),
        ("constant", "zeros", 5, 30),
        ("zeros", "zeros", 0, 0),
        ("zeros", "constant", 5, 30),
        ("negative", "constant", 5, 30),
        ("masked", "masked", 0, 0.001),
        ("saturated", "nearly saturated", 0, 0.001),
    ],
)
def test_ties(a, b, low, high):
    """Many equal values fill one bin, and rounding moves none of them out of it."""

    def make(kind):
        normal = RNG.normal(size=50_000)
        return {
            "relu": np.maximum(normal, 0),
            "shifted relu": np.maximum(normal + 1, 0),
            "one-hot": normal > 2,
            "denser": normal > 0.8,
            "constant": np.full(50_000, 0.3),
            "almost": np.full(50_000, 0.3 * (1 + 1e-6)),
            "zeros": np.zeros(50_000),
            "negative": np.full(50_000, -0.3),
            "masked": np.where(normal > 1, np.finfo("f4").min, normal),
            "saturated": np.where(normal > 0, 1, 0),
            "nearly saturated": np.where(normal > 0, 1 - 1e-7, 1e-30),
        }[kind]

    assert low <= drifted(make(a), make(b)) <= high


def test_a_shift_of_sign_alone_is_seen():
    x = RNG.exponential(size=10_000)
    assert drifted(x, -x) > 5


def test_what_lies_outside_of_a_is_counted_outside():
    limits = seen([-1, 0, 1, 2]).limits()
    assert bin_counts(np.array([-5, -1.0005, 2.001, 3, 4], np.float32), limits)[[0, -1]].tolist() == [1, 2]
    assert seen([-1, 0, 1, 2]).absmax == 2


def test_every_value_is_in_one_bin():
    x = RNG.normal(size=1000).astype(np.float32)
    limits = seen(x).limits()
    edges = [-np.inf, *limits, np.inf]
    expected = [int(((x > low) & (x <= high)).sum()) for low, high in pairwise(edges)]
    assert bin_counts(x, limits).tolist() == expected
    assert bin_counts(x.reshape(10, 100), limits).sum() == 1000


def test_nothing_counted():
    with pytest.raises(CalibratorError, match="no values were counted"):
        SignedHistogram().limits()


def runs(count: int, shift: float, within: float, seed: int):
    """Samples whose own means vary by 1, each value by `within` around its mean."""
    rng = np.random.default_rng(seed)
    return [(rng.normal() + shift + within * rng.normal(size=200)).astype(np.float32) for _ in range(count)]


@pytest.mark.parametrize("within", [0.1, 1])
@pytest.mark.parametrize(("count", "others"), [(2, 2), (8, 8), (32, 32), (64, 8), (8, 64)])
def test_chance_is_seldom_taken_for_a_shift(count, others, within):
    """Also where the values of a sample are nearly equal: then PSI is above 0.25 in most such pairs."""
    alarms = 0
    for trial in range(40):
        a, b = runs(count, 0, within, 2 * trial), runs(others, 0, within, 2 * trial + 1)
        limits = seen(*a).limits()
        in_a, in_b = ([bin_counts(x, limits) for x in samples] for samples in (a, b))
        found = psi(np.sum(in_a, axis=0), np.sum(in_b, axis=0))
        alarms += found > max(0.25, by_chance(in_a, in_b))
    assert alarms <= 4


@pytest.mark.parametrize(("count", "within"), [(64, 0.1), (64, 1), (200, 0.1)])
def test_a_shift_is_found_above_chance(count, within):
    a, b = runs(count, 0, within, 1), runs(count, 1, within, 2)
    limits = seen(*a).limits()
    in_a, in_b = ([bin_counts(x, limits) for x in samples] for samples in (a, b))
    assert psi(np.sum(in_a, axis=0), np.sum(in_b, axis=0)) > max(0.25, by_chance(in_a, in_b))


def test_by_chance_is_the_same_each_time_and_needs_two():
    counts = [np.array([1, 2, 3]), np.array([3, 2, 1]), np.array([0, 5, 1])]
    assert by_chance(counts, counts[:2]) == by_chance(counts, counts[:2]) > 0
    for a, b in ((counts, counts[:1]), (counts[:1], counts)):
        with pytest.raises(CalibratorError, match="cannot be told from chance"):
            by_chance(a, b)
