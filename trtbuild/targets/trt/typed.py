"""What a strongly typed network says of its layers: there the types are fixed, and the builder may not change
them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from trtbuild.recipe import Precision
from trtbuild.targets.base import Layer
from trtbuild.targets.trt import network as networks
from trtbuild.targets.trt.binding import Binding

if TYPE_CHECKING:
    import tensorrt as trt

_PLUMBING = frozenset({"CONSTANT", "QUANTIZE", "DEQUANTIZE", "CAST"})
_RESHAPES = frozenset({"SHUFFLE", "SQUEEZE", "UNSQUEEZE"})


def layers_of(binding: Binding, network: trt.INetworkDefinition, graph: ir.Graph) -> list[Layer]:
    """The layers that compute floats in the network that was parsed from `graph`: no constants, Q/DQ and
    casts, nor the reshapes that the parser puts in, which execute no ONNX node."""
    found = networks.layers(network)
    makers = {tensor.name: layer for layer in found for tensor in networks.outputs_of(layer)}
    return [
        Layer(
            layer.name, layer.type.name, () if node is None else (node,), _precision(binding, layer, makers)
        )
        for layer, node in zip(found, networks.nodes_of(found, graph), strict=True)
        if layer.type.name not in _PLUMBING
        and (layer.metadata or layer.type.name not in _RESHAPES)
        and networks.float_dtypes(binding, networks.outputs_of(layer))
    ]


def _precision(binding: Binding, layer: trt.ILayer, makers: dict[str, trt.ILayer]) -> Precision:
    inputs = networks.inputs_of(layer)
    if any(_dequantized(tensor, makers) for tensor in inputs):
        return "int8"
    dtypes = networks.float_dtypes(binding, [*inputs, *networks.outputs_of(layer)])
    if binding.DataType.HALF in dtypes:
        return "fp16"
    return "bf16" if binding.DataType.BF16 in dtypes else "fp32"


def _dequantized(tensor: trt.ITensor, makers: dict[str, trt.ILayer]) -> bool:
    """Whether the tensor comes from a DQ, looking through the reshapes and casts that the parser puts in."""
    layer = makers.get(tensor.name)
    while layer is not None and layer.type.name in {*_RESHAPES, "CAST"}:
        layer = makers.get(layer.get_input(0).name)
    return layer is not None and layer.type.name == "DEQUANTIZE"
