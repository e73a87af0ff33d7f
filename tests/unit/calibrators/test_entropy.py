from __future__ import annotations

import numpy as np
import pytest

from calibrators import entropy, minmax
from calibrators.histogram import Histogram

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


def literal_divergence(counts: list[float], kept: int) -> float:
    """GTC S7310, page 38 on, step by step for one number of kept bins."""
    p = counts[:kept]
    p[-1] += sum(counts[kept:])
    level_of = [j * 128 // kept for j in range(kept)]
    level_count = [0.0] * 128
    level_bins = [0] * 128
    for j in range(kept):
        level_count[level_of[j]] += counts[j]
        level_bins[level_of[j]] += p[j] > 0
    q = [level_count[level_of[j]] / level_bins[level_of[j]] if p[j] > 0 else 0.0 for j in range(kept)]
    if sum(q) == 0:
        return np.inf
    p_sum, q_sum = sum(p), sum(q)
    with np.errstate(divide="ignore"):
        return sum(
            (p[j] / p_sum) * float(np.log(np.float64(p[j] / p_sum) / np.float64(q[j] / q_sum)))
            for j in range(kept)
            if p[j] > 0
        )


@pytest.fixture(scope="module")
def spaced() -> list[int]:
    """Enough of the 1921 candidates to catch a wrong one: the literal way is slow."""
    return [*range(128, 300, 7), *range(300, 2048, 53), 2047, 2048]


@pytest.mark.parametrize("name", TENSORS)
def test_divergences_agree_with_the_literal_algorithm(name, spaced):
    counts = histogram_of(TENSORS[name]).linear(2048).astype(np.float64)
    counts[0] = counts[1]
    fast = entropy._divergences(counts)
    assert fast.shape == (2048 - 128 + 1,)
    slow = [literal_divergence(counts.tolist(), kept) for kept in spaced]
    np.testing.assert_allclose(fast[np.array(spaced) - 128], slow, atol=1e-10)


@pytest.mark.parametrize("name", ["laplace", "one outlier"])
def test_amax_agrees_with_the_literal_algorithm_over_all_candidates(name):
    histogram = histogram_of(TENSORS[name])
    counts = histogram.linear(2048).astype(np.float64)
    counts[0] = counts[1]
    divergences = [literal_divergence(counts.tolist(), kept) for kept in range(128, 2049)]
    best = 128 + int(np.argmin(divergences))
    expected = min((best + 0.5) * histogram.absmax / 2048, histogram.absmax)
    assert entropy.amax(histogram) == pytest.approx(expected, rel=1e-12)


def test_a_heavy_tail_is_clipped_where_min_max_keeps_it():
    histogram = histogram_of(TENSORS["one outlier"])
    assert minmax.amax(histogram) == 60.0
    assert 2.0 < entropy.amax(histogram) < 6.0


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
