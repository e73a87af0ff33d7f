from __future__ import annotations

import numpy as np
import pytest

from calibrators import entropy, minmax, mse, percentile
from calibrators.errors import CalibratorError
from calibrators.histogram import Histogram
from calibrators.method import Method, amax


def histogram_of(*values: float) -> Histogram:
    histogram = Histogram()
    histogram.update(np.array(values, np.float32))
    return histogram


@pytest.mark.parametrize(
    ("text", "method"),
    [
        ("minmax", Method("minmax")),
        ("entropy", Method("entropy")),
        ("mse", Method("mse")),
        ("percentile", Method("percentile", 99.99)),
        ("percentile:99.9", Method("percentile", 99.9)),
        ("percentile:100", Method("percentile", 100.0)),
    ],
)
def test_parse_and_its_inverse(text, method):
    assert Method.parse(text) == method
    assert Method.parse(str(method)) == method


@pytest.mark.parametrize(
    "text",
    [
        "",
        "max",
        "Minmax",
        "entropy:5",
        "percentile:",
        "percentile:x",
        "percentile:0",
        "percentile:101",
        "percentile:nan",
    ],
)
def test_an_unknown_method_lists_the_options(text):
    with pytest.raises(CalibratorError, match=r"minmax, entropy, mse, percentile .* percentile:P"):
        Method.parse(text)


def test_a_method_without_its_percentile_or_with_one_too_many():
    with pytest.raises(CalibratorError, match="'percentile' is not known"):
        Method("percentile")
    with pytest.raises(CalibratorError, match=r"'minmax:99\.0' is not known"):
        Method("minmax", 99.0)


def test_dispatches_to_the_named_module():
    histogram = Histogram()
    histogram.update(np.random.default_rng(0).standard_t(3, 5_000).astype(np.float32))
    expected = {
        "minmax": minmax.amax(histogram),
        "entropy": entropy.amax(histogram),
        "mse": mse.amax(histogram),
        "percentile:99.9": percentile.amax(histogram, 99.9),
        "percentile:98": percentile.amax(histogram, 98),
    }
    assert len(set(expected.values())) == 5
    assert {text: amax(histogram, Method.parse(text)) for text in expected} == expected


@pytest.mark.parametrize("text", ["minmax", "entropy", "mse", "percentile"])
class TestNoRange:
    def test_of_nothing(self, text):
        with pytest.raises(CalibratorError, match="no values were counted"):
            amax(Histogram(), Method.parse(text))

    def test_of_nan_or_inf(self, text):
        with pytest.raises(CalibratorError, match="2 of 3 values are NaN or Inf"):
            amax(histogram_of(1.0, np.nan, np.inf), Method.parse(text))
