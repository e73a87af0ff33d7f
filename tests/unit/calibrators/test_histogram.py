from __future__ import annotations

import io
import math
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
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
    assert one == other
    assert (one.count, one.nonfinite, one.absmax) == (other.count, other.nonfinite, other.absmax)
    for mine, theirs in zip(one.filled(), other.filled(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    np.testing.assert_array_equal(one.linear(), other.linear())


# Magnitudes within and across the powers of two in which bins grow coarser as absmax grows.
NEAR_ABSMAX = hnp.arrays(
    np.float32,
    st.integers(0, 60),
    elements=st.builds(
        lambda mantissa, exponent: float(np.float32(math.ldexp(mantissa, exponent))),
        st.floats(-2, 2, width=32),
        st.integers(-12, 12),
    ),
)


@settings(deadline=None)  # the first call compiles
@given(x=ANY_FLOATS | NEAR_ABSMAX, cuts=st.lists(st.integers(0, 60), max_size=5), data=st.data())
def test_any_split_and_any_order_give_the_same_histogram(x, cuts, data):
    parts = data.draw(st.permutations(np.split(x, sorted(min(cut, x.size) for cut in cuts))))
    merged, tree = Histogram(), [histogram_of(part) for part in parts]
    for part in parts:
        merged.merge(histogram_of(part))
    while len(tree) > 1:  # as workers do: partial histograms into partial histograms
        tree[0].merge(pickle.loads(pickle.dumps(tree.pop())))
    assert_identical(merged, histogram_of(x))
    assert_identical(tree[0], histogram_of(x))
    assert_identical(histogram_of(*parts), histogram_of(x))


def test_growing_magnitudes_lose_no_count():
    x = np.ldexp(np.random.default_rng(0).uniform(0.5, 1, 138_000), np.arange(138_000) // 500 - 148)
    x = x.astype(np.float32)
    assert_identical(histogram_of(*np.split(x, 276)), histogram_of(x[::-1]))
    assert histogram_of(x).count == x.size


def test_merge_leaves_the_other_alone():
    one, other = histogram_of(np.float32([1.0])), histogram_of(np.float32([2.0, np.nan]))
    one.merge(other)
    assert_identical(other, histogram_of(np.float32([2.0, np.nan])))
    assert_identical(one, histogram_of(np.float32([1.0, 2.0, np.nan])))


@settings(deadline=None)
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


@settings(deadline=None)
@given(x=FINITE_FLOATS)
def test_centres_are_close_to_the_values_and_not_above_absmax(x):
    x = x[np.abs(x) >= np.finfo(np.float32).tiny]
    histogram = histogram_of(x)
    centres, counts = histogram.filled()
    expected = np.sort(np.abs(x)).astype(np.float64)
    difference = np.abs(np.repeat(centres, counts) - expected)
    assert (difference <= np.minimum(expected / 4096, histogram.absmax / 2**19)).all()
    assert (centres <= histogram.absmax).all()


def test_linear_agrees_with_numpy():
    x = np.random.default_rng(0).standard_normal(1_000_000).astype(np.float32)
    histogram = histogram_of(x)
    for bins in (16, 2048):
        exact, _ = np.histogram(np.abs(x), bins, range=(0, histogram.absmax))
        # Only what is in the bins of the histogram that lie across two edges can be on the wrong side.
        assert np.abs(histogram.linear(bins) - exact).max() <= 12
    assert np.abs(histogram.linear(2048) - exact).sum() > 0


def test_linear_splits_a_bin_in_proportion():
    """Where bins are 2**-18 wide, the first edge lies a quarter of the way into the one after 1/4."""
    inside = 0.25 + 2.0**-25 * np.arange(128)  # every float32 in that bin
    absmax = 4 * (0.25 + 2.0**-20)
    counts = histogram_of(np.append(inside, absmax).astype(np.float32)).linear(4)
    np.testing.assert_array_equal(counts, [32, 96, 0, 1])


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


@settings(deadline=None)
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


@pytest.mark.parametrize(("q", "expected"), [(0, 0), (0.25, 0), (0.5, 0), (0.51, 1), (1, 1)])
def test_quantile_counts_zeros(q, expected):
    assert histogram_of(np.float32([0, 0, 1, 1])).quantile(q) == expected


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


def test_of_denormals():
    x = np.arange(-4000, 5001, 3).astype(np.int64) * 2.0**-149
    histogram = histogram_of(x.astype(np.float32))
    exact, _ = np.histogram(np.abs(x), 8, (0, 5000 * 2.0**-149))
    assert histogram.absmax == np.abs(x).max() > 0
    assert histogram.count == x.size
    assert np.abs(histogram.linear(8) - exact).max() <= 32
    assert histogram.quantile(0.5) == pytest.approx(np.quantile(np.abs(x), 0.5), abs=64 * 2.0**-149)


def test_zeros_are_a_bin_of_their_own():
    centres, counts = histogram_of(np.float32([0.0, -0.0, 1e-45, 1.0])).filled()
    assert centres[0] == 0.0 < centres[1]
    np.testing.assert_array_equal(counts, [2, 1, 1])


def test_of_nothing_but_nan():
    histogram = histogram_of(np.full(70_000, np.nan, np.float32))
    assert (histogram.count, histogram.nonfinite, histogram.absmax) == (0, 70_000, 0.0)
    assert histogram.linear().sum() == 0
    assert histogram.filled()[0].size == 0
    assert histogram == pickle.loads(pickle.dumps(histogram))


def test_inf_beside_a_growing_absmax():
    assert_identical(
        histogram_of(np.float32([np.inf, 1e-3]), np.float32([5.0, np.nan])),
        histogram_of(np.float32([5.0, -np.inf, -1e-3, np.inf])),
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([1.0], [1.0, 1.0]),
        ([1.0], [1.0000001]),
        ([1.0], [1.0, 0.0]),
        ([1.0], [1.0, np.nan]),
        ([0.3, 1], [0.4, 1]),
    ],
)
def test_what_makes_histograms_unequal(one, other):
    assert histogram_of(np.float32(one)) == histogram_of(np.float32(one))
    assert histogram_of(np.float32(one)) != histogram_of(np.float32(other))
    assert histogram_of(np.float32(one)) != 1


def resident_kb() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
def test_takes_the_memory_of_what_is_filled():
    x = np.linspace(0.4, 0.5, 50_000, dtype=np.float32)
    histogram_of(x)
    before = resident_kb()
    kept = [histogram_of(x) for _ in range(100)]
    empty = [Histogram() for _ in range(100)]
    [histogram.linear() for histogram in [*kept, *empty]]  # looking is free
    assert 5_000 < resident_kb() - before < 20_000


class TestArrays:
    def arrays(self) -> dict[str, np.ndarray]:
        return histogram_of(np.float32([0.0, np.nan, 0.5, 0.5, 1.0])).to_arrays()

    def test_round_trip_through_a_file(self):
        x = np.random.default_rng(0).standard_t(2, 200_000).astype(np.float32)
        x[:3] = 0, np.nan, np.inf
        histogram, file = histogram_of(x, np.ones(70_000, np.float32)), io.BytesIO()
        np.savez(file, **histogram.to_arrays())
        file.seek(0)
        with np.load(file, allow_pickle=False) as arrays:
            assert_identical(Histogram.from_arrays(arrays), histogram)

    @pytest.mark.parametrize("values", [[], [0.0], [1e-45], [np.nan], [3.4028235e38], [1e-40, -1e38]])
    def test_round_trip_of_the_extremes(self, values):
        histogram = histogram_of(np.array(values, np.float32))
        assert_identical(Histogram.from_arrays(histogram.to_arrays()), histogram)

    def test_are_small(self):
        x = np.random.default_rng(0).standard_normal(1_000_000).astype(np.float32)
        arrays = histogram_of(x).to_arrays()
        assert sum(array.nbytes for array in arrays.values()) < 2 * arrays["counts"].size

    def test_a_restored_histogram_counts_on(self):
        x = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
        restored = Histogram.from_arrays(histogram_of(x).to_arrays())
        restored.update(x * 50)
        assert_identical(restored, histogram_of(x, x * 50))

    def test_counts_beyond_32_bits(self):
        arrays = self.arrays() | {"counts": np.array([2**40, 3], np.uint64), "zeros": np.array(2**35)}
        histogram = Histogram.from_arrays(arrays)
        histogram.merge(Histogram.from_arrays(arrays))
        histogram.update(np.float32([1.0, 0.0, 0.5]))
        np.testing.assert_array_equal(histogram.filled()[1], [2**36 + 1, 2**41 + 1, 7])
        assert histogram.count == 2**36 + 2**41 + 9 == histogram.linear().sum()
        assert histogram.linear()[1024] == 2**41 + 1
        assert_identical(pickle.loads(pickle.dumps(histogram)), histogram)

    def test_no_more_values_than_can_be_counted(self):
        full = Histogram.from_arrays(self.arrays() | {"zeros": np.array(2**48 - 5)})
        for more in (
            lambda: full.update(np.float32([1.0])),
            lambda: full.merge(histogram_of(np.float32([1.0]))),
        ):
            with pytest.raises(CalibratorError, match=r"281474976710656 values.*fewer than 2\*\*48"):
                more()
        assert full.count == 2**48 - 2

    @pytest.mark.parametrize(
        ("changed", "seen"),
        [
            ({"version": np.array(2)}, "version 2, expected 1"),
            ({"version": np.array(1.0)}, "version is float64"),
            ({"absmax": np.array([1], np.uint32)}, r"absmax is uint32\(1,\)"),
            ({"absmax": np.array(0x7F800000, np.uint32)}, "absmax 0x7f800000 is no finite"),
            ({"absmax": np.array(0xBF800000, np.uint32)}, "absmax 0xbf800000 is no finite"),
            ({"absmax": np.array(0x3F800020, np.uint32)}, "last bin filled is not that of absmax"),
            ({"absmax": np.array(0x40800000, np.uint32)}, r"filled is uint8\(.*for this absmax"),
            ({"absmax": np.array(0, np.uint32)}, "filled is uint8"),
            ({"zeros": np.array(-1)}, "-1 zeros"),
            ({"nonfinite": np.array(-1)}, "-1 values that are not finite"),
            ({"zeros": np.array(2**48)}, "fewer than"),
            ({"counts": np.array([2, 0], np.uint8)}, "counts 0 values"),
            ({"counts": np.array([2, 1, 1], np.uint8)}, r"counts is uint8\(3,\)"),
            ({"counts": np.array([2, 1], np.int64)}, "counts is int64"),
            ({"counts": np.array([2**64 - 1, 1], np.uint64)}, r"1\.84e\+19 values"),
            ({"filled": np.zeros(3, np.uint8)}, r"filled is uint8\(3,\)"),
            ({"extra": np.array(0)}, "expected .*'absmax'"),
        ],
    )
    def test_that_no_histogram_has(self, changed, seen):
        with pytest.raises(CalibratorError, match=f"^arrays that no histogram was stored in: .*{seen}"):
            Histogram.from_arrays(self.arrays() | changed)

    def test_without_one_of_them(self):
        arrays = self.arrays()
        del arrays["zeros"]
        with pytest.raises(CalibratorError, match=r"expected .*'zeros'"):
            Histogram.from_arrays(arrays)

    def test_with_a_bin_below_the_lowest(self):
        """Where absmax is tiny, the first bins of the grid are wider than all its magnitudes."""
        arrays = histogram_of(np.float32([1e-45])).to_arrays()
        arrays["filled"][0] |= 1
        arrays["counts"] = np.array([1, 1], np.uint8)
        with pytest.raises(CalibratorError, match="that no magnitude belongs to"):
            Histogram.from_arrays(arrays)
