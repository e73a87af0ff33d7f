"""Where two tables differ, and how much."""

import json
import math

import numpy as np
import pytest

from calibrators.compare import compare
from calibrators.errors import TableError
from calibrators.table import Range, RangeTable, cache_header


def table(**amax: float) -> RangeTable:
    return RangeTable({name: Range(value, "minmax") for name, value in amax.items()}, None, 1)


def test_those_that_differ_most_come_first_whichever_is_larger() -> None:
    found = compare(table(a=1, b=2, c=9, d=5), table(a=1, b=8, c=3, d=4))
    assert [(pair.tensor, pair.amax, pair.other) for pair in found.pairs] == [
        ("b", 2, 8),
        ("c", 9, 3),
        ("d", 5, 4),
        ("a", 1, 1),
    ]
    assert [pair.ratio for pair in found.pairs] == [0.25, 3, 1.25, 1]
    assert [pair.equal for pair in found.pairs] == [False, False, False, True]


def test_tensors_that_only_one_table_has() -> None:
    found = compare(table(z=1, x=1, a=1), table(x=1, q=2))
    assert (found.only_here, found.only_there) == (("a", "z"), ("q",))
    assert [pair.tensor for pair in found.pairs] == ["x"]


def test_a_range_of_zero() -> None:
    found = compare(table(a=0.0, b=3, c=0, d=2), table(a=2, b=0.0, c=0, d=2.5))
    assert [pair.tensor for pair in found.pairs] == ["a", "b", "d", "c"]
    assert [pair.ratio for pair in found.pairs] == [0, math.inf, 0.8, 1]


def test_as_json() -> None:
    found = compare(table(a=3, b=1, c=1), table(a=0, b=2, d=1)).to_dict()
    assert json.loads(json.dumps(found, allow_nan=False)) == {
        "tensors": {
            "a": {"amax": 3, "other": 0, "ratio": None},
            "b": {"amax": 1, "other": 2, "ratio": 0.5},
        },
        "equal": 0,
        "only_here": ["c"],
        "only_there": ["d"],
    }
    assert list(found["tensors"]) == ["a", "b"]


def test_a_cache_of_a_table_equals_it() -> None:
    """A cache holds float32 scales: of an amax it keeps 24 bits, and of 0 a scale that is not 0."""
    rng = np.random.default_rng(0)
    ours = table(
        zero=0.0, **{f"t{index}": float(value) for index, value in enumerate(rng.lognormal(0, 9, 200))}
    )
    _, theirs = RangeTable.from_tensorrt_cache(ours.to_tensorrt_cache(cache_header("8.6.1")))
    assert any(theirs.ranges[name].amax != entry.amax for name, entry in ours.ranges.items())
    found = compare(ours, theirs)
    assert found.to_dict()["equal"] == 201
    assert {pair.ratio for pair in found.pairs} == {1}


def test_tables_of_different_models() -> None:
    with pytest.raises(TableError, match="none of its 2 tensors is among the 1 here: it is of another model"):
        compare(table(a=1), table(b=1, c=1))
