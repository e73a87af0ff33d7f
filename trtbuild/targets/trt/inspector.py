"""What TensorRT built: the layers that really execute, from the engine inspector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from trtbuild.errors import MachineError
from trtbuild.recipe import Precision
from trtbuild.targets.base import Layer
from trtbuild.targets.trt.binding import Binding
from trtbuild.targets.trt.claims import claims
from trtbuild.targets.trt.log import Log, open_log
from trtbuild.targets.trt.network import NetworkLayer
from trtbuild.targets.trt.report import EngineLayer, parse

if TYPE_CHECKING:
    import tensorrt as trt

_REFORMAT = "Reformat"  # also MyelinReformat, SafeCutensorReformat
_IDLE = frozenset({"NoOp", "Constant", "TrainStation", "signal", "wait", "shape_call"})
_CONVERSIONS = frozenset({"QUANTIZE", "DEQUANTIZE", "CAST"})
_FLOATS: tuple[Precision, ...] = ("fp16", "bf16", "fp32")
_HALVES: tuple[Precision, ...] = ("fp16", "bf16")


@dataclass(frozen=True)
class Inspection:
    """The layers of an engine that compute floats; how many layers run at all; and how many of those only
    change a tensor's format or type."""

    layers: tuple[Layer, ...]
    executed: int
    reformats: int


def inspect(binding: Binding, plan: bytes, network: Sequence[NetworkLayer], halves: bool) -> Inspection:
    """Load an engine that was built with ProfilingVerbosity.DETAILED, and read its layers.

    `network` is what it was built from; `halves` says whether the builder was allowed fp16 or bf16.
    Raises MachineError where it does not load, and BuildError when it does not show what it executes.
    """
    log = open_log(binding)
    engine = binding.Runtime(log).deserialize_cuda_engine(plan)  # type: ignore[arg-type]  # made at run time
    if engine is None:
        raise MachineError(f"TensorRT does not load the engine that it built: {log.reason()}")
    context = _at_opt(engine, log)
    return read(_information(binding, engine, context), network, halves)


def _information(binding: Binding, engine: trt.ICudaEngine, context: trt.IExecutionContext | None) -> str:
    """The inspector's text. Before TensorRT 10 an inspector does not keep its engine alive, and in no version
    its context: it goes at the end of this function, while the caller has both."""
    inspector = engine.create_engine_inspector()
    if context is not None:
        inspector.execution_context = context
    return inspector.get_engine_information(binding.LayerInformationFormat.JSON)


def _at_opt(engine: trt.ICudaEngine, log: Log) -> trt.IExecutionContext | None:
    """A context of the shapes that the engine is made for: without one, TensorRT shows no types of tensors
    that have a dynamic shape. None where no input has."""
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    inputs = [name for name in names if engine.get_tensor_mode(name).name == "INPUT"]
    if all(-1 not in engine.get_tensor_shape(name)[:] for name in inputs):
        return None
    context = engine.create_execution_context()
    if context is None:
        raise MachineError(f"TensorRT does not prepare the engine that it built to run: {log.reason()}")
    for name in inputs:
        context.set_input_shape(name, engine.get_tensor_profile_shape(name, 0)[1])
    return context


def read(information: str, network: Sequence[NetworkLayer], halves: bool) -> Inspection:
    """The same from the inspector's text. Raises BuildError when it does not show what is executed."""
    engine = parse(information)
    inert = [layer.type in _IDLE or layer.type.endswith(_REFORMAT) for layer in engine]
    layers = []
    from_int8 = _from_int8(engine)
    executed = reformats = 0
    for layer, claimed in zip(engine, claims(engine, inert, network), strict=True):
        if layer.type in _IDLE:
            continue
        executed += 1
        converts = bool(claimed) and {own.type for own in claimed} <= _CONVERSIONS
        if layer.type.endswith(_REFORMAT) or converts:
            reformats += 1
        elif (precision := _precision(layer, claimed, halves)) is not None:
            nodes = dict.fromkeys((*layer.noted, *(own.node for own in claimed if own.node is not None)))
            rounded = any(tensor.name in from_int8 for tensor in layer.inputs)
            layers.append(Layer(layer.name, layer.type, tuple(nodes), precision, rounded))
    return Inspection(tuple(layers), executed, reformats)


def _from_int8(engine: Sequence[EngineLayer]) -> set[str]:
    """The float tensors that reformats make of int8 ones, in the engine's order."""
    found: set[str] = set()
    for layer in engine:
        if layer.type.endswith(_REFORMAT):
            source = any(tensor.kind == "int8" or tensor.name in found for tensor in layer.inputs)
            found |= {tensor.name for tensor in layer.outputs if source and tensor.kind != "int8"}
    return found


def _precision(
    layer: EngineLayer, claimed: Sequence[NetworkLayer], halves: bool
) -> Precision | Literal["unknown"] | None:
    """The lowest precision that a layer computes in; None when it computes no floats.

    A fused region (Myelin's, or one of the DLA) shows only its edges. Implicit quantization does not enter
    Myelin, so without `halves` it is float32 throughout.
    """
    shown = {tensor.kind for tensor in (*layer.inputs, *layer.outputs)}
    if layer.weights == "int8" or any(tensor.kind == "int8" for tensor in layer.inputs):
        return "int8"
    may_compute = any(own.floats for own in claimed) if claimed else None in shown
    if not may_compute and not shown & set(_FLOATS):
        return None
    if layer.name.startswith("{ForeignNode[") or layer.type == "Myelin":
        return "fp32" if layer.type == "Myelin" and not halves else "unknown"
    if None in shown and not (layer.weights in _HALVES or (layer.weights == "fp32" and not halves)):
        return "unknown"
    return next((half for half in _HALVES if half in shown or half == layer.weights), "fp32")
