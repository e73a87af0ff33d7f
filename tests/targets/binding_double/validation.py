"""What the validation of a network refuses before it is built."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from .precision import explicit, has
from .tensor import FLOATS


def refused(network: Any, config: Any) -> str:
    """The error, "" for none. Also warns of what is merely not used."""
    reason = _unfit(network, config)
    return f"4: [network.cpp::validate::0] Error Code 4: Internal Error ({reason})" if reason else ""


def float_tensors(network: Any) -> list[Any]:
    found = [network.get_input(index) for index in range(network.num_inputs)]
    for layer in network._all():
        found += [layer.get_output(index) for index in range(layer.num_outputs)]
    return [tensor for tensor in found if tensor.dtype.name in FLOATS]


def _unfit(network: Any, config: Any) -> str:
    layers, inputs = network._all(), [network.get_input(index) for index in range(network.num_inputs)]
    if not network.num_outputs:
        return "Network must have at least one output"
    if not config._profiles and any(-1 in tuple(tensor.shape) for tensor in inputs):
        return "Network has dynamic or shape inputs, but no optimization profile has been defined."
    if name := _repeated(layer.name for layer in layers):
        return f"Repeated layer name: {name} (layers must have distinct names)"
    made = (layer.get_output(index) for layer in layers for index in range(layer.num_outputs))
    if name := _repeated(tensor.name for tensor in (*inputs, *made)):
        return f"Repeated tensor name: {name} (tensors must have distinct names)"
    if wrong := next((wrong for profile in config._profiles if (wrong := _misfit(inputs, profile))), ""):
        return wrong
    if network._strongly_typed():
        return _typed(layers, config)
    return next((wrong for layer in layers if (wrong := _wish(layer, config))), "") or _quantization(
        network, config
    )


def _misfit(inputs: list[Any], profile: Any) -> str:
    for tensor in inputs:
        real, shapes = tuple(tensor.shape), [tuple(shape) for shape in profile.get_shape(tensor.name)]
        if -1 in real and not shapes:
            return f"{tensor.name}: dynamic input is missing dimensions in profile 0."
        for shape in shapes:
            if len(shape) != len(real) or any(a not in (-1, b) for a, b in zip(real, shape, strict=True)):
                return f"{tensor.name}: profile {shape} does not match network definition {real}"
    return ""


def _typed(layers: list[Any], config: Any) -> str:
    flags = [flag for flag in ("INT8", "FP16", "BF16") if has(config, flag)]
    if flags:
        return f"Parameter check failed, condition: !config.getFlag(BuilderFlag::k{flags[0]})."
    wishes = [layer.name for layer in layers if layer._precision is not None or layer._types]
    return f"{wishes[0]}: a strongly typed network takes no precision or output type" if wishes else ""


def _wish(layer: Any, config: Any) -> str:
    """A type that the config does not allow, or that the layer cannot have."""
    wishes = {dtype.name for dtype in (layer._precision, *layer._types.values()) if dtype is not None}
    for kind, flag in (("INT8", "INT8"), ("HALF", "FP16")):
        if kind in wishes and not has(config, flag):
            name = {"INT8": "int8", "FP16": "fp16"}[flag]
            return (
                f"{name} precision has been set for a layer or layer output, but {name} is not configured in "
                "the builder"
            )
    if layer.type.name == "ELEMENTWISE":
        first, second = (layer.get_input(index).dtype.name.title() for index in range(2))
        if first != second:
            return (
                f"IElementWiseLayer with inputs {layer.get_input(0).name} and {layer.get_input(1).name}: "
                f"first input has type {first} but second input has type {second}."
            )
    kinds = {layer.get_output(index).dtype.name for index in range(layer.num_outputs)}
    if layer._precision is not None and kinds and not kinds & {*FLOATS, "INT8"}:
        wish = layer._precision.name.title()
        return f"{layer.name}: cannot use precision {wish} with weights of type {kinds.pop().title()}"
    return ""


def _quantization(network: Any, config: Any) -> str:
    if not explicit(network):
        return ""
    if any(tensor._range is not None for tensor in float_tensors(network)):
        return "Setting dynamic range is only allowed when there are no Q/DQ layers in the Network."
    if not has(config, "INT8"):
        return "INT8 mode needs to be enabled for networks with QuantizeLayer/DequantizeLayer layers."
    if config.int8_calibrator is not None:
        config._builder._tell("WARNING", "Calibrator won't be used in explicit precision mode.")
    return ""


def _repeated(names: Iterable[str]) -> str:
    return next((name for name, count in Counter(names).items() if count > 1), "")
