"""Expected calibration error on cases that can be worked out by hand."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtbuild.golden.calibration_error import BINS, CalibrationError, expected_calibration_error

UNIT = st.floats(0, 1)


@pytest.mark.parametrize(
    ("scores", "confidences", "expected"),
    [
        ([1], [1.0], 0),
        ([0], [1.0], 1),
        ([0], [0.0], 0),
        ([1], [0.0], 1),
        ([1, 0], [0.5, 0.5], 0),  # one bin: half of them are right
        ([1, 1, 1, 0], [0.5] * 4, 0.25),
        ([1, 0], [0.95, 0.55], 0.3),  # two bins of one: (0.05 + 0.55) / 2
        ([0.5, 0.25], [0.5, 0.25], 0),  # scores need not be 0 or 1
    ],
)
def test_by_hand(scores, confidences, expected):
    assert expected_calibration_error(scores, confidences) == pytest.approx(expected, abs=1e-12)


def test_bins_are_open_below_and_closed_above():
    """0.2 is the upper bound of the third of fifteen: it shares that with 0.14, not with 0.21."""
    assert expected_calibration_error([1, 0], [0.2, 0.14]) == pytest.approx(abs(1 - 0.34) / 2)
    assert expected_calibration_error([1, 0], [0.2, 0.21]) == pytest.approx((0.8 + 0.21) / 2)


@given(st.lists(st.tuples(UNIT, UNIT), min_size=1, max_size=40))
def test_it_is_the_definition(pairs):
    """Guo et al. 2017, equation 3, written out bin by bin."""
    scores, confidences = (np.array(values) for values in zip(*pairs, strict=True))
    edges = np.linspace(0, 1, BINS + 1)
    expected = 0.0
    for index, (low, high) in enumerate(itertools.pairwise(edges)):
        inside = (confidences > low) & (confidences <= high) | ((index == 0) & (confidences == 0))
        if inside.any():
            expected += inside.mean() * abs(scores[inside].mean() - confidences[inside].mean())
    assert expected_calibration_error(scores, confidences) == pytest.approx(expected, abs=1e-9)


@given(st.lists(st.tuples(UNIT, UNIT), min_size=1, max_size=20))
def test_it_is_a_share_and_knows_no_order(pairs):
    forth = expected_calibration_error(*zip(*pairs, strict=True))
    back = expected_calibration_error(*zip(*pairs[::-1], strict=True))
    assert 0 <= forth <= 1 + 1e-9
    assert back == pytest.approx(forth, abs=1e-9)


def test_what_a_document_says():
    found = CalibrationError(0.125, 0.5)
    assert found.rise == 0.375
    assert found.to_dict() == {"golden": 0.125, "candidate": 0.5, "bins": 15}
