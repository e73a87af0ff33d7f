"""Rules + graph -> PrecisionMap. Rules apply in order, the last match wins, every decision has a reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import onnx_ir as ir

from trtbuild.errors import InputError
from trtbuild.model.graph import has_floats, node_name
from trtbuild.model.model import Model
from trtbuild.precision.forms import HALF_OF, NoForm, fused_conv, half_form, int8_forms, typed_by_model
from trtbuild.precision.map import NodePrecision, PrecisionMap, RuleMatch
from trtbuild.precision.select import LayerTypes, select
from trtbuild.recipe import Pin, Precision, PrecisionSection

HEIGHT = {"int8": 0, "fp16": 1, "bf16": 1, "fp32": 2}


def resolve(
    model: Model,
    section: PrecisionSection,
    pins: Sequence[Pin],
    implicit: bool = False,
    layer_types: LayerTypes = {},  # noqa: B006  (never changed)
) -> PrecisionMap:
    """Decide the precision of every node of the main graph.

    `implicit`: the builder may lower whatever no rule holds (TensorRT's implicit quantization), so a rule
    that says what a node has anyway holds it there, and is a pin.
    Raises InputError for a rule that matches nothing (with the nearest names), for an unknown
    pattern, and for a rule that would change a node of a model that brings its own Q/DQ.
    """
    decider = _Decider(model, section, implicit)
    unruled = {node_name(node): decider.without_rules(node) for node in model.graph}
    lowerable = [node for node in model.graph if unruled[node_name(node)].lowered_by_default]
    nodes = dict(unruled)
    matches = []
    for pin in pins:
        selected = select(pin, model.graph, lowerable, layer_types)
        changed = 0
        for node in selected:
            name = node_name(node)
            if decider.can_follow(node, nodes[name], pin):
                nodes[name] = decider.ruled(unruled[name], pin)
                changed += 1
            elif pin.to == "int8" and nodes[name].pinned:
                nodes[name] = unruled[name]  # no int8 form: what it has without the earlier pin
                changed += 1
        matches.append(RuleMatch(str(pin), len(selected), changed))
    decider.release_skips(nodes)
    return PrecisionMap(section.default, section.fallback, nodes, tuple(matches))


def check_budget(precisions: PrecisionMap, budget: float | None) -> None:
    """Raise InputError when more than `budget` (a share, 0 to 1) of the lowerable nodes is pinned."""
    if budget is not None and precisions.share > budget:
        rules = ", ".join(f"{rule.rule} ({rule.effective})" for rule in precisions.rules if rule.effective)
        raise InputError(
            f"{precisions.budgeted} of {precisions.lowerable} nodes are pinned ({precisions.share:.1%}), "
            f"over the budget of {budget:.1%}; drop pins or raise precision.budget. Rules: {rules}"
        )


def check_lowers(precisions: PrecisionMap) -> None:
    """Raise InputError when the default would lower no node at all: FP32 must not be built under its name."""
    if precisions.default == "fp32" or precisions.lowerable or "int8" in precisions.used:
        return
    reasons = Counter(node.reason for node in precisions.nodes.values()).most_common(3)
    raise InputError(
        f"precision.default is {precisions.default}, but no node of this model can run in it "
        f"({'; '.join(reason for reason, _ in reasons)}); choose another default, or fp32 on purpose"
    )


class _Decider:
    """What the nodes of one model run in under the recipe, and what a rule can change."""

    def __init__(self, model: Model, section: PrecisionSection, implicit: bool) -> None:
        self._model = model
        self._section = section
        self._implicit = implicit
        self._forms = int8_forms(model.graph)
        self._opset = model.normalised.opset_imports[""]

    def without_rules(self, node: ir.Node) -> NodePrecision:
        default, name = self._section.default, node_name(node)
        if name in self._model.unrunnable:
            return self._fallback(node, f"not calibrated: {self._model.unrunnable[name]}")
        if not has_floats(node):
            untyped = any(value.dtype is None for value in node.outputs)
            return _decided(node, "fp32", "its type is unknown" if untyped else "computes no floats")
        native = _native_half(node)
        if native is not None:
            return _decided(node, native, "as the model itself is typed")
        if self._model.quantized:
            own = any(_dequantized(value) for value in node.inputs)
            return _decided(node, "int8" if own else "fp32", "as the model's own Q/DQ says")
        if default == "fp32":
            return _decided(node, "fp32", "default")
        if default == "int8":
            form = self._forms[name]
            if isinstance(form, NoForm):
                return self._fallback(node, form.reason)
            return _decided(node, "int8", "default", lowered=True)
        refusal = self._no_half(node, default)
        if refusal is not None:
            return _decided(node, "fp32", refusal.reason)
        return _decided(node, default, "default", lowered=True)

    def ruled(self, unruled: NodePrecision, pin: Pin) -> NodePrecision:
        reason = f"rule {pin}" + (f": {pin.reason}" if pin.reason else "")
        above = HEIGHT[pin.to] > HEIGHT[unruled.precision] or self._holds(pin)
        return replace(unruled, precision=pin.to, reason=reason, pinned=above)

    def _holds(self, pin: Pin) -> bool:
        """Whether the builder itself could go below what the rule says."""
        return self._implicit and HEIGHT[pin.to] > HEIGHT[self._section.default]

    def can_follow(self, node: ir.Node, current: NodePrecision, pin: Pin) -> bool:
        """Whether the rule changes this node. Raises InputError for a node with the model's own Q/DQ."""
        holds = self._holds(pin) and typed_by_model(node) is None
        same = pin.to == current.precision and (current.pinned or not holds)
        if same or not has_floats(node):
            return False
        if HEIGHT[pin.to] > HEIGHT[current.precision] and (native := _native_half(node)):
            raise InputError(
                f"rule {pin} would change {node.name!r}, but its tensors are {native} in the model itself; "
                "export the model in float32"
            )
        if self._model.quantized:
            raise InputError(
                f"rule {pin} would change {node.name!r}, but this model brings its own Q/DQ, which is built "
                "as it is; drop the rule or export the model without Q/DQ"
            )
        if pin.to == "fp32":
            return True
        if node_name(node) in self._model.unrunnable:
            return False
        if pin.to == "int8":
            return not isinstance(self._forms[node_name(node)], NoForm)
        return self._no_half(node, pin.to) is None

    def release_skips(self, nodes: dict[str, NodePrecision]) -> None:
        """A residual Add gains nothing from a quantized branch when the Conv it fuses with is not int8."""
        for node in self._model.graph:
            entry = nodes[node_name(node)]
            fused = fused_conv(node) if node.op_type == "Add" and entry.precision == "int8" else None
            if fused is not None and nodes[node_name(fused[0])].precision != "int8":
                released = self._fallback(node, f"follows {fused[0].name}, which is not int8")
                nodes[node_name(node)] = replace(released, lowered_by_default=entry.lowered_by_default)

    def _no_half(self, node: ir.Node, half: Precision) -> NoForm | None:
        """Why the node cannot run in `half`; None when it can. ONNX must be able to say it, or TensorRT
        decides without it."""
        form = typed_by_model(node) if self._implicit else half_form(node, half, self._opset)
        return form if isinstance(form, NoForm) else None

    def _fallback(self, node: ir.Node, reason: str) -> NodePrecision:
        fallback = self._section.fallback
        if fallback == "fp32":
            return _decided(node, "fp32", reason)
        refusal = self._no_half(node, fallback)
        if refusal is not None:
            return _decided(node, "fp32", f"{reason}; {refusal.reason}")
        return _decided(node, fallback, f"fallback: {reason}")


def _decided(node: ir.Node, precision: Precision, reason: str, lowered: bool = False) -> NodePrecision:
    return NodePrecision(node.op_type, precision, reason, lowered, pinned=False)


def _native_half(node: ir.Node) -> Precision | None:
    """The half that the model itself gives to the node's outputs."""
    return next((HALF_OF[value.dtype] for value in node.outputs if value.dtype in HALF_OF), None)


def _dequantized(value: ir.Value | None) -> bool:
    node = value.producer() if value is not None else None
    return node is not None and node.op_type == "DequantizeLinear"
