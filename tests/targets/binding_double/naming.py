"""The names and notes of layers and tensors as the parsers of older TensorRTs leave them."""

from __future__ import annotations

import re
from typing import Any

_KINDS = {
    "ELEMENTWISE": "ElementWise",
    "MATRIX_MULTIPLY": "Matrix Multiply",
    "NON_ZERO": "NonZero",
    "PARAMETRIC_RELU": "Parametric ReLU",
    "TOPK": "TopK",
}


def as_older(network: Any) -> None:
    """Before TensorRT 11 only the first layer of a node has its name and its note in the metadata. Before
    8.6 the layers that the parser adds have no name either, and a tensor that is none of the model's is
    called after its layer as it was called when it was made.
    """
    version, real = network._trt._version, network._real
    if version >= (11,):
        return
    for index, layer in enumerate(real.get_layer(index) for index in range(real.num_layers)):
        kind = network._layer_type(layer.type).name
        unnamed = f"(Unnamed Layer* {index}) [{_KINDS.get(kind, kind.title())}]"
        own = layer.metadata[len("[ONNX Layer: ") : -1]
        later = own and re.fullmatch(re.escape(own) + r"_\d+", layer.name)
        added = version < (8, 6) and layer.name.startswith("ONNXTRT_")
        automatic = [layer.get_output(output) for output in range(layer.num_outputs)]
        automatic = [tensor for tensor in automatic if tensor.name == f"{layer.name}_output"]
        if later:
            layer.metadata = ""
        if later or added:
            layer.name = unnamed
        for tensor in automatic if later or version < (8, 6) else []:
            tensor.name = f"{unnamed}_output"
