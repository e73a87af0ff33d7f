"""Softmax and log-softmax: the operators, and the formulas, where x may be shifted by its maximum.

Softmax is exp(x) / sum(exp(x)), found from its final Div or Mul. Log-softmax is log(softmax(x)) or
x - log(sum(exp(x))), found from its final Log or Sub.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from trtbuild.model.patterns.view import NO_NODES, Nodes, Part, View, is_op, operand_orders


def softmaxes(view: View) -> Iterator[Nodes]:
    for node in view.order:
        if found := softmax_at(view, node):
            yield found.nodes


def logsoftmaxes(view: View) -> Iterator[Nodes]:
    for node in view.order:
        if nodes := _logsoftmax_at(view, node):
            yield nodes


def softmax_at(view: View, node: ir.Node) -> Part | None:
    """The softmax that ends in this node; it starts from x."""
    if is_op(node, "Softmax") and node.inputs[0] is not None:
        return Part(node.inputs[0], frozenset({node}))
    if not is_op(node, "Div", "Mul"):
        return None
    to_sum = ("ReduceSum",) if node.op_type == "Div" else ("Reciprocal", "ReduceSum")
    for value, scale in operand_orders(node):
        exponential, total = view.behind(value, "Exp"), view.behind(scale, *to_sum)
        if exponential and total and view.same(total.source, value):
            x = _unshifted(view, exponential.source)
            return x.plus(exponential.nodes | total.nodes | view.strip(total.source).nodes | {node})
    return None


def _logsoftmax_at(view: View, node: ir.Node) -> Nodes | None:
    if is_op(node, "LogSoftmax"):
        return frozenset({node})
    if is_op(node, "Log") and node.inputs[0] is not None:
        origin, passed = view.strip(node.inputs[0])
        producer = view.producer(origin)
        softmax = softmax_at(view, producer) if producer else None
        return softmax.nodes | passed | {node} if softmax else None
    difference = view.binary(node.outputs[0], "Sub") if is_op(node, "Sub") else None
    total = _log_sum_exp(view, difference.right) if difference else None
    if difference and total and view.same(total.source, difference.left):
        return difference.nodes | total.nodes | _unshifted(view, difference.left).nodes
    return None


def _log_sum_exp(view: View, value: ir.Value) -> Part | None:
    return (
        view.behind(value, "ReduceLogSumExp")
        or view.behind(value, "ReduceLogSum", "Exp")
        or view.behind(value, "Log", "ReduceSum", "Exp")
    )


def _unshifted(view: View, value: ir.Value) -> Part:
    """x of x - max(x); the value itself where it is nothing of the kind."""
    itself = Part(value, NO_NODES)
    difference = view.binary(value, "Sub")
    if difference is None:
        return itself
    floor = view.beside_static(difference.right, "Max")  # JAX: max(-inf, max(x))
    maximum = view.behind(floor.source if floor else difference.right, "ReduceMax")
    if maximum is None or not view.same(maximum.source, difference.left):
        return itself
    return Part(difference.left, difference.nodes | maximum.nodes | (floor.nodes if floor else NO_NODES))
