"""Target `onnxruntime`: the explicit model, run as written on CPU; a stand-in for the engine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir

from trtbuild.errors import BuildError, one_line
from trtbuild.model import files
from trtbuild.model.graph import QDQ, has_floats
from trtbuild.model.model import Model
from trtbuild.model.runnable import unregistered_operators
from trtbuild.precision.forms import HALF_OF
from trtbuild.recipe import Precision, Recipe
from trtbuild.rewrite.cut import with_outputs
from trtbuild.rewrite.explicit import explicit, ranges_needed
from trtbuild.rewrite.half import RAW
from trtbuild.targets.base import Algorithm, Built, Layer, Request, Side
from trtbuild.targets.session import open_session
from trtbuild.targets.sides import OnnxRuntimeSide, as_given


class Simulation:
    """ONNX Runtime on CPU. Halves are simulated: float32 nodes between pairs of Casts."""

    name = "onnxruntime"
    artifact = "model.onnx"
    implicit = False

    def require(self) -> None:
        """ONNX Runtime is a core dependency: always there."""

    def identity(self, recipe: Recipe) -> dict[str, Any]:
        import onnxruntime

        return {"target": self.name, "onnxruntime": onnxruntime.__version__}

    def ranges(self, model: Model) -> tuple[str, ...]:
        return ranges_needed(model)

    def algorithm(self, recipe: Recipe) -> Algorithm | None:
        return None

    def check_cache(self, header: str, recipe: Recipe) -> None:
        """A cache of any TensorRT is but ranges here."""

    def layer_types(self, model: Model) -> Mapping[str, frozenset[str]]:
        return {}

    def build(self, request: Request, path: Path) -> Built:
        """Write the explicit model, load it in ONNX Runtime, and read its layers back from the file."""
        model = explicit(request.model, request.precisions, request.table, "simulated", request.biases)
        files.save(model, path)
        written = files.read(path)
        _check(written, path)
        open_session(with_outputs(written, request.model.checked_outputs, cut=bool(request.model.unrunnable)))
        facts = {**self.identity(request.recipe), "optimization": "ORT_DISABLE_ALL"}
        return Built(tuple(layers_of(written.graph)), facts)

    def golden(self, request: Request, folder: Path | None) -> Side:
        return as_given(request.model)

    def candidate(self, request: Request, path: Path) -> Side:
        return OnnxRuntimeSide("candidate", files.read(path), cut=bool(request.model.unrunnable))


def simulated(request: Request) -> ir.Model:
    """What ONNX Runtime runs for a build whose own artifact cannot run on this machine."""
    return explicit(request.model, request.precisions, request.table, "simulated", request.biases)


def layers_of(graph: ir.Graph) -> list[Layer]:
    """The layers of an explicit model: every node that computes floats, but Q, DQ and rounding Casts."""
    return [
        Layer(str(node.name), node.op_type, (str(node.name),), _precision(node))
        for node in graph
        if node.op_type not in QDQ and not _is_rounding(node) and has_floats(node)
    ]


def _precision(node: ir.Node) -> Precision:
    """int8 reads a dequantized tensor; a half writes a raw one that a Cast rounds, or is typed so."""
    producers = (value.producer() for value in node.inputs if value is not None)
    if any(producer is not None and producer.op_type == "DequantizeLinear" for producer in producers):
        return "int8"
    for value in node.outputs:
        if value.dtype in HALF_OF:
            return HALF_OF[value.dtype]
        for reader in value.consumers() if str(value.name).endswith(RAW) else ():
            if reader.outputs[0].dtype in HALF_OF:
                return HALF_OF[reader.outputs[0].dtype]
    return "fp32"


def _is_rounding(node: ir.Node) -> bool:
    """A Cast into or out of half precision."""
    if node.op_type != "Cast":
        return False
    value = node.inputs[0]
    return node.outputs[0].dtype in HALF_OF or (value is not None and value.dtype in HALF_OF)


def _check(model: ir.Model, path: Path) -> None:
    import onnx

    if unregistered_operators(model.graph):
        return  # the checker refuses operators that only TensorRT knows
    try:
        onnx.checker.check_model(str(path))
    except onnx.checker.ValidationError as error:
        raise BuildError(f"the explicit model does not pass ONNX's checker: {one_line(error)}") from error
