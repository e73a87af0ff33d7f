from __future__ import annotations

import numpy as np
import pytest

from calibrators import mse
from calibrators.errors import CalibratorError
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


class TestPerChannel:
    WEIGHTS = RNG.standard_t(3, (6, 5, 40)).astype(np.float32)

    @pytest.mark.parametrize("axis", [0, 1, -1])
    def test_no_other_range_has_a_noticeably_smaller_error(self, axis):
        found = mse.amax_per_channel(self.WEIGHTS, axis)
        assert (found.dtype, found.shape) == (np.float64, (self.WEIGHTS.shape[axis],))
        for channel, amax in enumerate(found):
            x = np.abs(np.take(self.WEIGHTS, channel, axis))
            assert 0 < amax <= x.max()
            shares = np.linspace(0.05, 1, 300)
            exhaustive = min(squared_error(x, float(share) * float(x.max())) for share in shares)
            assert squared_error(x, amax) <= 1.01 * exhaustive

    def test_clips_where_that_pays_and_nowhere_else(self):
        weights = np.tile(np.linspace(-1, 1, 400_000, dtype=np.float32), (2, 1))
        weights[0, 7] = -4
        clipped, kept = mse.amax_per_channel(weights, 0)
        assert clipped < 2
        assert kept == pytest.approx(1, rel=0.01)

    def test_agrees_with_the_search_over_a_histogram(self):
        x = RNG.standard_t(4, 20_000).astype(np.float32)
        (found,) = mse.amax_per_channel(x[None], 0)
        assert found == pytest.approx(mse.amax(histogram_of(x)), rel=0.01)

    def test_zeros_and_single_values(self):
        weights = np.array([[0, 0], [0, -3], [1e-45, 0]], np.float32)
        np.testing.assert_array_equal(mse.amax_per_channel(weights, 0), [0, 3, np.float32(1e-45)])

    def test_a_channel_without_values(self):
        np.testing.assert_array_equal(mse.amax_per_channel(np.zeros((2, 0), np.float32), 0), [0, 0])

    @pytest.mark.parametrize("dtype", [np.float16, np.float64])
    def test_other_floats(self, dtype):
        weights = self.WEIGHTS.astype(dtype)
        np.testing.assert_array_equal(
            mse.amax_per_channel(weights, 0), mse.amax_per_channel(weights.astype(np.float32), 0)
        )

    @pytest.mark.parametrize(
        ("weights", "axis", "seen"),
        [
            (np.zeros((2, 3), np.int8), 0, "weights of int8"),
            (np.zeros((2, 3), np.float32), 2, r"axis 2 of weights of shape \(2, 3\)"),
            (np.zeros((2, 3), np.float32), -3, "axis -3"),
            (np.float32([[1, np.nan]]), 0, "NaN or Inf"),
            (np.float32([[1, -np.inf]]), 0, "NaN or Inf"),
        ],
    )
    def test_weights_that_have_no_range(self, weights, axis, seen):
        with pytest.raises(CalibratorError, match=seen):
            mse.amax_per_channel(weights, axis)
