"""Attention scores: the MatMul of two activations that becomes a softmax's input.

Found from the softmax, going back through scaling, masking and reshaping; no other node may lie
between. A match is the MatMul (or several that are added up) and what lies between, not the softmax.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx_ir as ir

from trtbuild.model.patterns.softmax import softmax_at
from trtbuild.model.patterns.view import NO_NODES, PLUMBING, Nodes, View, is_op

_MAX_VALUES = 32  # looked at between the softmax and the MatMul


def attention_scores(view: View) -> Iterator[Nodes]:
    for node in view.order:
        if (softmax := softmax_at(view, node)) and (nodes := _scores(view, softmax.source, {})):
            yield nodes


def _scores(view: View, value: ir.Value, seen: dict[ir.Value, Nodes]) -> Nodes:
    """The MatMul behind a value and the nodes up to here; none if the value is something else.

    `seen` holds the answers so far and bounds the search by its size.
    """
    if value in seen:
        return seen[value]
    seen[value] = NO_NODES  # counts from now on
    node = view.producer(value)
    if node is None or len(seen) > _MAX_VALUES:
        return NO_NODES
    if is_op(node, "MatMul"):
        nodes = NO_NODES if any(map(view.is_static, node.inputs)) else frozenset({node})
    else:
        nodes = NO_NODES.union(*(_scores(view, operand, seen) for operand in _operands(view, node)))
        nodes |= {node} if nodes else NO_NODES
    seen[value] = nodes
    return nodes


def _operands(view: View, node: ir.Node) -> list[ir.Value]:
    """The operands of a node between MatMul and softmax that can be the scores."""
    operands: Iterable[ir.Value | None] = ()
    if is_op(node, "Mul", "Div"):
        operands = [view.activation_operand(node)]
    elif is_op(node, "Add"):
        operands = node.inputs
    elif is_op(node, "Where"):
        operands = node.inputs[1:]
    elif is_op(node, "Sub", "Transpose", "Flatten", *PLUMBING):
        operands = node.inputs[:1]
    return view.activations(operands)
