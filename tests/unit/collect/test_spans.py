"""Which batches are done, and which are not."""

from hypothesis import given
from hypothesis import strategies as st

from trtbuild.collect.spans import cut, joined, missing

TOTAL = 12


@given(st.sets(st.integers(0, TOTAL - 1)), st.integers(1, TOTAL))
def test_missing_and_done_together_are_all_batches_once(done: set[int], length: int) -> None:
    spans = joined([(batch, batch + 1) for batch in done])
    left = list(cut(missing(spans, TOTAL), length))
    assert all(0 < stop - start <= length for start, stop in left)
    batches = [batch for span in [*spans, *left] for batch in range(*span)]
    assert sorted(batches) == list(range(TOTAL))


def test_neighbours_become_one_span() -> None:
    assert joined([(4, 6), (0, 1), (1, 3)]) == [(0, 3), (4, 6)]
    assert list(cut([(0, 5)], 2)) == [(0, 2), (2, 4), (4, 5)]
