"""The equalized model: the same function, but activations whose channels are of similar magnitude."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trtbuild.errors import InputError
from trtbuild.model.model import Model
from trtbuild.model.scaling import Scaled, Scaling
from trtbuild.rewrite.folds import Constant, folds

EQUALIZED = "::equalized"


def equalized(model: Model, factors: Mapping[str, NDArray[np.floating]]) -> Model:
    """A copy of `model` in which each of these activations is so many times what it was, channel by channel,
    and no output has changed; `model` itself is not changed.

    factors: tensor of a fold -> one per channel, above 0. Where they are powers of two, the float32 function
    is the same to the bit, but for what falls below the normal numbers; otherwise it rounds otherwise.
    Raises InputError for a tensor that cannot be rescaled, and factors that do not fit its channels.
    """
    found = {fold.tensor: fold for fold in folds(model)}
    rewritten = model.normalised.clone()
    nodes = {str(node.name): node for node in rewritten.graph}
    scaled: dict[str, Scaling] = {}
    for tensor, values in factors.items():
        fold = found.get(tensor)
        if fold is None or np.shape(values) != (fold.size,):
            raise InputError(
                f"{model.path}: tensor {tensor!r} cannot be equalized by {np.size(values)} factors; "
                "calibrate this model again"
            )
        for constant in (*fold.makers, *fold.readers):
            _take_in(rewritten.graph, nodes[constant.node], constant, np.asarray(values, np.float32))
        scaling = Scaling(fold.axis, tuple(map(float, np.asarray(values, np.float32))))
        scaled |= dict.fromkeys((*fold.through, tensor), scaling)
    return replace(model, normalised=rewritten, scaled=scaled)


def restored(model: Model, scaled: Scaled) -> Model:
    """`model` equalized as another run found it. Raises InputError where that is of another model."""
    if not scaled:
        return model
    chosen = (fold.tensor for fold in folds(model) if fold.tensor in scaled)
    again = equalized(model, {tensor: np.asarray(scaled[tensor].factors) for tensor in chosen})
    wrong = [name for name in {**scaled, **again.scaled} if again.scaled.get(name) != scaled.get(name)]
    if wrong:
        raise InputError(
            f"{model.path}: tensor {wrong[0]!r} cannot be scaled as is recorded; calibrate this model again"
        )
    return again


def _take_in(graph: ir.Graph, node: ir.Node, constant: Constant, factors: NDArray[np.float32]) -> None:
    """A constant of this edge's own: others may read the one that is there."""
    old = node.inputs[constant.index]
    assert old is not None
    assert old.const_value is not None
    before = old.const_value.numpy()
    each = factors[constant.channels]
    data = np.asarray(before / each if constant.inverse else before * each, np.float32)
    name = f"{node.name}::{constant.index}{EQUALIZED}"
    new = ir.Value(
        name=name,
        shape=ir.Shape(data.shape),
        type=ir.TensorType(ir.DataType.FLOAT),
        const_value=ir.tensor(data, name=name),
    )
    node.replace_input_with(constant.index, new)
    if not old.uses() and not old.is_graph_output():
        del graph.initializers[str(old.name)]
    graph.register_initializer(new)
