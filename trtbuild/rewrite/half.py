"""Half precision written into the graph, in two renderings of the same decision.

`typed`: nodes compute in fp16/bf16 (strongly typed TensorRT). `simulated`: nodes compute in float32
between pairs of Casts, because ONNX Runtime on CPU optimises typed halves away.
"""

from __future__ import annotations

from typing import Literal

import onnx_ir as ir

from trtbuild.precision.forms import HALF_TYPES, HalfForm

Rendering = Literal["typed", "simulated"]
RAW = "::raw"  # what a lowered node writes, before rounding; the rounded tensor keeps the name


class HalfCasts:
    """Lowers nodes of one graph, in graph order, sharing one Cast per (tensor, precision)."""

    def __init__(self, graph: ir.Graph, rendering: Rendering) -> None:
        self._graph = graph
        self._rendering = rendering
        self._halves: dict[tuple[ir.Value, str], ir.Value] = {}
        self._back: list[ir.Node] = []

    def lower(self, node: ir.Node, form: HalfForm, half: str) -> None:
        """Make `node` read and write its tensors in `half`; every other reader keeps reading float32."""
        for index in form.inputs:
            value = node.inputs[index]
            assert value is not None
            node.replace_input_with(index, self._lowered(value, half, node))
        for index in form.outputs:
            self._lower_output(node, index, half)

    def drop_unread(self) -> None:
        """Remove the Casts back to float32 that nobody reads (typed halves in a row)."""
        for cast in self._back:
            if not cast.outputs[0].uses() and not cast.outputs[0].is_graph_output():
                self._graph.remove(cast, safe=True)

    def _lowered(self, value: ir.Value, half: str, reader: ir.Node) -> ir.Value:
        """`value` rounded to `half`, through a Cast placed before its first reader."""
        if (value, half) not in self._halves:
            casts = [_cast(value, f"{value.name}::{half}", HALF_TYPES[half])]
            if self._rendering == "simulated":
                casts.append(_cast(casts[0].outputs[0], f"{value.name}::{half}::float", ir.DataType.FLOAT))
            self._graph.insert_before(reader, casts)
            self._halves[(value, half)] = casts[-1].outputs[0]
        return self._halves[(value, half)]

    def _lower_output(self, node: ir.Node, index: int, half: str) -> None:
        """The node writes a raw tensor; everybody else reads the rounded one under the old name."""
        raw = node.outputs[index]
        rounded = ir.Value(name=raw.name, shape=raw.shape, type=raw.type)
        raw.replace_all_uses_with(rounded, replace_graph_outputs=True)
        raw.name = f"{rounded.name}{RAW}"
        if self._rendering == "typed":
            raw.type = ir.TensorType(HALF_TYPES[half])
            casts = [_cast(raw, str(rounded.name), ir.DataType.FLOAT, rounded)]
            self._back += casts
            self._halves[(rounded, half)] = raw
        else:
            down = _cast(raw, f"{rounded.name}::{half}", HALF_TYPES[half])
            casts = [down, _cast(down.outputs[0], str(rounded.name), ir.DataType.FLOAT, rounded)]
            self._halves[(rounded, half)] = rounded
        self._graph.insert_after(node, casts)


def _cast(value: ir.Value, name: str, dtype: ir.DataType, output: ir.Value | None = None) -> ir.Node:
    result = output or ir.Value(name=name, shape=value.shape, type=ir.TensorType(dtype))
    return ir.node("Cast", [value], {"to": int(dtype)}, outputs=[result], name=f"{name}::cast")
