"""Round numbers along an axis."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trtbuild.report.axis import Axis, nice

VALUES = st.lists(st.floats(-1e6, 1e6).map(lambda value: round(value, 6)), min_size=1, max_size=8)


@pytest.mark.parametrize(
    ("value", "wanted"), [(0.013, 0.02), (0.2, 0.2), (0.3, 0.5), (1, 1), (5.5, 10), (10, 10), (101, 200)]
)
def test_nice_is_the_next_round_number(value, wanted):
    assert nice(value) == pytest.approx(wanted, rel=1e-12)


@given(VALUES, st.integers(4, 20))
@example([0.7, 0.995], 8)
def test_an_axis_holds_all_values_with_few_ticks(values, most):
    axis = Axis.around(values, most)
    assert 2 <= len(axis.ticks) <= most + 1
    assert axis.ticks == sorted(set(axis.ticks))
    for value in values:
        assert not axis.below(value)
        assert axis.low - axis.step * 1e-6 <= value <= axis.high + axis.step * 1e-6
    assert axis.ticks[0] == pytest.approx(axis.low, abs=axis.step * 1e-6)
    assert axis.ticks[-1] == pytest.approx(axis.high, abs=axis.step * 1e-6)


def test_ends_that_lie_on_ticks_stay_there():
    assert [f"{tick:g}" for tick in Axis.around([0.7, 0.95], 7).ticks] == [
        *("0.7", "0.75", "0.8", "0.85", "0.9", "0.95")
    ]


def test_zero_is_zero():
    assert 0.0 in Axis.around([-0.3, 0.3], 8).ticks


def test_places_are_shares_of_the_axis():
    axis = Axis(10.0, 20.0, 5.0)
    assert [axis.share(value) for value in (0, 10, 12.5, 20, 99)] == [0, 0, 0.25, 1, 1]
    assert [axis.below(value) for value in (9.9, 10 - 1e-12, 10, 99)] == [True, False, False, False]
