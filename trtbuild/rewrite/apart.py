"""Layers apart: each computes from what is fed in place of its neighbours, so that errors do not add up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes

from trtbuild.model.graph import activations, with_bodies

FED = "::fed"


def apart(model: ir.Model, tensors: Sequence[str], fed: Mapping[str, np.dtype[Any]]) -> ir.Model:
    """A copy of `model` whose outputs are `tensors`, in that order, and in which whoever reads an activation
    of `fed` reads a new input, called as it and FED: one run then computes every layer from what is fed. What
    the outputs do not need is removed; weights are shared.

    fed: activation -> the dtype in which it is fed. Its shape is left open: an inferred one may be that of
    one case. Bodies of If, Loop and Scan read the new input too. Activations that the model does not have
    are left out.
    """
    copy = model.clone()
    values = {str(value.name): value for value in activations(copy.graph)}
    copy.graph.outputs.clear()
    inputs = [
        ir.Value(name=name + FED, type=ir.TensorType(ir.DataType.from_numpy(dtype)))
        for name, dtype in fed.items()
        if name in values
    ]
    for value in inputs:
        values[str(value.name).removesuffix(FED)].replace_all_uses_with(value)
    copy.graph.outputs.extend(values[name] for name in tensors if name in values)
    passes.RemoveUnusedNodesPass()(copy)
    read = {value for node in copy.graph for inner in with_bodies(node) for value in inner.inputs}
    copy.graph.inputs.extend(value for value in inputs if value in read)
    return copy
