import math
from fractions import Fraction

import numpy as np
import pytest

from calibrators import percentile
from calibrators.errors import CalibratorError
from calibrators.histogram import Histogram


def histogram_of(x: np.ndarray) -> Histogram:
    histogram = Histogram()
    histogram.update(x.astype(np.float32))
    return histogram


@pytest.mark.parametrize("share", [50.0, 90.0, 99.0, 99.9, 99.99, 100.0])
def test_is_the_value_of_that_rank(share):
    x = np.random.default_rng(0).standard_normal(50_000).astype(np.float32)
    rank = math.ceil(Fraction(str(share)) * x.size / 100)
    exact = np.sort(np.abs(x))[rank - 1]
    assert exact <= percentile.amax(histogram_of(x), share) <= exact * (1 + 1 / 2048)


def test_clips_one_outlier_in_ten_thousand_by_default():
    x = np.linspace(0, 1, 10_000)
    x[17] = 500
    assert percentile.amax(histogram_of(x)) == pytest.approx(1.0, rel=1e-3)
    assert percentile.amax(histogram_of(x), 100) == 500


def test_a_tensor_that_is_nearly_all_zeros_keeps_its_values():
    x = np.zeros(100_000)
    x[3] = 0.75
    assert percentile.amax(histogram_of(x)) == 0.75


@pytest.mark.parametrize("share", [0, -1, 100.1, np.nan])
def test_a_percentile_out_of_range(share):
    with pytest.raises(CalibratorError, match="above 0 and at most 100"):
        percentile.amax(histogram_of(np.ones(3)), share)
