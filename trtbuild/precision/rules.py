"""Rules + graph -> PrecisionMap. Rules apply in order, the last match wins, every decision has a reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from trtbuild.errors import InputError
from trtbuild.model import patterns
from trtbuild.model.graph import has_floats, is_constant, node_name
from trtbuild.model.model import Model
from trtbuild.model.normalise import ORIGINAL_NAME
from trtbuild.names import matcher, nearest
from trtbuild.precision.forms import Int8Form, NoForm, fused_conv, half_form, int8_forms
from trtbuild.precision.map import NodePrecision, PrecisionMap, RuleMatch
from trtbuild.recipe import Pin, Precision, PrecisionSection

HEIGHT = {"int8": 0, "fp16": 1, "bf16": 1, "fp32": 2}


def resolve(model: Model, section: PrecisionSection, pins: Sequence[Pin]) -> PrecisionMap:
    """Decide the precision of every node of the main graph.

    Raises InputError for a rule that matches nothing (with the nearest names), for an unknown
    pattern, and for a rule that would change a node of a model that brings its own Q/DQ.
    """
    forms = int8_forms(model.graph)
    opset = model.normalised.opset_imports[""]
    nodes = {node_name(node): _without_rules(node, model, section, forms, opset) for node in model.graph}
    matches = []
    for pin in pins:
        selected = _select(pin, model, nodes)
        changed = 0
        for node in selected:
            before = nodes[node_name(node)]
            after = _pinned(node, before, pin, forms, section.default, opset, model)
            changed += after.precision != before.precision
            nodes[node_name(node)] = after
        matches.append(RuleMatch(str(pin), len(selected), changed))
    _release_skips(model.graph, nodes, section.fallback)
    return PrecisionMap(section.default, section.fallback, nodes, tuple(matches))


def check_budget(precisions: PrecisionMap, budget: float | None) -> None:
    """Raise InputError when more than `budget` (a share, 0 to 1) of the lowerable nodes is pinned."""
    if budget is not None and precisions.share > budget:
        rules = ", ".join(f"{rule.rule} ({rule.effective})" for rule in precisions.rules if rule.effective)
        raise InputError(
            f"{len(precisions.pinned)} of {precisions.lowerable} nodes are pinned ({precisions.share:.1%}), "
            f"over the budget of {budget:.1%}; drop pins or raise precision.budget. Rules: {rules}"
        )


def _without_rules(
    node: ir.Node, model: Model, section: PrecisionSection, forms: dict[str, Int8Form], opset: int
) -> NodePrecision:
    def decided(precision: Precision, reason: str, lowered: bool = False) -> NodePrecision:
        return NodePrecision(node.op_type, precision, reason, lowered, pinned=False)

    name = node_name(node)
    if not has_floats(node):
        return decided("fp32", "computes no floats")
    if name in model.unrunnable:
        return decided("fp32", f"not calibrated: {model.unrunnable[name]}")
    if model.quantized:
        own = any(v is not None and _from_dequantize(v) for v in node.inputs)
        return decided("int8" if own else "fp32", "as the model's own Q/DQ says")
    if section.default == "fp32":
        return decided("fp32", "default")
    if section.default == "int8":
        form = forms[name]
        if not isinstance(form, NoForm):
            return decided("int8", "default", lowered=True)
        if section.fallback == "fp32":
            return decided("fp32", form.reason)
        half = half_form(node, section.fallback, opset)
        if isinstance(half, NoForm):
            return decided("fp32", f"{form.reason}; {half.reason}")
        return decided(section.fallback, f"fallback: {form.reason}")
    half = half_form(node, section.default, opset)
    if isinstance(half, NoForm):
        return decided("fp32", half.reason)
    return decided(section.default, "default", lowered=True)


def _pinned(
    node: ir.Node,
    before: NodePrecision,
    pin: Pin,
    forms: dict[str, Int8Form],
    default: Precision,
    opset: int,
    model: Model,
) -> NodePrecision:
    """`before` with the rule applied, or unchanged where the node cannot follow the rule."""
    if pin.to == before.precision or not has_floats(node):
        return before
    if model.quantized:
        raise InputError(
            f"rule {pin} would change {node.name!r}, but this model brings its own Q/DQ, which is built "
            "as it is; drop the rule or export the model without Q/DQ"
        )
    if pin.to == "int8" and isinstance(forms[node_name(node)], NoForm):
        return before
    if pin.to in ("fp16", "bf16") and isinstance(half_form(node, pin.to, opset), NoForm):
        return before
    if pin.to != "fp32" and node_name(node) in model.unrunnable:
        return before
    reason = f"rule {pin}" + (f": {pin.reason}" if pin.reason else "")
    above = before.lowered_by_default and HEIGHT[pin.to] > HEIGHT[default]
    return replace(before, precision=pin.to, reason=reason, pinned=above)


def _release_skips(graph: ir.Graph, nodes: dict[str, NodePrecision], fallback: Precision) -> None:
    """A residual Add gains nothing from a quantized branch when the Conv it fuses with is not int8."""
    for node in graph:
        entry = nodes[node_name(node)]
        fused = fused_conv(node) if node.op_type == "Add" and entry.precision == "int8" else None
        if fused is not None and nodes[node_name(fused[0])].precision != "int8":
            reason = f"follows {fused[0].name}, which is not int8"
            nodes[node_name(node)] = replace(
                entry,
                precision="fp32" if fallback == "fp32" else fallback,
                reason=reason,
                lowered_by_default=False,
            )


def _select(pin: Pin, model: Model, nodes: dict[str, NodePrecision]) -> list[ir.Node]:
    graph = model.graph
    if pin.name is not None:
        return _by_name(pin.name, graph)
    if pin.type is not None:
        return _found(
            [node for node in graph if node.op_type == pin.type],
            f"type {pin.type!r} matches no node{nearest(pin.type, {node.op_type for node in graph})}",
        )
    if pin.pattern is not None:
        return _by_pattern(pin.pattern, graph)
    lowerable = [node for node in graph if nodes[node_name(node)].lowered_by_default]
    if pin.weights_below is not None:
        limit = pin.weights_below
        return _found(
            [node for node in lowerable if 0 < _largest_weight(node) < limit],
            f"weights_below = {limit:g} matches no node; the smallest is "
            f"{min((_largest_weight(n) for n in lowerable if _largest_weight(n)), default=0):.3g}",
        )
    count = pin.count or 1
    chosen = lowerable[:count] if pin.position == "first" else lowerable[-count:]
    return _found(chosen, f"position = {pin.position!r} matches no node: the default lowers none")


def _by_name(pattern: str, graph: ir.Graph) -> list[ir.Node]:
    matches = matcher(pattern)
    names = [node_name(node) for node in graph]
    return _found(
        [
            n
            for n in graph
            if matches(node_name(n)) or matches(n.metadata_props.get(ORIGINAL_NAME, node_name(n)))
        ],
        f"name {pattern!r} matches no node{nearest(pattern, names)}",
    )


def _by_pattern(name: str, graph: ir.Graph) -> list[ir.Node]:
    if name not in patterns.PATTERNS:
        options = ", ".join(patterns.PATTERNS)
        raise InputError(f"unknown pattern {name!r}{nearest(name, patterns.PATTERNS)}; there are: {options}")
    found = {node for match in patterns.find(name, graph) for node in match}
    return _found([node for node in graph if node in found], f"pattern {name!r} is not in this model")


def _found(nodes: list[ir.Node], otherwise: str) -> list[ir.Node]:
    if not nodes:
        raise InputError(f"rule matches nothing: {otherwise}")
    return nodes


def _largest_weight(node: ir.Node) -> float:
    """The largest magnitude among the node's constant float operands, biases aside; 0 without any."""
    largest = 0.0
    for value in node.inputs[:2]:
        if value is not None and is_constant(value) and value.dtype == ir.DataType.FLOAT:
            assert value.const_value is not None
            largest = max(largest, float(np.abs(value.const_value.numpy()).max(initial=0)))
    return largest


def _from_dequantize(value: ir.Value) -> bool:
    node = value.producer()
    return node is not None and node.op_type == "DequantizeLinear"
