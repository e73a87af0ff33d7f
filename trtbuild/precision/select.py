"""Which nodes a rule selects; a rule that selects none is an error that names the nearest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from trtbuild.errors import InputError
from trtbuild.model import patterns
from trtbuild.model.graph import is_constant, node_name
from trtbuild.model.normalise import ORIGINAL_NAME
from trtbuild.names import matcher, nearest
from trtbuild.recipe import Pin

LayerTypes = Mapping[str, frozenset[str]]
"""ONNX node -> the types of the TensorRT layers that it becomes; empty where TensorRT was not asked."""


def select(pin: Pin, graph: ir.Graph, lowerable: Sequence[ir.Node], layer_types: LayerTypes) -> list[ir.Node]:
    """The nodes that `pin` matches, in graph order.

    `lowerable` are the nodes that the recipe's default lowers: position and weights_below count among them.
    Raises InputError, with the nearest names, when nothing matches; a rule by TensorRT type matches
    nothing, silently, where `layer_types` is empty.
    """
    if pin.name is not None:
        return _by_name(pin.name, graph)
    if pin.type is not None:
        return _found(
            [node for node in graph if node.op_type == pin.type],
            lambda: f"type {pin.type!r} matches no node{nearest(str(pin.type), {n.op_type for n in graph})}",
        )
    if pin.trt_type is not None:
        return _by_layer_type(pin.trt_type, graph, layer_types) if layer_types else []
    if pin.pattern is not None:
        return _by_pattern(pin.pattern, graph)
    if pin.weights_below is not None:
        limit = pin.weights_below
        return _found(
            [node for node in lowerable if 0 < _largest_weight(node) < limit],
            lambda: (
                f"weights_below = {limit:g} matches no node; the smallest is "
                f"{min((_largest_weight(n) for n in lowerable if _largest_weight(n)), default=0):.3g}"
            ),
        )
    count = pin.count or 1
    chosen = list(lowerable[:count] if pin.position == "first" else lowerable[-count:])
    return _found(chosen, lambda: f"position = {pin.position!r} matches no node: the default lowers none")


def _by_name(pattern: str, graph: ir.Graph) -> list[ir.Node]:
    matches = matcher(pattern)
    return _found(
        [
            n
            for n in graph
            if matches(node_name(n)) or matches(n.metadata_props.get(ORIGINAL_NAME, node_name(n)))
        ],
        lambda: f"name {pattern!r} matches no node{nearest(pattern, map(node_name, graph))}",
    )


def _by_layer_type(name: str, graph: ir.Graph, layer_types: LayerTypes) -> list[ir.Node]:
    known = {kind for kinds in layer_types.values() for kind in kinds}
    return _found(
        [node for node in graph if name in layer_types.get(node_name(node), ())],
        lambda: f"trt_type {name!r} matches no TensorRT layer of this model{nearest(name, known)}",
    )


def _by_pattern(name: str, graph: ir.Graph) -> list[ir.Node]:
    if name not in patterns.PATTERNS:
        options = ", ".join(patterns.PATTERNS)
        raise InputError(f"unknown pattern {name!r}{nearest(name, patterns.PATTERNS)}; there are: {options}")
    found = {node for match in patterns.find(name, graph) for node in match}
    return _found([node for node in graph if node in found], lambda: f"pattern {name!r} is not in this model")


def _found(nodes: list[ir.Node], otherwise: Callable[[], str]) -> list[ir.Node]:
    if not nodes:
        raise InputError(f"rule matches nothing: {otherwise()}")
    return nodes


def _largest_weight(node: ir.Node) -> float:
    """The largest magnitude among the node's constant float operands, biases aside; 0 without any."""
    largest = 0.0
    for value in node.inputs[:2]:
        if value is not None and is_constant(value) and value.dtype == ir.DataType.FLOAT:
            assert value.const_value is not None
            largest = max(largest, float(np.abs(value.const_value.numpy()).max(initial=0)))
    return largest
