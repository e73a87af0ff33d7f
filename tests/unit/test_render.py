"""What `build` and `inspect` print of an audit."""

from __future__ import annotations

import re
from typing import Any

import pytest

from trtbuild.precision.map import NodePrecision, PrecisionMap
from trtbuild.render import build as render
from trtbuild.targets.audit import audit
from trtbuild.targets.base import Layer

LAYERS = (
    Layer("conv + norm", "CaskConvolution", ("conv", "norm"), "fp32"),
    Layer("{ForeignNode[a...b]}", "Myelin", ("a", "b"), "unknown"),
    Layer("relu", "PointWiseV2", ("relu",), "int8"),
)
PINNED = {"conv": "Conv", "norm": "BatchNormalization", "a": "MatMul", "view": "Reshape"}


def document(
    nodes: dict[str, NodePrecision], layers: tuple[Layer, ...], reformats: int = 0
) -> dict[str, Any]:
    precisions = PrecisionMap("int8", "fp32", nodes, ())
    audited = audit(precisions, layers, reformats, len(layers) + reformats)
    return {
        "path": "engine.plan",
        "key": "0123",
        "target": {"target": "tensorrt", "inspected": "the engine"},
        "artifact": {"bytes": 1_000_000},
        "precision": precisions.to_dict(),
        "pinned": precisions.pinned,
        "model": {"not_calibrated": {}},
        "audit": audited.to_dict(),
        "layers": [vars(layer) for layer in layers],
    }


@pytest.fixture
def lost() -> dict[str, Any]:
    """A build with allow_lost_pins."""
    nodes = {name: NodePrecision(kind, "fp32", "", True, pinned=True) for name, kind in PINNED.items()}
    nodes["relu"] = NodePrecision("Relu", "fp32", "", lowered_by_default=False, pinned=False)
    nodes |= {f"c{i}": NodePrecision("Conv", "int8", "", True, pinned=False) for i in range(7)}
    return document(nodes, LAYERS, reformats=1)


AUDITED = [
    "layers by precision: 1 fp32, 1 int8, 1 unknown",
    "reformats: 1 of 4 layers that run (25.0%)",
    "lost pin: a (asked fp32, found unknown inside {ForeignNode[a...b]})",
    "without a layer of their own, since they only move data: view",
    "lower than meant, without a pin: relu",
    "not lowered as meant: c0, c1, c2, c3, c4 and 2 more",
]


def test_a_build_says_what_the_audit_found(lost: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    render.build(lost)
    lines = capsys.readouterr().out.splitlines()
    assert "pins: 2 held of 4 asked, 36.4% of 11 nodes" in lines
    assert [line for line in lines if line in AUDITED] == AUDITED
    assert "audited on the engine" in lines


def test_inspect_lists_each_pin_with_its_layers(
    lost: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    render.inspect(lost)
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if line in AUDITED] == AUDITED
    layers, pins = re.split(r"(?m)^pins +$", out)
    for row in (
        r"conv \+ norm +│ CaskConvolution +│ fp32 +│ held",
        r"\{ForeignNode\[a\.\.\.b\]\} +│ Myelin +│ unknown +│ lost",
        r"relu +│ PointWiseV2 +│ int8 +│ +│",
    ):
        assert re.search(row, layers)
    for row in (
        r"conv +│ fp32 +│ conv \+ norm +│ fp32 +│ held",
        r"norm +│ fp32 +│ conv \+ norm +│ fp32 +│ held",
        r"a +│ fp32 +│ \{ForeignNode\[a\.\.\.b\]\} +│ unknown +│ lost",
        r"view +│ fp32 +│ - +│ - +│ removed",
    ):
        assert re.search(row, pins)


def test_a_pin_in_no_layer_is_lost_not_removed(capsys: pytest.CaptureFixture[str]) -> None:
    render.inspect(document({"gone": NodePrecision("Conv", "fp32", "", True, pinned=True)}, ()))
    assert re.search(r"gone +│ fp32 +│ - +│ - +│ lost", capsys.readouterr().out)


def test_what_there_is_nothing_to_say_of_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    plain = document({"relu": NodePrecision("Relu", "int8", "", True, pinned=False)}, LAYERS[2:])
    render.inspect(plain)
    out = capsys.readouterr().out
    assert "layers by precision: 1 int8" in out
    assert not re.search(r"(?m)^pins|reformats|lost|lower|data", out)


def test_builds_from_before_the_audit_told_more(capsys: pytest.CaptureFixture[str]) -> None:
    plain = document({"relu": NodePrecision("Relu", "fp32", "", True, pinned=True)}, LAYERS[2:])
    plain["audit"] = {key: plain["audit"][key] for key in ("histogram", "held", "lost", "unlowered")}
    for show in (render.build, render.inspect):
        show(plain)
        assert "lost pin: relu (asked fp32, found int8)" in capsys.readouterr().out
