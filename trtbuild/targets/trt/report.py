"""The text of TensorRT's engine inspector as values: the layers of an engine, their tensors and types.

Keys and words as TensorRT 8.5 to 11 and TensorRT-RTX write them: up to 10 a tensor has one text for its
format and type ("Format/Datatype": "Channel major FP16 format where channel % 8 == 0", or "Half"), later two.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from trtbuild.errors import BuildError, one_line

Kind = Literal["int8", "fp16", "bf16", "fp32", "no float"]

_KINDS: dict[str, Kind] = {
    **{
        "INT8": "int8",
        "FP8": "int8",
        "INT4": "int8",
        "FP4": "int8",
    },  # what is no half is at most 8 bits wide
    **{"FP16": "fp16", "HALF": "fp16", "BF16": "bf16", "BFLOAT16": "bf16", "FP32": "fp32", "FLOAT": "fp32"},
    **{"BOOL": "no float", "UINT8": "no float", "INT32": "no float", "INT64": "no float"},
}
_WORDS = re.compile(r"\w+")
_SEPARATORS = re.compile("[\x1e\x1f]")  # between the notes: record separator up to 10.1, then unit separator
_NOTE = "[ONNX Layer: "


@dataclass(frozen=True)
class EngineTensor:
    """A tensor that a layer of an engine reads or writes. `kind` is None where TensorRT does not show it."""

    name: str
    kind: Kind | None


@dataclass(frozen=True)
class EngineLayer:
    """A layer of an engine. `noted`: the ONNX nodes in its metadata, which TensorRT has from 8.6 on."""

    name: str
    type: str
    inputs: tuple[EngineTensor, ...]
    outputs: tuple[EngineTensor, ...]
    weights: Kind | None
    noted: tuple[str, ...]


def parse(information: str) -> list[EngineLayer]:
    """The layers in the text that `EngineInspector.get_engine_information(JSON)` gives, in its order.

    Raises BuildError when it is not such a text, or when the engine holds no more than names.
    """
    try:
        # not strict: TensorRT puts names into the text as they are, control characters and all
        document = json.loads(information, strict=False)
        found = document["Layers"]
        if not any(isinstance(layer, str) for layer in found):
            return [_layer(layer) for layer in found]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BuildError(
            f"TensorRT's engine inspector gives no list of layers ({type(error).__name__}: {one_line(error)})"
            ", so what was built cannot be proven"
        ) from error
    raise BuildError(
        "the engine holds only the names of its layers, not their precisions: it was built without "
        "ProfilingVerbosity.DETAILED; build again with it"
    )


def _layer(layer: Mapping[str, Any]) -> EngineLayer:
    weights = layer.get("Weights")
    return EngineLayer(
        name=layer["Name"],
        type=layer["LayerType"],
        inputs=tuple(_tensor(tensor) for tensor in layer.get("Inputs") or ()),
        outputs=tuple(_tensor(tensor) for tensor in layer.get("Outputs") or ()),
        weights=kind_of(str(weights.get("Type", ""))) if isinstance(weights, Mapping) else None,
        noted=tuple(
            note[len(_NOTE) : -1]
            for note in _SEPARATORS.split(layer.get("Metadata") or "")
            if note.startswith(_NOTE) and note.endswith("]")
        ),
    )


def _tensor(tensor: Mapping[str, Any]) -> EngineTensor:
    text = tensor.get("Datatype") or tensor.get("Format/Datatype") or ""
    return EngineTensor(tensor["Name"], kind_of(text))


def kind_of(text: str) -> Kind | None:
    """What TensorRT's description of a tensor or of weights says of its type; None where it says nothing (it
    depends on the shape, or is unknown)."""
    return next((_KINDS[word] for word in _WORDS.findall(text.upper()) if word in _KINDS), None)
