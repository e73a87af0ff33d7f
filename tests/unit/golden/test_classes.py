"""Rows of class scores against scipy's softmax in numpy."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from trtbuild.golden.classes import ClassComparison

RNG = np.random.default_rng(0)


def measured(*pairs, axis=-1):
    comparison = ClassComparison(axis)
    for golden, candidate in pairs:
        comparison.update(np.asarray(golden), np.asarray(candidate))
    return comparison.result()


def softmax(rows):
    rows = np.asarray(rows, np.float64)
    shares = np.exp(rows - rows.max(-1, keepdims=True))
    return shares / shares.sum(-1, keepdims=True)


def kl(p, q):
    return np.mean(np.sum(p * np.log(p / q), -1))


@settings(deadline=None)
@given(
    arrays.arrays(
        np.float32,
        st.tuples(st.integers(1, 9), st.integers(2, 12)),
        elements=st.floats(-40, 40, width=32),
    ),
    st.sampled_from(["float32", "float64"]),
)
def test_logits_against_numpy(golden, dtype):
    golden = golden.astype(dtype)
    golden[0, 0] = -1  # no probability
    candidate = golden[:, ::-1] * 0.9
    found = measured((golden, candidate))
    changed = (golden.argmax(-1) != candidate.argmax(-1)).mean()
    assert (found.rows, found.argmax_changed, found.unranked) == (len(golden), changed, 0)
    assert not found.probabilities
    assert found.kl == pytest.approx(kl(softmax(golden), softmax(candidate)), rel=1e-9, abs=1e-9)


def test_probabilities_are_taken_as_they_are():
    golden = softmax(RNG.standard_normal((4, 7, 12)) * 3).astype(np.float32)
    candidate = softmax(RNG.standard_normal((4, 7, 12)) * 3).astype(np.float32)
    found = measured((golden, candidate))
    assert found.probabilities
    assert found.rows == 28
    assert found.kl == pytest.approx(kl(golden, candidate), rel=1e-5)
    assert found.kl != pytest.approx(kl(softmax(golden), softmax(candidate)), rel=0.1)


def test_one_row_that_is_no_distribution_makes_all_logits():
    rows = softmax(RNG.standard_normal((5, 8))).astype(np.float32)
    assert measured((rows, rows)).probabilities
    negative = np.array([1.5, -0.5, 0, 0, 0, 0, 0, 0], np.float32)
    for row in (rows[0] * 1.02, rows[0] * 0.98, negative, np.zeros(8, np.float32)):
        found = measured((rows, rows), (row, row))
        assert not found.probabilities
        assert found.kl == pytest.approx(0, abs=1e-12)


def test_half_precision_sums_still_make_a_distribution():
    rows = softmax(RNG.standard_normal((9, 1000))).astype(np.float16)
    assert measured((rows, rows)).probabilities


def test_a_candidates_zero_is_dear_and_finite():
    found = measured(([[0.5, 0.5]], [[1.0, 0.0]]))
    assert found.kl == pytest.approx(0.5 * math.log(0.5) + 0.5 * math.log(0.5 / np.finfo(np.float32).tiny))
    assert measured(([[1.0, 0.0]], [[0.5, 0.5]])).kl == pytest.approx(math.log(2))


def test_a_candidate_that_sums_to_less_is_divided_by_its_sum():
    assert measured(([[0.25, 0.75]], [[0.125, 0.375]])).kl == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -3])
def test_the_class_axis_is_chosen(axis):
    golden, candidate = RNG.standard_normal((2, 3, 4, 5))
    found = measured((golden, candidate), axis=axis)
    changed = golden.argmax(axis) != candidate.argmax(axis)
    assert (found.rows, found.argmax_changed) == (changed.size, changed.mean())
    last = np.moveaxis(golden, axis, -1), np.moveaxis(candidate, axis, -1)
    assert found.kl == pytest.approx(kl(*map(softmax, last)))


def test_samples_add_up_in_any_order_and_merge():
    samples = [tuple(RNG.standard_normal((2, rows, 6))) for rows in (1, 4, 2)]
    one = vars(measured(*samples))
    assert vars(measured(*reversed(samples))) == pytest.approx(one, rel=1e-12)
    whole = tuple(np.concatenate([sample[i] for sample in samples]) for i in (0, 1))
    assert vars(measured(whole)) == pytest.approx(one, rel=1e-12)
    first, second = ClassComparison(), ClassComparison()
    first.update(*samples[0])
    second.update(*samples[1])
    second.update(*samples[2])
    first.merge(second)
    assert vars(first.result()) == pytest.approx(one, rel=1e-12)


def test_equal_scores_win_by_their_place():
    assert measured(([[1, 1, 0]], [[2, 2, 2]])).argmax_changed == 0
    assert measured(([[0, 1, 1]], [[2, 2, 2]])).argmax_changed == 1


def test_a_swapped_winner_and_a_negated_row():
    assert measured(([[0.1, 0.9]], [[0.51, 0.49]])).argmax_changed == 1
    logits = RNG.standard_normal((50, 10))
    found = measured((logits, -logits))
    assert found.argmax_changed == 1
    assert found.kl > 1


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_a_row_without_order_counts_as_changed(value, side):
    pair = [np.array([[1.0, 2.0], [3.0, 0.0]]), np.array([[0.0, 2.0], [3.0, 0.0]])]
    pair[side][1, 0] = value
    found = measured(pair)
    assert (found.rows, found.unranked, found.argmax_changed) == (2, 1, 0.5)
    assert found.kl == measured((pair[0][:1], pair[1][:1])).kl > 0  # the mean over the other rows


def test_masked_classes_have_no_share():
    golden = np.array([[0.3, -np.inf, 1.0, -2.0]])
    candidate = np.array([[0.1, -np.inf, 1.2, -2.0]])
    keep = [0, 2, 3]
    expected = kl(softmax(golden[:, keep]), softmax(candidate[:, keep]))
    assert measured((golden, candidate)).kl == pytest.approx(expected)
    assert measured((golden[:, keep], golden[:, keep] * [1, -np.inf, 1])).kl == math.inf
    dead = np.full((1, 4), -np.inf)
    assert measured((golden, dead)).argmax_changed == measured((dead, dead)).argmax_changed == 1


def test_far_logits_do_not_overflow():
    found = measured((np.array([[3e38, -3e38]], np.float32), np.array([[3e38, -3e38]], np.float32)))
    assert (found.kl, found.argmax_changed) == (0, 0)
    far = measured((np.array([[1e4, 0.0]]), np.array([[0.0, 1e4]])))
    assert far.kl == pytest.approx(1e4)


@pytest.mark.parametrize("shape", [(), (0, 5), (3, 1), (0,)])
def test_nothing_to_rank_passes_no_threshold(shape):
    found = measured((np.ones(shape), np.ones(shape)))
    assert found.rows == 0
    assert math.isnan(found.argmax_changed)
    assert math.isnan(found.kl)
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["argmax_changed"] is None


def test_whole_numbers_and_half_precision():
    assert measured((np.array([[3, 2**40]]), np.array([[3, 2**40 + 1]]))).argmax_changed == 0
    assert measured((np.array([[1, 2]], np.float16), np.array([[2, 1]], np.float16))).argmax_changed == 1


def test_what_cannot_be_compared_is_refused():
    for golden, candidate, axis in [(np.ones(2), np.ones(3), -1), (np.ones(2), np.ones(2), 1)]:
        with pytest.raises(ValueError, match="shape"):
            measured((golden, candidate), axis=axis)
