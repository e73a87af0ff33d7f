"""Where a tensor is read that the explicit model leaves in float, and the Q/DQ for there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from typing import NamedTuple

import numpy as np
import onnx_ir as ir


class Read(NamedTuple):
    """An input of a node: the node's position in its graph, and which of its inputs."""

    node: int
    input: int


def reads_of(graph: ir.Graph, tensors: Collection[str], skip: Collection[str]) -> dict[str, list[Read]]:
    """tensor -> the nodes that read it, in graph order; only those tensors that have any. skip: nodes that do
    not count. What the body of an If or a Loop reads stays in float."""
    found: dict[str, list[Read]] = defaultdict(list)
    for position, node in enumerate(graph):
        if node.name not in skip:
            for index, value in enumerate(node.inputs):
                if value is not None and value.name in tensors:
                    found[str(value.name)].append(Read(position, index))
    return dict(found)


def through_int8(graph: ir.Graph, reader: ir.Node, index: int, scale: ir.Value, prefix: str) -> ir.Value:
    """What `reader` reads there, as int8 and back. Q and DQ, called after `prefix`, are added in front of it
    and read by nobody yet. scale: a scalar float32, an input or an initializer of the graph."""
    value = reader.inputs[index]
    zero = ir.Value(
        name=f"{prefix}::zero_point",
        shape=ir.Shape(()),
        type=ir.TensorType(ir.DataType.INT8),
        const_value=ir.tensor(np.int8(0), name=f"{prefix}::zero_point"),
    )
    graph.register_initializer(zero)
    int8, back = ir.Value(name=f"{prefix}::int8"), ir.Value(name=f"{prefix}::float")
    q = ir.node("QuantizeLinear", [value, scale, zero], outputs=[int8], name=f"{prefix}::q")
    dq = ir.node("DequantizeLinear", [int8, scale, zero], outputs=[back], name=f"{prefix}::dq")
    graph.insert_before(reader, [q, dq])
    return back
