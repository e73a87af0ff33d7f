from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibrators import grid
from calibrators.grid import Grid

TOPS = [0, 1, 2, 6, 7, 8, 20, 127, 253, 254]  # up to 7 and at 254 the numbers of bins are special
LARGEST_BITS = 0x7F7FFFFF


def largest_bits(top: int) -> int:
    return (top << 23) + 0x7FFFFF


@pytest.mark.parametrize("top", TOPS)
def test_bins_follow_one_another_without_gaps(top):
    first = int(grid.bin_of(np.uint32([0]), top)[0])
    bins = np.arange(first, Grid(top).size)
    lower = grid.lower_bits(bins, top)
    upper = grid.lower_bits(bins + 1, top) - 1
    assert first >= grid.FIRST
    assert (lower[0], upper[-1]) == (0, largest_bits(top))
    np.testing.assert_array_equal(lower[1:], upper[:-1] + 1)
    np.testing.assert_array_equal(grid.bin_of(lower, top), bins)
    np.testing.assert_array_equal(grid.bin_of(upper, top), bins)


@pytest.mark.parametrize("top", [20, 127, 254])
def test_bins_are_equal_near_the_top_and_the_floats_own_below(top):
    bins = np.arange(grid.FIRST, Grid(top).size)
    lower = grid.lower_bits(bins, top)
    start_of_equal = (top - 7) << 23
    own = lower[lower <= start_of_equal]
    assert (np.diff(own.astype(np.int64)) == 1 << 12).all()
    equal = lower[lower >= start_of_equal].view(np.float32).astype(np.float64)
    assert (np.diff(equal) == 2.0 ** (top - 127 - 18)).all()


@settings(deadline=None)
@given(
    bits=st.integers(0, LARGEST_BITS),
    rise=st.integers(0, 20) | st.integers(0, 254),
    more=st.integers(0, 20) | st.integers(0, 254),
)
def test_a_larger_top_merges_bins_whole(bits, rise, more):
    top = min((bits >> 23) + rise, 254)
    higher = min(top + more, 254)
    here = grid.bin_of(np.uint32([bits]), top)
    ends = np.concatenate([grid.lower_bits(here, top), grid.lower_bits(here + 1, top) - 1])
    assert set(grid.bin_of(ends, higher)) == set(grid.bin_of(np.uint32([bits]), higher))


@pytest.mark.parametrize("size", [0, 1, 3, 15, 16, 17, 4095, 4096, 4097, 10_000])
def test_every_pattern_of_any_length_is_counted(size):
    bits = np.random.default_rng(size).integers(0, 2**32, size, dtype=np.uint32)
    bits[::5] = 0
    counted = Grid(254)
    counted.count(bits)
    magnitudes = bits & 0x7FFFFFFF
    bins, counts = np.unique(
        grid.bin_of(magnitudes[(magnitudes > 0) & (magnitudes <= LARGEST_BITS)], 254), return_counts=True
    )
    np.testing.assert_array_equal(counted.filled()[0], bins)
    np.testing.assert_array_equal(counted.filled()[1], counts)
    assert counted.zeros == np.count_nonzero(magnitudes == 0)
    assert counted.nonfinite == np.count_nonzero(magnitudes > LARGEST_BITS)


def test_counting_stops_before_what_is_above_the_top():
    bits = np.full(20_000, 0.25, np.float32).view(np.uint32)
    bits[100], bits[15_000] = np.float32([-1.5, 2.0]).view(np.uint32)
    one_and_a_half = int(np.float32(1.5).view(np.uint32))
    counted = Grid(127)
    done, largest_bits = counted.count(bits)
    assert 100 < done <= 15_000
    assert largest_bits == one_and_a_half
    assert counted.filled()[1].sum() == done
    assert Grid(128).count(bits) == (20_000, 0x40000000)
    assert Grid(127).count(bits[:15_000]) == (15_000, one_and_a_half)


@pytest.mark.parametrize("value", [0.0, -0.0, 1.0, np.nan])
def test_counts_go_on_where_16_bits_end(value):
    counted = Grid(127)
    for size in (65_535, 1, 1, 3 * 65_536):
        counted.count(np.full(size, value, np.float32).view(np.uint32))
    total = 4 * 65_536 + 1
    seen = {"0": counted.zeros, "1": int(counted.filled()[1].sum()), "nan": counted.nonfinite}
    assert seen == {"0": 0, "1": 0, "nan": 0} | {f"{abs(value):.0f}": total}


def test_added_counts_carry_over_too():
    counted = Grid(127)
    bins = np.array([3000, 3001, 3000, 3000])
    counted.add(bins, np.array([65_535, 65_536, 1, 2**40]), zeros=2**33 + 5, nonfinite=70_000)
    np.testing.assert_array_equal(counted.filled()[0], [3000, 3001])
    np.testing.assert_array_equal(counted.filled()[1], [65_536 + 2**40, 65_536])
    assert (counted.zeros, counted.nonfinite) == (2**33 + 5, 70_000)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], 0.0),
        ([-2.5, 1.0], 2.5),
        ([np.nan, -np.inf, 3.0, np.inf], 3.0),
        ([np.nan], 0.0),
        ([-0.0], 0.0),
        ([-1e-45], 1e-45),
    ],
)
def test_the_largest_finite_magnitude(values, expected):
    found = grid.largest(np.array(values, np.float32).view(np.uint32))
    assert np.uint32(found).view(np.float32) == np.float32(expected)
