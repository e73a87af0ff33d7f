"""The files of an ONNX model: parsed, checked whole, and hashed; external data checked before it is read."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import onnx_ir as ir

from trtbuild.digest import sha256
from trtbuild.errors import InputError, one_line
from trtbuild.model.foreign import bottom, quiet
from trtbuild.paths import data_of

PROTOBUF_LIMIT = 2_000_000_000  # bytes; a larger model must keep its weights in a file beside it


def read(path: Path) -> ir.Model:
    """Parse an ONNX file; external data stays on disk until used.

    Raises InputError for a missing, truncated or invalid file, and for external data that lies
    outside the model's folder, is a link, or is shorter than the model says (CVE-2024-27318 and
    its successors: a model must not make us read other files).
    """
    if not path.is_file():
        raise InputError(f"{path}: no such model file")
    try:
        with quiet():
            model = ir.load(path)
            model.graph.sort()  # some exporters leave it to the runtime
    except Exception as error:  # protobuf, onnx-ir and the checks inside them share no base class
        raise InputError(
            f"{path}: not a readable ONNX model ({one_line(bottom(error))}); export or copy it again"
        ) from error
    _unalias_domain(model)
    _check_complete(model, path)
    for function in model.functions.values():
        ir.external_data.set_base_dir(function.graph, path.parent)  # ir.load sets it in the graph only
    for tensor in _tensors(model):
        if isinstance(tensor, ir.ExternalTensor):
            _check_external(tensor, path)
        else:
            _check_size(tensor, path)
    return model


def save(model: ir.Model, path: Path) -> None:
    """Write an ONNX file; weights above protobuf's limit go into `<path>.data` beside it."""
    if weight_bytes(model) > PROTOBUF_LIMIT:
        ir.save(model, path, external_data=data_of(path).name)
    else:
        path.write_bytes(serialize(model))


def serialize(model: ir.Model) -> bytes:
    """The model in one piece, its external data taken in. Protobuf ends at `PROTOBUF_LIMIT`."""
    copy = model.clone()
    take_in(copy)
    data: bytes = ir.to_proto(copy).SerializeToString()
    return data


def take_in(model: ir.Model) -> None:
    """Map the external data of `model` into memory, in place: it no longer refers to other files."""
    for graph in _graphs(model):
        for value in graph.initializers.values():
            value.const_value = _mapped(value.const_value)
        for node in graph:
            for name, attribute in list(node.attributes.items()):
                if isinstance(attribute.value, ir.ExternalTensor):
                    node.attributes[name] = ir.AttrTensor(name, _mapped(attribute.value))


def _mapped(tensor: Any) -> Any:
    if not isinstance(tensor, ir.ExternalTensor):
        return tensor
    return ir.Tensor(tensor.numpy(), dtype=tensor.dtype, shape=tensor.shape, name=tensor.name)


def weight_bytes(model: ir.Model) -> int:
    return sum(tensor.nbytes for tensor in _tensors(model))


def fingerprint(path: Path, model: ir.Model) -> str:
    """SHA-256 (hex) over the model file and its external data files, by content."""
    external = (tensor for tensor in _tensors(model) if isinstance(tensor, ir.ExternalTensor))
    return sha256(sorted({path} | {Path(tensor.path) for tensor in external}))


def _graphs(model: ir.Model) -> Iterator[ir.Graph]:
    """The main graph, the bodies of If and Loop, and the functions' graphs."""
    for graph in (model.graph, *(function.graph for function in model.functions.values())):
        yield graph
        yield from graph.subgraphs()


def _tensors(model: ir.Model) -> Iterator[Any]:
    """Every tensor of the model, in any graph or attribute."""
    for graph in _graphs(model):
        yield from (v.const_value for v in graph.initializers.values() if v.const_value is not None)
        for node in graph:
            for attribute in node.attributes.values():
                if attribute.type == ir.AttributeType.TENSOR and attribute.value is not None:
                    yield attribute.value
                elif attribute.type == ir.AttributeType.TENSORS:
                    yield from attribute.value or ()


def _unalias_domain(model: ir.Model) -> None:
    """ "ai.onnx" is another name of the default domain; onnx-ir renames it in nodes, not in imports."""
    for imports in (model.opset_imports, *(f.opset_imports for f in model.functions.values())):
        if "ai.onnx" in imports:
            imports.setdefault("", imports.pop("ai.onnx"))


def _check_complete(model: ir.Model, path: Path) -> None:
    """What a file cut off between two of its fields lacks: protobuf itself accepts such a file."""
    if not model.graph.outputs or not len(model.graph):
        raise InputError(f"{path}: the ONNX graph has no nodes or no outputs; the file may be truncated")
    if "" not in model.opset_imports:
        raise InputError(f"{path}: imports no ONNX opset; the file may be truncated")
    with_functions = {domain for domain, _, _ in model.functions}
    for node in model.graph.all_nodes():
        if node.domain not in model.opset_imports:
            raise InputError(
                f"{path}: node {node.name!r} is of domain {node.domain!r}, of which the model imports no "
                "opset; the file may be truncated, or the import must be added"
            )
        if node.domain in with_functions and node.op_identifier() not in model.functions:
            raise InputError(
                f"{path}: node {node.name!r} calls {node.domain}.{node.op_type}, which is not among the "
                "model's functions; the file may be truncated"
            )
        _check_produced(node.inputs, f"{path}: node {node.name!r} reads")
    for graph in _graphs(model):
        _check_produced(graph.outputs, f"{path}: the graph {graph.name!r} ends in")


def _check_produced(values: Iterable[ir.Value | None], what: str) -> None:
    for value in values:
        if value and not (value.producer() or value.is_initializer() or value.is_graph_input()):
            raise InputError(f"{what} {value.name!r}, which nothing produces; the file may be truncated")


def _check_size(tensor: Any, path: Path) -> None:
    try:
        tensor.numpy()
    except ValueError as error:
        raise InputError(
            f"{path}: tensor {tensor.name!r} does not hold the {tensor.size} elements of its shape "
            f"({one_line(error)}); export or copy the model again"
        ) from error


def _check_external(tensor: ir.ExternalTensor, path: Path) -> None:
    location, folder = str(tensor.location), path.parent
    what = f"{path}: tensor {tensor.name!r} has its data in {location!r}"
    if Path(location).is_absolute() or ".." in Path(location).parts:
        raise InputError(
            f"{what}, outside the model's folder; refused. Save the model with its data beside it"
        )
    file = folder
    for part in Path(location).parts:
        file = file / part
        if file.is_symlink():
            raise InputError(f"{what}, which is a symbolic link; refused. Copy the data beside the model")
    if not file.is_file():
        raise InputError(f"{what}, which does not exist beside the model; copy it there")
    status = os.stat(file)
    if status.st_nlink > 1:
        raise InputError(f"{what}, which is a hard link; refused. Copy the data beside the model")
    offset, length = tensor.offset or 0, tensor.length or tensor.nbytes
    if offset < 0 or length < tensor.nbytes:
        raise InputError(
            f"{what} at offset {offset}, length {length}, where it needs {tensor.nbytes} bytes; "
            "export the model again"
        )
    needed = offset + length
    if status.st_size < needed:
        raise InputError(
            f"{what}, which has {status.st_size} bytes where {needed} are needed; it is truncated"
        )
