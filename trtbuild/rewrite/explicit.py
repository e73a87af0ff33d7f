"""The explicit model: every precision written into the graph as Q/DQ and Cast nodes.

Every int8 edge gets a Q/DQ pair of its own, so that a pinned neighbour keeps reading the float
tensor. Weights stay float32 in front of their Q: the original is recoverable.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calibrators.errors import CalibratorError
from calibrators.scale import scale_of
from calibrators.table import RangeTable
from trtbuild.errors import InputError
from trtbuild.model.graph import activations, node_name
from trtbuild.model.model import Model
from trtbuild.precision.forms import HALF_TYPES, Edge, NoForm, half_form, int8_forms
from trtbuild.precision.map import PrecisionMap
from trtbuild.rewrite.biases import Corrections, with_biases
from trtbuild.rewrite.half import RAW, HalfCasts, Rendering

ADDED = (RAW, "::fp16", "::bf16", "::float", "::int8", "::scale", "::zero_point")


def ranges_needed(model: Model) -> tuple[str, ...]:
    """The activations that some int8 form reads, whatever the pins: one table serves every set of pins."""
    edges = (
        edge
        for name, form in int8_forms(model.graph).items()
        if not isinstance(form, NoForm) and name not in model.unrunnable
        for edge in form
        if not edge.constant
    )
    return tuple(dict.fromkeys(edge.tensor for edge in edges))


def explicit(
    model: Model,
    precisions: PrecisionMap,
    table: RangeTable | None,
    rendering: Rendering,
    corrections: Corrections | None = None,
) -> ir.Model:
    """The model with `precisions` written into it; `model` itself is not changed.

    Names of tensors, inputs and outputs stay; what is added is named after the edge that it serves.
    A model that brings its own Q/DQ comes back as it is. `rendering` matters for fp16/bf16 only.
    `corrections`: what is taken off the biases of int8 nodes.
    Raises InputError when `table` lacks the range of a quantized activation.
    """
    rewritten = model.normalised.clone()
    if model.quantized:
        return rewritten
    _check_original(model)
    forms = int8_forms(model.graph)
    casts = HalfCasts(rewritten.graph, rendering)
    for node in list(rewritten.graph):
        name = node_name(node)
        precision = precisions[name]
        if precision == "int8":
            form = forms[name]
            assert not isinstance(form, NoForm), f"{name} has no int8 form"
            for edge in form:
                _quantize(rewritten.graph, node, edge, table)
        elif precision in HALF_TYPES:
            half = half_form(node, precision, model.normalised.opset_imports[""])
            if not isinstance(half, NoForm):  # else the model itself is typed so
                casts.lower(node, half, precision)
    casts.drop_unread()
    return with_biases(rewritten, corrections) if corrections else rewritten


def _check_original(model: Model) -> None:
    """Raise InputError for a model that was rendered before: its names are those that would be added."""
    names = [*model.graph.initializers, *(str(value.name) for value in activations(model.graph))]
    for name in names:
        if name.endswith(ADDED):
            raise InputError(
                f"{model.path} has a tensor called {name!r}, as explicit models that trtbuild wrote have; "
                "build from the original model"
            )


def _quantize(graph: ir.Graph, node: ir.Node, edge: Edge, table: RangeTable | None) -> None:
    value = node.inputs[edge.index]
    assert value is not None
    scale = _weight_scale(value, edge.axis) if edge.constant else _activation_scale(edge.tensor, table)
    prefix = f"{edge.node}::{edge.index}"
    parameters = [
        _initializer(graph, f"{prefix}::scale", scale),
        _initializer(graph, f"{prefix}::zero_point", np.zeros(scale.shape, np.int8)),
    ]
    attributes = {} if edge.axis is None else {"axis": edge.axis}
    int8 = ir.Value(name=f"{prefix}::int8", shape=value.shape, type=ir.TensorType(ir.DataType.INT8))
    back = ir.Value(name=f"{prefix}::float", shape=value.shape, type=ir.TensorType(ir.DataType.FLOAT))
    q = ir.node("QuantizeLinear", [value, *parameters], attributes, outputs=[int8], name=f"{prefix}::q")
    dq = ir.node("DequantizeLinear", [int8, *parameters], attributes, outputs=[back], name=f"{prefix}::dq")
    graph.insert_before(node, [q, dq])
    node.replace_input_with(edge.index, back)


def _activation_scale(tensor: str, table: RangeTable | None) -> NDArray[np.float32]:
    if table is None or tensor not in table.ranges:
        raise InputError(f"no calibrated range for tensor {tensor!r}; calibrate this model again")
    return np.asarray(table.scale(tensor), np.float32)


def _weight_scale(weight: ir.Value, axis: int | None) -> NDArray[np.float32]:
    """Shape (channels,) for a per-channel weight, () otherwise."""
    assert weight.const_value is not None
    data = np.abs(weight.const_value.numpy())
    others = None if axis is None else tuple(i for i in range(data.ndim) if i != axis)
    try:
        return np.asarray(scale_of(np.asarray(data.max(axis=others, initial=0), np.float32)), np.float32)
    except CalibratorError as error:
        raise InputError(f"weight {weight.name!r}: {error}") from error


def _initializer(graph: ir.Graph, name: str, data: NDArray[np.generic]) -> ir.Value:
    tensor = ir.tensor(data, name=name)
    value = ir.Value(
        name=name, shape=ir.Shape(data.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    graph.register_initializer(value)
    return value
