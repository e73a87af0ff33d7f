"""What is known of one node: how sensitive it is, and what it reads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trtbuild.errors import InputError
from trtbuild.model.graph import node_name
from trtbuild.model.model import Model
from trtbuild.names import nearest
from trtbuild.precision.forms import Edge, NoForm, int8_forms
from trtbuild.rewrite.cut import with_outputs
from trtbuild.targets.session import infer, runner
from trtbuild.tune.flips import Base
from trtbuild.tune.reference import Reference
from trtbuild.tune.sensitivity import Sensitivity

Document = dict[str, Any]


def check_node(model: Model, node: str) -> None:
    """Raise InputError unless the model has this node, and it can run in int8."""
    forms = int8_forms(model.graph)
    if node not in forms:
        raise InputError(f"--explain {node}: {model.path} has no such node{nearest(node, forms)}")
    form = forms[node]
    if isinstance(form, NoForm) or node in model.unrunnable:
        reason = form.reason if isinstance(form, NoForm) else model.unrunnable[node]
        raise InputError(f"--explain {node}: it is never in int8 ({reason}), so there is nothing to explain")


def explained(node: str, base: Base, found: Sensitivity, reference: Reference) -> Document:
    """All of it but the engine's name. base: what the sensitivity is of.

    Raises InputError when a sample cannot be run.
    """
    entry = next(each for each in found.nodes if each.node == node)
    decided = base.precisions.nodes[node]
    return {
        "node": {
            **entry.to_dict(),
            "inputs": list(_inputs(node, base, reference)),
            "precision": decided.precision,
            "reason": decided.reason,
        },
        "sensitivity": {name: value for name, value in found.to_dict().items() if name != "nodes"},
        "of": len(found.nodes),
    }


def _inputs(name: str, base: Base, reference: Reference) -> Iterator[Document]:
    form = int8_forms(base.model.graph)[name]
    assert not isinstance(form, NoForm), "see check_node"
    (node,) = (node for node in base.model.graph if node_name(node) == name)
    for edge in form:
        value = node.inputs[edge.index]
        assert value is not None
        if edge.constant:
            assert value.const_value is not None
            maxima, method = _maxima(value.const_value.numpy(), edge.axis), None
        else:
            axis = 1 if node.op_type in ("Conv", "ConvTranspose") else -1
            maxima = _seen(edge, axis, base.model, reference)
            method = base.table.ranges[edge.tensor].method if base.table else None
        known = base.table.ranges.get(edge.tensor) if base.table and not edge.constant else None
        live = maxima[maxima > 0]
        yield {
            "tensor": edge.tensor,
            "constant": edge.constant,
            "amax": known.amax if known else float(maxima.max(initial=0)),
            "method": method,
            "channels": maxima.size if maxima.size > 1 else None,
            "spread": float(live.max() / live.min()) if live.size > 1 else None,
        }


def _seen(edge: Edge, axis: int, model: Model, reference: Reference) -> NDArray[Any]:
    """The largest magnitude of each channel of an activation, over the reference's feeds."""
    maxima: list[NDArray[Any]] = []
    with runner(with_outputs(model.normalised, [edge.tensor], cut=True), "explaining") as active:
        for item in reference.feeds:
            (array,) = infer(active, item.feeds, item.label).values()
            maxima.append(_maxima(array, axis))
    same = {found.shape for found in maxima} == {maxima[0].shape}
    whole = [found.max(initial=0, keepdims=True) for found in maxima]
    return np.asarray(np.max(maxima if same else whole, axis=0))


def _maxima(array: NDArray[Any], axis: int | None) -> NDArray[Any]:
    """The largest magnitude of each channel; of all of it where there is no such axis."""
    if axis is None or not -array.ndim <= axis < array.ndim:
        return np.asarray(np.abs(array).max(initial=0, keepdims=True).reshape(-1))
    others = tuple(index for index in range(array.ndim) if index != axis % array.ndim)
    return np.asarray(np.abs(array).max(axis=others, initial=0))
