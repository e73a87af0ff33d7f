"""An ONNX model through TensorRT's parser: the network, or every node that the parser refuses."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir as ir

from trtbuild.errors import BuildError
from trtbuild.model import files
from trtbuild.targets.trt.binding import Binding
from trtbuild.targets.trt.log import Log
from trtbuild.targets.trt.refusal import Refusal, errors_of, sentence, without, without_importer

if TYPE_CHECKING:
    import tensorrt as trt


@dataclass(frozen=True)
class Parsed:
    """A network and the parser that owns the weights in it: keep both until the engine is built. Neither
    keeps the other alive in every version."""

    network: trt.INetworkDefinition
    parser: trt.OnnxParser


def parse(
    binding: Binding,
    builder: trt.Builder,
    model: ir.Model,
    log: Log,
    *,
    typed: bool = False,
    native_norm: bool = False,
) -> Parsed:
    """The network of `model`, which is not changed; strongly typed where `typed`.

    `native_norm` keeps InstanceNormalization from becoming a plugin, which an engine for other GPUs or
    versions cannot have (before TensorRT 10 it must be asked for).
    Raises BuildError, which names every node that the parser refuses and why, as far as one can tell: the
    parser stops at the first it cannot take, so the rest is tried without those that it refused.
    """
    model = model.clone()
    _forget_unknown_axes(model.graph)
    flags = _flags(binding, typed)
    network = builder.create_network(flags)
    parser = binding.OnnxParser(network, log)  # type: ignore[arg-type]  # Log is an ILogger made at run time
    if native_norm and hasattr(binding, "OnnxParserFlag"):
        parser.set_flag(binding.OnnxParserFlag.NATIVE_INSTANCENORM)
    refusals = _refusals(parser, model, log)
    if not refusals:
        return Parsed(network, parser)
    behind, fresh = list[Refusal](), refusals
    while nodes := {refusal.node for refusal in fresh if refusal.node is not None}:
        behind += without_importer(binding, parser, without(model.graph, nodes))
        spare = builder.create_network(flags)  # a parser does not keep its network alive
        again = binding.OnnxParser(spare, log)  # type: ignore[arg-type]
        fresh = _refusals(again, model, log) if len(model.graph) else []
        behind += [refusal for refusal in fresh if refusal.node is not None]
    raise BuildError(sentence(refusals, behind))


def _refusals(parser: trt.OnnxParser, model: ir.Model, log: Log) -> list[Refusal]:
    """Parse once; what the parser refuses. The file, and above 2 GB the weights beside it, are needed only
    while it runs: it copies or maps what it reads."""
    before = len(log.errors)
    with tempfile.TemporaryDirectory(prefix="trtbuild-") as folder:
        file = Path(folder) / "model.onnx"
        files.save(model, file)
        if parser.parse_from_file(str(file)):
            return []
    return errors_of(parser, model.graph) or [Refusal(None, "", "", _unexplained(log.errors[before:]))]


def _unexplained(errors: list[str]) -> str:
    return "; ".join(errors[:3]) or "it gave no reason"


def _flags(binding: Binding, typed: bool) -> int:
    """The bits of a network's flags: batches are explicit everywhere, which TensorRT 8 and 9 must be told."""
    names = ["EXPLICIT_BATCH", *(["STRONGLY_TYPED"] if typed else [])]
    kinds = binding.NetworkDefinitionCreationFlag
    return sum(1 << int(getattr(kinds, name)) for name in names if hasattr(kinds, name))


def _forget_unknown_axes(graph: ir.Graph) -> None:
    """Take away the name of the axes called "?": PaddlePaddle's exporter calls every axis of unknown length
    so, and TensorRT takes axes of one name for axes of one length."""
    for shape in (value.shape for value in graph.inputs if value.shape is not None):
        for axis, length in enumerate(shape):
            if isinstance(length, ir.SymbolicDim) and length.value == "?":
                shape[axis] = None
