from __future__ import annotations

import numpy as np
import pytest

from calibrators import entropy
from calibrators.histogram import Histogram
from tests.unit.calibrators import literal_entropy

RNG = np.random.default_rng(7)
GAUSS = RNG.standard_normal(20_000)
TENSORS = {
    "gauss": GAUSS,
    "relu": np.maximum(GAUSS, 0),
    "laplace": RNG.laplace(size=20_000),
    "student": RNG.standard_t(2.5, size=20_000),
    "uniform": RNG.uniform(-1, 1, 20_000),
    "sigmoid": 1 / (1 + np.exp(-GAUSS)),
    "few": RNG.standard_normal(40),
    "steps": RNG.integers(0, 9, 5_000) / 8,
    "one outlier": np.append(np.maximum(GAUSS, 0), 60.0),
    "constant": np.full(50, 3.0),
    "sparse": np.where(RNG.random(20_000) < 0.02, GAUSS * 5, 0),
}


def histogram_of(x: np.ndarray) -> Histogram:
    histogram = Histogram()
    histogram.update(x.astype(np.float32))
    return histogram


@pytest.mark.parametrize("name", TENSORS)
def test_divergences_agree_with_the_literal_algorithm(name):
    counts = histogram_of(TENSORS[name]).linear(2048).astype(np.float64)
    counts[0] = counts[1]
    fast, slow = entropy._divergences(counts), literal_entropy.divergences(counts)
    assert fast.shape == slow.shape == (2048 - 128 + 1,)
    np.testing.assert_allclose(fast, slow, atol=1e-10)


@pytest.mark.parametrize("name", [name for name in TENSORS if name != "constant"])
def test_amax_agrees_with_the_literal_algorithm(name):
    histogram = histogram_of(TENSORS[name])
    expected = literal_entropy.amax_of_counts(histogram.linear(2048), histogram.absmax)
    assert entropy.amax(histogram) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", TENSORS)
def test_is_above_zero_and_never_above_absmax(name):
    histogram = histogram_of(TENSORS[name])
    assert 128 / 2048 * histogram.absmax < entropy.amax(histogram) <= histogram.absmax


def test_zeros_do_not_narrow_the_range():
    dense = histogram_of(np.abs(GAUSS))
    padded = histogram_of(np.concatenate([np.abs(GAUSS), np.zeros(1_000_000)]))
    assert entropy.amax(padded) == entropy.amax(dense)


def test_a_constant_keeps_its_value():
    assert entropy.amax(histogram_of(TENSORS["constant"])) == 3.0


def test_of_equal_divergences_the_widest_range_wins():
    """Folded onto the lower value, the upper one leaves no trace: P and Q are the same single bin."""
    assert entropy.amax(histogram_of(np.repeat([0.489, 1.0], 50))) == 1.0


def test_all_zeros():
    assert entropy.amax(histogram_of(np.zeros(10))) == 0.0


def test_scales_with_the_tensor():
    """A factor of two shifts every float's exponent and so changes no count."""
    x = TENSORS["student"]
    assert entropy.amax(histogram_of(x * 2.0**20)) == entropy.amax(histogram_of(x)) * 2.0**20
