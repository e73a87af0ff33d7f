"""A RangeTable on the tensors of a parsed network, as dynamic ranges."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from calibrators.scale import INT8_MAX, scale_of
from calibrators.table import RangeTable
from trtbuild.errors import BuildError
from trtbuild.targets.trt.binding import Binding
from trtbuild.targets.trt.network import inputs_of, layers, outputs_of, seen_as

if TYPE_CHECKING:
    import tensorrt as trt

BOUNDED = frozenset({"SIGMOID", "HARD_SIGMOID", "TANH", "SOFTSIGN"})
SAME_VALUES = frozenset({"SHUFFLE", "IDENTITY", "CAST", "SQUEEZE", "UNSQUEEZE"})
"""Layers whose output holds the values of their first input, so that both have one range."""


def set_ranges(binding: Binding, network: trt.INetworkDefinition, table: RangeTable) -> tuple[str, ...]:
    """Give every float tensor of the network its range; returns the names of those that have none.

    A tensor that only the parser knows takes the range of the tensor that it is a reshaped copy of; the
    product inside a Gemm that of the sum, as much wider as the bias is; a constant that of its values; a
    sigmoid's is 1. What reads or makes a tensor without a range is not built in int8.
    Raises BuildError when TensorRT refuses a range.
    """
    tensors = [network.get_input(index) for index in range(network.num_inputs)]
    tensors += [tensor for layer in layers(network) for tensor in outputs_of(layer)]
    floats = {binding.DataType.FLOAT, binding.DataType.HALF}
    tensors = [tensor for tensor in tensors if tensor.dtype in floats and not tensor.is_shape_tensor]
    given = {t.name: float(table.scale(t.name)) * INT8_MAX for t in tensors if t.name in table.ranges}
    known = _spread(binding, network, given)
    missing = []
    for tensor in tensors:
        amax = known.get(tensor.name)
        if amax is None:
            missing.append(tensor.name)
        elif not tensor.set_dynamic_range(-amax, amax):
            raise BuildError(f"TensorRT refuses the range {amax:g} for tensor {tensor.name!r}")
    return tuple(missing)


def _spread(
    binding: Binding, network: trt.INetworkDefinition, given: Mapping[str, float]
) -> dict[str, float]:
    """`given` (amax by tensor) and what follows from it: forwards, then backwards."""
    found = layers(network)
    constants = {
        tensor.name: amax
        for layer in found
        if layer.type == binding.LayerType.CONSTANT and (amax := _largest(binding, layer)) is not None
        for tensor in outputs_of(layer)
    }
    bounded = {
        tensor.name: 1.0 for layer in found if _is_bounded(binding, layer) for tensor in outputs_of(layer)
    }
    known = {**constants, **bounded, **given}
    for layer in found:
        if layer.type.name in SAME_VALUES and (source := inputs_of(layer)[0].name) in known:
            result = layer.get_output(0).name
            known.setdefault(result, known[source])
            if source in constants:
                constants[result] = constants[source]
    for layer in reversed(found):
        names = [tensor.name for tensor in inputs_of(layer)]
        made = next((tensor.name for tensor in outputs_of(layer) if tensor.name in known), None)
        if made is not None and layer.type.name in SAME_VALUES:
            known.setdefault(names[0], known[made])
        elif made is not None and _is_sum(binding, layer) and len(set(names) & set(constants)) == 1:
            bias, product = sorted(names, key=lambda name: name not in constants)
            known.setdefault(product, known[made] + known[bias])
    return known


def _largest(binding: Binding, layer: trt.ILayer) -> float | None:
    """The amax of a constant's values, by way of their scale: never 0. None for integers, and for what has
    no finite one (a mask of -inf)."""
    if layer.get_output(0).dtype not in (binding.DataType.FLOAT, binding.DataType.HALF):
        return None
    with seen_as(binding, layer, binding.IConstantLayer) as constant:
        values = np.asarray(constant.weights, np.float32)
    largest = float(np.abs(values).max(initial=0))
    return float(scale_of(largest)) * INT8_MAX if math.isfinite(largest) else None


def _is_bounded(binding: Binding, layer: trt.ILayer) -> bool:
    """Whether the function itself ends at 1 (a HardSwish holds a hard sigmoid that ONNX does not show)."""
    if layer.type != binding.LayerType.ACTIVATION:
        return layer.type == binding.LayerType.SOFTMAX
    with seen_as(binding, layer, binding.IActivationLayer) as activation:
        return str(activation.type.name) in BOUNDED


def _is_sum(binding: Binding, layer: trt.ILayer) -> bool:
    if layer.type != binding.LayerType.ELEMENTWISE:
        return False
    with seen_as(binding, layer, binding.IElementWiseLayer) as elementwise:
        return elementwise.op.name == "SUM"
