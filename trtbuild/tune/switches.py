"""The explicit model with switches: each of some nodes reads its inputs in int8 or in float."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import onnx_ir as ir

from calibrators.table import RangeTable
from trtbuild.errors import InputError
from trtbuild.model.model import Model
from trtbuild.precision.forms import NoForm, int8_forms
from trtbuild.precision.map import PrecisionMap
from trtbuild.ranges.weights import fold_weights
from trtbuild.rewrite.biases import CORRECTED, Corrections, biases, with_biases
from trtbuild.rewrite.explicit import explicit

Kind = Literal["activations", "weights", "bias"]
Part = Literal["both", "activations", "weights"]
KINDS: dict[Part, tuple[Kind, ...]] = {
    "both": ("activations", "weights", "bias"),
    "activations": ("activations",),
    "weights": ("weights",),
}


@dataclass(frozen=True)
class Base:
    """What runs but for a flip. biases: the corrections of its int8 nodes; {} for none."""

    model: Model
    precisions: PrecisionMap
    table: RangeTable | None
    biases: Corrections


@dataclass(frozen=True)
class Flip:
    """node: what the flip is called by. nodes: all that go the other way with it; without any it is the base
    itself. part: which of their inputs do; other than "both" only from float to int8."""

    node: str
    nodes: tuple[str, ...]
    part: Part = "both"


@dataclass(frozen=True)
class _Switch:
    """An input of a node, and what it reads in int8 and in float: an activation with Q/DQ or without, a
    weight quantized or as it was, a bias corrected or as it was."""

    node: ir.Node
    index: int
    kind: Kind
    in_int8: ir.Value | None
    in_float: ir.Value | None

    def turn(self, int8: bool) -> None:
        self.node.replace_input_with(self.index, self.in_int8 if int8 else self.in_float)


class Switches:
    """The explicit model under `precisions`, in which `nodes`, to whichever side they belong there, can be
    turned to the other. It is rewired, not run with both sides: constants stay constants, which ONNX Runtime
    computes with otherwise than with inputs (it packs them), and what is off costs nothing.

    corrections: of nodes that are int8 in `precisions`. Weights are folded.
    Raises InputError for a node that has no int8 form, and as `explicit` and `with_biases` do.
    """

    def __init__(
        self,
        model: Model,
        precisions: PrecisionMap,
        table: RangeTable | None,
        corrections: Corrections,
        nodes: Collection[str],
    ) -> None:
        forms = int8_forms(model.graph)
        for name in nodes:
            form = forms.get(name, NoForm("there is no such node"))
            if isinstance(form, NoForm):
                raise InputError(f"node {name!r} cannot be switched to int8: {form.reason}")
        self._int8 = {name: precisions[name] == "int8" for name in nodes}
        lowered = {name: replace(precisions.nodes[name], precision="int8") for name in nodes}
        both = replace(precisions, nodes={**precisions.nodes, **lowered})
        self.model = explicit(model, both, table, "simulated")
        self._switches = self._of_inputs(model, nodes)
        if corrections:
            self._correct(model, corrections)
        self._turn(nodes)
        self._positions = {node: position for position, node in enumerate(self.model.graph)}

    @contextmanager
    def flipped(self, nodes: Collection[str], kinds: Collection[Kind]) -> Iterator[None]:
        """Inside, the inputs of `nodes` of these kinds are on the other side than in `precisions`."""
        self._turn(nodes, kinds, flipped=True)
        try:
            yield
        finally:
            self._turn(nodes)

    def span(self, nodes: Iterable[str]) -> tuple[int, int]:
        """The positions in `model.graph` of the first node that turning these touches, and of the last."""
        touched = [node for name in nodes for switch in self._switches[name] for node in _touched(switch)]
        found = [self._positions[node] for node in touched]
        return min(found), max(found)

    def int8(self, node: str) -> bool:
        """Whether the node is int8 in `precisions`."""
        return self._int8[node]

    def _turn(self, nodes: Iterable[str], kinds: Collection[Kind] = (), flipped: bool = False) -> None:
        for name in nodes:
            for switch in self._switches[name]:
                switch.turn(self._int8[name] != (flipped and switch.kind in kinds))

    def _of_inputs(self, model: Model, nodes: Collection[str]) -> dict[str, list[_Switch]]:
        """The switches of the int8 inputs, made where weights are folded: what they were is asked before."""
        forms = int8_forms(model.graph)
        there = {node.name: node for node in self.model.graph if node.name in nodes}
        found = []
        for name in nodes:
            form = forms[name]
            assert not isinstance(form, NoForm)
            found += [(there[name], edge, _in_front(there[name].inputs[edge.index])) for edge in form]
        fold_weights(self.model.graph)
        switches = defaultdict(list)
        for node, edge, in_float in found:
            kind: Kind = "weights" if edge.constant else "activations"
            switches[edge.node].append(_Switch(node, edge.index, kind, node.inputs[edge.index], in_float))
        return dict(switches)

    def _correct(self, model: Model, corrections: Corrections) -> None:
        """Correct the biases, with a switch where their node has switches."""
        graph = self.model.graph
        products = {bias.node: bias.product for bias in biases(model.graph)}
        there = {node.name: node for node in graph if node.name in corrections}
        for mended in with_biases(self.model, corrections).graph:
            if mended.name not in corrections:
                continue
            index, data = next(
                (index, value.const_value)
                for index, value in enumerate(mended.inputs)
                if value is not None and str(value.name).endswith(CORRECTED)
            )
            assert data is not None
            shape, dtype = ir.Shape(data.numpy().shape), ir.TensorType(data.dtype)
            new = ir.Value(name=data.name, shape=shape, type=dtype, const_value=data)
            graph.register_initializer(new)
            node = there[mended.name]
            if index == len(node.inputs):
                node.resize_inputs(index + 1)
            switch = _Switch(node, index, "bias", new, node.inputs[index])
            switch.turn(int8=True)
            if (product := products[str(node.name)]) in self._switches:
                self._switches[product].append(switch)


def _in_front(dequantized: ir.Value | None) -> ir.Value:
    """What goes into the Q of a Q/DQ pair."""
    value = dequantized
    for _ in range(2):
        producer = value.producer() if value is not None else None
        assert producer is not None
        value = producer.inputs[0]
    assert value is not None
    return value


def _touched(switch: _Switch) -> Iterator[ir.Node]:
    """The node, and the Q/DQ in front of it."""
    yield switch.node
    value = switch.in_int8 if switch.kind == "activations" else None
    while value is not switch.in_float and value is not None and (made := value.producer()) is not None:
        yield made
        value = made.inputs[0]
