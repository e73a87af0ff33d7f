from __future__ import annotations

import numpy as np
import pytest

from calibrators import mse
from calibrators.histogram import Histogram
from calibrators.scale import fake_quantize, scale_of


def histogram_of(x: np.ndarray) -> Histogram:
    histogram = Histogram()
    histogram.update(x)
    return histogram


def squared_error(x: np.ndarray, amax: float) -> float:
    return float(np.square(x.astype(np.float64) - fake_quantize(x, scale_of(amax))).sum())


RNG = np.random.default_rng(3)
TENSORS = {
    "gauss": RNG.standard_normal(20_000),
    "relu": np.maximum(RNG.standard_normal(20_000), 0),
    "laplace": RNG.laplace(size=20_000),
    "student": RNG.standard_t(3, size=20_000),
    "uniform": RNG.uniform(0, 1, 20_000),
    "outlier": np.append(RNG.standard_normal(200_000), 20.0),
}


@pytest.mark.parametrize("name", TENSORS)
def test_no_other_range_has_a_noticeably_smaller_error(name):
    x = np.abs(TENSORS[name]).astype(np.float32)
    found = mse.amax(histogram_of(x))
    exhaustive = min(squared_error(x, float(share) * float(x.max())) for share in np.linspace(0.01, 1, 300))
    assert squared_error(x, found) <= 1.005 * exhaustive
    assert 0 < found <= x.max()


def test_clips_a_heavy_tail():
    assert mse.amax(histogram_of(TENSORS["outlier"].astype(np.float32))) < 10


def test_keeps_values_that_a_grid_of_its_own_represents_exactly():
    x = np.arange(128, dtype=np.float32)
    assert mse.amax(histogram_of(x)) == pytest.approx(127, rel=1e-3)


def test_all_zeros():
    assert mse.amax(histogram_of(np.zeros(10, np.float32))) == 0.0
