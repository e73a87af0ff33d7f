"""The fused pass against the textbook in numpy."""

import json
import math
import re
from concurrent.futures import ThreadPoolExecutor

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from trtbuild.golden.kernels import BLOCK
from trtbuild.golden.metrics import Comparison, incomparable

EXACT = (
    "count",
    "max_abs",
    "max_rel",
    "kl",
    "nonfinite_golden",
    "nonfinite_candidate",
    "nonfinite_unmatched",
)
EXACT += ("nan_golden", "nan_candidate")


def compared(*pairs):
    comparison = Comparison()
    for golden, candidate in pairs:
        comparison.update(np.asarray(golden), np.asarray(candidate))
    return comparison


def measured(*pairs):
    return compared(*pairs).result()


def reference(*pairs):
    """Everything in float64, over the elements that are finite on both sides; a pair is one sample."""
    a, b = (np.concatenate([np.ravel(pair[i]).astype(np.float64) for pair in pairs]) for i in (0, 1))
    finite = np.isfinite(a) & np.isfinite(b)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    counts = {
        "nonfinite_golden": (~np.isfinite(a)).sum(),
        "nonfinite_candidate": (~np.isfinite(b)).sum(),
        "nonfinite_unmatched": (~finite & ~same).sum(),
        "nan_golden": np.isnan(a).sum(),
        "nan_candidate": np.isnan(b).sum(),
    }
    a, b = a[finite], b[finite]
    error = ((b - a) ** 2).sum()
    return {
        **counts,
        "count": a.size,
        "max_abs": np.abs(b - a).max(),
        "max_rel": max(largest_relative(*pair) for pair in pairs),
        "rmse": math.sqrt(error / a.size),
        "l2": np.linalg.norm(b - a),
        "l2_relative": np.linalg.norm(b - a) / np.linalg.norm(a),
        "sqnr_db": 10 * np.log10((a * a).sum() / error),
        "cosine": (a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b),
        "kl": kl(a.astype(np.float32), b.astype(np.float32)),
    }


def largest_relative(golden, candidate):
    a, b = golden.astype(np.float64), candidate.astype(np.float64)
    floor = 0.001 * np.abs(a[np.isfinite(a)]).max()
    a, b = a[np.isfinite(a) & np.isfinite(b)], b[np.isfinite(a) & np.isfinite(b)]
    return (np.abs(b - a) / np.maximum(np.abs(a), floor)).max()


def kl(a, b):
    p, q = (np.bincount(x.view(np.uint32) >> 20, minlength=4096) for x in (a, b))
    used = (p + q) > 0
    p, q = ((x[used] + 0.5) / (x[used] + 0.5).sum() for x in (p, q))
    return (p * np.log(p / q)).sum()


def close(found, expected, rel=1e-12):
    """Sums to rounding; everything else to the bit."""
    found, expected = vars(found), vars(expected)
    assert found == pytest.approx(expected, rel=rel, nan_ok=True)
    assert {name: found[name] for name in EXACT} == {name: expected[name] for name in EXACT}


RNG = np.random.default_rng(0)
GOLDEN = RNG.standard_normal((5, 3, 70)) * np.exp(RNG.standard_normal((5, 3, 70)) * 3)
NOISY = GOLDEN * (1 + 0.1 * RNG.standard_normal(GOLDEN.shape)) + 0.01
HOLES = GOLDEN.copy()
HOLES[0, 0, :5] = np.nan, np.inf, -np.inf, 0, np.nan
NOISY_HOLES = NOISY.copy()
NOISY_HOLES[0, 0, :6] = np.nan, np.inf, np.inf, np.nan, 1, -np.inf
PAIRS = [(GOLDEN, NOISY), (HOLES, NOISY_HOLES), (NOISY, -GOLDEN)]


def repeated(array, size):
    """`size` values, so several whole blocks and an end."""
    return np.resize(array, size)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize(("golden", "candidate"), PAIRS)
def test_against_numpy(golden, candidate, dtype):
    golden, candidate = golden.astype(dtype), candidate.astype(dtype)
    expected = pytest.approx(reference((golden, candidate)), rel=1e-9)
    assert vars(measured((golden, candidate))) == expected


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK + 77])
@pytest.mark.parametrize(("golden", "candidate"), PAIRS)
def test_whole_blocks_against_numpy(golden, candidate, size, dtype):
    golden, candidate = (repeated(x, size).astype(dtype) for x in (golden, candidate))
    expected = pytest.approx(reference((golden, candidate)), rel=1e-11)
    assert vars(measured((golden, candidate))) == expected


@settings(deadline=None)
@given(
    st.integers(1, 3 * BLOCK),
    st.integers(0, 2**32 - 1),
    st.floats(-30, 30),
    st.floats(-9, 1),
    st.lists(st.sampled_from([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, 3e38]), max_size=6),
)
def test_any_scale_any_error_any_hole(size, seed, scale, noise, strange):
    """Sizes around blocks, powers of ten, and strange values strewn over both sides."""
    random = np.random.default_rng(seed)
    golden = random.standard_normal(size) * 10**scale
    candidate = golden * (1 + random.standard_normal(size) * 10**noise)
    golden, candidate = golden.astype(np.float32), candidate.astype(np.float32)
    golden[0], candidate[0] = 1, 2  # the textbook has no answer for nothing and for equals
    for value in strange:
        if size > 1:
            (golden if random.random() < 0.5 else candidate)[random.integers(1, size)] = value
    assert vars(measured((golden, candidate))) == pytest.approx(reference((golden, candidate)), rel=1e-11)


@settings(deadline=None)
@given(
    arrays.arrays(np.float32, arrays.array_shapes(max_dims=4, max_side=9)),
    st.permutations(range(4)),
)
def test_order_and_merging_change_rounding_alone(golden, order):
    with np.errstate(over="ignore", invalid="ignore"):
        samples = [(golden, golden * np.float32(scale) + np.float32(0.5)) for scale in (0.9, 1.1, -1, 3)]
    one = measured(*samples)
    close(measured(*(samples[i] for i in order)), one)
    first, second = compared(*samples[:3]), compared(*samples[3:])
    first.merge(second)
    close(first.result(), one)


def test_merging_leaves_the_other_as_it_is_and_starts_from_nothing():
    given_, empty = compared((HOLES, NOISY_HOLES)), Comparison()
    before = vars(given_.result())
    empty.merge(given_)
    assert vars(empty.result()) == before
    empty.merge(compared((GOLDEN, NOISY)))
    assert vars(given_.result()) == before
    assert empty.result().count == given_.result().count + GOLDEN.size


def test_batches_of_one_tensor():
    """Whole samples, however they are batched; all that may differ is the scale of max_rel."""
    pieces = [(HOLES[i : i + 2], NOISY_HOLES[i : i + 2]) for i in (0, 2, 4)]
    many = vars(measured(*pieces))
    assert many == pytest.approx(reference(*pieces), rel=1e-12)
    one = vars(measured((HOLES, NOISY_HOLES)))
    assert {**many, "max_rel": 0} == pytest.approx({**one, "max_rel": 0}, rel=1e-12)


def test_threads_measure_what_one_thread_does():
    pairs = [(repeated(NOISY * i, 40 * BLOCK + i), repeated(GOLDEN * i, 40 * BLOCK + i)) for i in range(1, 9)]
    pairs = [(a.astype(np.float32), b.astype(np.float32)) for a, b in pairs]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(measured, pairs))
    assert [vars(x) for x in found] == [vars(measured(pair)) for pair in pairs]


def test_nonfinite_values_are_matched_by_place_and_kind():
    found = measured((HOLES, NOISY_HOLES))
    assert (found.nonfinite_golden, found.nonfinite_candidate) == (4, 5)
    assert found.nonfinite_unmatched == 4  # -inf for inf, NaN for 0, 1 for NaN, -inf for a number
    assert (found.nan_golden, found.nan_candidate) == (2, 2)
    moved = measured(([np.nan, 1.0], [1.0, np.nan]))
    assert (moved.nonfinite_golden, moved.nonfinite_candidate, moved.nonfinite_unmatched) == (1, 1, 2)
    masked = measured(([-np.inf, 1.0], [-np.inf, 1.0]))
    assert (masked.nonfinite_golden, masked.nonfinite_unmatched, masked.nan_golden) == (1, 0, 0)


@pytest.mark.parametrize("place", [0, 31, 32, BLOCK - 1, BLOCK, 3 * BLOCK - 1, 3 * BLOCK + 4])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_one_nonfinite_value_among_many_is_found(place, value, side):
    pair = [np.ones(3 * BLOCK + 5, np.float32), np.full(3 * BLOCK + 5, 1.5, np.float32)]
    pair[side][place] = value
    found = measured(pair)
    assert found.count == 3 * BLOCK + 4
    assert (found.nonfinite_golden, found.nonfinite_candidate) == (1 - side, side)
    assert found.nonfinite_unmatched == 1
    assert found.rmse == 0.5


def test_any_layout_counts_the_same():
    golden, candidate = GOLDEN.transpose(2, 0, 1), NOISY.transpose(2, 0, 1)
    assert not golden.flags.c_contiguous
    close(measured((golden, candidate)), measured((GOLDEN, NOISY)))
    close(measured((GOLDEN[:, ::2], NOISY[:, ::2])), measured((GOLDEN[:, ::2].copy(), NOISY[:, ::2].copy())))


@pytest.mark.parametrize("size", [7, 2 * BLOCK + 1])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_equal_tensors(size, dtype):
    golden = repeated(GOLDEN, size).astype(dtype)
    found = measured((golden, golden))
    assert (found.max_abs, found.max_rel, found.rmse, found.l2, found.l2_relative, found.kl) == (0,) * 6
    assert (found.sqnr_db, found.cosine) == (math.inf, 1)


@pytest.mark.parametrize("size", [4, BLOCK])
def test_both_zero(size):
    found = measured((np.zeros(size, np.float32), -np.zeros(size, np.float32)))
    assert (found.cosine, found.sqnr_db, found.rmse, found.max_rel) == (1, math.inf, 0, 0)


@pytest.mark.parametrize("repeats", [1, BLOCK])
@pytest.mark.parametrize(
    ("golden", "candidate", "sqnr", "relative", "max_rel"),
    [([0, 0], [1, 2], -math.inf, math.inf, math.inf), ([1, 2], [0, 0], 0, 1, 1)],
)
def test_one_of_them_dead(golden, candidate, sqnr, relative, max_rel, repeats):
    found = measured((np.array(golden * repeats, np.float32), np.array(candidate * repeats, np.float32)))
    assert found.cosine == 0
    assert (found.sqnr_db, found.l2_relative, found.max_rel) == (sqnr, relative, max_rel)
    assert found.max_abs == 2


def test_negated():
    found = measured((GOLDEN, -GOLDEN))
    assert found.cosine == pytest.approx(-1)
    assert found.sqnr_db == pytest.approx(10 * math.log10(0.25))
    assert found.max_rel == 2
    assert found.kl > 0.1


def test_a_constant_candidate_is_far():
    golden = repeated(GOLDEN, 2 * BLOCK).astype(np.float32)
    found = measured((golden, np.full_like(golden, golden.mean())))
    assert found.sqnr_db < 1
    assert found.cosine < 0.2


@pytest.mark.parametrize("repeats", [1, BLOCK])
def test_what_is_nearly_zero_is_judged_by_the_samples_scale(repeats):
    """0.02 for 0.00001 is 2000 times as much, and nothing beside the 10."""
    golden, candidate = np.array([10, 1e-5] * repeats), np.array([10.5, 0.02] * repeats)
    found = measured((golden.astype(np.float32), candidate.astype(np.float32)))
    assert found.max_rel == pytest.approx(2, rel=1e-3)  # 0.02 / (0.001 * 10)
    small, large = ([0.01], [0.02]), ([1000.0], [1001.0])  # each by its own
    assert measured(small, large).max_rel == measured(large, small).max_rel == 1


def test_an_infinite_golden_value_sets_no_scale():
    golden, candidate = [np.inf, 1.0, np.nan], [np.inf, 2.0, np.nan]
    assert measured((golden, candidate)).max_rel == 1


def test_json_has_null_for_what_json_cannot_say():
    for pair in ((GOLDEN, GOLDEN), (np.zeros(2), np.ones(2)), (np.array([np.nan]), np.array([np.nan]))):
        found = measured(pair)
        document = json.loads(json.dumps(found.to_dict(), allow_nan=False))
        assert set(document) == set(vars(found))
        assert document["sqnr_db"] is None
    assert document["rmse"] is None
    assert document["kl"] is None


@pytest.mark.parametrize("pairs", [[], [(np.zeros((0, 4)), np.zeros((0, 4)))], [([np.nan], [np.nan])]])
def test_nothing_to_measure_passes_no_threshold(pairs):
    found = measured(*pairs)
    assert found.count == found.max_abs == 0
    figures = ("rmse", "l2", "l2_relative", "max_rel", "kl", "sqnr_db", "cosine")
    assert all(math.isnan(getattr(found, name)) for name in figures)


def test_scalars():
    assert measured((np.float32(2), np.float32(1))).max_abs == 1


@pytest.mark.parametrize("size", [3, 2 * BLOCK + 1])
@pytest.mark.parametrize("dtype", ["int64", "int32", "int8", "uint8", "uint64", "bool"])
def test_whole_numbers(dtype, size):
    golden, candidate = np.ones(size, dtype), np.ones(size, dtype)
    golden[1] = 0
    found = measured((golden, candidate))
    assert (found.count, found.max_abs, found.l2) == (size, 1, 1)


def test_large_whole_numbers_are_not_rounded():
    """As float32 these two are the same class index."""
    found = measured((np.array([2**24]), np.array([2**24 + 1])))
    assert found.max_abs == 1


@pytest.mark.parametrize("repeats", [1, BLOCK])
def test_the_ends_of_float32(repeats):
    """Squares of the largest and of the smallest float32 are float64s like others."""
    largest, smallest = np.finfo(np.float32).max, np.finfo(np.float32).smallest_subnormal
    found = measured((np.full(repeats, largest), np.full(repeats, -largest)))
    assert (found.max_abs, found.rmse) == (2 * float(largest), pytest.approx(2 * float(largest), rel=1e-12))
    assert found.cosine == pytest.approx(-1)
    found = measured((np.full(repeats, smallest), np.full(repeats, 2 * smallest)))
    assert (found.max_abs, found.max_rel) == (float(smallest), 1)
    assert (found.cosine, found.sqnr_db) == (pytest.approx(1), pytest.approx(0, abs=1e-9))


def test_float64_beyond_float32():
    golden, candidate = np.array([1e300, 1e39]), np.array([1e300, 2e39])
    found = measured((golden, candidate))
    assert found.nonfinite_golden == found.nonfinite_candidate == 0
    assert found.max_abs == 1e39
    assert found.max_rel == pytest.approx(1e39 / 1e297)


@pytest.mark.parametrize(
    ("golden", "candidate"),
    [
        ([1e-300], [1e300]),
        ([1e300], [2e300]),
        ([1e-300], [0.0]),
        ([1e308], [-1e308]),
        ([1e-200, 0], [0, 1e-200]),
        ([1e300, 1], [1e300, 2]),
    ],
)
def test_squares_outside_float64_pass_no_threshold(golden, candidate):
    found = measured((np.array(golden), np.array(candidate)))
    assert found.max_abs > 0
    assert not found.sqnr_db > 0
    assert not found.cosine > 0.5


def test_an_error_whose_square_underflows_is_not_none():
    found = measured((np.array([1e-160]), np.array([1.001e-160])))
    assert found.max_abs > 0
    assert math.isnan(found.sqnr_db)
    assert math.isnan(found.l2_relative)


def test_equal_values_whose_squares_overflow_are_equal():
    found = measured((np.array([1e300]), np.array([1e300])))
    assert (found.cosine, found.sqnr_db, found.rmse) == (1, math.inf, 0)


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn])
def test_narrow_floats(dtype):
    golden = GOLDEN.astype(dtype)
    finite = golden[np.isfinite(golden.astype(np.float32))]
    found = measured((finite, np.zeros_like(finite)))
    assert found.max_abs == np.abs(finite.astype(np.float32)).max()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sums_stay_exact_over_millions(dtype):
    """One running sum in float64 is off by 4e-13 here."""
    golden, candidate = np.random.default_rng(1).random((2, 3_000_000), np.float32).astype(dtype)
    error = math.fsum(((candidate.astype(np.float64) - golden) ** 2).tolist())
    assert measured((golden, candidate)).l2 == pytest.approx(math.sqrt(error), rel=1e-14)


@pytest.mark.parametrize(
    ("golden", "candidate", "problem"),
    [
        (np.zeros((2, 3)), np.zeros((3, 2)), "shape (3, 2) where the golden has (2, 3)"),
        (np.zeros(3), np.zeros((3, 1)), "shape (3, 1) where the golden has (3,)"),
        (np.zeros(3, "f4"), np.zeros(3, "f8"), "dtype float64 where the golden has float32"),
        (np.array(["a"]), np.array(["a"]), "values of dtype <U1 cannot be compared as numbers"),
        (np.zeros(1, "c8"), np.zeros(1, "c8"), "values of dtype complex64 cannot be compared as numbers"),
    ],
)
def test_what_cannot_be_compared_is_refused(golden, candidate, problem):
    assert incomparable(golden, candidate) == problem
    with pytest.raises(ValueError, match=re.escape(problem)):
        Comparison().update(golden, candidate)
