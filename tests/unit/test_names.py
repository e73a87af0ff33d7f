"""Name patterns are exact, glob or whole-name regular expressions; near misses are found."""

from __future__ import annotations

import pytest

from trtbuild.errors import InputError
from trtbuild.names import exactly, matcher, nearest


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        ("layer1", "layer1", "layer10"),
        ("layer1", "layer1", "Layer1"),
        ("a.b", "a.b", "axb"),
        ("a[0]", "a[0]", "a0"),
        ("a:b", "a:b", "b"),
        ("", "", "a"),
        ("re", "re", ""),
        ("glob", "glob", ""),
        ("glob:layer*", "layer10", "my_layer10"),
        ("glob:layer?", "layer1", "layer10"),
        ("glob:a[0-3]", "a3", "a4"),
        ("glob:*", "anything\nat all", None),
        ("glob:a.b", "a.b", "axb"),
        ("glob:re:x", "re:x", "x"),
        ("re:layer1", "layer1", "layer10"),
        ("re:layer1", "layer1", "my_layer1"),
        ("re:a|b", "b", "ab"),
        ("re:.*/Conv_[0-9]+", "m/Conv_12", "m/Conv_12/bias"),
        ("re:glob:x", "glob:x", "x"),
    ],
)
def test_matches_the_whole_name(pattern: str, matching: str, other: str | None) -> None:
    matches = matcher(pattern)
    assert matches(matching)
    assert other is None or not matches(other)


@pytest.mark.parametrize("body", ["(", "[", "*", "a{9999999999999}", "(?P<a>x)(?P<a>y)", "\\"])
def test_a_bad_regular_expression_is_the_users_error(body: str) -> None:
    with pytest.raises(InputError, match="not a regular expression"):
        matcher(f"re:{body}")


def test_nearest_are_named_in_their_own_spelling() -> None:
    assert nearest("conv_1", ["Conv_1", "MatMul_3"]) == "; nearest: Conv_1"


@pytest.mark.parametrize("pattern", ["glob:Conv_?x", "re:Conv_1x"])
def test_nearest_looks_behind_the_kind_of_a_pattern(pattern: str) -> None:
    assert "Conv_1" in nearest(pattern, ["Conv_1", "MatMul_3"])


def test_nearest_is_silent_when_nothing_is_near() -> None:
    assert nearest("zzzz", ["Conv_1"]) == ""
    assert nearest("x", []) == ""


def test_nearest_stops_at_its_count() -> None:
    assert nearest("conv", [f"conv{i}" for i in range(9)], count=2).count("conv") == 2


@pytest.mark.parametrize(
    "name", ["Conv_1", "re:Conv.1", "glob:Conv_*", "re:(", "a[0]", "glob", "re", "", "re:a\nb"]
)
def test_a_name_is_matched_exactly_whatever_it_looks_like(name: str) -> None:
    matches = matcher(exactly(name))
    assert matches(name)
    assert not any(map(matches, ["Conv_1x", "Conv.1", "ConvX1", "a0", f"{name}x", f"x{name}"]))
