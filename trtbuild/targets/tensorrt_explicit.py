"""Target `tensorrt-rtx`: a real, strongly typed engine, compiled from the explicit model without a GPU.

The engine can be read only on a GPU, so the layers are read from the parsed, strongly typed
network: types are fixed there, and the builder may not change them.
"""

from __future__ import annotations

import importlib
import tempfile
from pathlib import Path
from typing import Any

import onnx_ir as ir

from trtbuild.errors import BuildError, InputError, MachineError, one_line
from trtbuild.model import files
from trtbuild.recipe import Precision, Recipe
from trtbuild.rewrite.explicit import explicit
from trtbuild.targets.base import Built, Layer, Request
from trtbuild.targets.simulation import simulated

INSPECTED = "the parsed, strongly typed network; the engine itself was not inspected (that needs a GPU)"


class TensorRTRTX:
    """TensorRT-RTX, for the compute capabilities that the recipe names."""

    name = "tensorrt-rtx"
    artifact = "engine.plan"

    def require(self) -> None:
        _module()

    def identity(self, recipe: Recipe) -> dict[str, Any]:
        capabilities = list(recipe.tensorrt_rtx.compute_capabilities)
        return {
            "target": self.name,
            "tensorrt_rtx": _module().__version__,
            "compute_capabilities": capabilities,
        }

    def build(self, request: Request, path: Path) -> Built:
        trt = _module()
        log = _logger(trt)
        builder = trt.Builder(log)
        network = builder.create_network(0)
        model = explicit(request.model, request.precisions, request.table, "typed")
        _forget_unknown_axes(model.graph)
        with tempfile.TemporaryDirectory(prefix="trtbuild-") as folder:
            file = Path(folder) / "model.onnx"
            files.save(model, file)
            parser = trt.OnnxParser(network, log)
            if not parser.parse_from_file(str(file)):
                raise BuildError(_parser_message(parser, log))
            config = builder.create_builder_config()
            _set_capabilities(trt, config, request.recipe.tensorrt_rtx.compute_capabilities)
            config.add_optimization_profile(_profile(builder, network, request))
            plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise BuildError(f"TensorRT-RTX built nothing: {log.first_error()}")
        path.write_bytes(plan)
        facts = {**self.identity(request.recipe), "inspected": INSPECTED, "warnings": log.warnings}
        return Built(tuple(layers_of(trt, network, model.graph)), facts)

    def candidate(self, request: Request, path: Path) -> tuple[ir.Model, str | None]:
        return simulated(request), "the engine was not run: ONNX Runtime ran the same explicit model"


def _forget_unknown_axes(graph: ir.Graph) -> None:
    """Take away the name of the axes called "?": PaddlePaddle's exporter calls every axis of unknown length
    so, and TensorRT takes axes of one name for axes of one length."""
    for shape in (value.shape for value in graph.inputs if value.shape is not None):
        for axis, length in enumerate(shape):
            if isinstance(length, ir.SymbolicDim) and length.value == "?":
                shape[axis] = None


def layers_of(trt: Any, network: Any, graph: ir.Graph) -> list[Layer]:
    """The layers that compute floats in the network that was parsed from `graph`: no constants, Q/DQ and
    casts, nor the reshapes that the parser puts in, which execute no ONNX node."""
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    kinds = trt.LayerType
    plumbing = {kinds.CONSTANT, kinds.QUANTIZE, kinds.DEQUANTIZE, kinds.CAST}
    producers = {tensor.name: layer for layer in layers for tensor in _outputs(layer)}
    makers = {str(value.name): str(node.name) for node in graph for value in node.outputs}
    return [
        Layer(layer.name, layer.type.name, _nodes(layer, makers), _precision(trt, layer, producers))
        for layer in layers
        if layer.type not in plumbing
        and (layer.metadata or layer.type not in _reshapes(trt))
        and _float_dtypes(trt, _outputs(layer))
    ]


def _nodes(layer: Any, makers: dict[str, str]) -> tuple[str, ...]:
    """The ONNX node that the parser notes in a layer's metadata as `[ONNX Layer: name]`.

    A node that changes nothing (a Sum of one operand) becomes an Identity without that note, but with
    the node's tensor; `makers` maps tensors to nodes.
    """
    prefix, metadata = "[ONNX Layer: ", str(layer.metadata)
    if metadata.startswith(prefix):
        return (metadata[len(prefix) : -1],)
    return tuple(makers[tensor.name] for tensor in _outputs(layer) if tensor.name in makers)


def _precision(trt: Any, layer: Any, producers: dict[str, Any]) -> Precision:
    if any(_dequantized(trt, tensor, producers) for tensor in _inputs(layer)):
        return "int8"
    dtypes = _float_dtypes(trt, [*_inputs(layer), *_outputs(layer)])
    if trt.DataType.HALF in dtypes:
        return "fp16"
    return "bf16" if trt.DataType.BF16 in dtypes else "fp32"


def _inputs(layer: Any) -> list[Any]:
    return [tensor for i in range(layer.num_inputs) if (tensor := layer.get_input(i)) is not None]


def _outputs(layer: Any) -> list[Any]:
    return [layer.get_output(i) for i in range(layer.num_outputs)]


def _float_dtypes(trt: Any, tensors: list[Any]) -> set[Any]:
    return {tensor.dtype for tensor in tensors} & {trt.DataType.FLOAT, trt.DataType.HALF, trt.DataType.BF16}


def _dequantized(trt: Any, tensor: Any, producers: dict[str, Any]) -> bool:
    """Whether the tensor comes from a DQ, looking through the reshapes that the parser puts in."""
    layer = producers.get(tensor.name)
    while layer is not None and layer.type in {*_reshapes(trt), trt.LayerType.CAST}:
        layer = producers.get(layer.get_input(0).name)
    return layer is not None and layer.type == trt.LayerType.DEQUANTIZE


def _reshapes(trt: Any) -> set[Any]:
    return {trt.LayerType.SHUFFLE, trt.LayerType.SQUEEZE, trt.LayerType.UNSQUEEZE}


def _profile(builder: Any, network: Any, request: Request) -> Any:
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        shapes = request.profiles.get(tensor.name)
        if shapes is not None:
            profile.set_shape(tensor.name, shapes.min, shapes.opt, shapes.max)
        elif -1 in tuple(tensor.shape):
            raise InputError(
                f"input {tensor.name!r} has dynamic axes {tuple(tensor.shape)}; give [inputs.{tensor.name}] "
                "min, opt and max in the recipe, or shards to take the shapes from"
            )
    return profile


def _set_capabilities(trt: Any, config: Any, capabilities: tuple[str, ...]) -> None:
    known = {
        f"{name[2:-1]}.{name[-1]}": member  # SM121 is 12.1
        for name, member in trt.ComputeCapability.__members__.items()
        if name.startswith("SM")
    }
    config.num_compute_capabilities = len(capabilities)
    for index, capability in enumerate(capabilities):
        if capability not in known:
            raise InputError(
                f"TensorRT-RTX knows no compute capability {capability!r}; it has {', '.join(known)}"
            )
        config.set_compute_capability(known[capability], index)


def _parser_message(parser: Any, log: Any) -> str:
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    refused = [f"node {error.node_name()!r} ({error.node_operator()}): {error.desc()}" for error in errors]
    return f"TensorRT-RTX's parser refuses {'; '.join(refused) or log.first_error()}"


def _logger(trt: Any) -> Any:
    class Log(trt.ILogger):  # type: ignore[misc]  # the base class is untyped
        """Keeps warnings and errors instead of printing them. list.append is thread-safe."""

        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []
            self.warnings: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR):
                self.errors.append(message)
            elif severity == trt.ILogger.Severity.WARNING:
                self.warnings.append(message)

        def first_error(self) -> str:
            return self.errors[0] if self.errors else "it gave no reason"

    return Log()


def _module() -> Any:
    try:
        return importlib.import_module("tensorrt_rtx")
    except (ImportError, OSError) as error:  # OSError: one of its libraries does not load
        raise MachineError(
            f"target tensorrt-rtx needs the package tensorrt-rtx ({one_line(error)}); "
            "pip install 'trtbuild[rtx]'"
        ) from error
