"""The audit on layers written by hand."""

from __future__ import annotations

import json
from typing import Literal

import pytest

from trtbuild.precision.map import NodePrecision, PrecisionMap
from trtbuild.recipe import Precision
from trtbuild.targets.audit import LostPin, audit
from trtbuild.targets.base import Layer

Asked = tuple[Precision, Literal["pinned", "free"]]


def asked(**nodes: Asked) -> PrecisionMap:
    entries = {
        name: NodePrecision("Conv", precision, "", lowered_by_default=True, pinned=pinned == "pinned")
        for name, (precision, pinned) in nodes.items()
    }
    return PrecisionMap("int8", "fp32", entries, ())


def layer(precision: Precision, *nodes: str) -> Layer:
    return Layer("+".join(nodes), "CONVOLUTION", nodes, precision)


def test_nothing_asked_nothing_built() -> None:
    audited = audit(asked(), [])
    assert (audited.histogram, audited.held, audited.lost, audited.unlowered) == ({}, 0, (), ())


def test_the_histogram_counts_layers_of_no_node_too() -> None:
    layers = [layer("int8", "a"), layer("fp32", "b"), layer("fp32"), layer("fp16", "b", "c")]
    assert audit(asked(), layers).histogram == {"fp16": 1, "fp32": 2, "int8": 1}
    assert list(audit(asked(), reversed(layers)).histogram) == ["fp16", "fp32", "int8"]


@pytest.mark.parametrize(
    ("wanted", "found", "holds"),
    [
        ("fp32", ["fp32"], True),
        ("fp32", ["fp32", "fp32"], True),
        ("fp32", ["int8"], False),
        ("fp32", ["fp16"], False),
        ("fp32", ["bf16"], False),
        ("fp32", ["fp32", "int8"], False),
        ("fp32", ["fp16", "fp32"], False),
        ("fp16", ["fp16"], True),
        ("fp16", ["fp32", "fp16"], True),
        ("fp16", ["fp32"], False),
        ("fp16", ["int8"], False),
        ("fp16", ["fp16", "int8"], False),
        ("fp16", ["bf16"], False),
        ("fp16", ["bf16", "fp16"], False),
        ("bf16", ["bf16"], True),
        ("bf16", ["bf16", "fp32"], True),
        ("bf16", ["fp16", "bf16"], False),
        ("bf16", ["fp16"], False),
        ("fp32", [], False),
        ("fp16", [], False),
    ],
)
def test_a_pin_against_the_layers_of_its_node(wanted: Precision, found: list[Precision], holds: bool) -> None:
    audited = audit(asked(a=(wanted, "pinned")), [layer(precision, "a") for precision in found])
    seen = "+".join(sorted(set(found))) or "in no layer"
    assert audited.held == holds
    assert audited.lost == (() if holds else (LostPin("a", wanted, seen),))


def test_a_node_in_several_layers_is_lost_by_one_of_them() -> None:
    layers = [layer("fp32", "a"), layer("fp32", "b"), layer("int8", "a"), layer("fp32", "a")]
    audited = audit(asked(a=("fp32", "pinned"), b=("fp32", "pinned")), layers)
    assert audited.held == 1
    assert audited.lost == (LostPin("a", "fp32", "fp32+int8"),)


def test_a_fused_layer_holds_or_loses_all_its_nodes() -> None:
    pins = asked(conv=("fp32", "pinned"), relu=("fp32", "pinned"), other=("fp32", "pinned"))
    audited = audit(pins, [layer("fp32", "conv", "relu"), layer("fp32", "other")])
    assert (audited.held, audited.lost) == (3, ())
    audited = audit(pins, [layer("int8", "conv", "relu"), layer("fp32", "other")])
    assert audited.held == 1
    assert audited.lost == (LostPin("conv", "fp32", "int8"), LostPin("relu", "fp32", "int8"))


def test_lost_pins_come_in_the_order_of_the_graph() -> None:
    pins = asked(z=("fp32", "pinned"), a=("fp16", "pinned"), m=("fp32", "pinned"))
    assert [pin.node for pin in audit(pins, []).lost] == ["z", "a", "m"]


def test_only_pins_can_be_lost() -> None:
    audited = audit(asked(a=("fp32", "free"), b=("fp16", "free")), [layer("int8", "a")])
    assert (audited.held, audited.lost, audited.unlowered) == (0, (), ("b",))


def test_a_node_that_no_layer_runs_in_what_it_was_meant_for_is_unlowered() -> None:
    nodes = asked(
        a=("int8", "free"), b=("int8", "free"), c=("int8", "free"), d=("int8", "free"), e=("fp16", "free")
    )
    layers = [
        layer("int8", "a"),
        layer("fp32", "b"),
        layer("fp16", "b"),
        layer("int8", "c"),
        layer("fp32", "c"),
    ]
    assert audit(nodes, layers).unlowered == ("b", "d", "e")


def test_layers_may_come_from_a_generator() -> None:
    audited = audit(asked(a=("fp32", "pinned")), (layer("fp32", "a") for _ in range(2)))
    assert (audited.histogram, audited.held) == ({"fp32": 2}, 1)


def test_it_becomes_json() -> None:
    audited = audit(asked(a=("fp32", "pinned"), b=("int8", "free")), [layer("int8", "a")])
    assert json.loads(json.dumps(audited.to_dict())) == {
        "histogram": {"int8": 1},
        "held": 0,
        "lost": [{"node": "a", "wanted": "fp32", "found": "int8"}],
        "unlowered": ["b"],
    }
