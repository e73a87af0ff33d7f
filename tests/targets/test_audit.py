"""The audit on layers written by hand."""

from __future__ import annotations

import json
from typing import Literal

import pytest

from trtbuild.precision.map import NodePrecision, PrecisionMap
from trtbuild.recipe import Precision
from trtbuild.targets.audit import Execution, LostPin, Pin, audit
from trtbuild.targets.base import Layer

Asked = tuple[Precision, Literal["pinned", "free"]]


def asked(**nodes: Asked) -> PrecisionMap:
    entries = {
        name: NodePrecision("Conv", precision, "", lowered_by_default=True, pinned=pinned == "pinned")
        for name, (precision, pinned) in nodes.items()
    }
    return PrecisionMap("int8", "fp32", entries, ())


def of_types(default: Precision, **nodes: str) -> PrecisionMap:
    """Every node pinned to float32, below which `default` would have put it; a node's type is its value."""
    entries = {
        name: NodePrecision(op_type, "fp32", "", lowered_by_default=True, pinned=True)
        for name, op_type in nodes.items()
    }
    return PrecisionMap(default, "fp32", entries, ())


def layer(precision: Precision | Literal["unknown"], *nodes: str) -> Layer:
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


def test_a_pin_in_a_layer_that_does_not_show_its_precision_is_lost_and_says_where() -> None:
    hidden = Layer("{ForeignNode[a...c]}", "Myelin", ("a", "b", "c"), "unknown")
    pins = asked(a=("fp32", "pinned"), b=("fp16", "pinned"), c=("fp32", "free"))
    audited = audit(pins, [layer("fp32", "a"), hidden, hidden])
    assert audited.held == 0
    assert audited.lost == (
        LostPin("a", "fp32", "fp32+unknown inside {ForeignNode[a...c]}"),
        LostPin("b", "fp16", "unknown inside {ForeignNode[a...c]}"),
    )
    assert audited.histogram == {"fp32": 1, "unknown": 2}


def test_what_is_not_shown_may_be_a_half_but_not_int8() -> None:
    nodes = asked(a=("int8", "free"), b=("fp16", "free"), c=("bf16", "free"), d=("fp16", "free"))
    audited = audit(nodes, [layer("unknown", "a", "b", "c"), layer("fp32", "d")])
    assert audited.unlowered == ("a", "d")
    assert audited.below == ()


def test_a_pin_on_a_node_that_only_moves_data_needs_no_layer() -> None:
    kinds = (
        "Reshape",
        "Transpose",
        "Squeeze",
        "Unsqueeze",
        "Flatten",
        "Identity",
        "Concat",
        "Split",
        "Slice",
    )
    pins = of_types("int8", **{kind.lower(): kind for kind in (*kinds, "Dropout")}, conv="Conv")
    audited = audit(pins, [])
    assert audited.removed == tuple(name for name in pins.nodes if name != "conv")
    assert audited.lost == (LostPin("conv", "fp32", "in no layer"),)
    assert audited.held == 0
    assert audited.pins[0] == Pin("reshape", "fp32", ())


def test_a_node_that_moves_data_in_a_layer_of_its_own_is_held_against_its_pin() -> None:
    pins = of_types("int8", a="Reshape", b="Reshape", c="Reshape")
    audited = audit(pins, [layer("int8", "a"), layer("fp32", "b"), layer("unknown", "c")])
    assert audited.removed == ()
    assert audited.held == 1
    assert [pin.node for pin in audited.lost] == ["a", "c"]


def test_a_node_without_a_layer_is_not_unlowered_when_it_only_moves_data() -> None:
    free = {
        name: NodePrecision(op_type, precision, "", lowered_by_default=True, pinned=False)
        for name, op_type, precision in (
            ("view", "Reshape", "fp16"),
            ("kept", "Reshape", "fp32"),
            ("norm", "Softmax", "fp16"),
        )
    }
    audited = audit(PrecisionMap("fp16", "fp32", free, ()), [])  # type: ignore[arg-type]
    assert audited.removed == ("view",)
    assert audited.unlowered == ("norm",)


@pytest.mark.parametrize(
    ("wanted", "found", "below"),
    [
        ("fp32", ["fp32"], False),
        ("fp32", ["int8"], True),
        ("fp32", ["fp32", "fp16"], True),
        ("fp32", ["bf16"], True),
        ("fp16", ["int8"], True),
        ("fp16", ["fp16", "int8"], True),
        ("bf16", ["fp16"], False),
        ("fp16", ["fp32"], False),
        ("int8", ["int8"], False),
        ("fp32", ["unknown"], False),
        ("fp32", ["unknown", "int8"], True),
        ("fp32", [], False),
    ],
)
def test_nodes_that_no_rule_pinned_and_that_run_lower_than_meant(
    wanted: Precision, found: list[Precision], below: bool
) -> None:
    layers = [layer(precision, "a") for precision in found]
    assert audit(asked(a=(wanted, "free")), layers).below == (("a",) if below else ())
    assert audit(asked(a=(wanted, "pinned")), layers).below == ()


def test_each_pin_tells_its_layers() -> None:
    pins = asked(a=("fp32", "pinned"), b=("fp16", "pinned"), c=("int8", "free"))
    audited = audit(pins, [layer("fp32", "a", "c"), layer("int8", "c"), layer("fp32", "a")])
    assert audited.pins == (
        Pin("a", "fp32", (Execution("a+c", "fp32"), Execution("a", "fp32"))),
        Pin("b", "fp16", ()),
    )


def test_reformats_are_a_share_of_what_runs() -> None:
    layers = [layer("fp32", "a"), layer("int8", "b")]
    audited = audit(asked(), layers, reformats=3, executed=12)
    assert (audited.reformats, audited.executed, audited.reformat_share) == (3, 12, 0.25)
    audited = audit(asked(), layers)
    assert (audited.reformats, audited.executed, audited.reformat_share) == (0, 2, 0.0)
    assert audit(asked(), [], executed=0).reformat_share == 0.0


def test_it_becomes_json() -> None:
    nodes = asked(a=("fp32", "pinned"), b=("int8", "free"), c=("fp32", "free"))
    audited = audit(nodes, [layer("int8", "a", "c")], reformats=1, executed=4)
    assert json.loads(json.dumps(audited.to_dict())) == {
        "histogram": {"int8": 1},
        "held": 0,
        "lost": [{"node": "a", "wanted": "fp32", "found": "int8"}],
        "unlowered": ["b"],
        "below": ["c"],
        "removed": [],
        "pins": [
            {
                "node": "a",
                "wanted": "fp32",
                "layers": [{"name": "a+c", "precision": "int8", "reads_int8": False}],
            },
        ],
        "executed": 4,
        "reformats": 1,
        "reformat_share": 0.25,
    }
