"""A PrecisionMap goes through JSON unchanged; its share is of what the default lowers."""

from __future__ import annotations

import json

from trtbuild.precision.map import NodePrecision, PrecisionMap, RuleMatch
from trtbuild.recipe import Precision


def node(precision: Precision, lowered: bool, pinned: bool) -> NodePrecision:
    return NodePrecision("MatMul", precision, "because", lowered, pinned)


MAP = PrecisionMap(
    default="int8",
    fallback="fp16",
    nodes={
        "a": node("fp32", lowered=True, pinned=True),
        "b": node("int8", lowered=True, pinned=False),
        "c": node("fp32", lowered=False, pinned=True),
        "d": node("fp16", lowered=False, pinned=False),
        "e": node("int8", lowered=True, pinned=False),
        "f": node("int8", lowered=True, pinned=False),
    },
    rules=(RuleMatch("a", 1, 1), RuleMatch("type:Softmax", 3, 0)),
)


def test_numbers() -> None:
    assert MAP.pinned == ["a", "c"]
    assert MAP.lowerable == 4
    assert MAP.budgeted == 1
    assert MAP.share == 0.25
    assert (MAP["a"], MAP["d"]) == ("fp32", "fp16")


def test_nothing_lowerable_is_a_share_of_zero() -> None:
    empty = PrecisionMap("fp32", "fp32", {"a": node("fp32", lowered=False, pinned=False)}, ())
    assert empty.share == 0.0


def test_through_json() -> None:
    assert PrecisionMap.from_dict(json.loads(json.dumps(MAP.to_dict()))) == MAP


def test_json_says_what_the_cli_shows() -> None:
    data = MAP.to_dict()
    assert data["pinned"] == ["a", "c"]
    assert data["lowerable"] == 4
    assert data["share"] == 0.25
    assert list(data["nodes"]) == list("abcdef")
    assert data["nodes"]["a"]["reason"] == "because"
    assert data["rules"][1] == {"rule": "type:Softmax", "matched": 3, "effective": 0}
