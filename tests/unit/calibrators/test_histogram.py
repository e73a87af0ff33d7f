from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from calibrators.errors import CalibratorError
from calibrators.histogram import Histogram

ANY_FLOATS = hnp.arrays(np.float32, st.integers(0, 60), elements=st.floats(width=32))
FINITE_FLOATS = hnp.arrays(
    np.float32, st.integers(1, 60), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)
)


def histogram_of(*parts: np.ndarray) -> Histogram:
    histogram = Histogram()
    for part in parts:
        histogram.update(part)
    return histogram


def assert_identical(one: Histogram, other: Histogram) -> None:
    assert (one.count, one.nonfinite, one.absmax) == (other.count, other.nonfinite, other.absmax)
    for mine, theirs in zip(one.filled(), other.filled(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    np.testing.assert_array_equal(one.linear(), other.linear())


@given(x=ANY_FLOATS, cuts=st.lists(st.integers(0, 60), max_size=5), data=st.data())
def test_any_split_and_any_order_give_the_same_histogram(x, cuts, data):
    parts = data.draw(st.permutations(np.split(x, sorted(min(cut, x.size) for cut in cuts))))
    merged = Histogram()
    for part in parts:
        merged.merge(histogram_of(part))
    assert_identical(merged, histogram_of(x))
    assert_identical(histogram_of(*parts), histogram_of(x))


def test_merge_leaves_the_other_alone():
    one, other = histogram_of(np.float32([1.0])), histogram_of(np.float32([2.0, np.nan]))
    one.merge(other)
    assert_identical(other, histogram_of(np.float32([2.0, np.nan])))
    assert_identical(one, histogram_of(np.float32([1.0, 2.0, np.nan])))


@given(x=ANY_FLOATS)
def test_every_value_is_counted_once(x):
    histogram = histogram_of(x)
    finite = x[np.isfinite(x)]
    assert histogram.count == finite.size
    assert histogram.nonfinite == x.size - finite.size
    assert histogram.absmax == (np.abs(finite).max() if finite.size else 0.0)
    assert histogram.filled()[1].sum() == finite.size
    assert histogram.linear().sum() == finite.size
    assert histogram.linear(7).shape == (7,)
    assert histogram.linear(7).sum() == finite.size


@given(x=FINITE_FLOATS)
def test_centres_are_within_a_part_in_4096_and_not_above_absmax(x):
    x = x[np.abs(x) >= np.finfo(np.float32).tiny]
    histogram = histogram_of(x)
    centres, counts = histogram.filled()
    expected = np.sort(np.abs(x)).astype(np.float64)
    np.testing.assert_allclose(np.repeat(centres, counts), expected, rtol=1 / 4096)
    assert (centres <= histogram.absmax).all()


def test_linear_agrees_with_numpy_up_to_neighbouring_bins():
    x = np.random.default_rng(0).standard_normal(100_000).astype(np.float32)
    histogram = histogram_of(x)
    exact, _ = np.histogram(np.abs(x), bins=2048, range=(0, histogram.absmax))
    difference = np.cumsum(histogram.linear() - exact)
    # A value moves by half of its own bin at most, and that is half of a linear bin at most.
    assert np.abs(difference).max() <= exact.max()
    np.testing.assert_allclose(
        histogram.linear(16), np.histogram(np.abs(x), 16, (0, histogram.absmax))[0], rtol=0.02
    )


def test_linear_puts_a_value_where_it_belongs():
    counts = histogram_of(np.float32([0.0, 0.3, 0.8, -0.8, 1.0])).linear(4)
    np.testing.assert_array_equal(counts, [1, 1, 0, 3])


def test_linear_of_zeros_is_all_in_the_first_bin():
    np.testing.assert_array_equal(histogram_of(np.zeros(5, np.float32)).linear(3), [5, 0, 0])


def test_no_bin_near_absmax_is_left_empty_by_the_rebinning():
    """The entropy search takes an empty bin for an empty place, not for one that the re-binning skipped."""
    for top in (1.0, 1.25, 1.999, 3.7):
        dense = np.linspace(0, top, 400_000, dtype=np.float32)
        assert histogram_of(dense).linear(2048).min() > 0


@given(x=FINITE_FLOATS, q=st.floats(0, 1))
def test_quantile_is_a_bin_above_the_exact_one_at_most(x, q):
    histogram = histogram_of(x)
    rank = max(1, math.ceil(q * x.size - 1e-13))
    exact = float(np.sort(np.abs(x))[rank - 1])
    assert exact <= histogram.quantile(q) <= min(exact * (1 + 1 / 2048) + 2.0**-137, histogram.absmax)


def test_quantile_of_a_share_that_a_float_rounds_up():
    x = np.ones(1000, np.float32)
    x[0] = 50
    assert 99.9 / 100 > 0.999
    assert histogram_of(x).quantile(99.9 / 100) < 1.001
    assert histogram_of(x).quantile(1.0) == 50


@pytest.mark.parametrize("q", [-0.1, 1.1, np.nan])
def test_a_share_outside_zero_to_one(q):
    with pytest.raises(CalibratorError, match="from 0 to 1"):
        histogram_of(np.ones(1, np.float32)).quantile(q)


def test_quantile_of_nothing():
    with pytest.raises(CalibratorError, match="empty histogram"):
        Histogram().quantile(0.5)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ">f4"])
def test_other_floats_count_as_float32(dtype):
    x = np.linspace(-3, 3, 50).astype(dtype)
    assert_identical(histogram_of(x), histogram_of(x.astype(np.float32)))


def test_float64_beyond_float32_is_not_finite():
    histogram = histogram_of(np.array([1e300, 1.0]))
    assert (histogram.nonfinite, histogram.count, histogram.absmax) == (1, 1, 1.0)


def test_shape_and_strides_do_not_matter():
    x = np.random.default_rng(0).standard_normal((4, 6, 8)).astype(np.float32)
    assert_identical(histogram_of(x.transpose(2, 0, 1)[::2]), histogram_of(x[..., ::2].ravel()))
    assert_identical(histogram_of(np.array(2.0, np.float32)), histogram_of(np.float32([2.0])))


def test_read_only_arrays_are_fine():
    x = np.ones(3, np.float32)
    x.flags.writeable = False
    assert histogram_of(x).count == 3


def test_integers_have_no_int8_range():
    with pytest.raises(CalibratorError, match="cannot count int64"):
        Histogram().update(np.zeros(3, np.int64))
