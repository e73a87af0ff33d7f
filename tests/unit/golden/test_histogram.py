"""The histogram that a comparison shows."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from trtbuild.golden.metrics import Comparison

VALUES = st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(deadline=None)  # the first call compiles
@given(st.lists(VALUES, min_size=1, max_size=50))
def test_every_value_is_between_the_edges_of_its_bin(values: list[float]) -> None:
    golden = np.array(values, np.float32)
    candidate = -golden[::-1]
    comparison = Comparison()
    comparison.update(golden, candidate)
    found = comparison.histogram()
    assert found is not None
    edges = np.array(found.edges)
    assert (np.diff(edges) > 0).all()
    for side, counts in ((golden, found.golden), (candidate, found.candidate)):
        assert sum(counts) == side.size
        expected = np.zeros(len(counts), int)
        for value in side:  # bins are closed towards zero
            last = np.searchsorted(edges, value, "right") - 1
            if value < 0 and edges[last] == value:
                last -= 1
            expected[last] += 1
        signed_zeros = (side == 0).sum()
        assert np.abs(expected - counts).sum() <= 2 * signed_zeros
    assert found.golden[0] + found.candidate[0] > 0
    assert found.golden[-1] + found.candidate[-1] > 0


def test_nothing_compared_shows_nothing() -> None:
    assert Comparison().histogram() is None
