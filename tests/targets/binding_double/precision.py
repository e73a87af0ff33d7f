"""Which precision each layer gets when its network is built."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .layer import own
from .tensor import FLOATS

_INT8_FORMS = frozenset(
    (
        *("CONVOLUTION", "DECONVOLUTION", "FULLY_CONNECTED", "MATRIX_MULTIPLY", "ACTIVATION", "POOLING"),
        *(
            "ELEMENTWISE",
            "SCALE",
            "CONCATENATION",
            "SHUFFLE",
            "SLICE",
            "RESIZE",
            "PARAMETRIC_RELU",
            "CONSTANT",
        ),
        *("IDENTITY",),
    )
)
LOWER = (("HALF", "FP16"), ("BF16", "BF16"))  # a type, and the flag that allows it
_MOVES = ("SHUFFLE", "SQUEEZE", "UNSQUEEZE", "CAST", "IDENTITY")


@dataclass
class Step:
    """A layer of the network as it will run. `given` is the type of each output: INT8, HALF, BF16, FLOAT."""

    name: str
    type: str
    note: str  # the layer's metadata
    inputs: list[Any]
    outputs: list[Any]
    weights: int  # how many numbers a convolution holds
    precision: str = ""
    given: list[str] = field(default_factory=list)


def has(config: Any, flag: str) -> bool:
    """Whether a builder flag is set that not every version has."""
    found = getattr(config._trt.BuilderFlag, flag, None)
    return found is not None and bool(config.get_flag(found))


def explicit(network: Any) -> bool:
    """Whether the network says itself what is quantized."""
    return any(layer.type.name == "QUANTIZE" for layer in network._all())


def decide(network: Any, config: Any, ranges: dict[str, float]) -> list[Step]:
    """The layers with floats or 8-bit numbers, in the network's order. `ranges`: a scale or a range for each
    tensor that has one. A DQ is part of what reads it, and so are the constants behind one."""
    quantized, source = _quantized(network)
    steps = []
    for layer in network._all():
        kind = layer.type.name
        outputs = [layer.get_output(index) for index in range(layer.num_outputs)]
        if not any(tensor.dtype.name in FLOATS or kind == "QUANTIZE" for tensor in outputs):
            continue
        if kind == "DEQUANTIZE" or outputs[0].name in source or layer.name in network._trt._behaviour.removes:
            continue
        inputs = [layer.get_input(index) for index in range(layer.num_inputs)]
        inputs = [tensor for tensor in inputs if tensor is not None and tensor.dtype.name in FLOATS]
        inputs = inputs[:1] if kind == "QUANTIZE" else inputs  # the rest are its scales
        behind = [source.get(tensor.name, tensor) for tensor in inputs]
        behind = [tensor for tensor in behind if tensor is not None]
        step = Step(layer.name, kind, layer._real.metadata, behind, outputs, _weights(layer))
        from_dq = any(tensor.name in quantized for tensor in inputs)
        if kind == "QUANTIZE":
            step.precision, step.given = inputs[0].dtype.name, ["INT8"]
        elif network._strongly_typed():
            step.precision = "INT8" if from_dq else outputs[0].dtype.name
            step.given = [tensor.dtype.name for tensor in outputs]
        else:
            _weakly(step, layer, config, ranges, from_dq)
        steps.append(step)
    read = {tensor.name for step in steps for tensor in step.inputs}
    return [step for step in steps if step.type != "CONSTANT" or step.outputs[0].name in read]


def _weakly(step: Step, layer: Any, config: Any, ranges: dict[str, float], from_dq: bool) -> None:
    """Without OBEY or PREFER the layer's own wish is ignored. A wish for the precision alone leaves the
    type of the output to TensorRT, which takes INT8 where the tensor has a range."""
    obeyed = has(config, "OBEY_PRECISION_CONSTRAINTS") or has(config, "PREFER_PRECISION_CONSTRAINTS")
    held = obeyed and step.name not in config._trt._behaviour.loses_pins
    if not held and (layer._precision is not None or layer._types):
        config._builder._tell(
            "WARNING",
            f"Layer '{step.name}': a non-conforming implementation was chosen than was requested i.e. "
            "requested layer computation precision and output precision types were ignored because it "
            "resulted in faster network performance.",
        )
    ranged = all(tensor.name in ranges for tensor in [*step.inputs, *step.outputs])
    int8 = has(config, "INT8") and (from_dq or (ranged and step.type in _INT8_FORMS))
    free = "INT8" if int8 else next((kind for kind, flag in LOWER if has(config, flag)), "FLOAT")
    step.precision = layer._precision.name if held and layer._precision is not None else free
    loose = "INT8" if has(config, "INT8") and step.type in _INT8_FORMS and not from_dq else step.precision
    for index, tensor in enumerate(step.outputs):
        kind = "FLOAT" if step.precision == "INT8" else step.precision
        if tensor.dtype.name not in FLOATS:
            kind = tensor.dtype.name
        elif held and index in layer._types:
            kind = layer._types[index].name
        elif tensor.name in ranges:
            kind = loose
        step.given.append(kind)


def _quantized(network: Any) -> tuple[set[str], dict[str, Any]]:
    """The tensors that come from a DQ, through reshapes and casts; for each that needs no layer of its own
    what is read in its place: the DQ's 8-bit input, or None where that is a constant."""
    quantized: set[str] = set()
    source: dict[str, Any] = {}
    constant: set[str] = set()
    if not explicit(network):
        return quantized, source
    for layer in network._all():
        kind, names = layer.type.name, [layer.get_output(index).name for index in range(layer.num_outputs)]
        first = layer.get_input(0)
        if kind == "CONSTANT":
            constant.update(names)
        if kind in (*_MOVES, "QUANTIZE", "DEQUANTIZE") and first is not None and first.name in constant:
            constant.update(names)
            source.update(dict.fromkeys(names))
        if kind == "DEQUANTIZE" or (kind in _MOVES and first is not None and first.name in quantized):
            quantized.update(names)
        if kind == "DEQUANTIZE" and first.name not in constant:
            source[names[0]] = first
    return quantized, source


def _weights(layer: Any) -> int:
    kinds = {"CONVOLUTION": "IConvolutionLayer", "DECONVOLUTION": "IDeconvolutionLayer"}
    if layer.type.name not in kinds:
        return 0
    return len(own(layer, kinds[layer.type.name], "kernel"))
