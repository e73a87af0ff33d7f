"""Target `onnxruntime`: the explicit model, run as written on CPU; a stand-in for the engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx_ir as ir

from trtbuild.errors import BuildError, one_line
from trtbuild.model import files
from trtbuild.model.graph import QDQ, has_floats
from trtbuild.model.runnable import unregistered_operators
from trtbuild.precision.forms import HALF_OF
from trtbuild.recipe import Precision, Recipe
from trtbuild.rewrite.cut import with_outputs
from trtbuild.rewrite.explicit import explicit
from trtbuild.rewrite.half import RAW
from trtbuild.targets.base import Built, Layer, Request
from trtbuild.targets.session import open_session


class Simulation:
    """ONNX Runtime on CPU. Halves are simulated: float32 nodes between pairs of Casts."""

    name = "onnxruntime"
    artifact = "model.onnx"

    def require(self) -> None:
        """ONNX Runtime is a core dependency: always there."""

    def identity(self, recipe: Recipe) -> dict[str, Any]:
        import onnxruntime

        return {"target": self.name, "onnxruntime": onnxruntime.__version__}

    def build(self, request: Request, path: Path) -> Built:
        """Write the explicit model, load it in ONNX Runtime, and read its layers back from the file."""
        model = explicit(request.model, request.precisions, request.table, "simulated")
        files.save(model, path)
        written = files.read(path)
        _check(written, path)
        open_session(with_outputs(written, request.model.checked_outputs, cut=bool(request.model.unrunnable)))
        facts = {**self.identity(request.recipe), "optimization": "ORT_DISABLE_ALL"}
        return Built(tuple(layers_of(written.graph)), facts)

    def candidate(self, request: Request, path: Path) -> tuple[ir.Model, str | None]:
        return files.read(path), None


def simulated(request: Request) -> ir.Model:
    """What ONNX Runtime runs for a build whose own artifact cannot run on this machine."""
    return explicit(request.model, request.precisions, request.table, "simulated")


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
