"""The fused pass against the textbook in numpy."""

import json
import math

import numpy as np
import pytest

from trtbuild.golden.metrics import Comparison


def measured(*pairs):
    comparison = Comparison()
    for golden, candidate in pairs:
        comparison.update(np.asarray(golden), np.asarray(candidate))
    return comparison.result()


def reference(golden, candidate):
    """Everything in float64, over the elements that are finite on both sides."""
    a, b = golden.astype(np.float64).ravel(), candidate.astype(np.float64).ravel()
    finite = np.isfinite(a) & np.isfinite(b)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    nonfinite = (~np.isfinite(a)).sum(), (~np.isfinite(b)).sum(), (~finite & ~same).sum()
    a, b = a[finite], b[finite]
    error = ((b - a) ** 2).sum()
    return {
        "count": a.size,
        "max_abs": np.abs(b - a).max(),
        "rmse": math.sqrt(error / a.size),
        "sqnr_db": 10 * np.log10((a * a).sum() / error),
        "cosine": (a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b),
        "kl": kl(a.astype(np.float32), b.astype(np.float32)),
        "nonfinite_golden": nonfinite[0],
        "nonfinite_candidate": nonfinite[1],
        "nonfinite_unmatched": nonfinite[2],
    }


def kl(a, b):
    p, q = (np.bincount(x.view(np.uint32) >> 20, minlength=4096) for x in (a, b))
    used = (p + q) > 0
    p, q = ((x[used] + 0.5) / (x[used] + 0.5).sum() for x in (p, q))
    return (p * np.log(p / q)).sum()


RNG = np.random.default_rng(0)
GOLDEN = RNG.standard_normal((5, 3, 70)) * np.exp(RNG.standard_normal((5, 3, 70)) * 3)
NOISY = GOLDEN * (1 + 0.1 * RNG.standard_normal(GOLDEN.shape)) + 0.01
HOLES = GOLDEN.copy()
HOLES[0, 0, :5] = np.nan, np.inf, -np.inf, 0, np.nan
NOISY_HOLES = NOISY.copy()
NOISY_HOLES[0, 0, :6] = np.nan, np.inf, np.inf, np.nan, 1, -np.inf


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize(("golden", "candidate"), [(GOLDEN, NOISY), (HOLES, NOISY_HOLES), (NOISY, -GOLDEN)])
def test_against_numpy(golden, candidate, dtype):
    golden, candidate = golden.astype(dtype), candidate.astype(dtype)
    assert vars(measured((golden, candidate))) == pytest.approx(reference(golden, candidate), rel=1e-9)


def test_nonfinite_values_are_matched_by_place_and_kind():
    expected = vars(measured((HOLES, NOISY_HOLES)))
    assert (expected["nonfinite_golden"], expected["nonfinite_candidate"]) == (4, 5)
    assert expected["nonfinite_unmatched"] == 4  # -inf for inf, NaN for 0, 1 for NaN, -inf for a number
    moved = measured(([np.nan, 1.0], [1.0, np.nan]))
    assert (moved.nonfinite_golden, moved.nonfinite_candidate, moved.nonfinite_unmatched) == (1, 1, 2)
    masked = measured(([-np.inf, 1.0], [-np.inf, 1.0]))
    assert (masked.nonfinite_golden, masked.nonfinite_unmatched) == (1, 0)


def test_merging_batches_is_one_pass():
    pieces = [(HOLES[i : i + 2], NOISY_HOLES[i : i + 2]) for i in (0, 2, 4)]
    one, many = vars(measured((HOLES, NOISY_HOLES))), vars(measured(*pieces))
    assert many == pytest.approx(one, rel=1e-12)
    assert {**many, "rmse": 0, "sqnr_db": 0, "cosine": 0} == {**one, "rmse": 0, "sqnr_db": 0, "cosine": 0}


def test_any_layout_counts_the_same():
    golden, candidate = GOLDEN.transpose(2, 0, 1), NOISY.transpose(2, 0, 1)
    assert not golden.flags.c_contiguous
    assert vars(measured((golden, candidate))) == pytest.approx(vars(measured((GOLDEN, NOISY))), rel=1e-12)


def test_equal_tensors():
    found = measured((GOLDEN, GOLDEN))
    assert (found.max_abs, found.rmse, found.kl, found.sqnr_db) == (0, 0, 0, math.inf)
    assert found.cosine == pytest.approx(1, abs=1e-12)


def test_both_zero():
    found = measured((np.zeros(4), np.zeros(4)))
    assert (found.cosine, found.sqnr_db, found.rmse) == (1, math.inf, 0)


@pytest.mark.parametrize(("golden", "candidate", "sqnr"), [([0, 0], [1, 2], -math.inf), ([1, 2], [0, 0], 0)])
def test_one_of_them_dead(golden, candidate, sqnr):
    found = measured((np.array(golden, np.float32), np.array(candidate, np.float32)))
    assert found.cosine == 0
    assert found.sqnr_db == sqnr
    assert found.max_abs == 2


def test_negated():
    found = measured((GOLDEN, -GOLDEN))
    assert found.cosine == pytest.approx(-1)
    assert found.sqnr_db == pytest.approx(10 * math.log10(0.25))
    assert found.kl > 0.1


def test_json_has_null_for_what_json_cannot_say():
    for pair in ((GOLDEN, GOLDEN), (np.zeros(2), np.ones(2)), (np.array([np.nan]), np.array([np.nan]))):
        found = measured(pair)
        document = json.loads(json.dumps(found.to_dict(), allow_nan=False))
        assert set(document) == set(vars(found))
        assert document["sqnr_db"] is None
    assert document["rmse"] is None
    assert document["kl"] is None


def test_nothing_at_all():
    found = Comparison().result()
    assert found.count == 0
    assert math.isnan(found.rmse)
    assert math.isnan(found.kl)


def test_scalars():
    assert measured((np.float32(2), np.float32(1))).max_abs == 1


@pytest.mark.parametrize("dtype", ["int64", "int32", "uint8", "bool"])
def test_whole_numbers(dtype):
    found = measured((np.array([1, 0, 1], dtype), np.array([1, 1, 1], dtype)))
    assert (found.count, found.max_abs) == (3, 1)


def test_large_whole_numbers_are_not_rounded():
    """As float32 these two are the same class index."""
    found = measured((np.array([2**24]), np.array([2**24 + 1])))
    assert found.max_abs == 1


def test_float64_beyond_float32():
    golden, candidate = np.array([1e300, 1e39]), np.array([1e300, 2e39])
    found = measured((golden, candidate))
    assert found.nonfinite_golden == found.nonfinite_candidate == 0
    assert found.max_abs == 1e39
    far = measured((np.array([1e-300]), np.array([1e300])))  # the error's square is infinite
    assert not far.sqnr_db > 0
    assert not far.cosine > 0.5


def test_bfloat16():
    import ml_dtypes

    golden = GOLDEN.astype(ml_dtypes.bfloat16)
    found = measured((golden, golden * ml_dtypes.bfloat16(2)))
    assert found.max_abs == np.abs(golden.astype(np.float32)).max()
