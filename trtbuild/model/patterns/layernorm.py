"""Layer and RMS normalisation: the fused operators of ONNX and ONNX Runtime, and the formula.

The formula is (x - mean) / sqrt(variance + eps) [* gamma] [+ beta], or the same without the mean,
found from its final Div or Mul. PyTorch and Paddle average (x - mean) ** 2; JAX takes
mean(x * x) - mean(x) ** 2, clamped at zero; others multiply by the inverse of the deviation.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from trtbuild.model.patterns.view import (
    MICROSOFT,
    NO_NODES,
    PLUMBING_STEPS,
    Nodes,
    Part,
    View,
    is_op,
    operand_orders,
)

_FUSED = frozenset(
    {
        ("", "LayerNormalization"),
        ("", "RMSNormalization"),
        ("", "SimplifiedLayerNormalization"),  # ONNX Runtime registers it in the default domain
        (MICROSOFT, "SimplifiedLayerNormalization"),
        (MICROSOFT, "SkipLayerNormalization"),
        (MICROSOFT, "SkipSimplifiedLayerNormalization"),
    }
)


def layernorms(view: View) -> Iterator[Nodes]:
    for node in view.order:
        if (node.domain, node.op_type) in _FUSED:
            yield frozenset({node})
        elif is_op(node, "Div", "Mul") and (core := _normalised_at(view, node)):
            yield core | _gamma_and_beta(view, node.outputs[0])


def _normalised_at(view: View, node: ir.Node) -> Nodes | None:
    """The nodes of x / deviation or x * inverse deviation, if this node is its final Div or Mul."""
    variance_in = _variance_in_deviation if node.op_type == "Div" else _variance_in_inverse
    for value, scale in operand_orders(node):
        if (variance := variance_in(view, scale)) and (spread := _spread(view, variance.source, value)):
            return spread | variance.nodes | {node}
    return None


# --- sqrt(variance + eps) and its inverse: the variance ----------------------------------------------


def _variance_in_deviation(view: View, value: ir.Value) -> Part | None:
    root = view.behind(value, "Sqrt") or _power(view, value, 0.5)
    return _without_eps(view, root) if root else None


def _variance_in_inverse(view: View, value: ir.Value) -> Part | None:
    """The inverse may have gamma multiplied in."""
    scaled = view.beside_static(value, "Mul")
    if scaled is None:
        return _variance_in_plain_inverse(view, value)
    variance = _variance_in_plain_inverse(view, scaled.source)
    return variance.plus(scaled.nodes) if variance else None


def _variance_in_plain_inverse(view: View, value: ir.Value) -> Part | None:
    if root := _power(view, value, -0.5):
        return _without_eps(view, root)
    inverted = view.behind(value, "Reciprocal")
    if (quotient := view.binary(value, "Div")) and view.scalar(quotient.left) == 1:
        inverted = Part(quotient.right, quotient.nodes)
    variance = _variance_in_deviation(view, inverted.source) if inverted else None
    return variance.plus(inverted.nodes) if inverted and variance else None


def _without_eps(view: View, root: Part) -> Part | None:
    variance = view.beside_static(root.source, "Add")
    return variance.plus(root.nodes) if variance else None


# --- the variance or mean square ---------------------------------------------------------------------


def _spread(view: View, variance: ir.Value, value: ir.Value) -> Nodes | None:
    """The nodes of both, if `value` is x - mean(x) and `variance` that of x; or x and its mean square."""
    centred = _centred(view, value)
    if (mean := _mean(view, variance)) and (square := _square(view, mean.source)):
        nodes = mean.nodes | square.nodes
        twin = _centred(view, square.source)  # some exporters give each use its own Sub
        if centred and twin and view.same(centred.source, twin.source):
            return nodes | centred.nodes | twin.nodes
        return nodes if view.same(square.source, value) else None
    single_pass = _single_pass_variance(view, variance, centred.source) if centred else None
    return centred.nodes | single_pass if centred and single_pass else None


def _single_pass_variance(view: View, variance: ir.Value, x: ir.Value) -> Nodes | None:
    """mean(x * x) - mean(x) * mean(x), which may be clamped at zero (JAX)."""
    clamp = view.behind(variance, "Relu") or view.beside_static(variance, "Max")
    difference = view.binary(clamp.source if clamp else variance, "Sub")
    if difference is None:
        return None
    square_mean, mean_square = _mean(view, difference.left), _square(view, difference.right)
    square = _square(view, square_mean.source) if square_mean else None
    mean = _mean(view, mean_square.source) if mean_square else None
    if not (square_mean and mean_square and square and mean):
        return None
    if not (view.same(square.source, x) and view.same(mean.source, x)):
        return None
    clamp_nodes = clamp.nodes if clamp else NO_NODES
    return clamp_nodes | difference.nodes | square_mean.nodes | square.nodes | mean_square.nodes | mean.nodes


def _centred(view: View, value: ir.Value) -> Part | None:
    """x of x - mean(x)."""
    difference = view.binary(value, "Sub")
    mean = _mean(view, difference.right) if difference else None
    if difference and mean and view.same(difference.left, mean.source):
        return Part(difference.left, difference.nodes | mean.nodes)
    return None


def _mean(view: View, value: ir.Value) -> Part | None:
    """What ReduceMean averages, or ReduceSum with a constant factor."""
    if mean := view.behind(value, "ReduceMean"):
        return mean
    scaled = view.beside_static(value, "Mul", "Div")
    total = view.behind(scaled.source, "ReduceSum") if scaled else None
    return total.plus(scaled.nodes) if scaled and total else None


def _square(view: View, value: ir.Value) -> Part | None:
    """x of x ** 2 or x * x."""
    product = view.binary(value, "Mul")
    if product and view.same(product.left, product.right):
        return Part(product.left, product.nodes)
    return _power(view, value, 2)


def _power(view: View, value: ir.Value, exponent: float) -> Part | None:
    power = view.binary(value, "Pow")
    return Part(power.left, power.nodes) if power and view.scalar(power.right) == exponent else None


# --- what follows ------------------------------------------------------------------------------------


def _gamma_and_beta(view: View, value: ir.Value) -> Nodes:
    """The Mul and the Add with static operands that follow a value."""
    nodes = NO_NODES
    for op_type in ("Mul", "Add"):
        if step := _static_step(view, value, op_type):
            user, passed = step
            nodes |= passed | {user}
            value = user.outputs[0]
    return nodes


def _static_step(view: View, value: ir.Value, op_type: str) -> tuple[ir.Node, Nodes] | None:
    """The node of this type with a static operand that uses a value, and the casts before it."""
    passed = NO_NODES
    for _ in range(PLUMBING_STEPS):
        users = view.users(value)
        for user in users:
            if is_op(user, op_type) and view.activation_operand(user) is not None:
                return user, passed
        onward = next((user for user in users if is_op(user, "Identity", "Cast")), None)
        if onward is None:
            return None
        passed |= {onward}
        value = onward.outputs[0]
    return None
