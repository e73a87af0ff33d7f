"""Histograms that fit into a document."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtbuild.report.histogram import BARS, compact

COUNTS = st.lists(st.integers(0, 1000), min_size=3, max_size=3)


@given(COUNTS, COUNTS)
def test_every_value_is_kept(golden, candidate):
    found = compact({"edges": [-4.0, -1.0, 0.5, 8.0], "golden": golden, "candidate": candidate})
    if not any(golden + candidate):
        assert found is None
        return
    assert len(found["edges"]) == BARS + 1
    for side, counts in (("golden", golden), ("candidate", candidate)):
        assert len(found[side]) == BARS
        assert sum(found[side]) == pytest.approx(sum(counts), rel=1e-3)


def test_it_spans_what_is_occupied_and_keeps_the_shape():
    edges = np.concatenate([-np.logspace(2, -6, 500), [0.0], np.logspace(-6, 2, 500)])
    values = np.random.default_rng(0).normal(2, 1, 100_000)
    golden, _ = np.histogram(values, edges)
    candidate, _ = np.histogram(values + 0.5, edges)
    found = compact({"edges": edges, "golden": golden, "candidate": candidate})
    assert found["edges"][0] == pytest.approx(values.min(), rel=0.05)
    assert found["edges"][-1] == pytest.approx(values.max() + 0.5, rel=0.05)
    middles = (np.array(found["edges"][1:]) + found["edges"][:-1]) / 2
    for side, mean in (("golden", 2.0), ("candidate", 2.5)):
        assert np.average(middles, weights=found[side]) == pytest.approx(mean, abs=0.02)
